package caddyplugin_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// policyBed is an AEF whose routes have a policy, with API invokers that are
// bound to their certificates.
type policyBed struct {
	*bed
	a     *testbed.AEF
	caddy *testbed.Caddy
	// reloaded says that Caddy may close a connection that comes while a listener
	// changes hands: it is made anew, once.
	reloaded bool
}

func newPolicyBed(t *testing.T, options coretest.Options, route string, change func(*testbed.AEF)) *policyBed {
	t.Helper()
	b := &policyBed{bed: newBed(t, options)}
	b.a = b.aef(b.scene.Core.AssignAEFID("AEFa"), testbed.Provider)
	b.a.RouteExtra = route
	if change != nil {
		change(b.a)
	}
	b.publish(b.a.ID)
	return b
}

// bound has callers show their certificates.
func bound(a *testbed.AEF) { a.MutualTLS = true }

type policyCaller struct {
	*coretest.Invoker
	b     *policyBed
	id    string
	token string
}

func (b *policyBed) caller(id string) *policyCaller {
	b.t.Helper()
	inv := b.invoker(id, b.a.ID)
	return &policyCaller{Invoker: inv, b: b, id: id, token: b.token(inv, coretest.ScopeOf(b.a.ID, testbed.APIName, testbed.OtherAPIName))}
}

// at calls and returns the status and the body.
func (c *policyCaller) at(path string) (int, string) {
	c.b.t.Helper()
	if !c.b.a.MutualTLS {
		status, body, err := c.b.a.Call(c.b.ctx, path, c.token)
		if c.b.reloaded && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) {
			status, body, err = c.b.a.Call(c.b.ctx, path, c.token)
		}
		if err != nil {
			c.b.t.Error(err) // also from goroutines
		}
		return status, string(body)
	}
	status, body, err := c.Call(c.b.ctx, nil, "https://"+c.b.a.API+path, c.token)
	if err != nil {
		c.b.t.Error(err)
	}
	return status, body
}

func (c *policyCaller) want(path string, status int, kind string) {
	c.b.t.Helper()
	got, body := c.at(path)
	if got != status || !strings.Contains(body, kind) {
		c.b.t.Fatalf("%s at %s: got %d %s; want %d %s", c.id, path, got, body, status, kind)
	}
}

// passes calls n times, several at once, and returns how many passed.
func (c *policyCaller) passes(path string, n int) int {
	var passed atomic.Int64
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < n; i += 4 {
				if status, _ := c.at(path); status == http.StatusOK {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(passed.Load())
}

func (b *policyBed) revocations(invoker string) []revocation.Revocation {
	b.t.Helper()
	var list adminapi.RevocationList
	_, err := b.caddy.Admin(b.ctx, http.MethodGet, adminapi.PathRevocations+"?api_invoker_id="+invoker, nil, &list)
	must(b.t, err)
	return list.Revocations
}

func (b *policyBed) lift(invoker string) adminapi.LiftResponse {
	b.t.Helper()
	var lifted adminapi.LiftResponse
	status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{APIInvokerID: invoker, APIIDs: []string{testbed.APIID}}, &lifted)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("lift: got %d, %v; want 200", status, err)
	}
	return lifted
}

// TestTotalRevokes runs TS 23.222 8.23.3 as the standard means it: the policy of the
// core is exceeded by real calls, and the AEF revokes by itself.
func TestTotalRevokes(t *testing.T) {
	for _, dialect := range []string{"strict", "opencapif"} {
		t.Run(dialect, func(t *testing.T) {
			b := newPolicyBed(t, coretest.Options{Dialect: dialect}, "bind client_certificate\npolicy core", func(a *testbed.AEF) {
				bound(a)
				a.Profile = dialect
				if dialect == "opencapif" {
					a.TokenKeys = "core_certificate"
				}
			})
			core := b.scene.Core
			must(t, core.SetPolicies(b.a.ID, testbed.APIID, coretest.APIInvokerPolicy{APIInvokerID: "inv-1", AllowedTotalInvocations: 20}))
			b.caddy = b.start(b.a)
			one, two := b.caller("inv-1"), b.caller("inv-2")

			if got := one.passes("/location/1", 20); got != 20 {
				t.Fatalf("within the total: got %d passed; want 20", got)
			}
			if got := core.Count(coretest.OpRevoke); got != 0 {
				t.Errorf("at the total: got %d revokes; want none before it is exceeded", got)
			}
			one.want("/location/1", http.StatusForbidden, "over-limit")
			b.poll(func() bool { return core.Count(coretest.OpRevoke) > 0 })
			b.poll(func() bool { return b.revocations("inv-1")[0].State == revocation.StateRevoked })
			one.want("/location/1", http.StatusForbidden, "authorization-revoked")
			if got := one.passes("/location/1", 40); got != 0 {
				t.Errorf("revoked: got %d passed; want 0", got)
			}
			got := b.revocations("inv-1")
			if len(got) != 1 || got[0].Cause != coretest.CauseOverlimit || got[0].APIID != testbed.APIID || got[0].RequestedBy != "policy" || got[0].Source != revocation.SourcePolicy {
				t.Errorf("got %+v; want one, by the policy, with %s", got, coretest.CauseOverlimit)
			}
			revokes := core.Requests(coretest.OpRevoke)
			if len(revokes) != 1 || revokes[0].Cause != coretest.CauseOverlimit || revokes[0].InvokerID != "inv-1" {
				t.Errorf("at the core: got %+v; want one revoke of inv-1 with %s", revokes, coretest.CauseOverlimit)
			}
			if core.Authorized("inv-1", b.a.ID, testbed.APIID) {
				t.Error("got it still authorized at the core; want it revoked")
			}
			// Nobody else, and no other API.
			two.want("/location/1", http.StatusOK, "")
			one.want("/qos/1", http.StatusOK, "")

			// Authorized again and lifted: the count begins anew.
			must(t, one.PutContext(b.ctx, coretest.Entry(b.a.ID, testbed.APIID), coretest.Entry(b.a.ID, testbed.OtherAPIID)))
			lifted := b.lift("inv-1")
			want := []adminapi.Pair{{AEFID: b.a.ID, APIID: testbed.APIID}}
			if len(lifted.Lifted) == 0 || len(lifted.StillDenying) > 0 || fmt.Sprint(lifted.CountsBegunAnew) != fmt.Sprint(want) {
				t.Errorf("got %+v; want all lifted and the count begun anew", lifted)
			}
			if got := one.passes("/location/1", 19); got != 19 {
				t.Errorf("lifted: got %d passed; want 19", got)
			}
			one.want("/location/1", http.StatusOK, "")
			one.want("/location/1", http.StatusForbidden, "over-limit")
			b.poll(func() bool { return len(b.revocations("inv-1")) == 2 })
		})
	}
}

// TestUnboundTotalOnlyRefuses: who has a token in another's name can use up that
// one's calls, and no more.
func TestUnboundTotalOnlyRefuses(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy {\ntotal 5\nover_limit refuse\n}", nil)
	b.caddy = b.start(b.a)
	one := b.caller("inv-1")
	if got := one.passes("/location/1", 50); got != 5 {
		t.Errorf("got %d passed; want 5", got)
	}
	one.want("/location/1", http.StatusForbidden, "over-limit")
	if got := b.revocations("inv-1"); len(got) != 0 {
		t.Errorf("got %+v; want no revocation", got)
	}
	b.poll(func() bool { return len(b.lift("inv-1").CountsBegunAnew) == 1 }) // noted beside the calls
	if got := one.passes("/location/1", 50); got != 5 {
		t.Errorf("lifted: got %d passed; want 5", got)
	}
}

// TestUnboundTriggers: with the word, anybody's call revokes.
func TestUnboundTriggers(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy {\ntotal 1\nunbound_triggers\n}", nil)
	b.caddy = b.start(b.a)
	one := b.caller("inv-1")
	one.want("/location/1", http.StatusOK, "")
	one.want("/location/1", http.StatusForbidden, "over-limit")
	b.poll(func() bool {
		list := b.revocations("inv-1")
		return len(list) == 1 && list[0].State == revocation.StateRevoked
	})
}

// TestPoliciesShareTheBudget: what a route has spent of automatic_triggers is gone
// for policies, too. The call is refused all the same.
func TestPoliciesShareTheBudget(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy {\ntotal 1\nunbound_triggers\n}", func(a *testbed.AEF) {
		a.GlobalExtra = "automatic_triggers 1"
		a.SiteExtra = fmt.Sprintf("handle /probe {\n"+enforceLocation+"capif_trigger {\ncause UNEXPECTED_REASON\nwait\nunbound_triggers\n}\n}", "")
	})
	b.caddy = b.start(b.a)
	one, two := b.caller("inv-1"), b.caller("inv-2")
	two.want("/probe", http.StatusOK, "")
	one.want("/location/1", http.StatusOK, "")
	one.want("/location/1", http.StatusForbidden, "over-limit")
	b.poll(func() bool { return strings.Contains(b.caddy.Log(), string(alarm.AutomaticTriggersSpent)) })
	one.want("/location/1", http.StatusForbidden, "over-limit")
	b.wantMetric(b.a, "capif_automatic_triggers_total{outcome=\"accepted\"} 1\n", "capif_automatic_triggers_total{outcome=\"budget_spent\"} 1\n", "capif_policy_exhausted 1\n")
	if got := b.revocations("inv-1"); len(got) != 0 {
		t.Errorf("got %+v; want no revocation beyond the budget", got)
	}
	if got := b.revocations("inv-2"); len(got) != 1 {
		t.Errorf("got %+v; want the one within the budget", got)
	}
}

// TestBorrowedIdentityUsesNothingUp: calls with a token in another's name neither
// count nor revoke where the route is bound.
func TestBorrowedIdentityUsesNothingUp(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{Dialect: "opencapif"}, "bind client_certificate\npolicy {\ntotal 3\n}", func(a *testbed.AEF) {
		bound(a)
		a.Profile, a.TokenKeys = "opencapif", "core_certificate"
	})
	b.caddy = b.start(b.a)
	one, thief := b.caller("inv-1"), b.caller("inv-2")
	borrowed, err := thief.TokenAs(b.ctx, "inv-1", coretest.ScopeOf(b.a.ID, testbed.APIName))
	must(t, err)
	thief.token = borrowed
	for range 10 {
		thief.want("/location/1", http.StatusUnauthorized, "token-not-bound")
	}
	if got := one.passes("/location/1", 3); got != 3 {
		t.Errorf("got %d passed; want 3, nobody else's calls counted", got)
	}
	one.want("/location/1", http.StatusForbidden, "over-limit")
	b.poll(func() bool { return len(b.revocations("inv-1")) == 1 })
}

// TestRateAndTime refuse and revoke nobody.
func TestRateAndTime(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy {\nper_second 1\ninvoker inv-2 {\ntime_range - 2020-01-01T00:00:00Z\n}\ninvoker inv-3\n}", nil)
	b.caddy = b.start(b.a)
	one, two, three := b.caller("inv-1"), b.caller("inv-2"), b.caller("inv-3")
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+b.a.API+"/location/1", nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+one.token)
	statuses := map[int]int{}
	for range 30 {
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		must(t, response.Body.Close())
		statuses[response.StatusCode]++
		if response.StatusCode == http.StatusTooManyRequests && (response.Header.Get("Retry-After") != "1" || response.Header.Get("Www-Authenticate") != "") {
			t.Fatalf("got %v; want Retry-After 1 and no challenge", response.Header)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if statuses[http.StatusOK] == 0 || statuses[http.StatusOK]+statuses[http.StatusTooManyRequests] != 30 || statuses[http.StatusTooManyRequests] < 10 {
		t.Errorf("got %v; want some 200 and many 429", statuses)
	}
	two.want("/location/1", http.StatusForbidden, "outside-time-range")
	if got := three.passes("/location/1", 30); got != 30 {
		t.Errorf("one that is not limited: got %d passed; want 30", got)
	}
	for _, id := range []string{"inv-1", "inv-2"} {
		if got := b.revocations(id); len(got) != 0 {
			t.Errorf("%s: got %+v; want no revocation", id, got)
		}
	}
}

// TestPolicyFollowsTheCore: an event, with the list and without, and a hint have
// it read again; counts go on.
func TestPolicyFollowsTheCore(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy core {\nover_limit refuse\n}", func(a *testbed.AEF) {
		a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
		a.CallbackExtra = "hint_path " + hintPath
	})
	core := b.scene.Core
	b.caddy = b.start(b.a)
	b.poll(func() bool { return len(core.Subscriptions()) == 1 })
	one := b.caller("inv-1")
	one.want("/location/1", http.StatusOK, "")
	set := func(total int) {
		must(t, core.SetPolicies(b.a.ID, testbed.APIID, coretest.APIInvokerPolicy{APIInvokerID: "inv-1", AllowedTotalInvocations: total}))
	}
	until := func(path string, status int) {
		t.Helper()
		b.poll(func() bool { got, _ := one.at(path); return got == status })
	}
	set(30)
	until("/location/1", http.StatusForbidden)
	set(40) // ten more
	until("/location/1", http.StatusOK)
	if got := one.passes("/location/1", 60); got != 9 {
		t.Errorf("raised from 30 to 40: got %d more passed; want 9", got)
	}
	// Without a list, and by a hint that anybody could have sent.
	silent := core.SwallowNotifications()
	set(50)
	b.poll(func() bool { return silent.Hits() > 0 })
	silent.Clear()
	one.want("/location/1", http.StatusForbidden, "over-limit")
	response, err := core.Client(nil).Post("https://"+b.a.Callback+hintPath, "application/json", strings.NewReader(`{"subscriptionId":"x","events":"ACCESS_CONTROL_POLICY_UNAVAILABLE","eventDetail":{"accCtrlPolList":{"apiId":"`+testbed.APIID+`","apiInvokerPolicies":[]}}}`))
	must(t, err)
	must(t, response.Body.Close())
	until("/location/1", http.StatusOK)
	if got := one.passes("/location/1", 60); got != 9 {
		t.Errorf("after a hint: got %d more passed; want 9, by the core's list and not by the hint's", got)
	}
}

// TestPolicyOverReload: counts go on over reloads, restarts and kills.
func TestPolicyOverReload(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "policy {\ntotal 100\nover_limit refuse\n}", nil)
	b.caddy = b.start(b.a)
	one := b.caller("inv-1")
	if got := one.passes("/location/1", 20); got != 20 {
		t.Fatalf("got %d passed; want 20", got)
	}
	b.a.RouteExtra = "policy {\ntotal 60\nover_limit refuse\n}"
	text, err := b.a.Caddyfile()
	must(t, err)
	must(t, b.caddy.Reload(b.ctx, text))
	testbed.CloseIdleConnections() // Caddy is closing them
	b.reloaded = true
	if got := one.passes("/location/1", 20); got != 20 {
		t.Fatalf("after a reload: got %d passed; want 20", got)
	}
	b.reloaded = false
	must(t, b.caddy.Stop())
	testbed.CloseIdleConnections()
	b.caddy = b.start(b.a)
	if got := one.passes("/location/1", 10); got != 10 {
		t.Fatalf("after a restart: got %d passed; want 10", got)
	}
	must(t, b.caddy.Kill())
	testbed.CloseIdleConnections()
	b.caddy = b.start(b.a)
	if got := one.passes("/location/1", 50); got < 10-60/20 || got > 10 {
		t.Errorf("after a kill: got %d passed; want 7 to 10", got)
	}
}

// TestPolicyNeverRead: the core is there and its policy cannot be read.
func TestPolicyNeverRead(t *testing.T) {
	for words, want := range map[string]int{"over_limit refuse": http.StatusOK, "over_limit refuse\nrequired": http.StatusServiceUnavailable} {
		t.Run(words, func(t *testing.T) {
			b := newPolicyBed(t, coretest.Options{}, "policy core {\n"+words+"\n}", nil)
			fault := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetPolicies}, Status: http.StatusInternalServerError})
			b.caddy = b.start(b.a)
			one := b.caller("inv-1")
			one.want("/location/1", want, "")
			b.poll(func() bool { return strings.Contains(b.caddy.Log(), "policy_unread") })
			b.wantMetric(b.a, "capif_policy_reads_total ", "capif_policy_reads_failed_total ")
			if _, body, err := get2(b.bed, "http://"+b.a.Admin+"/metrics"); err != nil || strings.Contains(body, "\ncapif_policy_reads_failed_total 0\n") {
				t.Errorf("got %v and no failed read counted; want one", err)
			}
			fault.Clear()
			b.poll(func() bool { got, _ := one.at("/location/1"); return got == http.StatusOK })
		})
	}
}

// TestPolicyOfACoreWithoutOne: the O-RAN SC core knows no policies.
func TestPolicyOfACoreWithoutOne(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{Dialect: "oran"}, "policy core {\nover_limit refuse\nrequired\n}", func(a *testbed.AEF) {
		a.Profile, a.GlobalExtra = "oran", "invoker_claim azp clientId"
	})
	b.caddy = b.start(b.a)
	one := b.caller("inv-1")
	b.poll(func() bool { got, _ := one.at("/location/1"); return got == http.StatusOK })
	if strings.Contains(b.caddy.Log(), "policy_unread") {
		t.Error("got an alarm; want none, for there is no policy")
	}
}

// TestPolicyOfAMonitoringRoute counts, and neither refuses nor revokes.
func TestPolicyOfAMonitoringRoute(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, "mode monitor\npolicy {\ntotal 3\n}", nil)
	b.caddy = b.start(b.a)
	one := b.caller("inv-1")
	if got := one.passes("/location/1", 20); got != 20 {
		t.Errorf("got %d passed; want 20", got)
	}
	b.poll(func() bool { return strings.Contains(b.caddy.Log(), `"over_limit"`) })
	b.poll(func() bool { // noted beside the calls
		_, body, err := get2(b.bed, "http://"+b.a.Admin+"/metrics")
		return err == nil && strings.Contains(body, "\ncapif_policy_exhausted 1\n")
	})
	if got := b.revocations("inv-1"); len(got) != 0 {
		t.Errorf("got %+v; want no revocation", got)
	}
}
