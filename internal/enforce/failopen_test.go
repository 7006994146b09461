package enforce

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
)

// TestRest: what is known refuses, and only what nobody can know passes.
func TestRest(t *testing.T) {
	s, stranger := newEd(), newEd()
	x := newScene(t, s)
	x.deny(revocation.Deny{Invoker: "denied"})
	old := ContextAnswer{Listed: true, Known: true, Times: new(denycache.Times)}
	old.Times.ReadAt.Store(now.Add(-2 * time.Hour).UnixNano())
	open := decider(t, testRoute(), x.verifier, x.ledger, x.cache)
	open.UseContexts(someContexts{"old": old, "denied": old}, ContextRule{Require: true, MaxStaleness: time.Hour})
	starting := decider(t, testRoute(), x.verifier, revocation.NewLedger(t.TempDir()+"/closed.db"), x.cache)
	foreign := s.mint(fmt.Sprintf(`{"iss":"inv","exp":%d,"scope":"3gpp#aef-1:other"}`, soon))
	for name, tt := range map[string]struct {
		decider *Decider
		raw     string
		without bool // keys
		reason  Reason
		rest    Reason
		invoker string
	}{
		"a context that is unknown":         {open, s.good("new"), false, ContextUnknown, Allowed, "new"},
		"a context that is old":             {open, s.good("old"), false, ContextStale, Allowed, "old"},
		"not ready":                         {starting, s.good("new"), false, NotReady, Allowed, "new"},
		"not ready, another's signature":    {starting, stranger.good("new"), false, NotReady, TokenBadSignature, ""},
		"not ready, another API":            {starting, foreign, false, NotReady, InsufficientScope, "inv"},
		"not ready, a list":                 {starting, "a, b", false, NotReady, MalformedRequest, ""},
		"not ready, no keys":                {starting, s.good("new"), true, NotReady, Allowed, ""},
		"no keys":                           {open, "anything", true, KeysMissing, Allowed, ""},
		"no keys, and a claim on who knows": {open, s.good("denied"), true, KeysMissing, Allowed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.without {
				x.keys.set.Store(nil)
				defer x.keys.rotate(s.key)
			}
			undecided := tt.decider.Decide(t.Context(), tt.raw, now)
			if undecided.Reason != tt.reason || !undecided.Reason.Undecidable() {
				t.Fatalf("got %v; want %v, which is undecidable", undecided.Reason, tt.reason)
			}
			got := tt.decider.Rest(t.Context(), tt.raw, undecided, now)
			invoker := ""
			if got.Entry != nil {
				invoker = got.Entry.Invoker
			}
			if got.Reason != tt.rest || invoker != tt.invoker {
				t.Errorf("got %v of %q; want %v of %q", got.Reason, invoker, tt.rest, tt.invoker)
			}
			if tt.rest != Allowed {
				return
			}
			explained := tt.decider.ExplainInvoker(t.Context(), "new", now)
			if explained.Reason.Undecidable() {
				if rest := tt.decider.RestInvoker("new", explained.Decision); rest.Reason != Allowed {
					t.Errorf("asked by API invoker: got %v; want %v", rest.Reason, Allowed)
				}
			}
		})
	}
	// A claim that comes after the decision was given up.
	undecided := open.Decide(t.Context(), s.good("late"), now)
	x.deny(revocation.Deny{Invoker: "late"})
	if got := open.Rest(t.Context(), s.good("late"), undecided, now); got.Reason != AuthorizationRevoked {
		t.Errorf("got %v; want %v", got.Reason, AuthorizationRevoked)
	}
	if got := open.RestInvoker("late", Decision{Reason: NotReady}); got.Reason != AuthorizationRevoked {
		t.Errorf("asked by API invoker: got %v; want %v", got.Reason, AuthorizationRevoked)
	}
	for _, reason := range []Reason{Allowed, TokenExpired, NotInContext, AuthorizationRevoked, OverLimit, OutsideTimeRange, TokenNotBound} {
		if reason.Undecidable() {
			t.Errorf("got %v undecidable; want it decided", reason)
		}
	}
}
