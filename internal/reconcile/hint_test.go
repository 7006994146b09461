package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
)

func TestHintReadsTheRestInTheBackgroundLastSeenFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(20)
		for _, invoker := range list {
			w.known(invoker)
			w.pass(time.Second)
		}
		before := w.core.count("")
		w.hint()
		w.settle()
		var got []string
		for _, r := range w.core.since(before) {
			got = append(got, r.invoker)
		}
		want := slices.Clone(list)
		slices.Reverse(want)
		if !slices.Equal(got, want) {
			t.Errorf("reads: got %v; want %v", got, want)
		}
		if due := w.r.Status().Due; due != 0 {
			t.Errorf("due: got %d; want 0", due)
		}
	})
}

// TestAnotherCore: what the core before said does not count for the new one.
func TestAnotherCore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.s.CoreURL = "https://core.example"
		w.r.Apply(&w.s)
		w.known("a", "b")
		w.settle()
		reads := w.core.count("")
		w.r.Apply(&w.s)
		w.wantCall("a", enforce.Allowed)
		w.settle()
		w.wantReads("", reads, 0)

		w.s.CoreURL = "https://other.example"
		w.core.set("a")
		w.r.Apply(&w.s)
		w.wantCall("a", enforce.NotInContext)
		w.wantCall("b", enforce.Allowed)
		w.settle()
		if due := w.r.Status().Due; due != 0 {
			t.Errorf("due: got %d; want 0", due)
		}
	})
}

func TestNamedHint(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		w.core.set("b", entry)
		w.wantCall("a", enforce.Allowed)
		w.wantCall("b", enforce.Allowed)
		a, b := w.core.count("a"), w.core.count("b")
		w.core.set("a")
		w.hint("a")
		w.wantCall("a", enforce.NotInContext)
		w.settle()
		w.wantReads("a", a, 1)
		w.wantReads("b", b, 0)

		all := w.core.count("")
		w.hint("unknown", "unknown too")
		w.settle()
		w.wantReads("", all, 0)
		if got := w.r.Status().Invokers; got != 2 {
			t.Errorf("contexts: got %d; want 2", got)
		}
	})
}

// One that is being evicted is not found, and may still have cached verdicts.
func TestHintNamingAnUnknownInvokerEndsCachedVerdicts(t *testing.T) {
	inWorld(t, func(w *world) {
		before := w.memory.Epoch("unknown").Load()
		w.hint("unknown")
		if got := w.memory.Epoch("unknown").Load(); got == before {
			t.Errorf("epoch: got %d still; want it raised", got)
		}
	})
}

func TestHintMarksABackgroundReadUnderWay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		held, free := w.core.gate("a", nil)
		w.r.raise("a")
		go w.check("a")
		held()
		before := w.core.count("a")
		w.hint("a") // the background joins the call's read, which is too old
		synctest.Wait()
		free()
		w.settle()
		w.settle()
		if w.core.count("a") == before {
			t.Error("got no further read; want one in the background")
		}
		if due := w.r.Status().Due; due != 0 {
			t.Errorf("due: got %d; want 0", due)
		}
	})
}

func TestHintsOfOneSecondAreGathered(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.pass(time.Minute)
		begun, before := time.Now(), w.r.clock.Load()
		w.hint()
		if got := time.Since(begun); got != 0 {
			t.Errorf("first hint: got %v; want at once", got)
		}
		var hints sync.WaitGroup
		for i := range 1000 {
			hints.Go(func() {
				<-time.After(time.Duration(1+i%900) * time.Millisecond)
				w.hint()
				if got := time.Since(begun); got != hintGather {
					t.Errorf("hint %d: got %v; want %v", i, got, hintGather)
				}
			})
		}
		// One whose sender goes away is not dropped for that.
		ctx, cancel := context.WithCancel(context.Background())
		hints.Go(func() {
			err := w.r.Hint(ctx, nil)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("hint whose sender left: got %v; want %v", err, context.Canceled)
			}
		})
		<-time.After(100 * time.Millisecond)
		cancel()
		w.core.set("a") // no later than the last of them
		hints.Wait()
		if got := w.r.clock.Load() - before; got != 2 {
			t.Errorf("hints carried out: got %d; want 2", got)
		}
		w.wantCall("a", enforce.NotInContext)
	})
	t.Run("alone, its sender gone", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.hint()
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			before := w.r.all.Load()
			_ = w.r.Hint(ctx, nil)
			w.pass(hintGather)
			if w.r.all.Load() == before {
				t.Error("got the hint dropped; want it deferred")
			}
		})
	})
}

func TestHintGathered(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a", "b")
		w.pass(time.Minute)
		begun, a, b := time.Now(), w.core.count("a"), w.core.count("b")
		hint := func(invokers ...string) {
			err := w.r.HintGathered(w.t.Context(), invokers)
			if err != nil {
				t.Errorf("got %v; want no error", err)
			}
		}
		hint("a", "unknown")
		var hints sync.WaitGroup
		for range 1000 {
			hints.Go(func() {
				<-time.After(500 * time.Millisecond)
				hint("a")
				if got := time.Since(begun); got != hintGather {
					t.Errorf("got %v; want %v", got, hintGather)
				}
			})
		}
		<-time.After(900 * time.Millisecond)
		w.core.set("a")
		hints.Wait()
		w.wantCall("a", enforce.NotInContext)
		w.settle()
		w.wantReads("a", a, 2)
		w.wantReads("b", b, 0)
	})
	t.Run("too many names are a hint for all", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.core.set("a", entry)
			w.wantCall("a", enforce.Allowed)
			w.pass(time.Minute)
			w.core.set("a")
			many := make([]string, maxGathered+1)
			err := w.r.HintGathered(w.t.Context(), many)
			if err != nil {
				w.t.Fatal(err)
			}
			w.wantCall("a", enforce.NotInContext)
		})
	})
}

func TestHintsThatRaceOnlyRaise(t *testing.T) {
	r := New(newMemory(), nil)
	defer r.Stop()
	var hints sync.WaitGroup
	for range 8 {
		hints.Go(func() {
			for range 50_000 {
				before := r.clock.Load()
				r.raiseAll()
				if got := r.all.Load(); got <= before {
					t.Errorf("last hint: got %d after one that came after %d", got, before)
					return
				}
			}
		})
	}
	hints.Wait()
	if got, want := r.all.Load(), r.clock.Load(); got != want {
		t.Errorf("last hint: got %d; want %d", got, want)
	}
}

func TestStartAndTheEndOfAnOutageCountAsHints(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(10)
		w.known(list...)
		w.settle()
		before := w.core.count("")
		w.restart()
		w.settle()
		w.wantReads("", before, len(list))

		for _, invoker := range list {
			w.wantCall(invoker, enforce.Allowed) // cached from now on
		}
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.call("x")
		w.call("x")
		if w.r.Status().Reachable {
			t.Error("reachable: got true; want false")
		}
		w.core.set(list[0])
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.core.set("x", entry)
		w.wantCall("x", enforce.Allowed) // this shows that the core is back
		w.wantCall(list[0], enforce.NotInContext)
		w.settle()
		if st := w.r.Status(); !st.Reachable || st.Due != 0 {
			t.Errorf("got %+v; want reachable and nothing due", st)
		}
	})
}

// Some API invokers for whom the core fails whatever happens must not look like
// outages that end again and again.
func TestInvokersThatTheCoreFailsForKeepNothingDue(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		broken := list[:12]
		w.known(list...)
		w.core.script(func(c *fakeCore) {
			c.fail = func(invoker string) error {
				if slices.Contains(broken, invoker) {
					return silent()
				}
				return nil
			}
		})
		for _, invoker := range broken {
			w.call(invoker) // seen last, so read first
		}
		w.hint()
		w.pass(10 * time.Minute)
		for _, invoker := range list[12:] {
			w.core.set(invoker) // nobody says so
		}
		w.s.Hosted = nil
		w.r.Apply(&w.s)
		before := w.core.count("")
		w.pass(10 * time.Minute)
		for _, invoker := range list[12:] {
			rec := w.r.records.get(invoker)
			if rec.context.Lists(aef, api) {
				t.Errorf("%s: got listed still; want it read by the timer", invoker)
			}
		}
		// 12 are tried again every 30 s, 18 read in each interval.
		if got := w.core.count("") - before; got > 12*22+18*4 {
			t.Errorf("reads in 10 min: got %d; want at most %d", got, 12*22+18*4)
		}
	})
}

func TestTimerReadsAllThatWereSeenLately(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("allowed", entry)
		w.core.set("refused")
		w.wantCall("allowed", enforce.Allowed)
		w.wantCall("refused", enforce.NotInContext)
		var gaps []time.Duration
		for _, invoker := range []string{"allowed", "refused"} {
			before := w.core.count(invoker)
			w.pass(DefaultInterval * 11 / 10)
			if w.core.count(invoker) == before {
				t.Errorf("%s: got no read in an interval; want one", invoker)
			}
		}
		w.pass(50 * time.Minute)
		var last time.Time
		for _, r := range w.core.since(0) {
			if r.invoker == "allowed" {
				if !last.IsZero() {
					gaps = append(gaps, r.at.Sub(last))
				}
				last = r.at
			}
		}
		least, most := slices.Min(gaps), slices.Max(gaps)
		if least < DefaultInterval*9/10-time.Second || most > DefaultInterval*11/10+time.Second || most-least < time.Second {
			t.Errorf("gaps: got %v to %v; want different ones, 10 %% around %v", least, most, DefaultInterval)
		}
		w.pass(3 * time.Hour)
		before := w.core.count("")
		w.pass(time.Hour)
		w.wantReads("", before, 0)
	})
}

func (w *world) asleep(invoker string) bool {
	rec := w.r.records.get(invoker)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.asleep
}

// A verdict cached for one that the timer no longer reads must not serve.
func TestOneThatComesBackAfterHoursIsReadFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		w.wantCall("a", enforce.Allowed)
		w.pass(2 * time.Hour)
		w.core.set("a") // nobody says so
		w.wantCall("a", enforce.NotInContext)
	})
	t.Run("just after the timer gave it up", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.core.set("a", entry)
			w.wantCall("a", enforce.Allowed)
			for !w.asleep("a") {
				w.pass(time.Minute)
			}
			w.core.set("a")
			w.wantCall("a", enforce.NotInContext)
		})
	})
}

func TestNewIntervalCountsAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.s.Interval = time.Second
		w.r.Apply(&w.s)
		before := w.core.count("a")
		w.pass(10 * time.Second)
		if got := w.core.count("a") - before; got < 8 {
			t.Errorf("reads in 10 s: got %d; want one in each second", got)
		}
	})
}

func TestDueReadsGoBeforeThoseOfTheTimer(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(1000)
		for _, invoker := range list {
			w.core.set(invoker, entry)
		}
		var calls sync.WaitGroup
		for _, invoker := range list {
			calls.Go(func() { w.check(invoker) })
		}
		calls.Wait()
		w.pass(10 * time.Second)
		go w.r.readAll()
		w.pass(time.Second)
		last := w.r.records.all()[999].invoker
		before := w.core.count(last)
		w.hint(last)
		w.pass(2 * time.Second)
		w.wantReads(last, before, 1)
	})
}
