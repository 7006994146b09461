package enforce

import (
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// TestAgain: what ends a call in flight, and what only refuses the next one.
func TestAgain(t *testing.T) {
	deny := func(t *testing.T, x *scene, d revocation.Deny) {
		t.Helper()
		d.Invoker, d.Cause = "i", "X"
		err := x.ledger.Deny(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		then  func(t *testing.T, x *scene, c someContexts, raw string)
		later time.Duration // when the next call comes
		again Reason        // the call in flight
		next  Reason        // the next one
	}{
		{"another API is denied", func(*testing.T, *scene, someContexts, string) {}, 0, Allowed, Allowed},
		{"the pair is denied", func(t *testing.T, x *scene, _ someContexts, _ string) {
			deny(t, x, revocation.Deny{AEF: aef, APIs: []string{api}})
		}, 0, AuthorizationRevoked, AuthorizationRevoked},
		{"the token is denied", func(t *testing.T, x *scene, _ someContexts, raw string) {
			deny(t, x, revocation.Deny{AEF: aef, APIs: []string{api}, Token: revocation.Digest(must(token.DigestOf(raw)))})
		}, 0, TokenRevoked, TokenRevoked},
		{"denied and lifted", func(t *testing.T, x *scene, _ someContexts, _ string) {
			deny(t, x, revocation.Deny{AEF: aef, APIs: []string{api}})
			_, err := x.ledger.Lift(t.Context(), revocation.Lift{Invoker: "i"})
			if err != nil {
				t.Fatal(err)
			}
		}, 0, Allowed, Allowed},
		{"the context no longer lists it", func(_ *testing.T, _ *scene, c someContexts, _ string) {
			a := c["i"]
			a.Listed = false
			c["i"] = a
		}, 0, NotInContext, NotInContext},
		{"the context is unknown", func(_ *testing.T, _ *scene, c someContexts, _ string) { delete(c, "i") }, 0, Allowed, ContextUnknown},
		{"the context is old", func(_ *testing.T, _ *scene, c someContexts, _ string) {
			c["i"].Times.ReadAt.Store(now.Add(-2 * time.Hour).UnixNano())
		}, 0, Allowed, ContextStale},
		{"the key is rotated out", func(_ *testing.T, x *scene, _ someContexts, _ string) { x.keys.rotate(newEd().key) }, 0, Allowed, TokenBadSignature},
		{"the token is over", func(*testing.T, *scene, someContexts, string) {}, time.Unix(soon, 0).Sub(now) + 2*token.DefaultLeeway, Allowed, TokenExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newScene(t, newEd())
			c := someContexts{"i": {Known: true, Listed: true, Times: new(denycache.Times)}}
			c["i"].Times.ReadAt.Store(now.UnixNano())
			x.decider.UseContexts(c, ContextRule{Require: true, MaxStaleness: time.Hour})
			raw := x.signer.good("i")
			inFlight := x.decider.Decide(t.Context(), raw, now)
			if inFlight.Reason != Allowed {
				t.Fatalf("got %v; want %v", inFlight.Reason, Allowed)
			}
			tt.then(t, x, c, raw)
			deny(t, x, revocation.Deny{AEF: aef, APIs: []string{"api-3"}}) // the verdict is no longer current
			if got := x.decider.Again(inFlight.Entry); got != tt.again {
				t.Errorf("in flight: got %v; want %v", got, tt.again)
			}
			if got := x.decider.Decide(t.Context(), raw, now.Add(tt.later)); got.Reason != tt.next {
				t.Errorf("the next one: got %v; want %v", got.Reason, tt.next)
			}
		})
	}
}
