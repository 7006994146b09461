package caddyplugin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
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
	const byOperator = `capif_revocations_total{cause="%s",origin="operator",state="%s"}`
	l.trigger(l.caddy, adminapi.RevocationRequest{APIInvokerID: l.newInvoker(), APIIDs: []string{testbed.APIID}, Cause: "NEVER_HEARD_OF"}, http.StatusOK)
	kept := map[string]float64{
		fmt.Sprintf(byOperator, "other", "triggered"): 1, fmt.Sprintf(byOperator, "other", "revoked"): 1,
		`capif_revocations_total{cause="other",origin="policy",state="triggered"}`: 0,
	}
	for _, series := range []string{fmt.Sprintf(byOperator, "OVERLIMIT_USAGE", "revoked"), `capif_revocations_total{cause="OVERLIMIT_USAGE",origin="core",state="denied"}`, "capif_revocation_decided_seconds_count"} {
		kept[series] = l.metric(series)
	}
	for series, want := range kept {
		if got := l.metric(series); got != want {
			t.Errorf("%s: got %v; want %v", series, got, want)
		}
	}
	if kept["capif_revocation_decided_seconds_count"] == 0 {
		t.Error("got no revocation in capif_revocation_decided_seconds; want those decided")
	}
	const cached = `capif_deny_cache_hits_total{api_name="location"}`
	allowed, revoked, told, hits := l.metric(seriesAllowed), l.metric(seriesRevoked), l.metric(messages), l.metric(cached)
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
	if got := l.metric(cached); got < hits+10 {
		t.Errorf("%s: got %v; want at least 10 more than %v", cached, got, hits)
	}
	for series, want := range kept {
		if got := l.metric(series); got != want && !strings.Contains(series, `origin="core"`) { // l.tell is the core
			t.Errorf("%s after reloads: got %v; want %v", series, got, want)
		}
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

// TestMetricsOfTheCore: requests to the core, messages, commits, keys and the
// decision are timed, by names that do not grow with callers.
func TestMetricsOfTheCore(t *testing.T) {
	l := startLife(t)
	l.tell(l.newInvoker())
	for series, atLeast := range map[string]float64{
		`capif_core_requests_total{operation="read_context",outcome="2xx"}`: 1,
		`capif_core_request_seconds_count{operation="read_context"}`:        1,
		`capif_core_message_seconds_count`:                                  1,
		`capif_ledger_commit_seconds_count`:                                 1,
		`capif_decide_seconds_count`:                                        2,
		`capif_ledger_bytes`:                                                4096,
		`capif_revocations_pending_oldest_seconds`:                          0,
	} {
		if got := l.metric(series); got < atLeast {
			t.Errorf("%s: got %v; want at least %v", series, got, atLeast)
		}
	}
	if skew := l.metric(`capif_core_clock_skew_seconds`); skew < -2 || skew > 2 {
		t.Errorf("clock skew on one machine: got %v s; want about 0", skew)
	}
	text := l.series(l.aef.Admin)
	for _, want := range []string{`capif_keys_age_seconds{source="jwks https:`, `capif_keys_failing{source="jwks https:`} {
		if got := strings.Count(text, want); got != 1 {
			t.Errorf("got %d series %s in\n%s\nwant 1", got, want, text)
		}
	}
	before := strings.Count(text, "\n")
	for range 3 {
		l.tell(l.newInvoker())
	}
	if after := strings.Count(l.series(l.aef.Admin), "\n"); after != before {
		t.Errorf("got %d series after more API invokers; want %d as before", after, before)
	}
}
