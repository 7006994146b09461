package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

func TestFirstSightIsSharedByConcurrentCalls(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() { w.wantCall("a", enforce.Allowed) })
		}
		calls.Wait()
		w.wantReads("a", 0, 1)
	})
}

func TestSharedReadOutlivesTheCallThatBeganIt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		ctx, cancel := context.WithCancel(context.Background())
		go w.r.Check(ctx, Query{Invoker: "a", AEF: aef, APIs: []string{api}, Require: true})
		synctest.Wait()
		go func() { w.wantCall("a", enforce.Allowed) }()
		synctest.Wait()
		cancel()
		w.settle()
		w.wantReads("a", 0, 1)
	})
}

func TestWaitHasADeadline(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("b")
		w.core.script(func(c *fakeCore) { c.latency = time.Hour })
		w.hint()
		for _, c := range []struct {
			invoker string
			want    enforce.Reason
		}{{"a", enforce.ContextUnknown}, {"b", enforce.Allowed}} {
			late := w.r.Status().Late
			begun := time.Now()
			w.wantCall(c.invoker, c.want)
			if got := time.Since(begun); got != DefaultWait {
				t.Errorf("%s waited: got %v; want %v", c.invoker, got, DefaultWait)
			}
			if got := w.r.Status().Late - late; got != 1 {
				t.Errorf("%s counted late: got %d; want 1", c.invoker, got)
			}
		}
	})
}

func TestNotListedCountsForFiveSeconds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a")
		w.wantCall("a", enforce.NotInContext)
		w.core.set("a", entry)
		before := w.core.count("a")
		w.pass(notListedFor - 10*time.Millisecond)
		w.wantCall("a", enforce.NotInContext)
		w.wantReads("a", before, 0)
		w.pass(10 * time.Millisecond)
		w.wantCall("a", enforce.Allowed)
		w.wantReads("a", before, 1)
	})
}

func TestOldContextIsReadBeforeAnAllow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("a")
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.pass(3 * w.interval())
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.core.set("a")
		w.pass(time.Millisecond)
		w.wantCall("a", enforce.NotInContext)
	})
}

// A call must not ask again and again for what is withheld.
func TestWithheldListingIsAskedForOnceInFiveSeconds(t *testing.T) {
	inWorld(t, func(w *world) {
		list := names(30)
		for _, invoker := range list {
			w.core.set(invoker)
			w.wantCall(invoker, enforce.NotInContext)
		}
		for _, invoker := range list {
			w.core.set(invoker, entry)
		}
		w.pass(10 * time.Second)
		for _, invoker := range list {
			w.call(invoker)
		}
		w.wantSuspended(true)
		last := list[len(list)-1]
		w.pass(10 * time.Second)
		before := w.core.count(last)
		begun := time.Now()
		for range 100 {
			w.wantCall(last, enforce.NotInContext)
		}
		w.wantReads(last, before, 1)
		if got := time.Since(begun); got > 2*latency {
			t.Errorf("100 calls took %v; want no more than one read", got)
		}
	})
}

// What is not the core's word about an invoker changes nothing.
func TestOnlyTheCoresWordCounts(t *testing.T) {
	status := func(code int, shape bool) error {
		return &coreclient.Error{Op: "read", Status: code, InCoreShape: shape}
	}
	for _, c := range []struct {
		name string
		err  error
	}{
		{"401", status(401, true)},
		{"403", status(403, true)},
		{"404 of a proxy", status(404, false)},
		{"400", status(400, true)},
		{"429", status(429, true)},
		{"500", status(500, true)},
		{"503", status(503, false)},
		{"200 with HTML", &coreclient.Error{Op: "read", Status: 200, Err: errors.New("answer is no security context")}},
		{"no answer", silent()},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				list := names(8)
				w.known(list...)
				w.core.set("refused")
				w.wantCall("refused", enforce.NotInContext)
				w.core.script(func(core *fakeCore) { core.fail = func(string) error { return c.err } })
				w.hint()
				for _, invoker := range list {
					w.wantCall(invoker, enforce.Allowed)
				}
				w.wantCall("refused", enforce.NotInContext)
				w.wantCall("new", enforce.ContextUnknown)
				w.pass(3 * w.interval())
				w.wantCall(list[0], enforce.Allowed)
				w.wantSuspended(false)
				w.core.set(list[0])
				w.core.script(func(core *fakeCore) { core.fail = nil })
				w.pass(10 * time.Millisecond)
				w.wantCall(list[0], enforce.NotInContext)
			})
		})
	}
}

func Test404NeedsAWitness(t *testing.T) {
	for _, c := range []struct {
		name    string
		witness func(w *world) // b's fate
		second  error          // what a's second read says
		want    enforce.Reason
	}{
		{"witness read with 200", func(w *world) {}, nil, enforce.NotInContext},
		{"witness absent too", func(w *world) { w.core.remove("b") }, nil, enforce.Allowed},
		{"witness fails", func(w *world) {
			w.core.fail = func(invoker string) error {
				if invoker == "b" {
					return silent()
				}
				return nil
			}
		}, nil, enforce.Allowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("a", "b")
				w.pass(time.Second)
				w.core.remove("a")
				c.witness(w)
				w.r.raise("a")
				w.wantCall("a", c.want)
			})
		})
	}
	t.Run("no witness, and the second read does not agree", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.known("a")
			reads := 0
			w.core.script(func(core *fakeCore) {
				core.fail = func(string) error {
					reads++
					if reads == 1 {
						return absent()
					}
					return nil
				}
			})
			w.r.raise("a")
			w.wantCall("a", enforce.Allowed)
		})
	})
	t.Run("first sight of one that never was, with a core that answers", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.known("b")
			w.wantCall("a", enforce.NotInContext)
		})
	})
}

func TestRequireOff(t *testing.T) {
	inWorld(t, func(w *world) {
		off := w.decides(enforce.ContextRule{})
		call := func() enforce.Reason { return off.Decide(w.t.Context(), "a", time.Now()).Reason }
		want := func(want enforce.Reason, when string) {
			t.Helper()
			if got := call(); got != want {
				t.Errorf("%s: got %v; want %v", when, got, want)
			}
		}
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		want(enforce.Allowed, "nothing known, core silent")
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.core.set("a")
		w.pass(time.Millisecond)
		want(enforce.Allowed, "never listed")
		w.core.set("a", entry)
		w.hint()
		want(enforce.Allowed, "listed")
		w.core.set("a")
		w.hint()
		want(enforce.NotInContext, "listed once and no longer")
		w.settle()

		// That it was listed survives a restart with a silent core.
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.restart()
		off = w.decides(enforce.ContextRule{})
		want(enforce.NotInContext, "after a restart")

		// And before the start has read what is stored, nobody gets in.
		w.r.Stop()
		w.r = New(w.store, w.alarms)
		w.r.Apply(&w.s)
		off = w.decides(enforce.ContextRule{})
		want(enforce.ContextUnknown, "before the start")
	})
}

func TestLikelyWrongAPIIDIsReportedOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", coreclient.Entry{AEFID: aef, APIID: "another"})
		for range 3 {
			w.wantCall("a", enforce.NotInContext)
		}
		if got := w.raised(alarm.LikelyWrongAPIID); got != 1 {
			t.Errorf("alarms: got %d; want 1", got)
		}
		detail := w.alarms.List()[0].Detail
		if !strings.Contains(detail, "another") || !strings.Contains(detail, api) {
			t.Errorf("detail: got %q; want both apiIds in it", detail)
		}
	})
	t.Run("until a context lists it", func(t *testing.T) {
		inWorld(t, func(w *world) {
			another := coreclient.Entry{AEFID: aef, APIID: "another"}
			w.core.set("a", another)
			w.core.set("b", another)
			w.wantCall("a", enforce.NotInContext)
			w.wantCall("b", enforce.NotInContext)
			w.core.set("b", another, entry)
			w.hint()
			w.wantCall("b", enforce.Allowed)
			if got := w.raised(alarm.LikelyWrongAPIID); got != 0 {
				t.Errorf("alarms: got %d; want 0", got)
			}
		})
	})
	t.Run("until the settings change, and then anew", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.core.set("a", coreclient.Entry{AEFID: aef, APIID: "another"})
			w.wantCall("a", enforce.NotInContext)
			w.r.Apply(&w.s)
			if got := w.raised(alarm.LikelyWrongAPIID); got != 0 {
				t.Errorf("alarms after a reload: got %d; want 0", got)
			}
			w.wantCall("a", enforce.NotInContext)
			if got := w.raised(alarm.LikelyWrongAPIID); got != 1 {
				t.Errorf("alarms of a call after it: got %d; want 1", got)
			}
		})
	})
	t.Run("anew after a change of settings, also where it was settled", func(t *testing.T) {
		inWorld(t, func(w *world) {
			another := coreclient.Entry{AEFID: aef, APIID: "another"}
			w.core.set("a", another)
			w.core.set("b", entry)
			w.wantCall("a", enforce.NotInContext)
			w.wantCall("b", enforce.Allowed) // its context settles the doubt
			w.r.Apply(&w.s)
			w.wantCall("a", enforce.NotInContext)
			if got := w.raised(alarm.LikelyWrongAPIID); got != 1 {
				t.Errorf("alarms after a reload: got %d; want 1", got)
			}
		})
	})
	t.Run("not where it was listed before", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.core.set("a", entry, coreclient.Entry{AEFID: aef, APIID: "another"})
			w.wantCall("a", enforce.Allowed)
			w.core.set("a", coreclient.Entry{AEFID: aef, APIID: "another"})
			w.hint()
			w.wantCall("a", enforce.NotInContext)
			if got := w.raised(alarm.LikelyWrongAPIID); got != 0 {
				t.Errorf("alarms: got %d; want 0", got)
			}
		})
	})
}

func TestMaxStalenessRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.decider.Store(w.decides(enforce.ContextRule{Require: true, MaxStaleness: 10 * time.Minute}))
		w.core.set("a", entry)
		w.wantCall("a", enforce.Allowed)
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.pass(9 * time.Minute)
		w.wantCall("a", enforce.Allowed)
		w.pass(2 * time.Minute)
		w.wantCall("a", enforce.ContextStale)
	})
}

func TestClaimThatComesWhileACallWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.set("a", entry)
		held, free := w.core.gate("a", nil)
		got := make(chan enforce.Reason)
		go func() { got <- w.call("a") }()
		held()
		w.memory.deny("a")
		free()
		if got := <-got; got != enforce.AuthorizationRevoked {
			t.Errorf("got %v; want %v", got, enforce.AuthorizationRevoked)
		}
	})
}

func TestForegroundReadsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.script(func(c *fakeCore) { c.latency = 100 * time.Millisecond })
		list := names(200)
		var calls sync.WaitGroup
		for _, invoker := range list {
			w.core.set(invoker, entry)
			calls.Go(func() { w.wantCall(invoker, enforce.Allowed) })
		}
		calls.Wait()
		if w.core.most != foregroundReads {
			t.Errorf("reads in flight: got %d; want %d", w.core.most, foregroundReads)
		}
		w.wantReads("", 0, len(list))
	})
}

// A hint that comes while a read stands in line makes that read no older.
func TestReadInLineServesAHintThatComesBeforeItBegins(t *testing.T) {
	inWorld(t, func(w *world) {
		w.core.script(func(c *fakeCore) { c.latency = 100 * time.Millisecond })
		list := names(foregroundReads + 1)
		var calls sync.WaitGroup
		for _, invoker := range list {
			w.core.set(invoker, entry)
			calls.Go(func() { w.wantCall(invoker, enforce.Allowed) })
		}
		synctest.Wait()
		waiting := slices.IndexFunc(list, func(i string) bool { return w.core.count(i) == 0 })
		if waiting < 0 {
			w.t.Fatal("got no read in line; want one")
		}
		w.hint(list[waiting])
		calls.Wait()
		w.wantCall(list[waiting], enforce.Allowed)
		w.wantReads(list[waiting], 0, 1)
	})
}

// A slow disk takes no place from reads.
func TestSlowDiskHoldsUpNoRead(t *testing.T) {
	inWorld(t, func(w *world) {
		stuck := make(chan struct{})
		w.memory.before = func(c revocation.Context) { <-stuck }
		list := names(3 * foregroundReads)
		for _, invoker := range list {
			w.core.set(invoker, entry)
			w.wantCall(invoker, enforce.Allowed)
		}
		close(stuck)
	})
}
