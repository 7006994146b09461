package lincheck

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/streams"
)

func TestCallsOf(t *testing.T) {
	deny, lift := Change{Begin: 10, End: 20}, Change{Begin: 30, End: 40, Lift: true}
	for _, test := range []struct {
		name    string
		changes []Change
		stream  Stream
		late    int
		stuck   int
	}{
		{"open, nothing denied", nil, Stream{Begin: 1, In: 2, Open: true}, 0, 0},
		{"open after a deny", []Change{deny}, Stream{Begin: 1, In: 2, Open: true}, 1, 0},
		{"let in while denied, and open", []Change{deny}, Stream{Begin: 11, In: 12, Open: true}, 1, 0},
		{"ended by a deny", []Change{deny}, Stream{Begin: 1, In: 2, Ended: true}, 0, 0},
		{"ended by nothing", nil, Stream{Begin: 1, In: 2, Ended: true}, 0, 1},
		{"ended after the lift", []Change{deny, lift}, Stream{Begin: 41, In: 42, Ended: true}, 0, 1},
		{"open after a lift", []Change{deny, lift}, Stream{Begin: 1, In: 2, Open: true}, 0, 0},
		{"let in after a deny, ended", []Change{deny}, Stream{Begin: 21, In: 22, Ended: true}, 1, 0},
		{"over by itself", []Change{deny}, Stream{Begin: 1, In: 2}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := Check(test.changes, CallsOf([]Stream{test.stream}, 100))
			if r.Late != test.late || r.Stuck != test.stuck {
				t.Errorf("got %d late, %d stuck; want %d, %d", r.Late, r.Stuck, test.late, test.stuck)
			}
		})
	}
}

const (
	streamCallers  = 3
	streamRevokers = 3
	// inFlight is how many streams a caller keeps open.
	inFlight = 64
)

// streamSystem is a system whose calls stay in flight.
type streamSystem struct {
	*system
	registry *streams.Registry
	// judge is who judges a stream: a decider, or where a mutation puts a fault.
	judge func(d *enforce.Decider) streams.Judge
}

func newStreamSystem(t *testing.T, s setup) *streamSystem {
	x := &streamSystem{registry: streams.New(), judge: func(d *enforce.Decider) streams.Judge { return d }}
	t.Cleanup(x.registry.Stop)
	if s.watcher == nil {
		s.watcher = x.registry
	}
	x.system = newSystem(t, s)
	return x
}

// denyOnce denies every pair that is a revoker's own.
func (x *streamSystem) denyOnce(ctx context.Context, t *testing.T, clock *Clock, random *rand.Rand, revoker int) []Change {
	var made []Change
	for pair := revoker; pair < len(x.invokers); pair += streamRevokers {
		for range random.IntN(20) {
			yield()
		}
		c := Change{Pair: pair, Begin: clock.Now()}
		err := x.deny(ctx, pair, random.IntN(5))
		c.End, c.Failed = clock.Now(), err != nil
		if err != nil && !errors.Is(err, revocation.ErrNotDurable) {
			t.Errorf("got %v; want %v or none", err, revocation.ErrNotDurable)
		}
		made = append(made, c)
	}
	return made
}

type openStream struct {
	record Stream
	stream *streams.Stream
}

// close takes a stream out and notes how it went.
func (o *openStream) close(atRest bool) Stream {
	o.record.Ended = o.stream.Close()
	o.record.Open = atRest && !o.record.Ended
	return o.record
}

// round opens streams while changes are made, waits for rest, and judges. In every
// second round each pair is denied once and not lifted: what slips through a deny
// is not hidden by a later one.
func (x *streamSystem) round(t *testing.T, seed uint64, opens int) Report {
	t.Helper()
	if x.used {
		x.liftAll(t)
	}
	x.used = true
	ctx := t.Context()
	var clock Clock
	var done atomic.Bool
	var changers, callersDone sync.WaitGroup
	changes := make([][]Change, streamRevokers)
	over, open := make([][]Stream, streamCallers), make([][]openStream, streamCallers)
	for i := range streamRevokers {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		if seed%2 == 1 {
			changers.Go(func() { changes[i] = x.denyOnce(ctx, t, &clock, random, i) })
			continue
		}
		changers.Go(func() {
			for !done.Load() {
				changes[i] = append(changes[i], x.change(ctx, t, &clock, random))
				for range random.IntN(4) {
					yield()
				}
			}
		})
	}
	for i := range streamCallers {
		random := rand.New(rand.NewPCG(seed, uint64(streamRevokers+i)))
		callersDone.Go(func() { over[i], open[i] = x.open(ctx, &clock, random, opens/streamCallers) })
	}
	callersDone.Wait()
	done.Store(true)
	changers.Wait()
	x.registry.Settle()
	rest := clock.Now()
	var all []Stream
	var made []Change
	for i := range streamCallers {
		all = append(all, over[i]...)
		for j := range open[i] {
			all = append(all, open[i][j].close(true))
		}
	}
	for _, own := range changes {
		made = append(made, own...)
	}
	return Check(made, CallsOf(all, rest))
}

// open opens streams and keeps the last of them in flight.
func (x *streamSystem) open(ctx context.Context, clock *Clock, random *rand.Rand, n int) ([]Stream, []openStream) {
	d := x.decider()
	var over []Stream
	var open []openStream
	w, request := httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	for range n {
		yield()
		pair := random.IntN(len(x.invokers))
		record := Stream{Pair: int32(pair), Begin: clock.Now()}
		decision := d.Decide(ctx, x.tokens[pair], now)
		if decision.Reason != enforce.Allowed {
			continue
		}
		yield() // the gap between check and registration
		s, _, _ := x.registry.Open(w, request, streams.Call{Judge: x.judge(d), Entry: decision.Entry})
		if s == nil {
			continue
		}
		record.In = clock.Now()
		open = append(open, openStream{record, s})
		if len(open) > inFlight {
			over = append(over, open[0].close(false))
			open = open[1:]
		}
	}
	return over, open
}

// play runs rounds until so many streams were judged, and fails on the first
// violation.
func (x *streamSystem) play(t *testing.T, calls int) Report {
	t.Helper()
	var sum Report
	for seed := uint64(0); sum.Calls < calls; seed++ {
		r := x.round(t, seed, 600)
		sum.Add(&r)
		if r.Violations() > 0 {
			t.Fatalf("round %d: got %d late and %d stuck of %d, the first: %s; want none", seed, r.Late, r.Stuck, r.Calls, r.First)
		}
	}
	stats := x.registry.Stats()
	t.Logf("%d moments of streams checked, %d together with a change of their pair; %d changes; ended %v", sum.Calls, sum.Overlapping, sum.Changes, stats.Ended)
	if sum.Overlapping == 0 || stats.Ended[enforce.AuthorizationRevoked] == 0 || stats.Ended[enforce.TokenRevoked] == 0 {
		t.Errorf("got %d overlapping, ended %v; want some of each, or nothing was shown", sum.Overlapping, stats.Ended)
	}
	return sum
}

// Promise 1 for calls in flight: none that a deny covers is left open by it, and
// none is ended that nothing denies.
func TestNoLateStream(t *testing.T) {
	calls := 200_000 / underRace
	if os.Getenv("CAPIF_LONG") == "1" {
		calls = 5_000_000
	}
	newStreamSystem(t, setup{pairs: 12, tokens: 100}).play(t, calls)
}

// The same on a disk that fails some syncs: what is denied in memory ends streams.
func TestNoLateStreamOnABadDisk(t *testing.T) {
	newStreamSystem(t, setup{pairs: 12, tokens: 100, wrapCommit: badDisk(30)}).play(t, 60_000/underRace)
}

// wantStreamFound is wantFound for streams.
func wantStreamFound(t *testing.T, s setup, mutate func(x *streamSystem)) {
	t.Helper()
	for run := range uint64(mutationRuns) {
		x := newStreamSystem(t, s)
		mutate(x)
		found := false
		begun := time.Now()
		for seed := run << 32; !found && time.Since(begun) < mutationLimit; seed++ {
			r := x.round(t, seed, 600)
			found = r.Late > 0
		}
		if !found {
			t.Errorf("run %d: got no late stream within %v; want the mutation found", run, mutationLimit)
		}
	}
}

// blindFirst allows without a look when it is asked first: at the registration.
type blindFirst struct {
	streams.Judge
	asked atomic.Bool
}

func (b *blindFirst) Again(e *denycache.Entry) enforce.Reason {
	if !b.asked.Swap(true) {
		return enforce.Allowed
	}
	return b.Judge.Again(e)
}

// A stream is registered and not judged again.
func TestCheckerSeesAStreamThatIsNotJudgedAgain(t *testing.T) {
	wantStreamFound(t, setup{pairs: 4, tokens: 100}, func(x *streamSystem) {
		x.judge = func(d *enforce.Decider) streams.Judge { return &blindFirst{Judge: d} }
	})
}

// deaf hears of nothing.
type deaf struct{}

func (deaf) Changed(string) {}

// Streams are judged before the deny can be found.
func TestCheckerSeesStreamsJudgedTooEarly(t *testing.T) {
	wantStreamFound(t, setup{pairs: 4, tokens: 100, watcher: deaf{}}, func(x *streamSystem) {
		x.denyVia = func(pair int, deny func() error) error {
			x.registry.Changed(x.invokers[pair])
			x.registry.Settle()
			return deny()
		}
	})
}

var _ revocation.Watcher = deaf{}
