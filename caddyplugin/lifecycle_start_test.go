package caddyplugin_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	err := os.WriteFile(path, data, 0o600)
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

const restore = "is damaged; restore the file from a backup"

// TestStartOnABrokenLedger starts on ledgers that cannot be used. Each start is
// refused with a sentence that names the path and says what to do, nothing is
// changed in the file, and with the good file back all is as it was.
func TestStartOnABrokenLedger(t *testing.T) {
	l := startLife(t)
	err := l.caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	good := readFile(t, l.aef.Ledger)
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T)
		want  []string
	}{
		{"newer version", func(t *testing.T) { writeNewerLedger(t, l.aef.Ledger) },
			[]string{"written by a newer version", "run that version, or restore the backup made before the upgrade"}},
		{"flipped bits in records", func(t *testing.T) {
			spoiled := bytes.ReplaceAll(good, []byte(coretest.CauseUnexpected), []byte("UNEXPECTED_REBSON"))
			if bytes.Equal(spoiled, good) {
				t.Fatal("got no record with a cause in the file; want one")
			}
			writeFile(t, l.aef.Ledger, spoiled)
		}, []string{restore}},
		{"flipped bytes everywhere", func(t *testing.T) {
			spoiled := bytes.Clone(good)
			for i := 100; i < len(spoiled); i += 200 {
				spoiled[i] ^= 0xff
			}
			writeFile(t, l.aef.Ledger, spoiled)
		}, []string{restore}},
		{"torn off", func(t *testing.T) { writeFile(t, l.aef.Ledger, good[:len(good)/3]) }, []string{restore}},
		{"another kind of file", func(t *testing.T) {
			writeFile(t, l.aef.Ledger, bytes.Repeat([]byte("this is no ledger\n"), 5000))
		}, []string{restore}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.sub(t)
			test.spoil(t)
			spoiled := readFile(t, l.aef.Ledger)
			l.wantNoStart(l.aef, append(test.want, "ledger "+l.aef.Ledger)...)
			if !bytes.Equal(readFile(t, l.aef.Ledger), spoiled) {
				t.Error("file: got changed by a refused start; want as it was")
			}
		})
	}
	writeFile(t, l.aef.Ledger, good)
	l.caddy = l.start(l.aef)
	l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
}

// writeNewerLedger puts a ledger there as a later version may write it: the
// identity, which all versions can read, says schema 2.
func writeNewerLedger(t *testing.T, path string) {
	t.Helper()
	err := os.Remove(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		key, body := []byte("identity"), []byte(`{"schema":2,"tag":"00000000","created":"2030-01-01T00:00:00Z"}`)
		record := make([]byte, 13, 13+len(body)) // version, checksum, sequence
		record[0] = 1
		record = append(record, body...)
		table := crc32.MakeTable(crc32.Castagnoli)
		sum := crc32.Update(crc32.Update(crc32.Update(0, table, record[:1]), table, key), table, record[5:])
		binary.BigEndian.PutUint32(record[1:], sum)
		return meta.Put(key, record)
	})
	err = errors.Join(err, db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// TestStartWhereNoLedgerCanBe names paths that no ledger can be at.
func TestStartWhereNoLedgerCanBe(t *testing.T) {
	l := newLife(t)
	file := filepath.Join(l.aef.Dir, "a-file")
	writeFile(t, file, []byte("not a directory"))
	for _, test := range []struct{ name, path, want string }{
		{"below a file", filepath.Join(file, "ledger.db"), "cannot be read; check the permissions of its directory"},
		{"far below a file", filepath.Join(file, "capif", "ledger.db"), "cannot be read; check the permissions of its directory"},
		{"a directory", l.aef.Dir, "is a directory; name a file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.sub(t)
			a := *l.aef
			a.Ledger = test.path
			l.wantNoStart(&a, "ledger "+test.path, test.want)
		})
	}
}

// TestStartWithoutALedger is a first start, a start that is told that there must
// be one, and a start after the ledger was deleted: whom the core revoked stays
// refused, and an alarm says that the rest is lost.
func TestStartWithoutALedger(t *testing.T) {
	l := newLife(t)
	demanding := *l.aef
	demanding.GlobalExtra = "" // must_exist stands in the block of ledger
	demanding.Ledger = l.aef.Ledger + " {\n\t\t\tmust_exist\n\t\t}"
	mustExist := []string{"ledger " + l.aef.Ledger, "does not exist and must_exist is set", "restore it from a backup, or remove must_exist once"}
	l.wantNoStart(&demanding, mustExist...)
	if exists(l.aef.Ledger) {
		t.Errorf("ledger %s: got made by a refused start; want none", l.aef.Ledger)
	}
	l.begin()
	if !l.alarmed(alarm.LedgerCreated) {
		t.Errorf("alarms: got %+v; want %s", l.status().Alarms, alarm.LedgerCreated)
	}
	byCore := l.newInvoker()
	token := l.tokenOf(byCore)
	l.want(l.aef, lifePath, token, http.StatusOK)
	answers, err := l.scene.Core.RevokeByCore(l.ctx, coretest.CoreRevoke{InvokerID: byCore, APIIDs: []string{testbed.APIID}})
	if err != nil || len(answers) != 1 || answers[0].Status/100 != 2 {
		t.Fatalf("revoke by the core: got %+v, %v; want a 2xx", answers, err)
	}
	restart := func(a *testbed.AEF) {
		t.Helper()
		err := l.caddy.Stop()
		if err != nil {
			t.Fatal(err)
		}
		l.caddy = l.start(a)
	}
	restart(&demanding) // there is one now
	if l.alarmed(alarm.LedgerCreated) {
		t.Errorf("alarms on a known ledger: got %+v; want no %s", l.status().Alarms, alarm.LedgerCreated)
	}
	l.want(l.aef, lifePath, token, http.StatusForbidden)

	err = l.caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	err = os.Remove(l.aef.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	l.wantNoStart(&demanding, mustExist...)
	l.caddy = l.start(l.aef)
	if !l.alarmed(alarm.LedgerCreated) {
		t.Errorf("alarms after the ledger was deleted: got %+v; want %s", l.status().Alarms, alarm.LedgerCreated)
	}
	for _, revoked := range []string{token, l.denied} {
		l.want(l.aef, lifePath, revoked, http.StatusForbidden)
	}
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
}
