package enforce

import "testing"

func TestCachedDecisionAllocatesNothing(t *testing.T) {
	x := newScene(t, newEd())
	for name, want := range map[string]Reason{"allowed": Allowed, "refused": AuthorizationRevoked} {
		t.Run(name, func(t *testing.T) {
			raw := x.signer.good("inv " + name)
			if want != Allowed {
				x.deny(denyOf("inv " + name))
			}
			wantCached(t, x.decider, raw, want)
			ctx := t.Context()
			got := testing.AllocsPerRun(1000, func() {
				d := x.decider.Decide(ctx, raw, now)
				if d.Reason != want || !d.Cached {
					t.Fatalf("got %v, cached %v; want %v from the cache", d.Reason, d.Cached, want)
				}
			})
			if got != 0 {
				t.Errorf("got %v allocations for each call; want 0", got)
			}
		})
	}
}
