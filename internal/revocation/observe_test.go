package revocation

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestObserverIsToldOnce: of each step when it is durable, of no repeat, and once
// of what a failing disk took only later.
func TestObserverIsToldOnce(t *testing.T) { synctest.Test(t, observe) }

func observe(t *testing.T) {
	l := NewLedger(ledgerPath(t))
	steps := make(chan Step, 100)
	l.SetObserver(func(s Step) { steps <- s })
	var refuse atomic.Bool
	err := l.Open(Options{Logger: slog.New(slog.DiscardHandler), WrapCommit: func(commit func() error) error {
		if refuse.Load() {
			return errDisk
		}
		return commit()
	}})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { must(l.Close()) })
	want := func(what string, states ...Step) {
		t.Helper()
		var got []Step
		for range len(steps) {
			s := <-steps
			if s.Took < 0 || (s.State == StatePending && s.Took != 0) || s.Took > time.Minute {
				t.Errorf("%s: got %s; want the time from the trigger", what, s.Took)
			}
			s.Took = 0
			got = append(got, s)
		}
		if !slices.Equal(got, states) {
			t.Errorf("%s: got %+v; want %+v", what, got, states)
		}
	}
	trigger := Trigger{Invoker: "i", AEF: "aef", APIs: []string{"a", "b"}, Cause: "X", Source: SourceRoute}
	made := mustTrigger(t, l, trigger)
	pending := Step{Source: SourceRoute, Cause: "X", State: StatePending}
	want("trigger", pending, pending)
	mustTrigger(t, l, trigger)
	want("repeat")
	_, err = l.Record(t.Context(), made[0].Sequence, Progress{NextAttempt: time.Now()})
	must(err)
	want("attempt")
	for range 2 {
		_, err = l.Record(t.Context(), made[0].Sequence, Progress{State: StateRevoked})
		must(err)
	}
	want("decision", Step{Source: SourceRoute, Cause: "X", State: StateRevoked})
	mustLift(t, l, Lift{Invoker: "i"})
	want("lift", Step{Source: SourceRoute, Cause: "X", State: StateCancelled})
	deny := Deny{Invoker: "i", APIs: []string{"a", "b"}, Cause: "Y"}
	denied := Step{Source: SourceCore, Cause: "Y", State: StateDenied}
	must(l.Deny(t.Context(), deny))
	must(l.Deny(t.Context(), deny))
	want("core", denied, denied)

	refuse.Store(true)
	if _, err := l.Trigger(t.Context(), Trigger{Invoker: "j", AEF: "aef", Cause: "X"}); err == nil {
		t.Error("got no error on a failing disk; want one")
	}
	want("failing disk")
	refuse.Store(false)
	pass(recoverInterval) // the writer's own time to try again
	must(l.Deny(t.Context(), deny))
	want("disk works again", Step{Source: SourceOperator, Cause: "X", State: StatePending})
}
