package caddyplugin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestFailOpen: with the core away, a call that cannot be decided is passed on, and
// one that is known to be refused is not. The check says the same as the handler.
func TestFailOpen(t *testing.T) {
	b := newAdminBed(t, func(b *adminBed) {
		keys, err := b.scene.Core.TokenKeyPEM()
		must(t, err)
		file := b.aef.Dir + "/core-keys.pem"
		writeFile(t, file, keys)
		b.aef.TokenKeys = "pem " + file // keys that are there while the core is not
		b.aef.GlobalExtra = "trigger_timeout 200ms"
		b.aef.RouteExtra = "on_error allow"
		b.aef.SiteExtra = "header ?Reason {http.capif.reason}\nheader ?User {http.auth.user.id}"
	})
	scope := coretest.ScopeOf(b.aef.ID, testbed.APIName)
	mint := func(spec coretest.TokenSpec) string {
		raw, err := b.scene.Core.MintToken(spec)
		must(t, err)
		return raw
	}
	must(t, b.scene.Core.Down())
	b.trigger(b.caddy, revokeRequest("inv-denied"), http.StatusAccepted)
	for _, tt := range []struct {
		name, raw string
		status    int
		reason    string // what the check says
	}{
		{"an API invoker never seen", mint(coretest.TokenSpec{InvokerID: "inv-new", Scope: scope}), http.StatusOK, "context_unknown"},
		{"one that a claim denies", mint(coretest.TokenSpec{InvokerID: "inv-denied", Scope: scope}), http.StatusForbidden, "authorization_revoked"},
		{"a token for another API", mint(coretest.TokenSpec{InvokerID: "inv-new", Scope: "3gpp#other:api"}), http.StatusForbidden, "insufficient_scope"},
		{"no token at all", "nonsense", http.StatusUnauthorized, "token_malformed"},
	} {
		b.sub(t, tt.name, func() {
			b.want(b.aef, "/location/1", tt.raw, tt.status)
			var answer adminapi.CheckResponse
			status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathCheck, adminapi.CheckRequest{Token: tt.raw, APIID: testbed.APIID}, &answer)
			if err != nil || status != http.StatusOK || len(answer.Checks) != 1 {
				b.t.Fatalf("check: got %v, %v, %+v; want one", status, err, answer)
			}
			if c := answer.Checks[0]; c.Passed != (tt.status == http.StatusOK) || c.Reason != tt.reason || c.Allowed || c.OnError != "allow" {
				b.t.Errorf("check: got %+v; want passed %t, %s", c, tt.status == http.StatusOK, tt.reason)
			}
		})
	}
	b.sub(t, "what is said of a call that is passed on", func() {
		r, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+b.aef.API+"/location/1", nil)
		must(b.t, err)
		r.Header.Set("Authorization", "Bearer "+mint(coretest.TokenSpec{InvokerID: "inv-new", Scope: scope}))
		answer, err := http.DefaultClient.Do(r)
		must(b.t, err)
		must(b.t, answer.Body.Close())
		if reason, user := answer.Header.Get("Reason"), answer.Header.Get("User"); answer.StatusCode != http.StatusOK || reason != "context_unknown" || user != "inv-new" {
			b.t.Errorf("got %d, reason %q, user %q; want 200, context_unknown, inv-new", answer.StatusCode, reason, user)
		}
		for _, route := range b.status(b.caddy).Routes {
			if route.OnError != "allow" {
				b.t.Errorf("route in the status: got %+v; want on_error allow", route)
			}
		}
		for _, says := range []string{"route fails open: calls that cannot be decided are passed on", "call passed on undecided"} {
			b.poll(func() bool { return strings.Contains(b.caddy.Log(), says) })
		}
		metrics := testbed.AEF{API: b.aef.Admin}
		_, text, err := metrics.Call(b.ctx, "/metrics", "")
		must(b.t, err)
		if want := `capif_decisions_total{api_name="location",reason="context_unknown"} 2`; !strings.Contains(string(text), want+"\n") {
			b.t.Errorf("metrics: got no line %s; want calls passed on counted under their reason", want)
		}
		wantRan(b.t, b.capif("", "check", "--invoker", "inv-new", "--api", testbed.APIID), 0, "would be passed on UNDECIDED (context_unknown)", "FAILS OPEN", "on_error allow")
		wantRan(b.t, b.capif("", "check", "--invoker", "inv-denied", "--api", testbed.APIID), 10, "REFUSED", "authorization_revoked")
		wantRan(b.t, b.capif("", "status"), 0, "FAILS OPEN")
	})
}
