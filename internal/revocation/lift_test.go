package revocation

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// short names a claim in tables: origin:aef/api, with ! for a token.
func short(c Claim) string {
	s := fmt.Sprintf("%s:%s/%s", c.Origin, c.AEF, c.API)
	if !c.Token.IsZero() {
		s += "!"
	}
	return s
}

func shorts(list []Claim) []string {
	out := []string{}
	for _, c := range list {
		out = append(out, short(c))
	}
	slices.Sort(out)
	return out
}

// claimedInvoker sets one claim of each kind on invoker i, and one on j.
func claimedInvoker(t *testing.T, l *Ledger) {
	t.Helper()
	for _, aef := range []string{"", "a", "b"} {
		mustDeny(t, l, Deny{Invoker: "i", AEF: aef})
		mustDeny(t, l, Deny{Invoker: "i", AEF: aef, APIs: []string{"1", "2"}})
	}
	mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Token: someToken})
	mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true})
	mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X", Hold: true})
	mustTrigger(t, l, Trigger{Invoker: "i", AEF: "b", APIs: []string{"2"}, Cause: "X"})
	mustDeny(t, l, Deny{Invoker: "j"})
}

func TestLiftRemovesWhatItCoversAndSaysWhatStillDenies(t *testing.T) {
	tests := map[string]struct {
		lift                           Lift
		lifted, cancelled, stillDenies []string
	}{
		"everything": {
			lift: Lift{Invoker: "i"},
			lifted: []string{"aef:a/", "aef:a/1", "core:/", "core:/1", "core:/2", "core:a/", "core:a/1", "core:a/1!", "core:a/2",
				"core:b/", "core:b/1", "core:b/2"},
			cancelled: []string{"a/1", "a/", "b/2"}, stillDenies: []string{},
		},
		"one API, every aefId": {
			lift:      Lift{Invoker: "i", APIs: []string{"1"}},
			lifted:    []string{"aef:a/1", "core:/1", "core:a/1", "core:a/1!", "core:b/1"},
			cancelled: []string{"a/1"}, stillDenies: []string{"aef:a/", "core:/", "core:a/", "core:b/"},
		},
		"all of one aefId": {
			lift:      Lift{Invoker: "i", AEF: "b"},
			lifted:    []string{"core:b/", "core:b/1", "core:b/2"},
			cancelled: []string{"b/2"}, stillDenies: []string{"core:/", "core:/1", "core:/2"},
		},
		"one API of one aefId": {
			lift:      Lift{Invoker: "i", AEF: "a", APIs: []string{"2"}},
			lifted:    []string{"core:a/2"},
			cancelled: []string{}, stillDenies: []string{"aef:a/", "core:/", "core:/2", "core:a/"},
		},
		"nothing of that name": {
			lift:   Lift{Invoker: "i", AEF: "z", APIs: []string{"9"}},
			lifted: []string{}, cancelled: []string{}, stillDenies: []string{"core:/"},
		},
		"an unknown invoker": {
			lift:   Lift{Invoker: "ii"},
			lifted: []string{}, cancelled: []string{}, stillDenies: []string{},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			claimedInvoker(t, l)
			before := claims(t, l, "i")
			done := mustLift(t, l, test.lift)
			if got := shorts(done.Claims); !slices.Equal(got, test.lifted) {
				t.Errorf("lifted: got %v; want %v", got, test.lifted)
			}
			if got := shorts(done.StillDenying); !slices.Equal(got, test.stillDenies) {
				t.Errorf("still denying: got %v; want %v", got, test.stillDenies)
			}
			cancelled := []string{}
			for _, r := range done.Cancelled {
				cancelled = append(cancelled, r.AEFID+"/"+r.APIID)
				stored, err := l.Revocation(r.ID)
				if err != nil || stored.State != StateCancelled || r.State != StateCancelled || stored.DecidedAt.IsZero() {
					t.Errorf("got %+v, %v; want it cancelled, with a time", stored, err)
				}
				if l.IsPending(r.Sequence) {
					t.Errorf("%s: got pending; want not", r.ID)
				}
			}
			if !slices.Equal(cancelled, test.cancelled) {
				t.Errorf("cancelled: got %v; want %v", cancelled, test.cancelled)
			}
			if got, want := l.Stats().Pending, 3-len(test.cancelled); got != want {
				t.Errorf("pending: got %d; want %d", got, want)
			}
			for range 2 {
				if got, want := len(claims(t, l, "i")), len(before)-len(test.lifted); got != want {
					t.Errorf("claims left: got %d; want %d", got, want)
				}
				wantIndexFromClaims(t, l)
				wantCover(t, l, "j", "a", "1", Digest{}, CoverAuthorization)
				l = reopen(t, l)
			}
		})
	}
}

// wantIndexFromClaims asks that memory knows exactly the scopes on disk.
func wantIndexFromClaims(t *testing.T, l *Ledger) {
	t.Helper()
	scopes := map[Scope]bool{}
	for _, c := range claims(t, l, "") {
		scopes[c.Scope] = true
		if !l.index.has(appendScope(nil, &c.Scope)) {
			t.Errorf("index: got nothing for %+v; want it", c.Scope)
		}
	}
	if got, want := l.Stats().DeniedScopes, int64(len(scopes)); got != want {
		t.Errorf("denied scopes in memory: got %d; want %d as on disk", got, want)
	}
}

func TestLiftRaisesTheEpoch(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i"})
	before := l.Epoch("i").Load()
	mustLift(t, l, Lift{Invoker: "i"})
	if got := l.Epoch("i").Load(); got == before {
		t.Errorf("got %d; want another than before", got)
	}
	before = l.Epoch("other").Load()
	l.RaiseEpochs()
	if got := l.Epoch("other").Load(); got == before {
		t.Errorf("after RaiseEpochs: got %d; want another than before", got)
	}
}

// What is set and lifted within one transaction must leave no trace: neither
// an expiry that a later sweep stumbles over nor a pending entry that comes
// back when the file is opened again.
func TestSetAndLiftedInOneBatchLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		l := openLedger(t, ledgerPath(t), Options{WrapCommit: d.wrap})
		defer closeLedger(t, l)
		inOneBatch(t, l, d,
			func() { mustDeny(t, l, Deny{Invoker: "i", Token: someToken, TokenExpires: time.Now()}) },
			func() { mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X", Hold: true}) },
			func() { mustLift(t, l, Lift{Invoker: "i"}) },
		)
		if covered(l, "i") || l.index.has(appendScope(nil, &Scope{Invoker: "i", Token: someToken})) {
			t.Error("got still denied; want lifted")
		}
		pass(25 * time.Hour)
		if l.Failing() {
			t.Fatal("got a failing ledger after the sweep; want a working one")
		}
		l = reopen(t, l)
		defer closeLedger(t, l)
		if got := l.Stats(); got != (Stats{DeniedScopes: 1}) {
			t.Errorf("got %+v; want the one scope that kept the writer busy", got)
		}
		refs, err := l.Pending()
		if err != nil || len(refs) != 0 {
			t.Errorf("got %v, %v; want nothing pending", refs, err)
		}
	})
}
