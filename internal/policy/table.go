package policy

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Core is what reading policies needs of the core; *coreclient.Core is one.
// Every call MUST end with its context.
type Core interface {
	Policies(ctx context.Context, aef, api string) ([]coreclient.Policy, error)
}

// Store keeps counts durably; *revocation.Ledger is one. See its methods.
type Store interface {
	Count(ref revocation.CountRef) (revocation.Count, error)
	Reserve(ctx context.Context, ref revocation.CountRef, c revocation.Count) (revocation.Count, error)
}

// Pair is an API at an AEF.
type Pair struct{ AEF, API string }

// Source is where the policy of a pair comes from: the rules, or the core if
// they are nil.
type Source struct{ Rules *Rules }

// Limits reports whether the policy limits a total, or may.
func (s Source) Limits() bool {
	if s.Rules == nil {
		return true
	}
	limits := s.Rules.All != nil && s.Rules.All.Total != nil
	for _, rule := range s.Rules.Single {
		limits = limits || rule != nil && rule.Total != nil
	}
	return limits
}

// Settings belong to one configuration and are replaced with it.
type Settings struct {
	Core Core
	// Interval is how often the core's policies are read again. Default: 5 min.
	Interval time.Duration
	// Pairs are those that have a policy.
	Pairs  map[Pair]Source
	Logger *slog.Logger
}

// DefaultInterval is how often policies are read where nothing is said.
const DefaultInterval = 5 * time.Minute

// Table holds all policies and accounts. Make one with [New]; it is safe for
// concurrent use.
type Table struct {
	store    Store
	alarms   *alarm.Set
	settings atomic.Pointer[Settings]
	stats    stats

	mu    sync.Mutex
	pairs map[Pair]*pair

	wake    chan struct{}
	applied atomic.Bool     // settings that no round has begun with
	ctx     context.Context //nolint:containedctx // ends with Stop
	cancel  context.CancelFunc
	life    sync.RWMutex
	stopped bool
	workers sync.WaitGroup
}

type stats struct {
	accounts, exhausted atomic.Int64
	reads, failed       atomic.Uint64
}

// Stats are figures about a table.
type Stats struct {
	// Accounts are API invokers, for each API, that called since the start.
	Accounts int64
	// Exhausted are those of them whose total is used up.
	Exhausted int64
	// Reads of the core's policies, and those of them that failed.
	Reads, Failed uint64
}

// New makes a table that reads nothing until [Table.Start].
func New(store Store, alarms *alarm.Set) *Table {
	t := &Table{store: store, alarms: alarms, pairs: make(map[Pair]*pair), wake: make(chan struct{}, 1)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Apply replaces the settings. Counts and rates go on; the core's policies are
// read again.
func (t *Table) Apply(s *Settings) {
	c := *s
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	t.settings.Store(&c)
	t.mu.Lock()
	pairs := make([]*pair, 0, len(t.pairs))
	for id := range c.Pairs {
		t.pairLocked(id)
	}
	for _, p := range t.pairs {
		pairs = append(pairs, p)
	}
	t.mu.Unlock()
	for _, p := range pairs {
		source, ok := c.Pairs[p.id]
		p.configure(source, ok, c.Core)
	}
	t.applied.Store(true)
	t.Poke()
}

// Start begins to read the core's policies.
func (t *Table) Start() { t.work(t.run) }

// Stop ends reading, lets no call with a total pass any more, and gives back to
// the store what was reserved and not used. Stop the store afterwards.
func (t *Table) Stop(ctx context.Context) error {
	t.life.Lock()
	again := t.stopped
	t.stopped = true
	t.life.Unlock()
	t.cancel()
	t.workers.Wait()
	if again {
		return nil
	}
	var all errgroup.Group
	all.SetLimit(1024) // the store makes them durable together
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pairs {
		for _, a := range p.all() {
			all.Go(func() error { return a.freeze(ctx) })
		}
	}
	err := all.Wait()
	if err != nil {
		return fmt.Errorf("giving back reserved calls: %w", err)
	}
	return nil
}

// Poke has the core's policies read again soon. It never blocks, and many are
// one.
func (t *Table) Poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Lifted begins the counts anew that a lift has reset in the store.
func (t *Table) Lifted(refs []revocation.CountRef) {
	for _, ref := range refs {
		t.mu.Lock()
		p := t.pairs[Pair{AEF: ref.AEF, API: ref.API}]
		t.mu.Unlock()
		if p == nil {
			continue
		}
		if a := p.find(ref.Invoker); a != nil {
			a.reset()
		}
	}
}

// Stats returns the figures.
func (t *Table) Stats() Stats {
	return Stats{
		Accounts: t.stats.accounts.Load(), Exhausted: t.stats.exhausted.Load(),
		Reads: t.stats.reads.Load(), Failed: t.stats.failed.Load(),
	}
}

// work runs f unless the table is stopped, and has Stop wait for it.
func (t *Table) work(f func()) bool {
	t.life.RLock()
	defer t.life.RUnlock()
	if t.stopped {
		return false
	}
	t.workers.Go(f)
	return true
}

func (t *Table) log() *slog.Logger {
	s := t.settings.Load()
	if s == nil || s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// warn says that the count of an account cannot be kept.
func (t *Table) warn(a *account, err error) {
	level := slog.LevelWarn
	if errors.Is(err, revocation.ErrNotDurable) || errors.Is(err, revocation.ErrNotReady) {
		level = slog.LevelDebug // the ledger says so itself, once
	}
	t.log().Log(context.Background(), level, "count of calls cannot be kept", "api_invoker_id", a.invoker, "aef_id", a.pair.id.AEF, "api_id", a.pair.id.API, "error", err)
}

func (t *Table) pair(id Pair) *pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pairLocked(id)
}

func (t *Table) pairLocked(id Pair) *pair {
	p := t.pairs[id]
	if p == nil {
		p = &pair{table: t, id: id, seed: maphash.MakeSeed(), first: make(chan struct{})}
		p.rules.Store(newRuleset(nil))
		for i := range p.shards {
			p.shards[i].m = make(map[string]*account)
		}
		t.pairs[id] = p
	}
	return p
}
