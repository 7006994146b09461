package reconcile

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Hint makes contexts due: all, or those of the invokers named. It returns when
// no verdict computed before counts any more. Hints within one second are
// gathered to its end; none is dropped. A name that is not known causes no read.
func (r *Reconciler) Hint(ctx context.Context, invokers []string) error {
	if len(invokers) > 0 {
		for _, invoker := range invokers {
			r.raise(invoker)
		}
		r.poke()
		return nil
	}
	return r.gather.join(ctx, r.raiseAll)
}

// raise marks one invoker, and its reads in flight.
func (r *Reconciler) raise(invoker string) {
	rec := r.records.get(invoker)
	if rec == nil {
		return
	}
	rec.mu.Lock()
	rec.named = r.clock.Add(1)
	rec.mu.Unlock()
	r.store.Epoch(invoker).Add(1)
}

// raiseAll marks every invoker: first the clock, then the epochs.
func (r *Reconciler) raiseAll() {
	r.all.Store(r.clock.Add(1))
	r.store.RaiseEpochs()
	r.poke()
}

// gatherer runs an action at once, and then at most once in each hintGather.
type gatherer struct {
	mu   sync.Mutex
	last time.Time
	next chan struct{} // closed when the action that is waited for has run
}

func (g *gatherer) join(ctx context.Context, act func()) error {
	g.mu.Lock()
	if g.next == nil {
		wait := hintGather - time.Since(g.last)
		if wait <= 0 || g.last.IsZero() {
			act()
			g.last = time.Now()
			g.mu.Unlock()
			return nil
		}
		g.next = make(chan struct{})
		time.AfterFunc(wait, func() { g.run(act) })
	}
	next := g.next
	g.mu.Unlock()
	select {
	case <-next:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gatherer) run(act func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	act()
	g.last = time.Now()
	close(g.next)
	g.next = nil
}

// run reads in the background: what is due as soon as the budget allows, and all
// that were seen lately once in each interval.
func (r *Reconciler) run() {
	retry := time.Duration(0)
	pass := time.NewTimer(r.interval())
	defer pass.Stop()
	for {
		var again <-chan time.Time
		if retry > 0 {
			again = time.After(retry)
		}
		complete := true
		select {
		case <-r.ctx.Done():
			return
		case <-r.wake:
			complete = r.readDue()
		case <-again:
			complete = r.readDue()
		case <-pass.C:
			complete = r.readAll()
			pass.Reset(r.interval())
		}
		if complete {
			retry = 0
		} else {
			retry = min(max(2*retry, time.Second), 30*time.Second)
		}
	}
}

// interval is the reconcile interval with jitter.
func (r *Reconciler) interval() time.Duration {
	s := r.settings.Load()
	if s == nil {
		return DefaultInterval
	}
	return s.Interval*9/10 + rand.N(s.Interval/5+1) //nolint:gosec // jitter, no secret
}

// readDue reads what is due and reports whether nothing stayed due.
func (r *Reconciler) readDue() bool {
	return r.readEach(r.records.all(), func(rec *record) bool {
		return rec.begun < max(r.all.Load(), rec.named)
	})
}

// readAll reads all that were seen lately: a complete pass.
func (r *Reconciler) readAll() bool {
	s := r.settings.Load()
	if s == nil {
		return true
	}
	begun := time.Now()
	lately := begun.Add(-lateIntervals * s.Interval).Unix()
	var list []*record
	for _, rec := range r.records.all() {
		if rec.seen.Load() >= lately {
			list = append(list, rec)
		}
	}
	complete := r.readEach(list, func(rec *record) bool {
		return time.Unix(0, rec.readAt.Load()).Before(begun)
	})
	if complete {
		r.endIfGone(s, list, begun)
	}
	return complete
}

// lateIntervals is for how many intervals after its last call an invoker is read
// by the timer.
const lateIntervals = 12

// readEach reads those records of the list that want it, within the budget, and
// reports whether every read succeeded. A core that does not answer is not asked
// for the whole list.
func (r *Reconciler) readEach(list []*record, wanted func(*record) bool) bool {
	var failed atomic.Int32
	var flights sync.WaitGroup
	defer flights.Wait()
	for _, rec := range list {
		if failed.Load() >= backgroundReads {
			return false
		}
		rec.mu.Lock()
		want := wanted(rec)
		rec.mu.Unlock()
		if !want {
			continue
		}
		if r.limiter.Wait(r.ctx) != nil {
			return false
		}
		select {
		case r.background <- struct{}{}:
		case <-r.ctx.Done():
			return false
		}
		flights.Go(func() {
			defer func() { <-r.background }()
			if r.readInBackground(rec) != nil {
				failed.Add(1)
			}
		})
	}
	flights.Wait()
	return failed.Load() == 0
}

// readInBackground reads one record, or waits for the read that a call began.
func (r *Reconciler) readInBackground(rec *record) error {
	rec.mu.Lock()
	f := rec.flight
	if f != nil {
		rec.mu.Unlock()
		select {
		case <-f.done:
			return f.err
		case <-r.ctx.Done():
			return errNotStarted
		}
	}
	f = r.beginLocked(rec)
	rec.mu.Unlock()
	r.fly(r.settings.Load(), rec, f)
	return f.err
}
