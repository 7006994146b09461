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
	if s == nil || !r.started.Load() {
		return errNotStarted
	}
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	rec.mu.Lock()
	need := max(r.all.Load(), rec.named) // hints that come later are not this call's
	rec.mu.Unlock()
	for {
		rec.mu.Lock()
		if rec.removed {
			rec.mu.Unlock()
			return errRemoved
		}
		if !r.needsReadLocked(rec, q, need, started) {
			rec.mu.Unlock()
			return nil
		}
		f := rec.flight
		own := f == nil
		if own {
			f = r.beginLocked(rec)
			if !r.spawn(func() { r.flyForeground(rec, f) }) {
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
		if f.err != nil && (own || f.at.After(started)) {
			return f.err
		}
		// A read begun before this call has failed, or was begun before the
		// hint: it proves nothing, and the call gets one of its own.
	}
}

// beginLocked notes that a read begins. The clock is taken before the request
// leaves: a hint that comes later makes the read too old.
func (r *Reconciler) beginLocked(rec *record) *flight {
	f := &flight{done: make(chan struct{})}
	r.stamp(f)
	rec.flight = f
	return f
}

func (r *Reconciler) stamp(f *flight) {
	f.begun, f.at = r.clock.Load(), time.Now()
}

// pacer is waited for before each read but the first that an answer takes.
type pacer func(context.Context) error

// unpaced is for reads that a call waits for.
func unpaced(context.Context) error { return nil }

// flyForeground runs a read that a call waits for, once there is a place.
func (r *Reconciler) flyForeground(rec *record, f *flight) {
	select {
	case r.foreground <- struct{}{}:
	case <-r.ctx.Done():
		r.land(rec, f, errNotStarted)
		return
	}
	r.stamp(f) // it begins now: hints that came while it stood in line are older
	r.fly(rec, f, unpaced)
	<-r.foreground
	r.save(rec) // a slow disk must not take places from reads
}

// fly runs one read: it asks the core and applies the answer.
func (r *Reconciler) fly(rec *record, f *flight, pace pacer) {
	s := r.settings.Load()
	sequence := r.store.Sequence()
	word, err := r.ask(s, rec, pace)
	if err != nil {
		r.land(rec, f, err)
		return
	}
	word.ReadSequence, word.ReadAt = sequence, f.at.UTC()
	r.apply(s, rec, f, word)
	r.land(rec, f, nil)
}

func (r *Reconciler) land(rec *record, f *flight, err error) {
	rec.mu.Lock()
	f.err = err
	rec.flight = nil
	rec.mu.Unlock()
	close(f.done)
}

// ask gets the core's word about an invoker.
func (r *Reconciler) ask(s *Settings, rec *record, pace pacer) (revocation.Context, error) {
	begun := time.Now()
	word, err := r.get(r.ctx, s, rec.invoker, rec)
	if err == nil || !isAbsence(err) {
		return word, err
	}
	absent := revocation.Context{Invoker: rec.invoker}
	rec.mu.Lock()
	accepted := rec.free != 0 // an operator said that the core is right
	rec.mu.Unlock()
	if accepted {
		return absent, nil
	}
	if r.confirmAbsence(s, rec, begun, pace) {
		return absent, nil
	}
	// Disbelieved, and yet a sign that the core has lost its data.
	rec.mu.Lock()
	kind := kindOf(r.compare(s, rec, &absent))
	rec.mu.Unlock()
	r.mass.disbelieve(s, r.alarms, rec.invoker, begun, kind)
	return revocation.Context{}, fmt.Errorf("404, which no other context supports: %w", err)
}

// get sends one request and keeps count of what it says about the core. A
// failure for a name without a record says nothing: anybody may have named it.
func (r *Reconciler) get(ctx context.Context, s *Settings, invoker string, rec *record) (revocation.Context, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	begun := time.Now()
	r.stats.reads.Add(1)
	answer, err := s.Core.Context(ctx, invoker)
	if err != nil && !isAbsence(err) {
		r.stats.failed.Add(1)
		if rec != nil && r.ctx.Err() == nil {
			r.countFailure(s, rec, err)
		}
		return revocation.Context{}, err
	}
	r.countAnswer(rec)
	if err != nil {
		return revocation.Context{}, err
	}
	r.witnessed.note(invoker, begun)
	return wordOf(invoker, answer), nil
}

func wordOf(invoker string, answer coreclient.Context) revocation.Context {
	word := revocation.Context{Invoker: invoker, Found: true}
	for _, e := range answer.Entries {
		word.Entries = append(word.Entries, revocation.ContextEntry{AEF: e.AEFID, API: e.APIID})
	}
	return word
}

// countFailure and countAnswer notice the end of a time in which the core was
// unreachable: what it announced meanwhile was lost, so it counts as a hint. An
// invoker whose reads fail while those of others are answered says nothing about
// the core, or two of them would keep every context due for ever.
func (r *Reconciler) countFailure(s *Settings, rec *record, err error) {
	rec.mu.Lock()
	if rec.failedAt != 0 && r.stats.lastAnswer.Load() > rec.failedAt {
		rec.alone++
	}
	rec.failedAt = time.Now().UnixNano()
	alone := rec.alone >= failsAlone
	rec.mu.Unlock()
	var e *coreclient.Error
	if alone || (errors.As(err, &e) && e.Class() != coreclient.Unknown) {
		return // or it answered, if only to refuse
	}
	if r.failures.Add(1) == unreachableStreak {
		s.Logger.Warn("core unreachable; contexts stay as they are", "error", err)
		if s.Unreachable != nil {
			s.Unreachable()
		}
	}
}

func (r *Reconciler) countAnswer(rec *record) {
	r.stats.lastAnswer.Store(time.Now().UnixNano())
	if rec != nil {
		rec.mu.Lock()
		rec.failedAt, rec.alone = 0, 0
		rec.mu.Unlock()
	}
	if r.failures.Swap(0) >= unreachableStreak {
		s := r.settings.Load()
		s.Logger.Info("core reachable again; contexts are read again")
		r.raiseAll()
		if s.Reachable != nil {
			s.Reachable()
		}
	}
}

// apply puts the core's word in force, unless it is part of a suspect change or
// older than what is in force, and hands it on to be saved.
func (r *Reconciler) apply(s *Settings, rec *record, f *flight, word revocation.Context) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.removed || f.begun < rec.begun {
		return
	}
	found := r.compare(s, rec, &word)
	kind := kindOf(found)
	free := rec.free != 0
	if f.begun >= rec.free {
		rec.free = 0 // one begun before the acceptance does not use it up
	}
	if !free && r.mass.withhold(s, r.alarms, rec.invoker, f.at, kind) {
		if kind != noChange {
			rec.pending, rec.asleep = kind, false
			rec.begun, rec.heldAt = f.begun, f.at
		}
		return
	}
	rec.pending = noChange
	told := word
	told.Change = found
	changed := !rec.known || rec.context.Found != word.Found || !slices.Equal(rec.context.Entries, word.Entries)
	word.Gone = goneAfter(&rec.context, &word)
	told.Gone = word.Gone
	rec.context, rec.known = word, true
	r.doubts.settle(&word, func() { r.alarms.Clear(s.Logger, alarm.LikelyWrongAPIID) })
	rec.begun, rec.asleep = f.begun, false
	rec.times.ReadAt.Store(f.at.UnixNano())
	if changed {
		r.store.Changed(rec.invoker)
	}
	// While a mass change is suspended, nothing that the core says counts for
	// claims: one that covers a pair hides that the core has lost it.
	judged := s.CoreLift && !r.mass.isSuspended()
	if changed || judged {
		rec.unsaved = append(rec.unsaved, unsaved{word: told, changed: changed, judged: judged})
	}
}

// compare says what a word would change for calls here, nil for nothing. What a
// claim denies anyway changes nothing.
func (r *Reconciler) compare(s *Settings, rec *record, word *revocation.Context) *revocation.ContextChange {
	if !rec.known {
		return nil
	}
	hosted := s.Hosted()
	only := func(from, to *revocation.Context) []revocation.ContextEntry {
		var list []revocation.ContextEntry
		for _, e := range from.Entries {
			if !covered(to, e) && r.matters(rec.invoker, e, hosted) {
				list = append(list, e)
			}
		}
		return list
	}
	c := &revocation.ContextChange{Listed: only(word, &rec.context), Unlisted: only(&rec.context, word)}
	if kindOf(c) == noChange {
		return nil
	}
	return c
}

// kindOf is what the mass-change stop counts of a change.
func kindOf(c *revocation.ContextChange) change {
	kind := noChange
	if c != nil && len(c.Unlisted) > 0 {
		kind |= newlyRefused
	}
	if c != nil && len(c.Listed) > 0 {
		kind |= newlyListed
	}
	return kind
}

// covered says whether a context lists all that an entry covers.
func covered(c *revocation.Context, e revocation.ContextEntry) bool {
	return slices.ContainsFunc(c.Entries, func(o revocation.ContextEntry) bool {
		return o == e || o.Covers(e.AEF, e.API)
	})
}

// matters says whether an entry decides calls here: it is about an aefId that is
// hosted here, and no claim denies what it lists.
func (r *Reconciler) matters(invoker string, e revocation.ContextEntry, hosted []string) bool {
	var apis []string
	if e.API != "" {
		apis = []string{e.API}
	}
	return slices.ContainsFunc(hosted, func(aef string) bool {
		return (e.AEF == "" || e.AEF == aef) &&
			r.store.Covering(invoker, aef, apis, revocation.Digest{}) == revocation.CoverNone
	})
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

// save makes the words that were applied durable, in the order of their reads,
// and where the core may lift its own claims, lets the ledger judge what they
// mean for them.
func (r *Reconciler) save(rec *record) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.saving {
		return // whoever does takes these as well
	}
	rec.saving = true
	for len(rec.unsaved) > 0 {
		next := rec.unsaved[0]
		rec.unsaved = rec.unsaved[1:]
		rec.mu.Unlock()
		r.saveOne(rec, next)
		rec.mu.Lock()
	}
	rec.unsaved, rec.saving = nil, false
}

func (r *Reconciler) saveOne(rec *record, u unsaved) {
	s := r.settings.Load()
	failed := func(err error) {
		s.Logger.Debug("context not saved; it is read again after a restart", "api_invoker_id", rec.invoker, "error", err)
	}
	if !u.changed {
		// No claim of the core, nothing to judge: a read costs no write.
		has, err := r.store.HasCoreClaim(rec.invoker)
		if err != nil {
			failed(err)
			return
		}
		if !has {
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	// Read under other settings, which a reload has replaced meanwhile: only what
	// is in force now may lift.
	lifted, err := r.store.ApplyContext(ctx, u.word, u.judged && s.CoreLift)
	if err != nil {
		failed(err)
		return
	}
	for _, c := range lifted {
		s.Logger.Info("claim lifted by the core", "api_invoker_id", c.Invoker, "aef_id", c.AEF, "api_id", c.API, "sequence", c.Sequence)
	}
	rec.mu.Lock()
	removed := rec.removed
	rec.mu.Unlock()
	if removed && r.records.get(rec.invoker) == nil {
		r.forget(s, []string{rec.invoker}) // forgotten while it was being saved
	}
}

// WarnIfMapped reports, once for an invoker, that its context lists the aefId of
// a route with other apiIds only: the route's api_id is probably wrong. The alarm
// ends when any context lists what was doubted, and with a change of settings.
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
	r.doubts.add(q, func() {
		r.alarms.Raise(s.Logger, alarm.LikelyWrongAPIID, fmt.Sprintf(
			"API invoker %s has a token for this API, and its context lists aefId %s with apiId %s, while the route has api_id %s: check api_id",
			q.Invoker, q.AEF, strings.Join(others[:min(len(others), 5)], ", "), strings.Join(q.APIs, ", ")))
	})
}
