package caddyplugin

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/revocation"
)

// TestRefusalsAreSampled: a flood of refused calls is a few lines, without tokens,
// and none unless somebody asks for the debug level.
func TestRefusalsAreSampled(t *testing.T) {
	const calls = 1000
	for _, level := range []zapcore.Level{zap.DebugLevel, zap.InfoLevel} {
		b := newBench(t)
		core, logs := observer.New(level)
		b.handler.sampled = sampled(zap.New(core))
		raw := b.token(t, "denied")
		must1(t, b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "denied", APIs: []string{"api-1"}}))
		for range calls {
			must1(t, b.handler.ServeHTTP(httptest.NewRecorder(), b.request(raw), called))
		}
		got := logs.FilterMessage("call refused").All()
		if level > zap.DebugLevel {
			if len(got) != 0 {
				t.Errorf("got %d lines at level %v; want none", len(got), level)
			}
			continue
		}
		if len(got) < 10 || len(got) > calls/4 {
			t.Fatalf("got %d lines for %d calls; want some", len(got), calls)
		}
		if fields := got[0].ContextMap(); len(fields) != 2 || fields["reason"] != "authorization_revoked" || fields["api_invoker_id"] != "denied" {
			t.Errorf("got %v; want the reason and the API invoker alone", fields)
		}
	}
}

// TestFailOpenHandler: what passes, and what is known of whose call it is.
func TestFailOpenHandler(t *testing.T) {
	requirePolicy := func(_ *testing.T, b *bench) {
		pair := policy.Pair{AEF: "aef-1", API: "api-1"}
		b.policy.Apply(&policy.Settings{Pairs: map[policy.Pair]policy.Source{pair: {}}, Logger: slog.New(slog.DiscardHandler)})
		b.handler.gate = b.policy.Gate(policy.GateOptions{AEF: pair.AEF, APIs: []string{pair.API}, Required: true})
	}
	closeLedger := func(t *testing.T, b *bench) { must1(t, b.ledger.Close()) }
	for name, tt := range map[string]struct {
		set    func(*testing.T, *bench)
		deny   bool // on_error
		bound  bool
		status int
		reason enforce.Reason
		user   any
	}{
		"no policy, denied":                      {requirePolicy, true, false, 503, enforce.PolicyUnavailable, nil},
		"no policy":                              {requirePolicy, false, false, 200, enforce.PolicyUnavailable, "invoker-0"},
		"no ledger, denied":                      {closeLedger, true, false, 503, enforce.NotReady, nil},
		"no ledger":                              {closeLedger, false, false, 200, enforce.NotReady, "invoker-0"},
		"no ledger, and the caller is not bound": {closeLedger, false, true, 401, enforce.TokenNotBound, nil},
		"decided":                                {func(*testing.T, *bench) {}, false, false, 200, enforce.Allowed, "invoker-0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.handler.failOpen = !tt.deny
			if tt.bound {
				b.handler.Bind = bindClientCertificate
			}
			tt.set(t, b)
			r, w, passed := b.request(b.token(t, "invoker-0")), httptest.NewRecorder(), false
			must1(t, b.handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { passed = true; return nil })))
			reason, _ := replacerOf(r).Get("http.capif.reason")
			user, _ := replacerOf(r).Get("http.auth.user.id")
			want := any(tt.reason.String())
			if tt.reason == enforce.Allowed {
				want = nil
			}
			if w.Code != tt.status || passed != (tt.status == 200) || reason != want || user != tt.user {
				t.Errorf("got %d, passed on %t, %v, user %v; want %d, %v, user %v", w.Code, passed, reason, user, tt.status, want, tt.user)
			}
		})
	}
}
