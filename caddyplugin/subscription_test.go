package caddyplugin_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

var allEvents = []string{
	coretest.EventPolicyUnavailable, coretest.EventPolicyUpdate, coretest.EventRevoked,
	coretest.EventOffboarded, coretest.EventInvokerUpdated, coretest.EventAPIUnavailable,
}

// subscribed waits until the core has exactly one subscription that the AEF
// knows of, and returns the state of it.
func (b *bed) subscribed(c *testbed.Caddy) adminapi.Subscription {
	b.t.Helper()
	var st adminapi.Subscription
	b.poll(func() bool {
		st = b.status(c).Subscription
		at := b.scene.Core.Subscriptions()
		_, known := at[st.ID]
		return st.Subscribed && known && len(at) == 1
	})
	return st
}

func (b *bed) reconcileNow(c *testbed.Caddy) {
	b.t.Helper()
	status, err := c.Admin(b.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, nil)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("reconcile: got %v, %v; want 200", status, err)
	}
}

// TestSubscription: one subscription over start, reload, restart and a core
// that forgets it; an event that names the API invoker blocks its calls.
func TestSubscription(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
	b.publish("aef-a")
	inv := b.invoker("inv-1", "aef-a")
	token := b.token(inv, "3gpp#aef-a:location,qos")
	c := b.start(a)
	first := b.subscribed(c)
	if got := slices.Sorted(slices.Values(first.Events)); !slices.Equal(got, slices.Sorted(slices.Values(allEvents))) || len(first.RefusedEvents) > 0 {
		t.Errorf("got events %v, refused %v; want all", got, first.RefusedEvents)
	}
	b.want(a, "/location/1", token, http.StatusOK)

	b.scene.Core.SendEvent(coretest.EventRevoked, &coretest.EventDetail{APIInvokerIDs: []string{"inv-1"}, APIIDs: []string{testbed.APIID}})
	b.eventually(a, "/location/1", token, http.StatusForbidden)
	b.want(a, "/qos/1", token, http.StatusOK)

	a.GlobalExtra += "\nreconcile 4m"
	caddyfile, err := a.Caddyfile()
	must(t, err)
	must(t, c.Reload(b.ctx, caddyfile))
	if got := b.subscribed(c); got.ID != first.ID {
		t.Errorf("reloaded: got subscription %s; want %s", got.ID, first.ID)
	}
	must(t, c.Stop())
	if _, ok := b.scene.Core.Subscriptions()[first.ID]; !ok {
		t.Error("stopped: got the subscription deleted; want it kept")
	}
	c = b.start(a)
	if got := b.subscribed(c); got.ID != first.ID {
		t.Errorf("restarted: got subscription %s; want %s", got.ID, first.ID)
	}
	if n := b.scene.Core.Count(coretest.OpSubscribe); n != 1 {
		t.Errorf("got %d POSTs; want 1", n)
	}

	b.scene.Core.Empty()
	b.reconcileNow(c)
	if got := b.subscribed(c); got.ID == first.ID {
		t.Errorf("core emptied: got subscription %s; want another", got.ID)
	}
	b.want(a, "/location/1", token, http.StatusForbidden)

	b.wantMetric(a, "capif_subscription_active 1", "capif_core_reachable 1", "capif_contexts 1", "capif_context_reads_total ")
}

// wantMetric looks for beginnings of lines among the metrics.
func (b *bed) wantMetric(a *testbed.AEF, lines ...string) {
	b.t.Helper()
	status, body, err := get2(b, "http://"+a.Admin+"/metrics")
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("metrics: got %v, %v; want 200", status, err)
	}
	for _, line := range lines {
		if !strings.Contains(body, "\n"+line) {
			b.t.Errorf("metrics: got no line %q; want one", line)
		}
	}
}

// TestSubscriptionOfDestination: a changed destination leaves one subscription,
// and none is left where none is configured any more.
func TestSubscriptionOfDestination(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
	c := b.start(a)
	first := b.subscribed(c)

	a.GlobalExtra, a.CallbackExtra = "subscribe https://localhost:"+a.CallbackPort()+"/capif/events", ""
	caddyfile, err := a.Caddyfile()
	must(t, err)
	must(t, c.Reload(b.ctx, caddyfile))
	b.poll(func() bool { return b.status(c).Subscription.ID != first.ID })
	second := b.subscribed(c)
	if got := b.scene.Core.Subscriptions()[second.ID].NotificationDestination; !strings.Contains(got, "localhost") {
		t.Errorf("got destination %s; want the new one", got)
	}

	a.GlobalExtra = ""
	caddyfile, err = a.Caddyfile()
	must(t, err)
	must(t, c.Reload(b.ctx, caddyfile))
	b.poll(func() bool { return len(b.scene.Core.Subscriptions()) == 0 })
	// The core has deleted it before its answer is here.
	b.poll(func() bool {
		st := b.status(c).Subscription
		return !st.Configured && !st.Subscribed
	})
}

// TestSubscriptionInPart: this core refuses a list with an event that it does
// not know.
func TestSubscriptionInPart(t *testing.T) {
	b := newBed(t, coretest.Options{Dialect: "oran"})
	a := b.aef("aef-a", testbed.Provider)
	a.Profile, a.GlobalExtra = "oran", "subscribe https://"+a.Callback+"/capif/events {\nsubscriber_id gateway-1\n}"
	c := b.start(a)
	st := b.subscribed(c)
	if !slices.Equal(st.RefusedEvents, []string{coretest.EventInvokerUpdated}) || len(st.Events) != len(allEvents)-1 {
		t.Errorf("got %+v; want %s refused and the rest subscribed", st, coretest.EventInvokerUpdated)
	}
	if b.alarmed(c, alarm.SubscriptionFailed) {
		t.Error("got an alarm; want none: the rest is subscribed")
	}
	for _, e := range b.scene.Core.Requests(coretest.OpSubscribe) {
		if e.AEFID != "gateway-1" {
			t.Errorf("got subscriberId %s; want gateway-1", e.AEFID)
		}
	}
}

// TestSubscriptionFails: a core that is down delays no start and is told of
// once; when it answers again the subscription comes.
func TestSubscriptionFails(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
	must(t, b.scene.Core.Down())
	c := b.start(a)
	b.poll(func() bool { return b.alarmed(c, alarm.SubscriptionFailed) })
	if st := b.status(c).Subscription; !st.Configured || st.Subscribed || st.Error == "" {
		t.Errorf("got %+v; want the error", st)
	}
	must(t, b.scene.Core.Up())
	b.reconcileNow(c)
	b.subscribed(c)
	b.poll(func() bool { return !b.alarmed(c, alarm.SubscriptionFailed) })
}

// TestSubscriptionOnHintPath: a core that names nobody and cannot authenticate
// announces a revoke on the hint path, and the next call is refused. The path is
// a secret: neither the access log, nor any other line, nor the admin API has it.
func TestSubscriptionOnHintPath(t *testing.T) {
	const secret = "7c41e9b05d3a48f2a6e1"
	b := newBed(t, coretest.Options{Dialect: "opencapif"})
	a := b.aef(b.scene.Core.AssignAEFID("north"), testbed.Provider)
	a.Profile, a.TokenKeys = "opencapif", "core_certificate"
	a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/hints/{env.CAPIF_TEST_HINT}"
	a.CallbackExtra = "hint_path /capif/hints/{env.CAPIF_TEST_HINT}"
	a.SiteExtra = "log"
	t.Setenv("CAPIF_TEST_HINT", secret)
	b.publish(a.ID)
	caddyfile, err := a.Caddyfile()
	must(t, err)
	caddyfile = strings.Replace(caddyfile, "\tcapif_callback {", "\tlog\n\tcapif_callback {", 1)
	caddyfile = strings.Replace(caddyfile, "\tadmin ", "\tdebug\n\tadmin ", 1)
	c, err := testbed.StartCaddy(b.ctx, testbed.CaddyOptions{Name: a.ID, Dir: a.Dir, Caddyfile: caddyfile, AdminAddress: a.Admin})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop()) })
	b.subscribed(c)

	witness := b.invoker("inv-witness", a.ID)
	b.want(a, "/location/1", b.token(witness, coretest.ScopeOf(a.ID, testbed.APIName)), http.StatusOK)
	inv := b.invoker("inv-1", a.ID)
	token := b.token(inv, coretest.ScopeOf(a.ID, testbed.APIName, testbed.OtherAPIName))
	b.want(a, "/location/1", token, http.StatusOK)
	_, err = b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: "inv-1", APIIDs: []string{testbed.APIID}})
	must(t, err)
	b.eventually(a, "/location/1", token, http.StatusForbidden)
	b.want(a, "/qos/1", token, http.StatusOK)
	must(t, b.scene.Core.Quiesce(b.ctx))

	hints := 0
	for _, e := range b.scene.Core.Sent(coretest.OpNotifyEvent) {
		if e.Status == http.StatusNoContent && strings.HasSuffix(e.URL, secret) {
			hints++
		}
	}
	if hints == 0 {
		t.Fatal("got no notification on the hint path; want some")
	}
	// A request beside it is logged: the access log of the site works.
	_, _, err = get2(b, "https://"+a.Callback+"/capif/hints/of-a-guess")
	must(t, err)
	b.poll(func() bool { return strings.Contains(c.Log(), "/capif/hints/of-a-guess") })
	if strings.Contains(c.Log(), secret) {
		t.Error("got the hint path in the log; want it secret")
	}
	for _, path := range []string{adminapi.PathStatus, "/config/"} {
		_, body, err := get2(b, "http://"+a.Admin+path)
		must(t, err)
		if strings.Contains(body, secret) {
			t.Errorf("%s: got the hint path; want it secret", path)
		}
	}
	if got := slices.Collect(maps.Values(b.scene.Core.Subscriptions())); !strings.HasSuffix(got[0].NotificationDestination, secret) {
		t.Errorf("got destination %s; want the placeholder replaced", got[0].NotificationDestination)
	}
}
