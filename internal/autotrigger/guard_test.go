package autotrigger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// ledger counts what reaches the real one, and can fail or hang before it.
type ledger struct {
	*revocation.Ledger
	mu     sync.Mutex
	made   []revocation.Trigger
	fail   error
	blocks chan struct{}
	// between runs once, after a question has found nothing denied.
	between func()
}

func (l *ledger) Covering(invoker, aef string, apis []string, token revocation.Digest) revocation.Cover {
	cover := l.Ledger.Covering(invoker, aef, apis, token)
	l.mu.Lock()
	between := l.between
	l.between = nil
	l.mu.Unlock()
	if between != nil {
		between()
	}
	return cover
}

func (l *ledger) Trigger(ctx context.Context, t revocation.Trigger) ([]revocation.Revocation, error) {
	l.mu.Lock()
	l.made = append(l.made, t)
	fail, blocks := l.fail, l.blocks
	l.mu.Unlock()
	if blocks != nil {
		<-blocks
	}
	if fail != nil {
		return nil, fail
	}
	return l.Ledger.Trigger(ctx, t)
}

func (l *ledger) set(fail error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = fail
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.made)
}

type bed struct {
	*Guard
	t      *testing.T
	ledger *ledger
	alarms *alarm.Set
}

// newBed needs a synctest bubble.
func newBed(t *testing.T, perMinute int) *bed {
	t.Helper()
	l := &ledger{Ledger: revocation.NewLedger(filepath.Join(t.TempDir(), "ledger.db"))}
	quiet := slog.New(slog.DiscardHandler)
	err := l.Open(revocation.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, ledger: l, alarms: new(alarm.Set)}
	b.Guard = New(l, b.alarms)
	b.Apply(&Settings{PerMinute: perMinute, Logger: quiet})
	b.Start()
	t.Cleanup(func() {
		b.Stop()
		err := l.Close()
		if err != nil {
			t.Error(err)
		}
	})
	return b
}

func call(invoker string) Call {
	return Call{Invoker: invoker, AEF: "aef-a", APIs: []string{"8f36c0"}, Cause: "OVERLIMIT_USAGE",
		RequestedBy: "route location", Bound: true}
}

func (b *bed) want(c Call, want Outcome) {
	b.t.Helper()
	got := b.Request(c)
	if got != want {
		b.t.Fatalf("request for %s: got %v; want %v", c.Invoker, got, want)
	}
}

func (b *bed) wantMade(want int) {
	b.t.Helper()
	synctest.Wait()
	if got := b.ledger.count(); got != want {
		b.t.Fatalf("triggers at the ledger: got %v; want %v", got, want)
	}
}

func (b *bed) wantAlarms(want ...alarm.Name) {
	b.t.Helper()
	synctest.Wait()
	var got []alarm.Name
	for _, a := range b.alarms.List() {
		got = append(got, a.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Fatalf("alarms: got %v; want %v", got, want)
	}
}

func (b *bed) lift(invoker string) {
	b.t.Helper()
	_, err := b.ledger.Lift(b.t.Context(), revocation.Lift{Invoker: invoker})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestOnceForAPairUntilLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		b.want(call("inv-1"), Accepted)
		b.want(call("inv-1"), Already) // on its way
		b.wantMade(1)
		b.want(call("inv-1"), Already) // denied
		other := call("inv-1")
		other.APIs = []string{"91b2d4"}
		b.want(other, Accepted)
		b.wantMade(2)
		all := call("inv-1")
		all.APIs = nil
		b.want(all, Accepted) // more than the two APIs
		other.APIs = []string{"c0ffee"}
		b.want(other, Already) // all APIs are on their way
		b.wantMade(3)
		b.want(other, Already)
		b.lift("inv-1")
		b.want(call("inv-1"), Accepted)
		b.wantMade(4)
		got := b.ledger.made[0]
		if got.Invoker != "inv-1" || got.AEF != "aef-a" || got.APIs[0] != "8f36c0" || got.Cause != "OVERLIMIT_USAGE" ||
			!got.Hold || got.RequestedBy != "route location" {
			t.Errorf("trigger: got %+v; want that of the call, with hold", got)
		}
		if got := b.Counts(); got[Accepted] != 4 || got[Already] != 4 {
			t.Errorf("counts: got %v; want 4 accepted, 4 already", got)
		}
	})
}

// TestOnceWhileTheWorkerIsQuicker: the same trigger is made and done between the
// two questions of a request.
func TestOnceWhileTheWorkerIsQuicker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		b.ledger.between = func() {
			b.want(call("inv-1"), Accepted)
			b.wantMade(1)
		}
		b.want(call("inv-1"), Already)
		b.wantMade(1)
	})
}

// TestClaimOfTheCore: what the core's echo denies is not triggered again.
func TestClaimOfTheCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		err := b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "inv-1", APIs: []string{"8f36c0"}, Cause: "OVERLIMIT_USAGE"})
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			b.want(call("inv-1"), Already)
		}
		b.wantMade(0)
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 3)
		for i := range 3 {
			b.want(call(fmt.Sprintf("a%d", i)), Accepted)
			<-time.After(10 * time.Second)
		}
		b.want(call("b1"), BudgetSpent) // 30 s
		b.want(call("a0"), Already)     // costs nothing
		b.wantAlarms(alarm.AutomaticTriggersSpent)
		b.Apply(&Settings{PerMinute: 3, Logger: slog.New(slog.DiscardHandler)}) // a reload
		b.want(call("b1"), BudgetSpent)
		<-time.After(29999 * time.Millisecond)
		b.want(call("b1"), BudgetSpent) // 1 ms before the edge
		<-time.After(time.Millisecond)
		b.want(call("b1"), Accepted) // a0 is a minute ago
		b.want(call("b2"), BudgetSpent)
		b.wantMade(4)
		<-time.After(59 * time.Second)
		b.wantAlarms(alarm.AutomaticTriggersSpent)
		<-time.After(2 * time.Second)
		b.wantAlarms() // a minute after the last refusal
		for i := range 3 {
			b.want(call(fmt.Sprintf("c%d", i)), Accepted)
		}
		b.want(call("c3"), BudgetSpent)
		b.wantAlarms(alarm.AutomaticTriggersSpent)
	})
}

// TestNeverMoreThanTheBudgetInAnyMinute asks for ten minutes without a pause.
func TestNeverMoreThanTheBudgetInAnyMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		var accepted []time.Time
		for i := range 10 * 60 * 10 {
			if b.Request(call(fmt.Sprintf("inv-%d", i))) == Accepted {
				accepted = append(accepted, time.Now())
			}
			<-time.After(100 * time.Millisecond)
		}
		if len(accepted) != 600 {
			t.Errorf("accepted in 10 minutes: got %v; want 600", len(accepted))
		}
		for i := 60; i < len(accepted); i++ {
			if span := accepted[i].Sub(accepted[i-60]); span < time.Minute {
				t.Fatalf("61 were accepted within %v; want at most 60 in a minute", span)
			}
		}
		b.wantMade(600)
	})
}

func TestNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 0)
		b.want(call("inv-1"), BudgetSpent)
		b.wantMade(0)
		b.wantAlarms(alarm.AutomaticTriggersSpent)
	})
}

// TestStorm: a rule that hits every call of 1,000 invokers, from many goroutines.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := range 10_000 {
					b.Request(call(fmt.Sprintf("inv-%d", (i+worker*125)%1000)))
				}
			})
		}
		all.Wait()
		b.wantMade(60)
		counts := b.Counts()
		if counts[Accepted] != 60 || counts[Accepted]+counts[Already]+counts[BudgetSpent] != 80_000 || counts[Already] < 60 {
			t.Errorf("counts: got %v; want 60 accepted of 80000", counts)
		}
		if a := b.alarms.List(); len(a) != 1 || a[0].Count != 1 {
			t.Errorf("alarms: got %v; want one, raised once", a)
		}
		if len(b.onWay) != 0 || len(b.queue) != 0 || len(b.budget.accepted) != 60 {
			t.Errorf("kept: got %d, %d, %d; want nothing but the minute", len(b.onWay), len(b.queue), len(b.budget.accepted))
		}
	})
}

func TestUnboundAndNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		c := call("inv-1")
		c.Bound = false
		b.want(c, Unbound)
		b.want(Call{AEF: "aef-a", APIs: []string{"8f36c0"}, Cause: "x", Bound: true, AllowUnbound: true}, NoInvoker)
		b.wantMade(0)
		c.AllowUnbound = true
		b.want(c, Accepted)
		b.wantMade(1)
	})
}

func TestDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 2)
		dry := func(invoker string) Call {
			c := call(invoker)
			c.DryRun = true
			return c
		}
		b.want(dry("inv-1"), DryRun)
		b.want(dry("inv-1"), Already) // it would be
		b.want(dry("inv-2"), DryRun)
		b.want(dry("inv-3"), BudgetSpent)
		b.wantMade(0)
		b.wantAlarms() // nothing was withheld
		b.want(call("inv-1"), Accepted)
		b.want(call("inv-2"), Accepted) // the budget of real ones is untouched
		b.wantMade(2)
		<-time.After(time.Hour)
		b.Apply(&Settings{PerMinute: MaxPerMinute, Logger: slog.New(slog.DiscardHandler)})
		for i := range 2 * rememberedDry {
			b.want(dry(fmt.Sprintf("many-%d", i)), DryRun)
			if len(b.drySeen) > rememberedDry {
				t.Fatalf("remembered: got %v pairs; want at most %v", len(b.drySeen), rememberedDry)
			}
		}
	})
}

func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, MaxPerMinute)
		b.ledger.blocks = make(chan struct{})
		b.want(call("first"), Accepted)
		synctest.Wait() // the worker has it, and hangs
		for i := range QueueSize {
			b.want(call(fmt.Sprintf("inv-%d", i)), Accepted)
		}
		b.want(call("late"), QueueFull)
		b.wantAlarms(alarm.AutomaticTriggerFailed)
		close(b.ledger.blocks)
		b.wantMade(QueueSize + 1)
		b.wantAlarms()
		b.want(call("late"), Accepted)
		b.wantMade(QueueSize + 2)
	})
}

func TestFailingLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 3)
		b.ledger.set(revocation.ErrNotReady)
		b.want(call("inv-1"), Accepted)
		b.wantMade(1)
		b.wantAlarms(alarm.AutomaticTriggerFailed)
		b.ledger.set(nil)
		b.want(call("inv-1"), Accepted) // the next call asks again
		b.wantMade(2)
		b.wantAlarms()
		if got := b.Counts(); got[Failed] != 1 || got[Accepted] != 2 {
			t.Errorf("counts: got %v; want 2 accepted, 1 failed", got)
		}
		// What is refused as invalid changes nothing and costs no budget.
		for range 100 {
			b.want(call(strings.Repeat("x", revocation.MaxIDBytes+1)), Accepted)
			synctest.Wait()
		}
		b.want(call("inv-2"), Accepted)
	})
}

func TestRequestAndWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		ask := func(invoker string, ctx context.Context, want Outcome, wantErr error) {
			t.Helper()
			got, err := b.RequestAndWait(ctx, call(invoker))
			if got != want || !errors.Is(err, wantErr) {
				t.Errorf("request for %s: got %v, %v; want %v, %v", invoker, got, err, want, wantErr)
			}
		}
		ask("inv-1", t.Context(), Accepted, nil)
		if got := b.ledger.Covering("inv-1", "aef-a", []string{"8f36c0"}, revocation.Digest{}); got != revocation.CoverAuthorization {
			t.Errorf("covering after the wait: got %v; want it denied", got)
		}
		ask("inv-1", t.Context(), Already, nil)
		b.ledger.set(revocation.ErrNotDurable)
		ask("inv-2", t.Context(), Failed, revocation.ErrNotDurable)
		b.ledger.set(nil)

		hang := make(chan struct{})
		b.ledger.mu.Lock()
		b.ledger.blocks = hang
		b.ledger.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ask("inv-3", ctx, Accepted, context.DeadlineExceeded)
		var same sync.WaitGroup
		same.Go(func() { ask("inv-3", t.Context(), Already, nil) }) // waits for the one on its way
		synctest.Wait()
		close(hang)
		same.Wait()
	})
}

// TestStop: what was accepted before is handed over, nothing is accepted after.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		for i := range 60 {
			b.want(call(fmt.Sprintf("inv-%d", i)), Accepted)
		}
		b.Stop()
		b.wantMade(60)
		b.want(call("late"), Failed)
		if got, err := b.RequestAndWait(t.Context(), call("late")); got != Failed || !errors.Is(err, errStopped) {
			t.Errorf("request after the stop: got %v, %v; want %v, %v", got, err, Failed, errStopped)
		}
		if got := New(b.ledger, b.alarms).Request(call("early")); got != Failed {
			t.Errorf("request before the start: got %v; want %v", got, Failed)
		}
	})
}

// TestTextsFromRequests: a reason can hold anything a request held.
func TestTextsFromRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 60)
		c := call("inv-1")
		c.Reason = "asked for \xff\xfe" + strings.Repeat("é", 5000)
		b.want(c, Accepted)
		b.wantMade(1)
		b.wantAlarms()
		got, _, err := b.ledger.Revocations(revocation.RevocationQuery{Invoker: "inv-1"})
		if err != nil || len(got) != 1 || !strings.HasPrefix(got[0].Reason, "asked for é") || len(got[0].Reason) > maxText {
			t.Errorf("got %v, %v; want one revocation with the reason cut", got, err)
		}
	})
}

func TestOutcomes(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Outcomes() {
		if o.String() == "" || seen[o.String()] {
			t.Errorf("outcome %d: got the name %q; want one of its own", o, o)
		}
		seen[o.String()] = true
	}
	if got := Outcome(200).String(); got != "unknown" {
		t.Errorf("got %v; want unknown", got)
	}
}
