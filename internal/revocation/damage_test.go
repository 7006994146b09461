package revocation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// fullLedger makes a closed ledger with claims and revocations on many pages.
func fullLedger(t *testing.T) string {
	t.Helper()
	l := openLedger(t, ledgerPath(t), Options{})
	for i := range 300 {
		mustDeny(t, l, Deny{Invoker: fmt.Sprintf("invoker-%03d", i), APIs: []string{"1", "2"}})
		if i%10 == 0 {
			mustTrigger(t, l, Trigger{Invoker: fmt.Sprintf("asked-%03d", i), AEF: "a", Cause: "X", Hold: true})
		}
	}
	closeLedger(t, l)
	return l.Path()
}

// first returns a copy of the first key and value of a bucket.
func first(tx *bolt.Tx, bucket []byte) ([]byte, []byte) {
	key, value := tx.Bucket(bucket).Cursor().First()
	return bytes.Clone(key), bytes.Clone(value)
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	tests := map[string]func(*bolt.Tx) error{
		"a claim of which a bit changed": func(tx *bolt.Tx) error {
			key, value := first(tx, bucketClaims)
			value[len(value)-1] ^= 1
			return tx.Bucket(bucketClaims).Put(key, value)
		},
		"a claim under another key": func(tx *bolt.Tx) error {
			key, value := first(tx, bucketClaims)
			key[1] ^= 1
			return tx.Bucket(bucketClaims).Put(key, value)
		},
		"a claim cut short": func(tx *bolt.Tx) error {
			key, value := first(tx, bucketClaims)
			return tx.Bucket(bucketClaims).Put(key, value[:5])
		},
		"a claim that is gone": func(tx *bolt.Tx) error {
			key, _ := first(tx, bucketClaims)
			return tx.Bucket(bucketClaims).Delete(key)
		},
		"a claim too many": func(tx *bolt.Tx) error {
			key := claimKey(&Claim{Scope: Scope{Invoker: "x"}, Origin: OriginCore})
			record, err := encodeRecord(key, 1, Claim{})
			return errors.Join(err, tx.Bucket(bucketClaims).Put(key, record))
		},
		"an older claim in its place": func(tx *bolt.Tx) error {
			key, _ := first(tx, bucketClaims)
			record, err := encodeRecord(key, 1, Claim{Cause: "older"})
			return errors.Join(err, tx.Bucket(bucketClaims).Put(key, record))
		},
		"a pending entry that is gone": func(tx *bolt.Tx) error {
			key, _ := first(tx, bucketPending)
			return tx.Bucket(bucketPending).Delete(key)
		},
		"a pending entry that is no key": func(tx *bolt.Tx) error {
			return tx.Bucket(bucketPending).Put([]byte("?"), nil)
		},
		"a pending revocation that is gone": func(tx *bolt.Tx) error {
			key, _ := first(tx, bucketRevocations)
			return tx.Bucket(bucketRevocations).Delete(key)
		},
		"a pending revocation that changed": func(tx *bolt.Tx) error {
			key, value := first(tx, bucketRevocations)
			value[20] ^= 1
			return tx.Bucket(bucketRevocations).Put(key, value)
		},
		"an identity that changed": func(tx *bolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(keyIdentity, []byte("{}"))
		},
		"an identity that is gone": func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyIdentity) },
		"counters that changed":    func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyState, []byte("{}")) },
		"counters that are gone":   func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyState) },
		"no claims bucket":         func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketClaims) },
		"no expiry bucket":         func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketExpiry) },
		"no meta bucket":           func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) },
		"an empty claims bucket": func(tx *bolt.Tx) error {
			err := tx.DeleteBucket(bucketClaims)
			_, err2 := tx.CreateBucket(bucketClaims)
			return errors.Join(err, err2)
		},
		"a file of another program": func(tx *bolt.Tx) error {
			for _, name := range buckets {
				err := tx.DeleteBucket(name)
				if err != nil {
					return err
				}
			}
			_, err := tx.CreateBucket([]byte("history"))
			return err
		},
	}
	good, err := os.ReadFile(fullLedger(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			path := ledgerPath(t)
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			edit(t, path, change)
			wantDamaged(t, path)
		})
	}
}

// wantDamaged asks for the same clear refusal each time, and for nothing from
// the file in memory.
func wantDamaged(t *testing.T, path string) {
	t.Helper()
	l := NewLedger(path)
	for range 3 {
		err := l.Open(Options{Logger: quiet()})
		wantSentence(t, path, err, "damaged", "restore the file from a backup")
	}
	if got := l.Stats(); got != (Stats{}) {
		t.Errorf("got %+v; want nothing served", got)
	}
}

func TestDamagedPagesAreRefused(t *testing.T) {
	good, err := os.ReadFile(fullLedger(t))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	tests := map[string]func([]byte) []byte{
		"both meta pages":    func(b []byte) []byte { clear(b[:2*page]); return b },
		"not a database":     func(b []byte) []byte { return bytes.Repeat([]byte("no ledger "), len(b)/10) },
		"all but the metas":  func(b []byte) []byte { clear(b[2*page:]); return b },
		"cut in the middle":  func(b []byte) []byte { return b[:len(b)/2/page*page] },
		"cut to the metas":   func(b []byte) []byte { return b[:2*page] },
		"cut to one page":    func(b []byte) []byte { return b[:page] },
		"cut to a few bytes": func(b []byte) []byte { return b[:100] },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			path := ledgerPath(t)
			if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			wantDamaged(t, path)
		})
	}
}

// The number of elements on a page is guarded by nothing in bbolt: a leaf that
// says it holds fewer would let the others through without the tally.
func TestPageThatHidesClaimsIsRefused(t *testing.T) {
	path := fullLedger(t)
	var leaf int64
	edit(t, path, func(tx *bolt.Tx) error {
		key, _ := tx.Bucket(bucketClaims).Cursor().First()
		info, err := tx.Page(0)
		if err != nil || info == nil {
			return errors.Join(err, errors.New("no page 0"))
		}
		for id := 2; ; id++ {
			info, err := tx.Page(id)
			if err != nil || info == nil {
				return errors.Join(err, errors.New("no leaf with the first claim"))
			}
			if info.Type == "leaf" && onPage(tx, key, id) {
				leaf = int64(id)
				return nil
			}
		}
	})
	// The edit itself wrote no bucket, so the leaf stands where it stood.
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte{1, 0}, leaf*int64(os.Getpagesize())+10) // id 8, flags 2, count 2
	err = errors.Join(err, file.Close())
	if err != nil {
		t.Fatal(err)
	}
	wantDamaged(t, path)
}

// TestPagesThatPointBackAreRefused: bbolt follows what its pages say for ever, and
// takes all memory meanwhile.
func TestPagesThatPointBackAreRefused(t *testing.T) {
	for name, change := range map[string]func(page []byte, id uint64){
		"a branch at itself":         func(page []byte, id uint64) { binary.NativeEndian.PutUint64(page[branchChild:], id) },
		"a branch at the file's end": func(page []byte, _ uint64) { binary.NativeEndian.PutUint64(page[branchChild:], 1<<40) },
		"two branches at one leaf": func(page []byte, _ uint64) {
			copy(page[branchElement+branchChild:], page[branchChild:branchChild+8])
		},
		"a branch at the free list": func(page []byte, _ uint64) { binary.NativeEndian.PutUint64(page[branchChild:], 0) },
	} {
		t.Run(name, func(t *testing.T) {
			path := fullLedger(t)
			var root uint64
			edit(t, path, func(tx *bolt.Tx) error {
				root = uint64(tx.Bucket(bucketClaims).Root())
				return nil
			})
			edit(t, path, func(tx *bolt.Tx) error { // what an edit writes is free at the next one
				info, err := tx.Page(int(root))
				if err != nil || info == nil || info.Type != "branch" || info.Count < 2 {
					return errors.Join(err, fmt.Errorf("page %d: got %+v; want a branch with two leaves", root, info))
				}
				return nil
			})
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			elements := make([]byte, 2*branchElement)
			at := int64(root)*int64(os.Getpagesize()) + pageHeader
			_, err = file.ReadAt(elements, at)
			if err == nil {
				change(elements, root)
				_, err = file.WriteAt(elements, at)
			}
			err = errors.Join(err, file.Close())
			if err != nil {
				t.Fatal(err)
			}
			wantDamaged(t, path)
		})
	}
}

// onPage says whether key, which points into the mapped file, lies on a page.
func onPage(tx *bolt.Tx, key []byte, id int) bool {
	at := uintptr(unsafe.Pointer(&key[0])) - tx.DB().Info().Data
	return int(at)/tx.DB().Info().PageSize == id
}
