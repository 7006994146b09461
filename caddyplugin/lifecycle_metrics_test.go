package caddyplugin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/testbed"
)

// TestMetricsOverReloads counts calls and messages over ten reloads: the figures
// go on, and are registered once, at the site and at the admin endpoint.
func TestMetricsOverReloads(t *testing.T) {
	l := startLife(t)
	const messages = `capif_core_messages_total{outcome="revoked"}`
	id := l.newInvoker()
	l.tell(id)
	lost := l.lost
	allowed, revoked, told := l.metric(seriesAllowed), l.metric(seriesRevoked), l.metric(messages)
	if allowed == 0 || revoked == 0 || told == 0 {
		t.Fatalf("got %v, %v, %v; want all above 0", allowed, revoked, told)
	}
	for range 10 {
		l.reload(l.aef)
		l.want(l.aef, lifePath, l.allowed, http.StatusOK)
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.tell(id)
	}
	for series, want := range map[string]float64{seriesAllowed: allowed + 10, seriesRevoked: revoked + 10, messages: told + 10} {
		l.counted(series, want, lost)
	}
	total := l.metric(seriesAllowed)
	site, admin := l.series(l.aef.API), l.series(l.aef.Admin)
	for _, text := range []string{site, admin} {
		line := fmt.Sprintf("%s %v\n", seriesAllowed, total)
		if strings.Count(text, line) != 1 {
			t.Errorf("got %d lines %q in\n%s\nwant one", strings.Count(text, line), line, text)
		}
	}
}

// series returns the lines about capif of a metrics endpoint.
func (l *life) series(address string) string {
	l.t.Helper()
	a := testbed.AEF{API: address}
	status, body, err := a.Call(l.ctx, "/metrics", "")
	if err != nil || status != http.StatusOK {
		l.t.Fatalf("metrics at %s: got %v, %v; want 200", address, status, err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "capif_") {
			text.WriteString(line)
		}
	}
	return text.String()
}
