package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// await waits until a read that is young enough for a call begun at started has
// been applied, or says why it was not.
func (r *Reconciler) await(ctx context.Context, rec *record, q *Query, started time.Time) error {
	s := r.settings.Load()
	if s == nil || r.ctx == nil {
		return errNotStarted
	}
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	rec.mu.Lock()
	need := max(r.all.Load(), rec.named) // hints that come later are not this call's
	rec.mu.Unlock()
	for {
		rec.mu.Lock()
		if !r.needsReadLocked(rec, q, need, started) {
			rec.mu.Unlock()
			return nil
		}
		f := rec.flight
		own := f == nil
		if own {
			f = r.beginLocked(rec)
			if !r.spawn(func() { r.flyForeground(s, rec, f) }) {
				rec.flight = nil
				rec.mu.Unlock()
				return errNotStarted
			}
		}
		rec.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the core: %w", ctx.Err())
		case <-r.ctx.Done():
			return errNotStarted
		}
		if f.err != nil && (own || !f.at.Before(started)) {
			return f.err
		}
		// A read begun before this call has failed, or was begun before the
		// hint: it proves nothing, and the call gets one of its own.
	}
}

// beginLocked notes that a read begins. The clock is taken before the request
// leaves: a hint that comes later makes the read too old.
func (r *Reconciler) beginLocked(rec *record) *flight {
	f := &flight{begun: r.clock.Load(), at: time.Now(), done: make(chan struct{})}
	rec.flight = f
	return f
}

// flyForeground runs a read that a call waits for, once there is a place.
func (r *Reconciler) flyForeground(s *Settings, rec *record, f *flight) {
	select {
	case r.foreground <- struct{}{}:
		defer func() { <-r.foreground }()
		r.fly(s, rec, f)
	case <-r.ctx.Done():
		r.land(rec, f, errNotStarted)
	}
}

// fly runs one read: it asks the core and applies the answer.
func (r *Reconciler) fly(s *Settings, rec *record, f *flight) {
	sequence := r.store.Sequence()
	word, err := r.ask(s, rec)
	if err != nil {
		r.land(rec, f, err)
		return
	}
	word.ReadSequence, word.ReadAt = sequence, f.at.UTC()
	save := r.apply(s, rec, f, word)
	r.land(rec, f, nil)
	if save {
		r.save(s, rec, word)
	}
}

func (r *Reconciler) land(rec *record, f *flight, err error) {
	rec.mu.Lock()
	f.err = err
	rec.flight = nil
	rec.mu.Unlock()
	close(f.done)
}

// ask gets the core's word about an invoker.
func (r *Reconciler) ask(s *Settings, rec *record) (revocation.Context, error) {
	begun := time.Now()
	invoker := rec.invoker
	word, err := r.get(s, invoker)
	if err == nil {
		return word, nil
	}
	var e *coreclient.Error
	if !errors.As(err, &e) || e.Class() != coreclient.NotFound || !e.InCoreShape {
		return revocation.Context{}, err
	}
	if !r.confirmAbsence(s, invoker, begun) {
		// Disbelieved, and yet a sign that the core has lost its data.
		rec.mu.Lock()
		kind := r.compare(s, rec, &revocation.Context{Invoker: invoker})
		rec.mu.Unlock()
		r.mass.withhold(s, r.alarms, invoker, begun, kind)
		return revocation.Context{}, fmt.Errorf("404, which no other context supports: %w", err)
	}
	return revocation.Context{Invoker: invoker}, nil
}

// get sends one request and keeps count of what it says about the core.
func (r *Reconciler) get(s *Settings, invoker string) (revocation.Context, error) {
	ctx, cancel := context.WithTimeout(r.ctx, readTimeout)
	defer cancel()
	begun := time.Now()
	r.stats.reads.Add(1)
	answer, err := s.Core.Context(ctx, invoker)
	if err != nil {
		r.countFailure(s, err)
		return revocation.Context{}, err
	}
	r.countAnswer()
	r.witnessed.note(invoker, begun)
	word := revocation.Context{Invoker: invoker, Found: true}
	for _, e := range answer.Entries {
		word.Entries = append(word.Entries, revocation.ContextEntry{AEF: e.AEFID, API: e.APIID})
	}
	return word, nil
}

// countFailure and countAnswer notice the end of a time in which the core was
// unreachable: what it announced meanwhile was lost, so it counts as a hint.
func (r *Reconciler) countFailure(s *Settings, err error) {
	var e *coreclient.Error
	if errors.As(err, &e) && e.Class() == coreclient.NotFound && e.InCoreShape {
		r.countAnswer()
		return
	}
	r.stats.failed.Add(1)
	if errors.As(err, &e) && e.Class() != coreclient.Unknown {
		return // it answered, if only to refuse
	}
	if r.failures.Add(1) == unreachableStreak {
		s.Logger.Warn("core unreachable; contexts stay as they are", "error", err)
	}
}

func (r *Reconciler) countAnswer() {
	r.stats.lastAnswer.Store(time.Now().UnixNano())
	if r.failures.Swap(0) >= unreachableStreak {
		r.settings.Load().Logger.Info("core reachable again; contexts are read again")
		r.raiseAll()
	}
}

// apply puts the core's word in force, unless it is part of a suspect change.
// It reports whether the word is to be saved.
func (r *Reconciler) apply(s *Settings, rec *record, f *flight, word revocation.Context) bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	kind := r.compare(s, rec, &word)
	free := rec.free
	rec.free = false
	if !free && r.mass.withhold(s, r.alarms, rec.invoker, f.at, kind) {
		rec.pending = kind
		if kind != noChange {
			rec.begun, rec.heldAt = f.begun, f.at
		}
		return false
	}
	rec.pending = noChange
	changed := !rec.known || rec.context.Found != word.Found || !slices.Equal(rec.context.Entries, word.Entries)
	word.Gone = goneAfter(&rec.context, &word)
	rec.context, rec.known = word, true
	rec.begun = f.begun
	rec.readAt.Store(f.at.UnixNano())
	if changed {
		r.store.Epoch(rec.invoker).Add(1)
	}
	return changed || s.CoreLift
}

// compare says what a word would change for calls here. What a claim denies
// anyway changes nothing.
func (r *Reconciler) compare(s *Settings, rec *record, word *revocation.Context) change {
	if !rec.known {
		return noChange
	}
	hosted := s.Hosted()
	kind := noChange
	for _, pair := range []struct {
		from, to *revocation.Context
		kind     change
	}{{&rec.context, word, newlyRefused}, {word, &rec.context, newlyListed}} {
		for _, e := range pair.from.Entries {
			if e.AEF != "" && !slices.Contains(hosted, e.AEF) {
				continue
			}
			if slices.ContainsFunc(pair.to.Entries, func(o revocation.ContextEntry) bool { return o == e || o.Covers(e.AEF, e.API) }) {
				continue
			}
			var apis []string
			if e.API != "" {
				apis = []string{e.API}
			}
			if r.store.Covering(rec.invoker, e.AEF, apis, revocation.Digest{}) != revocation.CoverNone {
				continue
			}
			kind |= pair.kind
			break
		}
	}
	return kind
}

// goneAfter is what was listed once and no longer is.
func goneAfter(before, after *revocation.Context) []revocation.ContextEntry {
	var gone []revocation.ContextEntry
	for _, e := range slices.Concat(before.Gone, before.Entries) {
		if !slices.Contains(after.Entries, e) && !slices.Contains(gone, e) {
			gone = append(gone, e)
		}
	}
	return gone[max(0, len(gone)-revocation.MaxGone):]
}

// save makes the word durable, and where the core may lift its own claims, lets
// the ledger judge what the word means for them.
func (r *Reconciler) save(s *Settings, rec *record, word revocation.Context) {
	rec.mu.Lock()
	word.Gone = rec.context.Gone
	rec.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	lifted, err := r.store.ApplyContext(ctx, word, s.CoreLift)
	if err != nil {
		s.Logger.Debug("context not saved; it is read again after a restart", "api_invoker_id", rec.invoker, "error", err)
		return
	}
	for _, c := range lifted {
		s.Logger.Info("claim lifted by the core", "api_invoker_id", c.Invoker, "aef_id", c.AEF, "api_id", c.API, "sequence", c.Sequence)
	}
}

// WarnIfMapped reports, once for an invoker, that its context lists the aefId of
// a route with other apiIds only: the route's api_id is probably wrong.
func (r *Reconciler) WarnIfMapped(q Query) {
	s := r.settings.Load()
	rec := r.records.get(q.Invoker)
	if s == nil || rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.warned || len(rec.context.Gone) > 0 {
		return
	}
	var others []string
	for _, e := range rec.context.Entries {
		if e.AEF == q.AEF && e.API != "" {
			others = append(others, e.API)
		}
	}
	if len(others) == 0 {
		return
	}
	rec.warned = true
	r.alarms.Raise(s.Logger, alarm.LikelyWrongAPIID, fmt.Sprintf(
		"API invoker %s has a token for this API, and its context lists aefId %s with apiId %s, while the route has api_id %s: check api_id",
		q.Invoker, q.AEF, strings.Join(others[:min(len(others), 5)], ", "), strings.Join(q.APIs, ", ")))
}
