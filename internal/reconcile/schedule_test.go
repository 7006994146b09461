package reconcile

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// names makes n names of invokers.
func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("invoker-%03d", i)
	}
	return list
}

func TestSchedule03ReadSampledBeforeTheSecondHintOfASecond(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		held, free := w.core.gate("a", nil)
		w.hint()
		held() // the background has sampled "listed"
		w.core.set("a")
		w.hint() // its 2xx comes at the end of the second
		free()
		synctest.Wait()
		w.wantCall("a", enforce.NotInContext)
	})
}

func TestSchedule04RestartWithAYoungStoredContext(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.settle()
		w.core.set("a")
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.hint()
		w.restart() // before the core could be read
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.wantCall("a", enforce.NotInContext)
	})
}

func TestSchedule05HintWithACachedAllow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		w.wantCall("a", enforce.Allowed)
		before := w.core.count("")
		w.wantCall("a", enforce.Allowed)
		w.wantReads("", before, 0)
		w.core.set("a")
		w.hint()
		w.wantCall("a", enforce.NotInContext)
	})
}

func TestSchedule06DueReadFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		w.wantCall("a", enforce.Allowed)
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.core.set("a")
		w.hint()
		w.wantCall("a", enforce.Allowed) // by what is known
		before := w.core.count("a")
		w.wantCall("a", enforce.Allowed)
		if w.core.count("a") == before {
			w.t.Error("second call: got no read; want one, for the context stays due")
		}
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.wantCall("a", enforce.NotInContext)
	})
}

func TestSchedule07CallJoinsAReadThatWillFail(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.pass(2 * w.interval())
		held, free := w.core.gate("a", silent())
		w.hint()
		held() // the background's
		w.core.set("a")
		answer := make(chan Answer)
		go func() { answer <- w.check("a") }()
		synctest.Wait()
		free()
		got := <-answer
		if got.Listed || !got.Known {
			w.t.Errorf("got %+v; want known and not listed, by a read of its own", got)
		}
	})
}

func (w *world) interval() time.Duration { return w.r.settings.Load().Interval }

func TestSchedule08FirstSightInFlightWhenAHintNamesIt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		held, free := w.core.gate("a", nil)
		var calls sync.WaitGroup
		calls.Go(func() { w.call("a") })
		held()
		w.core.set("a")
		w.hint("a")
		free()
		w.wantCall("a", enforce.NotInContext)
		calls.Wait()
		w.wantCall("a", enforce.NotInContext)
	})
}

func TestSchedule09ContextDeletedWithItsLastAPI(t *testing.T) {
	t.Run("with a witness", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.known("a", "b")
			w.core.remove("a")
			w.hint()
			w.wantCall("a", enforce.NotInContext)
			w.wantCall("b", enforce.Allowed)
			w.wantSuspended(false)
		})
	})
	t.Run("with nobody else", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.known("a")
			w.core.remove("a")
			w.hint()
			w.wantCall("a", enforce.NotInContext)
		})
	})
	t.Run("with witnesses of which the last seen are gone too", func(t *testing.T) {
		inWorld(t, func(w *world) {
			list := names(60)
			w.known(list...)
			w.pass(10 * time.Second)
			gone := list[:maxWitnesses+1]
			for _, invoker := range gone {
				w.core.remove(invoker)
			}
			for _, invoker := range gone {
				w.call(invoker) // these are the ones seen last
			}
			w.hint()
			for _, invoker := range gone {
				w.wantCall(invoker, enforce.NotInContext)
			}
			w.wantSuspended(false)
		})
	})
}

func TestSchedule10EmptiedCoreAndEachCallReadsForItself(t *testing.T) {
	for _, found := range []bool{true, false} {
		t.Run(fmt.Sprintf("contexts found %v", found), func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(40)
				w.known(list...)
				w.settle()
				for _, invoker := range list {
					if found {
						w.core.set(invoker)
					} else {
						w.core.remove(invoker)
					}
				}
				w.hint()
				for round := range 3 {
					refused := 0
					for _, invoker := range list {
						if w.call(invoker) != enforce.Allowed {
							refused++
						}
					}
					want := massLeast
					if !found {
						want = 0 // no witness: not even those
					}
					if refused > want {
						w.t.Errorf("round %d: got %d refused; want at most %d", round, refused, want)
					}
					w.pass(w.interval())
				}
				w.wantSuspended(true)
			})
		})
	}
}

func TestSchedule11ReadFromBeforeTheEmptyingIsAppliedAfterIt(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(20)
		w.known(list...)
		w.s.Wait = time.Minute
		w.r.Apply(&w.s)
		w.settle()
		held, free := w.core.gate("late", nil)
		w.core.set("late", entry)
		w.known(list[0])
		go w.call("late")
		held() // sampled "listed"
		for _, invoker := range list {
			w.core.set(invoker)
		}
		w.core.set("late")
		w.hint()
		for _, invoker := range list {
			w.call(invoker)
		}
		w.wantSuspended(true)
		before := w.core.count("late")
		free()
		w.pass(time.Second)
		w.wantSuspended(true)
		if w.core.count("late") == before {
			w.t.Error("after it: got no read; want one, for an old read clears no due")
		}
		w.wantCall("late", enforce.NotInContext)
	})
}

func TestSchedule11PassJoinsReadsFromBeforeTheEmptying(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(12)
		w.known(list...)
		w.settle()
		// All reads under way have sampled "listed".
		free := make(chan struct{})
		var held sync.WaitGroup
		held.Add(6)
		first := make(map[string]bool)
		w.core.script(func(c *fakeCore) {
			c.hold = func(ctx context.Context, invoker string) error {
				c.mu.Lock()
				hold := invoker < list[6] && !first[invoker]
				first[invoker] = true
				c.mu.Unlock()
				if hold {
					held.Done()
					select {
					case <-free:
					case <-ctx.Done():
					}
				}
				return nil
			}
		})
		for _, invoker := range list[:6] {
			w.r.raise(invoker)
			go w.call(invoker)
		}
		held.Wait()
		for _, invoker := range list {
			w.core.set(invoker)
		}
		for _, invoker := range list[6:] {
			w.r.raise(invoker)
			w.call(invoker)
		}
		w.wantSuspended(true)
		done := make(chan bool)
		go func() { done <- w.r.readAll() }()
		synctest.Wait()
		close(free)
		<-done
		w.wantSuspended(true)
	})
}

func TestSchedule22EarlierReadFinishesAfterALaterOne(t *testing.T) {
	t.Run("in memory", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.core.set("a", entry)
			held, free := w.core.gate("a", nil)
			go w.call("a")
			held()
			err := w.r.Gone(w.t.Context(), []string{"a"})
			if err != nil {
				w.t.Fatal(err)
			}
			w.core.set("a")
			w.wantCall("a", enforce.NotInContext)
			free()
			w.pass(10 * time.Millisecond)
			w.wantCall("a", enforce.NotInContext)
			c, ok := w.memory.stored("a")
			if !ok || c.Lists(aef, api) {
				w.t.Errorf("stored: got %+v, %v; want one that does not list it", c, ok)
			}
		})
	})
	t.Run("on disk", func(t *testing.T) {
		inWorld(t, func(w *world) {
			slow, stuck := make(chan struct{}), make(chan struct{})
			var once sync.Once
			w.memory.before = func(revocation.Context) {
				once.Do(func() { close(stuck); <-slow })
			}
			w.known("a")
			<-stuck
			w.core.set("a")
			w.hint("a")
			w.wantCall("a", enforce.NotInContext)
			synctest.Wait()
			close(slow)
			synctest.Wait()
			c, _ := w.memory.stored("a")
			if c.Lists(aef, api) {
				w.t.Error("stored: got the older word; want the later one")
			}
		})
	})
}

func TestSchedule23LiftedPairThatAStaleReadCallsAbsent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a")
		w.wantCall("a", enforce.NotInContext)
		w.hint("a") // what a lift does
		got := w.check("a")
		if got.Listed || !got.Known || !got.Waited {
			w.t.Errorf("still absent: got %+v; want known, read anew and not listed", got)
		}
		w.core.set("a", entry)
		w.hint("a")
		w.wantCall("a", enforce.Allowed)
	})
}
