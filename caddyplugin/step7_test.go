package caddyplugin_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestStep7 runs the procedure of TS 23.222 8.23.3 at AEF A and looks at three
// others that expose the same API: B of the same provider, C of the same provider
// where the API invoker has not discovered it, and X of another provider. All are
// real Caddys. Step 7 reaches B, only with the indication, and never C or X.
func TestStep7(t *testing.T) {
	b := newBed(t, coretest.Options{})
	const foreign = "provider-2"
	a := b.aef("aef-a", testbed.Provider)
	others := []*testbed.AEF{b.aef("aef-b", testbed.Provider), b.aef("aef-c", testbed.Provider), b.aef("aef-x", foreign)}
	b.publish("aef-a", "aef-b", "aef-c", "aef-x")
	caddyA := b.start(a)
	caddys := map[string]*testbed.Caddy{}
	for _, other := range others {
		// What the core tells it counts here, not what its context says.
		other.RouteExtra = "require_context off"
		caddys[other.ID] = b.start(other)
	}
	core := b.scene.Core
	const scope = "3gpp#aef-a:location,qos;aef-b:location,qos;aef-c:location,qos;aef-x:location,qos"
	yes, no := true, false
	for i, tt := range []struct {
		name       string
		allAEFs    *bool
		discovered []string // besides A
		effective  string
		reached    []string
	}{
		{"with the indication", &yes, []string{"aef-b", "aef-x"}, "all_aefs", []string{"aef-b"}},
		{"not without the indication", nil, []string{"aef-b", "aef-x"}, "this_aef", nil},
		{"not where the indication says no", &no, []string{"aef-b", "aef-x"}, "this_aef", nil},
		{"not to another provider's AEF", &yes, []string{"aef-x"}, "all_aefs", nil},
		{"not to an AEF that was not discovered", &yes, nil, "all_aefs", nil},
		{"to all that were discovered", &yes, []string{"aef-b", "aef-c", "aef-x"}, "all_aefs", []string{"aef-b", "aef-c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := fmt.Sprintf("inv-%d", i)
			must(t, core.AddInvoker(id))
			for _, api := range []string{testbed.APIID, testbed.OtherAPIID} {
				must(t, core.Discover(id, api, append(slices.Clone(tt.discovered), "aef-a")...))
			}
			var entries []coretest.SecurityInformation
			for _, aef := range append(slices.Clone(tt.discovered), "aef-a") {
				entries = append(entries, coretest.Entry(aef, testbed.APIID), coretest.Entry(aef, testbed.OtherAPIID))
			}
			must(t, core.Authorize(id, "", entries...))
			token, err := core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: scope})
			must(t, err)
			for _, other := range append(slices.Clone(others), a) {
				b.want(other, "/location/1", token, http.StatusOK)
			}
			core.ResetJournal()
			answer := b.trigger(caddyA, adminapi.RevocationRequest{
				APIInvokerID: id, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected, AllAEFs: tt.allAEFs,
			}, http.StatusOK)
			if answer.EffectiveScope != tt.effective || !answer.Blocked {
				t.Errorf("got %+v; want blocked, %s", answer, tt.effective)
			}
			must(t, core.Quiesce(b.ctx))
			var called []string
			for _, e := range core.Sent(coretest.OpCallAEF) {
				called = append(called, e.To)
				if e.Status != http.StatusOK {
					t.Errorf("%s answered %v %s; want 200", e.To, e.Status, e.Answer)
				}
			}
			slices.Sort(called)
			var want []string
			for _, id := range tt.reached {
				want = append(want, "AEF "+id)
			}
			if !slices.Equal(called, want) {
				t.Errorf("step 7 reached %v; want %v", called, want)
			}
			// The core has its answers: from now on no call may pass there.
			b.want(a, "/location/1", token, http.StatusForbidden)
			b.want(a, "/qos/1", token, http.StatusOK)
			for _, other := range others {
				status, claims := http.StatusOK, 0
				if slices.Contains(tt.reached, other.ID) {
					status, claims = http.StatusForbidden, 1
				}
				b.want(other, "/location/1", token, status)
				b.want(other, "/qos/1", token, http.StatusOK)
				var list adminapi.ClaimList
				_, err := caddys[other.ID].Admin(b.ctx, http.MethodGet, adminapi.PathClaims+"?api_invoker_id="+id, nil, &list)
				if err != nil || len(list.Claims) != claims {
					t.Errorf("claims at %s: got %+v, %v; want %d", other.ID, list, err, claims)
				}
			}
		})
	}
	t.Run("not from another AEF", func(t *testing.T) {
		const id = "inv-0" // its other API is still served at B
		stranger, err := core.IssueAEF("aef-x")
		must(t, err)
		token, err := core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: scope})
		must(t, err)
		b.want(others[0], "/qos/1", token, http.StatusOK)
		for name, client := range map[string]*http.Client{"AEF X": core.Client(stranger), "nobody": core.Client(nil)} {
			status, body, err := exchange2(b.ctx, client, http.MethodPost, "https://"+others[0].Callback+corecallback.RevokeAuthorizationPath,
				fmt.Sprintf(`{"revokeInfo":{"apiInvokerId":%q,"aefId":"aef-b","apiIds":[%q],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`, id, testbed.OtherAPIID))
			if err != nil || status != http.StatusForbidden {
				t.Errorf("step 7 from %s: got %v, %v, %s; want 403", name, status, err, body)
			}
		}
		b.want(others[0], "/qos/1", token, http.StatusOK)
	})
}
