package revocation

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk opens a ledger in a synctest bubble, each of whose commits takes so
// long.
func slowDisk(t *testing.T, each time.Duration) (*Ledger, *disk) {
	t.Helper()
	d := &disk{}
	return openLedger(t, ledgerPath(t), Options{WrapCommit: func(commit func() error) error {
		<-time.After(each)
		return d.wrap(commit)
	}}), d
}

func commits(d *disk) int { _, done := d.counts(); return done }

const commitTime = 700 * time.Microsecond

// together has many denies come at once, one of them a little before the others,
// and returns how long each took, the shortest first.
func together(t *testing.T, l *Ledger, name string, many int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, many)
	began := time.Now()
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			mustDeny(t, l, Deny{Invoker: fmt.Sprint(name, i)})
			took[i] = time.Since(began)
		})
		if i == 0 {
			synctest.Wait() // no time passes, but the writer has it
		}
	}
	all.Wait()
	slices.Sort(took)
	return took
}

// storm leaves the writer such that it would wait for so many, or for enough: they
// came in two batches.
func storm(t *testing.T, l *Ledger, many int) {
	t.Helper()
	pass(gatherTime)
	together(t, l, "storm", many+1)
}

func TestAChangeAloneWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		began := time.Now()
		for i := range 50 {
			mustDeny(t, l, Deny{Invoker: fmt.Sprint(i)})
		}
		if took := time.Since(began); took != 50*commitTime || commits(d) != 50 {
			t.Errorf("50 changes one after the other: got %v and %d commits; want %v and 50", took, commits(d), 50*commitTime)
		}
	})
}

// TestWhatFollowsFromAChangeWaitsForNobody has each change followed by one that
// comes while it is synced, as what the core answered follows a trigger.
func TestWhatFollowsFromAChangeWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		began := time.Now()
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * commitTime / 2)
				for n := range 50 {
					mustDeny(t, l, Deny{Invoker: fmt.Sprintf("%d-%d", i, n)})
					time.Sleep(commitTime / 2)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 101*commitTime || commits(d) != 100 {
			t.Errorf("100 changes, two at a time: got %v and %d commits; want at most %v and 100", took, commits(d), 101*commitTime)
		}
	})
}

func TestCallersWhoComeAgainShareEverySync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		const callers, each = 8, 50
		began := time.Now()
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for i := range each {
					mustDeny(t, l, Deny{Invoker: fmt.Sprintf("%d-%d", caller, i)})
					time.Sleep(time.Duration(1+caller) * 10 * time.Microsecond)
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		// A caller who does not come again is waited for once.
		most := 2*each*commitTime + callers*gatherTime
		if commits(d) > each+2*callers || took > most {
			t.Errorf("%d changes by %d callers: got %d commits in %v; want at most %d in %v",
				callers*each, callers, commits(d), took, each+2*callers, most)
		}
	})
}

// TestChangesThatFollowCloselyShareSyncs has changes come somewhat faster than
// they can be synced one by one: they share, each is in force within a commit and
// acknowledged within two and the wait.
func TestChangesThatFollowCloselyShareSyncs(t *testing.T) {
	for name, with := range map[string]struct{ commit, wait time.Duration }{
		"usual disk": {commitTime, 5 * time.Millisecond},
		"fast disk":  {100 * time.Microsecond, 800 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, d := slowDisk(t, with.commit)
				defer closeLedger(t, l)
				const changes = 500
				var all sync.WaitGroup
				for i := range changes {
					invoker := fmt.Sprint(i)
					began := time.Now()
					all.Go(func() {
						mustDeny(t, l, Deny{Invoker: invoker})
						if took := time.Since(began); took > with.wait+2*with.commit {
							t.Errorf("change %d: acknowledged after %v; want at most %v", i, took, with.wait+2*with.commit)
						}
					})
					all.Go(func() {
						time.Sleep(with.commit + time.Microsecond)
						if !covered(l, invoker) {
							t.Errorf("change %d: still allowed a commit later; want denied while it waits", i)
						}
					})
					time.Sleep(with.commit * 6 / 7)
				}
				all.Wait()
				if got := commits(d); got > changes/5 {
					t.Errorf("%d changes: got %d commits; want at most %d", changes, got, changes/5)
				}
				time.Sleep(with.wait)
				began := time.Now()
				mustDeny(t, l, Deny{Invoker: "alone"})
				if took := time.Since(began); took != with.commit {
					t.Errorf("alone afterwards: got %v; want %v", took, with.commit)
				}
			})
		})
	}
}

func TestCloseDoesNotWaitForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := slowDisk(t, commitTime)
		storm(t, l, 7)
		var all sync.WaitGroup
		all.Go(func() { mustDeny(t, l, Deny{Invoker: "d"}) })
		synctest.Wait() // it waits for more
		began := time.Now()
		closeLedger(t, l)
		if took := time.Since(began); took != commitTime {
			t.Errorf("close: got %v; want %v", took, commitTime)
		}
		all.Wait()
		wantCover(t, l, "d", "a", "1", Digest{}, CoverAuthorization)
	})
}

// TestLiftAndDenyThatWaitTogether keeps their order: what was denied after a lift
// stays denied, what was denied before it does not.
func TestLiftAndDenyThatWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		mustDeny(t, l, Deny{Invoker: "before"})
		mustDeny(t, l, Deny{Invoker: "after"})
		storm(t, l, 7)
		before := commits(d)
		var all sync.WaitGroup
		asks := []func(){
			func() { mustLift(t, l, Lift{Invoker: "before"}) },
			func() { mustLift(t, l, Lift{Invoker: "after"}) },
			func() { mustDeny(t, l, Deny{Invoker: "after"}) },
		}
		for _, ask := range asks {
			all.Go(ask)
			synctest.Wait() // it waits for more now
		}
		if !covered(l, "before") || !covered(l, "after") {
			t.Error("lifted before it is durable: got allowed; want denied")
		}
		all.Wait()
		if got := commits(d) - before; got != 1 {
			t.Errorf("commits: got %d; want 1", got)
		}
		for range 2 {
			if covered(l, "before") || !covered(l, "after") {
				t.Errorf("got before %v, after %v; want allowed, denied", covered(l, "before"), covered(l, "after"))
			}
			wantIndexFromClaims(t, l)
			l = reopen(t, l)
		}
		closeLedger(t, l)
	})
}

// TestEnoughChangesWaitForNoMore has 70 come after a storm of 100.
func TestEnoughChangesWaitForNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		storm(t, l, 100)
		took := together(t, l, "again", 70)
		if last := took[enough-1]; last != commitTime {
			t.Errorf("change %d of 70, after 100: got %v; want %v", enough, last, commitTime)
		}
	})
}

// TestDecisionDeniesAtOnce: without hold, what the core decided is found only when
// it is applied.
func TestDecisionDeniesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		for _, first := range []bool{true, false} {
			r := mustTrigger(t, l, Trigger{Invoker: fmt.Sprint(first), AEF: "aef", APIs: []string{"api"}, Cause: "X"})[0]
			storm(t, l, 7)
			var all sync.WaitGroup
			if !first {
				all.Go(func() { mustDeny(t, l, Deny{Invoker: "waits"}) })
				synctest.Wait()
			}
			all.Go(func() { mustRecord(t, l, r.Sequence, Progress{State: StateRevoked}) })
			synctest.Wait()
			if !covered(l, r.InvokerID) {
				t.Errorf("decided, first of its batch %v: got allowed; want denied before any time has passed", first)
			}
			all.Wait()
		}
	})
}

// TestOneBurstWaitsForNobody: those who are answered first do not come again.
func TestOneBurstWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		if last := together(t, l, "", 6)[5]; last != 2*commitTime {
			t.Errorf("6 at once: got %v; want %v", last, 2*commitTime)
		}
	})
}

// TestSlowCallersDoNotHoldFastOnes: two come again at once, two after a pause.
func TestSlowCallersDoNotHoldFastOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := slowDisk(t, commitTime)
		defer closeLedger(t, l)
		end := time.Now().Add(time.Second)
		var done [2]atomic.Int64 // fast, slow
		var all sync.WaitGroup
		for caller := range 4 {
			slow := caller / 2
			all.Go(func() {
				for n := 0; time.Now().Before(end); n++ {
					mustDeny(t, l, Deny{Invoker: fmt.Sprintf("%d-%d", caller, n)})
					done[slow].Add(1)
					time.Sleep(time.Duration(slow) * 4900 * time.Microsecond)
				}
			})
		}
		all.Wait()
		// Alone, the fast ones come to some 1,400.
		if fast, slow := done[0].Load(), done[1].Load(); fast < 2*slow {
			t.Errorf("got %d changes by fast callers, %d by slow ones; want at least twice as many", fast, slow)
		}
	})
}

// TestDiskFailsWhileChangesWait holds what is promised of a failing disk for a
// batch that waited.
func TestDiskFailsWhileChangesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := slowDisk(t, commitTime)
		mustDeny(t, l, Deny{Invoker: "lifted"})
		storm(t, l, 7)
		d.set(refuses)
		began := time.Now()
		var all sync.WaitGroup
		all.Go(func() {
			_, err := l.Lift(t.Context(), Lift{Invoker: "lifted"})
			if !errors.Is(err, ErrNotDurable) {
				t.Errorf("lift: got %v; want %v", err, ErrNotDurable)
			}
		})
		synctest.Wait()
		for _, invoker := range []string{"denied", "denied as well"} {
			all.Go(func() {
				err := l.Deny(t.Context(), Deny{Invoker: invoker})
				if !errors.Is(err, ErrNotDurable) {
					t.Errorf("deny: got %v; want %v", err, ErrNotDurable)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took <= commitTime {
			t.Fatalf("got the answers after %v; want that they have waited", took)
		}
		if !covered(l, "lifted") || !covered(l, "denied") {
			t.Errorf("got lifted %v, denied %v; want both denied", covered(l, "lifted"), covered(l, "denied"))
		}
		again := time.Now()
		err := l.Deny(t.Context(), Deny{Invoker: "denied later"})
		if took := time.Since(again); !errors.Is(err, ErrNotDurable) || took > commitTime {
			t.Errorf("deny while the disk fails: got %v after %v; want %v after a commit at most", err, took, ErrNotDurable)
		}
		d.set(works)
		pass(2 * recoverInterval)
		l = reopen(t, l)
		if !covered(l, "lifted") || !covered(l, "denied") || !covered(l, "denied later") {
			t.Error("after the disk works again: got one allowed; want all denied")
		}
		closeLedger(t, l)
	})
}
