package enforce

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-capif/aef/internal/revocation"
)

// hooked stands between the decider and the ledger and runs a hook around one
// lookup: there a schedule puts what happens in between.
type hooked struct {
	Claims
	before, after func() // each runs once
}

func (h *hooked) Covering(invoker, aef string, apis []string, t revocation.Digest) revocation.Cover {
	runOnce(&h.before)
	cover := h.Claims.Covering(invoker, aef, apis, t)
	runOnce(&h.after)
	return cover
}

func runOnce(f *func()) {
	if g := *f; g != nil {
		*f = nil
		g()
	}
}

// schedule is one order of events, with and without a reload in the middle
// (schedule 29).
func schedule(t *testing.T, play func(t *testing.T, x *scene, reload func(claims Claims) *Decider)) {
	t.Helper()
	t.Run("no reload", func(t *testing.T) {
		x := newScene(t, newEd())
		same := map[Claims]*Decider{}
		play(t, x, func(claims Claims) *Decider {
			if same[claims] == nil {
				same[claims] = x.over(claims)
			}
			return same[claims]
		})
	})
	t.Run("a reload in the middle", func(t *testing.T) {
		x := newScene(t, newEd())
		play(t, x, x.over)
	})
}

// A deny is acknowledged while a verdict is being computed: after the lookup, or
// between the epoch and the lookup.
func TestSchedule01VerdictComputedThenDeny(t *testing.T) {
	schedule(t, func(t *testing.T, x *scene, reload func(Claims) *Decider) {
		for _, when := range []string{"after the lookup", "before the lookup"} {
			for _, seen := range []string{"first sight", "cached, stale"} {
				t.Run(when+", "+seen, func(t *testing.T) {
					invoker := when + seen
					raw := x.signer.good(invoker)
					claims := &hooked{Claims: x.ledger}
					if seen != "first sight" {
						wantCached(t, reload(claims), raw, Allowed)
						x.ledger.RaiseEpochs()
					}
					deny := func() { x.deny(denyOf(invoker)) }
					want := Allowed
					if when == "after the lookup" {
						claims.after = deny
					} else {
						claims.before, want = deny, AuthorizationRevoked
					}
					wantReason(t, reload(claims), raw, want) // it began before the deny: either is right
					for range 100 {
						wantReason(t, reload(claims), raw, AuthorizationRevoked)
					}
				})
			}
		}
	})
}

// earlyEpoch is the mutated build: the epoch is raised before the claim is added.
type earlyEpoch struct {
	hooked
	epoch atomic.Uint64
}

func (m *earlyEpoch) Epoch(string) *atomic.Uint64 { return &m.epoch }

func TestSchedule01IsSeenInTheMutatedBuild(t *testing.T) {
	x := newScene(t, newEd())
	m := &earlyEpoch{hooked: hooked{Claims: x.ledger}}
	m.epoch.Store(1)
	d := x.over(m)
	raw := x.signer.good("i")
	wantCached(t, d, raw, Allowed)
	m.epoch.Add(1) // the deny begins, wrong way round
	wantReason(t, d, raw, Allowed)
	x.deny(denyOf("i")) // and is acknowledged
	if got := d.Decide(t.Context(), raw, now); got.Reason != Allowed {
		t.Errorf("got %v; want %v: the schedule shows no fault", got.Reason, Allowed)
	}
}

// Two calls compute a verdict of the same entry; the one that read the old epoch
// and found nothing stamps last.
func TestSchedule02OldVerdictUnderNewEpoch(t *testing.T) {
	schedule(t, func(t *testing.T, x *scene, reload func(Claims) *Decider) {
		raw := x.signer.good("i")
		claims := &hooked{Claims: x.ledger}
		wantCached(t, reload(claims), raw, Allowed)
		x.ledger.RaiseEpochs()
		claims.after = func() {
			x.deny(denyOf("i"))
			wantReason(t, reload(x.ledger), raw, AuthorizationRevoked) // stamps the new epoch
		}
		wantReason(t, reload(claims), raw, Allowed) // began before the deny; stamps last
		for range 100 {
			wantReason(t, reload(claims), raw, AuthorizationRevoked)
		}
	})
}

// The same with real concurrency: one hot token, callers that refresh its entry
// all the time, and a call straight after each acknowledgement.
func TestSchedule02HotToken(t *testing.T) {
	x := newScene(t, newEd())
	raw := x.signer.good("i")
	wantCached(t, x.decider, raw, Allowed)
	var current atomic.Pointer[Decider]
	current.Store(x.decider)
	var stop atomic.Bool
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !stop.Load() {
				for range 50 {
					current.Load().Decide(t.Context(), raw, now)
				}
				x.ledger.RaiseEpochs()
			}
		})
	}
	for round := range 100 {
		if round%10 == 0 {
			current.Store(x.over(x.ledger))
		}
		x.deny(denyOf("i"))
		for range 20 {
			wantReason(t, current.Load(), raw, AuthorizationRevoked)
		}
		x.lift(revocation.Lift{Invoker: "i"})
		for range 20 {
			wantReason(t, current.Load(), raw, Allowed)
		}
	}
	stop.Store(true)
	callers.Wait()
}

// A key is rotated out while a token that it verified is cached, and while one
// is being verified.
func TestSchedule24KeyRotatedOut(t *testing.T) {
	schedule(t, func(t *testing.T, x *scene, reload func(Claims) *Decider) {
		next := newEd()
		cached, inFlight := x.signer.good("cached"), x.signer.good("in flight")
		wantCached(t, reload(x.ledger), cached, Allowed)

		// KeySetID reads the keys first, then Verify does: rotate behind that.
		reads := 0
		rotate := func() {
			reads++
			if reads == 2 {
				x.keys.rotate(next.key)
			}
		}
		d := reload(x.ledger)
		x.keys.afterRead.Store(&rotate)
		wantReason(t, d, inFlight, Allowed) // it began before the rotation
		x.keys.afterRead.Store(nil)
		if reads < 2 {
			t.Fatalf("got %d reads of the keys; want a rotation behind the second", reads)
		}
		for range 100 {
			wantReason(t, reload(x.ledger), cached, TokenBadSignature)
			wantReason(t, reload(x.ledger), inFlight, TokenBadSignature)
		}
		wantReason(t, reload(x.ledger), next.good("in flight"), Allowed)

		// The key comes back: what it had verified may count again.
		x.keys.rotate(next.key, x.signer.key)
		wantReason(t, reload(x.ledger), cached, Allowed)
	})
}

// A token that was revoked by its digest comes again with another third part.
func TestSchedule25RevokedTokenInAnotherDress(t *testing.T) {
	x := newScene(t, newES256())
	raw := x.signer.good("i")
	digest := digestOf(t, x.verifier, raw)
	wantCached(t, x.decider, raw, Allowed)
	wantReason(t, x.decider, otherS(raw), Allowed) // ECDSA takes both
	x.deny(revocation.Deny{Invoker: "i", APIs: []string{api}, Token: digest})

	for name, test := range map[string]struct {
		raw  string
		want Reason
	}{
		"as it was":               {raw, TokenRevoked},
		"s is n-s":                {otherS(raw), TokenRevoked},
		"other trailing bits":     {trailingBit(raw), TokenMalformed},
		"n-s and trailing bits":   {trailingBit(otherS(raw)), TokenMalformed},
		"padding":                 {raw + "==", TokenMalformed},
		"a line break":            {raw + "\n", TokenMalformed},
		"a line break in between": {raw[:len(raw)-2] + "\r\n" + raw[len(raw)-2:], TokenMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				x.want(test.raw, test.want)
				x.reload()
			}
		})
	}
	x.want(x.signer.mint(fmt.Sprintf(`{"iss":"i","exp":%d,"scope":%q,"jti":"new"}`, soon, scopeOfA)), Allowed)
}

// A forged token has the header and the payload of a cached good one.
func TestSchedule26ForgedThirdPart(t *testing.T) {
	schedule(t, func(t *testing.T, x *scene, reload func(Claims) *Decider) {
		raw := x.signer.good("i")
		wantCached(t, reload(x.ledger), raw, Allowed)
		for name, test := range map[string]struct {
			raw  string
			want Reason
		}{
			"a signature of another key": {withSignature(raw, signatureOf(newEd().good("i"))), TokenBadSignature},
			"one bit changed":            {flipped(raw), TokenBadSignature},
			"none":                       {withSignature(raw, nil), TokenBadSignature},
			"cut short":                  {withSignature(raw, signatureOf(raw)[:60]), TokenBadSignature},
		} {
			t.Run(name, func(t *testing.T) {
				for range 3 {
					got := wantReason(t, reload(x.ledger), test.raw, test.want)
					if got.Cached || got.Entry != nil {
						t.Errorf("got entry %v, cached %v; want nothing known of a forged token", got.Entry, got.Cached)
					}
				}
			})
		}
		if got := wantReason(t, reload(x.ledger), raw, Allowed); !got.Cached {
			t.Error("got the good token not cached any more; want it cached")
		}
	})
}
