package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/caddy-capif/aef/internal/coreclient"
)

// job says which records a round in the background is about.
type job struct {
	// wants says whether a record, whose mutex is held, is to be read.
	wants func(*record) bool
	// serves says whether a read that somebody else began will do.
	serves func(*record, *flight) bool
	// between runs before each record.
	between func()
}

// readEach reads those records of the list that the job wants, within the budget,
// and reports whether every read succeeded. Those whose last read failed go
// last, so that they cannot keep the others from their turn, and a core that is
// silent is not asked for the whole list.
func (r *Reconciler) readEach(list []*record, j job) bool {
	var failed atomic.Bool
	var silent atomic.Int32 // reads in a row without an answer
	var flights sync.WaitGroup
	defer flights.Wait()
	for _, rec := range failedLast(list) {
		j.between()
		if silent.Load() >= backgroundReads {
			return false
		}
		rec.mu.Lock()
		want := !rec.removed && j.wants(rec)
		rec.mu.Unlock()
		if !want {
			continue
		}
		if r.pace(r.ctx) != nil {
			return false
		}
		select {
		case r.background <- struct{}{}:
		case <-r.ctx.Done():
			return false
		}
		flights.Go(func() {
			err := r.readInBackground(rec, j)
			<-r.background
			r.save(rec)
			switch {
			case err == nil:
				silent.Store(0)
				return
			case isSilence(err):
				silent.Add(1)
			}
			failed.Store(true)
		})
	}
	flights.Wait()
	return !failed.Load()
}

func failedLast(list []*record) []*record {
	var first, last []*record
	for _, rec := range list {
		rec.mu.Lock()
		failed := rec.failedAt != 0
		rec.mu.Unlock()
		if failed {
			last = append(last, rec)
		} else {
			first = append(first, rec)
		}
	}
	return append(first, last...)
}

// isSilence says whether no answer came at all.
func isSilence(err error) bool {
	var e *coreclient.Error
	return !errors.As(err, &e) || e.Status == 0
}

// pace keeps reads in the background within the budget.
func (r *Reconciler) pace(ctx context.Context) error {
	err := r.limiter.Wait(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the budget of reads: %w", err)
	}
	return nil
}

// readInBackground reads one record, or waits for a read that a call began, if
// that one will do.
func (r *Reconciler) readInBackground(rec *record, j job) error {
	rec.mu.Lock()
	for f := rec.flight; f != nil; f = rec.flight {
		rec.mu.Unlock()
		select {
		case <-f.done:
		case <-r.ctx.Done():
			return errNotStarted
		}
		rec.mu.Lock()
		if f.err == nil && j.serves(rec, f) {
			rec.mu.Unlock()
			return nil
		}
	}
	if rec.removed || !j.wants(rec) {
		rec.mu.Unlock()
		return nil // a call had it read while this one waited for its turn
	}
	f := r.beginLocked(rec)
	rec.mu.Unlock()
	r.fly(rec, f, r.pace)
	return f.err
}
