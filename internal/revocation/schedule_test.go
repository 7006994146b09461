package revocation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// The tests below are orders of events that broke earlier wordings of the
// rules, each forced step by step.

// faults are the two ways in which a commit can be answered with an error.
var faults = map[string]fault{"nothing reached the disk": refuses, "all of it reached the disk": lands}

// onDiskNow opens a copy of the file as a kill -9 at this moment would leave it.
func onDiskNow(t *testing.T, l *Ledger) *Ledger {
	t.Helper()
	content, err := os.ReadFile(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	path := ledgerPath(t)
	err = os.WriteFile(path, content, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return openLedger(t, path, Options{MustExist: true})
}

// inBubble runs a test with an open ledger on a disk of the test's in a
// synctest bubble.
func inBubble(t *testing.T, f func(t *testing.T, l *Ledger, d *disk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		f(t, openLedger(t, ledgerPath(t), Options{WrapCommit: d.wrap}), d)
	})
}

func TestSchedule15LiftWhileARequestIsInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, _ *disk) {
		q := &recordingQueue{}
		err := l.SetQueue(q)
		if err != nil {
			t.Fatal(err)
		}
		r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X", Hold: true})[0]
		mustRecord(t, l, r.Sequence, Progress{ListedSent: true}) // the request leaves
		mustLift(t, l, Lift{Invoker: "i"})
		after := mustRecord(t, l, r.Sequence, Progress{NextAttempt: time.Now().Add(time.Second), Answer: &Answer{Detail: "timeout"}})
		if after.State != StateCancelled || !after.NextAttempt.IsZero() || l.IsPending(r.Sequence) {
			t.Errorf("got %+v; want cancelled and never due again", after)
		}
		if got := q.sequences(); len(got) != 1 {
			t.Errorf("queued: got %v; want it once, from the trigger", got)
		}
		for _, l := range []*Ledger{l, onDiskNow(t, l)} {
			refs, err := l.Pending()
			if err != nil || len(refs) != 0 || covered(l, "i") {
				t.Errorf("got pending %v, %v, covered %v; want nothing left", refs, err, covered(l, "i"))
			}
		}
	})
}

func TestSchedule16NoHoldLiftThenLateRevoked(t *testing.T) {
	trigger := Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X"}
	revoked := Progress{State: StateRevoked}
	tests := map[string]func(t *testing.T, l *Ledger, d *disk, r Revocation){
		"one after the other": func(t *testing.T, l *Ledger, _ *disk, r Revocation) {
			mustLift(t, l, Lift{Invoker: "i"})
			mustRecord(t, l, r.Sequence, revoked)
		},
		"in one batch": func(t *testing.T, l *Ledger, d *disk, r Revocation) {
			inOneBatch(t, l, d,
				func() { mustLift(t, l, Lift{Invoker: "i"}) },
				func() { mustRecord(t, l, r.Sequence, revoked) })
		},
		"in one batch, the lift last": func(t *testing.T, l *Ledger, d *disk, r Revocation) {
			inOneBatch(t, l, d,
				func() { mustRecord(t, l, r.Sequence, revoked) },
				func() { mustLift(t, l, Lift{Invoker: "i"}) })
		},
	}
	for name, happen := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				r := mustTrigger(t, l, trigger)[0]
				happen(t, l, d, r)
				for _, l := range []*Ledger{l, onDiskNow(t, l)} {
					if covered(l, "i") || len(claims(t, l, "i")) != 0 {
						t.Errorf("got claims %v; want none", claims(t, l, "i"))
					}
				}
			})
		})
	}
}

func TestSchedule17KilledAfterTheRequestLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, _ *disk) {
		r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
		mustRecord(t, l, r.Sequence, Progress{ListedSent: true})
		restarted := onDiskNow(t, l)
		got, err := restarted.RevocationBySequence(r.Sequence)
		if err != nil || !got.Listed || !got.Sent || !restarted.IsPending(r.Sequence) {
			t.Errorf("got %+v, %v; want it pending and known as listed and sent", got, err)
		}
	})
}

func TestSchedule18LiftOldDenyNewInOneBatch(t *testing.T) {
	deny := Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}}
	trigger := Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true}
	tests := map[string]func(*testing.T, *Ledger){
		"denied by the core": func(t *testing.T, l *Ledger) { mustDeny(t, l, deny) },
		"triggered here":     func(t *testing.T, l *Ledger) { mustTrigger(t, l, trigger) },
	}
	for name, again := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				mustDeny(t, l, deny)
				inOneBatch(t, l, d,
					func() { mustLift(t, l, Lift{Invoker: "i"}) },
					func() { again(t, l) })
				for _, l := range []*Ledger{l, onDiskNow(t, l)} {
					if !covered(l, "i") {
						t.Error("got allowed; want the new deny to stand")
					}
					wantIndexFromClaims(t, l)
				}
				mustLift(t, l, Lift{Invoker: "i"})
				if covered(l, "i") {
					t.Error("after a later lift: got denied; want allowed")
				}
			})
		})
	}
}

func TestSchedule19RetryAfterAFailedSync(t *testing.T) {
	for name, kind := range faults {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				deny := Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}}
				d.set(works, kind)
				err := l.Deny(t.Context(), deny)
				if !errors.Is(err, ErrNotDurable) || !covered(l, "i") {
					t.Fatalf("got %v, covered %v; want %v and covered", err, covered(l, "i"), ErrNotDurable)
				}
				for tries := 0; ; tries++ {
					err := l.Deny(t.Context(), deny)
					if err == nil {
						break
					}
					if !errors.Is(err, ErrNotDurable) || tries > 20 {
						t.Fatalf("try %d: got %v; want %v, and success in the end", tries, err, ErrNotDurable)
					}
					pass(100 * time.Millisecond)
				}
				if restarted := onDiskNow(t, l); !covered(restarted, "i") {
					t.Error("killed after the acknowledgement: got allowed; want denied")
				}
			})
		})
	}
}

func TestSchedule20RepeatWhileALiftIsQueued(t *testing.T) {
	deny := Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}}
	for _, liftLast := range []bool{false, true} {
		t.Run(fmt.Sprintf("lift last %v", liftLast), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				mustDeny(t, l, deny)
				lift := func() { mustLift(t, l, Lift{Invoker: "i"}) }
				repeat := func() { mustDeny(t, l, deny) }
				if liftLast {
					inOneBatch(t, l, d, repeat, lift)
				} else {
					inOneBatch(t, l, d, lift, repeat)
				}
				for _, l := range []*Ledger{l, onDiskNow(t, l)} {
					if got := covered(l, "i"); got == liftLast {
						t.Errorf("covered: got %v; want %v", got, !liftLast)
					}
				}
			})
		})
	}
}

func TestSchedule21LiftOnAFailingDisk(t *testing.T) {
	for name, kind := range faults {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				mustDeny(t, l, Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}})
				r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})[0]
				before := claims(t, l, "i")
				d.set(works, kind)
				_, err := l.Lift(t.Context(), Lift{Invoker: "i"})
				if !errors.Is(err, ErrNotDurable) || !l.Failing() {
					t.Fatalf("got %v, failing %v; want %v", err, l.Failing(), ErrNotDurable)
				}
				want := func(moment string, l *Ledger) {
					t.Helper()
					if !covered(l, "i") || !l.IsPending(r.Sequence) {
						t.Errorf("%s: got covered %v, pending %v; want both", moment, covered(l, "i"), l.IsPending(r.Sequence))
					}
				}
				want("at once", l)
				pass(3 * recoverInterval)
				if l.Failing() {
					t.Fatal("got still failing; want recovered")
				}
				want("after recovery", l)
				after := claims(t, l, "i")
				if len(after) != len(before) {
					t.Errorf("got %v; want %v", after, before)
				}
				want("killed after recovery", onDiskNow(t, l))
				mustLift(t, l, Lift{Invoker: "i"})
				if covered(l, "i") {
					t.Error("lifted again: got denied; want allowed")
				}
			})
			// The program ends before the disk was tried again.
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				mustDeny(t, l, Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}})
				d.set(works, kind)
				_, err := l.Lift(context.Background(), Lift{Invoker: "i"})
				if !errors.Is(err, ErrNotDurable) {
					t.Fatalf("got %v; want %v", err, ErrNotDurable)
				}
				if l = reopen(t, l); !covered(l, "i") {
					t.Error("closed at once and opened again: got allowed; want denied")
				}
			})
		})
	}
}
