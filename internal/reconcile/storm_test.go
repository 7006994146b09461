package reconcile

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
)

// stormInvoker is what one API invoker's actor and its callers share.
type stormInvoker struct {
	name string
	// revoked is odd from the acknowledgement of a hint that followed a
	// removal at the core until just before the entry comes back.
	revoked atomic.Uint64
	// failed counts the reads of it that failed.
	failed atomic.Uint64
}

// TestStorm lets entries come and go at the core, hints of both kinds, restarts
// of sight by eviction and offboarding, and calls through cached verdicts. Once
// a hint that followed a removal is acknowledged, no call that starts later may
// be allowed, unless a read of that invoker failed during the call.
func TestStorm(t *testing.T) {
	for _, c := range []struct {
		name    string
		failing float64
		evict   bool
	}{
		{"all reads succeed", 0, false},
		{"some reads fail", 0.1, false},
		{"contexts are evicted", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) { storm(w, c.failing, c.evict) })
		})
	}
}

func storm(w *world, failing float64, evict bool) {
	const (
		invokers = 24
		callers  = 4
		lasting  = 4 * time.Second
	)
	w.s.Hosted = nil // entries of foreign aefIds: no mass change gets in the way
	w.s.Wait = time.Minute
	w.s.Interval = 5 * time.Second
	if evict {
		w.s.MaxInvokers = invokers / 2
	}
	w.r.Apply(&w.s)
	all := make(map[string]*stormInvoker)
	for i := range invokers {
		name := fmt.Sprintf("invoker-%d", i)
		all[name] = &stormInvoker{name: name}
		w.core.set(name, entry)
	}
	w.core.script(func(core *fakeCore) {
		core.latency = 0
		core.hold = func(ctx context.Context, invoker string) error {
			wait := 1 + rand.N(10*time.Millisecond)
			if rand.IntN(50) == 0 {
				wait *= 50
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return &coreclient.Error{Op: "read", Err: ctx.Err()}
			}
			if rand.Float64() < failing {
				all[invoker].failed.Add(1)
				return silent()
			}
			return nil
		}
	})
	end := time.Now().Add(lasting)
	var actors sync.WaitGroup
	var calls, allowed, checked atomic.Uint64
	for _, inv := range all {
		actors.Go(func() {
			for time.Now().Before(end) {
				<-time.After(1 + rand.N(100*time.Millisecond))
				w.core.set(inv.name)
				if rand.IntN(2) == 0 {
					w.hint(inv.name)
				} else {
					w.hint()
				}
				inv.revoked.Add(1)
				<-time.After(1 + rand.N(100*time.Millisecond))
				inv.revoked.Add(1)
				w.core.set(inv.name, entry)
				w.hint(inv.name)
				if rand.IntN(20) == 0 {
					_ = w.r.Gone(w.t.Context(), []string{inv.name})
				}
			}
		})
		for range callers {
			actors.Go(func() {
				for time.Now().Before(end) {
					<-time.After(1 + rand.N(4*time.Millisecond))
					before, failed := inv.revoked.Load(), inv.failed.Load()
					got := w.call(inv.name)
					calls.Add(1)
					if got == enforce.Allowed {
						allowed.Add(1)
					}
					if before%2 == 0 || inv.revoked.Load() != before {
						continue
					}
					checked.Add(1)
					if got == enforce.Allowed && inv.failed.Load() == failed {
						w.t.Errorf("%s: got allowed after the hint was acknowledged; want it refused", inv.name)
					}
				}
			})
		}
	}
	actors.Wait()
	w.t.Logf("%d calls, %d allowed, %d had to be refused, %d reads", calls.Load(), allowed.Load(), checked.Load(), w.core.count(""))
	if allowed.Load() == 0 || checked.Load() == 0 {
		w.t.Error("the storm checked nothing; want calls of both kinds")
	}
}
