package caddyplugin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

const probePath = "/ready"

func newHealthBed(t *testing.T, set func(*testbed.AEF)) *ruleBed {
	t.Helper()
	return newRuleBed(t, "", func(a *testbed.AEF) {
		a.SiteExtra = "handle " + probePath + " {\n capif_health {\n max_staleness 3s\n}\n}"
		set(a)
	})
}

func (b *ruleBed) wantProbe(status int, body string) {
	b.t.Helper()
	got, text, err := b.a.Call(b.ctx, probePath, "")
	if err != nil || got != status || string(text) != body {
		b.t.Fatalf("probe: got %v %q, %v; want %v %q", got, text, err, status, body)
	}
}

// TestHealth: a probe is answered 503 when contexts are older than the bound, and
// 200 again when the core is back. The answer has no detail, the log has it, one
// line a change.
func TestHealth(t *testing.T) {
	b := newHealthBed(t, func(a *testbed.AEF) { a.GlobalExtra = "reconcile 1s" })
	b.wantProbe(http.StatusOK, "ready\n")
	b.wantCall(http.StatusOK, "")
	down := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Drop: true})
	b.poll(func() bool {
		// Only an active API invoker's context has an age that counts.
		b.wantCall(http.StatusOK, "")
		status, _, err := b.a.Call(b.ctx, probePath, "")
		return err == nil && status == http.StatusServiceUnavailable
	})
	b.wantProbe(http.StatusServiceUnavailable, "not ready\n")
	down.Clear()
	b.poll(func() bool {
		status, _, err := b.a.Call(b.ctx, probePath, "")
		return err == nil && status == http.StatusOK
	})
	// The log of the process comes through a pipe.
	b.poll(func() bool { return strings.Contains(b.caddy.Log(), `"msg":"ready"`) })
	for _, want := range []string{"security contexts are older than 3s", `"msg":"ready"`} {
		if got := strings.Count(b.caddy.Log(), want); got != 1 {
			t.Errorf("got %d lines of log with %s; want 1", got, want)
		}
	}
}

// TestHealthWithoutKeys: no call can be decided before keys are there.
func TestHealthWithoutKeys(t *testing.T) {
	b := newHealthBed(t, func(a *testbed.AEF) { a.TokenKeys = "jwks https://127.0.0.1:1/jwks" })
	b.wantProbe(http.StatusServiceUnavailable, "not ready\n")
	b.wantCall(http.StatusServiceUnavailable, "not-ready")
}

func TestHealthMethods(t *testing.T) {
	b := newHealthBed(t, func(*testbed.AEF) {})
	for method, want := range map[string]int{http.MethodHead: http.StatusOK, http.MethodPost: http.StatusMethodNotAllowed} {
		request, err := http.NewRequestWithContext(b.ctx, method, "http://"+b.a.API+probePath, nil)
		must(t, err)
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		must(t, response.Body.Close())
		if response.StatusCode != want {
			t.Errorf("%s: got %v; want %v", method, response.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
