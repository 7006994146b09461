package caddyplugin_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// enforceLocation is the capif_enforce of the API location.
const enforceLocation = "capif_enforce {\napi_id 8f36c0\napi_name location\n%s\n}\n"

// triggerBed is an AEF with routes that trigger, in front of a service API that
// answers 429 below /limited.
func triggerBed(t *testing.T, site string) *life {
	t.Helper()
	l := newLife(t)
	l.scene.Backend.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/limited") {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, err := fmt.Fprintln(w, "served", r.URL.Path)
		if err != nil {
			t.Error(err)
		}
	})
	l.aef.SiteExtra += "\n" + l.withBackend(site)
	l.caddy = l.start(l.aef)
	return l
}

func (l *life) withBackend(site string) string {
	return strings.NewReplacer(
		"ENFORCE_BOUND", fmt.Sprintf(enforceLocation, "bind client_certificate"),
		"ENFORCE", fmt.Sprintf(enforceLocation, ""),
		"BACKEND", l.aef.BackendAddress,
		"API_PORT", l.aef.APIPort(),
	).Replace(site)
}

func (l *life) revocations(invoker string) []revocation.Revocation {
	l.t.Helper()
	var page adminapi.RevocationList
	status, err := l.caddy.Admin(l.ctx, http.MethodGet, adminapi.PathRevocations+"?limit=1000&api_invoker_id="+invoker, nil, &page)
	if err != nil || status != http.StatusOK {
		l.t.Fatalf("revocations: got %v, %v; want 200", status, err)
	}
	return page.Revocations
}

func (l *life) outcomes(outcome string) float64 {
	l.t.Helper()
	return l.metric(fmt.Sprintf("capif_automatic_triggers_total{outcome=%q}", outcome))
}

func (l *life) wantOutcomes(want map[string]float64) {
	l.t.Helper()
	for outcome, n := range want {
		if got := l.outcomes(outcome); got != n {
			l.t.Errorf("%s: got %v; want %v", outcome, got, n)
		}
	}
}

// TestTriggerByMatcher: a call that a matcher finds has its API invoker revoked,
// at the core, too, and nobody else.
func TestTriggerByMatcher(t *testing.T) {
	l := triggerBed(t, `handle /location/watched/* {
		ENFORCE
		@probing path */admin
		capif_trigger @probing {
			cause UNEXPECTED_REASON
			reason "asked for {http.request.uri.path}"
			respond 403
			wait
			unbound_triggers
		}
		reverse_proxy BACKEND
	}
	handle /location/all/* {
		ENFORCE
		capif_trigger {
			cause OVERLIMIT_USAGE
			name everything
			api all
			unbound_triggers
		}
		reverse_proxy BACKEND
	}
	handle /location/dry/* {
		ENFORCE
		capif_trigger {
			cause OVERLIMIT_USAGE
			respond 403
			dry_run
			unbound_triggers
		}
		reverse_proxy BACKEND
	}
	handle /location/open/* {
		capif_trigger {
			cause OVERLIMIT_USAGE
			respond 429
		}
		reverse_proxy BACKEND
	}`)
	bad, good := l.newInvoker(), l.newInvoker()
	badToken, goodToken := l.tokenOf(bad), l.tokenOf(good)
	for range 3 {
		l.want(l.aef, "/location/dry/1", badToken, http.StatusOK)
	}
	l.want(l.aef, "/location/open/1", badToken, http.StatusTooManyRequests) // no capif_enforce: nobody
	l.want(l.aef, "/location/watched/1", badToken, http.StatusOK)
	l.want(l.aef, "/location/watched/admin", "", http.StatusUnauthorized) // refused before
	l.wantOutcomes(map[string]float64{"accepted": 0, "dry_run": 1, "already": 2, "no_invoker": 1})

	status, body, err := l.call("/location/watched/admin", badToken)
	if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), `{"type":"about:blank","title":"Forbidden","status":403}`) {
		t.Fatalf("got %v, %v, %s; want 403 with a plain problem document", status, err, body)
	}
	status, body, err = l.call("/location/1", badToken) // at once: it waited
	if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), "authorization-revoked") {
		t.Fatalf("got %v, %v, %s; want it revoked", status, err, body)
	}
	l.want(l.aef, "/location/watched/admin", badToken, http.StatusForbidden)
	l.want(l.aef, "/qos/1", badToken, http.StatusOK)
	l.want(l.aef, "/location/watched/1", goodToken, http.StatusOK)
	asked := l.received(coretest.OpRevoke)
	if !strings.Contains(string(asked.Body), "UNEXPECTED_REASON") || !strings.Contains(string(asked.Body), testbed.APIID) {
		t.Errorf("the core was asked %s; want the cause and the apiId", asked.Body)
	}
	l.poll(func() bool { return l.revocations(bad)[0].State == revocation.StateRevoked })
	made := l.revocations(bad)
	if r := made[0]; len(made) != 1 || r.RequestedBy != "route location" || r.Source != revocation.SourceRoute || r.Reason != "asked for /location/watched/admin" || !r.Hold || r.APIID != testbed.APIID {
		t.Errorf("got %+v; want one revocation by route location, with the path as the reason", made)
	}

	l.want(l.aef, "/location/all/1", goodToken, http.StatusOK) // it is passed on, and revoked beside
	l.eventually(l.aef, "/qos/1", goodToken, http.StatusForbidden)
	l.poll(func() bool { return len(l.revocations(good)) > 0 }) // it blocks first, and is on disk then
	if made := l.revocations(good); len(made) != 1 || !made[0].AllAPIs || made[0].RequestedBy != "route everything" {
		t.Errorf("got %+v; want one revocation of all APIs by route everything", made)
	}
	l.wantOutcomes(map[string]float64{"accepted": 2, "failed": 0, "unbound": 0})

	// Lifted, it is triggered again.
	must(t, l.scene.Core.Authorize(bad, "", coretest.Entry(l.aef.ID, testbed.APIID)))
	status, err = l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{APIInvokerID: bad, APIIDs: []string{testbed.APIID}}, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("lift: got %v, %v; want 200", status, err)
	}
	l.want(l.aef, "/location/1", badToken, http.StatusOK)
	l.want(l.aef, "/location/watched/admin", badToken, http.StatusForbidden)
	if made := l.revocations(bad); len(made) != 2 {
		t.Errorf("got %d revocations after the lift; want 2", len(made))
	}
}

// TestTriggerByAnswer: what an upstream answers is the trigger; its answer goes
// to the caller.
func TestTriggerByAnswer(t *testing.T) {
	const trigger = `capif_trigger {
		cause OVERLIMIT_USAGE
		unbound_triggers
	}
	`
	for _, tt := range []struct{ name, site string }{
		{"intercept", `handle /location/answer/* {
			ENFORCE
			intercept {
				@limited status 429
				handle_response @limited {
					` + trigger + `
				}
			}
			reverse_proxy BACKEND
		}`},
		{"handle_response", `handle /location/answer/* {
			ENFORCE
			reverse_proxy BACKEND {
				@limited status 429
				handle_response @limited {
					` + trigger + `
					copy_response
				}
			}
		}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := triggerBed(t, tt.site)
			bad, good := l.tokenOf(l.newInvoker()), l.tokenOf(l.newInvoker())
			l.want(l.aef, "/location/answer/1", bad, http.StatusOK)
			status, body, err := l.call("/location/answer/limited", bad)
			if err != nil || status != http.StatusTooManyRequests || !strings.Contains(string(body), "served /location/answer/limited") {
				t.Errorf("got %v, %v, %s; want the answer of the service API", status, err, body)
			}
			l.eventually(l.aef, "/location/answer/1", bad, http.StatusForbidden)
			l.want(l.aef, "/location/answer/1", good, http.StatusOK)
			l.wantOutcomes(map[string]float64{"accepted": 1})
		})
	}
}

// TestRefusedCallsTriggerNothing: a call that capif_enforce hands to
// handle_errors is nobody's, also where another capif_enforce let it in before.
func TestRefusedCallsTriggerNothing(t *testing.T) {
	l := triggerBed(t, `handle /location/twice/* {
		route {
			ENFORCE
			capif_enforce {
				api_id 91b2d4
				api_name qos
				pass_errors
			}
			reverse_proxy BACKEND
		}
	}
	handle_errors {
		capif_trigger {
			cause UNEXPECTED_REASON
			respond 403
			unbound_triggers
		}
	}`)
	id := l.newInvoker()
	token, err := l.scene.Core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: coretest.ScopeOf(l.aef.ID, testbed.APIName)})
	must(t, err)
	l.want(l.aef, "/location/twice/1", token, http.StatusForbidden)
	l.wantOutcomes(map[string]float64{"no_invoker": 1, "accepted": 0})
	l.want(l.aef, "/location/1", token, http.StatusOK)
}

// TestTriggerByError: another handler refuses the call with an error after it was
// let in.
func TestTriggerByError(t *testing.T) {
	l := triggerBed(t, `handle /location/error/* {
		ENFORCE
		error /location/error/over 429
		reverse_proxy BACKEND
	}
	handle_errors 429 {
		capif_trigger {
			cause OVERLIMIT_USAGE
			reason "status {err.status_code}"
			respond 429
			wait
			unbound_triggers
		}
	}`)
	id := l.newInvoker()
	token := l.tokenOf(id)
	l.want(l.aef, "/location/error/1", token, http.StatusOK)
	l.want(l.aef, "/location/error/over", token, http.StatusTooManyRequests)
	l.want(l.aef, "/location/error/1", token, http.StatusForbidden)
	if made := l.revocations(id); len(made) != 1 || made[0].Reason != "status 429" {
		t.Errorf("got %+v; want one revocation with the status as the reason", made)
	}
}

// TestTriggerOfBoundCalls: with bind no further word is needed, and a borrowed
// identity has nobody revoked.
func TestTriggerOfBoundCalls(t *testing.T) {
	b := newRuleBed(t, "opencapif", func(a *testbed.AEF) {
		a.Profile, a.TokenKeys, a.MutualTLS = "opencapif", "core_certificate", true
		a.SiteExtra = fmt.Sprintf("handle /location/probe {\n"+enforceLocation+"capif_trigger {\ncause UNEXPECTED_REASON\nrespond 403\nwait\n}\n}", "bind client_certificate")
	})
	thief := b.invoker("inv-2", b.a.ID)
	borrowed, err := thief.TokenAs(b.ctx, "inv-1", coretest.ScopeOf(b.a.ID, testbed.APIName))
	must(t, err)
	for _, tt := range []struct {
		name   string
		caller *coretest.Invoker
		path   string
		token  string
		status int
		kind   string
	}{
		{"borrowed identity", thief, "/location/probe", borrowed, http.StatusUnauthorized, "token-not-bound"},
		{"nothing happened", b.inv, "/location/1", b.token, http.StatusOK, ""},
		{"own token", b.inv, "/location/probe", b.token, http.StatusForbidden, "about:blank"},
		{"revoked", b.inv, "/location/1", b.token, http.StatusForbidden, "authorization-revoked"},
	} {
		status, body, err := tt.caller.Call(b.ctx, nil, "https://"+b.a.API+tt.path, tt.token)
		if err != nil || status != tt.status || !strings.Contains(body, tt.kind) {
			t.Fatalf("%s: got %v, %v, %s; want %v %s", tt.name, status, err, body, tt.status, tt.kind)
		}
	}
}

// TestTriggerStorm: a matcher that hits every call of 1,000 API invokers cuts off
// as many as the budget says, over reloads, too.
func TestTriggerStorm(t *testing.T) {
	const invokers, budget = 1000, 60
	l := triggerBed(t, `handle /location/storm/* {
		ENFORCE
		capif_trigger {
			cause OVERLIMIT_USAGE
			unbound_triggers
		}
		reverse_proxy BACKEND
	}`)
	tokens := make([]string, invokers)
	for i := range tokens {
		tokens[i] = l.tokenOf(l.newInvoker())
	}
	began := time.Now()
	refused := l.storm(tokens, "/location/storm/1")
	l.reload(l.aef) // does not refill the budget
	refused += l.storm(tokens, "/location/storm/2")
	l.poll(func() bool { return float64(len(l.revocations(""))) == l.outcomes("accepted") }) // they are handed over beside the calls
	blocked := l.storm(tokens, "/location/1")                                                // no trigger here
	// In any minute at most the budget: on a machine that needs longer, as
	// many budgets as minutes have begun.
	most := budget * (1 + int(time.Since(began)/time.Minute))
	accepted := int(l.outcomes("accepted"))
	if accepted < budget || accepted > most {
		t.Errorf("accepted: got %v; want %v to %v", accepted, budget, most)
	}
	if blocked != accepted {
		t.Errorf("blocked API invokers: got %v of %v; want %v", blocked, invokers, accepted)
	}
	seen := float64(2*invokers - refused)
	if got := l.outcomes("accepted") + l.outcomes("already") + l.outcomes("budget_spent"); got < seen || got > seen+l.lost {
		t.Errorf("outcomes of the calls that came to the trigger: got %v; want %v (%v answers lost)", got, seen, l.lost)
	}
	if made := l.revocations(""); len(made) != accepted {
		t.Errorf("revocations: got %v; want %v", len(made), accepted)
	}
	l.poll(func() bool { return l.metric("capif_revocations_pending") == 0 })
	if asked := len(l.scene.Core.Requests(coretest.OpRevoke)); asked != accepted {
		t.Errorf("requests to the core: got %v; want %v", asked, accepted)
	}
	if got := l.metric(fmt.Sprintf("capif_alarm{alarm=%q}", alarm.AutomaticTriggersSpent)); got != 1 {
		t.Errorf("alarm: got %v; want it raised", got)
	}
	if lines := strings.Count(l.caddy.Log(), "call triggers no revocation"); lines > 200 {
		t.Errorf("log lines about calls that trigger nothing: got %v; want few", lines)
	}
}

// storm sends one call with each token and returns how many were refused. Calls
// whose connection ends in a reload are sent again, as those of life are.
func (l *life) storm(tokens []string, path string) int {
	l.t.Helper()
	var mu sync.Mutex
	refused := 0
	var all sync.WaitGroup
	work := make(chan string)
	for range 8 {
		all.Go(func() {
			for token := range work {
				status, body, err := l.aef.Call(l.ctx, path, token)
				lost := 0.0
				for ; err != nil && lost < 5; lost++ {
					status, body, err = l.aef.Call(l.ctx, path, token)
				}
				mu.Lock()
				l.lost += lost
				switch {
				case err == nil && status == http.StatusForbidden:
					refused++
				case err != nil || status != http.StatusOK:
					l.t.Errorf("call: got %v, %v, %s; want 200 or 403", status, err, body)
				}
				mu.Unlock()
			}
		})
	}
	for _, token := range tokens {
		work <- token
	}
	close(work)
	all.Wait()
	return refused
}

// TestEchoDoesNotAmplify: the core repeats the revoke back to this AEF, many
// times, while the API invoker goes on calling: one trigger, one request.
func TestEchoDoesNotAmplify(t *testing.T) {
	l := triggerBed(t, `handle /location/echo/* {
		ENFORCE
		capif_trigger {
			cause OVERLIMIT_USAGE
			unbound_triggers
		}
		reverse_proxy BACKEND
	}`)
	id := l.newInvoker()
	token := l.tokenOf(id)
	l.want(l.aef, "/location/echo/1", token, http.StatusOK)
	l.eventually(l.aef, "/location/echo/1", token, http.StatusForbidden)
	for range 20 {
		l.tell(id)
		l.want(l.aef, "/location/echo/1", token, http.StatusForbidden)
	}
	l.poll(func() bool { return l.metric("capif_revocations_pending") == 0 })
	if made := l.revocations(id); len(made) != 1 {
		t.Errorf("revocations: got %v; want 1", len(made))
	}
	if asked := len(l.scene.Core.Requests(coretest.OpRevoke)); asked != 1 {
		t.Errorf("requests to the core: got %v; want 1", asked)
	}
	l.wantOutcomes(map[string]float64{"accepted": 1})
	if got := l.metric("capif_denied_scopes"); got != 2 {
		t.Errorf("denied scopes: got %v; want 2, the pair and what the core named without an aefId", got)
	}
}

// TestUnboundTriggersDoNotLoad: where a capif_trigger can act on calls that are
// not bound to a client certificate, the configuration is refused, and the one
// that runs goes on.
func TestUnboundTriggersDoNotLoad(t *testing.T) {
	const trigger = "capif_trigger {\ncause OVERLIMIT_USAGE\n}\n"
	const proxy = "reverse_proxy BACKEND\n"
	const answered = "intercept {\nhandle_response {\n" + trigger + "}\n}\n"
	l := triggerBed(t, "")
	for _, tt := range []struct {
		name, site string
		loads      bool
	}{
		{"bound", "handle /a/* {\nENFORCE_BOUND" + trigger + proxy + "}", true},
		{"not bound", "handle /a/* {\nENFORCE" + trigger + proxy + "}", false},
		{"not bound, with the word", "handle /a/* {\nENFORCE" + "capif_trigger {\ncause OVERLIMIT_USAGE\nunbound_triggers\n}\n" + proxy + "}", true},
		{"no capif_enforce", "handle /a/* {\n" + trigger + proxy + "}", true},
		{"bound beside not bound", "handle /a/* {\nENFORCE_BOUND" + trigger + proxy + "}\nhandle /b/* {\nENFORCE" + proxy + "}", true},
		{"not bound in a handle before", "handle /a/1/* {\nENFORCE" + proxy + "}\nhandle /a/* {\nENFORCE_BOUND" + trigger + proxy + "}", true},
		{"the second one is bound", "route /a/* {\nENFORCE" + "ENFORCE_BOUND" + trigger + proxy + "}", true},
		{"the second one is not bound", "route /a/* {\nENFORCE_BOUND" + "ENFORCE" + trigger + proxy + "}", false},
		{"after a block without handle", "route /a/* {\nroute /a/b {\nENFORCE}\n" + trigger + proxy + "}", false},
		{"on an answer of the upstream", "handle /a/* {\nENFORCE" + "reverse_proxy BACKEND {\nhandle_response {\n" + trigger + "copy_response\n}\n}\n}", false},
		{"on an intercepted answer", "handle /a/* {\nENFORCE" + answered + proxy + "}", false},
		{"on a bound intercepted answer", "handle /a/* {\nENFORCE_BOUND" + answered + proxy + "}", true},
		{"intercept before capif_enforce", "route /a/* {\n" + answered + "ENFORCE" + proxy + "}", false},
		{"intercept around the handles", answered, false},
		{"on errors", "handle_errors {\n" + trigger + "}", false},
		{"not bound in another site", "handle /a/* {\nENFORCE_BOUND" + trigger + proxy + "}\n}\nhttp://a-longer-name-comes-first.example:API_PORT {\n", true},
		{"in a named route", "handle /a/* {\nENFORCE" + "invoke triggers\n}", false},
		{"in a named route, bound", "handle /a/* {\nENFORCE_BOUND" + "invoke triggers\n}", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := *l.aef
			defer func() { *l.aef = before }()
			l.aef.SiteExtra += "\n" + l.withBackend(tt.site)
			if strings.Contains(tt.site, "invoke") {
				// The template closes what is open at the end of its callback.
				l.aef.CallbackExtra = "\n}\n}\n&(triggers) {\nroute {\n" + trigger
			}
			err := l.caddy.Reload(l.ctx, l.caddyfile(l.aef))
			const says = "of API location before it has no `bind client_certificate`"
			switch {
			case tt.loads && err != nil:
				t.Errorf("got %v; want it to load", err)
			case !tt.loads && (err == nil || !strings.Contains(err.Error(), says)):
				t.Errorf("got %v; want an error with %q", err, says)
			}
		})
	}
	l.want(l.aef, lifePath, l.tokenOf(l.newInvoker()), http.StatusOK)
}
