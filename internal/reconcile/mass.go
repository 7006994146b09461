package reconcile

import (
	"fmt"
	"sync"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
)

// A core that was restarted empty, restored from a backup, or read on another
// listener must not decide alone. All reads of one interval are counted together
// as of their own begin; when they would newly refuse, or newly list, more than
// max(5, 10 %) of the invokers read, the rest is withheld.

type change uint8

const (
	noChange     change = 0
	newlyRefused change = 1
	newlyListed  change = 2
)

const (
	massLeast   = 5
	massPercent = 10
)

type mass struct {
	mu        sync.Mutex
	reads     map[string]counted
	suspended bool
	since     time.Time
}

type counted struct {
	at   time.Time
	kind change
}

// withhold counts a read and says whether its change is withheld.
func (m *mass) withhold(s *Settings, alarms *alarm.Set, invoker string, begun time.Time, kind change) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.suspended {
		// What was read before the suspension counts no more than it would
		// have then, and ends nothing.
		return kind != noChange || begun.Before(m.since)
	}
	if m.reads == nil {
		m.reads = make(map[string]counted)
	}
	old, known := m.reads[invoker]
	if !known || kind != noChange || begun.Sub(old.at) > s.Interval {
		m.reads[invoker] = counted{at: begun, kind: kind}
	}
	if kind == noChange {
		return false
	}
	total, refused, listed := m.tally(begun.Add(-s.Interval))
	limit := max(massLeast, total*massPercent/100)
	if refused <= limit && listed <= limit {
		return false
	}
	m.suspended, m.since = true, time.Now()
	alarms.Raise(s.Logger, alarm.MassChangeSuspended, fmt.Sprintf(
		"of %d API invokers read within %s, the core would newly refuse %d and newly list %d; the rest is withheld. If the core is right, accept it (POST /capif/reconcile with {\"accept\":true}); if it lost its data, mend it",
		total, s.Interval, refused, listed))
	return true
}

// tally counts what is in the window and forgets what is not.
func (m *mass) tally(from time.Time) (int, int, int) {
	refused, listed := 0, 0
	for invoker, c := range m.reads {
		if c.at.Before(from) {
			delete(m.reads, invoker)
			continue
		}
		if c.kind&newlyRefused != 0 {
			refused++
		}
		if c.kind&newlyListed != 0 {
			listed++
		}
	}
	return len(m.reads), refused, listed
}

func (m *mass) isSuspended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.suspended
}

// suspendedBefore reports whether a suspension began before t.
func (m *mass) suspendedBefore(t time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.suspended && m.since.Before(t)
}

// end ends a suspension and begins to count anew.
func (m *mass) end() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.suspended
	m.suspended = false
	m.reads = nil
	return was
}

// Accept lets the core's word count as it is: an operator has looked. Every
// context is read again, and the first read of each may change anything. It
// reports whether a mass change was suspended.
func (r *Reconciler) Accept() bool {
	was := r.mass.end()
	if !was {
		return false
	}
	for _, rec := range r.records.all() {
		rec.mu.Lock()
		rec.free = true
		rec.pending = noChange
		rec.mu.Unlock()
	}
	r.alarms.Clear(r.settings.Load().Logger, alarm.MassChangeSuspended)
	r.raiseAll()
	return true
}

// endIfGone ends a suspension after a complete pass, begun after it, that no
// longer showed the change.
func (r *Reconciler) endIfGone(s *Settings, list []*record, begun time.Time) {
	if !r.mass.suspendedBefore(begun) {
		return
	}
	total, refused, listed := 0, 0, 0
	for _, rec := range list {
		rec.mu.Lock()
		total++
		if rec.pending&newlyRefused != 0 {
			refused++
		}
		if rec.pending&newlyListed != 0 {
			listed++
		}
		rec.mu.Unlock()
	}
	limit := max(massLeast, total*massPercent/100)
	if refused > limit || listed > limit {
		return
	}
	r.mass.end()
	r.alarms.Clear(s.Logger, alarm.MassChangeSuspended)
	r.raiseAll() // what was withheld and is few enough counts now
}
