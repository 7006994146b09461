package reconcile

import (
	"errors"
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

// maxWitnesses bounds how many are asked before the 404 is disbelieved.
const maxWitnesses = 3

// confirmAbsence says whether a 404 about invoker, whose read began at begun, is
// to be believed.
func (r *Reconciler) confirmAbsence(s *Settings, invoker string, begun time.Time) bool {
	if r.witnessed.since(invoker, begun) {
		return true
	}
	asked := 0
	for _, rec := range r.records.all() {
		if asked == maxWitnesses {
			return false
		}
		rec.mu.Lock()
		candidate := rec.invoker != invoker && rec.known && rec.context.Found
		rec.mu.Unlock()
		if !candidate {
			continue
		}
		asked++
		_, err := r.get(s, rec.invoker)
		if err == nil {
			return true
		}
	}
	if asked > 0 {
		return false
	}
	_, err := r.get(s, invoker)
	var e *coreclient.Error
	return errors.As(err, &e) && e.Class() == coreclient.NotFound && e.InCoreShape
}
