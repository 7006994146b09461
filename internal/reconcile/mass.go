package reconcile

import (
	"container/list"
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
	mu sync.Mutex
	// Who was read in the window, and what those reads would change.
	read, refused, listed window
	newest                time.Time
	suspended             bool
	since                 time.Time
	ended                 time.Time // of the last suspension
}

// window holds invokers by when they were noted last.
type window struct {
	order list.List // of noted, the oldest first
	by    map[string]*list.Element
}

type noted struct {
	invoker string
	at      time.Time
}

func (w *window) note(invoker string, at time.Time) {
	w.drop(invoker)
	if w.by == nil {
		w.by = make(map[string]*list.Element)
	}
	w.by[invoker] = w.order.PushBack(noted{invoker, at})
}

func (w *window) drop(invoker string) {
	e, ok := w.by[invoker]
	if ok {
		w.order.Remove(e)
		delete(w.by, invoker)
	}
}

// expire forgets what is older than from.
func (w *window) expire(from time.Time) {
	for e := w.order.Front(); e != nil; e = w.order.Front() {
		n := e.Value.(noted)
		if !n.at.Before(from) {
			return
		}
		w.drop(n.invoker)
	}
}

func (w *window) clear() {
	w.order.Init()
	clear(w.by)
}

// withhold counts a read and says whether its change is withheld.
func (m *mass) withhold(s *Settings, alarms *alarm.Set, invoker string, begun time.Time, kind change) bool {
	return m.count(s, alarms, invoker, begun, kind, false)
}

// disbelieve counts a 404 that nothing supports. It changes nothing; where the
// core says it of everyone, an operator is told, however few they are.
func (m *mass) disbelieve(s *Settings, alarms *alarm.Set, invoker string, begun time.Time, kind change) {
	m.count(s, alarms, invoker, begun, kind, true)
}

func (m *mass) count(s *Settings, alarms *alarm.Set, invoker string, begun time.Time, kind change, disbelieved bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if begun.Before(m.ended) {
		return kind != noChange // begun during the last suspension: it is read again
	}
	if m.suspended {
		// What was read before the suspension counts no more than it would
		// have then, and ends nothing.
		return kind != noChange || begun.Before(m.since)
	}
	if begun.After(m.newest) {
		m.newest = begun
	}
	m.read.note(invoker, begun)
	if kind != noChange {
		// One that was refused and is listed again is back where it was.
		m.refused.drop(invoker)
		m.listed.drop(invoker)
	}
	if kind&newlyRefused != 0 {
		m.refused.note(invoker, begun)
	}
	if kind&newlyListed != 0 {
		m.listed.note(invoker, begun)
	}
	for _, w := range []*window{&m.read, &m.refused, &m.listed} {
		w.expire(m.newest.Add(-s.Interval))
	}
	total, refused, listed := len(m.read.by), len(m.refused.by), len(m.listed.by)
	limit := max(massLeast, total*massPercent/100)
	ofAll := disbelieved && refused > 1 && refused == total
	if kind == noChange || (refused <= limit && listed <= limit && !ofAll) {
		return false
	}
	m.suspended, m.since = true, time.Now()
	alarms.Raise(s.Logger, alarm.MassChangeSuspended, fmt.Sprintf(
		"of %d API invokers read within %s, the core would newly refuse %d and newly list %d; the rest is withheld. If the core is right, accept it (POST /capif/reconcile with {\"accept\":true}); if it lost its data, mend it",
		total, s.Interval, refused, listed))
	return true
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
	m.read.clear()
	m.refused.clear()
	m.listed.clear()
	if was {
		m.ended = time.Now()
	}
	return was
}

// Accept lets the core's word count as it is: an operator has looked. Every
// context is read again, and the first read of each may change anything. It
// reports whether a mass change was suspended.
func (r *Reconciler) Accept() bool {
	if !r.mass.isSuspended() {
		return false
	}
	// First the marks, then the end: a read that begins after the end and finds
	// no mark would count towards the next suspension. The mark lasts until a
	// read that began after it.
	from := r.clock.Load() + 1
	for _, rec := range r.records.all() {
		rec.mu.Lock()
		rec.free = from
		rec.pending = noChange
		rec.mu.Unlock()
	}
	r.mass.end()
	r.alarms.Clear(r.settings.Load().Logger, alarm.MassChangeSuspended)
	r.raiseAll()
	return true
}

// endIfGone ends a suspension after a complete pass, begun after it, that no
// longer showed the change.
func (r *Reconciler) endIfGone(s *Settings, pass []*record, begun time.Time) {
	if !r.mass.suspendedBefore(begun) {
		return
	}
	total, refused, listed := 0, 0, 0
	for _, rec := range pass {
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
