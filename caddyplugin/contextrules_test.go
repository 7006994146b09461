package caddyplugin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// ruleBed is one AEF with settings of its own and one API invoker.
type ruleBed struct {
	*bed
	a     *testbed.AEF
	caddy *testbed.Caddy
	inv   *coretest.Invoker
	token string
}

func newRuleBed(t *testing.T, dialect string, set func(*testbed.AEF)) *ruleBed {
	t.Helper()
	b := &ruleBed{bed: newBed(t, coretest.Options{Dialect: dialect})}
	b.a = b.aef(b.scene.Core.AssignAEFID("AEFa"), testbed.Provider)
	set(b.a)
	b.publish(b.a.ID)
	b.caddy = b.start(b.a)
	b.inv = b.invoker("inv-1", b.a.ID)
	b.token = b.bed.token(b.inv, coretest.ScopeOf(b.a.ID, testbed.APIName, testbed.OtherAPIName))
	return b
}

func (b *ruleBed) revokeByCore() {
	b.t.Helper()
	answers, err := b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: "inv-1", AEFID: b.a.ID, APIIDs: []string{testbed.APIID}})
	if err != nil || len(answers) != 1 || answers[0].Status != http.StatusOK {
		b.t.Fatalf("revoke by the core: got %+v, %v; want 200", answers, err)
	}
}

// readAgain makes all contexts due, calls, and returns the status and the
// fragment of the problem type.
func (b *ruleBed) readAgain() (int, string) {
	b.t.Helper()
	code, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, nil)
	if err != nil || code != http.StatusOK {
		b.t.Fatalf("reconcile: got %v, %v; want 200", code, err)
	}
	return b.call()
}

func (b *ruleBed) call() (int, string) {
	b.t.Helper()
	status, body, err := b.a.Call(b.ctx, "/location/1", b.token)
	must(b.t, err)
	_, kind, _ := strings.Cut(string(body), "problems.md#")
	kind, _, _ = strings.Cut(kind, `"`)
	return status, kind
}

func (b *ruleBed) wantCall(status int, kind string) {
	b.t.Helper()
	if gotStatus, gotKind := b.call(); gotStatus != status || gotKind != kind {
		b.t.Fatalf("call: got %v %s; want %v %s", gotStatus, gotKind, status, kind)
	}
}

// put has the API invoker put its context again.
func (b *ruleBed) put() {
	b.t.Helper()
	must(b.t, b.inv.PutContext(b.ctx, coretest.Entry(b.a.ID, testbed.APIID)))
}

// TestMonitorMode: what would be refused is passed on, and said.
func TestMonitorMode(t *testing.T) {
	b := newRuleBed(t, "", func(a *testbed.AEF) { a.RouteExtra = "mode monitor" })
	b.wantCall(http.StatusOK, "")
	answer := b.trigger(b.caddy, adminapi.RevocationRequest{
		APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
	}, http.StatusOK)
	b.wantCall(http.StatusOK, "")
	b.want(b.a, "/location/1", "", http.StatusOK)
	for _, route := range b.status(b.caddy).Routes {
		if route.Mode != "monitor" {
			t.Errorf("route in the status: got %+v; want mode monitor", route)
		}
	}
	for _, says := range []string{"call would be refused", `"authorization_revoked"`, `"no_token"`, "route only monitors"} {
		b.poll(func() bool { return strings.Contains(b.caddy.Log(), says) })
	}
	if answer.Blocked {
		t.Error("the trigger says blocked, and the route passes calls on")
	}
	metrics := testbed.AEF{API: b.a.Admin}
	_, text, err := metrics.Call(b.ctx, "/metrics", "")
	must(t, err)
	for _, series := range []string{
		`capif_decisions_total{api_name="location",reason="authorization_revoked"} 1`, `capif_decisions_total{api_name="location",reason="no_token"} 1`,
	} {
		if !strings.Contains(string(text), series+"\n") {
			t.Errorf("metrics: got no line %s; want what would have been refused counted", series)
		}
	}
}

// TestBindClientCertificate: this core gives an API invoker a token in another's
// name. It opens nothing to a caller with a certificate of its own.
func TestBindClientCertificate(t *testing.T) {
	b := newRuleBed(t, "opencapif", func(a *testbed.AEF) {
		a.Profile, a.TokenKeys = "opencapif", "core_certificate"
		a.MutualTLS, a.RouteExtra = true, "bind client_certificate"
	})
	thief := b.invoker("inv-2", b.a.ID)
	borrowed, err := thief.TokenAs(b.ctx, "inv-1", coretest.ScopeOf(b.a.ID, testbed.APIName))
	must(t, err)
	tests := []struct {
		name   string
		caller *coretest.Invoker
		token  string
		status int
		kind   string
	}{
		{"own token", b.inv, b.token, http.StatusOK, ""},
		{"borrowed identity", thief, borrowed, http.StatusUnauthorized, "token-not-bound"},
		{"stolen token", thief, b.token, http.StatusUnauthorized, "token-not-bound"},
		{"own token again", b.inv, b.token, http.StatusOK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body, err := tt.caller.Call(b.ctx, nil, "https://"+b.a.API+"/location/1", tt.token)
			if err != nil || status != tt.status || !strings.Contains(body, tt.kind) {
				t.Errorf("got %v, %v, %s; want %v %s", status, err, body, tt.status, tt.kind)
			}
		})
	}
}

// TestMaxStaleness: a route that bounds the age of contexts fails closed when the
// core is away for longer.
func TestMaxStaleness(t *testing.T) {
	b := newRuleBed(t, "", func(a *testbed.AEF) { a.GlobalExtra, a.RouteExtra = "reconcile 1s", "max_staleness 5s" })
	b.wantCall(http.StatusOK, "")
	must(t, b.scene.Core.Down())
	b.wantCall(http.StatusOK, "")
	b.eventually(b.a, "/location/1", b.token, http.StatusServiceUnavailable)
	b.wantCall(http.StatusServiceUnavailable, "not-ready")
	must(t, b.scene.Core.Up())
	b.eventually(b.a, "/location/1", b.token, http.StatusOK)
}

// TestRequireContextOff: without a context a token is enough; what the context
// listed once and no longer does is refused.
func TestRequireContextOff(t *testing.T) {
	b := newRuleBed(t, "", func(a *testbed.AEF) { a.RouteExtra = "require_context off" })
	minted, err := b.scene.Core.MintToken(coretest.TokenSpec{InvokerID: "inv-9", Scope: coretest.ScopeOf(b.a.ID, testbed.APIName)})
	must(t, err)
	b.want(b.a, "/location/1", minted, http.StatusOK)
	b.wantCall(http.StatusOK, "")
	b.scene.Core.SwallowNotifications()
	_, err = b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: "inv-1", AEFID: b.a.ID, APIIDs: []string{testbed.APIID}})
	must(t, err)
	if status, kind := b.readAgain(); status != http.StatusForbidden || kind != "not-in-context" {
		t.Errorf("after the context lost it: got %v %s; want 403 not-in-context", status, kind)
	}
	b.want(b.a, "/location/1", minted, http.StatusOK)
}

// TestCoreLift says who ends what the core has set.
func TestCoreLift(t *testing.T) {
	start := func(t *testing.T, set func(*testbed.AEF)) *ruleBed {
		t.Helper()
		t.Parallel()
		return newRuleBed(t, "", set)
	}
	context := func(a *testbed.AEF) { a.GlobalExtra = "core_lift context" }
	operator := func(a *testbed.AEF) { a.GlobalExtra = "core_lift operator" }
	revoked := func(b *ruleBed) {
		b.t.Helper()
		b.wantCall(http.StatusOK, "")
		b.revokeByCore()
		b.wantCall(http.StatusForbidden, "authorization-revoked")
	}
	// seen waits until a read that began after everything so far was applied.
	seen := func(b *ruleBed) {
		b.t.Helper()
		before := b.scene.Core.Count(coretest.OpGetContext)
		_, _ = b.readAgain()
		b.poll(func() bool {
			return b.scene.Core.Count(coretest.OpGetContext) > before && b.status(b.caddy).Contexts.Due == 0
		})
	}
	stands := func(b *ruleBed) {
		b.t.Helper()
		for range 2 {
			seen(b)
			b.wantCall(http.StatusForbidden, "authorization-revoked")
		}
		if n := len(b.claims(b.caddy).Claims); n != 1 {
			b.t.Errorf("claims: got %d; want 1", n)
		}
	}
	t.Run("absent, then listed again: lifted", func(t *testing.T) {
		b := start(t, context)
		revoked(b)
		seen(b)
		b.put()
		b.poll(func() bool { status, _ := b.readAgain(); return status == http.StatusOK })
		if n := len(b.claims(b.caddy).Claims); n != 0 {
			t.Errorf("claims: got %d; want 0", n)
		}
	})
	t.Run("only the operator lifts", func(t *testing.T) { // schedule 14
		b := start(t, operator)
		revoked(b)
		seen(b)
		b.put()
		stands(b)
	})
	t.Run("revoked again while a read that says listed is under way", func(t *testing.T) { // schedule 12
		b := start(t, context)
		revoked(b)
		seen(b)
		fault := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Execute: true, Hang: true})
		b.put()
		code, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, nil)
		if err != nil || code != http.StatusOK {
			t.Fatalf("reconcile: got %v, %v; want 200", code, err)
		}
		<-fault.Reached()
		b.revokeByCore()
		fault.Clear()
		stands(b)
	})
	t.Run("core emptied, then restored", func(t *testing.T) { // schedule 13
		b := start(t, context)
		b.wantCall(http.StatusOK, "")
		backup := b.scene.Core.Snapshot()
		answer, err := b.scene.Core.CallAEF(b.ctx, b.a.ID, coretest.SecurityNotification{
			APIInvokerID: "inv-1", AEFID: b.a.ID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
		})
		if err != nil || answer.Status != http.StatusOK {
			t.Fatalf("command: got %+v, %v; want 200", answer, err)
		}
		b.wantCall(http.StatusForbidden, "authorization-revoked")
		b.scene.Core.Empty()
		stands(b)
		b.scene.Core.Restore(backup)
		stands(b)
	})
}

// TestLikelyWrongAPIID: a route with a mistaken api_id refuses everybody. The
// operator is told what the contexts list in its place.
func TestLikelyWrongAPIID(t *testing.T) {
	b := newRuleBed(t, "", func(a *testbed.AEF) { a.APIID = "8f36c1" })
	b.wantCall(http.StatusForbidden, "not-in-context")
	for _, raised := range b.status(b.caddy).Alarms {
		if raised.Name != alarm.LikelyWrongAPIID {
			continue
		}
		if !strings.Contains(raised.Detail, "8f36c1") || !strings.Contains(raised.Detail, testbed.APIID) {
			t.Errorf("detail: got %q; want both apiIds", raised.Detail)
		}
		return
	}
	t.Error("no alarm likely_wrong_api_id")
}

// TestReconcileReadsKeys: an operator who knows that a signing key was stolen
// does not wait for the timer.
func TestReconcileReadsKeys(t *testing.T) {
	b := newRuleBed(t, "", func(*testbed.AEF) {})
	b.wantCall(http.StatusOK, "")
	must(t, b.scene.Core.RotateKeys(false))
	b.wantCall(http.StatusOK, "") // nobody has said so yet
	loads := b.scene.Core.Count(coretest.OpJWKS)
	var answer adminapi.ReconcileResponse
	code, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, &answer)
	if err != nil || code != http.StatusOK || len(answer.Keys) != 1 || answer.Keys[0].Error != "" {
		t.Fatalf("reconcile: got %v, %v, %+v; want 200 and one source read", code, err, answer.Keys)
	}
	if got := b.scene.Core.Count(coretest.OpJWKS) - loads; got != 1 {
		t.Errorf("keys of two routes: got loaded %d times; want once", got)
	}
	b.wantCall(http.StatusUnauthorized, "token-bad-signature")
	b.token = b.bed.token(b.inv, coretest.ScopeOf(b.a.ID, testbed.APIName))
	b.wantCall(http.StatusOK, "")
}
