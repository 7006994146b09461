package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// probeReads bounds the reads in flight for names that nothing proves. They have
// places of their own, few, so that they never take one from a call.
const probeReads = 2

type probes struct {
	slots chan struct{}
	group singleflight.Group
}

// Probe returns the context of an invoker that is only named, by a caller who
// proved nothing: what is known if it is young and not due, else what a read
// brings, which probes of the same name share. Such a read makes no record,
// changes none, and keeps nobody's alive, so that no flood of names can push out
// those of real invokers. If it fails, what is known is returned, and where
// nothing is, an error. It waits no longer than Settings.Wait. Limiting how
// often it is called is the caller's job.
func (r *Reconciler) Probe(ctx context.Context, invoker string) (revocation.Context, error) {
	s := r.settings.Load()
	if s == nil || !r.started.Load() {
		return revocation.Context{}, errNotStarted
	}
	known, ok, fresh := r.recall(invoker)
	if fresh {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	result := r.probes.group.DoChan(invoker, func() (any, error) { return r.probe(s, invoker) })
	select {
	case got := <-result:
		if got.Err == nil {
			return got.Val.(revocation.Context), nil
		}
		if ok {
			return known, nil
		}
		return revocation.Context{}, got.Err
	case <-ctx.Done():
		if ok {
			return known, nil
		}
		return revocation.Context{}, fmt.Errorf("waiting for the core: %w", ctx.Err())
	}
}

// recall returns what is known about an invoker, whether anything is, and
// whether it needs no read.
func (r *Reconciler) recall(invoker string) (revocation.Context, bool, bool) {
	rec := r.records.get(invoker)
	if rec == nil || !r.started.Load() {
		return revocation.Context{}, false, false
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if !rec.known || rec.removed {
		return revocation.Context{}, false, false
	}
	now := time.Now()
	fresh := rec.begun > 0 && !r.dueLocked(rec) && r.young(rec, now)
	if len(rec.context.Entries) == 0 && rec.age(now) >= notListedFor {
		fresh = false // it may create its context at any moment
	}
	return rec.context, true, fresh
}

// probe reads within the budget, and ends with it or with Stop.
func (r *Reconciler) probe(s *Settings, invoker string) (revocation.Context, error) {
	word := revocation.Context{}
	err := errNotStarted
	ended := make(chan struct{})
	if !r.spawn(func() {
		defer close(ended)
		word, err = r.probeNow(s, invoker)
	}) {
		return revocation.Context{}, errNotStarted
	}
	<-ended
	return word, err
}

func (r *Reconciler) probeNow(s *Settings, invoker string) (revocation.Context, error) {
	ctx, cancel := context.WithTimeout(r.ctx, s.Wait)
	defer cancel()
	select {
	case r.probes.slots <- struct{}{}:
		defer func() { <-r.probes.slots }()
	case <-ctx.Done():
		return revocation.Context{}, fmt.Errorf("too many such reads are under way: %w", ctx.Err())
	}
	err := r.limiter.Wait(ctx)
	if err != nil {
		return revocation.Context{}, fmt.Errorf("the budget of reads is used up: %w", err)
	}
	// Not through get: a name that makes the core fail must not count as a core
	// that is unreachable, nor one that it knows as a witness.
	r.stats.reads.Add(1)
	answer, err := s.Core.Context(ctx, invoker)
	var e *coreclient.Error
	switch {
	case err == nil:
		word := revocation.Context{Invoker: invoker, Found: true}
		for _, entry := range answer.Entries {
			word.Entries = append(word.Entries, revocation.ContextEntry{AEF: entry.AEFID, API: entry.APIID})
		}
		return word, nil
	case errors.As(err, &e) && e.Class() == coreclient.NotFound && e.InCoreShape:
		return revocation.Context{Invoker: invoker}, nil // no witness is asked for: nothing rests on it
	}
	r.stats.failed.Add(1)
	return revocation.Context{}, err
}
