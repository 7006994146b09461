package revocation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// wantSentence asks that an error of Open names the path and what to do.
func wantSentence(t *testing.T, path string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error; want one about %v", words)
	}
	for _, word := range append(words, path) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("got %q; want %q in it", err, word)
		}
	}
}

func openError(t *testing.T, path string, options Options) error {
	t.Helper()
	l := NewLedger(path)
	options.Logger = quiet()
	err := l.Open(options)
	if l.Ready() != (err == nil) {
		t.Errorf("ready: got %v with error %v", l.Ready(), err)
	}
	if err == nil {
		closeLedger(t, l)
	}
	return err
}

func TestCreatedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "down", "ledger.db")
	l := openLedger(t, path, Options{})
	if !l.Created() {
		t.Error("got not created; want created")
	}
	err := l.Open(Options{Logger: quiet()})
	if err != nil || !l.Created() {
		t.Errorf("second open: got %v, created %v; want it to stay as it is", err, l.Created())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", info.Mode(), err)
	}
	l = reopen(t, l)
	if l.Created() {
		t.Error("after a reopen: got created; want not")
	}
}

func TestMustExist(t *testing.T) {
	path := ledgerPath(t)
	err := openError(t, path, Options{MustExist: true})
	wantSentence(t, path, err, "must_exist", "backup")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v; want no file made", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = openError(t, path, Options{MustExist: true})
	wantSentence(t, path, err, "must_exist", "backup")
}

func TestHeldLedger(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i"})
	for range 2 {
		err := openError(t, l.Path(), Options{})
		wantSentence(t, l.Path(), err, "held by another process", "its own path")
	}
	mustDeny(t, l, Deny{Invoker: "j"}) // the holder is not disturbed
}

func TestPathsThatCannotWork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		path  string
		words []string
	}{
		"a directory":            {dir, []string{"is a directory", "name a file"}},
		"under a file":           {filepath.Join(file, "ledger.db"), []string{"directory"}},
		"deep under a file":      {filepath.Join(file, "a", "b", "ledger.db"), []string{"directory"}},
		"a link to itself":       {loop, []string{"check"}},
		"under a link to itself": {filepath.Join(loop, "ledger.db"), []string{"check"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wantSentence(t, test.path, openError(t, test.path, Options{}), test.words...)
		})
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	err := explainOpen("/x/ledger.db", &os.PathError{Op: "open", Path: "/x/ledger.db", Err: os.ErrPermission})
	wantSentence(t, "/x/ledger.db", err, "read-only", "owner")
}

func TestNewerSchema(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i"})
	closeLedger(t, l)
	edit(t, l.Path(), func(tx *bolt.Tx) error {
		record, err := encodeRecord(keyIdentity, 0, identity{Schema: schemaVersion + 1, Tag: "x"})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyIdentity, record)
	})
	before, err := os.ReadFile(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	wantSentence(t, l.Path(), openError(t, l.Path(), Options{}), "newer version", "schema 2", "backup")
	after, err := os.ReadFile(l.Path())
	if err != nil || string(after) != string(before) {
		t.Errorf("got a changed file, %v; want it untouched", err)
	}
}

// edit changes a closed ledger's file behind the ledger's back.
func edit(t *testing.T, path string, change func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(db.Update(change), db.Close())
	if err != nil {
		t.Fatal(err)
	}
}
