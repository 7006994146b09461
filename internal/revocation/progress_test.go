package revocation

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestDecisionAndItsClaim(t *testing.T) {
	tests := []struct {
		state State
		hold  bool
		want  Cover
	}{
		{StateRevoked, true, CoverAuthorization},
		{StateUnconfirmed, true, CoverAuthorization},
		{StateNoAuthorizationFound, true, CoverAuthorization},
		{StateRejected, true, CoverAuthorization},
		{StateRevoked, false, CoverAuthorization},
		{StateUnconfirmed, false, CoverAuthorization},
		{StateNoAuthorizationFound, false, CoverAuthorization},
		{StateRejected, false, CoverNone},
		{StatePending, true, CoverAuthorization},
		{StatePending, false, CoverNone},
		{"", false, CoverNone},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s hold %v", test.state, test.hold), func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: test.hold})[0]
			got := mustRecord(t, l, r.Sequence, Progress{State: test.state})
			pending := test.state == "" || test.state == StatePending
			if pending != (got.State == StatePending) || pending != l.IsPending(r.Sequence) || pending != got.DecidedAt.IsZero() {
				t.Errorf("got %+v, pending %v; want pending %v", got, l.IsPending(r.Sequence), pending)
			}
			for range 2 {
				wantCover(t, l, "i", "a", "1", Digest{}, test.want)
				wantIndexFromClaims(t, l)
				l = reopen(t, l)
			}
			stored, err := l.RevocationBySequence(r.Sequence)
			if err != nil || stored.State != got.State || l.IsPending(r.Sequence) != pending {
				t.Errorf("after a reopen: got %+v, %v; want state %s", stored, err, got.State)
			}
		})
	}
}

func TestProgressIsDurable(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
	next := time.Now().Add(time.Minute).UTC()
	mustRecord(t, l, r.Sequence, Progress{ListedSent: true})
	mustRecord(t, l, r.Sequence, Progress{Confirmed: true, Answer: &Answer{At: next, Operation: "delete", Status: 204}})
	mustRecord(t, l, r.Sequence, Progress{NextAttempt: next})
	mustRecord(t, l, r.Sequence, Progress{NextAttempt: next, Confirmed: true})
	l = reopen(t, l)
	got, err := l.Revocation(r.ID)
	if err != nil || !got.Listed || !got.Sent || got.Confirmed != 2 || got.Attempts != 2 || !got.NextAttempt.Equal(next) ||
		len(got.Answers) != 1 || got.Answers[0].Status != 204 || got.State != StatePending {
		t.Errorf("got %+v, %v; want listed, sent, confirmed twice, two attempts, one answer", got, err)
	}
	decided := mustRecord(t, l, r.Sequence, Progress{State: StateRevoked})
	if !decided.NextAttempt.IsZero() {
		t.Errorf("next attempt of a decided one: got %v; want none", decided.NextAttempt)
	}
}

func TestLateAnswersAreOnlyRecorded(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X"})[0]
	mustLift(t, l, Lift{Invoker: "i"})
	late := mustRecord(t, l, r.Sequence, Progress{
		Answer: &Answer{Operation: "delete", Status: 204}, ListedSent: true, Confirmed: true,
		NextAttempt: time.Now(), State: StateRevoked,
	})
	if late.State != StateCancelled || len(late.Answers) != 1 || late.Sent || late.Confirmed != 0 || late.Attempts != 0 {
		t.Errorf("got %+v; want cancelled, with the answer and nothing else", late)
	}
	for range 2 {
		wantCover(t, l, "i", "a", "1", Digest{}, CoverNone)
		if got := claims(t, l, "i"); len(got) != 0 {
			t.Errorf("got %v; want no claim", got)
		}
		if l.IsPending(r.Sequence) {
			t.Error("got pending; want not")
		}
		l = reopen(t, l)
	}
}

func TestOnlyTheLastAnswersAreKept(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
	for status := range maxAnswers + 5 {
		mustRecord(t, l, r.Sequence, Progress{Answer: &Answer{Status: 100 + status}})
	}
	got, err := l.Revocation(r.ID)
	if err != nil || len(got.Answers) != maxAnswers || got.Answers[0].Status != 105 || got.Answers[maxAnswers-1].Status != 100+maxAnswers+4 {
		t.Errorf("got %+v, %v; want the last %d answers, oldest first", got.Answers, err, maxAnswers)
	}
}

func TestRecordRefuses(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
	tests := map[string]struct {
		sequence uint64
		state    State
		want     error
	}{
		"unknown revocation":            {r.Sequence + 1, StateRevoked, ErrNotFound},
		"unknown state":                 {r.Sequence, "done", ErrInvalid},
		"cancelled, which is no answer": {r.Sequence, StateCancelled, ErrInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := l.Record(t.Context(), test.sequence, Progress{State: test.state})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v; want %v", err, test.want)
			}
			if !l.IsPending(r.Sequence) || l.Failing() || covered(l, "i") {
				t.Error("got a changed ledger; want it as before")
			}
		})
	}
}
