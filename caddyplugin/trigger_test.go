package caddyplugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/reconcile"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// adminBed is one Caddy whose admin endpoint is asked, and the core behind it.
type adminBed struct {
	*bed
	aef   *testbed.AEF
	caddy *testbed.Caddy
}

// newAdminBed starts it; set may change the AEF's settings, and prepare the scene
// that the AEF is part of.
func newAdminBed(t *testing.T, set func(*adminBed)) *adminBed {
	t.Helper()
	b := &adminBed{bed: newBed(t, coretest.Options{})}
	b.aef = b.bed.aef("aef-a", testbed.Provider)
	other := b.bed.aef("aef-b", testbed.Provider)
	if set != nil {
		set(b)
	}
	b.publish(b.aef.ID, other.ID)
	b.caddy = b.start(b.aef)
	return b
}

// sub runs a subtest that fails for itself.
func (b *adminBed) sub(t *testing.T, name string, run func()) {
	t.Run(name, func(t *testing.T) {
		parent := b.t
		b.t = t
		defer func() { b.t = parent }()
		run()
	})
}

// granted makes an API invoker that both AEFs may serve, and a token of it.
func (b *adminBed) granted(id string) string {
	b.t.Helper()
	core := b.scene.Core
	must(b.t, core.AddInvoker(id))
	var entries []coretest.SecurityInformation
	for _, aef := range []string{"aef-a", "aef-b"} {
		for _, api := range []string{testbed.APIID, testbed.OtherAPIID} {
			entries = append(entries, coretest.Entry(aef, api))
		}
	}
	must(b.t, core.Authorize(id, "", entries...))
	token, err := core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: "3gpp#aef-a:location,qos;aef-b:location,qos"})
	must(b.t, err)
	return token
}

type adminAnswer struct {
	status int
	header http.Header
	body   []byte
}

// send sends a body as it is to the admin endpoint.
func (b *adminBed) send(method, path string, body []byte) adminAnswer {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.ctx, method, "http://"+b.aef.Admin+path, bytes.NewReader(body))
	must(b.t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := b.scene.Core.Client(nil).Do(request)
	must(b.t, err)
	data, err := io.ReadAll(response.Body)
	must(b.t, err)
	must(b.t, response.Body.Close())
	return adminAnswer{response.StatusCode, response.Header, data}
}

func (b *adminBed) get(path string, into any) {
	b.t.Helper()
	status, err := b.caddy.Admin(b.ctx, http.MethodGet, path, nil, into)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("GET %s: got %v, %v; want 200", path, status, err)
	}
}

// wantError fails unless the answer is an error of the admin API with this text.
func (b *adminBed) wantError(got adminAnswer, status int, text string) {
	b.t.Helper()
	var e struct{ Error string }
	err := json.Unmarshal(got.body, &e)
	if err != nil || got.status != status || !strings.Contains(e.Error, text) {
		b.t.Errorf("got %v, %s, %v; want %v with %q", got.status, got.body, err, status, text)
	}
	if got := got.header.Get("Content-Type"); got != "application/json" {
		b.t.Errorf("content type: got %q; want application/json", got)
	}
}

// stored is all that is kept and all that went to the core: a refused request
// changes none of it.
func (b *adminBed) stored() string {
	b.t.Helper()
	claims, revocations := b.send(http.MethodGet, adminapi.PathClaims, nil), b.send(http.MethodGet, adminapi.PathRevocations, nil)
	if claims.status != http.StatusOK || revocations.status != http.StatusOK {
		b.t.Fatalf("lists: got %v, %v; want 200", claims.status, revocations.status)
	}
	core := b.scene.Core
	return fmt.Sprintf("claims %s\nrevocations %s\ncore: %d revokes, %d reads", claims.body, revocations.body,
		core.Count(coretest.OpRevoke), core.Count(coretest.OpGetContext))
}

func (b *adminBed) lift(request adminapi.LiftRequest) adminapi.LiftResponse {
	b.t.Helper()
	var answer adminapi.LiftResponse
	status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathLifts, request, &answer)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("lift: got %v, %v; want 200", status, err)
	}
	return answer
}

// TestBadRequests: each is answered with a sentence that says what is wrong;
// nothing is stored and nothing is sent to the core.
func TestBadRequests(t *testing.T) {
	b := newAdminBed(t, nil)
	token := b.granted("inv-1")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	b.granted("inv-0")
	b.trigger(b.caddy, revokeRequest("inv-0"), http.StatusOK) // so that the lists are not empty

	var many []string
	for i := range adminapi.MaxAPIIDs + 1 {
		many = append(many, fmt.Sprintf(`"api-%d"`, i))
	}
	tooMany := strings.Join(many, ",")
	const post, get = http.MethodPost, http.MethodGet
	triggers := []struct {
		name, body string
		status     int
		want       string
	}{
		{"no body", ``, 400, "the request is not valid"},
		{"no JSON", `api_invoker_id=inv-1`, 400, "the request is not valid"},
		{"cut off", `{"api_invoker_id":"inv-1"`, 400, "the request is not valid"},
		{"a list", `[]`, 400, "the request is not valid"},
		{"null", `null`, 400, "api_invoker_id is missing"},
		{"nothing in it", `{}`, 400, "api_invoker_id is missing"},
		{"no api_invoker_id", `{"api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`, 400, "api_invoker_id is missing"},
		{"no api_ids", `{"api_invoker_id":"inv-1","cause":"OVERLIMIT_USAGE"}`, 400, "api_ids is missing: give 1 to 100 apiIds, or all_apis"},
		{"empty api_ids", `{"api_invoker_id":"inv-1","api_ids":[],"cause":"OVERLIMIT_USAGE"}`, 400, "api_ids is missing: give 1 to 100 apiIds, or all_apis"},
		{"an empty apiId", `{"api_invoker_id":"inv-1","api_ids":["8f36c0",""],"cause":"OVERLIMIT_USAGE"}`, 400, "api_ids holds an empty entry"},
		{"101 api_ids", `{"api_invoker_id":"inv-1","api_ids":[` + tooMany + `],"cause":"OVERLIMIT_USAGE"}`, 400, "api_ids has 101 entries; at most 100 are allowed"},
		{"api_ids and all_apis", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"all_apis":true,"cause":"OVERLIMIT_USAGE"}`, 400, "api_ids and all_apis are both given"},
		{"no cause", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"]}`, 400, "cause is missing"},
		{"foreign aef_id", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"aef_id":"aef-b","cause":"OVERLIMIT_USAGE"}`, 400, `aef_id "aef-b" is not hosted here; hosted: aef-a`},
		{"unknown field", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","force":true}`, 400, `unknown field "force"`},
		{"a field of the standard", `{"apiInvokerId":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`, 400, `unknown field "apiInvokerId"`},
		{"api_ids mistyped", `{"api_invoker_id":"inv-1","api_ids":"8f36c0","cause":"OVERLIMIT_USAGE"}`, 400, "api_ids"},
		{"api_invoker_id mistyped", `{"api_invoker_id":1,"api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`, 400, "api_invoker_id"},
		{"hold mistyped", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","hold":"false"}`, 400, "hold"},
		{"all_aefs mistyped", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","all_aefs":1}`, 400, "all_aefs"},
		{"something behind it", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"} {}`, 400, "something follows the JSON object"},
		{"a control character", `{"api_invoker_id":"inv\u0000-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`, 400, "control character"},
		{"a control character in the last apiId", `{"api_invoker_id":"inv-1","api_ids":["8f36c0","9\n"],"cause":"OVERLIMIT_USAGE"}`, 400, "control character"},
		{"a long id", `{"api_invoker_id":"` + strings.Repeat("i", 1025) + `","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`, 400, "longer than 1024 bytes"},
		{"a long reason", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","reason":"` + strings.Repeat("r", 1001) + `"}`, 400, "reason is longer than 1000 bytes"},
		{"a body of 2 MiB", `{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","reason":"` + strings.Repeat("r", 2<<20) + `"}`, 413, "longer than 1048576 bytes"},
	}
	for _, tt := range triggers {
		b.sub(t, "trigger/"+tt.name, func() {
			b.refused(post, adminapi.PathRevocations, tt.body, tt.status, tt.want)
		})
	}
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"lift/nothing in it", post, adminapi.PathLifts, `{}`, 400, "api_invoker_id is missing"},
		{"lift/no api_ids", post, adminapi.PathLifts, `{"api_invoker_id":"inv-0"}`, 400, "api_ids is missing"},
		{"lift/both", post, adminapi.PathLifts, `{"api_invoker_id":"inv-0","api_ids":["8f36c0"],"all_apis":true}`, 400, "both given"},
		{"lift/101 api_ids", post, adminapi.PathLifts, `{"api_invoker_id":"inv-0","api_ids":[` + tooMany + `]}`, 400, "101 entries"},
		{"lift/foreign aef_id", post, adminapi.PathLifts, `{"api_invoker_id":"inv-0","all_apis":true,"aef_id":"aef-b"}`, 400, "not hosted here"},
		{"lift/unknown field", post, adminapi.PathLifts, `{"api_invoker_id":"inv-0","all_apis":true,"cause":"OVERLIMIT_USAGE"}`, 400, `unknown field "cause"`},
		{"method/delete revocations", http.MethodDelete, adminapi.PathRevocations, ``, 405, "method DELETE is not allowed here; use GET or POST"},
		{"method/post one revocation", post, adminapi.PathRevocations + "/rv-1", `{}`, 405, "use GET"},
		{"method/put claims", http.MethodPut, adminapi.PathClaims, `{}`, 405, "use GET"},
		{"method/get lifts", get, adminapi.PathLifts, ``, 405, "use POST"},
		{"method/post status", post, adminapi.PathStatus, `{}`, 405, "use GET"},
		{"page/limit 0", get, adminapi.PathClaims + "?limit=0", ``, 400, `limit "0" is not a number from 1 to`},
		{"page/limit is a word", get, adminapi.PathRevocations + "?limit=all", ``, 400, `limit "all" is not a number`},
		{"page/no cursor of claims", get, adminapi.PathClaims + "?after=%21", ``, 400, `after "!" is not a cursor`},
		{"page/no cursor of revocations", get, adminapi.PathRevocations + "?before=x", ``, 400, `before "x" is not a number`},
		{"id/unknown", get, adminapi.PathRevocations + "/rv-none-1", ``, 404, `no revocation "rv-none-1"`},
		{"id/with a slash", get, adminapi.PathRevocations + "/" + url.PathEscape("rv/../1"), ``, 404, `no revocation "rv/../1"`},
	} {
		b.sub(t, tt.name, func() { b.refused(tt.method, tt.path, tt.body, tt.status, tt.want) })
	}
	b.want(b.aef, "/location/1", token, http.StatusOK)
}

func (b *adminBed) refused(method, path, body string, status int, want string) {
	b.t.Helper()
	before := b.stored()
	got := b.send(method, path, []byte(body))
	b.wantError(got, status, want)
	if status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
		b.t.Error("got no Allow beside 405; want it")
	}
	if after := b.stored(); after != before {
		b.t.Errorf("got stored or sent:\n%s\nwant as before:\n%s", after, before)
	}
}

// TestTriggers: what a trigger does besides the plain case.
func TestTriggers(t *testing.T) {
	b := newAdminBed(t, nil)
	for name, run := range map[string]func(*adminBed){
		"ids with a slash": testIDsWithASlash,
		"unknown invoker":  testUnknownInvoker,
		"repeated":         testRepeatedTrigger,
		"all APIs":         testAllAPIs,
		"without hold":     testWithoutHold,
		"lift":             testLift,
		"lists":            testLists,
	} {
		b.sub(t, name, func() { run(b) })
	}
}

// testIDsWithASlash: an id is whatever the core says, and stays one segment of
// a path.
func testIDsWithASlash(b *adminBed) {
	const invoker, api = "inv/slash?a=b#c%2F d", "api/../x"
	core := b.scene.Core
	must(b.t, core.AddInvoker(invoker))
	must(b.t, core.PublishAPI(coretest.API{ID: api, Name: "odd", AEFIDs: []string{"aef-a"}}))
	must(b.t, core.Authorize(invoker, "", coretest.Entry("aef-a", api), coretest.Entry("aef-a", testbed.APIID)))
	answer := b.trigger(b.caddy, adminapi.RevocationRequest{APIInvokerID: invoker, APIIDs: []string{api}, Cause: coretest.CauseOverlimit}, http.StatusOK)
	r := answer.Revocations[0]
	if r.State != revocation.StateRevoked || r.InvokerID != invoker || r.APIID != api || core.Authorized(invoker, "aef-a", api) || !core.Authorized(invoker, "aef-a", testbed.APIID) {
		b.t.Fatalf("got %+v; want just this API revoked", r)
	}
	requests := core.Requests(coretest.OpRevoke)
	last := requests[len(requests)-1]
	var body coretest.SecurityNotification
	must(b.t, last.Decode(&body))
	if want := "/trustedInvokers/" + url.PathEscape(invoker) + "/delete"; !strings.HasSuffix(last.URL, want) || body.APIInvokerID != invoker || !slices.Equal(body.APIIDs, []string{api}) {
		b.t.Errorf("got %s with %+v; want it to end in %s", last.URL, body, want)
	}
	var one revocation.Revocation
	b.get(adminapi.PathRevocations+"/"+url.PathEscape(r.ID), &one)
	if one.ID != r.ID || one.InvokerID != invoker || one.State != revocation.StateRevoked || one.DecidedAt.IsZero() {
		b.t.Errorf("got %+v; want the same revocation, decided", one)
	}
	var claims adminapi.ClaimList
	b.get(adminapi.PathClaims+"?api_invoker_id="+url.QueryEscape(invoker), &claims)
	if len(claims.Claims) != 1 || claims.Claims[0].API != api || claims.Claims[0].Revocation != r.ID {
		b.t.Errorf("got %+v; want the claim of this revocation", claims)
	}
}

// testUnknownInvoker: not an error. The core has nothing to revoke; the block is
// set all the same.
func testUnknownInvoker(b *adminBed) {
	sent := b.scene.Core.Count(coretest.OpRevoke)
	answer := b.trigger(b.caddy, revokeRequest("inv-nobody"), http.StatusOK)
	if r := answer.Revocations[0]; !answer.Blocked || r.State != revocation.StateNoAuthorizationFound || r.Sent || answer.EffectiveScope != "this_aef" {
		b.t.Errorf("got %+v; want blocked, this_aef and no_authorization_found", answer)
	}
	if got := b.scene.Core.Count(coretest.OpRevoke); got != sent {
		b.t.Errorf("got %d revokes at the core; want %d", got, sent)
	}
}

// withoutWaiting asks for a revoke and not for the core's decision.
func withoutWaiting(invoker string) adminapi.RevocationRequest {
	request := revokeRequest(invoker)
	request.NoWait = true
	return request
}

// testRepeatedTrigger: the same words while it is pending are the same
// revocation; other words, or the same after the decision, are another one.
func testRepeatedTrigger(b *adminBed) {
	token := b.granted("inv-again")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	fault := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, InvokerID: "inv-again", Hang: true})
	defer fault.Clear()
	first := b.trigger(b.caddy, withoutWaiting("inv-again"), http.StatusAccepted)
	again := b.trigger(b.caddy, withoutWaiting("inv-again"), http.StatusAccepted)
	other := withoutWaiting("inv-again")
	other.Cause = coretest.CauseOther
	third := b.trigger(b.caddy, other, http.StatusAccepted)
	ids := []string{first.Revocations[0].ID, again.Revocations[0].ID, third.Revocations[0].ID}
	if ids[0] != ids[1] || ids[0] == ids[2] || !again.Blocked || again.Revocations[0].State != revocation.StatePending {
		b.t.Errorf("got %v, %+v; want the first two equal, the third another", ids, again)
	}
	if got := b.revocationsOf("inv-again"); len(got) != 2 {
		b.t.Errorf("got %d revocations; want 2", len(got))
	}
	fault.Clear()
	b.poll(func() bool {
		return !slices.ContainsFunc(b.revocationsOf("inv-again"), func(r revocation.Revocation) bool { return r.State == revocation.StatePending })
	})
	if last := b.trigger(b.caddy, revokeRequest("inv-again"), http.StatusOK); last.Revocations[0].ID == ids[0] {
		b.t.Error("after the decision: got the same revocation; want a new one")
	}
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
}

func (b *adminBed) revocationsOf(invoker string) []revocation.Revocation {
	b.t.Helper()
	var list adminapi.RevocationList
	b.get(adminapi.PathRevocations+"?api_invoker_id="+url.QueryEscape(invoker), &list)
	return list.Revocations
}

// testAllAPIs: one request for each API listed for this AEF, and nothing of
// another AEF.
func testAllAPIs(b *adminBed) {
	token := b.granted("inv-all")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	core := b.scene.Core
	core.ResetJournal()
	answer := b.trigger(b.caddy, adminapi.RevocationRequest{APIInvokerID: "inv-all", AllAPIs: true, Cause: coretest.CauseUnexpected}, http.StatusOK)
	if r := answer.Revocations; len(r) != 1 || !r[0].AllAPIs || r[0].State != revocation.StateRevoked || !answer.Blocked {
		b.t.Fatalf("got %+v; want one revocation of all APIs, revoked", answer)
	}
	var asked []string
	for _, e := range core.Requests(coretest.OpRevoke) {
		asked = append(asked, fmt.Sprintf("%s%v%d", e.AEFID, e.APIIDs, e.Status))
	}
	slices.Sort(asked)
	if want := []string{"aef-a[8f36c0]204", "aef-a[91b2d4]204"}; !slices.Equal(asked, want) {
		b.t.Errorf("got %v; want %v", asked, want)
	}
	if n := core.Count(coretest.OpDeleteContext); n != 0 {
		b.t.Errorf("got %d contexts deleted; want none: it also holds what other AEFs grant", n)
	}
	for _, api := range []string{testbed.APIID, testbed.OtherAPIID} {
		if core.Authorized("inv-all", "aef-a", api) || !core.Authorized("inv-all", "aef-b", api) {
			b.t.Errorf("%s: got %v here, %v at the other AEF; want false, true", api, core.Authorized("inv-all", "aef-a", api), core.Authorized("inv-all", "aef-b", api))
		}
	}
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	b.want(b.aef, "/qos/1", token, http.StatusForbidden)

	// A lift of one API leaves the claim for all of them, and says so.
	lifted := b.lift(adminapi.LiftRequest{APIInvokerID: "inv-all", APIIDs: []string{testbed.APIID}})
	if len(lifted.Lifted) != 0 || len(lifted.StillDenying) != 1 || lifted.StillDenying[0].API != "" || lifted.StillDenying[0].Invoker != "inv-all" {
		b.t.Errorf("lift of one API: got %+v; want nothing lifted and the claim for all still denying", lifted)
	}
	if !slices.Equal(lifted.NotInContext, []adminapi.Pair{{AEFID: "aef-a", APIID: testbed.APIID}}) {
		b.t.Errorf("lift of one API: got %+v; want the pair not in the context", lifted.NotInContext)
	}
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
}

// TestLiftWaitsForASlowCore: an operator is told what the context lists now, although
// a call would not have waited for it.
func TestLiftWaitsForASlowCore(t *testing.T) {
	b := newAdminBed(t, nil)
	token := b.granted("inv-slow")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	b.trigger(b.caddy, revokeRequest("inv-slow"), http.StatusOK)
	lift := adminapi.LiftRequest{APIInvokerID: "inv-slow", APIIDs: []string{testbed.APIID}}
	if got := b.lift(lift); len(got.Lifted) != 1 || len(got.NotInContext) != 1 {
		t.Fatalf("got %+v; want one lifted that the context does not list", got)
	}
	core := b.scene.Core
	core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, InvokerID: "inv-slow", Delay: 3 * reconcile.DefaultWait / 2})
	must(t, core.Authorize("inv-slow", "", coretest.Entry("aef-a", testbed.APIID)))
	if got := b.lift(lift); len(got.NotInContext)+len(got.ContextUnknown) != 0 {
		t.Errorf("got %+v; want nothing missing", got)
	}
	core.ClearFaults()
	b.want(b.aef, "/location/1", token, http.StatusOK)
}

// testWithoutHold: the calls pass until the core has decided.
func testWithoutHold(b *adminBed) {
	token := b.granted("inv-soft")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	fault := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, InvokerID: "inv-soft", Hang: true})
	defer fault.Clear()
	hold := false
	request := withoutWaiting("inv-soft")
	request.Hold = &hold
	answer := b.trigger(b.caddy, request, http.StatusAccepted)
	if r := answer.Revocations[0]; answer.Blocked || r.Hold || r.State != revocation.StatePending {
		b.t.Fatalf("got %+v; want pending, not blocked", answer)
	}
	var claims adminapi.ClaimList
	b.get(adminapi.PathClaims+"?api_invoker_id=inv-soft", &claims)
	if len(claims.Claims) != 0 {
		b.t.Errorf("got %+v; want no claim", claims)
	}
	b.want(b.aef, "/location/1", token, http.StatusOK)
	fault.Clear()
	b.poll(func() bool { return b.revocationsOf("inv-soft")[0].State == revocation.StateRevoked })
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	b.get(adminapi.PathClaims+"?api_invoker_id=inv-soft", &claims)
	if len(claims.Claims) != 1 || claims.Claims[0].Origin != revocation.OriginAEF {
		b.t.Errorf("decided: got %+v; want one claim of the AEF", claims)
	}
}

// testLift: one that is still pending is cancelled, and the core is not asked
// for it any more.
func testLift(b *adminBed) {
	token := b.granted("inv-lift")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	core := b.scene.Core
	fault := core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, InvokerID: "inv-lift", Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"40"}}})
	defer fault.Clear()
	made := b.trigger(b.caddy, withoutWaiting("inv-lift"), http.StatusAccepted)
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	b.poll(func() bool { return b.revocationsOf("inv-lift")[0].Attempts > 0 }) // in back-off
	fault.Clear()
	sent := core.Count(coretest.OpRevoke)

	lifted := b.lift(adminapi.LiftRequest{APIInvokerID: "inv-lift", APIIDs: []string{testbed.APIID}, Reason: "mistaken", Ticket: "T-1"})
	if len(lifted.Lifted) != 1 || lifted.Lifted[0].Revocation != made.Revocations[0].ID ||
		len(lifted.Cancelled) != 1 || lifted.Cancelled[0].ID != made.Revocations[0].ID || lifted.Cancelled[0].State != revocation.StateCancelled ||
		len(lifted.StillDenying)+len(lifted.NotInContext) != 0 {
		b.t.Errorf("got %+v; want the claim lifted, the revocation cancelled, nothing left", lifted)
	}
	b.want(b.aef, "/location/1", token, http.StatusOK)
	var one revocation.Revocation
	b.get(adminapi.PathRevocations+"/"+made.Revocations[0].ID, &one)
	if one.State != revocation.StateCancelled || core.Count(coretest.OpRevoke) != sent || !core.Authorized("inv-lift", "aef-a", testbed.APIID) {
		b.t.Errorf("got %+v, %d revokes; want cancelled, %d", one, core.Count(coretest.OpRevoke), sent)
	}
	again := b.send(http.MethodPost, adminapi.PathLifts, []byte(`{"api_invoker_id":"inv-lift","all_apis":true}`))
	if want := `{"lifted":[],"cancelled":[],"still_denying":[],"not_in_context":[]}` + "\n"; again.status != http.StatusOK || string(again.body) != want {
		b.t.Errorf("nothing to lift: got %v, %s; want 200, %s", again.status, again.body, want)
	}
	if log := b.caddy.Log(); !strings.Contains(log, `"ticket":"T-1"`) {
		b.t.Error("log: got no line with the ticket of the lift; want one")
	}
}

// testLists pages through what is stored, one at a time, and filters it.
func testLists(b *adminBed) {
	for i := range 3 {
		id := fmt.Sprintf("inv-list-%d", i)
		b.granted(id)
		request := revokeRequest(id)
		request.APIIDs = append(request.APIIDs, testbed.OtherAPIID)
		b.trigger(b.caddy, request, http.StatusOK)
	}
	var all adminapi.RevocationList
	b.get(adminapi.PathRevocations, &all)
	var paged []string
	for next, page := "", 0; page == 0 || next != ""; page++ {
		var list adminapi.RevocationList
		b.get(adminapi.PathRevocations+"?limit=1"+next, &list)
		for _, r := range list.Revocations {
			paged = append(paged, r.ID)
		}
		next = ""
		if list.Next != 0 {
			next = fmt.Sprintf("&before=%d", list.Next)
		}
		if len(list.Revocations) > 1 || page > 1000 {
			b.t.Fatalf("page %d: got %d entries; want one at most", page, len(list.Revocations))
		}
	}
	var want []string
	for _, r := range all.Revocations {
		want = append(want, r.ID)
	}
	if len(want) < 6 || !slices.Equal(paged, want) {
		b.t.Errorf("got pages %v; want %v", paged, want)
	}
	newest := all.Revocations[0]
	if newest.InvokerID != "inv-list-2" {
		b.t.Errorf("got %s first; want the newest", newest.InvokerID)
	}

	var claims adminapi.ClaimList
	b.get(adminapi.PathClaims, &claims)
	seen := map[string]bool{}
	for next, page := "", 0; page == 0 || next != ""; page++ {
		var list adminapi.ClaimList
		b.get(adminapi.PathClaims+"?limit=1"+next, &list)
		for _, c := range list.Claims {
			seen[fmt.Sprint(c.Scope, c.Origin, c.Revocation)] = true
		}
		next = ""
		if list.Next != "" {
			next = "&after=" + url.QueryEscape(list.Next)
		}
		if len(list.Claims) > 1 || page > 1000 {
			b.t.Fatalf("page %d: got %d entries; want one at most", page, len(list.Claims))
		}
	}
	if len(claims.Claims) < 6 || len(seen) != len(claims.Claims) {
		b.t.Errorf("got %d claims in pages; want %d", len(seen), len(claims.Claims))
	}

	var filtered adminapi.RevocationList
	b.get(adminapi.PathRevocations+"?api_invoker_id=inv-list-1&state=revoked", &filtered)
	if len(filtered.Revocations) != 2 || filtered.Revocations[0].InvokerID != "inv-list-1" {
		b.t.Errorf("got %+v; want the two of inv-list-1", filtered)
	}
	var none adminapi.RevocationList
	b.get(adminapi.PathRevocations+"?api_invoker_id=inv-list-1&state=pending", &none)
	if len(none.Revocations) != 0 {
		b.t.Errorf("got %+v; want none pending", none)
	}
	empty := b.send(http.MethodGet, adminapi.PathClaims+"?api_invoker_id=inv-nobody-at-all", nil)
	if !strings.HasPrefix(string(empty.body), `{"claims":[]`) {
		b.t.Errorf("no claim: got %s; want an empty list, not null", empty.body)
	}
	status := b.status(b.caddy)
	if status.AEFID != "aef-a" || !status.Ledger.Ready || status.Ledger.Failing || status.Ledger.DeniedScopes < 6 || len(status.Routes) != 2 || status.Profile != "strict" {
		b.t.Errorf("status: got %+v; want aef-a with two routes and its denied scopes", status)
	}
}
