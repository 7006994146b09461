package revocation

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"
)

var someCount = CountRef{Invoker: "i", AEF: "aef", API: "api"}

func mustReserve(tb testing.TB, l *Ledger, ref CountRef, c Count) Count {
	tb.Helper()
	stored, err := l.Reserve(tb.Context(), ref, c)
	if err != nil {
		tb.Fatalf("reserve %+v: got %v; want no error", c, err)
	}
	return stored
}

func wantCount(tb testing.TB, l *Ledger, ref CountRef, want Count) {
	tb.Helper()
	got, err := l.Count(ref)
	if err != nil || got != want {
		tb.Errorf("count of %v: got %+v, %v; want %+v", ref, got, err, want)
	}
}

func TestCounts(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	wantCount(t, l, someCount, Count{})
	for _, c := range []Count{{Reserved: 5}, {Reserved: 9}, {Reserved: 9, Exhausted: true}, {Reserved: 7}} {
		if got := mustReserve(t, l, someCount, c); got != c {
			t.Errorf("got %+v; want %+v", got, c)
		}
		wantCount(t, l, someCount, c)
	}
	other := CountRef{Invoker: "i", AEF: "aef", API: "other"}
	wantCount(t, l, other, Count{})
	if got := mustReserve(t, l, someCount, Count{Reserved: 100, Generation: 3}); got != (Count{Reserved: 7}) {
		t.Errorf("of another generation: got %+v; want what is stored", got)
	}
	l = reopen(t, l)
	wantCount(t, l, someCount, Count{Reserved: 7})
}

func TestBadCounts(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	for name, ref := range map[string]CountRef{
		"no invoker": {AEF: "a", API: "b"}, "no aefId": {Invoker: "i", API: "b"}, "no apiId": {Invoker: "i", AEF: "a"},
	} {
		_, err := l.Reserve(t.Context(), ref, Count{Reserved: 1})
		_, err2 := l.Count(ref)
		if !errors.Is(err, ErrInvalid) || !errors.Is(err2, ErrInvalid) {
			t.Errorf("%s: got %v and %v; want %v", name, err, err2, ErrInvalid)
		}
	}
	if _, err := l.Reserve(t.Context(), someCount, Count{Reserved: -1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("less than none: got %v; want %v", err, ErrInvalid)
	}
}

// TestLiftBeginsCountsAnew: those that it covers and that were used up.
func TestLiftBeginsCountsAnew(t *testing.T) {
	used, going := Count{Reserved: 9, Exhausted: true}, Count{Reserved: 9}
	refs := map[CountRef]Count{
		{Invoker: "i", AEF: "aef", API: "1"}:   used,
		{Invoker: "i", AEF: "aef", API: "2"}:   used,
		{Invoker: "i", AEF: "other", API: "1"}: used,
		{Invoker: "i", AEF: "aef", API: "3"}:   going,
		{Invoker: "ii", AEF: "aef", API: "1"}:  used,
	}
	tests := []struct {
		name string
		lift Lift
		want []CountRef
	}{
		{"one API at one AEF", Lift{Invoker: "i", AEF: "aef", APIs: []string{"1"}}, []CountRef{{"i", "aef", "1"}}},
		{"one API at any AEF", Lift{Invoker: "i", APIs: []string{"1"}}, []CountRef{{"i", "aef", "1"}, {"i", "other", "1"}}},
		{"all at one AEF", Lift{Invoker: "i", AEF: "aef"}, []CountRef{{"i", "aef", "1"}, {"i", "aef", "2"}}},
		{"all", Lift{Invoker: "i"}, []CountRef{{"i", "aef", "1"}, {"i", "aef", "2"}, {"i", "other", "1"}}},
		{"one that goes on", Lift{Invoker: "i", APIs: []string{"3"}}, nil},
		{"nobody", Lift{Invoker: "x"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := openLedger(t, ledgerPath(t), Options{})
			for ref, c := range refs {
				mustReserve(t, l, ref, c)
			}
			done := mustLift(t, l, tt.lift)
			if !slices.Equal(done.Counts, tt.want) {
				t.Errorf("got %v; want %v", done.Counts, tt.want)
			}
			l = reopen(t, l)
			for ref, c := range refs {
				if slices.Contains(tt.want, ref) {
					c = Count{Generation: 1}
				}
				wantCount(t, l, ref, c)
			}
		})
	}
}

// TestDamagedCountIsReset: it is refused, harms nothing else, and a lift begins
// it anew.
func TestDamagedCountIsReset(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustReserve(t, l, someCount, Count{Reserved: 5})
	s := someCount.scope()
	damageRecord(t, l, bucketCounts, appendScope(nil, &s))
	l = reopen(t, l)
	if _, err := l.Count(someCount); !errors.Is(err, ErrUnreadable) {
		t.Errorf("got %v; want %v", err, ErrUnreadable)
	}
	if _, err := l.Reserve(t.Context(), someCount, Count{Reserved: 6}); !errors.Is(err, ErrUnreadable) || l.Failing() {
		t.Errorf("got %v, failing %v; want %v and a ledger that works", err, l.Failing(), ErrUnreadable)
	}
	done := mustLift(t, l, Lift{Invoker: "i"})
	if !slices.Equal(done.Counts, []CountRef{someCount}) {
		t.Errorf("got %v; want it begun anew", done.Counts)
	}
	c, err := l.Count(someCount)
	if err != nil || c.Reserved != 0 || c.Generation < 2 {
		t.Errorf("got %+v, %v; want none, of a new generation", c, err)
	}
}

// TestCountOnAFailingDisk: what was not acknowledged is not there afterwards.
func TestCountOnAFailingDisk(t *testing.T) {
	var fail atomic.Bool
	l := openLedger(t, ledgerPath(t), Options{WrapCommit: func(commit func() error) error {
		err := commit()
		if fail.Load() {
			return errors.Join(err, errors.New("it reached the disk and was answered with an error"))
		}
		return err
	}})
	mustReserve(t, l, someCount, Count{Reserved: 5})
	fail.Store(true)
	if _, err := l.Reserve(t.Context(), someCount, Count{Reserved: 9}); !errors.Is(err, ErrNotDurable) {
		t.Errorf("got %v; want %v", err, ErrNotDurable)
	}
	fail.Store(false)
	l = reopen(t, l) // it takes back at the latest when it closes
	wantCount(t, l, someCount, Count{Reserved: 5})
}

// TestFileWithoutCounts: one of an earlier version is opened, and keeps what it
// has.
func TestFileWithoutCounts(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "denied"})
	closeLedger(t, l)
	edit(t, l.Path(), func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketCounts) })
	l = openLedger(t, l.Path(), Options{MustExist: true})
	wantCover(t, l, "denied", "aef", "api", Digest{}, CoverAuthorization)
	mustReserve(t, l, someCount, Count{Reserved: 5})
	l = reopen(t, l)
	wantCount(t, l, someCount, Count{Reserved: 5})
}

func TestCountOfAClosedLedger(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	closeLedger(t, l)
	_, err := l.Reserve(context.Background(), someCount, Count{Reserved: 1})
	_, err2 := l.Count(someCount)
	if !errors.Is(err, ErrNotReady) || !errors.Is(err2, ErrNotReady) {
		t.Errorf("got %v and %v; want %v", err, err2, ErrNotReady)
	}
}
