package revocation

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
)

func audits(t *testing.T, l *Ledger, q AuditQuery) []Audit {
	t.Helper()
	list, _, err := l.Audits(q)
	if err != nil {
		t.Fatalf("audit: got %v; want no error", err)
	}
	return list
}

// TestEveryChangeIsAudited: one record each, with who and why, kept over a
// reopen; what changes nothing leaves none.
func TestEveryChangeIsAudited(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	made := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "X", Reason: "r", Ticket: "T-1", RequestedBy: "me", Hold: true})
	mustRecord(t, l, made[0].Sequence, Progress{State: StateRevoked, Answer: &Answer{Operation: "revoke", Status: 204}})
	mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "Y"})
	mustDeny(t, l, Deny{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "Y"}) // a repeat
	mustLift(t, l, Lift{Invoker: "i", Who: Who{By: "you", Reason: "over", Ticket: "T-2"}})
	for _, note := range []struct {
		action  Action
		outcome string
	}{{ActionReconcile, ""}, {ActionAccept, OutcomeNothingSuspended}} {
		err := l.Note(t.Context(), note.action, note.outcome, Who{By: "me"})
		if err != nil {
			t.Errorf("note %s: got %v; want no error", note.action, err)
		}
	}
	l = reopen(t, l)
	got := audits(t, l, AuditQuery{})
	slices.Reverse(got)
	want := []Audit{
		{Action: ActionRevoke, By: "me", Invoker: "i", AEF: "a", Cause: "X", Reason: "r", Ticket: "T-1", Claims: 2},
		{Action: ActionCoreAnswer, By: "core", Invoker: "i", AEF: "a", State: StateRevoked},
		{Action: ActionCoreDeny, By: "core", Invoker: "i", AEF: "a", Cause: "Y", Claims: 1},
		{Action: ActionLift, By: "you", Invoker: "i", Reason: "over", Ticket: "T-2", Claims: 3},
		{Action: ActionReconcile, By: "me"},
		{Action: ActionAccept, By: "me", Outcome: OutcomeNothingSuspended},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d records %+v; want %d", len(got), got, len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Action != w.Action || g.By != w.By || g.Invoker != w.Invoker || g.AEF != w.AEF || g.Cause != w.Cause || g.Reason != w.Reason ||
			g.Ticket != w.Ticket || g.Claims != w.Claims || g.State != w.State || g.Outcome != w.Outcome || g.At.IsZero() || g.Sequence == 0 {
			t.Errorf("record %d: got %+v; want %+v", i, g, w)
		}
	}
	if got[1].Answer == nil || got[1].Answer.Status != 204 {
		t.Errorf("the core's answer: got %+v; want 204", got[1].Answer)
	}
	if !slices.Equal(got[0].Revocations, []string{made[0].ID, made[1].ID}) || !slices.Equal(got[3].Revocations, []string{made[1].ID}) {
		t.Errorf("got revocations %v and %v; want both made, and the pending one cancelled", got[0].Revocations, got[3].Revocations)
	}
	if after, _, err := l.AuditsAfter(got[3].Sequence); err != nil || len(after) != 2 || after[0].Sequence != got[4].Sequence {
		t.Errorf("after the lift: got %+v, %v; want the two notes", after, err)
	}
	if n := l.FileStats().AuditRecords; n != int64(len(want)) {
		t.Errorf("counted %d; want %d", n, len(want))
	}
}

func TestAuditIsPagedAndFiltered(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	for i := range 10 {
		mustDeny(t, l, Deny{Invoker: fmt.Sprint("i", i%2), APIs: []string{fmt.Sprint(i)}})
	}
	mustLift(t, l, Lift{Invoker: "i1"})
	var seen []uint64
	q := AuditQuery{Invoker: "i1", Action: ActionCoreDeny, Limit: 2}
	for {
		list, next, err := l.Audits(q)
		if err != nil || len(list) > 2 {
			t.Fatalf("got %d records, %v; want at most 2", len(list), err)
		}
		for _, a := range list {
			seen = append(seen, a.Sequence)
		}
		if next == 0 {
			break
		}
		q.Before = next
	}
	if len(seen) != 5 || !slices.IsSortedFunc(seen, func(a, b uint64) int { return int(b) - int(a) }) {
		t.Errorf("got %v; want 5, newest first", seen)
	}
}

func TestAuditIsBounded(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	l.SetRetention(Retention{Records: 5})
	for i := range 20 {
		mustDeny(t, l, Deny{Invoker: fmt.Sprint(i)})
	}
	got := audits(t, l, AuditQuery{})
	if len(got) != 5 || got[0].Invoker != "19" || got[4].Invoker != "15" {
		t.Errorf("got %d records %+v; want the last 5", len(got), got)
	}
	l.SetRetention(Retention{Records: 3})
	mustDeny(t, l, Deny{Invoker: "20"})
	l = reopen(t, l)
	// Whoever follows learns that there was more, and whoever begins now does not.
	oldest := audits(t, l, AuditQuery{})[2].Sequence
	for after, missing := range map[uint64]bool{0: true, oldest - 2: true, oldest - 1: false, oldest: false} {
		_, pruned, err := l.AuditsAfter(after)
		if err != nil || (pruned > after) != missing {
			t.Errorf("after %d, the oldest being %d: got pruned to %d, %v; want missing %t", after, oldest, pruned, err, missing)
		}
	}
	if got := audits(t, l, AuditQuery{}); len(got) != 3 || l.FileStats().AuditRecords != 3 {
		t.Errorf("got %d records, counted %d; want 3", len(got), l.FileStats().AuditRecords)
	}
	if got := l.Stats().DeniedScopes; got != 21 {
		t.Errorf("got %d denied scopes; want 21: the audit ends, claims do not", got)
	}
}

// TestPruningIsTakenBack: records that a failed change deleted come back, and nobody
// is told that they are missing.
func TestPruningIsTakenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
		l.SetRetention(Retention{Records: 3})
		for i := range 5 {
			mustDeny(t, l, Deny{Invoker: fmt.Sprint(i)})
		}
		want, before, err := l.AuditsAfter(0)
		if err != nil || len(want) != 3 || before == 0 {
			t.Fatalf("got %d records, pruned to %d, %v; want 3 of 5", len(want), before, err)
		}
		d.set(works, lands)
		err = l.Note(t.Context(), ActionReconcile, "", Who{})
		if !errors.Is(err, ErrNotDurable) {
			t.Fatalf("got %v; want %v", err, ErrNotDurable)
		}
		pass(2 * recoverInterval)
		got, pruned, err := l.AuditsAfter(0)
		if err != nil || l.Failing() || len(got) != 3 || got[0].Sequence != want[0].Sequence || pruned != before {
			t.Errorf("got %d records, pruned to %d, %v, failing %v; want the 3 of before, pruned to %d", len(got), pruned, err, l.Failing(), before)
		}
	})
}

func TestAuditEndsWithItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger(t, ledgerPath(t), Options{})
		l.SetRetention(Retention{Age: time.Hour})
		mustDeny(t, l, Deny{Invoker: "old"})
		time.Sleep(50 * time.Minute)
		mustDeny(t, l, Deny{Invoker: "young"})
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if got := audits(t, l, AuditQuery{}); len(got) != 1 || got[0].Invoker != "young" {
			t.Errorf("got %+v; want the young one", got)
		}
		last, err := l.LastAudit()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		got, err := l.LastAudit()
		if err != nil || got != last || len(audits(t, l, AuditQuery{})) != 0 {
			t.Errorf("after the last one's end: got last %d, %v; want %d", got, err, last)
		}
		wantCover(t, l, "old", "a", "1", Digest{}, CoverAuthorization)
	})
}

func TestDamagedAuditIsShownAndPassed(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	for i := range 3 {
		mustDeny(t, l, Deny{Invoker: fmt.Sprint(i)})
	}
	damagedAt := audits(t, l, AuditQuery{})[1].Sequence
	err := l.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAudit).Put(sequenceKey(damagedAt), []byte("nonsense"))
	})
	if err != nil {
		t.Fatal(err)
	}
	l = reopen(t, l)
	got := audits(t, l, AuditQuery{})
	if len(got) != 3 || got[1].Action != ActionUnreadable || got[1].Sequence != damagedAt {
		t.Errorf("got %+v; want three, the middle one unreadable", got)
	}
}

// TestOlderFileGetsAnAudit opens a file that was made before there was one.
func TestOlderFileGetsAnAudit(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i"})
	err := l.db.Update(func(tx *bolt.Tx) error {
		return errors.Join(tx.DeleteBucket(bucketAudit), tx.DeleteBucket(bucketRequests))
	})
	if err != nil {
		t.Fatal(err)
	}
	l = reopen(t, l)
	wantCover(t, l, "i", "a", "1", Digest{}, CoverAuthorization)
	mustDeny(t, l, Deny{Invoker: "j"})
	if got := audits(t, l, AuditQuery{}); len(got) != 1 {
		t.Errorf("got %+v; want one record", got)
	}
}

// TestWatchersAreTold: whoever took the channel before a change finds the record
// when it is closed.
func TestWatchersAreTold(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	changed := l.AuditChanged()
	mustDeny(t, l, Deny{Invoker: "i"})
	select {
	case <-changed:
	default:
		t.Error("got not told; want told before the change is acknowledged")
	}
	if list, _, err := l.AuditsAfter(0); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v; want the record", list, err)
	}
}

// TestRepeatedRequestChangesNothing: also when what the first one blocked was
// lifted meanwhile, and when the process was another one.
func TestRepeatedRequestChangesNothing(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	asked := Trigger{Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "X", Hold: true, RequestID: "file-1/7"}
	made := mustTrigger(t, l, asked)
	mustRecord(t, l, made[0].Sequence, Progress{State: StateRevoked})
	mustLift(t, l, Lift{Invoker: "i"})
	l = reopen(t, l)
	records := len(audits(t, l, AuditQuery{}))
	again := mustTrigger(t, l, asked)
	if len(again) != 2 || again[0].ID != made[0].ID || again[1].ID != made[1].ID || again[0].State != StateRevoked || again[1].State != StateCancelled {
		t.Errorf("got %+v; want the first ones as they are now", again)
	}
	// The writer's own look, for one that was on its way beside the first.
	o := &op{width: 2, denies: []Scope{made[0].scope(), made[1].scope()}}
	o.apply = func(t *txn) error {
		known, err := t.requested(&asked, []string{"1", "2"})
		if err != nil || known == nil {
			return fmt.Errorf("%w: not known: %w", ErrInvalid, err)
		}
		t.unblock(o.denies, t.op.first)
		return nil
	}
	err := l.submit(t.Context(), o)
	if err != nil {
		t.Errorf("got %v; want it known to the writer", err)
	}
	wantCover(t, l, "i", "a", "1", Digest{}, CoverNone)
	if got := len(audits(t, l, AuditQuery{})); got != records {
		t.Errorf("got %d audit records; want %d as before", got, records)
	}
	for name, other := range map[string]Trigger{
		"another invoker": {Invoker: "j", AEF: "a", APIs: []string{"1", "2"}, Cause: "X", Hold: true, RequestID: "file-1/7"},
		"another API":     {Invoker: "i", AEF: "a", APIs: []string{"1", "3"}, Cause: "X", Hold: true, RequestID: "file-1/7"},
		"fewer APIs":      {Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true, RequestID: "file-1/7"},
		"another cause":   {Invoker: "i", AEF: "a", APIs: []string{"1", "2"}, Cause: "Y", Hold: true, RequestID: "file-1/7"},
	} {
		_, err := l.Trigger(t.Context(), other)
		if !errors.Is(err, ErrRequestReused) {
			t.Errorf("%s: got %v; want %v", name, err, ErrRequestReused)
		}
		wantCover(t, l, other.Invoker, "a", other.APIs[len(other.APIs)-1], Digest{}, CoverNone)
	}
}

// TestConcurrentRepeatsTriggerOnce sends one named request from many at once.
func TestConcurrentRepeatsTriggerOnce(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	ids := make(chan string, 32)
	for range cap(ids) {
		go func() {
			made, err := l.Trigger(t.Context(), Trigger{Invoker: "i", AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true, RequestID: "r"})
			if err != nil || len(made) != 1 {
				ids <- fmt.Sprint(made, err)
				return
			}
			ids <- made[0].ID
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if got := <-ids; got != first {
			t.Errorf("got %s; want %s", got, first)
		}
	}
	wantCover(t, l, "i", "a", "1", Digest{}, CoverAuthorization)
	if got := audits(t, l, AuditQuery{}); len(got) != 1 {
		t.Errorf("got %d audit records; want 1", len(got))
	}
	mustLift(t, l, Lift{Invoker: "i"})
	wantCover(t, l, "i", "a", "1", Digest{}, CoverNone)
}

// TestRequestNamesEndWithTheirAge: a name is known for its age, whatever became of
// the audit, and is then forgotten; also one of a file of before, which says no time.
// One given to a revocation that was already pending is as young as it is.
func TestRequestNamesEndWithTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLedger(ledgerPath(t))
		var ahead atomic.Int64 // 30 days of sweeps are many
		l.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		err := l.Open(Options{Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		defer closeLedger(t, l)
		l.SetRetention(Retention{Records: 1})
		trigger := func(invoker, name string) Revocation {
			return mustTrigger(t, l, Trigger{Invoker: invoker, AEF: "a", APIs: []string{"1"}, Cause: "X", Hold: true, RequestID: name})[0]
		}
		names := func() []string {
			var list []string
			err := l.view(func(tx *bolt.Tx) error {
				return tx.Bucket(bucketRequests).ForEach(func(key, _ []byte) error {
					list = append(list, string(key))
					return nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		const many = maxSweep + 1 // more than one look, old and young
		for i := range many {
			trigger(fmt.Sprint(i), fmt.Sprint("many-", i))
		}
		first := trigger("i", "old")
		before := trigger("j", "before")
		err = l.db.Update(func(tx *bolt.Tx) error {
			value, err := encodeRecord([]byte("before"), before.Sequence, &request{Sequences: []uint64{before.Sequence}})
			return errors.Join(err, tx.Bucket(bucketRequests).Put([]byte("before"), value))
		})
		if err != nil {
			t.Fatal(err)
		}
		pass := func(d time.Duration) {
			ahead.Add(int64(d))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
		}
		pass(RequestAge - time.Hour)
		if got := trigger("i", "late"); got.ID != first.ID {
			t.Fatalf("got %s; want %s, which is still pending", got.ID, first.ID)
		}
		mustLift(t, l, Lift{Invoker: "i"})
		if got := trigger("i", "old"); got.ID != first.ID || len(names()) != many+3 {
			t.Errorf("before the age: got %s and %d names; want %s and all %d", got.ID, len(names()), first.ID, many+3)
		}
		for i := range many {
			trigger(fmt.Sprint(i), fmt.Sprint("a-young-", i))
		}
		pass(2 * time.Hour)
		if got := names(); len(got) != many+1 || got[many] != "late" || slices.Contains(got, "old") {
			t.Errorf("past the age: got %d names; want the %d young ones", len(got), many+1)
		}
		if got := trigger("i", "old"); got.ID == first.ID {
			t.Errorf("past the age: got %s; want another revocation", got.ID)
		}
		_, err = l.Revocation(before.ID)
		if err != nil {
			t.Errorf("what the forgotten name stood for: got %v; want it kept", err)
		}
	})
}
