package caddyplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// eventFile is a handler of events that appends each to a file, one a line, and
// then hangs while a file of the same name with .hang stands beside it.
type eventFile struct {
	Path string `json:"path"`
}

func (*eventFile) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.event_file", New: func() caddy.Module { return new(eventFile) }}
}

func (h *eventFile) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&h.Path) {
		return d.ArgErr()
	}
	return nil
}

func (h *eventFile) Handle(ctx context.Context, e caddy.Event) error {
	line, err := json.Marshal(emitted{Name: e.Name(), Origin: string(e.Origin().CaddyModule().ID), Data: e.Data})
	if err != nil {
		return err
	}
	file, err := os.OpenFile(h.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, statErr := os.Stat(h.Path + ".hang") // before the line: who has read it may make the file for the next one
	_, err = file.Write(append(line, '\n'))
	err = errors.Join(err, file.Close())
	if statErr == nil {
		<-ctx.Done()
	}
	return err
}

// eventExec stands for a handler of events that docs/events.md names, and does
// nothing.
type eventExec struct {
	Command string   `json:"command"`
	Args    []string `json:"args"`
}

func (*eventExec) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(eventExec) }}
}

func (h *eventExec) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&h.Command) {
		return d.ArgErr()
	}
	h.Args = d.RemainingArgs()
	return nil
}

func (*eventExec) Handle(context.Context, caddy.Event) error { return nil }

type emitted struct {
	Name   string         `json:"name"`
	Origin string         `json:"origin"`
	Data   map[string]any `json:"data"`
}

var eventNames = []string{
	"capif_revoked", "capif_lifted", "capif_revocation_decided", "capif_core_unreachable", "capif_core_reachable", "capif_alarm_raised", "capif_alarm_cleared",
}

// eventBed is an AEF whose events go to a file.
type eventBed struct {
	*adminBed
	file string
}

func newEventBed(t *testing.T, global string) *eventBed {
	t.Helper()
	b := &eventBed{}
	b.adminBed = newAdminBed(t, func(a *adminBed) {
		b.file = filepath.Join(a.aef.Dir, "events.jsonl")
		lines := []string{"events {"}
		for _, name := range eventNames {
			lines = append(lines, fmt.Sprintf("on %s event_file %s", name, b.file))
		}
		a.aef.OptionsExtra = strings.Join(append(lines, "}"), "\n")
		a.aef.GlobalExtra = global
	})
	return b
}

func (b *eventBed) events() []emitted {
	b.t.Helper()
	data, err := os.ReadFile(b.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	var list []emitted
	for line := range bytes.Lines(data) {
		var e emitted
		if json.Unmarshal(line, &e) == nil { // the last one may be half written
			list = append(list, e)
		}
	}
	return list
}

// one waits for the event of this name that has the values, which there must be
// once.
func (b *eventBed) one(name string, values map[string]any) emitted {
	b.t.Helper()
	var found []emitted
	b.poll(func() bool {
		found = slices.DeleteFunc(b.events(), func(e emitted) bool {
			for key, value := range values {
				if fmt.Sprint(e.Data[key]) != fmt.Sprint(value) {
					return true
				}
			}
			return e.Name != name
		})
		return len(found) > 0
	})
	if len(found) != 1 || found[0].Origin != "capif" {
		b.t.Fatalf("got %+v; want one %s of capif", found, name)
	}
	return found[0]
}

// TestEventsPage: the Caddyfile of docs/events.md adapts to its JSON, and the page
// has every event.
func TestEventsPage(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "events.md"))
	must(t, err)
	page := strings.ReplaceAll(string(data), "\r\n", "\n")
	block := func(language string) string {
		_, text, _ := strings.Cut(page, "```"+language+"\n")
		text, _, _ = strings.Cut(text, "```")
		return text
	}
	adapted, err := adapt(block("caddyfile"))
	must(t, err)
	type config struct {
		Apps struct {
			Events json.RawMessage `json:"events"`
		} `json:"apps"`
	}
	var got, want config
	must(t, json.Unmarshal(adapted, &got))
	must(t, json.Unmarshal([]byte(block("json")), &want))
	var gotApp, wantApp any
	must(t, json.Unmarshal(got.Apps.Events, &gotApp))
	must(t, json.Unmarshal(want.Apps.Events, &wantApp))
	if !reflect.DeepEqual(gotApp, wantApp) {
		t.Errorf("got %v\nwant %v as in the JSON", gotApp, wantApp)
	}
	for _, name := range eventNames {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/events.md: got no %s; want it explained", name)
		}
	}
}

// TestEvents: each change is an event of Caddy's events app, with what it is about.
func TestEvents(t *testing.T) {
	b := newEventBed(t, "reconcile 1s")
	b.one("capif_alarm_raised", map[string]any{"alarm": "ledger_created"})
	token := b.granted("inv-e")
	request := revokeRequest("inv-e")
	request.Reason, request.Ticket = "twice the rate", "OPS-1"
	b.trigger(b.caddy, request, http.StatusOK)
	revoked := b.one("capif_revoked", map[string]any{"api_invoker_id": "inv-e", "action": "revoke", "claims": 1, "reason": "twice the rate", "ticket": "OPS-1", "cause": request.Cause})
	decided := b.one("capif_revocation_decided", map[string]any{"api_invoker_id": "inv-e", "state": string(revocation.StateRevoked)})
	if ids := fmt.Sprint(revoked.Data["revocation_ids"]); ids == "<nil>" || ids != fmt.Sprint(decided.Data["revocation_ids"]) {
		t.Errorf("got revocations %v, decided %v; want the same", revoked.Data, decided.Data)
	}
	asked := &callbackBed{adminBed: b.adminBed, core: b.scene.Core.Client(b.scene.Core.Identity())}
	answer := asked.ask(asked.core, callbackRequest{body: revokeBody(map[string]any{"apiInvokerId": "inv-e", "apiIds": []string{testbed.OtherAPIID}})})
	if answer.status != http.StatusOK {
		t.Fatalf("the core's command: got %d %s; want 200", answer.status, answer.body)
	}
	b.one("capif_revoked", map[string]any{"api_invoker_id": "inv-e", "by": "core", "action": "core_deny"})
	b.lift(adminapi.LiftRequest{APIInvokerID: "nobody", AllAPIs: true}) // lifts nothing
	b.lift(adminapi.LiftRequest{APIInvokerID: "inv-e", AllAPIs: true})
	b.one("capif_lifted", map[string]any{"api_invoker_id": "inv-e", "claims": 2})

	refuses := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Status: http.StatusForbidden})
	b.granted("inv-f")
	b.trigger(b.caddy, withoutWaiting("inv-f"), http.StatusAccepted)
	b.one("capif_alarm_raised", map[string]any{"alarm": "core_refuses_us"})
	refuses.Clear()
	b.one("capif_alarm_cleared", map[string]any{"alarm": "core_refuses_us"})
	b.want(b.aef, "/location/1", b.granted("inv-g"), http.StatusOK) // its context is read each second
	must(t, b.scene.Core.Down())
	b.one("capif_core_unreachable", nil)
	must(t, b.scene.Core.Up())
	b.one("capif_core_reachable", nil)
	for _, e := range b.events() {
		if e.Data["api_invoker_id"] == "nobody" {
			t.Errorf("got %+v; want no event of a lift that lifted nothing", e)
		}
	}
	data, err := os.ReadFile(b.file)
	must(t, err)
	if part, _, _ := strings.Cut(token, "."); bytes.Contains(data, []byte(part)) {
		t.Error("got a token in an event; want none")
	}
}

// TestEventsBeginWithTheirHandler: what happened while nobody was told is no news
// for a handler that comes later, and what happens from then on is.
func TestEventsBeginWithTheirHandler(t *testing.T) {
	b := newEventBed(t, "")
	heard, err := b.aef.Caddyfile()
	must(t, err)
	handlers := b.aef.OptionsExtra
	b.aef.OptionsExtra = ""
	unheard, err := b.aef.Caddyfile()
	must(t, err)
	b.aef.OptionsExtra = handlers
	b.one("capif_alarm_raised", map[string]any{"alarm": "ledger_created"})
	must(t, b.caddy.Reload(b.ctx, unheard))
	b.granted("inv-1")
	b.trigger(b.caddy, revokeRequest("inv-1"), http.StatusOK)
	must(t, b.caddy.Reload(b.ctx, heard))
	b.poll(func() bool { // the handler is bound a moment after the reload
		b.trigger(b.caddy, revokeRequest("inv-2"), http.StatusOK)
		return slices.ContainsFunc(b.events(), func(e emitted) bool { return e.Data["api_invoker_id"] == "inv-2" })
	})
	for _, e := range b.events() {
		if e.Data["api_invoker_id"] == "inv-1" {
			t.Errorf("got %+v; want no event of what happened before there was a handler", e)
		}
	}
}

// TestEventsOverReloads: while configurations come and go, each change is one event,
// in order.
func TestEventsOverReloads(t *testing.T) {
	b := newEventBed(t, "")
	config, err := b.aef.Caddyfile()
	must(t, err)
	const changes = 200
	done := make(chan error, 1)
	go func() {
		for i := range changes {
			// The admin endpoint moves at a reload: until the trigger is taken.
			for taken := false; !taken; {
				status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(fmt.Sprintf("inv-%d", i)), nil)
				taken = err == nil && status < http.StatusBadRequest
				if b.ctx.Err() != nil {
					done <- b.ctx.Err()
					return
				}
			}
		}
		done <- nil
	}()
	reloads := 0
	for working := true; working; {
		if b.caddy.Reload(b.ctx, config) == nil { // else the endpoint of the last one was just going
			reloads++
		}
		select {
		case err := <-done:
			must(t, err)
			working = false
		default:
		}
	}
	if reloads < 5 {
		t.Errorf("got %d reloads; want at least 5", reloads)
	}
	var want []string
	before := ""
	b.poll(func() bool { return b.status(b.caddy).Ledger.Pending == 0 })
	for {
		var page adminapi.AuditList
		b.get(adminapi.PathAudit+"?limit=1000"+before, &page)
		for _, a := range page.Audit {
			want = append(want, fmt.Sprint(a.Sequence))
		}
		if page.Next == 0 {
			break
		}
		before = fmt.Sprintf("&before=%d", page.Next)
	}
	slices.Reverse(want)
	var got []string
	b.poll(func() bool {
		got = nil
		for _, e := range b.events() {
			if e.Data["sequence"] != nil {
				got = append(got, fmt.Sprint(uint64(e.Data["sequence"].(float64))))
			}
		}
		return len(got) >= len(want)
	})
	if len(want) < changes || !slices.Equal(got, want) {
		t.Errorf("got %d events %v\nwant %d, one for each change, in order: %v", len(got), got, len(want), want)
	}
	t.Logf("%d changes, %d reloads", len(want), reloads)
}

// TestEventsHoldNobodyUp: a handler that hangs keeps neither triggers nor calls
// waiting, and a reload for a while only.
func TestEventsHoldNobodyUp(t *testing.T) {
	b := newEventBed(t, "")
	token := b.granted("inv-h")
	b.one("capif_alarm_raised", map[string]any{"alarm": "ledger_created"})
	writeFile(t, b.file+".hang", nil)
	for i := range 20 {
		b.trigger(b.caddy, revokeRequest(fmt.Sprintf("inv-%d", i)), http.StatusOK)
	}
	b.want(b.aef, "/location/1", token, http.StatusOK)
	b.poll(func() bool { return len(b.events()) == 2 })
	config, err := b.aef.Caddyfile()
	must(t, err)
	must(t, os.Remove(b.file+".hang"))
	must(t, b.caddy.Reload(b.ctx, config))
	b.one("capif_revoked", map[string]any{"api_invoker_id": "inv-0"})
	b.one("capif_revoked", map[string]any{"api_invoker_id": "inv-19"})
}

var (
	_ caddyevents.Handler   = (*eventFile)(nil)
	_ caddyfile.Unmarshaler = (*eventFile)(nil)
	_ caddyevents.Handler   = (*eventExec)(nil)
	_ caddyfile.Unmarshaler = (*eventExec)(nil)
)
