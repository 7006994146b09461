package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
)

// A 404 says that the core knows no context of an invoker, or that something in
// between answers 404 to everything, or that the core was restarted empty. It is
// believed only with a witness: another invoker's context, known to exist, that
// is read with 200 after the 404's read began. Where there is no witness, the
// same invoker must be answered 404 twice.

// witness is the newest context that was read with 200.
type witness struct {
	mu      sync.Mutex
	invoker string
	begun   time.Time
	other   string // the newest one of another invoker
	otherAt time.Time
}

func (w *witness) note(invoker string, begun time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if invoker != w.invoker {
		w.other, w.otherAt = w.invoker, w.begun
	}
	w.invoker, w.begun = invoker, begun
}

// since reports whether a context other than invoker's was read with 200 by a
// read that began after begun.
func (w *witness) since(invoker string, begun time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return (w.invoker != "" && w.invoker != invoker && w.begun.After(begun)) ||
		(w.other != "" && w.other != invoker && w.otherAt.After(begun))
}

func (w *witness) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []string{w.invoker, w.other}
}

// maxWitnesses bounds how many are asked before the 404 is disbelieved.
const maxWitnesses = massLeast - 1

// search is the one search for a witness that is under way: a core that answers
// 404 to everything is not asked for witnesses by each read anew.
type search struct {
	turn chan struct{}
	// inVain is when the last one began that found none; it needs the turn.
	inVain time.Time
}

// confirmAbsence says whether a 404 about rec, whose read began at begun, is to
// be believed. pace is waited for before each further read.
func (r *Reconciler) confirmAbsence(s *Settings, rec *record, begun time.Time, pace pacer) bool {
	if r.witnessed.since(rec.invoker, begun) {
		return true
	}
	ctx, cancel := context.WithTimeout(r.ctx, readTimeout)
	defer cancel()
	select {
	case r.search.turn <- struct{}{}:
		defer func() { <-r.search.turn }()
	case <-ctx.Done():
		return false
	}
	if r.witnessed.since(rec.invoker, begun) {
		return true
	}
	if r.search.inVain.After(begun) {
		return false
	}
	at := time.Now()
	candidates := r.witnesses(rec)
	if len(candidates) == 0 {
		err := pace(ctx)
		if err == nil {
			_, err = r.get(ctx, s, rec.invoker, rec)
		}
		return isAbsence(err)
	}
	for _, candidate := range candidates {
		if pace(ctx) != nil {
			return false
		}
		_, err := r.get(ctx, s, candidate.invoker, candidate)
		if err == nil {
			return true
		}
	}
	r.search.inVain = at
	return false
}

// witnesses returns whom to ask, those read with 200 last and then those seen
// last.
func (r *Reconciler) witnesses(but *record) []*record {
	var list []*record
	add := func(rec *record) {
		if rec == nil || rec == but || slices.Contains(list, rec) {
			return
		}
		rec.mu.Lock()
		defer rec.mu.Unlock()
		if rec.known && rec.context.Found {
			list = append(list, rec)
		}
	}
	for _, name := range r.witnessed.names() {
		add(r.records.get(name))
	}
	for _, rec := range r.records.all() {
		if len(list) >= maxWitnesses {
			break
		}
		add(rec)
	}
	return list
}

// isAbsence says whether an error is a 404 in the core's own shape.
func isAbsence(err error) bool {
	var e *coreclient.Error
	return errors.As(err, &e) && e.Class() == coreclient.NotFound && e.InCoreShape
}
