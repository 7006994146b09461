package caddyplugin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/revocation"
)

// lostLedger takes no trigger.
type lostLedger struct{}

func (lostLedger) Covering(string, string, []string, revocation.Digest) revocation.Cover {
	return revocation.CoverNone
}

func (lostLedger) Trigger(context.Context, revocation.Trigger) ([]revocation.Revocation, error) {
	return nil, errors.New("made up by a test")
}

// TestTriggerAtRunTime covers what a load does not let happen, or what real disks
// seldom do: calls that are not bound in a container that nothing sees into, a
// reason from the request, a ledger that fails while a call waits.
func TestTriggerAtRunTime(t *testing.T) {
	bound := &letIn{target: &target{aefID: "aef-a", apiIDs: []string{"8f36c0"}, name: "location", bound: true}, invoker: "inv-1"}
	unbound := &letIn{target: &target{aefID: "aef-a", apiIDs: []string{"8f36c0"}, name: "location"}, invoker: "inv-1"}
	for _, tt := range []struct {
		name    string
		trigger Trigger
		letIn   any
		status  int
		want    autotrigger.Outcome
	}{
		{"not bound", Trigger{}, unbound, http.StatusOK, autotrigger.Unbound},
		{"not bound, and answered", Trigger{Respond: http.StatusTooManyRequests}, unbound, http.StatusTooManyRequests, autotrigger.Unbound},
		{"not bound, with the word", Trigger{UnboundTriggers: true}, unbound, http.StatusOK, autotrigger.Accepted},
		{"bound", Trigger{}, bound, http.StatusOK, autotrigger.Accepted},
		{"nobody", Trigger{UnboundTriggers: true}, nil, http.StatusOK, autotrigger.NoInvoker},
		{"a variable that a configuration set", Trigger{UnboundTriggers: true}, "inv-1", http.StatusOK, autotrigger.NoInvoker},
		{"the ledger fails", Trigger{}, bound, http.StatusOK, autotrigger.Failed},
		{"the ledger fails, and the call waits", Trigger{Wait: true, Respond: http.StatusForbidden}, bound, http.StatusServiceUnavailable, autotrigger.Failed},
		{"a dry run does not wait", Trigger{Wait: true, DryRun: true, Respond: http.StatusForbidden}, bound, http.StatusOK, autotrigger.DryRun},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := newState(filepath.Join(t.TempDir(), "ledger.db"))
			if err != nil {
				t.Fatal(err)
			}
			s.triggers = autotrigger.New(lostLedger{}, s.alarms)
			s.triggers.Apply(&autotrigger.Settings{PerMinute: 1, Logger: slog.New(slog.DiscardHandler)})
			s.triggers.Start()
			trigger := tt.trigger
			trigger.Cause, trigger.app, trigger.sampled = "OVERLIMIT_USAGE", &App{state: s}, zap.NewNop()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
			ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{varLetIn: tt.letIn})
			w := httptest.NewRecorder()
			err = trigger.ServeHTTP(w, r.WithContext(ctx), caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
			s.triggers.Stop()
			if err != nil || w.Code != tt.status {
				t.Errorf("got %v, %v; want %v", w.Code, err, tt.status)
			}
			if got := s.triggers.Counts()[tt.want]; got != 1 {
				t.Errorf("outcomes: got %v; want one %v", s.triggers.Counts(), tt.want)
			}
		})
	}
}

// TestTriggerInJSON: what the Caddyfile refuses is refused in JSON, too.
func TestTriggerInJSON(t *testing.T) {
	for _, tt := range []struct{ handler, want string }{
		{`{"handler":"capif_trigger"}`, "cause is missing"},
		{`{"handler":"capif_trigger","cause":"` + strings.Repeat("x", maxText+1) + `"}`, "cause is longer than 1000 bytes"},
		{`{"handler":"capif_trigger","cause":"OVERLIMIT_USAGE","respond":200}`, "respond is 200; give a status of 400 to 599"},
		{`{"handler":"capif_trigger","cause":"OVERLIMIT_USAGE","api":"some"}`, `unknown api "some"; accepted: this, all`},
	} {
		keys := filepath.Join("..", "LICENSE") // never read: the trigger comes first
		config := `{"admin":{"disabled":true},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},"apps":{
			"capif":{"aef_id":"aef-a","core":{"url":"https://core.example"},"token":{"keys":{"pem":["` + keys + `"]}},"ledger":{"path":"` + filepath.Join(t.TempDir(), "ledger.db") + `"}},
			"http":{"servers":{"srv0":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"routes":[{"handle":[` + tt.handler + `]}]}}}}}`
		var c caddy.Config
		err := caddy.StrictUnmarshalJSON([]byte(config), &c)
		if err != nil {
			t.Fatal(err)
		}
		err = caddy.Validate(&c)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.80s: got %v; want %q in it", tt.handler, err, tt.want)
		}
	}
}
