package revocation

import (
	"errors"
	"testing"
)

// read is a context as a read begun now brings it.
func read(l *Ledger, found bool, entries ...ContextEntry) Context {
	return Context{Invoker: "i", Found: found, Entries: entries, ReadSequence: l.Sequence()}
}

func mustApply(t *testing.T, l *Ledger, c Context, coreLift bool) []Claim {
	t.Helper()
	lifted, err := l.ApplyContext(t.Context(), c, coreLift)
	if err != nil {
		t.Fatalf("apply %+v: got %v; want no error", c, err)
	}
	return lifted
}

func TestCoreLiftNeedsAbsentThenListed(t *testing.T) {
	entry, other := ContextEntry{AEF: "aef", API: "api"}, ContextEntry{AEF: "aef", API: "other"}
	deny := Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}}
	type step func(t *testing.T, l *Ledger)
	reads := func(found, coreLift bool, entries ...ContextEntry) step {
		return func(t *testing.T, l *Ledger) { mustApply(t, l, read(l, found, entries...), coreLift) }
	}
	denyAgain := func(t *testing.T, l *Ledger) { mustDeny(t, l, deny) }
	tests := map[string]struct {
		steps []step
		want  bool // still denied
	}{
		"absent, listed":                    {[]step{reads(true, true, other), reads(true, true, entry)}, false},
		"listed only":                       {[]step{reads(true, true, entry), reads(true, true, entry)}, true},
		"absent only":                       {[]step{reads(true, true, other), reads(true, true)}, true},
		"404, listed":                       {[]step{reads(false, true), reads(true, true, entry)}, true},
		"core_lift off":                     {[]step{reads(true, false, other), reads(true, false, entry)}, true},
		"absent, revoked again, listed":     {[]step{reads(true, true, other), denyAgain, reads(true, true, entry)}, true},
		"listed elsewhere is not listed":    {[]step{reads(true, true, other), reads(true, true, other)}, true},
		"an entry for every API of its AEF": {[]step{reads(true, true, other), reads(true, true, ContextEntry{AEF: "aef"})}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			mustDeny(t, l, deny)
			for i, s := range test.steps {
				s(t, l)
				if i == 0 {
					l = reopen(t, l) // observations are durable
				}
			}
			for range 2 {
				if got := covered(l, "i"); got != test.want {
					t.Errorf("covered: got %v; want %v", got, test.want)
				}
				wantIndexFromClaims(t, l)
				l = reopen(t, l)
			}
		})
	}
}

// Schedule 12: the core revokes again while a read that still says "listed" is
// on its way.
func TestSchedule12ReadBegunBeforeTheRepeat(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	entry := ContextEntry{AEF: "aef", API: "api"}
	deny := Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}}
	mustDeny(t, l, deny)
	mustApply(t, l, read(l, true), true)
	late := read(l, true, entry)
	mustDeny(t, l, deny)
	if lifted := mustApply(t, l, late, true); len(lifted) != 0 || !covered(l, "i") {
		t.Errorf("got %v lifted; want the claim to stand", lifted)
	}
}

func TestCoreLiftOnAFailingDisk(t *testing.T) {
	for name, kind := range faults {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				mustDeny(t, l, Deny{Invoker: "i", AEF: "aef", APIs: []string{"api"}})
				mustApply(t, l, read(l, true), true)
				d.set(works, kind)
				listed := read(l, true, ContextEntry{AEF: "aef", API: "api"})
				_, err := l.ApplyContext(t.Context(), listed, true)
				if !errors.Is(err, ErrNotDurable) || !covered(l, "i") {
					t.Fatalf("got %v, covered %v; want %v and covered", err, covered(l, "i"), ErrNotDurable)
				}
				pass(2 * recoverInterval)
				if !covered(l, "i") || !covered(onDiskNow(t, l), "i") {
					t.Error("after recovery: got allowed; want denied")
				}
				if got := mustApply(t, l, listed, true); len(got) != 1 || covered(l, "i") {
					t.Errorf("applied again: got %v lifted; want the claim", got)
				}
			})
		})
	}
}

func TestOlderReadIsDropped(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	early := read(l, true, ContextEntry{AEF: "aef", API: "old"})
	mustDeny(t, l, Deny{Invoker: "someone"})
	mustApply(t, l, read(l, true, ContextEntry{AEF: "aef", API: "new"}), false)
	mustApply(t, l, early, false)
	l = reopen(t, l)
	var got []Context
	err := l.Contexts(func(c Context) { got = append(got, c) })
	if err != nil || len(got) != 1 || got[0].Invoker != "i" || !got[0].Lists("aef", "new") || got[0].Lists("aef", "old") {
		t.Errorf("got %+v, %v; want the later read", got, err)
	}
	err = l.ForgetContexts(t.Context(), []string{"i", "unknown"})
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	err = l.Contexts(func(c Context) { got = append(got, c) })
	if err != nil || len(got) != 0 {
		t.Errorf("got %+v, %v; want none", got, err)
	}
}
