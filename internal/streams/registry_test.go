package streams

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
)

func TestEndsTheDeniedAndNobodyElse(t *testing.T) {
	r, j := newRegistry(t), new(words)
	var log bytes.Buffer
	r.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	var mine []*Stream
	for range 100 {
		s, _ := open(t, r, j, "a", 0)
		mine = append(mine, s)
	}
	var asked atomic.Int64
	theirs := &words{asked: func() { asked.Add(1) }}
	var others []*Stream
	for i := range 1000 { // more than there are groups
		s, _ := open(t, r, theirs, fmt.Sprint("other ", i), 0)
		others = append(others, s)
	}
	otherAPI, _ := open(t, r, new(words), "a", 0)

	j.deny("a", enforce.AuthorizationRevoked)
	r.Changed("a")
	r.Settle()

	for i, s := range mine {
		if !isOver(s) || s.Close() != true {
			t.Errorf("call %d of the denied pair: got it in flight; want it ended", i)
		}
	}
	if got := asked.Load(); got != 1000 {
		t.Errorf("others were judged %d times; want once each, when they came", got)
	}
	for i, s := range append(others, otherAPI) {
		if isOver(s) {
			t.Errorf("other call %d: got it ended; want it in flight", i)
		}
	}
	stats := r.Stats()
	if stats.Open != 1001 || stats.Ended[enforce.AuthorizationRevoked] != 100 || stats.Ended[enforce.NotInContext] != 0 {
		t.Errorf("got %+v; want 1001 open, 100 ended", stats)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "calls=100") {
		t.Errorf("got %d lines, %s; want one for the whole batch", lines, &log)
	}
}

// A deny that comes between the decision and the registration finds no call; the
// call has to find the deny.
func TestOpenIsJudgedOnceItCanBeFound(t *testing.T) {
	r, j := newRegistry(t), new(words)
	j.asked = func() {
		if got := r.Stats().Open; got != 1 {
			t.Errorf("judged with %d calls registered; want 1", got)
		}
		j.deny("a", enforce.TokenRevoked)
	}
	s, request, reason := r.Open(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil),
		Call{Judge: j, Entry: &denycache.Entry{Invoker: "a"}})
	if s != nil || request != nil || reason != enforce.TokenRevoked {
		t.Errorf("got %v, %v, %v; want it refused", s, request, reason)
	}
	if got := r.Stats().Open; got != 0 {
		t.Errorf("got %d calls registered after a refusal; want 0", got)
	}
}

func TestALiftEndsNothing(t *testing.T) {
	r, j := newRegistry(t), new(words)
	s, request := open(t, r, j, "a", 0)
	r.Changed("a")
	r.Settle()
	if isOver(s) || request.Context().Err() != nil {
		t.Error("got the call ended; want it in flight: nothing denies it")
	}
}

func TestGrace(t *testing.T) {
	for _, test := range []struct {
		name  string
		then  func(r *Registry, j *words) // after 1 s of a grace of 2 s
		after time.Duration               // how long after that the call ends, 0 never
	}{
		{"ends after it", func(*Registry, *words) {}, time.Second},
		{"lifted meanwhile", func(_ *Registry, j *words) { j.lift("a") }, 0},
		{"lifted and denied again", func(r *Registry, j *words) {
			j.lift("a")
			j.deny("a", enforce.NotInContext)
			r.Changed("a")
		}, time.Second},
		{"stopped meanwhile", func(r *Registry, _ *words) { r.Stop() }, time.Nanosecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, j := New(), new(words)
				defer r.Stop()
				s, request := open(t, r, j, "a", 2*time.Second)
				defer s.Close()
				j.deny("a", enforce.AuthorizationRevoked)
				r.Changed("a")
				r.Settle()
				time.Sleep(time.Second) // of synctest
				synctest.Wait()
				if isOver(s) {
					t.Fatal("got the call ended within its grace; want it in flight")
				}
				test.then(r, j)
				begun := time.Now()
				select {
				case <-request.Context().Done():
					if got := time.Since(begun); test.after == 0 || got > test.after {
						t.Errorf("ended after %v; want %v", got, test.after)
					}
				case <-time.After(time.Hour):
					if test.after != 0 {
						t.Errorf("got the call in flight; want it ended after %v", test.after)
					}
				}
			})
		})
	}
}

// Denied, lifted, denied: the second deny must not be lost behind the grace of
// the first.
func TestDenyAfterAGraceThatWasLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, j := New(), new(words)
		defer r.Stop()
		s, _ := open(t, r, j, "a", time.Second)
		defer s.Close()
		j.deny("a", enforce.AuthorizationRevoked)
		r.Changed("a")
		r.Settle()
		j.lift("a")
		time.Sleep(2 * time.Second)
		j.deny("a", enforce.AuthorizationRevoked)
		r.Changed("a")
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !isOver(s) {
			t.Error("got the call in flight; want it ended after its second grace")
		}
	})
}

// A call in flight keeps the context of its API invoker awake: else a timer would
// no longer read it, and a revoke that only the context shows would not be seen.
func TestCallsInFlightCountAsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		r.Start()
		defer r.Stop()
		var times denycache.Times
		e := &denycache.Entry{Invoker: "a"}
		e.Follow(&times)
		s, _, _ := r.Open(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), Call{Judge: new(words), Entry: e})
		defer s.Close()
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if got := time.Since(time.Unix(times.Seen.Load(), 0)); got > 2*keepAlive {
			t.Errorf("last seen %v ago; want at most %v", got, 2*keepAlive)
		}
	})
}

func TestFewWorkers(t *testing.T) {
	r, j := newRegistry(t), new(words)
	const invokers = 1000
	for i := range invokers {
		open(t, r, j, fmt.Sprint(i), 0)
	}
	for i := range invokers {
		j.deny(fmt.Sprint(i), enforce.AuthorizationRevoked)
		r.Changed(fmt.Sprint(i))
		r.mu.Lock()
		if r.workers > maxWorkers {
			t.Errorf("got %d workers; want at most %d", r.workers, maxWorkers)
		}
		r.mu.Unlock()
	}
	r.Settle()
	if got := r.Stats().Ended[enforce.AuthorizationRevoked]; got != invokers {
		t.Errorf("got %d ended; want %d", got, invokers)
	}
}

// A revoke of somebody without a call in flight does no work.
func TestChangedCostsNothingWithoutCalls(t *testing.T) {
	r := newRegistry(t)
	if got := testing.AllocsPerRun(1000, func() { r.Changed("a") }); got != 0 || len(r.queued) != 0 {
		t.Errorf("got %v allocations and %d queued; want none", got, len(r.queued))
	}
}

// maxAllocs is the budget of a call in flight: its context, its request, its
// stream.
const maxAllocs = 5

func TestOpenAllocations(t *testing.T) {
	r, j := newRegistry(t), new(words)
	w, request, call := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), Call{Judge: j, Entry: &denycache.Entry{Invoker: "a"}}
	got := testing.AllocsPerRun(1000, func() {
		s, _, _ := r.Open(w, request, call)
		s.Close()
	})
	if got > maxAllocs {
		t.Errorf("got %v allocations; want at most %d", got, maxAllocs)
	}
}

// BenchmarkOpen is what a call costs more where calls in flight can be ended,
// with as many others in flight.
func BenchmarkOpen(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("inFlight=%d", others), func(b *testing.B) {
			r, j := New(), constant(enforce.Allowed)
			w, request := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
			for i := range others {
				s, _, _ := r.Open(w, request, Call{Judge: j, Entry: &denycache.Entry{Invoker: fmt.Sprint(i)}})
				defer s.Close()
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				call := Call{Judge: j, Entry: &denycache.Entry{Invoker: "a"}}
				for pb.Next() {
					s, _, _ := r.Open(w, request, call)
					s.Close()
				}
			})
			b.StopTimer()
		})
	}
}

type constant enforce.Reason

func (c constant) Again(*denycache.Entry) enforce.Reason { return enforce.Reason(c) }
