package streams

import (
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

const (
	groups = 256 // of API invokers
	// stripes are the lists of one group: calls of one API invoker seldom meet.
	stripes = 8
	// maxWorkers bounds how many goroutines end calls.
	maxWorkers = 4
	// keepAlive is how often API invokers with a call in flight count as seen, so
	// that their contexts go on being read.
	keepAlive = time.Minute
)

// Registry knows the calls in flight. Make one with [New]. It is safe for
// concurrent use.
type Registry struct {
	seed  maphash.Seed
	lists [groups * stripes]list
	log   atomic.Pointer[slog.Logger]
	ended [256]atomic.Uint64 // by reason

	mu      sync.Mutex
	work    []task
	queued  map[string]bool // API invokers that stand in work to be judged
	workers int
	idle    *sync.Cond // work is empty and no worker is at it
	graces  map[*grace]struct{}
	stopped bool

	stop chan struct{}
	done sync.WaitGroup
}

// list holds some calls of one group.
type list struct {
	size atomic.Int64 // of what follows; read without the lock
	mu   sync.Mutex
	head *Stream
	_    [40]byte // keeps neighbours off one cache line
}

// task is to judge the calls of an API invoker, or those whose grace is over.
type task struct {
	invoker string
	grace   *grace
}

// grace is a set of calls that are to end a little later.
type grace struct {
	invoker string
	calls   []*Stream
	timer   *time.Timer
}

// New makes an empty registry.
func New() *Registry {
	r := &Registry{
		seed: maphash.MakeSeed(), queued: make(map[string]bool), graces: make(map[*grace]struct{}),
		stop: make(chan struct{}),
	}
	r.idle = sync.NewCond(&r.mu)
	r.log.Store(slog.New(slog.DiscardHandler))
	return r
}

// SetLogger replaces the logger. It gets one line for each change that ends
// calls.
func (r *Registry) SetLogger(logger *slog.Logger) { r.log.Store(logger) }

// Start begins to keep the contexts of API invokers with calls in flight awake.
// Call it at most once.
func (r *Registry) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.done.Go(func() {
		tick := time.NewTicker(keepAlive)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				r.touch(now)
			case <-r.stop:
				return
			}
		}
	})
}

// Stop ends at once what is in its grace, and waits for the workers. Later changes
// end nothing. It is idempotent.
func (r *Registry) Stop() {
	r.mu.Lock()
	if !r.stopped {
		r.stopped = true
		close(r.stop)
		for g := range r.graces {
			g.timer.Stop()
			r.expireLocked(g) // also if the timer has fired: it finds nothing then
		}
	}
	r.mu.Unlock()
	r.Settle()
	r.done.Wait()
}

// Settle waits until all changes so far have been judged, and what they deny has
// been ended or is in its grace.
func (r *Registry) Settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.workers > 0 {
		r.idle.Wait()
	}
}

func (r *Registry) group(invoker string) []list {
	n := maphash.String(r.seed, invoker) % groups
	return r.lists[n*stripes : (n+1)*stripes]
}

func (r *Registry) add(s *Stream) {
	l := &r.group(s.call.Entry.Invoker)[rand.Uint32()%stripes] //nolint:gosec // spreads, no secret
	s.list = l
	l.mu.Lock()
	s.next = l.head
	if l.head != nil {
		l.head.prev = s
	}
	l.head = s
	l.size.Add(1)
	l.mu.Unlock()
}

func (l *list) remove(s *Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	l.size.Add(-1)
}

// Changed has the calls in flight of an API invoker judged again, soon and
// elsewhere: it does not block. Call it when lookups show what has changed and the
// epoch is raised.
func (r *Registry) Changed(invoker string) {
	group := r.group(invoker)
	for i := range group {
		if group[i].size.Load() > 0 {
			r.enqueue(invoker)
			return
		}
	}
}

func (r *Registry) enqueue(invoker string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.queued[invoker] {
		return
	}
	r.queued[invoker] = true
	r.pushLocked(task{invoker: invoker})
}

func (r *Registry) pushLocked(t task) {
	r.work = append(r.work, t)
	if r.workers < min(maxWorkers, runtime.GOMAXPROCS(0)+1) {
		r.workers++
		r.done.Go(r.drain)
	}
}

// drain works until nothing is left.
func (r *Registry) drain() {
	for {
		r.mu.Lock()
		if len(r.work) == 0 {
			r.work = nil
			r.workers--
			if r.workers == 0 {
				r.idle.Broadcast()
			}
			r.mu.Unlock()
			return
		}
		t := r.work[0]
		r.work = r.work[1:]
		if t.grace == nil {
			delete(r.queued, t.invoker) // what changes from here on needs another look
		}
		r.mu.Unlock()
		if t.grace != nil {
			r.judgeAgain(t.grace)
		} else {
			r.judge(t.invoker)
		}
	}
}

// denied is a call in flight that is no longer allowed.
type denied struct {
	stream *Stream
	reason enforce.Reason
}

// judge ends what is no longer allowed, or has it ended after its grace.
func (r *Registry) judge(invoker string) {
	var calls []*Stream
	group := r.group(invoker)
	for i := range group {
		calls = group[i].of(invoker, calls)
	}
	var now []denied
	later := map[time.Duration][]*Stream{}
	for _, s := range calls {
		if s.doomed.Load() {
			continue
		}
		reason := s.call.again()
		switch after := s.call.Grace; {
		case reason == enforce.Allowed:
		case after <= 0:
			now = append(now, denied{s, reason})
		case s.doomed.CompareAndSwap(false, true):
			later[after] = append(later[after], s)
		}
	}
	r.end(invoker, now)
	for after, calls := range later {
		r.wait(&grace{invoker: invoker, calls: calls}, after)
	}
}

// wait has calls judged again after their grace, or at once if nobody will be
// there by then.
func (r *Registry) wait(g *grace, after time.Duration) {
	r.log.Load().Info("calls in flight end after their grace", "api_invoker_id", g.invoker, "calls", len(g.calls), "grace", after)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		r.work = append(r.work, task{grace: g}) // the worker that asks takes it
		return
	}
	r.graces[g] = struct{}{}
	g.timer = time.AfterFunc(after, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.expireLocked(g)
	})
}

func (r *Registry) expireLocked(g *grace) {
	if _, waits := r.graces[g]; waits {
		delete(r.graces, g)
		r.pushLocked(task{grace: g})
	}
}

// judgeAgain ends the calls whose grace is over, but for those that are allowed
// again.
func (r *Registry) judgeAgain(g *grace) {
	var now []denied
	for _, s := range g.calls {
		s.doomed.Store(false) // first: whatever changes from here on is judged anew
		reason := s.call.again()
		if reason != enforce.Allowed {
			now = append(now, denied{s, reason})
		}
	}
	r.end(g.invoker, now)
}

func (r *Registry) end(invoker string, calls []denied) {
	begun := time.Now()
	n := 0
	for _, d := range calls {
		if d.stream.end() {
			r.ended[d.reason].Add(1)
			n++
		}
	}
	if n > 0 {
		r.log.Load().Info("calls in flight ended", "api_invoker_id", invoker, "calls", n, "duration", time.Since(begun))
	}
}

// of appends the calls of an API invoker.
func (l *list) of(invoker string, calls []*Stream) []*Stream {
	if l.size.Load() == 0 {
		return calls
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := l.head; s != nil; s = s.next {
		if s.call.Entry.Invoker == invoker {
			calls = append(calls, s)
		}
	}
	return calls
}

func (r *Registry) touch(now time.Time) {
	for i := range r.lists {
		l := &r.lists[i]
		if l.size.Load() == 0 {
			continue
		}
		l.mu.Lock()
		for s := l.head; s != nil; s = s.next {
			s.call.Entry.Touch(now)
		}
		l.mu.Unlock()
	}
}

// Stats are figures since the registry was made.
type Stats struct {
	// Open is how many calls are in flight.
	Open int64
	// Ended are the calls that were ended, by what denied them.
	Ended map[enforce.Reason]uint64
}

// Reasons are those that end calls.
func Reasons() []enforce.Reason {
	return []enforce.Reason{enforce.TokenRevoked, enforce.AuthorizationRevoked, enforce.NotInContext}
}

// Stats returns the figures.
func (r *Registry) Stats() Stats {
	s := Stats{Ended: make(map[enforce.Reason]uint64)}
	for i := range r.lists {
		s.Open += r.lists[i].size.Load()
	}
	for _, reason := range Reasons() {
		s.Ended[reason] = r.ended[reason].Load()
	}
	return s
}

var _ revocation.Watcher = (*Registry)(nil)
