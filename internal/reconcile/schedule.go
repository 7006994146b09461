package reconcile

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Hint makes contexts due: all, or those of the invokers named. It returns when
// no verdict computed before counts any more. Hints within one second are
// gathered to its end; none is dropped. A name that is not known causes no read.
func (r *Reconciler) Hint(ctx context.Context, invokers []string) error {
	if len(invokers) > 0 {
		known := false
		for _, invoker := range invokers {
			known = r.raise(invoker) || known
		}
		if known {
			r.poke()
		}
		return nil
	}
	return r.gather.join(ctx, r.raiseAll)
}

// raise marks one invoker, and its reads in flight. It reports whether it is
// known.
func (r *Reconciler) raise(invoker string) bool {
	rec := r.records.get(invoker)
	if rec != nil {
		rec.mu.Lock()
		rec.named = r.clock.Add(1)
		rec.mu.Unlock()
	}
	// Also where nothing is known: one that is just being evicted may still
	// have cached verdicts.
	r.store.Epoch(invoker).Add(1)
	return rec != nil
}

// raiseAll marks every invoker: first the clock, then the epochs.
func (r *Reconciler) raiseAll() {
	at := r.clock.Add(1)
	for old := r.all.Load(); old < at && !r.all.CompareAndSwap(old, at); old = r.all.Load() {
		continue // it only rises, whoever else raises it
	}
	r.store.RaiseEpochs()
	r.poke()
}

// gatherer runs an action at once, and then at most once in each hintGather.
type gatherer struct {
	mu   sync.Mutex
	last time.Time
	next chan struct{} // closed when the action that is waited for has run
	// timer runs that action; closed says that none may be set any more.
	timer  *time.Timer
	closed bool
}

func (g *gatherer) join(ctx context.Context, act func()) error {
	g.mu.Lock()
	if g.next == nil {
		wait := hintGather - time.Since(g.last)
		if wait <= 0 || g.last.IsZero() || g.closed {
			act()
			g.last = time.Now()
			g.mu.Unlock()
			return nil
		}
		g.next = make(chan struct{})
		g.timer = time.AfterFunc(wait, func() { g.run(act) })
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

// close runs what is waited for at once, and from now on everything.
func (g *gatherer) close(act func()) {
	g.mu.Lock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
	g.run(act)
}

func (g *gatherer) run(act func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		return
	}
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
		var done bool
		select {
		case <-r.ctx.Done():
			return
		case <-r.paced:
			pass.Reset(r.interval())
			continue
		case <-r.wake:
			done = r.readDue()
		case <-again:
			done = r.readDue()
		case <-pass.C:
			done = r.readAll()
			pass.Reset(r.interval())
		}
		if done {
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
	list := r.records.all()
	complete := r.readEach(list, job{
		wants:   r.dueLocked,
		serves:  func(rec *record, f *flight) bool { return f.begun >= max(r.all.Load(), rec.named) },
		between: func() {},
	})
	return complete && !slices.ContainsFunc(list, func(rec *record) bool {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		return !rec.removed && r.dueLocked(rec)
	})
}

// readAll reads all that were seen lately, and all of which something is
// withheld: a complete pass. What becomes due meanwhile goes before it. It
// reports whether nothing is left to be tried again soon.
func (r *Reconciler) readAll() bool {
	s := r.settings.Load()
	if s == nil {
		return true
	}
	begun := time.Now()
	done := true
	list := r.awake(begun.Add(-lateIntervals * s.Interval).Unix())
	complete := r.readEach(list, job{
		wants:  func(rec *record) bool { return time.Unix(0, rec.times.ReadAt.Load()).Before(begun) },
		serves: func(_ *record, f *flight) bool { return !f.at.Before(begun) },
		between: func() {
			select {
			case <-r.wake:
				done = r.readDue()
			default:
			}
		},
	})
	if complete {
		r.endIfGone(s, list, begun)
	}
	return done && complete
}

// awake returns the records that the timer reads. What is cached about the
// others ends: their next call waits for a read.
func (r *Reconciler) awake(lately int64) []*record {
	var list []*record
	for _, rec := range r.records.all() {
		rec.mu.Lock()
		stays := rec.times.Seen.Load() >= lately || rec.pending != noChange
		falls := !stays && !rec.asleep
		rec.asleep = rec.asleep || falls
		rec.mu.Unlock()
		if falls {
			r.store.Epoch(rec.invoker).Add(1)
		}
		if stays {
			list = append(list, rec)
		}
	}
	return list
}

// lateIntervals is for how many intervals after its last call an invoker is read
// by the timer.
const lateIntervals = 12
