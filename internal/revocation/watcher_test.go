package revocation

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
)

// recordingWatcher notes, for one API invoker, how often it was told, and what a
// call that is judged then would find.
type recordingWatcher struct {
	ledger *Ledger
	token  Digest
	epoch  uint64 // before the change
	told   atomic.Int64
	early  atomic.Int64 // told before the deny could be found
}

func (w *recordingWatcher) Changed(invoker string) {
	w.told.Add(1)
	if w.ledger.Covering(invoker, "aef", []string{"api"}, w.token) == CoverNone || w.ledger.Epoch(invoker).Load() == w.epoch {
		w.early.Add(1)
	}
}

// TestWatcherIsToldOfEveryDeny: once lookups show it, also where the disk fails;
// and of no lift.
func TestWatcherIsToldOfEveryDeny(t *testing.T) {
	noHold := Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X"}
	hold := noHold
	hold.Hold = true
	for _, test := range []struct {
		name  string
		token Digest
		// before is what happens before the watcher counts.
		before func(t *testing.T, l *Ledger)
		deny   func(ctx context.Context, l *Ledger) error
	}{
		{name: "core", deny: func(ctx context.Context, l *Ledger) error {
			return l.Deny(ctx, Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}})
		}},
		{name: "all APIs", deny: func(ctx context.Context, l *Ledger) error { return l.Deny(ctx, Deny{Invoker: "i"}) }},
		{name: "token", token: someToken, deny: func(ctx context.Context, l *Ledger) error {
			return l.Deny(ctx, Deny{Invoker: "i", APIs: []string{"api"}, Token: someToken})
		}},
		{name: "trigger with hold", deny: func(ctx context.Context, l *Ledger) error {
			_, err := l.Trigger(ctx, hold)
			return err
		}},
		{name: "decision without hold", before: func(t *testing.T, l *Ledger) { mustTrigger(t, l, noHold) },
			deny: func(ctx context.Context, l *Ledger) error {
				_, err := l.Record(ctx, 1, Progress{State: StateRevoked})
				return err
			}},
	} {
		for _, failing := range []bool{false, true} {
			name := test.name
			if failing {
				name += ", failing disk"
			}
			t.Run(name, func(t *testing.T) {
				l := NewLedger(ledgerPath(t))
				w := &recordingWatcher{ledger: l, token: test.token}
				l.SetWatcher(w)
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
				t.Cleanup(func() { _ = l.Close() }) // says what the disk refused
				if test.before != nil {
					test.before(t, l)
				}
				if got := w.told.Load(); got != 0 {
					t.Fatalf("told %d times before the deny; want 0", got)
				}
				w.epoch = l.Epoch("i").Load()
				refuse.Store(failing)
				err = test.deny(t.Context(), l)
				if failing != errors.Is(err, ErrNotDurable) {
					t.Fatalf("got %v; want an error only on a failing disk", err)
				}
				if w.told.Load() == 0 || w.early.Load() != 0 {
					t.Errorf("told %d times, %d before it could be found; want at least once, and never early", w.told.Load(), w.early.Load())
				}
				if failing {
					return
				}
				told := w.told.Load()
				mustLift(t, l, Lift{Invoker: "i"})
				if got := w.told.Load(); got != told {
					t.Errorf("told %d times of a lift; want 0", got-told)
				}
			})
		}
	}
}
