package revocation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestInvalidInputLeavesNothing(t *testing.T) {
	tooLong := strings.Repeat("x", MaxIDBytes+1)
	var tooMany []string
	for i := range maxAPIs + 1 {
		tooMany = append(tooMany, fmt.Sprint(i))
	}
	deny := func(d Deny) func(context.Context, *Ledger) error {
		return func(ctx context.Context, l *Ledger) error { return l.Deny(ctx, d) }
	}
	trigger := func(trigger Trigger) func(context.Context, *Ledger) error {
		trigger.Hold = true
		return func(ctx context.Context, l *Ledger) error {
			made, err := l.Trigger(ctx, trigger)
			if made != nil {
				return fmt.Errorf("got %v; want nothing made", made)
			}
			return err
		}
	}
	lift := func(lift Lift) func(context.Context, *Ledger) error {
		return func(ctx context.Context, l *Ledger) error {
			_, err := l.Lift(ctx, lift)
			return err
		}
	}
	tests := map[string]func(context.Context, *Ledger) error{
		"deny nobody":                       deny(Deny{}),
		"deny a name too long":              deny(Deny{Invoker: tooLong}),
		"deny a control character":          deny(Deny{Invoker: "i\n"}),
		"deny DEL":                          deny(Deny{Invoker: "i\x7f"}),
		"deny what is not UTF-8":            deny(Deny{Invoker: "i\xff"}),
		"deny aefId too long":               deny(Deny{Invoker: "i", AEF: tooLong}),
		"deny aefId with NUL":               deny(Deny{Invoker: "i", AEF: "a\x00"}),
		"deny good and empty apiId":         deny(Deny{Invoker: "i", APIs: []string{"1", ""}}),
		"deny good and long apiId":          deny(Deny{Invoker: "i", APIs: []string{"1", tooLong}}),
		"deny too many apiIds":              deny(Deny{Invoker: "i", APIs: tooMany}),
		"trigger nobody":                    trigger(Trigger{AEF: "a"}),
		"trigger without aefId":             trigger(Trigger{Invoker: "i"}),
		"trigger a control character":       trigger(Trigger{Invoker: "i", AEF: "a\t"}),
		"trigger good and bad apiId":        trigger(Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "\x01"}}),
		"trigger too many apiIds":           trigger(Trigger{Invoker: "i", AEF: "a", APIs: tooMany}),
		"trigger an endless cause":          trigger(Trigger{Invoker: "i", AEF: "a", Cause: strings.Repeat("x", maxTextBytes+1)}),
		"trigger a reason that is no UTF-8": trigger(Trigger{Invoker: "i", AEF: "a", Reason: "\xff"}),
		"lift nobody":                       lift(Lift{}),
		"lift a name too long":              lift(Lift{Invoker: tooLong}),
		"lift a bad aefId":                  lift(Lift{Invoker: "claimed", AEF: "\x00"}),
		"lift good and empty apiId":         lift(Lift{Invoker: "claimed", APIs: []string{"1", ""}}),
		"lift too many apiIds":              lift(Lift{Invoker: "claimed", APIs: tooMany}),
	}
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "claimed", APIs: []string{"1"}})
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			err := change(t.Context(), l)
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v; want %v", err, ErrInvalid)
			}
			if got := l.Stats(); got != (Stats{DeniedScopes: 1}) {
				t.Errorf("got %+v; want one denied scope and nothing else", got)
			}
		})
	}
	if got := claims(t, reopen(t, l), ""); len(got) != 1 || got[0].Invoker != "claimed" {
		t.Errorf("got %v; want the one claim", got)
	}
}

func TestNamesAtTheirLimits(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	longest := strings.Repeat("x", MaxIDBytes)
	d := Deny{Invoker: longest, AEF: longest, APIs: []string{longest}, Token: someToken, Cause: strings.Repeat("ü", maxTextBytes) + "\xff"}
	mustDeny(t, l, d)
	l = reopen(t, l)
	wantCover(t, l, longest, longest, longest, someToken, CoverToken)
	if got := claims(t, l, longest)[0].Cause; len(got) != maxTextBytes {
		t.Errorf("cause: got %d bytes; want it clipped to %d", len(got), maxTextBytes)
	}
	for _, odd := range []string{"größer", "\u2028", `"quoted"`, "a|b", "<&>", " "} {
		mustDeny(t, l, Deny{Invoker: odd})
		if got := mustLift(t, l, Lift{Invoker: odd}); len(got.Claims) != 1 || got.Claims[0].Invoker != odd || covered(l, odd) {
			t.Errorf("%q: got %+v; want its claim lifted", odd, got)
		}
	}
}

func TestNotReady(t *testing.T) {
	closed := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, closed, Deny{Invoker: "i"})
	closeLedger(t, closed)
	fresh := NewLedger(ledgerPath(t))
	for name, l := range map[string]*Ledger{"before open": fresh, "after close": closed} {
		ctx := t.Context()
		calls := map[string]func() error{
			"deny":                   func() error { return l.Deny(ctx, Deny{Invoker: "i"}) },
			"trigger":                func() error { _, err := l.Trigger(ctx, Trigger{Invoker: "i", AEF: "a"}); return err },
			"lift":                   func() error { _, err := l.Lift(ctx, Lift{Invoker: "i"}); return err },
			"record":                 func() error { _, err := l.Record(ctx, 1, Progress{}); return err },
			"claims":                 func() error { _, _, err := l.Claims(ClaimQuery{}); return err },
			"revocations":            func() error { _, _, err := l.Revocations(RevocationQuery{}); return err },
			"revocation":             func() error { _, err := l.Revocation("rv--1"); return err },
			"revocation by sequence": func() error { _, err := l.RevocationBySequence(1); return err },
			"pending":                func() error { _, err := l.Pending(); return err },
		}
		for call, f := range calls {
			t.Run(name+" "+call, func(t *testing.T) {
				err := f()
				if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), l.Path()) {
					t.Errorf("got %v; want %v and the path", err, ErrNotReady)
				}
			})
		}
		if l.Ready() {
			t.Errorf("%s: got ready; want not", name)
		}
		closeLedger(t, l) // idempotent
	}
	if !covered(closed, "i") {
		t.Error("after close: got allowed; want lookups to go on answering from memory")
	}
	if _, err := os.Stat(fresh.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a ledger never opened: got %v; want none", err)
	}
	err := closed.Open(Options{Logger: quiet()})
	if err == nil || closed.Ready() {
		t.Errorf("open after close: got %v; want an error", err)
	}
}

func TestCallerThatDoesNotWait(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := l.Deny(ctx, Deny{Invoker: "i"})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want %v, or none if it was done before", err, context.Canceled)
	}
	mustDeny(t, l, Deny{Invoker: "j"})
}
