package revocation

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestDenyCovers(t *testing.T) {
	other := Digest{1}
	type call struct {
		invoker, aef, api string
		token             Digest
		want              Cover
	}
	tests := map[string]struct {
		deny  Deny
		calls []call
	}{
		"one API of one aefId": {Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}}, []call{
			{"i", "a", "1", other, CoverAuthorization}, {"i", "a", "2", other, CoverNone},
			{"i", "b", "1", other, CoverNone}, {"j", "a", "1", other, CoverNone},
		}},
		"several APIs": {Deny{Invoker: "i", AEF: "a", APIs: []string{"2", "1", "2"}}, []call{
			{"i", "a", "1", other, CoverAuthorization}, {"i", "a", "2", other, CoverAuthorization}, {"i", "a", "3", other, CoverNone},
		}},
		"no aefId: every aefId here": {Deny{Invoker: "i", APIs: []string{"1"}}, []call{
			{"i", "a", "1", other, CoverAuthorization}, {"i", "b", "1", Digest{}, CoverAuthorization}, {"i", "a", "2", other, CoverNone},
		}},
		"all APIs": {Deny{Invoker: "i", AEF: "a"}, []call{
			{"i", "a", "1", other, CoverAuthorization}, {"i", "a", "never seen", other, CoverAuthorization}, {"i", "b", "1", other, CoverNone},
		}},
		"all APIs, every aefId": {Deny{Invoker: "i"}, []call{
			{"i", "a", "1", other, CoverAuthorization}, {"i", "b", "2", Digest{}, CoverAuthorization}, {"j", "a", "1", other, CoverNone},
		}},
		"a token on one API": {Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Token: someToken}, []call{
			{"i", "a", "1", someToken, CoverToken}, {"i", "a", "1", other, CoverNone}, {"i", "a", "1", Digest{}, CoverNone},
			{"i", "a", "2", someToken, CoverNone}, {"j", "a", "1", someToken, CoverNone},
		}},
		"a token on all APIs of every aefId": {Deny{Invoker: "i", Token: someToken}, []call{
			{"i", "a", "1", someToken, CoverToken}, {"i", "b", "2", someToken, CoverToken}, {"i", "a", "1", other, CoverNone},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			epoch := l.Epoch("i").Load()
			mustDeny(t, l, test.deny)
			if got := l.Epoch("i").Load(); got == epoch {
				t.Errorf("epoch: got %d; want another than before", got)
			}
			for range 2 {
				for _, c := range test.calls {
					wantCover(t, l, c.invoker, c.aef, c.api, c.token, c.want)
				}
				l = reopen(t, l)
			}
		})
	}
}

func TestTokenAndAuthorizationTogether(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i", Token: someToken})
	mustDeny(t, l, Deny{Invoker: "i", APIs: []string{"2"}})
	if got := l.Covering("i", "a", []string{"1", "2"}, someToken); got != CoverAuthorization {
		t.Errorf("got %v; want %v: a new token would not help", got, CoverAuthorization)
	}
	if got := l.Covering("i", "a", nil, someToken); got != CoverToken {
		t.Errorf("got %v; want %v", got, CoverToken)
	}
}

func TestRepeatedDenyRenewsTheSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		defer closeLedger(t, l)
		mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "OVERLIMIT_USAGE"})
		first := claims(t, l, "i")[0]
		pass(time.Hour)
		mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "UNEXPECTED_REASON"})
		all := claims(t, l, "i")
		if len(all) != 1 {
			t.Fatalf("got %d claims; want 1", len(all))
		}
		again := all[0]
		if again.Sequence <= first.Sequence {
			t.Errorf("sequence: got %d; want above %d", again.Sequence, first.Sequence)
		}
		if !again.SetAt.Equal(first.SetAt) || again.Cause != "UNEXPECTED_REASON" || again.Origin != OriginCore {
			t.Errorf("got %+v; want set at %v, with the new cause, by the core", again, first.SetAt)
		}
	})
}

func TestClaimsOfSeveralOriginsStandTogether(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}})
	mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true})
	mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "Y", Hold: true})
	var origins []string
	for _, c := range claims(t, l, "i") {
		origins = append(origins, c.Origin.String())
	}
	slices.Sort(origins)
	if want := []string{"aef", "aef", "core"}; !slices.Equal(origins, want) {
		t.Errorf("got %v; want %v", origins, want)
	}
	if got := l.Stats().DeniedScopes; got != 1 {
		t.Errorf("denied scopes: got %d; want 1", got)
	}
	mustLift(t, l, Lift{Invoker: "i"})
	wantCover(t, l, "i", "a", "1", Digest{}, CoverNone)
}

func TestTokenClaimEndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		defer closeLedger(t, l)
		expires := time.Now().Add(10*time.Minute + 300*time.Millisecond)
		end := expires.Add(24 * time.Hour)
		mustDeny(t, l, Deny{Invoker: "i", Token: someToken, TokenExpires: expires})
		mustDeny(t, l, Deny{Invoker: "forever", Token: someToken})
		mustDeny(t, l, Deny{Invoker: "authorization", TokenExpires: expires})
		if got := claims(t, l, "i")[0].Expires; !got.Equal(end) {
			t.Errorf("expires: got %v; want %v", got, end)
		}
		epoch := l.Epoch("i").Load()
		// The sweep runs each minute: at each look the claim must be there
		// until its end, and gone one sweep later.
		for time.Now().Add(time.Second).Before(end) {
			pass(min(time.Minute, time.Until(end)-time.Second))
			if got := l.Covering("i", "a", nil, someToken); got != CoverToken {
				t.Fatalf("%v before the end: got %v; want %v", time.Until(end), got, CoverToken)
			}
		}
		pass(sweepInterval + 2*time.Second)
		if got := l.Covering("i", "a", nil, someToken); got != CoverNone {
			t.Errorf("a sweep after the end: got %v; want %v", got, CoverNone)
		}
		if l.Epoch("i").Load() == epoch {
			t.Error("epoch: got the same; want another, so that cached refusals end too")
		}
		if got := claims(t, l, "i"); len(got) != 0 {
			t.Errorf("got %v; want no claim", got)
		}
		pass(48 * time.Hour)
		wantCover(t, l, "forever", "a", "1", someToken, CoverToken)
		wantCover(t, l, "authorization", "a", "1", Digest{}, CoverAuthorization)
	})
}

func TestExpiryKeyIsNeverEarly(t *testing.T) {
	at := time.Unix(1000, 1)
	key := expiryKey(at, []byte("claim"))
	for now, want := range map[time.Time]bool{
		time.Unix(1000, 0):           false,
		time.Unix(1000, 999_999_999): false,
		time.Unix(1001, 0):           true,
	} {
		if got := expired(key, now); got != want {
			t.Errorf("at %v: got %v; want %v", now, got, want)
		}
	}
}

func TestRepeatedTokenDenyKeepsTheLaterEnd(t *testing.T) {
	soon, late := time.Unix(2_000_000_000, 0), time.Unix(2_100_000_000, 0)
	var never time.Time
	tests := map[string]struct{ first, second, want time.Time }{
		"later":          {soon, late, late},
		"earlier":        {late, soon, late},
		"equal":          {soon, soon, soon},
		"then unknown":   {soon, never, never},
		"first unknown":  {never, soon, never},
		"always unknown": {never, never, never},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			mustDeny(t, l, Deny{Invoker: "i", Token: someToken, TokenExpires: test.first})
			mustDeny(t, l, Deny{Invoker: "i", Token: someToken, TokenExpires: test.second})
			want := test.want
			if !want.IsZero() {
				want = want.Add(24 * time.Hour)
			}
			if got := claims(t, l, "i")[0].Expires; !got.Equal(want) {
				t.Errorf("got %v; want %v", got, want)
			}
		})
	}
}

func TestSweepRemovesManyAndOnlyThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		defer closeLedger(t, l)
		var apis []string
		for i := range 900 {
			apis = append(apis, string(rune('a'+i%26))+time.Duration(i).String())
		}
		for _, invoker := range []string{"i", "j"} {
			mustDeny(t, l, Deny{Invoker: invoker, APIs: apis, Token: someToken, TokenExpires: time.Now()})
		}
		mustDeny(t, l, Deny{Invoker: "k", APIs: apis})
		pass(24*time.Hour + sweepInterval + 2*time.Second)
		if got := l.Stats().DeniedScopes; got != 900 {
			t.Errorf("denied scopes: got %d; want 900", got)
		}
		if got := l.index.tokenScopes.Load(); got != 0 {
			t.Errorf("token scopes: got %d; want 0", got)
		}
		l = reopen(t, l)
		defer closeLedger(t, l)
		if got := l.Stats().DeniedScopes; got != 900 {
			t.Errorf("denied scopes after a reopen: got %d; want 900", got)
		}
	})
}
