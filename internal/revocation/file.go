package revocation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The file: one bbolt database. The schema number rises with every change that
// an older program would misread.
const schemaVersion = 1

var (
	bucketMeta        = []byte("meta")
	bucketClaims      = []byte("claims")      // scope, origin, revocation -> claim
	bucketExpiry      = []byte("expiry")      // expiry, claim key -> nothing
	bucketRevocations = []byte("revocations") // sequence -> revocation
	bucketPending     = []byte("pending")     // scope, sequence -> nothing
	bucketContexts    = []byte("contexts")    // invoker -> what the core said last
	bucketCounts      = []byte("counts")      // scope -> calls counted
	bucketAudit       = []byte("audit")       // sequence -> audit record
	bucketRequests    = []byte("requests")    // request id -> the revocations it made
	keyIdentity       = []byte("identity")
	keyState          = []byte("state")

	buckets = [][]byte{bucketMeta, bucketClaims, bucketExpiry, bucketRevocations, bucketPending, bucketContexts, bucketCounts, bucketAudit, bucketRequests}

	// addedBuckets came after the first files: they are made where they lack.
	addedBuckets = [][]byte{bucketCounts, bucketAudit, bucketRequests}
)

type identity struct {
	Schema  int       `json:"schema"`
	Tag     string    `json:"tag"`
	Created time.Time `json:"created"`
}

// openFile opens or makes the file; its errors are sentences for an operator.
func openFile(path string, mustExist bool) (*bolt.DB, bool, error) {
	info, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil && info.IsDir():
		return nil, false, fmt.Errorf("ledger %s: is a directory; name a file", path)
	case err != nil && !missing:
		return nil, false, fmt.Errorf("ledger %s: cannot be read; check the permissions of its directory: %w", path, err)
	case missing && mustExist:
		return nil, false, fmt.Errorf("ledger %s: %w", path, errMustExist)
	}
	fresh := dirsToSync(path)
	if missing {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
		if err != nil {
			return nil, false, fmt.Errorf("ledger %s: its directory cannot be made; make it or name another path: %w", path, err)
		}
	}
	if !missing && info.Mode().IsRegular() {
		warm(path, info.Size())
	}
	db, file, err := openBolt(path, os.O_CREATE)
	if err != nil {
		return nil, false, explainOpen(path, err)
	}
	created := false
	err = guard(func() error {
		var err error
		created, err = prepare(db, file, mustExist)
		return err
	})
	if err == nil && created {
		err = syncDirs(fresh)
	}
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("ledger %s: %w", path, err), db.Close())
	}
	return db, created, nil
}

// warm reads the file once from front to end. bbolt maps it for random access:
// after a reboot every page would be a read of its own, in the order of the keys,
// and opening would take many times longer. What it cannot read, the opening
// will complain of. It comes before the lock is taken: where locks belong to
// the process, closing the file would release it.
func warm(path string, size int64) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }()
	buffer := make([]byte, min(size, 1<<20))
	for size > 0 && err == nil {
		var n int
		n, err = file.Read(buffer)
		size -= int64(n)
	}
}

// openBolt opens the database, and returns the file that it is in, which is the
// database's to close; create is os.O_CREATE where a missing file may be made,
// else 0.
func openBolt(path string, create int) (*bolt.DB, *os.File, error) {
	var db *bolt.DB
	var file *os.File
	err := guard(func() error {
		var err error
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:      time.Millisecond, // one try for the lock; 0 would wait for ever
			FreelistType: bolt.FreelistMapType,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				var err error
				file, err = os.OpenFile(name, flag&^os.O_CREATE|create, mode)
				return file, err
			},
		})
		return err
	})
	if err != nil && file != nil {
		release(file)
	}
	return db, file, err
}

func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("ledger %s: held by another process; one ledger serves one running Caddy: stop the other one, or give this one its own path: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("ledger %s: cannot be opened for writing; check its owner, its mode and that the file system is not read-only: %w", path, err)
	case errors.Is(err, errDamaged):
		return fmt.Errorf("ledger %s: %w", path, err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch), strings.Contains(err.Error(), "file size too small"):
		return fmt.Errorf("ledger %s: %w", path, damaged("the file", err))
	default:
		return fmt.Errorf("ledger %s: cannot be opened; check that the disk is writable and not full: %w", path, err)
	}
}

func damaged(what string, err error) error {
	return fmt.Errorf("%s is damaged; restore the file from a backup, or move it away to start with an empty one (claims that the core does not know are then lost): %w", what, err)
}

var errMustExist = errors.New("does not exist and must_exist is set; restore it from a backup, or remove must_exist once to start with an empty one (claims that the core does not know are then lost)")

// newFileTxID is the transaction number of a bbolt file that was never written.
const newFileTxID = 1

// prepare refuses a file of a newer program and makes the buckets of a new
// one; it reports whether it did.
func prepare(db *bolt.DB, file *os.File, mustExist bool) (bool, error) {
	known := false
	err := db.View(func(tx *bolt.Tx) error {
		err := checkPages(tx, file)
		if err != nil {
			return err
		}
		meta := tx.Bucket(bucketMeta)
		if meta == nil && tx.ID() > newFileTxID {
			return damaged("the file", fmt.Errorf("%w: it is not a ledger, or its buckets are gone", errDamaged))
		}
		if meta == nil {
			return nil
		}
		known = true
		var id identity
		_, err = decodeRecord(keyIdentity, meta.Get(keyIdentity), &id)
		if err != nil {
			return damaged("the file", err)
		}
		if id.Schema > schemaVersion {
			return fmt.Errorf("written by a newer version (schema %d, this one reads up to %d); run that version, or restore the backup made before the upgrade", id.Schema, schemaVersion)
		}
		return nil
	})
	switch {
	case err != nil || known:
		return false, err
	case mustExist:
		return false, errMustExist
	}
	err = db.Update(create)
	if err != nil {
		return false, fmt.Errorf("cannot be made; check that the disk is writable and not full: %w", err)
	}
	return true, nil
}

func isAdded(name []byte) bool {
	return slices.ContainsFunc(addedBuckets, func(added []byte) bool { return bytes.Equal(added, name) })
}

// addBuckets brings a file of an earlier program up to date. It comes once the file
// was found to be in order: one that is refused is not changed.
func addBuckets(db *bolt.DB) error {
	missing := false
	err := db.View(func(tx *bolt.Tx) error {
		for _, name := range addedBuckets {
			missing = missing || tx.Bucket(name) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range addedBuckets {
			_, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot be written; check that the disk is writable and not full: %w", err)
	}
	return nil
}

func create(tx *bolt.Tx) error {
	for _, name := range buckets {
		_, err := tx.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
	}
	tag, err := newTag()
	if err != nil {
		return err
	}
	record, err := encodeRecord(keyIdentity, 0, identity{Schema: schemaVersion, Tag: tag, Created: time.Now().UTC()})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyIdentity, record)
}

// counters are what the writer must not forget: the last sequence given out,
// the last batch committed, how far the audit was pruned, and what the file must
// hold.
type counters struct {
	Sequence uint64 `json:"sequence"`
	Batch    uint64 `json:"batch"`
	// Pruned is the sequence of the last audit record that was deleted.
	Pruned uint64 `json:"pruned,omitempty"`
	tally
}

func readMeta(tx *bolt.Tx) (identity, counters, error) {
	meta := tx.Bucket(bucketMeta)
	for _, name := range buckets {
		if tx.Bucket(name) == nil && !isAdded(name) {
			return identity{}, counters{}, damaged("the file", fmt.Errorf("%w: bucket %s is missing", errDamaged, name))
		}
	}
	var id identity
	_, err := decodeRecord(keyIdentity, meta.Get(keyIdentity), &id)
	if err != nil {
		return identity{}, counters{}, damaged("the file", err)
	}
	var c counters
	state := meta.Get(keyState)
	if state == nil {
		return id, c, nil
	}
	_, err = decodeRecord(keyState, state, &c)
	if err != nil {
		return identity{}, counters{}, damaged("the file", err)
	}
	return id, c, nil
}

// loadMeta takes over the counters and returns how many claims and pending
// revocations the file says it holds.
func (l *Ledger) loadMeta(tx *bolt.Tx) (uint64, error) {
	id, c, err := readMeta(tx)
	if err != nil {
		return 0, err
	}
	l.tag, l.sequence, l.batch = id.Tag, c.Sequence, c.Batch
	l.published.Store(c.Sequence)
	return c.Entries, nil
}

// guard turns a panic of the storage library, and a fault in a file that
// shrank below its mapping, into an error.
func guard(f func() error) (err error) { //nolint:nonamedreturns // a deferred recover can only answer through a named result
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = damaged("the file", fmt.Errorf("%w: %v", errDamaged, p))
		}
	}()
	return f()
}

// dirsToSync are the directories that a new file at path changes: its own and,
// where those are to be made, its parents up to the first that exists. A synced
// file in a directory that is lost is lost.
func dirsToSync(path string) []string {
	dir := filepath.Dir(path)
	dirs := []string{dir}
	for {
		_, err := os.Stat(dir)
		parent := filepath.Dir(dir)
		if err == nil || parent == dir {
			return dirs
		}
		dir = parent
		dirs = append(dirs, dir)
	}
}

func syncDirs(dirs []string) error {
	for _, dir := range dirs {
		err := syncDir(dir)
		if err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func pendingKey(s *Scope, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(appendScope(make([]byte, 0, 64), s), sequence)
}

func readPendingKey(key []byte) (uint64, string, error) {
	s, n, err := readScope(key)
	if err != nil {
		return 0, "", err
	}
	if len(key) != n+8 {
		return 0, "", errBadKey
	}
	return binary.BigEndian.Uint64(key[n:]), s.Invoker, nil
}
