package enforce

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
)

// someContexts are contexts that a test sets.
type someContexts map[string]ContextAnswer

func (c someContexts) Check(_ context.Context, q ContextQuery) ContextAnswer {
	a, ok := c[q.Invoker]
	if !ok {
		return ContextAnswer{Times: new(denycache.Times)}
	}
	return a
}

func (c someContexts) Known(q ContextQuery) ContextAnswer { return c.Check(context.Background(), q) }

func (c someContexts) WarnIfMapped(ContextQuery) {}

// refusedBy is the step that each reason comes from.
var refusedBy = map[Reason]string{
	NoToken: StepBearer, MalformedRequest: StepBearer, NotReady: StepLedger, KeysMissing: StepKeys,
	TokenMalformed: StepToken, TokenBadSignature: StepToken, TokenExpired: StepToken, TokenNotYetValid: StepToken, TokenNoInvoker: StepToken,
	InsufficientScope: StepScope, TokenRevoked: StepClaims, AuthorizationRevoked: StepClaims,
	NotInContext: StepContext, ContextUnknown: StepContext, ContextStale: StepContext,
}

// TestExplainIsDecide: over random claims, contexts, keys, settings and tokens,
// with whatever the cache holds, an explanation has the verdict of the decision,
// and its steps say the same as its verdict.
func TestExplainIsDecide(t *testing.T) {
	const invokers = 6
	random := rand.New(rand.NewPCG(1, 2))
	s, stranger := newEd(), newEd()
	x := newScene(t, s)
	contexts := someContexts{}
	routes := []Route{
		testRoute(),
		{AEFID: aef, APIName: "other", APIIDs: []string{"api-2", "api-3"}},
		{AEFID: aef, PlainScope: "plain", APIIDs: []string{api}},
		{AEFID: aef, APIName: "location", APIIDs: []string{api}, GrantFromContext: true},
	}
	var deciders []*Decider
	for i, r := range routes {
		for j, rule := range []ContextRule{{}, {Require: true}, {Require: true, MaxStaleness: time.Hour}} {
			d := decider(t, r, x.verifier, x.ledger, x.cache)
			if i+j > 0 { // one without contexts
				d.UseContexts(contexts, rule)
			}
			deciders = append(deciders, d)
		}
	}
	closed := revocation.NewLedger(t.TempDir() + "/closed.db")
	deciders = append(deciders, decider(t, routes[0], x.verifier, closed, x.cache))

	var headers [][]string
	for i := range invokers {
		inv := fmt.Sprint("inv ", i)
		for _, claims := range []string{
			fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":%q}`, inv, soon, scopeOfA),
			fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":"3gpp#aef-1:location,other plain"}`, inv, soon),
			fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":"plain"}`, inv, soon),
			fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":%q}`, inv, now.Unix()-100, scopeOfA),
			fmt.Sprintf(`{"iss":%q,"exp":%d,"nbf":%d,"scope":%q}`, inv, soon, soon-1, scopeOfA),
			fmt.Sprintf(`{"exp":%d,"scope":%q,"n":%d}`, soon, scopeOfA, i),
		} {
			headers = append(headers, []string{"Bearer " + s.mint(claims)})
		}
		headers = append(headers, []string{"Bearer " + stranger.good(inv)})
	}
	headers = append(headers, nil, []string{"Bearer"}, []string{"Bearer nonsense"}, []string{"Basic abc"}, []string{"Bearer a", "Bearer b"})

	seen := map[Reason]int{}
	for range 6000 {
		inv := fmt.Sprint("inv ", random.IntN(invokers))
		switch random.IntN(12) {
		case 0:
			x.deny(revocation.Deny{Invoker: inv, AEF: aef, APIs: []string{fmt.Sprint("api-", 1+random.IntN(3))}})
		case 1:
			x.deny(revocation.Deny{Invoker: inv})
		case 2:
			header := headers[random.IntN(7*invokers)]
			if token, err := x.verifier.Verify(t.Context(), strings.TrimPrefix(header[0], "Bearer "), now); err == nil {
				x.deny(revocation.Deny{Invoker: token.Invoker, APIs: []string{api}, Token: revocation.Digest(token.Digest)})
			}
		case 3, 4, 5:
			x.lift(revocation.Lift{Invoker: inv})
		case 6, 7:
			a := ContextAnswer{Listed: random.IntN(3) > 0, Known: random.IntN(5) > 0, Settled: random.IntN(2) > 0, Times: new(denycache.Times)}
			a.Times.ReadAt.Store(now.Add(-time.Duration(random.IntN(90)) * time.Minute).UnixNano())
			contexts[inv] = a
			x.ledger.RaiseEpochs()
		case 8:
			switch random.IntN(4) {
			case 0:
				x.keys.set.Store(nil)
			case 1:
				x.keys.rotate(stranger.key)
			default:
				x.keys.rotate(s.key)
			}
			x.ledger.RaiseEpochs()
		}
		d, header := deciders[random.IntN(len(deciders))], headers[random.IntN(len(headers))]
		var want Decision
		raw, reason := Bearer(header)
		want.Reason = reason
		if reason == Undecided {
			want = d.Decide(t.Context(), raw, now)
		}
		got := d.Explain(t.Context(), header, now)
		if got.Reason != want.Reason {
			t.Fatalf("%q: got %v; want %v as decided (cached %t)\n%+v", header, got.Reason, want.Reason, want.Cached, got.Steps)
		}
		seen[got.Reason]++
		wantSteps(t, &got, raw)
		if want.Entry == nil || got.Reason == InsufficientScope || got.Reason == TokenRevoked || got.Reason == TokenExpired {
			continue // what the token alone decides
		}
		byInvoker := d.ExplainInvoker(t.Context(), want.Entry.Invoker, now)
		if byInvoker.Reason != want.Reason {
			t.Fatalf("%q by its API invoker: got %v; want %v", header, byInvoker.Reason, want.Reason)
		}
		wantSteps(t, &byInvoker, raw)
	}
	for reason := range refusedBy {
		if seen[reason] == 0 {
			t.Errorf("got no call with %v; want every reason met (%v)", reason, seen)
		}
	}
	if seen[Allowed] < 100 {
		t.Errorf("got %d calls allowed; want many", seen[Allowed])
	}
}

// wantSteps: they are in order, the last alone refuses, if any, and it is the one
// that the reason comes from; none holds the token.
func wantSteps(t *testing.T, e *Explanation, raw string) {
	t.Helper()
	order := []string{StepBearer, StepLedger, StepKeys, StepToken, StepScope, StepClaims, StepContext}
	at := -1
	for i, s := range e.Steps {
		place := -1
		for j, name := range order {
			if name == s.Name {
				place = j
			}
		}
		last := i == len(e.Steps)-1
		if place <= at || s.Outcome == "" || (len(raw) > 10 && strings.Contains(s.Outcome, raw)) || (!s.Passed && !last) {
			t.Fatalf("%v: got steps %+v; want them in order, refused by the last alone", e.Reason, e.Steps)
		}
		at = place
	}
	last := e.Steps[len(e.Steps)-1]
	if want, refused := refusedBy[e.Reason]; last.Passed == refused || (refused && last.Name != want) {
		t.Fatalf("%v: got steps %+v; want it refused by %q", e.Reason, e.Steps, want)
	}
}

// TestExplainTouchesNoCache: an explanation leaves the cache as it was.
func TestExplainTouchesNoCache(t *testing.T) {
	x := newScene(t, newEd())
	raw := x.signer.good("inv 1")
	for range 100 {
		if got := x.decider.Explain(t.Context(), []string{"Bearer " + raw}, now); got.Reason != Allowed || got.Cached {
			t.Fatalf("got %+v; want allowed, not from the cache", got)
		}
	}
	if got := x.want(raw, Allowed); got.Cached {
		t.Error("got a verdict from the cache; want none kept by an explanation")
	}
}
