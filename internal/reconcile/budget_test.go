package reconcile

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
)

func TestBackgroundBudget(t *testing.T) {
	for _, c := range []struct {
		name    string
		latency time.Duration
		empty   bool
		most    int
	}{
		{"fast core", latency, false, backgroundReads},
		{"slow core", time.Second, false, backgroundReads},
		{"core that answers 404 to all", latency, true, backgroundReads},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(300)
				var calls sync.WaitGroup
				for _, invoker := range list {
					w.core.set(invoker, entry)
					calls.Go(func() { w.check(invoker) })
				}
				calls.Wait()
				w.pass(time.Minute)
				w.core.script(func(core *fakeCore) {
					core.latency, core.most = c.latency, 0
					if c.empty {
						clear(core.contexts)
					}
				})
				before := w.core.count("")
				w.hint()
				w.pass(40 * time.Second)
				reads := w.core.since(before)
				if !c.empty && len(reads) != len(list) {
					t.Errorf("reads: got %d; want %d", len(reads), len(list))
				}
				for i := range reads {
					inSecond := 0
					for _, r := range reads[i:] {
						if r.at.Sub(reads[i].at) < time.Second {
							inSecond++
						}
					}
					if inSecond > backgroundPerSec {
						w.t.Fatalf("reads within a second: got %d; want at most %d", inSecond, backgroundPerSec)
					}
				}
				if w.core.most > c.most {
					t.Errorf("reads in flight: got %d; want at most %d", w.core.most, c.most)
				}
			})
		})
	}
}

func TestCallsGoBeforeTheBackground(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(300)
		var calls sync.WaitGroup
		for _, invoker := range list {
			w.core.set(invoker, entry)
			calls.Go(func() { w.check(invoker) })
		}
		calls.Wait()
		w.pass(time.Minute)
		w.hint()
		<-time.After(100 * time.Millisecond)
		begun := time.Now()
		w.wantCall(list[299], enforce.Allowed)
		if got := time.Since(begun); got > 2*latency {
			t.Errorf("waited: got %v; want no more than its own read takes", got)
		}
	})
}

// A hint costs at most one read for each active invoker, and little time.
func TestCostOfAHint(t *testing.T) {
	const invokers = 1000
	for _, spread := range []time.Duration{0, time.Second} {
		t.Run(fmt.Sprintf("calls spread over %v", spread), func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(invokers)
				var calls sync.WaitGroup
				for _, invoker := range list {
					w.core.set(invoker, entry)
					calls.Go(func() { w.wantCall(invoker, enforce.Allowed) })
				}
				calls.Wait()
				w.pass(time.Minute)
				w.core.set(list[500])
				before := w.core.count("")
				w.hint()
				added := make([]time.Duration, invokers)
				for i, invoker := range list {
					calls.Go(func() {
						<-time.After(1 + spread*time.Duration(i)/invokers)
						begun := time.Now()
						want := enforce.Allowed
						if i == 500 {
							want = enforce.NotInContext
						}
						w.wantCall(invoker, want)
						added[i] = time.Since(begun)
					})
				}
				calls.Wait()
				w.pass(time.Minute)
				slices.Sort(added)
				reads := w.core.count("") - before
				t.Logf("%d active invokers, one hint, a core that answers in %v: %d reads; a call waits p50 %v, p99 %v, at most %v",
					invokers, latency, reads, added[invokers/2], added[invokers*99/100], added[invokers-1])
				if reads > invokers {
					t.Errorf("reads: got %d; want at most %d", reads, invokers)
				}
				if added[invokers-1] > 500*time.Millisecond {
					t.Errorf("longest wait: got %v; want at most 500ms", added[invokers-1])
				}
			})
		})
	}
}

func TestHintWithAnUnreachableCoreFailsNobody(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		wait time.Duration
	}{{"refuses connections", silent(), 0}, {"hangs", nil, time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(1000)
				var calls sync.WaitGroup
				for _, invoker := range list {
					w.core.set(invoker, entry)
					calls.Go(func() { w.wantCall(invoker, enforce.Allowed) })
				}
				calls.Wait()
				w.core.script(func(core *fakeCore) {
					core.fail, core.latency = func(string) error { return c.err }, max(latency, c.wait)
				})
				w.hint()
				for range 3 {
					for _, invoker := range list {
						calls.Go(func() { w.wantCall(invoker, enforce.Allowed) })
					}
					calls.Wait()
				}
			})
		})
	}
}
