package lincheck

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

// perRound is how many calls one history holds.
const perRound = 250_000

func overlapped(sum *Report) bool { return sum.OverlappingChanges > 0 }

// play runs rounds of so many calls, or of up to ten times as many until they have
// shown something, and fails on the first violation.
func play(t *testing.T, x *system, calls int, shown func(*Report) bool) Report {
	t.Helper()
	var sum Report
	for seed := uint64(0); sum.Calls < calls || (!shown(&sum) && sum.Calls < 10*calls); seed++ {
		r := x.round(t, seed, min(perRound, calls))
		sum.Add(&r)
		if r.Violations() > 0 {
			t.Fatalf("round %d: got %d late and %d stuck calls of %d, the first: %s; want none", seed, r.Late, r.Stuck, r.Calls, r.First)
		}
	}
	t.Logf("%d calls checked, %d in flight together with a change of their pair; %d changes, %d together with another of their pair, %d lifts refused by the disk; reloads %d; cache %+v",
		sum.Calls, sum.Overlapping, sum.Changes, sum.OverlappingChanges, sum.FailedLifts, x.reloads.Load(), x.cache.Stats())
	if sum.Overlapping < sum.Calls/1000 || sum.OverlappingChanges == 0 {
		t.Errorf("got %d of %d calls and %d changes that overlapped; want more, or nothing was shown", sum.Overlapping, sum.Calls, sum.OverlappingChanges)
	}
	return sum
}

// Promise 1: callers and revokers over the real parts. CAPIF_LONG=1 asks for a
// hundred million checks.
func TestNoLateCall(t *testing.T) {
	calls := 5_000_000 / underRace
	if os.Getenv("CAPIF_LONG") == "1" {
		calls = 100_000_000
	}
	x := newSystem(t, setup{pairs: 32, tokens: 24})
	play(t, x, calls, overlapped)
	stats := x.cache.Stats()
	if stats.Evicted+stats.Rejected+stats.Dropped == 0 {
		t.Errorf("got %+v; want a cache that loses entries", stats)
	}
}

// The same where every first sight costs a signature check.
func TestNoLateCallWithSignatures(t *testing.T) {
	play(t, newSystem(t, setup{pairs: 16, tokens: 12, real: true}), 60_000/underRace, overlapped)
}

var errDisk = errors.New("input/output error (made up by a test)")

// badDisk fails about one commit in so many, half of the failures after the
// commit had reached the disk.
func badDisk(oneIn int) func(func() error) error {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	return func(commit func() error) error {
		mu.Lock()
		dice := random.IntN(2 * oneIn)
		mu.Unlock()
		if dice == 0 {
			return errDisk
		}
		err := commit()
		if err == nil && dice == 1 {
			return errDisk
		}
		return err
	}
}

// Promise 1 on a disk that fails some syncs: no call passes because of a lift
// that was answered with an error.
func TestNoLateCallOnABadDisk(t *testing.T) {
	begun := time.Now()
	x := newSystem(t, setup{pairs: 32, tokens: 24, wrapCommit: badDisk(30)})
	sum := play(t, x, 1_000_000/underRace, func(sum *Report) bool { return overlapped(sum) && sum.FailedLifts > 0 })
	if sum.FailedLifts == 0 {
		t.Errorf("got no lift that failed in %v; want some, or nothing was shown", time.Since(begun))
	}
}
