package caddyplugin_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/caddyplugin"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// life is one running AEF with an API invoker that is allowed and one whose
// authorization for the first API was revoked here.
type life struct {
	*bed
	aef   *testbed.AEF
	caddy *testbed.Caddy
	// allowed and denied are tokens of the two.
	allowed, denied string
	invokers        int
	// lost counts calls whose connection Caddy closed without an answer.
	lost float64
}

// call sends a call. A connection that comes while a listener changes hands in a
// reload may be closed by Caddy without an answer; the caller then calls again,
// as any HTTP caller has to. An answer is never repeated.
func (l *life) call(path, token string) (int, []byte, error) {
	l.t.Helper()
	const attempts = 5
	for attempt := 1; ; attempt++ {
		status, body, err := l.aef.Call(l.ctx, path, token)
		if err == nil || attempt == attempts {
			return status, body, err
		}
		l.lost++
	}
}

// want is that of bed, by call.
func (l *life) want(_ *testbed.AEF, path, token string, status int) {
	l.t.Helper()
	got, body, err := l.call(path, token)
	if err != nil || got != status {
		l.t.Fatalf("call %s: got %v, %v, %s; want %v", path, got, err, body, status)
	}
}

// tell lets the core revoke, again where no answer came, and fails unless it is
// answered 2xx.
func (l *life) tell(id string) {
	l.t.Helper()
	l.poll(func() bool {
		answer, err := l.scene.Core.CallAEF(l.ctx, l.aef.ID, coretest.SecurityNotification{
			APIInvokerID: id, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
		})
		if err != nil || (answer.Status != 0 && answer.Status/100 != 2) {
			l.t.Fatalf("callback: got %+v, %v; want 2xx", answer, err)
		}
		if answer.Status == 0 {
			l.lost++
		}
		return answer.Status != 0
	})
}

// counted fails unless a counter stands at want, or above by calls whose answer
// was lost.
func (l *life) counted(series string, want, lostBefore float64) {
	l.t.Helper()
	if got := l.metric(series); got < want || got > want+l.lost-lostBefore {
		l.t.Errorf("%s: got %v; want %v (%v answers lost)", series, got, want, l.lost-lostBefore)
	}
}

const (
	lifePath  = "/location/1"
	lifeOther = "/qos/1"
)

// newLife prepares the scene; begin starts the Caddy.
func newLife(t *testing.T) *life {
	t.Helper()
	b := newBed(t, coretest.Options{})
	l := &life{bed: b, aef: b.aef("aef-a", testbed.Provider)}
	l.aef.SiteExtra = "handle /metrics {\n\t\tmetrics\n\t}"
	b.publish("aef-a")
	return l
}

func startLife(t *testing.T) *life {
	t.Helper()
	l := newLife(t)
	l.begin()
	return l
}

// sub lets a subtest fail for itself.
func (l *life) sub(t *testing.T) {
	parent := l.bed.t
	l.bed.t = t
	t.Cleanup(func() { l.bed.t = parent })
}

// begin starts the Caddy and makes the two API invokers.
func (l *life) begin() {
	l.t.Helper()
	l.caddy = l.start(l.aef)
	l.allowed, l.denied = l.tokenOf(l.newInvoker()), ""
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	bad := l.newInvoker()
	l.denied = l.tokenOf(bad)
	l.want(l.aef, lifePath, l.denied, http.StatusOK)
	l.revoke(bad)
	l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
}

// newInvoker makes an API invoker that is granted both APIs.
func (l *life) newInvoker() string {
	l.t.Helper()
	l.invokers++
	id := fmt.Sprintf("inv-%d", l.invokers)
	core := l.scene.Core
	var entries []coretest.SecurityInformation
	err := core.AddInvoker(id)
	for _, api := range []string{testbed.APIID, testbed.OtherAPIID} {
		if err == nil {
			err = core.Discover(id, api, l.aef.ID)
		}
		entries = append(entries, coretest.Entry(l.aef.ID, api))
	}
	if err == nil {
		err = core.Authorize(id, "", entries...)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

func (l *life) tokenOf(id string) string {
	l.t.Helper()
	token, err := l.scene.Core.MintToken(coretest.TokenSpec{
		InvokerID: id, Scope: coretest.ScopeOf(l.aef.ID, testbed.APIName, testbed.OtherAPIName),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return token
}

func revokeRequest(id string) adminapi.RevocationRequest {
	return adminapi.RevocationRequest{APIInvokerID: id, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected}
}

// revoke triggers, and fails unless the core has revoked it.
func (l *life) revoke(id string) {
	l.t.Helper()
	answer := l.trigger(l.caddy, revokeRequest(id), http.StatusOK)
	if !answer.Blocked || answer.Revocations[0].State != revocation.StateRevoked {
		l.t.Fatalf("trigger for %s: got %+v; want blocked and revoked", id, answer)
	}
}

// revokeBesideReloads triggers again where the answer did not arrive: Caddy replaces
// its admin endpoint on a reload and now and then cuts a connection to the old one.
// If the first trigger did arrive, the core has no authorization left for the second:
// that the core revoked is then to be looked up.
func (l *life) revokeBesideReloads(id string) {
	l.t.Helper()
	states := []revocation.State{revocation.StateRevoked}
	for range 5 {
		var answer adminapi.RevocationResponse
		status, err := l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), &answer)
		if err != nil && status == 0 {
			l.t.Logf("trigger for %s: %v; triggering again", id, err)
			states = append(states, revocation.StateNoAuthorizationFound)
			continue
		}
		if err != nil || status != http.StatusOK || !answer.Blocked || !slices.Contains(states, answer.Revocations[0].State) {
			l.t.Fatalf("trigger for %s: got %d, %v, %+v; want blocked and revoked", id, status, err, answer)
		}
		return
	}
	l.t.Fatalf("trigger for %s: got no answer in 5 tries; want one", id)
}

func (l *life) caddyfile(a *testbed.AEF) string {
	l.t.Helper()
	text, err := a.Caddyfile()
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// reload puts another configuration in force.
func (l *life) reload(a *testbed.AEF) {
	l.t.Helper()
	err := l.caddy.Reload(l.ctx, l.caddyfile(a))
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) status() adminapi.Status {
	l.t.Helper()
	var status adminapi.Status
	code, err := l.caddy.Admin(l.ctx, http.MethodGet, adminapi.PathStatus, nil, &status)
	if err != nil || code != http.StatusOK {
		l.t.Fatalf("status: got %v, %v; want 200", code, err)
	}
	return status
}

func (l *life) alarmed(name alarm.Name) bool {
	l.t.Helper()
	return slices.ContainsFunc(l.status().Alarms, func(a alarm.Alarm) bool { return a.Name == name })
}

func (l *life) probe(token string) caddyplugin.Probe {
	l.t.Helper()
	var p caddyplugin.Probe
	code, err := l.caddy.Admin(l.ctx, http.MethodGet, "/lifecycle/probe?token="+url.QueryEscape(token), nil, &p)
	if err != nil || code != http.StatusOK {
		l.t.Fatalf("probe: got %v, %v; want 200", code, err)
	}
	return p
}

// metric returns the value of one series of the running configuration.
func (l *life) metric(series string) float64 {
	l.t.Helper()
	code, body, err := l.call("/metrics", "")
	if err != nil || code != http.StatusOK {
		l.t.Fatalf("metrics: got %v, %v; want 200", code, err)
	}
	for line := range strings.Lines(string(body)) {
		value, ok := strings.CutPrefix(line, series+" ")
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			l.t.Fatal(err)
		}
		return v
	}
	l.t.Fatalf("metrics: got no series %s; want one", series)
	return 0
}

const (
	seriesAllowed  = `capif_decisions_total{api_name="location",reason="allowed"}`
	seriesRevoked  = `capif_decisions_total{api_name="location",reason="authorization_revoked"}`
	seriesEvicted  = "capif_deny_cache_evicted_total"
	seriesRejected = "capif_deny_cache_rejected_total"
	seriesFailing  = "capif_ledger_failing"
)

// unkept is the number of verdicts that the deny cache did not keep.
func (l *life) unkept() float64 { return l.metric(seriesEvicted) + l.metric(seriesRejected) }

// manyTokens calls the second API with several tokens of one API invoker.
func (l *life) manyTokens() {
	l.t.Helper()
	id := l.newInvoker()
	for range 30 {
		l.want(l.aef, lifeOther, l.tokenOf(id), http.StatusOK)
	}
}

// snapshot is what a rejected reload must leave as it is.
type snapshot struct {
	probe            caddyplugin.Probe
	core, ledger     string
	allowed, revoked float64
	unkept, lost     float64
	// reread says that another core was in force for a moment: contexts are read
	// again in the background, and verdicts decided anew after each.
	reread bool
}

func (l *life) snapshot() snapshot {
	l.t.Helper()
	// A verdict reaches the cache a moment after the first call.
	l.poll(func() bool { return l.probe(l.allowed).Cached && l.probe(l.denied).Cached })
	if p := l.probe(l.allowed); !p.OwnLogger || p.Configs != 1 {
		l.t.Errorf("got %+v; want one configuration, with its own logger in force", p)
	}
	status := l.status()
	return snapshot{
		probe: l.probe(l.allowed), core: status.Core, ledger: status.Ledger.Path,
		allowed: l.metric(seriesAllowed), revoked: l.metric(seriesRevoked), unkept: l.unkept(), lost: l.lost,
	}
}

// intact fails unless all goes on as if nothing had been tried.
func (l *life) intact(was snapshot) {
	l.t.Helper()
	switch got := l.probe(l.allowed); {
	case was.reread:
		l.poll(func() bool { return l.probe(l.allowed) == was.probe && l.probe(l.denied).Cached })
	case got != was.probe:
		l.t.Errorf("state: got %+v; want %+v", got, was.probe)
	case !l.probe(l.denied).Cached:
		l.t.Error("verdict on the revoked API invoker: got decided anew; want cached")
	}
	l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	l.counted(seriesAllowed, was.allowed+1, was.lost)
	l.counted(seriesRevoked, was.revoked+1, was.lost)
	status := l.status()
	if status.Core != was.core || status.Ledger.Path != was.ledger || !status.Ledger.Ready || len(status.Routes) != 2 {
		l.t.Errorf("status: got %+v; want core %s and ledger %s, ready, with two routes", status, was.core, was.ledger)
	}
	id := l.newInvoker()
	token := l.tokenOf(id)
	l.want(l.aef, lifePath, token, http.StatusOK)
	l.revoke(id)
	l.want(l.aef, lifePath, token, http.StatusForbidden)
	l.want(l.aef, lifeOther, token, http.StatusOK)
	l.manyTokens()
	if got := l.unkept(); got != was.unkept {
		l.t.Errorf("verdicts not kept: got %v; want %v: the deny cache has another size", got, was.unkept)
	}
}
