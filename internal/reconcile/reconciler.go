package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Core is what reads need of the core; *coreclient.Core is one. Every call MUST
// end with its context.
type Core interface {
	Context(ctx context.Context, invoker string) (coreclient.Context, error)
}

// Store is what reads need of the ledger; *revocation.Ledger is one.
type Store interface {
	Sequence() uint64
	Epoch(invoker string) *atomic.Uint64
	// Changed raises the epoch of an invoker and has its calls in flight
	// judged again. It MUST NOT block or call back.
	Changed(invoker string)
	RaiseEpochs()
	Covering(invoker, aef string, apis []string, token revocation.Digest) revocation.Cover
	ApplyContext(ctx context.Context, c revocation.Context, coreLift bool) ([]revocation.Claim, error)
	ForgetContexts(ctx context.Context, invokers []string) error
	Contexts(f func(revocation.Context)) error
	HasCoreClaim(invoker string) (bool, error)
}

// Defaults.
const (
	DefaultInterval    = 5 * time.Minute
	DefaultWait        = time.Second
	DefaultMaxInvokers = 100_000
)

const (
	notListedFor      = 5 * time.Second
	foregroundReads   = 32
	backgroundReads   = 10
	backgroundPerSec  = 50
	readTimeout       = 10 * time.Second
	storeTimeout      = 10 * time.Second
	hintGather        = time.Second
	unreachableStreak = 2
	failsAlone        = 3
)

// Settings belong to one configuration and are replaced with it.
type Settings struct {
	Core Core
	// CoreURL tells one core from another: contexts of another core are read
	// again before they decide.
	CoreURL string
	// Interval is the reconcile interval. Default: 5 min.
	Interval time.Duration
	// Wait is how long a call waits for a read. Default: 1 s.
	Wait time.Duration
	// MaxInvokers bounds how many contexts are kept. Default: 100000.
	MaxInvokers int
	// CoreLift lets the core lift its own claims through contexts.
	CoreLift bool
	// Hosted returns the aefIds that are hosted here.
	Hosted func() []string
	// Reachable, if set, is called at the end of a time in which the core was
	// unreachable. It must not block.
	Reachable func()
	// Unreachable, if set, is called at the begin of such a time. It must not
	// block.
	Unreachable func()
	Logger      *slog.Logger
}

// Reconciler reads contexts. Make one with [New].
type Reconciler struct {
	store    Store
	alarms   *alarm.Set
	settings atomic.Pointer[Settings]
	records  records

	// clock counts hints; all is its value at the last hint that named
	// nobody. A read that began at a clock below all, or below the record's
	// named, is too old.
	clock atomic.Uint64
	all   atomic.Uint64

	mass       mass
	doubts     doubts
	foreground chan struct{}
	background chan struct{}
	limiter    *rate.Limiter
	wake       chan struct{}
	paced      chan struct{} // the interval changed
	failures   atomic.Int32  // reads without an answer since the last answer
	witnessed  witness
	search     search
	probes     probes
	gather     gatherer
	named      gathered
	stats      stats

	ctx     context.Context //nolint:containedctx // ends with Stop
	cancel  context.CancelFunc
	started atomic.Bool // what is stored has been read
	workers sync.WaitGroup
	life    sync.RWMutex
	stopped bool
}

type stats struct {
	reads, failed, late atomic.Uint64
	lastAnswer          atomic.Int64
}

// New makes a reconciler that does nothing until [Reconciler.Start].
func New(store Store, alarms *alarm.Set) *Reconciler {
	r := &Reconciler{
		store:      store,
		alarms:     alarms,
		records:    records{m: make(map[string]*record)},
		foreground: make(chan struct{}, foregroundReads),
		background: make(chan struct{}, backgroundReads),
		limiter:    rate.NewLimiter(backgroundPerSec, 1),
		wake:       make(chan struct{}, 1),
		paced:      make(chan struct{}, 1),
		search:     search{turn: make(chan struct{}, 1)},
		probes:     probes{slots: make(chan struct{}, probeReads)},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.clock.Store(1)
	r.all.Store(1) // the start counts as a hint
	return r
}

// Apply replaces the settings.
func (r *Reconciler) Apply(s *Settings) {
	c := *s
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	if c.Wait <= 0 {
		c.Wait = DefaultWait
	}
	if c.MaxInvokers <= 0 {
		c.MaxInvokers = DefaultMaxInvokers
	}
	if c.Hosted == nil {
		c.Hosted = func() []string { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	old := r.settings.Swap(&c)
	r.doubtAnew(c.Logger)
	if old != nil && old.Interval != c.Interval {
		select {
		case r.paced <- struct{}{}:
		default:
		}
	}
	if old != nil && old.CoreURL != c.CoreURL {
		r.raiseAll()
	}
}

// Start reads what is stored and begins to work. Every context is due: whatever
// was announced while this process was down was lost. Until it has returned,
// nothing is known of anybody.
func (r *Reconciler) Start() error {
	if r.started.Load() {
		return nil
	}
	err := r.store.Contexts(func(c revocation.Context) {
		rec, _ := r.records.obtain(c.Invoker)
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.known, rec.context = true, c
		rec.times.ReadAt.Store(c.ReadAt.UnixNano())
		if rec.times.Seen.Load() == 0 {
			rec.times.Seen.Store(c.ReadAt.Unix())
		}
	})
	if err != nil {
		return fmt.Errorf("reading the stored contexts: %w", err)
	}
	if r.started.Swap(true) {
		return nil
	}
	r.spawn(r.run)
	r.poke()
	return nil
}

// Stop ends all reads and waits for them. Calls that come later are decided by
// what is known. It is idempotent.
func (r *Reconciler) Stop() {
	r.life.Lock()
	r.stopped = true
	r.life.Unlock()
	r.cancel()
	r.gather.close(r.raiseAll)
	r.named.close(r.raiseGathered)
	r.workers.Wait()
}

// spawn runs f unless Stop has begun.
func (r *Reconciler) spawn(f func()) bool {
	r.life.RLock()
	defer r.life.RUnlock()
	if r.stopped {
		return false
	}
	r.workers.Go(f)
	return true
}

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Query is what a decision asks.
type Query = enforce.ContextQuery

// Answer is what it is told.
type Answer = enforce.ContextAnswer

// errNotStarted is the answer of a reconciler that is not at work.
var errNotStarted = errors.New("contexts are not read now: not started yet, or stopped")

// errRemoved says that a record was evicted, or its invoker offboarded.
var errRemoved = errors.New("the context was forgotten meanwhile")

// Check says whether the context of an invoker lists a route. It waits for a
// read where one is needed, no longer than Settings.Wait. Only an invoker whose
// token was verified may be asked for.
func (r *Reconciler) Check(ctx context.Context, q Query) Answer {
	now, started := time.Now(), r.started.Load()
	rec := r.obtain(q.Invoker, now)
	answer := r.known(rec, &q, now)
	if answer.Settled || (answer.Known && !r.needsRead(rec, &q, now)) {
		return answer
	}
	err := r.await(ctx, rec, &q, now)
	if errors.Is(err, errRemoved) {
		rec = r.obtain(q.Invoker, now)
		err = r.await(ctx, rec, &q, now)
	}
	if started || err == nil { // else the start has ended since: what was stored is due, and was not read
		answer = r.known(rec, &q, now)
	}
	answer.Waited = true
	if err != nil {
		r.stats.late.Add(1)
		answer.Settled, answer.Late = false, true
	}
	return answer
}

// Known is Check by what is known now: it neither waits nor has anything read,
// and does not count as a call.
func (r *Reconciler) Known(q Query) Answer {
	rec := r.records.get(q.Invoker)
	if rec == nil {
		return Answer{}
	}
	return r.known(rec, &q, time.Now())
}

// known is the answer by what is known now. Before the stored contexts have been
// read, it is not even known that a pair was never listed.
func (r *Reconciler) known(rec *record, q *Query, now time.Time) Answer {
	started := r.started.Load()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	known := started && rec.known && !rec.removed
	listed := known && rec.answer(q.AEF, q.APIs, q.Require)
	if !q.Require && !known {
		listed = true
	}
	fresh := known && rec.begun > 0 && !r.dueLocked(rec)
	return Answer{
		Listed: listed, Known: known || (!q.Require && started && !rec.removed),
		Settled: listed && fresh && rec.pending == noChange && r.young(rec, now),
		Times:   &rec.times,
	}
}

// dueLocked says whether the last applied read is older than a hint.
func (r *Reconciler) dueLocked(rec *record) bool {
	return rec.begun < max(r.all.Load(), rec.named)
}

// young needs rec.mu. Twice the interval, for the timer needs time to get round.
func (r *Reconciler) young(rec *record, now time.Time) bool {
	s := r.settings.Load()
	return s != nil && !rec.asleep && (rec.age(now) < 2*s.Interval || now.Sub(rec.heldAt) < s.Interval)
}

// needsRead says whether a call that started at now needs a read of its own.
func (r *Reconciler) needsRead(rec *record, q *Query, now time.Time) bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return r.needsReadLocked(rec, q, max(r.all.Load(), rec.named), now)
}

func (r *Reconciler) needsReadLocked(rec *record, q *Query, need uint64, now time.Time) bool {
	if !rec.known || rec.begun == 0 || rec.begun < need {
		return true
	}
	if !rec.answer(q.AEF, q.APIs, q.Require) {
		// What was withheld was asked all the same.
		return min(rec.age(now), now.Sub(rec.heldAt)) >= notListedFor
	}
	return !r.young(rec, now)
}

func (r *Reconciler) obtain(invoker string, now time.Time) *record {
	rec, count := r.records.obtain(invoker)
	rec.times.Seen.Store(now.Unix())
	s := r.settings.Load()
	if s != nil && r.started.Load() && count > s.MaxInvokers {
		r.evict(s, rec, count)
	}
	return rec
}

// evict forgets the contexts of those not seen for longest, but for newcomer's.
// They are read again at their next call. Those that remember what is no longer
// listed go last, for a read does not bring that back.
func (r *Reconciler) evict(s *Settings, newcomer *record, count int) {
	list := r.records.all()
	over := min(count-s.MaxInvokers+s.MaxInvokers/10, len(list)-1)
	var first, last []string
	for _, rec := range slices.Backward(list) {
		if len(first) == over {
			break
		}
		rec.mu.Lock()
		switch {
		case rec == newcomer || rec.flight != nil:
		case len(rec.context.Gone) == 0:
			first = append(first, rec.invoker)
		case len(last) < over:
			last = append(last, rec.invoker)
		}
		rec.mu.Unlock()
	}
	first = append(first, last[:min(over-len(first), len(last))]...)
	gone := r.records.remove(first, func(rec *record) bool { return rec.flight != nil })
	for _, invoker := range gone {
		r.store.Epoch(invoker).Add(1)
	}
	r.forget(s, gone)
}

func (r *Reconciler) forget(s *Settings, invokers []string) {
	if len(invokers) == 0 {
		return
	}
	r.spawn(func() {
		ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
		defer cancel()
		err := r.store.ForgetContexts(ctx, invokers)
		if err != nil {
			s.Logger.Debug("contexts not deleted from the ledger", "count", len(invokers), "error", err)
		}
	})
}

// Gone forgets the contexts of offboarded invokers.
func (r *Reconciler) Gone(ctx context.Context, invokers []string) error {
	r.records.remove(invokers, nil)
	for _, invoker := range invokers {
		r.store.Changed(invoker)
	}
	return r.store.ForgetContexts(ctx, invokers)
}

// Status is what an operator sees.
type Status struct {
	Invokers   int
	Due        int
	Suspended  bool
	Withheld   int
	Reads      uint64
	Failed     uint64
	Late       uint64
	LastAnswer time.Time
	Reachable  bool
	// Oldest is when the oldest context began to be read of those seen within
	// the last two intervals; zero if there is none.
	Oldest time.Time
}

// Reachable is that of Status, without a look at every context.
func (r *Reconciler) Reachable() bool { return r.failures.Load() < unreachableStreak }

// Status returns the state of affairs. It looks at every context.
func (r *Reconciler) Status() Status {
	st := Status{
		Invokers: r.records.len(), Suspended: r.mass.isSuspended(),
		Reads: r.stats.reads.Load(), Failed: r.stats.failed.Load(), Late: r.stats.late.Load(),
		Reachable: r.Reachable(),
	}
	if at := r.stats.lastAnswer.Load(); at > 0 {
		st.LastAnswer = time.Unix(0, at).UTC()
	}
	s := r.settings.Load()
	if s == nil {
		return st
	}
	lately := time.Now().Add(-2 * s.Interval).Unix()
	for _, rec := range r.records.all() {
		rec.mu.Lock()
		if r.dueLocked(rec) {
			st.Due++
		}
		if rec.pending != noChange {
			st.Withheld++
		}
		rec.mu.Unlock()
		at := time.Unix(0, rec.times.ReadAt.Load()).UTC()
		if rec.times.Seen.Load() >= lately && rec.times.ReadAt.Load() > 0 && (st.Oldest.IsZero() || at.Before(st.Oldest)) {
			st.Oldest = at
		}
	}
	return st
}

var _ enforce.Contexts = (*Reconciler)(nil)
