package reconcile

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

func TestEviction(t *testing.T) {
	inWorld(t, func(w *world) {
		w.s.MaxInvokers = 20
		w.r.Apply(&w.s)
		w.memory.deny("denied")
		w.core.set("denied", entry)
		w.check("denied")
		w.core.set("old", entry)
		w.wantCall("old", enforce.Allowed)
		epoch := w.memory.Epoch("old").Load()
		for i := range 100 {
			w.pass(time.Second)
			invoker := fmt.Sprintf("invoker-%d", i)
			w.core.set(invoker, entry)
			w.wantCall(invoker, enforce.Allowed)
			if got := w.r.Status().Invokers; got > 20 {
				w.t.Fatalf("contexts: got %d; want at most 20", got)
			}
		}
		if got := w.memory.Epoch("old").Load(); got == epoch {
			t.Errorf("epoch: got %d still; want it raised", got)
		}
		if _, ok := w.memory.stored("old"); ok {
			t.Error("stored: got the evicted context still; want it deleted")
		}
		w.wantCall("denied", enforce.AuthorizationRevoked)
		w.core.set("old")
		w.wantCall("old", enforce.NotInContext)
	})
	t.Run("all in one second", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.s.MaxInvokers = 4
			w.r.Apply(&w.s)
			w.core.script(func(c *fakeCore) { c.latency = 0 })
			for _, invoker := range names(200) {
				w.core.set(invoker, entry)
				w.wantCall(invoker, enforce.Allowed)
			}
		})
	})
	t.Run("what was listed once is forgotten last", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.s.MaxInvokers = 20
			w.r.Apply(&w.s)
			off := w.decides(enforce.ContextRule{})
			w.known("gone")
			w.core.set("gone")
			w.hint()
			w.wantCall("gone", enforce.NotInContext)
			for i, invoker := range names(100) {
				w.pass(time.Second)
				w.core.set(invoker, entry)
				if i == 50 {
					w.hint()
				}
				w.call(invoker)
			}
			got := off.Decide(w.t.Context(), "gone", time.Now()).Reason
			if got != enforce.NotInContext {
				t.Errorf("got %v; want %v", got, enforce.NotInContext)
			}
		})
	})
}

func TestGoneForgetsWhatIsBeingSaved(t *testing.T) {
	inWorld(t, func(w *world) {
		slow, stuck := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.memory.before = func(revocation.Context) { once.Do(func() { close(stuck); <-slow }) }
		w.known("a")
		<-stuck
		err := w.r.Gone(w.t.Context(), []string{"a"})
		if err != nil {
			w.t.Fatal(err)
		}
		close(slow)
		w.settle()
		if _, ok := w.memory.stored("a"); ok {
			t.Error("stored: got the context of an offboarded invoker; want none")
		}
	})
}

func TestStoredContextsServeWhenTheCoreIsUnreachableAfterARestart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.core.set("b")
		w.wantCall("b", enforce.NotInContext)
		w.settle()
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.restart()
		if got := w.r.Status().Due; got != 2 {
			t.Errorf("due: got %d; want 2", got)
		}
		w.wantCall("a", enforce.Allowed)
		w.wantCall("b", enforce.NotInContext)
		w.wantCall("c", enforce.ContextUnknown)
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.core.set("a")
		w.pass(time.Millisecond)
		w.wantCall("a", enforce.NotInContext)
	})
}

// A context that was read before a late Start must not be overwritten by an
// older one that is stored, and calls that come early race with nothing.
func TestCallsDuringTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known(names(50)...)
		w.settle()
		w.r.Stop()
		for _, invoker := range names(50) {
			w.core.set(invoker)
		}
		w.s.Hosted = nil // no mass change here
		w.r = New(w.store, w.alarms)
		w.r.Apply(&w.s)
		w.decider.Store(w.decides(enforce.ContextRule{Require: true}))
		var calls sync.WaitGroup
		for _, invoker := range names(50) {
			calls.Go(func() {
				for range 20 {
					if w.call(invoker) == enforce.Allowed {
						t.Errorf("%s: got allowed; want it refused", invoker)
					}
				}
			})
		}
		err := w.r.Start()
		if err != nil {
			w.t.Fatal(err)
		}
		calls.Wait()
	})
}

func TestStop(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known(names(20)...)
		w.core.script(func(c *fakeCore) { c.latency = 24 * time.Hour })
		w.hint()
		go func() { _ = w.r.Hint(w.t.Context(), nil) }() // waits for the second to end
		var calls sync.WaitGroup
		for i := range 100 {
			calls.Go(func() { w.call(fmt.Sprintf("new-%d", i)) })
		}
		w.pass(10 * time.Millisecond)
		begun := time.Now()
		w.r.Stop()
		if got := time.Since(begun); got > 0 {
			t.Errorf("stop took %v; want no time at all", got)
		}
		calls.Wait()
		w.r.Stop()
		w.wantCall("invoker-000", enforce.Allowed) // by what is known
		w.wantCall("new-0", enforce.ContextUnknown)
		w.hint()
		w.hint()
		w.hint("invoker-000")
		w.r.Accept()
	})
	t.Run("never started", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := New(newMemory(), new(alarm.Set))
			got := r.Check(t.Context(), Query{Invoker: "a", AEF: aef, APIs: []string{api}})
			if got.Known || got.Settled {
				t.Errorf("got %+v; want nothing known", got)
			}
			r.Accept()
			r.Status()
			r.Stop()
		})
	})
}
