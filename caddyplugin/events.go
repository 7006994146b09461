package caddyplugin

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// The events that Caddy's events app is told, with the origin `capif`; their data
// is described in docs/events.md.
const (
	eventRevoked         = "capif_revoked"
	eventLifted          = "capif_lifted"
	eventDecided         = "capif_revocation_decided"
	eventCoreUnreachable = "capif_core_unreachable"
	eventCoreReachable   = "capif_core_reachable"
	eventAlarmRaised     = "capif_alarm_raised"
	eventAlarmCleared    = "capif_alarm_cleared"
)

var allEvents = []string{
	eventRevoked, eventLifted, eventDecided, eventCoreUnreachable, eventCoreReachable, eventAlarmRaised, eventAlarmCleared,
}

// feed is how far events have been emitted. It outlives a reload: the notifier of
// the new configuration goes on where that of the old one has ended, and no two
// emit at a time.
type feed struct {
	// turn holds a value while a notifier emits, which alone may use these.
	turn      chan struct{}
	sequence  uint64 // of the last change
	serial    int64  // of the last change of an alarm
	reachable bool   // the core, as was said last
	unheard   bool   // the last notifier had nobody to tell, and followed nothing

	mu   sync.Mutex
	told chan struct{} // closed and replaced when the core goes or comes back
}

// begin starts the feed of a ledger just opened: what it held before is no news.
func (f *feed) begin(l *revocation.Ledger) error {
	f.turn, f.told, f.reachable = make(chan struct{}, 1), make(chan struct{}), true
	var err error
	f.sequence, err = l.LastAudit()
	return err
}

// skip leaves out what happened while nobody was told. What cannot be read now is
// told, rather than lost.
func (f *feed) skip(s *state) {
	last, err := s.ledger.LastAudit()
	if err == nil {
		f.sequence = last
	}
	_, f.serial, _ = s.alarms.Changes(f.serial)
	f.reachable = s.context.Reachable()
	f.unheard = false
}

// poke says that the core has become reachable or unreachable.
func (f *feed) poke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.told)
	f.told = make(chan struct{})
}

func (f *feed) poked() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told
}

// emitter is Caddy's events app.
type emitter interface {
	ShouldEmit(event string) bool
	Emit(ctx caddy.Context, event string, data map[string]any) caddy.Event
}

// notifier emits the events of one configuration, in one goroutine, so that no
// request and no write of the ledger waits for who handles them.
type notifier struct {
	ctx     caddy.Context // whose module is the app: the origin of the events
	events  emitter
	started chan struct{} // closed when all apps have started
	done    chan struct{} // closed at the end of run, at once where nobody listens; nil before start
	once    sync.Once
}

// notifierStopTimeout bounds how long a reload waits for a handler of an event.
const notifierStopTimeout = 5 * time.Second

// newNotifier asks to be told when all apps have started: handlers are bound while
// the events app starts, and apps start in any order.
func newNotifier(ctx caddy.Context) (*notifier, error) {
	value, err := ctx.App("events")
	if err != nil {
		return nil, fmt.Errorf("loading the events app: %w", err)
	}
	app := value.(*caddyevents.App)
	n := &notifier{ctx: ctx, events: app, started: make(chan struct{})}
	return n, app.On("started", n)
}

// Handle implements caddyevents.Handler.
func (n *notifier) Handle(context.Context, caddy.Event) error {
	n.once.Do(func() { close(n.started) })
	return nil
}

func (n *notifier) start(ctx context.Context, s *state) {
	n.done = make(chan struct{})
	go n.run(ctx, s)
}

// stop waits for the end of run, whose context has been cancelled: an event that is
// just being handled is handled to its end.
func (n *notifier) stop() {
	if n == nil || n.done == nil {
		return
	}
	select {
	case <-n.done:
	case <-time.After(notifierStopTimeout): // it ends with the handler, whose context is cancelled next
	}
}

func (n *notifier) run(ctx context.Context, s *state) {
	defer close(n.done)
	select {
	case <-n.started:
	case <-ctx.Done():
		return
	}
	f := &s.feed
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-f.turn }()
	if !slices.ContainsFunc(allEvents, n.events.ShouldEmit) {
		// No change costs a read of the audit. The turn is given back, since this
		// configuration may live on for long while calls drain after a reload.
		f.unheard = true
		return
	}
	if f.unheard {
		f.skip(s)
	}
	for ctx.Err() == nil {
		changed, poked := s.ledger.AuditChanged(), f.poked()
		alarms, _, told := s.alarms.Changes(f.serial)
		n.emitAlarms(ctx, f, alarms)
		n.emitChanges(ctx, f, s.ledger)
		n.emitCore(ctx, f, s.context.Reachable())
		select {
		case <-changed:
		case <-told:
		case <-poked:
		case <-ctx.Done():
		}
	}
}

func (n *notifier) emitAlarms(ctx context.Context, f *feed, changes []alarm.Change) {
	for _, c := range changes {
		if ctx.Err() != nil {
			return
		}
		name := eventAlarmCleared
		if c.Raised {
			name = eventAlarmRaised
		}
		n.emit(name, map[string]any{
			"alarm": string(c.Name), "detail": c.Detail, "count": c.Count, "since": stamp(c.Since), "at": stamp(c.Last),
		})
		f.serial = c.Serial
	}
}

// emitChanges goes through the audit, a page at a time. What cannot be read now is
// read after the next change.
func (n *notifier) emitChanges(ctx context.Context, f *feed, l *revocation.Ledger) {
	for {
		records, _, err := l.AuditsAfter(f.sequence)
		if err != nil {
			return
		}
		for i := range records {
			if ctx.Err() != nil {
				return
			}
			if name := eventOf(&records[i]); name != "" && n.events.ShouldEmit(name) {
				n.emit(name, dataOf(&records[i]))
			}
			f.sequence = records[i].Sequence
		}
		if len(records) < revocation.MaxPage {
			return
		}
	}
}

// emitCore says how the core is, if something else was said last.
func (n *notifier) emitCore(ctx context.Context, f *feed, reachable bool) {
	if ctx.Err() != nil || reachable == f.reachable {
		return
	}
	name := eventCoreUnreachable
	if reachable {
		name = eventCoreReachable
	}
	n.emit(name, map[string]any{"at": stamp(time.Now())})
	f.reachable = reachable
}

func (n *notifier) emit(name string, data map[string]any) {
	n.events.Emit(n.ctx, name, data)
}

// eventOf names the event of a change, "" if it is none.
func eventOf(a *revocation.Audit) string {
	switch a.Action {
	case revocation.ActionRevoke, revocation.ActionCoreDeny:
		return eventRevoked
	case revocation.ActionCoreAnswer:
		return eventDecided
	case revocation.ActionLift, revocation.ActionCoreLift:
		if a.Claims > 0 || len(a.Revocations) > 0 { // else there was nothing to lift
			return eventLifted
		}
	}
	return ""
}

// dataOf is what an event says of a change. What does not apply is left out, and a
// token is never in it, nor its digest.
func dataOf(a *revocation.Audit) map[string]any {
	data := map[string]any{"sequence": a.Sequence, "at": stamp(a.At), "action": string(a.Action), "claims": a.Claims}
	for key, text := range map[string]string{
		"by": a.By, "api_invoker_id": a.Invoker, "aef_id": a.AEF, "cause": a.Cause, "reason": a.Reason, "ticket": a.Ticket,
		"request_id": a.RequestID, "state": string(a.State),
	} {
		if text != "" {
			data[key] = text
		}
	}
	if len(a.APIs) > 0 {
		data["api_ids"] = a.APIs
	}
	if a.AllAPIs {
		data["all_apis"] = true
	}
	if !a.Token.IsZero() {
		data["one_token"] = true
	}
	if len(a.Revocations) > 0 {
		data["revocation_ids"] = a.Revocations
	}
	if a.Answer != nil && a.Answer.Status != 0 {
		data["core_status"] = a.Answer.Status
	}
	return data
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

var (
	_ caddyevents.Handler = (*notifier)(nil)
	_ emitter             = (*caddyevents.App)(nil)
)
