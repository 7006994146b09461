package caddyplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

func listAudit(app *App, r *http.Request) (int, any, error) {
	query := r.URL.Query()
	limit, err := limitOf(query.Get("limit"))
	if err != nil {
		return 0, nil, err
	}
	before, err := beforeOf(query.Get("before"))
	if err != nil {
		return 0, nil, err
	}
	err = oneOf("action", query.Get("action"), revocation.Actions())
	if err != nil {
		return 0, nil, err
	}
	list, next, err := app.state.ledger.Audits(revocation.AuditQuery{
		Invoker: query.Get("api_invoker_id"), Action: revocation.Action(query.Get("action")), Before: before, Limit: limit,
	})
	return http.StatusOK, adminapi.AuditList{Audit: list, Next: next}, err
}

// keepAlive is how often a silent watch says that it lives, and writeDeadline how
// long one write may take: a watcher that reads no more is given up.
const (
	keepAlive     = 15 * time.Second
	writeDeadline = 10 * time.Second
)

// watch streams what changes as server-sent events. It ends with the configuration
// that answers it; a watcher comes back with Last-Event-ID and misses nothing that
// the audit still holds; if it holds too little, the watcher is told.
func watch(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here; use GET", r.Method)
	}
	app, err := runningApp()
	if err != nil {
		w.Header().Set(adminapi.HeaderError, adminapi.CodeNotConfigured)
		return err
	}
	running := app.running.Load()
	if running == nil {
		return failed(w, apiError(http.StatusServiceUnavailable, "the configuration is still starting; come back"))
	}
	s, err := newStream(app, w, r)
	if err != nil {
		return failed(w, asAPIError(app, err))
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(*running, cancel)()
	s.run(ctx)
	return nil
}

// stream is one watch.
type stream struct {
	app      *App
	out      http.ResponseWriter
	control  *http.ResponseController
	sequence uint64 // of the last change sent
	serial   int64  // of the last change of an alarm sent
}

// newStream finds where the watch goes on: after Last-Event-ID, or from now.
func newStream(app *App, w http.ResponseWriter, r *http.Request) (*stream, error) {
	s := &stream{app: app, out: w, control: http.NewResponseController(w)}
	ledger := app.state.ledger
	var err error
	s.sequence, err = ledger.LastAudit()
	if err != nil {
		return nil, err
	}
	_, s.serial, _ = app.state.alarms.Changes(0)
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		return s, nil
	}
	newest := s.sequence
	n, err := fmt.Sscanf(id, "%d-%d", &s.sequence, &s.serial)
	if err != nil || n != 2 || s.id() != id {
		return nil, apiError(http.StatusBadRequest, "Last-Event-ID %q is none of this watch: give the id of an event, or none", strings.ToValidUTF8(id[:min(len(id), 100)], ""))
	}
	if s.sequence > max(newest, ledger.Sequence()) {
		s.sequence = 0 // another ledger: all of it is new
	}
	return s, nil
}

// id names the place that the watch has come to.
func (s *stream) id() string { return fmt.Sprintf("%d-%d", s.sequence, s.serial) }

func (s *stream) run(ctx context.Context) {
	// The server's deadline for reading the request would end the watch.
	_ = s.control.SetReadDeadline(time.Time{}) // where that cannot be, the watcher comes back
	s.out.Header().Set("Content-Type", "text/event-stream")
	s.out.Header().Set("Cache-Control", "no-store")
	s.out.WriteHeader(http.StatusOK)
	err := s.send(adminapi.EventStart, adminapi.WatchStart{Sequence: s.sequence, Alarms: orEmpty(s.app.state.alarms.List())})
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for err == nil {
		changed := s.app.state.ledger.AuditChanged()
		changes, _, told := s.app.state.alarms.Changes(s.serial)
		err = s.sendChanges(ctx, changes)
		if err != nil {
			return
		}
		select {
		case <-changed:
		case <-told:
		case <-alive.C:
			err = s.write(": alive\n\n")
		case <-ctx.Done():
			return
		}
	}
}

// sendChanges sends all that is new, until ctx ends: a watcher that is far behind
// comes back for the rest.
func (s *stream) sendChanges(ctx context.Context, alarms []alarm.Change) error {
	for _, c := range alarms {
		s.serial = c.Serial
		err := s.send(adminapi.EventAlarm, c)
		if err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		records, pruned, err := s.app.state.ledger.AuditsAfter(s.sequence)
		if err != nil {
			return err
		}
		if pruned > s.sequence {
			gap := adminapi.WatchGap{After: s.sequence, To: pruned}
			if len(records) > 0 {
				gap.First = records[0].Sequence
			}
			s.sequence = pruned
			err := s.send(adminapi.EventGap, gap)
			if err != nil {
				return err
			}
		}
		for _, a := range records {
			s.sequence = a.Sequence
			err := s.send(adminapi.EventChange, a)
			if err != nil {
				return err
			}
		}
		if len(records) < revocation.MaxPage {
			return nil
		}
	}
	return ctx.Err()
}

func (s *stream) send(event string, data any) error {
	body, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.write("event: " + event + "\nid: " + s.id() + "\ndata: " + string(body) + "\n\n")
}

func (s *stream) write(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeDeadline)) // a bound where there can be one
	_, err := s.out.Write([]byte(text))
	if err != nil {
		return err
	}
	err = s.control.Flush()
	_ = s.control.SetWriteDeadline(time.Time{}) // the connection may serve others after this
	return err
}
