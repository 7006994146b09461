package enforce

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/revocation"
)

// TestExposureCountsWhatPassed: while callers go on with cached verdicts, a
// revocation holds every call that began after its trigger and passed, none that
// was refused, and none of another API invoker or API.
func TestExposureCountsWhatPassed(t *testing.T) {
	x := newScene(t, newEd())
	raw, stranger := x.signer.good("inv 1"), x.signer.good("inv 2")
	call := func(raw string) Reason {
		d := x.decider.Decide(t.Context(), raw, now)
		d.End(d.Reason == Allowed)
		return d.Reason
	}
	trigger := func(api string, hold bool) *revocation.Revocation {
		t.Helper()
		made, err := x.ledger.Trigger(t.Context(), revocation.Trigger{Invoker: "inv 1", AEF: aef, APIs: []string{api}, Cause: "X", Hold: hold})
		if err != nil {
			t.Fatal(err)
		}
		return &made[0]
	}
	decide := func(r *revocation.Revocation, state revocation.State) *revocation.Exposure {
		t.Helper()
		after, err := x.ledger.Record(t.Context(), r.Sequence, revocation.Progress{State: state})
		if err != nil {
			t.Fatal(err)
		}
		if after.Exposure == nil {
			t.Fatal("got no exposure once decided; want one")
		}
		return after.Exposure
	}
	cached := func(want bool) {
		t.Helper()
		for range 3 {
			call(raw)
		}
		if d := x.decider.Decide(t.Context(), raw, now); d.Cached != want {
			t.Errorf("got cached %t; want %t", d.Cached, want)
		}
	}

	for !x.decider.Decide(t.Context(), raw, now).Cached {
		runtime.Gosched() // ristretto takes it in its own time
	}
	elsewhere := trigger("another API", false)
	cached(true) // nothing is slower for what is not revoked
	if got := decide(elsewhere, revocation.StateRejected); got.Calls != 0 || !got.LastPassedAt.IsZero() {
		t.Errorf("another API: got %+v; want nothing counted", got)
	}

	for range 5 {
		call(raw)
	}
	began := time.Now()
	r := trigger(api, false)
	for range 7 {
		call(raw)
		call(stranger)
	}
	refused := x.decider.Decide(t.Context(), raw, now) // as by a policy
	refused.End(false)
	again := trigger(api, false) // the same one
	if again.ID != r.ID {
		t.Fatalf("got %s; want %s again", again.ID, r.ID)
	}
	call(raw)
	before := time.Now()
	if got := decide(r, revocation.StateRejected); got.Calls != 8 || got.LastPassedAt.Before(began) || got.LastPassedAt.After(before) {
		t.Errorf("got %+v; want 8 calls, the last within the time", got)
	}
	cached(true) // it is over

	r = trigger(api, false)
	late := x.decider.Decide(t.Context(), raw, now) // on its way when the core decides
	if got := decide(r, revocation.StateRejected); late.Reason != Allowed || got.Calls != 1 || got.LastPassedAt.IsZero() {
		t.Errorf("a call on its way: got %+v; want it counted", got)
	}
	late.End(true)

	held := trigger(api, true)
	if held.Exposure == nil || held.Exposure.Calls != 0 {
		t.Errorf("held: got %+v; want 0 calls", held.Exposure)
	}
	x.lift(revocation.Lift{Invoker: "inv 1"})
	cached(true)

	// Callers that never stop: what began after the trigger's return and before
	// the decision's call is counted for sure.
	for round := range 20 {
		var stop atomic.Bool
		var surely, all atomic.Int64
		var triggered atomic.Bool
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for !stop.Load() {
					within := triggered.Load()
					if call(raw) != Allowed {
						continue
					}
					all.Add(1)
					if within {
						surely.Add(1)
					}
				}
			})
		}
		r := trigger(api, false)
		triggered.Store(true)
		for surely.Load() < 100 {
			call(stranger)
		}
		got := decide(r, revocation.StateRevoked)
		stop.Store(true)
		callers.Wait()
		if got.Calls < surely.Load() || got.Calls > all.Load()+4 {
			t.Fatalf("round %d: got %d calls; want %d to %d", round, got.Calls, surely.Load(), all.Load()+4)
		}
		if call(raw) != AuthorizationRevoked {
			t.Fatal("got it allowed; want it blocked")
		}
		x.lift(revocation.Lift{Invoker: "inv 1"})
	}
}
