package caddyplugin_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// bed is a scene with AEFs that run, for one test.
type bed struct {
	t     *testing.T
	ctx   context.Context
	scene *testbed.Scene
}

func newBed(t *testing.T, options coretest.Options) *bed {
	t.Helper()
	return newBedWith(t, options, nil)
}

// newBedWith has a service API of its own.
func newBedWith(t *testing.T, options coretest.Options, backend http.Handler) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	scene, err := testbed.NewScene(t.TempDir(), options, backend)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, e := range append(scene.Core.Requests(), scene.Core.Sent()...) {
				t.Logf("core: %s -> %s %s %s: %d %s %v", e.From, e.To, e.Operation, e.URL, e.Status, e.Answer, e.Err)
			}
		}
		testbed.CloseIdleConnections()
		err := scene.Close()
		if err != nil {
			t.Error(err)
		}
	})
	return &bed{t: t, ctx: ctx, scene: scene}
}

// aef onboards an AEF; publish names the AEFs that expose both APIs afterwards.
func (b *bed) aef(id, provider string) *testbed.AEF {
	b.t.Helper()
	a, err := b.scene.AddAEF(id, provider)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bed) start(a *testbed.AEF) *testbed.Caddy {
	b.t.Helper()
	c, err := a.Start(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		err := c.Stop()
		if err != nil {
			b.t.Error(err)
		}
		if b.t.Failed() {
			b.t.Logf("log of %s:\n%s", a.ID, c.Log())
		}
	})
	return c
}

func (b *bed) publish(aefIDs ...string) {
	b.t.Helper()
	for _, api := range []coretest.API{
		{ID: testbed.APIID, Name: testbed.APIName, AEFIDs: aefIDs},
		{ID: testbed.OtherAPIID, Name: testbed.OtherAPIName, AEFIDs: aefIDs},
	} {
		err := b.scene.Core.PublishAPI(api)
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// invoker onboards an API invoker that discovered and was granted both APIs at
// the AEFs.
func (b *bed) invoker(id string, aefIDs ...string) *coretest.Invoker {
	b.t.Helper()
	inv, err := b.scene.Core.NewInvoker(id)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		err := inv.Close()
		if err != nil {
			b.t.Error(err)
		}
	})
	var entries []coretest.SecurityInformation
	for _, api := range []string{testbed.APIID, testbed.OtherAPIID} {
		err := b.scene.Core.Discover(id, api, aefIDs...)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, aef := range aefIDs {
			entries = append(entries, coretest.Entry(aef, api))
		}
	}
	err = inv.PutContext(b.ctx, entries...)
	if err != nil {
		b.t.Fatal(err)
	}
	return inv
}

func (b *bed) token(inv *coretest.Invoker, scope string) string {
	b.t.Helper()
	token, err := inv.Token(b.ctx, scope)
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// want calls the AEF and fails unless the status is as expected.
func (b *bed) want(a *testbed.AEF, path, token string, status int) {
	b.t.Helper()
	got, body, err := a.Call(b.ctx, path, token)
	if err != nil || got != status {
		b.t.Fatalf("call %s at %s: got %v, %v, %s; want %v", path, a.ID, got, err, body, status)
	}
}

// eventually polls until the status comes.
func (b *bed) eventually(a *testbed.AEF, path, token string, status int) {
	b.t.Helper()
	b.poll(func() bool {
		got, _, err := a.Call(b.ctx, path, token)
		return err == nil && got == status
	})
}

func (b *bed) poll(ok func() bool) {
	b.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			b.t.Fatal("did not come true in 20 s")
		}
	}
}

func (b *bed) trigger(c *testbed.Caddy, request adminapi.RevocationRequest, status int) adminapi.RevocationResponse {
	b.t.Helper()
	var answer adminapi.RevocationResponse
	got, err := c.Admin(b.ctx, http.MethodPost, adminapi.PathRevocations, request, &answer)
	if err != nil || got != status {
		b.t.Fatalf("trigger: got %v, %v, %+v; want %v", got, err, answer, status)
	}
	return answer
}

// TestProcedure runs TS 23.222 8.23.3 with two AEFs of one provider, real Caddy
// processes and a real core: steps 1 to 7 and the lift.
func TestProcedure(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a1, a2 := b.aef("aef-a", testbed.Provider), b.aef("aef-b", testbed.Provider)
	b.publish("aef-a", "aef-b")
	c1, c2 := b.start(a1), b.start(a2)
	inv := b.invoker("inv-1", "aef-a", "aef-b")
	scope := "3gpp#aef-a:location,qos;aef-b:location,qos"
	token := b.token(inv, scope)
	b.want(a1, "/location/1", token, http.StatusOK)
	b.want(a2, "/location/1", token, http.StatusOK)

	allAEFs := true
	answer := b.trigger(c1, adminapi.RevocationRequest{
		APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: "UNEXPECTED_REASON", AllAEFs: &allAEFs,
	}, http.StatusOK)
	if !answer.Blocked || answer.EffectiveScope != "all_aefs" || answer.Revocations[0].State != revocation.StateRevoked {
		t.Fatalf("got %+v; want blocked, all_aefs, revoked", answer)
	}
	b.want(a1, "/location/1", token, http.StatusForbidden)
	b.eventually(a2, "/location/1", token, http.StatusForbidden)
	if _, err := inv.WaitNotification(b.ctx, 1); err != nil {
		t.Fatalf("step 6: %v", err)
	}
	b.want(a1, "/qos/1", token, http.StatusOK) // another API of the invoker
	fresh := b.token(inv, scope)
	b.want(a1, "/location/1", fresh, http.StatusForbidden) // a newer token lifts nothing
	b.want(a2, "/location/1", fresh, http.StatusForbidden)

	// Authorized again at the core: the claims stand, whatever the context says.
	err := inv.PutContext(b.ctx, coretest.Entry("aef-a", testbed.APIID), coretest.Entry("aef-b", testbed.APIID))
	if err != nil {
		t.Fatal(err)
	}
	b.want(a1, "/location/1", fresh, http.StatusForbidden)
	b.want(a2, "/location/1", fresh, http.StatusForbidden)
	for _, c := range []*testbed.Caddy{c1, c2} {
		var lifted adminapi.LiftResponse
		status, err := c.Admin(b.ctx, http.MethodPost, adminapi.PathLifts,
			adminapi.LiftRequest{APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}}, &lifted)
		if err != nil || status != http.StatusOK || len(lifted.Lifted) == 0 || len(lifted.StillDenying)+len(lifted.NotInContext) != 0 {
			t.Fatalf("lift: got %v, %v, %+v", status, err, lifted)
		}
	}
	b.want(a1, "/location/1", fresh, http.StatusOK)
	b.want(a2, "/location/1", fresh, http.StatusOK)
}
