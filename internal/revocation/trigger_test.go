package revocation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTriggerRecordsOneRevocationForEachAPI(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	yes := true
	made := mustTrigger(t, l, Trigger{
		Invoker: "i", AEF: "a", APIs: []string{"2", "1"}, AllAEFs: &yes, Cause: "OVERLIMIT_USAGE",
		Reason: "line one\nline two", Ticket: "T-1", RequestedBy: "operator", Hold: true,
	})
	if len(made) != 2 || made[0].APIID != "1" || made[1].APIID != "2" {
		t.Fatalf("got %+v; want one for 1 and one for 2", made)
	}
	all := mustTrigger(t, l, Trigger{Invoker: "j", AEF: "a", Cause: "X"})
	if len(all) != 1 || !all[0].AllAPIs || all[0].APIID != "" {
		t.Errorf("got %+v; want one for all APIs", all)
	}
	l = reopen(t, l)
	for _, r := range append(made, all...) {
		got, err := l.Revocation(r.ID)
		if err != nil || got.Sequence != r.Sequence || got.State != StatePending || got.Cause != r.Cause || got.Reason != r.Reason ||
			got.Ticket != r.Ticket || got.RequestedBy != r.RequestedBy || got.Hold != r.Hold || (got.AllAEFs == nil) != (r.AllAEFs == nil) ||
			got.AEFID != "a" || !got.CreatedAt.Equal(r.CreatedAt) {
			t.Errorf("got %+v, %v; want %+v", got, err, r)
		}
		if !l.IsPending(r.Sequence) {
			t.Errorf("%s: got not pending; want pending", r.ID)
		}
	}
	wantCover(t, l, "i", "a", "1", Digest{}, CoverAuthorization)
	wantCover(t, l, "i", "b", "1", Digest{}, CoverNone)
	wantCover(t, l, "j", "a", "1", Digest{}, CoverNone) // no hold
}

func TestTriggerMergesOnlyWithAnEqualPendingOne(t *testing.T) {
	yes, no, alsoYes := true, false, true
	base := Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, AllAEFs: &yes, Cause: "X", Reason: "r", Ticket: "t", RequestedBy: "one"}
	with := func(change func(*Trigger)) Trigger {
		trigger := base
		change(&trigger)
		return trigger
	}
	tests := map[string]struct {
		second Trigger
		same   bool
	}{
		"equal":                {base, true},
		"equal, not identical": {with(func(t *Trigger) { t.AllAEFs = &alsoYes }), true},
		"another person":       {with(func(t *Trigger) { t.RequestedBy = "two" }), true},
		"hold set":             {with(func(t *Trigger) { t.Hold = true }), true},
		"another API":          {with(func(t *Trigger) { t.APIs = []string{"2"} }), false},
		"all APIs":             {with(func(t *Trigger) { t.APIs = nil }), false},
		"another aefId":        {with(func(t *Trigger) { t.AEF = "b" }), false},
		"another invoker":      {with(func(t *Trigger) { t.Invoker = "j" }), false},
		"another cause":        {with(func(t *Trigger) { t.Cause = "Y" }), false},
		"another reason":       {with(func(t *Trigger) { t.Reason = "s" }), false},
		"another ticket":       {with(func(t *Trigger) { t.Ticket = "u" }), false},
		"all_aefs false":       {with(func(t *Trigger) { t.AllAEFs = &no }), false},
		"all_aefs absent":      {with(func(t *Trigger) { t.AllAEFs = nil }), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			first := mustTrigger(t, l, base)[0]
			l = reopen(t, l)
			second := mustTrigger(t, l, test.second)[0]
			if got := second.ID == first.ID; got != test.same {
				t.Errorf("same revocation: got %v; want %v", got, test.same)
			}
			want := 2
			if test.same {
				want = 1
			}
			if got := l.Stats().Pending; got != want {
				t.Errorf("pending: got %d; want %d", got, want)
			}
		})
	}
}

func TestHoldSetLaterBlocksThen(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	trigger := Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X"}
	first := mustTrigger(t, l, trigger)[0]
	wantCover(t, l, "i", "a", "1", Digest{}, CoverNone)
	trigger.Hold = true
	second := mustTrigger(t, l, trigger)[0]
	if second.ID != first.ID || !second.Hold {
		t.Errorf("got %+v; want the first, with hold", second)
	}
	trigger.Hold = false // a later one without hold takes nothing back
	third := mustTrigger(t, l, trigger)[0]
	if third.ID != first.ID || !third.Hold {
		t.Errorf("got %+v; want the first, with hold", third)
	}
	for range 2 {
		wantCover(t, l, "i", "a", "1", Digest{}, CoverAuthorization)
		all := claims(t, l, "i")
		if len(all) != 1 || all[0].Revocation != first.ID {
			t.Errorf("got %+v; want one claim of %s", all, first.ID)
		}
		l = reopen(t, l)
	}
}

func TestTriggerAfterADecisionIsANewOne(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	trigger := Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true}
	seen := map[string]bool{}
	for _, state := range []State{StateRevoked, StateUnconfirmed, StateNoAuthorizationFound, StateRejected, StateCancelled} {
		r := mustTrigger(t, l, trigger)[0]
		if seen[r.ID] {
			t.Fatalf("before %s: got %s again; want a new one", state, r.ID)
		}
		seen[r.ID] = true
		if state == StateCancelled {
			mustLift(t, l, Lift{Invoker: "i"})
		} else {
			mustRecord(t, l, r.Sequence, Progress{State: state})
		}
		if l.IsPending(r.Sequence) {
			t.Errorf("%s: got pending; want not", state)
		}
	}
}

func TestManyEqualTriggersAtOnceMakeOne(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	var mu sync.Mutex
	ids := map[string]int{}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			made, err := l.Trigger(t.Context(), Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "X", Hold: true})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range made {
				ids[r.ID]++
			}
		})
	}
	all.Wait()
	if len(ids) != 2 {
		t.Errorf("got %v; want two ids", ids)
	}
}

// recordingQueue notes what it is told.
type recordingQueue struct {
	mu   sync.Mutex
	refs []PendingRef
}

func (q *recordingQueue) Add(ref PendingRef) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refs = append(q.refs, ref)
}

func (q *recordingQueue) sequences() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []uint64
	for _, ref := range q.refs {
		out = append(out, ref.Sequence)
	}
	slices.Sort(out)
	return out
}

func TestQueueIsToldOfEveryPendingRevocation(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	old := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "X"})
	mustRecord(t, l, old[0].Sequence, Progress{State: StateRevoked})
	next := time.Now().Add(time.Hour).UTC()
	mustRecord(t, l, old[1].Sequence, Progress{NextAttempt: next})
	l = reopen(t, l)
	q := &recordingQueue{}
	err := l.SetQueue(q)
	if err != nil {
		t.Fatal(err)
	}
	if len(q.refs) != 1 || q.refs[0].Sequence != old[1].Sequence || q.refs[0].Invoker != "i" || !q.refs[0].Due.Equal(next) {
		t.Fatalf("got %+v; want the one still pending, due at %v", q.refs, next)
	}
	fresh := mustTrigger(t, l, Trigger{Invoker: "j", AEF: "a", Cause: "X"})[0]
	mustTrigger(t, l, Trigger{Invoker: "j", AEF: "a", Cause: "X", Hold: true}) // merged: nothing new
	if got, want := q.sequences(), []uint64{old[1].Sequence, fresh.Sequence}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestWaitDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		defer closeLedger(t, l)
		made := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "X"})
		sequences := []uint64{made[0].Sequence, made[1].Sequence, 999}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := l.WaitDecided(ctx, sequences)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nothing decided: got %v; want %v", err, context.DeadlineExceeded)
		}
		answered := make(chan error, 1)
		go func() { answered <- l.WaitDecided(t.Context(), sequences) }()
		mustRecord(t, l, made[0].Sequence, Progress{State: StateRevoked})
		synctest.Wait()
		if len(answered) != 0 {
			t.Error("one of two decided: got an answer; want none yet")
		}
		mustLift(t, l, Lift{Invoker: "i"})
		err = <-answered
		if err != nil {
			t.Errorf("all decided: got %v; want no error", err)
		}
		err = l.WaitDecided(t.Context(), sequences)
		if err != nil {
			t.Errorf("decided long ago: got %v; want no error", err)
		}
	})
}

var _ Queue = (*recordingQueue)(nil)
