package caddyplugin_test

import (
	"net/http"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestExposure: without hold, a revocation shows how many calls passed until the
// core decided.
func TestExposure(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	b.publish(a.ID)
	c := b.start(a)
	token := b.token(b.invoker("inv-1", a.ID), coretest.ScopeOf(a.ID, testbed.APIName))
	for range 3 {
		b.want(a, "/location/1", token, http.StatusOK)
	}
	must(t, b.scene.Core.Down())
	hold := false
	r := b.trigger(c, adminapi.RevocationRequest{
		APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: "X", Hold: &hold, NoWait: true,
	}, http.StatusAccepted).Revocations[0]
	for range 5 {
		b.want(a, "/location/1", token, http.StatusOK)
	}
	must(t, b.scene.Core.Up())
	b.poll(func() bool {
		_, err := c.Admin(b.ctx, http.MethodGet, adminapi.PathRevocations+"/"+r.ID, nil, &r)
		return err == nil && r.State != revocation.StatePending
	})
	if r.Exposure == nil || r.Exposure.Calls != 5 || r.Exposure.LastPassedAt.Before(r.CreatedAt) || r.Exposure.LastPassedAt.After(r.DecidedAt) {
		t.Errorf("got %+v of %+v; want 5 calls, the last between trigger and decision", r.Exposure, r)
	}
	b.want(a, "/location/1", token, http.StatusForbidden)
}
