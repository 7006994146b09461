package enforce

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

func TestRouteWithSeveralAPIs(t *testing.T) {
	x := newScene(t, newEd())
	r := Route{AEFID: aef, APIName: "location", APIIDs: []string{"a", "b", "c"}}
	d := decider(t, r, x.verifier, x.ledger, x.cache)
	for _, denied := range []string{"a", "b", "c"} {
		t.Run(denied, func(t *testing.T) {
			raw := x.signer.good("of " + denied)
			wantCached(t, d, raw, Allowed)
			x.deny(revocation.Deny{Invoker: "of " + denied, AEF: aef, APIs: []string{denied}})
			wantReason(t, d, raw, AuthorizationRevoked)
			x.lift(revocation.Lift{Invoker: "of " + denied, APIs: []string{denied}})
			wantReason(t, d, raw, Allowed)
		})
	}
	t.Run("none of them", func(t *testing.T) {
		raw := x.signer.good("of d")
		x.deny(revocation.Deny{Invoker: "of d", AEF: aef, APIs: []string{"d"}})
		wantReason(t, d, raw, Allowed)
	})
	t.Run("two, one lifted", func(t *testing.T) {
		raw := x.signer.good("of two")
		x.deny(revocation.Deny{Invoker: "of two", APIs: []string{"a", "b"}})
		x.lift(revocation.Lift{Invoker: "of two", APIs: []string{"a"}})
		wantReason(t, d, raw, AuthorizationRevoked)
	})
}

// A claim without aefId holds for every aefId here, one with it for that alone.
func TestClaimsOnSeveralAEFs(t *testing.T) {
	x := newScene(t, newEd())
	north := decider(t, Route{AEFID: "north", APIName: "n", APIIDs: []string{api}}, x.verifier, x.ledger, x.cache)
	south := decider(t, Route{AEFID: "south", APIName: "n", APIIDs: []string{api}}, x.verifier, x.ledger, x.cache)
	tests := map[string]struct {
		deny         revocation.Deny
		north, south Reason
	}{
		"no aef":          {revocation.Deny{APIs: []string{api}}, AuthorizationRevoked, AuthorizationRevoked},
		"no aef, no api":  {revocation.Deny{}, AuthorizationRevoked, AuthorizationRevoked},
		"one aef":         {revocation.Deny{AEF: "north", APIs: []string{api}}, AuthorizationRevoked, Allowed},
		"one aef, no api": {revocation.Deny{AEF: "south"}, Allowed, AuthorizationRevoked},
		"a foreign aef":   {revocation.Deny{AEF: "west", APIs: []string{api}}, Allowed, Allowed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			raw := x.signer.mint(fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":"3gpp#north:n;south:n"}`, name, soon))
			wantCached(t, north, raw, Allowed)
			wantCached(t, south, raw, Allowed)
			test.deny.Invoker = name
			x.deny(test.deny)
			wantReason(t, north, raw, test.north)
			wantReason(t, south, raw, test.south)
		})
	}
}

func TestTokenClaim(t *testing.T) {
	x := newScene(t, newEd())
	first := x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d,"scope":%q,"jti":"1"}`, soon, scopeOfA))
	second := x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d,"scope":%q,"jti":"2"}`, soon, scopeOfA))
	wantCached(t, x.decider, first, Allowed)
	wantCached(t, x.decider, second, Allowed)
	digest := digestOf(t, x.verifier, first)
	x.deny(revocation.Deny{Invoker: "i", APIs: []string{api}, Token: digest})
	x.want(first, TokenRevoked)
	x.want(second, Allowed)
	x.deny(denyOf("i")) // stronger: a new token will not help
	x.want(first, AuthorizationRevoked)
	x.want(second, AuthorizationRevoked)
	x.lift(revocation.Lift{Invoker: "i", AEF: aef})
	x.want(first, TokenRevoked)
	x.want(second, Allowed)
}

func TestPlainScope(t *testing.T) {
	x := newScene(t, newEd())
	plain := decider(t, Route{AEFID: aef, APIName: "location", APIIDs: []string{api}, PlainScope: "read:location"}, x.verifier, x.ledger, x.cache)
	for scope, want := range map[string]Reason{
		"read:location":             Allowed,
		"other read:location":       Allowed,
		"read:location2":            InsufficientScope,
		"READ:location":             InsufficientScope,
		"":                          InsufficientScope,
		scopeOfA:                    InsufficientScope,
		scopeOfA + " read:location": Allowed,
	} {
		t.Run(scope, func(t *testing.T) {
			raw := x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d,"scope":%q}`, soon, scope))
			wantReason(t, plain, raw, want)
			if strings.HasPrefix(scope, "3gpp#") {
				x.want(raw, Allowed) // the other route asks for that form
			} else {
				x.want(raw, InsufficientScope)
			}
		})
	}
}

func TestRouteIDsDiffer(t *testing.T) {
	v := [16]byte{1}
	routes := map[string]Route{
		"base":            {AEFID: "a", APIName: "n", APIIDs: []string{"1"}},
		"aef":             {AEFID: "b", APIName: "n", APIIDs: []string{"1"}},
		"name":            {AEFID: "a", APIName: "m", APIIDs: []string{"1"}},
		"id":              {AEFID: "a", APIName: "n", APIIDs: []string{"2"}},
		"more ids":        {AEFID: "a", APIName: "n", APIIDs: []string{"1", "2"}},
		"ids joined":      {AEFID: "a", APIName: "n", APIIDs: []string{"12"}},
		"plain":           {AEFID: "a", APIName: "n", APIIDs: []string{"1"}, PlainScope: "p"},
		"plain, no name":  {AEFID: "a", PlainScope: "n", APIIDs: []string{"1"}},
		"fields moved":    {AEFID: "an", APIIDs: []string{"1"}, PlainScope: ""},
		"scope as api id": {AEFID: "a", APIName: "n", APIIDs: []string{"p", "1"}},
	}
	seen := map[denycache.ID]string{}
	for name, r := range routes {
		id := routeID(&r, v)
		if other, known := seen[id]; known {
			t.Errorf("routes %q and %q: got the same id; want two", name, other)
		}
		seen[id] = name
		if again := routeID(&r, v); again != id {
			t.Errorf("route %q: got %x and %x; want the same id twice", name, id, again)
		}
		if other := routeID(&r, [16]byte{2}); other == id {
			t.Errorf("route %q: got the same id under other settings of the verifier; want another", name)
		}
	}
}

// A verdict of one route, or under other settings of the verifier, is not one
// of another.
func TestVerdictsStayWithTheirRoute(t *testing.T) {
	x := newScene(t, newEd())
	raw := x.signer.good("i")
	wantCached(t, x.decider, raw, Allowed)

	other := testRoute()
	other.APIName = "qos"
	wantReason(t, decider(t, other, x.verifier, x.ledger, x.cache), raw, InsufficientScope)

	bySub := must(token.NewVerifier(token.Settings{InvokerClaims: []string{"sub"}}, x.keys))
	wantReason(t, decider(t, testRoute(), bySub, x.ledger, x.cache), raw, TokenNoInvoker)

	x.reload() // the same settings: what is cached stays good
	if got := x.want(raw, Allowed); !got.Cached {
		t.Error("got a verdict that is not from the cache after a reload; want it from the cache")
	}
}

func TestNewDeciderRefusesHalfARoute(t *testing.T) {
	x := newScene(t, newEd())
	for want, r := range map[string]Route{
		"no aefId": {APIName: "n", APIIDs: []string{"1"}},
		"no apiId": {AEFID: "a", APIName: "n"},
		"neither":  {AEFID: "a", APIIDs: []string{"1"}},
	} {
		d, err := NewDecider(r, x.verifier, x.ledger, x.cache)
		if d != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, %v; want an error with %q", r, d, err, want)
		}
	}
}
