package reconcile

import (
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// doubts are the routes whose api_id is probably wrong, by what they ask for. A
// context that lists one of a route's apiIds settles it: the core knows that apiId.
// There are at most as many as there are routes. The zero value is ready.
type doubts struct {
	mu     sync.Mutex
	routes map[string]Query
	raised bool // there were some since the last forget, settled or not
}

// add takes a doubt in and raises its alarm. Both are one step, as in settle and
// forget, so that the alarm is raised exactly while there is a doubt.
func (d *doubts) add(q Query, raise func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.routes == nil {
		d.routes = make(map[string]Query)
	}
	d.routes[q.AEF+"\x00"+strings.Join(q.APIs, "\x00")] = q
	d.raised = true
	raise()
}

// settle ends the doubts that this context settles, and with the last one the alarm.
func (d *doubts) settle(c *revocation.Context, end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.routes) == 0 {
		return
	}
	for key, q := range d.routes {
		if slices.ContainsFunc(c.Entries, func(e revocation.ContextEntry) bool {
			return e.API != "" && slices.ContainsFunc(q.APIs, func(api string) bool { return e.Covers(q.AEF, api) })
		}) {
			delete(d.routes, key)
		}
	}
	if len(d.routes) == 0 {
		end()
	}
}

// forget ends every doubt, and reports whether there were any since the last time,
// also such as were settled.
func (d *doubts) forget(end func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.raised {
		return false
	}
	if len(d.routes) > 0 {
		end()
	}
	d.routes, d.raised = nil, false
	return true
}

// doubtAnew ends the alarm and lets the next calls raise it again: a reload may
// have corrected the api_id.
func (r *Reconciler) doubtAnew(logger *slog.Logger) {
	if !r.doubts.forget(func() { r.alarms.Clear(logger, alarm.LikelyWrongAPIID) }) {
		return
	}
	for _, rec := range r.records.all() {
		rec.mu.Lock()
		rec.warned = false
		rec.mu.Unlock()
	}
}
