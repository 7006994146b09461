package reconcile

import (
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
)

// refusedOf counts how many calls are refused.
func (w *world) refusedOf(list []string) int {
	n := 0
	for _, invoker := range list {
		if w.call(invoker) != enforce.Allowed {
			n++
		}
	}
	return n
}

func TestMassChangeThreshold(t *testing.T) {
	for _, c := range []struct {
		name                    string
		invokers, change, apply int
		suspended               bool
	}{
		{"five of five", 5, 5, 5, false},
		{"six of ten", 10, 6, 5, true},
		{"ten of a hundred", 100, 10, 10, false},
		{"eleven of a hundred", 100, 11, 10, true},
		{"all of a hundred", 100, 100, 10, true},
	} {
		t.Run("newly refused: "+c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(c.invokers)
				w.known(list...)
				for _, invoker := range list[:c.change] {
					w.core.set(invoker)
				}
				w.hint()
				w.settle()
				if got := w.refusedOf(list); got != c.apply {
					t.Errorf("refused: got %d; want %d", got, c.apply)
				}
				w.wantSuspended(c.suspended)
				if got := w.r.Status().Withheld; c.suspended && got != c.change-c.apply {
					t.Errorf("withheld: got %d; want %d", got, c.change-c.apply)
				}
			})
		})
		t.Run("newly listed: "+c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(c.invokers)
				for _, invoker := range list {
					w.core.set(invoker)
					w.wantCall(invoker, enforce.NotInContext)
				}
				for _, invoker := range list[:c.change] {
					w.core.set(invoker, entry)
				}
				w.hint()
				w.settle()
				if got := c.invokers - w.refusedOf(list); got != c.apply {
					t.Errorf("listed: got %d; want %d", got, c.apply)
				}
				w.wantSuspended(c.suspended)
			})
		})
	}
}

func TestMassChangeWindowSlides(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(20)
		w.known(list...)
		for i, invoker := range list {
			w.core.set(invoker)
			w.hint(invoker)
			w.wantCall(invoker, enforce.NotInContext)
			if i%massLeast == massLeast-1 {
				w.pass(w.interval() + time.Second)
			}
		}
		w.wantSuspended(false)
	})
	t.Run("six within one interval, one by one", func(t *testing.T) {
		inWorld(t, func(w *world) {
			list := names(20)
			w.known(list...)
			for _, invoker := range list[:6] {
				w.core.set(invoker)
				w.hint(invoker)
				w.call(invoker)
				w.pass(w.interval() / 7)
			}
			w.wantSuspended(true)
		})
	})
}

// Who was read counts as of the last read, or many that are read by the timer
// would look few.
func TestMassChangeCountsWhoWasReadLately(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(100)
		w.known(list...)
		w.pass(w.interval() * 8 / 10)
		w.hint()
		w.pass(10 * time.Second)
		w.pass(w.interval() * 3 / 10)
		for _, invoker := range list[:8] {
			w.core.set(invoker)
			w.hint(invoker)
			w.wantCall(invoker, enforce.NotInContext)
		}
		w.wantSuspended(false)
	})
}

func TestMassChangeAccepted(t *testing.T) {
	for _, found := range []bool{true, false} {
		name := map[bool]string{true: "contexts without entries", false: "404 for all"}[found]
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(30)
				w.known(list...)
				if w.r.Accept() {
					t.Error("accept with nothing suspended: got true; want false")
				}
				for _, invoker := range list {
					if found {
						w.core.set(invoker)
					} else {
						w.core.remove(invoker)
					}
				}
				w.hint()
				w.settle()
				w.settle()
				w.wantSuspended(true)
				if !w.r.Accept() {
					t.Error("accept: got false; want true")
				}
				w.wantSuspended(false)
				if got := w.refusedOf(list); got != len(list) {
					t.Errorf("refused: got %d; want all %d", got, len(list))
				}
				w.pass(2 * w.interval())
				w.wantSuspended(false)
			})
		})
	}
}

// A read under way when an operator accepts does not use the acceptance up.
func TestAcceptWithReadsUnderWay(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		w.known(list...)
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.hint()
		w.settle()
		w.wantSuspended(true)
		w.core.script(func(c *fakeCore) {
			for _, invoker := range list {
				c.contexts[invoker] = append(c.contexts[invoker], entry) // for the reads under way
			}
			c.latency = 100 * time.Millisecond
		})
		for _, invoker := range list {
			w.r.raise(invoker)
			go w.check(invoker)
		}
		<-time.After(10 * time.Millisecond)
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.r.Accept()
		w.settle()
		if got := w.refusedOf(list); got != len(list) {
			t.Errorf("refused: got %d; want all %d", got, len(list))
		}
		w.wantSuspended(false)
	})
}

func TestMassChangeEndsWithACompletePass(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		w.known(list...)
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.hint()
		w.settle()
		w.wantSuspended(true)
		w.pass(2 * w.interval())
		w.wantSuspended(true) // it still shows
		w.core.script(func(c *fakeCore) {
			c.fail = func(invoker string) error {
				if invoker == list[0] {
					return silent()
				}
				return nil
			}
		})
		w.settle() // a pass under way has read the first one
		for _, invoker := range list {
			w.core.set(invoker, entry)
		}
		w.pass(2 * w.interval())
		w.wantSuspended(true) // no pass was complete
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.pass(2 * w.interval())
		w.wantSuspended(false)
		if got := w.refusedOf(list); got != 0 {
			t.Errorf("refused: got %d; want 0", got)
		}
	})
}

// What is withheld of invokers that call no more keeps the stop: else it would
// let some more through with each pass.
func TestMassChangeOfInvokersNotSeenLatelyStaysSuspended(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(40)
		w.known(list...)
		w.settle()
		w.pass(5 * time.Hour)
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.hint()
		w.pass(5 * w.interval())
		w.wantSuspended(true)
		refused := 0
		for _, invoker := range list {
			rec := w.r.records.get(invoker)
			if !rec.context.Lists(aef, api) {
				refused++
			}
		}
		if refused != massLeast {
			t.Errorf("applied: got %d; want %d", refused, massLeast)
		}
	})
}

func TestCommandsGoOnDuringASuspension(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		w.known(list...)
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.hint()
		w.settle()
		w.wantSuspended(true)
		allowed := ""
		for _, invoker := range list {
			if w.call(invoker) == enforce.Allowed {
				allowed = invoker
			}
		}
		w.memory.deny(allowed)
		w.hint(allowed)
		w.wantCall(allowed, enforce.AuthorizationRevoked)
		// One that is new is decided by the core's word: nothing is withheld.
		w.core.set("new", entry)
		w.wantCall("new", enforce.Allowed)
	})
}

func TestWhatClaimsDenyAnywayIsNoChange(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		w.known(list...)
		for _, invoker := range list {
			w.memory.deny(invoker)
			w.core.set(invoker)
		}
		w.hint()
		w.settle()
		w.wantSuspended(false)
		if got := w.r.Status().Withheld; got != 0 {
			t.Errorf("withheld: got %d; want 0", got)
		}
	})
}

func TestNoWordCountsForClaimsDuringASuspension(t *testing.T) {
	inWorld(t, func(w *world) {
		w.s.CoreLift = true
		w.r.Apply(&w.s)
		list := names(30)
		w.known(list...)
		w.memory.deny("denied")
		w.core.set("denied", entry)
		w.check("denied")
		w.settle()
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.core.set("denied")
		for _, invoker := range list {
			w.r.raise(invoker)
			w.check(invoker)
		}
		w.wantSuspended(true)
		w.settle()
		w.memory.mu.Lock()
		before := w.memory.judged
		w.memory.mu.Unlock()
		w.hint("denied")
		w.check("denied")
		w.settle()
		if got := w.memory.judged - before; got != 0 {
			t.Errorf("words that counted for claims: got %d; want 0", got)
		}
	})
}

// With core_lift, only invokers with a claim of the core cost a write each read.
func TestUnchangedContextsCostNoWrite(t *testing.T) {
	inWorld(t, func(w *world) {
		w.s.CoreLift = true
		w.r.Apply(&w.s)
		w.known(names(10)...)
		w.settle()
		before := w.memory.writes
		w.hint()
		w.settle()
		if got := w.memory.writes - before; got != 0 {
			t.Errorf("writes: got %d; want 0", got)
		}
	})
}
