package revocation

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// damageRecord changes one bit of a stored record behind an open ledger's back:
// in a transaction of its own, as the writer would, so that bbolt stays whole.
func damageRecord(t *testing.T, l *Ledger, bucket, key []byte) {
	t.Helper()
	l.dbMu.RLock()
	defer l.dbMu.RUnlock()
	err := l.db.Update(func(tx *bolt.Tx) error {
		value := bytes.Clone(tx.Bucket(bucket).Get(key))
		if len(value) == 0 {
			return errors.New("no such record")
		}
		value[len(value)-1] ^= 1
		return tx.Bucket(bucket).Put(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// contexts returns what is stored, by invoker.
func contexts(t *testing.T, l *Ledger) map[string]Context {
	t.Helper()
	got := map[string]Context{}
	err := l.Contexts(func(c Context) { got[c.Invoker] = c })
	if err != nil {
		t.Fatalf("contexts: got %v; want no error", err)
	}
	return got
}

func TestDamagedContextIsLeftOutReportedAndOverwritten(t *testing.T) {
	entry := ContextEntry{AEF: "aef", API: "api"}
	l := openLedger(t, ledgerPath(t), Options{})
	mustApply(t, l, read(l, true, entry), false)
	other := read(l, true, entry)
	other.Invoker = "other"
	mustApply(t, l, other, false)
	damageRecord(t, l, bucketContexts, []byte("i"))
	l = reopen(t, l)

	var log strings.Builder
	l.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	got := contexts(t, l)
	if len(got) != 1 || !slices.Equal(got["other"].Entries, other.Entries) {
		t.Errorf("got %+v; want only the whole one", got)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "contexts=1") || !strings.Contains(text, `context of \"i\"`) {
		t.Errorf("got log %q; want one line that names i", text)
	}

	// Even a read that is older than the damaged one: nothing is known of that.
	again := read(l, true, entry)
	again.ReadSequence = 0
	mustApply(t, l, again, false)
	if l.Failing() {
		t.Error("got failing; want a working ledger")
	}
	log.Reset()
	l = reopen(t, l)
	l.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	if got := contexts(t, l); len(got) != 2 || !slices.Equal(got["i"].Entries, again.Entries) || log.Len() != 0 {
		t.Errorf("got %+v, log %q; want both and no report", got, &log)
	}
}

// A change that meets a damaged revocation which nobody waits for is refused
// alone: those that share its transaction are done, and the ledger works on.
func TestDamagedDecidedRevocationRefusesOneChange(t *testing.T) {
	ends := map[string]func(*testing.T, *Ledger, Revocation){
		"decided": func(t *testing.T, l *Ledger, r Revocation) {
			mustRecord(t, l, r.Sequence, Progress{State: StateRevoked})
		},
		"cancelled": func(t *testing.T, l *Ledger, r Revocation) { mustLift(t, l, Lift{Invoker: r.InvokerID}) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *Ledger, d *disk) {
				r := mustTrigger(t, l, Trigger{Invoker: "decided", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})[0]
				end(t, l, r)
				damageRecord(t, l, bucketRevocations, sequenceKey(r.Sequence))
				var err error
				inOneBatch(t, l, d,
					func() { mustDeny(t, l, Deny{Invoker: "before", AEF: "aef", APIs: []string{"api"}}) },
					func() {
						_, err = l.Record(t.Context(), r.Sequence, Progress{Answer: &Answer{Operation: "delete", Status: 204}, State: StateRejected})
					},
					func() { mustDeny(t, l, Deny{Invoker: "after", AEF: "aef", APIs: []string{"api"}}) },
				)
				if !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrNotDurable) {
					t.Errorf("got %v; want %v", err, ErrUnreadable)
				}
				wantSentence(t, l.Path(), err, "damaged", "backup")
				if l.Failing() {
					t.Error("got failing; want a working ledger")
				}
				for _, l := range []*Ledger{l, onDiskNow(t, l)} {
					if !covered(l, "before") || !covered(l, "after") || covered(l, "decided") != (name == "decided") {
						t.Errorf("got claims %+v; want those of the others, and the damaged one's as they were", claims(t, l, ""))
					}
					wantIndexFromClaims(t, l)
				}
				// What is about the same pair goes on, too.
				mustLift(t, l, Lift{Invoker: "decided"})
				mustTrigger(t, l, Trigger{Invoker: "decided", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})
			})
		})
	}
}

// A pending one is what the file must hold: there the ledger stops instead of
// forgetting it.
func TestDamagedPendingRevocationStopsTheLedger(t *testing.T) {
	inBubble(t, func(t *testing.T, l *Ledger, _ *disk) {
		r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})[0]
		damageRecord(t, l, bucketRevocations, sequenceKey(r.Sequence))
		_, err := l.Record(t.Context(), r.Sequence, Progress{State: StateRejected})
		if !errors.Is(err, ErrNotDurable) || errors.Is(err, ErrUnreadable) || !l.Failing() || !covered(l, "i") {
			t.Errorf("got %v, failing %v; want %v, failing and blocked", err, l.Failing(), ErrNotDurable)
		}
		err = l.Close()
		if !errors.Is(err, ErrNotDurable) {
			t.Errorf("close: got %v; want %v", err, ErrNotDurable)
		}
	})
}

func TestDirectoriesOfANewFileAreSynced(t *testing.T) {
	dir := t.TempDir()
	tests := map[string]struct {
		path string
		want []string
	}{
		"in one that exists": {"ledger.db", []string{""}},
		"one new":            {"a/ledger.db", []string{"a", ""}},
		"three new":          {"a/b/c/ledger.db", []string{"a/b/c", "a/b", "a", ""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var want []string
			for _, d := range test.want {
				want = append(want, filepath.Join(dir, d))
			}
			if got := dirsToSync(filepath.Join(dir, test.path)); !slices.Equal(got, want) {
				t.Errorf("got %v; want %v", got, want)
			}
		})
	}
	t.Chdir(dir)
	if got, want := dirsToSync("x/ledger.db"), []string{"x", "."}; !slices.Equal(got, want) {
		t.Errorf("a relative path: got %v; want %v", got, want)
	}
	openLedger(t, "x/ledger.db", Options{})
	if info, err := os.Stat("x/ledger.db"); err != nil || info.Size() == 0 {
		t.Errorf("got %v; want a ledger", err)
	}
	err := syncDirs([]string{dir, filepath.Join(dir, "gone")})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that cannot be synced: got %v; want %v", err, os.ErrNotExist)
	}
}
