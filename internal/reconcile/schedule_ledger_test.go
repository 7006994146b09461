package reconcile

import (
	"fmt"
	"testing"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// coreClaims counts the claims of the core on an invoker.
func coreClaims(t *testing.T, l *revocation.Ledger, invoker string) int {
	t.Helper()
	has, err := l.HasCoreClaim(invoker)
	if err != nil {
		t.Fatal(err)
	}
	if has {
		return 1
	}
	return 0
}

func denyAtLedger(t *testing.T, l *revocation.Ledger, invoker string) {
	t.Helper()
	err := l.Deny(t.Context(), revocation.Deny{Invoker: invoker, AEF: aef, APIs: []string{api}})
	if err != nil {
		t.Fatal(err)
	}
}

// reread has one invoker read anew and its word saved.
func (w *world) reread(invoker string) {
	w.t.Helper()
	w.hint(invoker)
	w.check(invoker)
	w.settle()
}

func TestSchedule12CoreRevokesAgainWhileAReadSaysListed(t *testing.T) {
	withLedger(t, func(w *world, l *revocation.Ledger) {
		w.known("a")
		denyAtLedger(w.t, l, "a")
		w.core.set("a")
		w.reread("a")
		w.core.set("a", entry)
		held, free := w.core.gate("a", nil)
		w.hint("a")
		held() // sampled "listed"
		w.core.set("a")
		denyAtLedger(w.t, l, "a")
		free()
		w.settle()
		if coreClaims(w.t, l, "a") != 1 {
			w.t.Error("claim: got lifted; want it to stand")
		}
		w.wantCall("a", enforce.AuthorizationRevoked)
	})
}

func TestSchedule12CoreRevokesOnceAndGrantsAgain(t *testing.T) {
	withLedger(t, func(w *world, l *revocation.Ledger) {
		w.known("a")
		denyAtLedger(w.t, l, "a")
		w.core.set("a")
		w.reread("a")
		if coreClaims(w.t, l, "a") != 1 {
			w.t.Error("absent only: got lifted; want it to stand")
		}
		w.core.set("a", entry)
		w.reread("a")
		if coreClaims(w.t, l, "a") != 0 {
			w.t.Error("absent, then listed: got it standing; want lifted")
		}
		w.wantCall("a", enforce.Allowed)
	})
}

func TestSchedule13CoreEmptiedThenRestored(t *testing.T) {
	for _, found := range []bool{false, true} {
		t.Run(fmt.Sprintf("contexts found %v", found), func(t *testing.T) {
			withLedger(t, func(w *world, l *revocation.Ledger) {
				list := names(20)
				w.known(list...)
				w.settle()
				empty := func() {
					for _, invoker := range list {
						if found {
							w.core.set(invoker)
						} else {
							w.core.remove(invoker)
						}
					}
				}
				empty()
				w.hint()
				w.settle()
				w.wantSuspended(true)
				// Of these claims, an emptied core is no absence.
				denyAtLedger(w.t, l, list[0])
				denyAtLedger(w.t, l, list[1])
				w.reread(list[0])
				w.reread(list[1])
				for _, invoker := range list {
					w.core.set(invoker, entry)
				}
				w.pass(3 * w.interval())
				w.wantSuspended(false)
				for _, invoker := range list[:2] {
					w.reread(invoker)
					if coreClaims(w.t, l, invoker) != 1 {
						w.t.Errorf("claim on %s: got lifted; want it to stand", invoker)
					}
				}
			})
		})
	}
}

func TestSchedule14CoreMayNotLift(t *testing.T) {
	withLedger(t, func(w *world, l *revocation.Ledger) {
		w.s.CoreLift = false
		w.r.Apply(&w.s)
		w.known("a")
		denyAtLedger(w.t, l, "a")
		w.core.set("a")
		w.reread("a")
		w.core.set("a", entry) // the invoker puts its context
		w.reread("a")
		if coreClaims(w.t, l, "a") != 1 {
			w.t.Error("claim: got lifted; want it to stand")
		}
		w.wantCall("a", enforce.AuthorizationRevoked)
	})
}

func TestSchedule27LedgerDeletedCoreIntact(t *testing.T) {
	withLedger(t, func(w *world, l *revocation.Ledger) {
		w.known("a", "b")
		w.core.set("a")
		w.core.remove("gone")
		w.reread("a")
		w.wantCall("a", enforce.NotInContext)
		w.r.Stop()
		err := l.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		empty := revocation.NewLedger(l.Path() + ".new")
		err = empty.Open(revocation.Options{Logger: w.s.Logger})
		if err != nil {
			w.t.Fatal(err)
		}
		w.store = empty
		w.core.script(func(c *fakeCore) { c.fail = func(string) error { return silent() } })
		w.restart()
		w.wantCall("a", enforce.ContextUnknown)
		w.wantCall("b", enforce.ContextUnknown)
		w.core.script(func(c *fakeCore) { c.fail = nil })
		w.wantCall("a", enforce.NotInContext)
		w.wantCall("gone", enforce.NotInContext)
		w.wantCall("b", enforce.Allowed)
		if n := w.raised(alarm.MassChangeSuspended); n != 0 {
			w.t.Errorf("mass changes: got %d; want 0", n)
		}
	})
}
