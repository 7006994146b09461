package revocation

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func applyChange(t *testing.T, l *Ledger, c Context) {
	t.Helper()
	c.Found = true
	_, err := l.ApplyContext(t.Context(), c, false)
	if err != nil {
		t.Fatalf("context: got %v; want no error", err)
	}
}

// TestChangedContextIsAudited: one record with what is listed and what is not, none
// for a read that changes nothing or comes too late, and none of it is kept with the
// context.
func TestChangedContextIsAudited(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	entries := make([]ContextEntry, maxAuditEntries+5)
	for i := range entries {
		entries[i] = ContextEntry{AEF: "a", API: fmt.Sprint(i)}
	}
	applyChange(t, l, Context{Invoker: "i", ReadSequence: 5, Entries: entries})
	applyChange(t, l, Context{Invoker: "i", ReadSequence: 6, Change: &ContextChange{Unlisted: entries}})
	applyChange(t, l, Context{Invoker: "i", ReadSequence: 4, Change: &ContextChange{Listed: entries}})
	applyChange(t, l, Context{Invoker: "i", ReadSequence: 7, Change: &ContextChange{Listed: entries[:1]}})
	l = reopen(t, l)
	got := audits(t, l, AuditQuery{})
	if len(got) != 2 {
		t.Fatalf("got %d records %+v; want 2", len(got), got)
	}
	for i, a := range got {
		if a.Action != ActionCoreContext || a.By != byCore || a.Invoker != "i" || a.Contexts != 1 || a.Claims != 0 {
			t.Errorf("record %d: got %+v; want a change of the context of i", i, a)
		}
	}
	if !slices.Equal(got[0].Listed, entries[:1]) || got[0].Unlisted != nil {
		t.Errorf("got %v and %v; want the first one listed", got[0].Listed, got[0].Unlisted)
	}
	if !slices.Equal(got[1].Unlisted, entries[:maxAuditEntries]) || got[1].Listed != nil {
		t.Errorf("got %v and %v; want the first %d no longer listed", got[1].Unlisted, got[1].Listed, maxAuditEntries)
	}
}

// TestManyChangedContextsAreCounted: at most so many records in a minute, the others
// in one; also at the end of the process. The next minute has records again.
func TestManyChangedContextsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		change := func(from, to int) {
			for i := from; i < to; i++ {
				applyChange(t, l, Context{Invoker: fmt.Sprint(i), ReadSequence: 1, Change: &ContextChange{Unlisted: []ContextEntry{{AEF: "a", API: "1"}}}})
			}
		}
		want := func(when string, records, more int) {
			t.Helper()
			got := audits(t, l, AuditQuery{})
			if len(got) != records || got[0].Contexts != more || (more > 1) != (got[0].Invoker == "") {
				t.Fatalf("%s: got %d records, the last %+v; want %d, the last of %d contexts", when, len(got), got[0], records, more)
			}
		}
		change(0, maxContextRecords+7)
		want("in the hour", maxContextRecords, 1)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		want("after it", maxContextRecords+1, 7)
		change(1000, 1003)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		want("in the same hour", maxContextRecords+2, 3)
		time.Sleep(time.Hour)
		synctest.Wait()
		change(2000, 2000+maxContextRecords+3)
		want("in a later one", 2*maxContextRecords+2, 1)
		l = reopen(t, l)
		want("after the end", 2*maxContextRecords+3, 3)
	})
}

// TestLiftByAContextHasOneRecord, with what the context says.
func TestLiftByAContextHasOneRecord(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}})
	entry := ContextEntry{AEF: "a", API: "1"}
	for _, c := range []Context{
		{Invoker: "i", Found: true, ReadSequence: l.Sequence() + 1},
		{Invoker: "i", Found: true, ReadSequence: l.Sequence() + 2, Entries: []ContextEntry{entry}, Change: &ContextChange{Listed: []ContextEntry{entry}}},
	} {
		_, err := l.ApplyContext(t.Context(), c, true)
		if err != nil {
			t.Fatal(err)
		}
	}
	got := audits(t, l, AuditQuery{Action: ActionCoreLift})
	if len(got) != 1 || got[0].Claims != 1 || !slices.Equal(got[0].Listed, []ContextEntry{entry}) {
		t.Errorf("got %+v; want one lift with what is listed", got)
	}
	if got := audits(t, l, AuditQuery{Action: ActionCoreContext}); len(got) != 0 {
		t.Errorf("got %+v; want no other record", got)
	}
}
