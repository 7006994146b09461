package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

func TestBlock(t *testing.T) {
	for total, want := range map[int64]int64{0: 1, 1: 1, 39: 1, 40: 2, 100: 5, 200_000: 10_000, 1 << 60: 10_000} {
		if got := Block(total); got != want {
			t.Errorf("block of %d: got %d; want %d", total, got, want)
		}
	}
}

// TestTotalIsExact: however many call at once and however slow the disk is,
// exactly the total passes.
func TestTotalIsExact(t *testing.T) {
	for _, limit := range []int64{0, 1, 3, 100, 2345} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, total(limit))
				defer s.stop()
				s.store.slow(time.Millisecond)
				var passed, over atomic.Int64
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() {
						for range 150 {
							switch s.call("i") {
							case enforce.Allowed:
								passed.Add(1)
							case enforce.OverLimit:
								over.Add(1)
							}
						}
					})
				}
				all.Wait()
				if passed.Load() != limit || over.Load() != 3000-limit {
					t.Errorf("got %d passed and %d over the limit; want %d and %d", passed.Load(), over.Load(), limit, 3000-limit)
				}
			})
		})
	}
}

// TestReservedAhead: a call that comes after the block was reserved waits for
// nobody, if calls come no faster than the disk takes blocks.
func TestReservedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(2000)) // blocks of 100
		defer s.stop()
		s.store.slow(40 * time.Millisecond)
		s.want("i", enforce.Allowed) // this one waits for the first block
		for i := range 1999 {
			time.Sleep(time.Millisecond)
			before := time.Now()
			s.want("i", enforce.Allowed)
			if waited := time.Since(before); waited > 0 {
				t.Fatalf("call %d: got %v of waiting; want none", i, waited)
			}
		}
		s.want("i", enforce.OverLimit)
	})
}

// TestCountsOverRestart: a stop in good order loses nothing, a crash at most a
// block, and neither ever lets more than the total pass.
func TestCountsOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1000
		s := newScene(t, total(limit))
		s.wantPasses("i", 333, 333)
		s.stop()
		if got := s.store.stored()[ref].Reserved; got != 333 {
			t.Errorf("after a stop: got %d counted; want 333", got)
		}
		if got := s.call("i"); got != enforce.PolicyUnavailable {
			t.Errorf("after a stop: got %v; want %v", got, enforce.PolicyUnavailable)
		}
		s.boot(total(limit))
		s.wantPasses("i", 1000, 667)
		s.stop()
	})
}

func TestCountsOverCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1000
		s := newScene(t, total(limit))
		passed, crashes := 0, 0
		for passed < limit-int(Block(limit)) {
			n := 1 + rand.IntN(200)
			got := s.passes("i", n)
			passed += got
			if got < n {
				break
			}
			before := s.store.stored()
			s.stop()                // only to end its goroutines:
			s.store.counts = before // what it gave back is taken away
			crashes++
			s.boot(total(limit))
		}
		passed += s.passes("i", 2*limit)
		s.stop()
		least := limit - crashes*int(Block(limit))
		if passed > limit || passed < least {
			t.Errorf("over %d crashes: got %d calls; want %d to %d", crashes, passed, least, limit)
		}
		t.Logf("%d of %d calls over %d crashes", passed, limit, crashes)
	})
}

// TestDiskFails: what is reserved passes, then nothing, and when the disk works
// again the count goes on.
func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(100)) // blocks of 5
		defer s.stop()
		s.wantPasses("i", 1, 1)
		s.store.fail(errDisk)
		s.wantPasses("i", 50, 4)
		s.want("i", enforce.PolicyUnavailable)
		s.want("not seen yet", enforce.PolicyUnavailable)
		s.store.fail(nil)
		s.wantPasses("i", 200, 95)
	})
}

// TestDiskHangs: a call waits no longer than its bound, or its caller.
func TestDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(100))
		defer s.stop()
		s.store.slow(time.Minute)
		before := time.Now()
		s.want("i", enforce.PolicyUnavailable)
		if got := time.Since(before); got != reserveWait {
			t.Errorf("got %v of waiting; want %v", got, reserveWait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if got := admit(s.gate, "i", ctx, time.Now(), true); got != enforce.PolicyUnavailable || time.Since(before) != reserveWait+time.Millisecond {
			t.Errorf("got %v after %v; want it refused when the caller has gone", got, time.Since(before))
		}
	})
}

// TestReplacedWhileCounting: a new policy changes the limit, not the count.
func TestReplacedWhileCounting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(100))
		defer s.stop()
		grant := s.gate.Grant("i") // as kept with a cached verdict
		pass := func(n int) int {
			passed := 0
			for range n {
				if s.gate.Admit(t.Context(), grant, time.Now(), true) == enforce.Allowed {
					passed++
				}
			}
			return passed
		}
		steps := []struct {
			rules *Rules
			want  int
		}{
			{total(60), 10}, // 50 used
			{total(40), 0},
			{total(70), 10},
			{nil, 0}, // set below
		}
		if got := pass(50); got != 50 {
			t.Fatalf("got %d; want 50", got)
		}
		for i, step := range steps[:3] {
			s.apply(step.rules)
			if got := pass(1000); got != step.want {
				t.Errorf("step %d: got %d passed; want %d", i, got, step.want)
			}
		}
		s.apply(&Rules{})
		if got := pass(1000); got != 1000 {
			t.Errorf("without a limit: got %d passed; want 1000", got)
		}
		s.apply(total(100)) // calls without a limit are not counted
		if got := pass(1000); got != 30 {
			t.Errorf("limited again: got %d passed; want 30", got)
		}
	})
}

// TestReplacedWhileCalling raises the total step by step under load: what passes
// in the end is the last total.
func TestReplacedWhileCalling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(10))
		defer s.stop()
		s.store.slow(time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var passed atomic.Int64
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for ctx.Err() == nil {
					if s.call("i") == enforce.Allowed {
						passed.Add(1)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for limit := int64(10); limit <= 1000; limit += 10 {
			s.apply(total(limit))
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		cancel()
		all.Wait()
		if got := passed.Load(); got != 1000 {
			t.Errorf("got %d passed; want 1000", got)
		}
	})
}

// TestRateOverReplacement: replacing a policy fills no bucket.
func TestRateOverReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{All: &Rule{PerSecond: number(10)}})
		defer s.stop()
		s.wantPasses("i", 20, 10)
		s.apply(&Rules{All: &Rule{PerSecond: number(20)}})
		s.want("i", enforce.OverRate)
		time.Sleep(time.Second)
		s.wantPasses("i", 50, 20)
		s.apply(&Rules{All: &Rule{PerSecond: number(5)}})
		time.Sleep(time.Second)
		s.wantPasses("i", 50, 5)
	})
}

// TestTriggeredOnce: the first call over the total asks for a revocation, and
// nothing else does until a lift, which begins the count anew.
func TestTriggeredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(3))
		defer s.stop()
		s.wantPasses("i", 3, 3)
		synctest.Wait()
		if got := s.triggers.list(); len(got) != 0 {
			t.Errorf("at the limit: got %v; want no trigger before it is exceeded", got)
		}
		for range 2 {
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() { s.want("i", enforce.OverLimit) })
			}
			all.Wait()
			synctest.Wait()
			time.Sleep(time.Hour)
		}
		want := Overlimit{Invoker: "i", AEF: "aef", API: "api", Total: 3, Bound: true}
		if got := s.triggers.list(); len(got) != 1 || got[0] != want {
			t.Errorf("got %+v; want once %+v", got, want)
		}
		if got := s.table.Stats(); got.Exhausted != 1 || got.Accounts != 1 {
			t.Errorf("got %+v; want one account, and it exhausted", got)
		}

		s.table.Lifted(s.store.lift(ref))
		if got := s.table.Stats(); got.Exhausted != 0 {
			t.Errorf("lifted: got %+v; want none exhausted", got)
		}
		s.wantPasses("i", 10, 3)
		synctest.Wait()
		if got := s.triggers.list(); len(got) != 2 {
			t.Errorf("lifted and exceeded again: got %d triggers; want 2", len(got))
		}
	})
}

// TestTriggerOverRestart: a restart forgets that it has asked, and asks once more
// if a call still gets here: then there is no claim.
func TestTriggerOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(3))
		s.wantPasses("i", 5, 3)
		synctest.Wait()
		s.stop()
		s.boot(total(3))
		defer s.stop()
		s.wantPasses("i", 5, 0)
		synctest.Wait()
		if got := s.triggers.list(); len(got) != 2 {
			t.Errorf("got %d triggers; want 2", len(got))
		}
		s.table.Lifted(s.store.lift(ref))
		s.wantPasses("i", 5, 3)
	})
}

// TestTriggerNotTaken: it is asked again, at most once a minute.
func TestTriggerNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(0))
		defer s.stop()
		s.triggers.refuse = true
		for range 181 {
			s.want("i", enforce.OverLimit)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if got := s.triggers.list(); len(got) != 4 {
			t.Errorf("in three minutes: got %d triggers; want 4", len(got))
		}
	})
}

// TestUnboundIsNotRevoked: somebody else may have made the call.
func TestUnboundIsNotRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(1))
		defer s.stop()
		unbound := func(g *Gate) enforce.Reason { return admit(g, "i", t.Context(), time.Now(), false) }
		if got := unbound(s.gate); got != enforce.Allowed {
			t.Fatalf("got %v; want it allowed", got)
		}
		for range 3 {
			if got := unbound(s.gate); got != enforce.OverLimit {
				t.Errorf("got %v; want it refused all the same", got)
			}
			synctest.Wait()
		}
		if got := s.triggers.list(); len(got) != 0 {
			t.Fatalf("got %v; want no trigger", got)
		}
		// The count is begun anew by a lift, revoked or not.
		s.table.Lifted(s.store.lift(ref))
		s.wantPasses("i", 3, 1)
		synctest.Wait()
		if got := s.triggers.list(); len(got) != 1 || !got[0].Bound {
			t.Errorf("by a bound call: got %v; want one trigger", got)
		}
		s.table.Lifted(s.store.lift(ref))
		allowing := s.table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}, Trigger: s.triggers, UnboundTriggers: true})
		unbound(allowing)
		unbound(allowing)
		synctest.Wait()
		if got := s.triggers.list(); len(got) != 2 || got[1].Bound {
			t.Errorf("where unbound calls may trigger: got %v; want a second trigger", got)
		}
	})
}

// TestLiftWhileReserving: what was on its way when a lift came counts for nothing
// after it.
func TestLiftWhileReserving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(100))
		defer s.stop()
		s.wantPasses("i", 200, 100)
		synctest.Wait()
		s.apply(total(1000)) // blocks of 50
		s.store.slow(100 * time.Millisecond)
		done := make(chan enforce.Reason)
		go func() { done <- s.call("i") }()
		synctest.Wait() // it waits for a block
		refs := s.store.lift(ref)
		s.table.Lifted(refs)
		if got := <-done; got != enforce.Allowed || len(refs) != 1 {
			t.Errorf("got %v, %v; want the call to go on in the new count", got, refs)
		}
		s.store.slow(0)
		s.wantPasses("i", 2000, 999)
		if got := s.store.stored()[ref]; got.Generation != 1 {
			t.Errorf("got %+v; want generation 1", got)
		}
	})
}

// TestLiftHeardLate: the ledger has lifted and the table is only about to hear it.
func TestLiftHeardLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(100))
		defer s.stop()
		s.wantPasses("i", 200, 100)
		synctest.Wait()
		refs := s.store.lift(ref)
		s.apply(total(200))
		s.wantPasses("i", 300, 200)
		s.table.Lifted(refs)
		if got := s.passes("i", 300); got > 0 {
			t.Errorf("got %d more; want none beyond the new count", got)
		}
	})
}

// TestManyInvokers: 10,000 API invokers have counts and rates of their own.
func TestManyInvokers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const invokers = 10_000
		s := newScene(t, &Rules{All: &Rule{Total: number(7), PerSecond: number(5)}})
		var all sync.WaitGroup
		var wrong atomic.Int64
		for worker := range 8 {
			all.Go(func() {
				for i := worker; i < invokers; i += 8 {
					if s.passes(fmt.Sprintf("invoker-%d", i), 10) != 5 {
						wrong.Add(1)
					}
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second)
		for i := range invokers {
			if s.passes(fmt.Sprintf("invoker-%d", i), 10) != 2 {
				wrong.Add(1)
			}
		}
		if wrong.Load() != 0 {
			t.Errorf("got %d API invokers with another count; want none", wrong.Load())
		}
		synctest.Wait()
		if got := s.table.Stats(); got.Accounts != invokers || got.Exhausted != invokers {
			t.Errorf("got %+v; want %d accounts, all exhausted", got, invokers)
		}
		if got := s.triggers.list(); len(got) != invokers {
			t.Errorf("got %d triggers; want %d", len(got), invokers)
		}
		s.stop()
		for r, c := range s.store.stored() {
			if c.Reserved != 7 {
				t.Fatalf("%v: got %+v; want 7 counted", r, c)
			}
		}
	})
}

// TestSeveralAPIs: a call needs the consent of each, and one that is refused by
// one of them is not counted by the other.
func TestSeveralAPIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(10))
		defer s.stop()
		other := Pair{AEF: "aef", API: "other"}
		s.table.Apply(&Settings{Core: s.core, Logger: quiet, Pairs: map[Pair]Source{api: {Rules: total(10)}, other: {Rules: total(4)}}})
		both := s.table.Gate(GateOptions{AEF: "aef", APIs: []string{"api", "other"}, Trigger: s.triggers})
		passed := 0
		for range 20 {
			if admit(both, "i", t.Context(), time.Now(), true) == enforce.Allowed {
				passed++
			}
		}
		if passed != 4 {
			t.Errorf("got %d passed; want 4", passed)
		}
		s.wantPasses("i", 20, 6)
		synctest.Wait()
		var got []string
		for _, trigger := range s.triggers.list() {
			got = append(got, trigger.API)
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"api", "other"}) {
			t.Errorf("got triggers for %q; want one for each API", got)
		}
	})
}

// TestDamagedCount refuses until the lift.
func TestDamagedCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(10))
		defer s.stop()
		s.store.fail(revocation.ErrUnreadable)
		s.want("i", enforce.PolicyUnavailable)
		s.store.fail(nil)
		s.table.Lifted([]revocation.CountRef{ref, {Invoker: "nobody", AEF: "aef", API: "api"}, {Invoker: "i", AEF: "x", API: "y"}})
		s.wantPasses("i", 20, 10)
	})
}

// TestLiftNeverHeard: the ledger has lifted, and nobody has told the table. Calls
// pass again within a minute, and what was lifted is not revoked again.
func TestLiftNeverHeard(t *testing.T) {
	for _, taken := range []bool{true, false} {
		t.Run(fmt.Sprintf("trigger taken %t", taken), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, total(3))
				defer s.stop()
				s.triggers.refuse = !taken
				s.wantPasses("i", 5, 3)
				synctest.Wait()
				s.store.lift(ref)
				time.Sleep(offerAgain)
				s.want("i", enforce.OverLimit)
				synctest.Wait()
				s.wantPasses("i", 2, 2)
				if got := s.triggers.list(); len(got) != 1 {
					t.Errorf("got %d triggers; want 1", len(got))
				}
			})
		})
	}
}

// TestAPINamedTwice: it counts a call once.
func TestAPINamedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, total(4))
		defer s.stop()
		s.gate = s.table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API, api.API}})
		s.wantPasses("i", 10, 4)
	})
}
