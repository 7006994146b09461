package lincheck

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

const (
	callers  = 4
	revokers = 6
	// defaultSlice is how many calls a caller makes before it lets others run:
	// two cores are shared with the goroutines that write to the disk.
	defaultSlice = 48
)

// round plays calls and changes at the same time and judges their history. Before
// it, every pair is lifted, so that a history is complete in itself.
func (x *system) round(t *testing.T, seed uint64, calls int) Report {
	t.Helper()
	if x.used {
		x.liftAll(t)
	}
	x.used = true
	ctx := t.Context()
	var clock Clock
	var done atomic.Bool
	var changers, callersDone sync.WaitGroup
	madeCalls := make([][]Call, callers)
	madeChanges := make([][]Change, revokers)

	for i := range revokers {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		changers.Go(func() {
			for !done.Load() {
				madeChanges[i] = append(madeChanges[i], x.change(ctx, t, &clock, random))
				for range random.IntN(8) {
					runtime.Gosched() // certainty needs some quiet
				}
			}
		})
	}
	changers.Go(func() { x.churn(&done) })
	for i := range callers {
		random := rand.New(rand.NewPCG(seed, uint64(revokers+i)))
		callersDone.Go(func() { madeCalls[i] = x.calls(ctx, &clock, random, calls/callers) })
	}
	callersDone.Wait()
	done.Store(true)
	changers.Wait()

	var changes []Change
	for _, own := range madeChanges {
		changes = append(changes, own...)
	}
	var all []Call
	for _, own := range madeCalls {
		all = append(all, own...)
	}
	return Check(changes, all)
}

func (x *system) liftAll(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	var group sync.WaitGroup
	for pair := range x.invokers {
		group.Go(func() {
			for x.lift(t.Context(), pair) != nil {
				if time.Now().After(deadline) {
					t.Errorf("pair %d: got no lift within 30 s; want one", pair)
					return
				}
				runtime.Gosched()
			}
		})
	}
	group.Wait()
}

// change denies or lifts a pair.
func (x *system) change(ctx context.Context, t *testing.T, clock *Clock, random *rand.Rand) Change {
	c := Change{Pair: random.IntN(len(x.invokers)), Lift: random.IntN(2) == 0}
	way := random.IntN(5)
	c.Begin = clock.Now()
	var err error
	if c.Lift {
		err = x.lift(ctx, c.Pair)
	} else {
		err = x.deny(ctx, c.Pair, way)
	}
	c.End = clock.Now()
	c.Failed = err != nil
	if err != nil && !errors.Is(err, revocation.ErrNotDurable) {
		t.Errorf("got %v; want %v or none", err, revocation.ErrNotDurable)
	}
	return c
}

// calls makes calls through the decider of the newest configuration.
func (x *system) calls(ctx context.Context, clock *Clock, random *rand.Rand, n int) []Call {
	made := make([]Call, 0, n)
	d, generation := x.decider(), x.reloads.Load()
	for len(made) < n {
		if newest := x.reloads.Load(); newest != generation {
			d, generation = x.decider(), newest
		}
		for range x.slice {
			pair := random.IntN(len(x.invokers))
			c := Call{Pair: int32(pair), Begin: clock.Now()}
			c.Passed = d.Decide(ctx, x.tokens[pair], now).Reason == enforce.Allowed
			c.End = clock.Now()
			made = append(made, c)
		}
		runtime.Gosched()
	}
	return made
}

// churn is everything else that happens to the shared state.
func (x *system) churn(done *atomic.Bool) {
	for i := 0; !done.Load(); i++ {
		if i%x.rotateEvery == 0 {
			x.verifier.rotate()
		}
		switch i % 64 {
		case 8:
			x.ledger.RaiseEpochs()
		case 16:
			x.reloads.Add(1)
		}
		runtime.Gosched()
	}
}
