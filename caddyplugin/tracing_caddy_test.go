package caddyplugin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestTracing: the span that Caddy's own handler exports has the decision.
func TestTracing(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.SiteExtra = "tracing {\nspan call\n}"
	b.publish(a.ID)
	config, err := a.Caddyfile()
	must(t, err)
	caddy, err := testbed.StartCaddy(b.ctx, testbed.CaddyOptions{
		Name: a.ID, Dir: a.Dir, Caddyfile: config, AdminAddress: a.Admin, Env: []string{"OTEL_TRACES_EXPORTER=console", "OTEL_BSP_SCHEDULE_DELAY=100"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, caddy.Stop()) })
	inv := b.invoker("inv-t", a.ID)
	b.want(a, "/location/1", b.token(inv, coretest.ScopeOf(a.ID, testbed.APIName)), http.StatusOK)
	for _, says := range []string{`"capif.reason"`, `"allowed"`, `"capif.api_invoker_id"`, `"inv-t"`} {
		b.poll(func() bool { return strings.Contains(caddy.Log(), says) })
	}
}
