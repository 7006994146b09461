package caddyplugin_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// hintPath is the secret path of a core that cannot authenticate.
const hintPath = "/capif/hints/0f8d2c7be1a94653"

// dialectCase is a kind of core, and how an operator points an AEF at it.
type dialectCase struct {
	dialect string
	profile string
	keys    string // of token_keys; default: the core's JWK set
	global  string
	// announces is where the core's events go; "": nowhere, or there are none.
	announces string
	// apiIDsPerAEF: this core matches a revoke by apiId alone, or with an `or`
	// between aefId and apiId, in a loop that skips entries or crashes. One
	// apiId at two AEFs is lost with such a core; each AEF has its own ids.
	apiIDsPerAEF bool
	// told is the state of a revocation of one API where the context has one
	// entry for every API of the AEF.
	toldOfWholeAEF revocation.State
	// byCore is what a call is told after a revoke that began elsewhere.
	byCore string
}

var dialectCases = []dialectCase{
	{
		dialect: "strict", profile: "strict", announces: "/capif/events",
		toldOfWholeAEF: revocation.StateRevoked, byCore: "authorization-revoked",
	},
	{
		dialect: "opencapif", profile: "opencapif", keys: "core_certificate", announces: hintPath,
		apiIDsPerAEF: true, toldOfWholeAEF: revocation.StateUnconfirmed, byCore: "not-in-context",
	},
	{
		dialect: "evolved", profile: "opencapif", keys: "core_certificate", announces: hintPath,
		apiIDsPerAEF: true, toldOfWholeAEF: revocation.StateUnconfirmed, byCore: "not-in-context",
	},
	{
		// It sends nothing on a revoke: the timer finds it.
		dialect: "oran", profile: "oran", global: "invoker_claim azp clientId\nreconcile 1s",
		apiIDsPerAEF: true, toldOfWholeAEF: revocation.StateUnconfirmed, byCore: "not-in-context",
	},
}

// dialectBed is one core of a dialect with an AEF that runs and another one of
// which only the certificate exists.
type dialectBed struct {
	*bed
	dialectCase
	here    *testbed.AEF
	caddy   *testbed.Caddy
	otherID string
	others  [2]string // apiIds at the other AEF
	other   *http.Client
}

func newDialectBed(t *testing.T, c dialectCase) *dialectBed {
	t.Helper()
	b := &dialectBed{bed: newBed(t, coretest.Options{Dialect: c.dialect}), dialectCase: c}
	core := b.scene.Core
	b.here = b.aef(core.AssignAEFID("north"), testbed.Provider)
	b.here.Profile, b.here.GlobalExtra, b.here.CallbackExtra = c.profile, c.global, "hint_path "+hintPath
	if c.keys != "" {
		b.here.TokenKeys = c.keys
	}
	b.otherID = core.AssignAEFID("south")
	must(t, core.AddAEF(coretest.AEF{ID: b.otherID, ProviderID: testbed.Provider}))
	identity, err := core.IssueAEF(b.otherID)
	must(t, err)
	b.other = core.Client(identity)
	b.others = [2]string{testbed.APIID, testbed.OtherAPIID}
	if c.apiIDsPerAEF {
		b.others = [2]string{"a1south", "a2south"}
	}
	for i, name := range []string{testbed.APIName, testbed.OtherAPIName} {
		ids := [2]string{testbed.APIID, testbed.OtherAPIID}
		if ids[i] == b.others[i] {
			must(t, core.PublishAPI(coretest.API{ID: ids[i], Name: name, AEFIDs: []string{b.here.ID, b.otherID}}))
			continue
		}
		must(t, core.PublishAPI(coretest.API{ID: ids[i], Name: name, AEFIDs: []string{b.here.ID}}))
		must(t, core.PublishAPI(coretest.API{ID: b.others[i], Name: name, AEFIDs: []string{b.otherID}}))
	}
	b.caddy = b.start(b.here)
	if c.announces != "" {
		_, err = core.Subscribe(b.here.ID, coretest.EventSubscription{
			Events: []string{
				coretest.EventRevoked, coretest.EventOffboarded, coretest.EventInvokerUpdated,
				coretest.EventPolicyUpdate, coretest.EventPolicyUnavailable, coretest.EventAPIUnavailable,
			},
			NotificationDestination: "https://" + b.here.Callback + c.announces, SupportedFeatures: "4",
		})
		must(t, err)
	}
	// An active API invoker whose context exists: without it nothing would
	// support a 404 about another.
	b.want(b.here, "/location/1", b.enrol("inv-witness").token, http.StatusOK)
	return b
}

// enrolled is an API invoker with a context at both AEFs.
type enrolled struct {
	*coretest.Invoker
	token string
}

func (b *dialectBed) enrol(id string, entries ...coretest.SecurityInformation) enrolled {
	b.t.Helper()
	inv, err := b.scene.Core.NewInvoker(id)
	must(b.t, err)
	b.t.Cleanup(func() { must(b.t, inv.Close()) })
	pairs := [][2]string{
		{b.here.ID, testbed.APIID}, {b.here.ID, testbed.OtherAPIID}, {b.otherID, b.others[0]}, {b.otherID, b.others[1]},
	}
	for _, p := range pairs {
		must(b.t, b.scene.Core.Discover(id, p[1], p[0]))
		if len(entries) < len(pairs) {
			entries = append(entries, coretest.Entry(p[0], p[1]))
		}
	}
	must(b.t, inv.PutContext(b.ctx, entries...))
	e := enrolled{Invoker: inv}
	e.token = b.mint(e)
	return e
}

func (b *dialectBed) mint(e enrolled) string {
	b.t.Helper()
	return b.token(e.Invoker, coretest.ScopeOf(b.here.ID, testbed.APIName, testbed.OtherAPIName))
}

// TestDialects runs a revoke that begins at this AEF, at another AEF, at the
// core, and an offboarding, with each kind of core.
func TestDialects(t *testing.T) {
	for _, c := range dialectCases {
		t.Run(c.dialect, func(t *testing.T) {
			b := newDialectBed(t, c)
			t.Run("by this AEF", b.sub(testRevokeHere))
			t.Run("by this AEF, one entry for all APIs", b.sub(testRevokeOfWholeAEF))
			t.Run("by this AEF, API invoker unreachable", b.sub(testRevokeUnreachable))
			t.Run("by another AEF", b.sub(testRevokeByAnother))
			t.Run("by the core", b.sub(testRevokeByCore))
			t.Run("offboarding", b.sub(testOffboarding))
		})
	}
}

func (b *dialectBed) sub(test func(*dialectBed)) func(*testing.T) {
	return func(t *testing.T) {
		inner, outer := *b, *b.bed
		outer.t = t
		inner.bed = &outer
		test(&inner)
	}
}

func testRevokeHere(b *dialectBed) {
	inv := b.enrol("inv-here")
	b.want(b.here, "/location/1", inv.token, http.StatusOK)
	before := len(b.scene.Core.Requests(coretest.OpRevoke))
	location, qos := b.hammer(inv.token, "/location/1"), b.hammer(inv.token, "/qos/1")
	location.until(b.t, http.StatusOK)
	began := time.Now()
	answer := b.trigger(b.caddy, adminapi.RevocationRequest{
		APIInvokerID: inv.ID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseOther,
	}, http.StatusOK)
	acknowledged := time.Now()
	blocked := location.until(b.t, http.StatusForbidden)
	location.more(b.t, 50)
	location.nonePassed(b.t, acknowledged)
	qos.allPassed(b.t)
	b.t.Logf("%s: blocked %v after the trigger, whose answer took %v: %s, %s", b.dialect,
		blocked.Sub(began).Round(time.Microsecond), acknowledged.Sub(began).Round(time.Microsecond), answer.Revocations[0].State, answer.EffectiveScope)

	wantScope := "all_aefs"
	if b.profile == "strict" {
		wantScope = "this_aef"
	}
	if !answer.Blocked || answer.Revocations[0].State != revocation.StateRevoked || answer.EffectiveScope != wantScope {
		b.t.Errorf("told: got %+v; want blocked, revoked, %s", answer, wantScope)
	}
	requests := b.scene.Core.Requests(coretest.OpRevoke)[before:]
	if len(requests) != 1 || !slices.Equal(requests[0].APIIDs, []string{testbed.APIID}) || (requests[0].AEFID != "") != (b.profile == "strict") {
		b.t.Errorf("sent: got %+v; want one request for %s", requests, testbed.APIID)
	}
	b.wantLost(inv, coretest.Entry(b.here.ID, testbed.APIID))
	b.wantProblem("/location/1", b.mint(inv), "authorization-revoked") // a newer token

	again := b.trigger(b.caddy, adminapi.RevocationRequest{
		APIInvokerID: inv.ID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
	}, http.StatusOK)
	if !again.Blocked || again.Revocations[0].State != revocation.StateNoAuthorizationFound {
		b.t.Errorf("told of a second revoke: got %+v; want blocked, no_authorization_found", again)
	}
}

// testRevokeOfWholeAEF: three of the cores say yes to a revoke of one API, and
// change nothing, where the context has one entry for all APIs of an AEF.
func testRevokeOfWholeAEF(b *dialectBed) {
	inv := b.enrol("inv-whole", coretest.Entry(b.here.ID, ""), coretest.Entry(b.otherID, b.others[0]),
		coretest.Entry(b.otherID, b.others[1]), coretest.Entry(b.here.ID, ""))
	b.want(b.here, "/location/1", inv.token, http.StatusOK)
	answer := b.trigger(b.caddy, adminapi.RevocationRequest{
		APIInvokerID: inv.ID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
	}, http.StatusOK)
	if !answer.Blocked || answer.Revocations[0].State != b.toldOfWholeAEF {
		b.t.Errorf("told: got %+v; want blocked, %s", answer, b.toldOfWholeAEF)
	}
	if b.toldOfWholeAEF == revocation.StateUnconfirmed {
		b.poll(func() bool { return b.alarmed(b.caddy, alarm.RevocationUnconfirmed) })
	}
	b.wantProblem("/location/1", inv.token, "authorization-revoked")
	b.want(b.here, "/qos/1", inv.token, http.StatusOK)
	b.t.Logf("%s: %s", b.dialect, answer.Revocations[0].State)
}

// testRevokeUnreachable: one of the cores answers 500 after it has revoked, when
// the callback of the API invoker is dead. That decides nothing; the read does.
func testRevokeUnreachable(b *dialectBed) {
	inv := b.enrol("inv-dead")
	b.want(b.here, "/location/1", inv.token, http.StatusOK)
	must(b.t, inv.Close())
	var answer adminapi.RevocationResponse
	_, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathRevocations, adminapi.RevocationRequest{
		APIInvokerID: inv.ID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
	}, &answer)
	must(b.t, err)
	b.wantProblem("/location/1", inv.token, "authorization-revoked")
	if !answer.Blocked {
		b.t.Errorf("told: got %+v; want blocked", answer)
	}
	b.poll(func() bool {
		var list adminapi.RevocationList
		_, err := b.caddy.Admin(b.ctx, http.MethodGet, adminapi.PathRevocations+"?api_invoker_id="+inv.ID, nil, &list)
		return err == nil && len(list.Revocations) == 1 && list.Revocations[0].State == revocation.StateRevoked
	})
	b.wantLost(inv, coretest.Entry(b.here.ID, testbed.APIID))
}

// testRevokeByAnother: another AEF of the provider revokes an API of this one.
func testRevokeByAnother(b *dialectBed) {
	b.testElsewhere("inv-another", func(id string) {
		body, err := json.Marshal(coretest.SecurityNotification{
			APIInvokerID: id, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
		})
		must(b.t, err)
		request, err := http.NewRequestWithContext(b.ctx, http.MethodPost,
			b.scene.Core.URL()+"/capif-security/v1/trustedInvokers/"+id+"/delete", bytes.NewReader(body))
		must(b.t, err)
		request.Header.Set("Content-Type", "application/json")
		response, err := b.other.Do(request)
		must(b.t, err)
		must(b.t, response.Body.Close())
		if response.StatusCode != http.StatusNoContent {
			b.t.Fatalf("the core answered %d; want 204", response.StatusCode)
		}
	})
}

func testRevokeByCore(b *dialectBed) {
	b.testElsewhere("inv-core", func(id string) {
		answers, err := b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: id, AEFID: b.here.ID, APIIDs: []string{testbed.APIID}})
		must(b.t, err)
		for _, answer := range answers {
			if answer.Status != http.StatusOK {
				b.t.Errorf("answer to the core: got %+v; want 200", answer)
			}
		}
	})
}

func (b *dialectBed) testElsewhere(id string, revoke func(id string)) {
	inv := b.enrol(id)
	location, qos := b.hammer(inv.token, "/location/1"), b.hammer(inv.token, "/qos/1")
	location.until(b.t, http.StatusOK)
	qos.until(b.t, http.StatusOK)
	began := time.Now()
	revoke(id)
	answered := time.Now()
	blocked := location.until(b.t, http.StatusForbidden)
	location.more(b.t, 50)
	location.nonePassed(b.t, blocked)
	qos.allPassed(b.t)
	b.t.Logf("%s: blocked %v after the revoke began, %v after it was answered", b.dialect,
		blocked.Sub(began).Round(time.Microsecond), blocked.Sub(answered).Round(time.Microsecond))
	b.wantProblem("/location/1", b.mint(inv), b.byCore)
	want := []coretest.SecurityInformation{coretest.Entry(b.here.ID, testbed.APIID)}
	if id == "inv-another" && !b.apiIDsPerAEF {
		want = append(want, coretest.Entry(b.otherID, testbed.APIID)) // no aefId: all AEFs of the provider
	}
	b.wantLost(inv, want...)
	b.wantClaims(id)
}

func testOffboarding(b *dialectBed) {
	inv := b.enrol("inv-gone")
	location, qos := b.hammer(inv.token, "/location/1"), b.hammer(inv.token, "/qos/1")
	location.until(b.t, http.StatusOK)
	qos.until(b.t, http.StatusOK)
	began := time.Now()
	must(b.t, b.scene.Core.Offboard(inv.ID))
	blocked := location.until(b.t, http.StatusForbidden)
	qosBlocked := qos.until(b.t, http.StatusForbidden)
	location.more(b.t, 50)
	qos.more(b.t, 50)
	location.nonePassed(b.t, blocked)
	qos.nonePassed(b.t, qosBlocked)
	b.t.Logf("%s: all APIs blocked %v after the offboarding", b.dialect, max(blocked.Sub(began), qosBlocked.Sub(began)).Round(time.Microsecond))
	b.wantProblem("/location/1", inv.token, b.byCore)
	b.wantClaims(inv.ID)
	b.want(b.here, "/location/1", b.enrol("inv-stays").token, http.StatusOK)
}

// wantLost checks that the context lost exactly these entries.
func (b *dialectBed) wantLost(inv enrolled, lost ...coretest.SecurityInformation) {
	b.t.Helper()
	var want []string
	for _, p := range [][2]string{{b.here.ID, testbed.APIID}, {b.here.ID, testbed.OtherAPIID}, {b.otherID, b.others[0]}, {b.otherID, b.others[1]}} {
		if !slices.ContainsFunc(lost, func(e coretest.SecurityInformation) bool { return e.AEFID == p[0] && e.APIID == p[1] }) {
			want = append(want, p[0]+" "+p[1])
		}
	}
	sc, _ := b.scene.Core.Context(inv.ID)
	var got []string
	for _, e := range sc.SecurityInfo {
		got = append(got, e.AEFID+" "+e.APIID)
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("context at the core: got %v; want %v", got, want)
	}
}

// wantClaims: a core that authenticates and names the API invoker sets a claim; a
// hint sets none, for anybody can send it.
func (b *dialectBed) wantClaims(id string) {
	b.t.Helper()
	var list adminapi.ClaimList
	_, err := b.caddy.Admin(b.ctx, http.MethodGet, adminapi.PathClaims+"?api_invoker_id="+id, nil, &list)
	must(b.t, err)
	if (len(list.Claims) > 0) != (b.byCore == "authorization-revoked") {
		b.t.Errorf("claims: got %+v", list.Claims)
	}
	for _, c := range list.Claims {
		if c.Origin != revocation.OriginCore {
			b.t.Errorf("claim: got origin %s; want core", c.Origin)
		}
	}
}

func (b *dialectBed) wantProblem(path, token, kind string) {
	b.t.Helper()
	status, body, err := b.here.Call(b.ctx, path, token)
	if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), "#"+kind) {
		b.t.Errorf("call %s: got %v, %v, %s; want 403 %s", path, status, err, body, kind)
	}
}

func (b *bed) status(c *testbed.Caddy) adminapi.Status {
	b.t.Helper()
	var status adminapi.Status
	code, err := c.Admin(b.ctx, http.MethodGet, adminapi.PathStatus, nil, &status)
	if err != nil || code != http.StatusOK {
		b.t.Fatalf("status: got %v, %v; want 200", code, err)
	}
	return status
}

func (b *bed) alarmed(c *testbed.Caddy, name alarm.Name) bool {
	b.t.Helper()
	return slices.ContainsFunc(b.status(c).Alarms, func(a alarm.Alarm) bool { return a.Name == name })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
