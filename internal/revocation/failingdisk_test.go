package revocation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestChangesAnsweredNotDurableAreSavedLater(t *testing.T) {
	changes := map[string]func(*testing.T, *Ledger) error{
		"deny": func(t *testing.T, l *Ledger) error {
			return l.Deny(t.Context(), Deny{Invoker: "i", APIs: []string{"api"}})
		},
		"trigger": func(t *testing.T, l *Ledger) error {
			_, err := l.Trigger(t.Context(), Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})
			return err
		},
	}
	// What the commit, and then each try to recover, meets.
	plans := map[string][]fault{
		"refused":                          {refuses},
		"landed":                           {lands},
		"refused, recovery refused":        {refuses, refuses},
		"refused, recovery landed":         {refuses, lands},
		"landed, recovery refused":         {lands, refuses},
		"landed, recovery landed":          {lands, lands},
		"landed, recoveries of both kinds": {lands, refuses, lands, refuses, refuses, lands},
	}
	for what, change := range changes {
		for plan, list := range plans {
			t.Run(what+" "+plan, func(t *testing.T) {
				inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
					q := &recordingQueue{}
					err := l.SetQueue(q)
					if err != nil {
						t.Fatal(err)
					}
					d.set(works, list...)
					for range 3 { // repeats are saved once
						err := change(t, l)
						if !errors.Is(err, ErrNotDurable) || !covered(l, "i") {
							t.Fatalf("got %v, covered %v; want %v and covered", err, covered(l, "i"), ErrNotDurable)
						}
					}
					for range list {
						if !l.Failing() {
							t.Fatal("got working; want failing until a commit succeeded")
						}
						pass(recoverInterval)
					}
					pass(recoverInterval)
					if l.Failing() || !covered(l, "i") {
						t.Fatalf("got failing %v, covered %v; want a working ledger and covered", l.Failing(), covered(l, "i"))
					}
					if got := claims(t, l, "i"); len(got) != 1 {
						t.Errorf("got %v; want one claim", got)
					}
					pending := l.Stats().Pending
					if want := strings.Count(what, "trigger"); pending != want || len(q.sequences()) != want {
						t.Errorf("got %d pending, queued %v; want %d", pending, q.sequences(), want)
					}
					restarted := onDiskNow(t, l)
					if !covered(restarted, "i") || restarted.Stats().Pending != pending {
						t.Errorf("after a kill: got %+v; want it all", restarted.Stats())
					}
					wantIndexFromClaims(t, restarted)
				})
			})
		}
	}
}

func TestLaterOfEqualUnsavedDeniesIsSaved(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
		d.set(refuses)
		for _, cause := range []string{"one", "one", "another", "another", "another"} {
			_ = l.Deny(t.Context(), Deny{Invoker: "i", Cause: cause})
		}
		synctest.Wait()
		last := l.sequence // the writer is idle
		if len(l.unsaved) != 2 {
			t.Errorf("unsaved: got %d; want one for each cause", len(l.unsaved))
		}
		d.set(works)
		pass(2 * recoverInterval)
		got := claims(t, l, "i")
		if len(got) != 1 || got[0].Sequence != last || got[0].Cause != "another" {
			t.Errorf("got %+v; want one claim with sequence %d", got, last)
		}
	})
}

func TestNothingIsAcknowledgedBeforeTheFileWasReopened(t *testing.T) {
	for name, kind := range faults {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				var handles []*bolt.DB // of each commit that was let through
				l.commit = func(tx *bolt.Tx) error {
					db := tx.DB()
					err := d.wrap(tx.Commit)
					if err == nil {
						handles = append(handles, db)
					}
					return err
				}
				mustDeny(t, l, Deny{Invoker: "before"})
				tries, _ := d.counts()
				d.set(works, kind) // the disk works again at once
				err := l.Deny(t.Context(), Deny{Invoker: "i"})
				if !errors.Is(err, ErrNotDurable) {
					t.Fatalf("got %v; want %v", err, ErrNotDurable)
				}
				for _, ask := range []func() error{
					func() error { return l.Deny(t.Context(), Deny{Invoker: "j"}) },
					func() error { _, err := l.Lift(t.Context(), Lift{Invoker: "before"}); return err },
					func() error { _, err := l.Trigger(t.Context(), Trigger{Invoker: "k", AEF: "a"}); return err },
					func() error { _, err := l.Record(t.Context(), 1, Progress{}); return err },
				} {
					err := ask()
					if !errors.Is(err, ErrNotDurable) {
						t.Errorf("before the reopening: got %v; want %v", err, ErrNotDurable)
					}
				}
				if got, _ := d.counts(); got != tries+1 {
					t.Errorf("commits tried on the old handle: got %d; want only the one that failed", got-tries)
				}
				pass(2 * recoverInterval)
				mustDeny(t, l, Deny{Invoker: "after"})
				if len(handles) != 3 || handles[0] == handles[1] || handles[1] != handles[2] {
					t.Errorf("handles: got %v; want one before, then a new one for the recovery and what follows", handles)
				}
				if !covered(l, "before") || !covered(l, "i") || !covered(l, "j") {
					t.Error("got allowed; want all denied")
				}
			})
		})
	}
}

func TestEveryAcknowledgementFollowsACommit(t *testing.T) {
	l := NewLedger(ledgerPath(t))
	events := make(chan string, 100)
	err := l.Open(Options{Logger: quiet(), WrapCommit: func(commit func() error) error {
		err := commit()
		events <- fmt.Sprint("commit ", err)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeLedger(t, l)
	if l.db.NoSync || l.db.NoGrowSync || l.db.NoFreelistSync {
		t.Errorf("got NoSync %v, NoGrowSync %v, NoFreelistSync %v; want all off", l.db.NoSync, l.db.NoGrowSync, l.db.NoFreelistSync)
	}
	var r Revocation
	asks := []func(){
		func() { mustDeny(t, l, Deny{Invoker: "i"}) },
		func() { mustDeny(t, l, Deny{Invoker: "i"}) }, // a repeat, too
		func() { r = mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Hold: true})[0] },
		func() { mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Hold: true}) },
		func() { mustRecord(t, l, r.Sequence, Progress{ListedSent: true}) },
		func() { mustLift(t, l, Lift{Invoker: "i"}) },
	}
	for i, ask := range asks {
		ask()
		if len(events) != 1 {
			t.Fatalf("change %d: got %d commits when it was acknowledged; want 1", i, len(events))
		}
		if got := <-events; got != "commit <nil>" {
			t.Errorf("change %d: got %q; want a commit that succeeded", i, got)
		}
	}
}

func TestDecisionOnAFailingDisk(t *testing.T) {
	for name, kind := range faults {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X"})[0]
				d.set(works, kind)
				_, err := l.Record(t.Context(), r.Sequence, Progress{State: StateRevoked})
				if !errors.Is(err, ErrNotDurable) || !l.IsPending(r.Sequence) {
					t.Fatalf("got %v, pending %v; want %v and still pending", err, l.IsPending(r.Sequence), ErrNotDurable)
				}
				pass(2 * recoverInterval)
				if restarted := onDiskNow(t, l); !restarted.IsPending(r.Sequence) {
					t.Error("after a kill: got decided; want pending, for nobody was told")
				}
				mustRecord(t, l, r.Sequence, Progress{State: StateRevoked})
				if !covered(onDiskNow(t, l), "i") {
					t.Error("recorded again: got allowed; want denied")
				}
			})
		})
	}
}

func TestCloseOnAFailingDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
		d.set(works, refuses)
		_ = l.Deny(t.Context(), Deny{Invoker: "i"})
		if l = reopen(t, l); !covered(l, "i") { // the last chance was taken
			t.Error("got allowed; want what only memory had on disk")
		}
	})
	inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
		d.set(refuses)
		_ = l.Deny(t.Context(), Deny{Invoker: "i"})
		err := l.Close()
		if !errors.Is(err, ErrNotDurable) || !strings.Contains(err.Error(), "1 denies") {
			t.Errorf("got %v; want %v and how many denies are lost", err, ErrNotDurable)
		}
		if !covered(l, "i") {
			t.Error("after close: got allowed; want denied, from memory")
		}
	})
}

// While the disk fails, somebody meddles with the file.
func TestFileThatChangedWhileTheDiskFailed(t *testing.T) {
	meddle := map[string]func(t *testing.T, path string) error{
		"gone": func(_ *testing.T, path string) error { return os.Remove(path) },
		"another ledger": func(t *testing.T, path string) error {
			other := openLedger(t, ledgerPath(t), Options{})
			closeLedger(t, other)
			return os.Rename(other.Path(), path)
		},
		"a page that points nowhere": pointNowhere,
		"emptied":                    func(_ *testing.T, path string) error { return os.Truncate(path, 0) },
		"cut":                        func(_ *testing.T, path string) error { return os.Truncate(path, int64(4*os.Getpagesize())) },
		"a text":                     func(_ *testing.T, path string) error { return os.WriteFile(path, []byte("text"), 0o600) },
		"overwritten": func(_ *testing.T, path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			at := int64(2 * os.Getpagesize())
			_, err = file.WriteAt(make([]byte, info.Size()-at), at)
			return errors.Join(err, file.Close())
		},
	}
	for name, change := range meddle {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				for i := range 50 {
					mustDeny(t, l, Deny{Invoker: fmt.Sprint("invoker ", i), APIs: []string{"1", "2", "3", "4", "5"}})
				}
				d.set(works, refuses)
				_ = l.Deny(t.Context(), Deny{Invoker: "i"})
				err := change(t, l.Path())
				if err != nil {
					t.Fatal(err)
				}
				pass(5 * recoverInterval)
				err = l.Deny(t.Context(), Deny{Invoker: "j"})
				if !errors.Is(err, ErrNotDurable) || !l.Failing() {
					t.Errorf("got %v; want %v", err, ErrNotDurable)
				}
				for _, invoker := range []string{"i", "j"} {
					if !covered(l, invoker) {
						t.Errorf("%s: got allowed; want denied, from memory", invoker)
					}
				}
				err = l.Close()
				if !errors.Is(err, ErrNotDurable) {
					t.Errorf("close: got %v; want %v", err, ErrNotDurable)
				}
				_, err = os.Stat(l.Path())
				if name == "gone" && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("got %v; want no new file in its place", err)
				}
			})
		})
	}
}

// pointNowhere makes the branch page of the claims point far beyond the file:
// following it is a fault, not an error.
func pointNowhere(_ *testing.T, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	page, found := os.Getpagesize(), 0
	for at := 2 * page; at < len(content); at += page {
		if binary.NativeEndian.Uint64(content[at:]) == uint64(at/page) && binary.NativeEndian.Uint16(content[at+8:]) == 1 {
			_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, 1<<30), int64(at+16+8))
			found++
		}
	}
	if found == 0 {
		err = errors.New("no branch page")
	}
	return errors.Join(err, file.Close())
}

func TestReadsWhileTheDiskFails(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
		mustDeny(t, l, Deny{Invoker: "i"})
		d.set(refuses)
		_ = l.Deny(t.Context(), Deny{Invoker: "j"})
		if got := claims(t, l, ""); len(got) != 1 {
			t.Errorf("got %v; want the one claim on disk", got)
		}
		if got := l.Stats(); got != (Stats{DeniedScopes: 2, Failing: true}) {
			t.Errorf("got %+v; want two scopes denied, failing", got)
		}
		d.set(works)
		pass(2 * time.Second)
		if got := claims(t, l, ""); len(got) != 2 {
			t.Errorf("after recovery: got %v; want both", got)
		}
	})
}
