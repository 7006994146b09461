package enforce

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

func TestEachReason(t *testing.T) {
	x := newScene(t, newEd())
	past := now.Add(-time.Minute).Unix()
	future := now.Add(time.Minute).Unix()
	claims := func(format string, args ...any) string { return x.signer.mint(fmt.Sprintf(format, args...)) }
	revokedToken := x.signer.mint(fmt.Sprintf(`{"iss":"t","exp":%d,"scope":%q,"jti":"revoked"}`, soon, scopeOfA))
	x.deny(revocation.Deny{Invoker: "t", APIs: []string{api}, Token: digestOf(t, x.verifier, revokedToken)})
	x.deny(denyOf("denied here"))
	x.deny(revocation.Deny{Invoker: "denied for all aefs", APIs: []string{api}})
	x.deny(revocation.Deny{Invoker: "denied for all apis", AEF: aef})
	x.deny(revocation.Deny{Invoker: "denied for all"})
	x.deny(revocation.Deny{Invoker: "denied elsewhere", AEF: "aef-2"})
	x.deny(revocation.Deny{Invoker: "denied for another api", APIs: []string{"api-2"}})

	tests := map[string]struct {
		raw  string
		want Reason
	}{
		"in order":             {x.signer.good("i"), Allowed},
		"denied elsewhere":     {x.signer.good("denied elsewhere"), Allowed},
		"another api denied":   {x.signer.good("denied for another api"), Allowed},
		"another token":        {x.signer.good("t"), Allowed},
		"no JWS":               {"abc", TokenMalformed},
		"empty":                {"", TokenMalformed},
		"two tokens":           {x.signer.good("i") + " " + x.signer.good("i"), MalformedRequest},
		"a space behind it":    {x.signer.good("i") + " ", MalformedRequest},
		"a list":               {x.signer.good("i") + ",Basic abc", MalformedRequest},
		"no exp":               {claims(`{"iss":"i","scope":%q}`, scopeOfA), TokenMalformed},
		"another key":          {newEd().good("i"), TokenBadSignature},
		"expired":              {claims(`{"iss":"i","exp":%d,"scope":%q}`, past, scopeOfA), TokenExpired},
		"not yet valid":        {claims(`{"iss":"i","exp":%d,"nbf":%d,"scope":%q}`, soon, future, scopeOfA), TokenNotYetValid},
		"no invoker":           {claims(`{"exp":%d,"scope":%q}`, soon, scopeOfA), TokenNoInvoker},
		"invokers that differ": {claims(`{"iss":"i","client_id":"j","exp":%d,"scope":%q}`, soon, scopeOfA), TokenNoInvoker},
		"no scope":             {claims(`{"iss":"i","exp":%d}`, soon), InsufficientScope},
		"another api name":     {claims(`{"iss":"i","exp":%d,"scope":"3gpp#aef-1:qos"}`, soon), InsufficientScope},
		"another aef":          {claims(`{"iss":"i","exp":%d,"scope":"3gpp#aef-2:location"}`, soon), InsufficientScope},
		"revoked token":        {revokedToken, TokenRevoked},
		"denied here":          {x.signer.good("denied here"), AuthorizationRevoked},
		"denied for all aefs":  {x.signer.good("denied for all aefs"), AuthorizationRevoked},
		"denied for all apis":  {x.signer.good("denied for all apis"), AuthorizationRevoked},
		"denied for all":       {x.signer.good("denied for all"), AuthorizationRevoked},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for range 3 { // first sight, and what the cache may hold then
				got := x.want(test.raw, test.want)
				verified := test.want == Allowed || test.want == TokenRevoked || test.want == AuthorizationRevoked || test.want == InsufficientScope
				if (got.Entry != nil) != verified {
					t.Errorf("got entry %v; want one: %v", got.Entry, verified)
				}
				if verified && (got.Entry.Invoker == "" || got.Entry.User != any(got.Entry.Invoker)) {
					t.Errorf("got invoker %q and user %v; want the same name twice", got.Entry.Invoker, got.Entry.User)
				}
			}
		})
	}
}

func TestReasonNames(t *testing.T) {
	seen := map[string]bool{"undecided": true}
	for _, r := range Reasons() {
		if r == Undecided || r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d: got the name %q; want one of its own", r, r)
		}
		seen[r.String()] = true
	}
	if got := Reason(200).String(); got != "undecided" {
		t.Errorf("got %q; want undecided", got)
	}
	if got := len(Reasons()); got != int(reasons)-1 {
		t.Errorf("got %d reasons; want %d", got, reasons-1)
	}
}

// Each step answers before the next: every case has all faults from its own on.
func TestOrderOfChecks(t *testing.T) {
	x := newScene(t, newEd())
	x.deny(revocation.Deny{Invoker: "i"})
	past := now.Add(-time.Hour).Unix()
	inScope := x.signer.good("i")
	wrongScope := x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d}`, soon))
	expired := x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d}`, past))
	forged := newEd().mint(fmt.Sprintf(`{"iss":"i","exp":%d}`, past))
	closed := revocation.NewLedger(t.TempDir() + "/closed.db")
	noKeys := must(token.NewVerifier(token.Settings{}, &keyRing{}))

	tests := map[string]struct {
		verifier Verifier
		claims   Claims
		raw      string
		want     Reason
	}{
		"ledger before keys":      {noKeys, closed, "no token", NotReady},
		"keys before the token":   {noKeys, x.ledger, "no token", KeysMissing},
		"form before signature":   {x.verifier, x.ledger, forged + ".x", TokenMalformed},
		"signature before expiry": {x.verifier, x.ledger, forged, TokenBadSignature},
		"expiry before scope":     {x.verifier, x.ledger, expired, TokenExpired},
		"scope before claims":     {x.verifier, x.ledger, wrongScope, InsufficientScope},
		"claims":                  {x.verifier, x.ledger, inScope, AuthorizationRevoked},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := decider(t, testRoute(), test.verifier, test.claims, x.cache)
			wantReason(t, d, test.raw, test.want)
		})
	}

	t.Run("cached, expiry before the verdict", func(t *testing.T) {
		wantCached(t, x.decider, inScope, AuthorizationRevoked)
		later := time.Unix(soon, 0).Add(time.Minute)
		if got := x.decider.Decide(t.Context(), inScope, later); got.Reason != TokenExpired {
			t.Errorf("got %v; want %v", got.Reason, TokenExpired)
		}
		earlier := x.decider.Decide(t.Context(), inScope, now)
		if earlier.Reason != AuthorizationRevoked {
			t.Errorf("got %v; want %v", earlier.Reason, AuthorizationRevoked)
		}
	})
	t.Run("cached, closed ledger before the verdict", func(t *testing.T) {
		raw := x.signer.good("allowed")
		wantCached(t, x.decider, raw, Allowed)
		wantReason(t, x.over(closed), raw, NotReady)
	})
	t.Run("cached, keys before the verdict", func(t *testing.T) {
		raw := x.signer.good("allowed")
		wantCached(t, x.decider, raw, Allowed)
		wantReason(t, decider(t, testRoute(), noKeys, x.ledger, x.cache), raw, KeysMissing)
	})
}

// A verdict does not outlive nbf and exp because it is cached.
func TestCachedTokenTimes(t *testing.T) {
	x := newScene(t, newEd())
	begin := now.Add(-time.Minute)
	raw := x.signer.mint(fmt.Sprintf(`{"iss":"i","nbf":%d,"exp":%d,"scope":%q}`, begin.Unix(), soon, scopeOfA))
	wantCached(t, x.decider, raw, Allowed)
	for _, test := range []struct {
		at   time.Time
		want Reason
	}{
		{begin.Add(-token.DefaultLeeway - time.Second), TokenNotYetValid},
		{begin.Add(-token.DefaultLeeway), Allowed},
		{time.Unix(soon, 0).Add(token.DefaultLeeway - time.Second), Allowed},
		{time.Unix(soon, 0).Add(token.DefaultLeeway), TokenExpired},
	} {
		got := x.decider.Decide(t.Context(), raw, test.at)
		if got.Reason != test.want {
			t.Errorf("at %v: got %v; want %v", test.at.UTC(), got.Reason, test.want)
		}
	}
}
