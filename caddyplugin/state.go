package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/outbox"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/reconcile"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/streams"
	"github.com/caddy-capif/aef/internal/subscription"
)

// states holds the one state of this process while a configuration uses it,
// keyed by the absolute path of its ledger.
var states = caddy.NewUsagePool()

// state is what outlives a reload: the ledger with its index and epochs, the
// deny cache, the outbox, the contexts, the event subscription, the calls in
// flight, how far events have been emitted, the guard of automatic triggers with
// its budget, the alarms, the metrics. It keeps no context and no logger of one
// configuration: those come with the settings that are in force.
type state struct {
	path     string
	ledger   *revocation.Ledger
	cache    *denycache.Cache
	outbox   *outbox.Outbox
	context  *reconcile.Reconciler
	events   *subscription.Keeper
	streams  *streams.Registry
	triggers *autotrigger.Guard
	policy   *policy.Table
	alarms   *alarm.Set
	metrics  *metrics
	feed     feed
	traced   atomic.Bool // calls have come with spans

	mu      sync.Mutex
	opened  bool
	applied []applied // the last one is in force
}

// applied are the settings of one configuration that was started.
type applied struct {
	app       *App
	outbox    *outbox.Settings
	reconcile *reconcile.Settings
	events    *subscription.Settings
	triggers  *autotrigger.Settings
	policy    *policy.Settings
}

// acquireState takes a reference to the state of a ledger. It only allocates.
func acquireState(path string) (*state, error) {
	other := ""
	states.Range(func(key, _ any) bool {
		if key.(string) != path {
			other = key.(string)
		}
		return true
	})
	if other != "" {
		return nil, fmt.Errorf("ledger %s: this process has ledger %s in use, and a reload would leave what it denies behind: stop, move the file, start", path, other)
	}
	value, _, err := states.LoadOrNew(path, func() (caddy.Destructor, error) { return newState(path) })
	if err != nil {
		return nil, err
	}
	return value.(*state), nil
}

func newState(path string) (*state, error) {
	cache, err := denycache.New(0)
	if err != nil {
		return nil, err
	}
	s := &state{path: path, ledger: revocation.NewLedger(path), cache: cache, alarms: new(alarm.Set)}
	s.streams = streams.New()
	s.ledger.SetWatcher(s.streams)
	s.outbox = outbox.New(s.ledger, s.alarms)
	s.context = reconcile.New(s.ledger, s.alarms)
	s.events = subscription.New(s.ledger, s.alarms)
	s.triggers = autotrigger.New(s.ledger, s.alarms)
	s.policy = policy.New(s.ledger, s.alarms)
	s.metrics = newMetrics(s)
	s.ledger.SetObserver(s.metrics.revocations.observe)
	return s, nil
}

// open opens the ledger if it is not open yet and puts the settings in force.
// If it fails, it has changed nothing that release does not take back.
func (s *state) open(settings applied) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := settings.app
	s.applied = append(s.applied, settings)
	if !s.opened {
		err := s.ledger.Open(revocation.Options{
			MustExist: a.options.mustExist, Logger: a.log.slog, WrapCommit: s.metrics.timings.wrapCommit,
		})
		if err != nil {
			return err
		}
		s.opened = true
		err = s.feed.begin(s.ledger)
		if err != nil {
			return err
		}
		s.streams.Start()
		s.outbox.Apply(settings.outbox)
		s.context.Apply(settings.reconcile)
		err = s.context.Start()
		if err != nil {
			return err
		}
		err = s.ledger.SetQueue(s.outbox)
		if err != nil {
			return err
		}
		s.outbox.Start()
		s.events.Apply(settings.events)
		s.events.Start()
		s.triggers.Apply(settings.triggers)
		s.triggers.Start()
		// Once it has its settings, below: what a read brings under others is dropped.
		defer s.policy.Start()
		if s.ledger.Created() {
			s.alarms.Raise(a.log.slog, alarm.LedgerCreated,
				fmt.Sprintf("a new ledger was made at %s: if there was one before, claims that the core does not know are lost; restore it, or set must_exist so that this stops the start", s.path))
		}
	}
	s.enforceLast()
	return nil
}

// enforceLast puts the settings of the newest configuration in force.
func (s *state) enforceLast() {
	if len(s.applied) == 0 {
		return
	}
	last := s.applied[len(s.applied)-1]
	s.ledger.SetLogger(last.app.log.slog)
	s.streams.SetLogger(last.app.log.slog)
	s.ledger.SetRetention(last.app.options.audit)
	s.cache.Resize(last.app.DenyCache)
	s.outbox.Apply(last.outbox)
	s.context.Apply(last.reconcile)
	s.events.Apply(last.events)
	s.triggers.Apply(last.triggers)
	s.policy.Apply(last.policy)
	for _, source := range last.app.heldSources() {
		source.log.set(last.app.log.slog)
	}
}

// keySources returns the key sources of the settings in force.
func (s *state) keySources() []*keySource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.applied) == 0 {
		return nil
	}
	return s.applied[len(s.applied)-1].app.keySources()
}

// oldestPending returns for how long the oldest revocation waits for the core.
func (s *state) oldestPending() time.Duration {
	sequence, ok := s.outbox.Oldest()
	if !ok {
		return 0
	}
	r, err := s.ledger.RevocationBySequence(sequence)
	if err != nil {
		return 0 // decided a moment ago, or the ledger is closed
	}
	return time.Since(r.CreatedAt)
}

// coreReachable is told that the core is back.
func (s *state) coreReachable() {
	s.events.Poke()
	s.feed.poke()
}

// readAll has every context read again: what the core announced was lost.
func (s *state) readAll(ctx context.Context) {
	s.policy.Poke()
	_ = s.context.Hint(ctx, nil) // it fails only with ctx, at the end of everything
}

// release takes back what a configuration put in force and drops its reference.
func (s *state) release(a *App) error {
	s.mu.Lock()
	for i := range s.applied {
		if s.applied[i].app == a {
			wasLast := i == len(s.applied)-1
			s.applied = slices.Delete(s.applied, i, i+1)
			if wasLast && s.opened {
				s.enforceLast()
			}
			break
		}
	}
	s.mu.Unlock()
	_, err := states.Delete(s.path)
	return err
}

// Destruct hands over what was triggered automatically, ends the outbox and closes
// the ledger when no configuration uses them any more. Calls still in flight go on
// asking the index in memory. The deny cache is left to the garbage collector: see
// its package. The event subscription stays at the core: the next start goes on
// with it, where a new one would leave a time in which the core announces nothing.
func (s *state) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), policyStopTimeout)
	defer cancel()
	stopped := s.policy.Stop(ctx) // before the guard that it asks, and the ledger
	s.triggers.Stop()
	s.events.Stop()
	s.context.Stop()
	s.outbox.Stop()
	err := errors.Join(stopped, s.ledger.Close())
	s.streams.Stop()
	if err != nil {
		return errors.Join(errors.New("capif: the ledger did not close cleanly"), err)
	}
	return nil
}

// policyStopTimeout bounds how long the end waits for counts of calls to be written.
const policyStopTimeout = 5 * time.Second

var _ caddy.Destructor = (*state)(nil)
