package outbox

import (
	"container/heap"
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Core is the part of the CAPIF core function that a revoke needs;
// *coreclient.Core is one. Every call MUST end with its context.
type Core interface {
	Context(ctx context.Context, invoker string) (coreclient.Context, error)
	Revoke(ctx context.Context, r coreclient.RevokeRequest) (int, error)
}

// Ledger is where revocations are durable; *revocation.Ledger is one.
type Ledger interface {
	RevocationBySequence(sequence uint64) (revocation.Revocation, error)
	Record(ctx context.Context, sequence uint64, p revocation.Progress) (revocation.Revocation, error)
	IsPending(sequence uint64) bool
}

// Workers is how many exchanges run at once.
const Workers = 8

// Settings belong to one configuration and are replaced with it.
type Settings struct {
	Core Core
	// APIs returns the apiIds that routes of an aefId stand for: what is
	// asked for where a context entry names no apiId.
	APIs   func(aef string) []string
	Logger *slog.Logger
}

// Outbox schedules the exchanges. Make one with [New].
type Outbox struct {
	ledger   Ledger
	alarms   *alarm.Set
	settings atomic.Pointer[Settings]

	mu      sync.Mutex
	waiting dueHeap
	known   map[uint64]bool    // queued or running
	lanes   map[string][]entry // invokers with an exchange running, and what came due meanwhile
	wake    chan struct{}

	cancel context.CancelFunc
	done   sync.WaitGroup
}

type entry struct {
	sequence uint64
	invoker  string
	due      time.Time
	damaged  int // how often in a row its record could not be read
}

// New makes an outbox that does nothing until [Outbox.Start].
func New(ledger Ledger, alarms *alarm.Set) *Outbox {
	return &Outbox{
		ledger: ledger,
		alarms: alarms,
		known:  make(map[uint64]bool),
		lanes:  make(map[string][]entry),
		wake:   make(chan struct{}, 1),
	}
}

// Apply replaces the settings. Whatever is in back-off is tried at once: a new
// configuration may have mended what was wrong. An exchange in flight ends with
// the old ones, for the core may be at work on it, and if that decides nothing
// it is tried at once, too.
func (o *Outbox) Apply(s *Settings) {
	old := o.settings.Swap(s)
	if old == nil {
		return
	}
	o.mu.Lock()
	for i := range o.waiting {
		o.waiting[i].due = time.Time{}
	}
	heap.Init(&o.waiting)
	o.mu.Unlock()
	o.poke()
}

// Add queues a revocation. It never blocks; a revocation that is queued
// already is not queued twice.
func (o *Outbox) Add(ref revocation.PendingRef) {
	o.mu.Lock()
	if o.known[ref.Sequence] {
		o.mu.Unlock()
		return
	}
	o.known[ref.Sequence] = true
	heap.Push(&o.waiting, entry{sequence: ref.Sequence, invoker: ref.Invoker, due: ref.Due})
	o.mu.Unlock()
	o.poke()
}

// Depth returns how many revocations are queued or in an exchange.
func (o *Outbox) Depth() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.known)
}

// Oldest returns the sequence of the oldest revocation that is queued or in an
// exchange, and whether there is one.
func (o *Outbox) Oldest() (uint64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	oldest := uint64(math.MaxUint64)
	for sequence := range o.known {
		oldest = min(oldest, sequence)
	}
	return oldest, len(o.known) > 0
}

// Start begins to work. It may be called once.
func (o *Outbox) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	jobs := make(chan entry)
	for range Workers {
		o.done.Go(func() {
			for e := range jobs {
				o.work(ctx, e)
			}
		})
	}
	o.done.Go(func() {
		defer close(jobs)
		o.dispatch(ctx, jobs)
	})
}

// Stop ends all exchanges and waits for them.
func (o *Outbox) Stop() {
	if o.cancel == nil {
		return
	}
	o.cancel()
	o.done.Wait()
}

func (o *Outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// dispatch hands what is due to the workers, one for each invoker at a time.
func (o *Outbox) dispatch(ctx context.Context, jobs chan<- entry) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e, wait, ok := o.next(time.Now())
		if ok {
			select {
			case jobs <- e:
				continue
			case <-ctx.Done():
				return
			}
		}
		timer.Reset(wait)
		select {
		case <-o.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the entry that is due, or says how long to wait for one. What is
// due for an invoker that has an exchange running waits in that one's lane.
func (o *Outbox) next(now time.Time) (entry, time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.waiting) > 0 {
		if wait := o.waiting[0].due.Sub(now); wait > 0 {
			return entry{}, wait, false
		}
		e := heap.Pop(&o.waiting).(entry)
		lane, busy := o.lanes[e.invoker]
		if busy {
			o.lanes[e.invoker] = append(lane, e)
			continue
		}
		o.lanes[e.invoker] = nil
		return e, 0, true
	}
	return entry{}, time.Hour, false
}

// work runs one exchange and queues it again if it is still pending.
func (o *Outbox) work(ctx context.Context, e entry) {
	used := o.settings.Load()
	again := o.exchange(ctx, used, &e)
	o.mu.Lock()
	for _, next := range o.lanes[e.invoker] {
		heap.Push(&o.waiting, next)
	}
	delete(o.lanes, e.invoker)
	if again.IsZero() {
		delete(o.known, e.sequence)
	} else {
		e.due = again
		if o.settings.Load() != used {
			e.due = time.Time{} // applied meanwhile: as Apply does with what is in back-off
		}
		heap.Push(&o.waiting, e)
	}
	o.mu.Unlock()
	o.poke()
}

// dueHeap orders entries by when they are due.
type dueHeap []entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(entry)) }

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

var (
	_ revocation.Queue = (*Outbox)(nil)
	_ Ledger           = (*revocation.Ledger)(nil)
	_ Core             = (*coreclient.Core)(nil)
)
