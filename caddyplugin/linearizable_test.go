package caddyplugin

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-capif/aef/internal/lincheck"
)

const (
	linCallers  = 4
	linRevokers = 6
	linPairs    = 32
	// linPerRound is how many calls one history holds.
	linPerRound = 250_000
	// linSlice is how many calls a caller makes before it lets others run: two
	// cores are shared with the goroutines that write to the disk.
	linSlice = 48
	// linTokens is what the deny cache holds, and linMoreTokens that of every other
	// configuration: both less than there are tokens.
	linTokens     = 24
	linMoreTokens = 28
)

// Promise 1 over the handlers: calls go through capif_enforce, denies through
// POST /capif/revocations and what capif_callback serves, lifts through POST
// /capif/lifts, with reloads, hints and evictions going on. CAPIF_LONG=1 asks
// for fifty million checks.
func TestNoLateCallThroughTheHandlers(t *testing.T) {
	calls := 5_000_000 / underRace
	if os.Getenv("CAPIF_LONG") == "1" {
		calls = 50_000_000
	}
	x := newHandlers(t, false)
	sum := x.play(t, calls)
	if sum.Calls < calls || sum.Overlapping < max(calls/1000, 1000) || sum.OverlappingChanges == 0 {
		t.Errorf("got %+v; want at least %d calls, one in a thousand together with a change of its pair, and changes together with others", sum, calls)
	}
	for way := range x.denied {
		if got := x.denied[way].Load(); got == 0 {
			t.Errorf("got no deny by %s; want some", denyWays[way].name)
		}
	}
	stats := x.state.cache.Stats()
	if stats.Evicted == 0 || x.lifted.Load() == 0 || x.reloads.Load() < 10 || x.decided(t) > uint64(sum.Calls)/2 {
		t.Errorf("got %+v, %d lifts, %d reloads and %d calls that the cache did not answer; want evictions, lifts, at least 10 reloads and a cache that answers most",
			stats, x.lifted.Load(), x.reloads.Load(), x.decided(t))
	}
}

// The same where every first sight costs a signature check.
func TestNoLateCallThroughTheHandlersWithSignatures(t *testing.T) {
	newHandlers(t, true).play(t, 100_000/underRace)
}

// play runs rounds and fails on the first violation.
func (x *handlers) play(t *testing.T, calls int) lincheck.Report {
	t.Helper()
	var sum lincheck.Report
	for seed := uint64(0); sum.Calls < calls; seed++ {
		r := x.round(t, seed, min(linPerRound, calls))
		sum.Add(&r)
		if r.Violations() > 0 {
			t.Fatalf("round %d: got %d late and %d stuck calls of %d, the first: %s; want none", seed, r.Late, r.Stuck, r.Calls, r.First)
		}
	}
	denies := int64(0)
	for way := range x.denied {
		denies += x.denied[way].Load()
		t.Logf("%d denies by %s", x.denied[way].Load(), denyWays[way].name)
	}
	t.Logf("%d calls checked, %d in flight together with a change of their pair, %d not answered by the cache; %d denies and %d lifts, %d together with another of their pair; %d reloads, %d hints; cache %+v",
		sum.Calls, sum.Overlapping, x.decided(t), denies, x.lifted.Load(), sum.OverlappingChanges, x.reloads.Load(), x.hints.Load(), x.state.cache.Stats())
	return sum
}

// round plays calls and changes at the same time and judges their history. Before
// it, every pair is lifted, so that a history is complete in itself.
func (x *handlers) round(t *testing.T, seed uint64, calls int) lincheck.Report {
	t.Helper()
	var group sync.WaitGroup
	for pair := range x.invokers {
		group.Go(func() { x.lift(t, pair) })
	}
	group.Wait()
	var clock lincheck.Clock
	var done atomic.Bool
	var changers, callers sync.WaitGroup
	madeCalls := make([][]lincheck.Call, linCallers)
	madeChanges := make([][]lincheck.Change, linRevokers)
	for i := range linRevokers {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		changers.Go(func() {
			for !done.Load() {
				madeChanges[i] = append(madeChanges[i], x.change(t, &clock, random))
				for range random.IntN(8) {
					runtime.Gosched() // certainty needs some quiet
				}
			}
		})
	}
	changers.Go(func() {
		for i := 1; !done.Load(); i++ {
			if i%32 == 0 {
				x.reload(t)
			}
			runtime.Gosched()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changers.Go(func() {
		for x.state.context.Hint(ctx, nil) == nil { // once a second: they are gathered
			x.hints.Add(1)
		}
	})
	for i := range linCallers {
		random := rand.New(rand.NewPCG(seed, uint64(linRevokers+i)))
		callers.Go(func() { madeCalls[i] = x.calls(t, &clock, random, calls/linCallers) })
	}
	callers.Wait()
	done.Store(true)
	cancel()
	changers.Wait()

	var changes []lincheck.Change
	for _, own := range madeChanges {
		changes = append(changes, own...)
	}
	var all []lincheck.Call
	for _, own := range madeCalls {
		all = append(all, own...)
	}
	return lincheck.Check(changes, all)
}

// change denies or lifts a pair.
func (x *handlers) change(t *testing.T, clock *lincheck.Clock, random *rand.Rand) lincheck.Change {
	c := lincheck.Change{Pair: random.IntN(linPairs), Lift: random.IntN(2) == 0}
	way := random.IntN(len(denyWays))
	c.Begin = clock.Now()
	if c.Lift {
		x.lift(t, c.Pair)
	} else {
		x.deny(t, c.Pair, way)
	}
	c.End = clock.Now()
	return c
}

// calls makes calls through the handler of the newest configuration. One request
// serves all calls of a caller, as the server's own memory is not what is tested.
func (x *handlers) calls(t *testing.T, clock *lincheck.Clock, random *rand.Rand, n int) []lincheck.Call {
	made := make([]lincheck.Call, 0, n+linSlice)
	passed := false
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		passed = true
		return nil
	})
	w := &statusWriter{header: make(http.Header, 8)}
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/location/1", nil), caddy.NewReplacer(), w, nil)
	for len(made) < n {
		for range linSlice {
			pair := random.IntN(linPairs)
			r.Header["Authorization"] = x.bearers[pair]
			passed, w.status = false, 0
			c := lincheck.Call{Pair: int32(pair), Begin: clock.Now()}
			err := x.current.Load().enforce.ServeHTTP(w, r, next)
			c.End = clock.Now()
			c.Passed = passed
			made = append(made, c)
			refused := w.status == http.StatusForbidden || w.status == http.StatusUnauthorized
			if err != nil || passed == refused || (passed && w.status != 0) {
				t.Errorf("got passed on %v, status %d, error %v; want passed on, or 401 or 403", passed, w.status, err)
				return made
			}
		}
		runtime.Gosched()
	}
	return made
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	header http.Header
	status int
}

func (w *statusWriter) Header() http.Header         { return w.header }
func (w *statusWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *statusWriter) WriteHeader(status int)      { w.status = status }
