package revocation

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// tally says how many claims and pending revocations the file must hold, with
// a sum over them. A checksum in each record shows a record that changed; only
// this shows one that is gone, for bbolt trusts what its pages say.
type tally struct {
	Entries uint64 `json:"entries"`
	Sum     uint64 `json:"sum"`
}

func (t *tally) add(bucket, key, value []byte) {
	if weight, counted := weigh(bucket, key, value); counted {
		t.Entries++
		t.Sum += weight
	}
}

func (t *tally) remove(bucket, key, value []byte) {
	if weight, counted := weigh(bucket, key, value); counted {
		t.Entries--
		t.Sum -= weight
	}
}

// weigh takes a claim by the checksum it carries, which covers its key too.
func weigh(bucket, key, value []byte) (uint64, bool) {
	switch {
	case value == nil:
		return 0, false
	case string(bucket) == string(bucketClaims) && len(value) >= recordHeader:
		return uint64(binary.BigEndian.Uint32(value[1:])), true
	case string(bucket) == string(bucketPending):
		return uint64(crc32.Checksum(key, castagnoli)), true
	default:
		return 0, false
	}
}

// ascending sees that a walk through a bucket gets on. Where one leaf stands in many
// places, or a page points back, bbolt reads the same keys again and again.
type ascending struct{ last []byte }

// next takes the next key, which is valid as long as the transaction.
func (a *ascending) next(key []byte) error {
	if a.last != nil && bytes.Compare(key, a.last) <= 0 {
		return fmt.Errorf("%w: its keys are out of order", errDamaged)
	}
	a.last = key
	return nil
}

// survey reads every claim and every pending revocation, and fails if one of
// them is damaged or missing.
func survey(tx *bolt.Tx, claim func(scope []byte, token bool, sequence uint64), pending func(sequence uint64)) error {
	_, want, err := readMeta(tx)
	if err != nil {
		return err
	}
	var got tally
	var order ascending
	cursor := tx.Bucket(bucketClaims).Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		err := order.next(key)
		if err != nil {
			return damaged("the file", err)
		}
		sequence, err := checkRecord(key, value)
		if err != nil {
			return damaged("a claim", err)
		}
		_, token, n, err := splitScope(key)
		if err != nil || len(key) != n+claimSuffix {
			return damaged("a claim", errBadKey)
		}
		got.add(bucketClaims, key, value)
		claim(key[:n], len(token) > 0, sequence)
	}
	order = ascending{}
	err = tx.Bucket(bucketPending).ForEach(func(key, _ []byte) error {
		err := order.next(key)
		if err != nil {
			return damaged("the file", err)
		}
		sequence, _, err := readPendingKey(key)
		if err != nil {
			return damaged("a pending revocation", err)
		}
		_, err = readRevocation(tx, sequence)
		if err != nil {
			return damaged("a pending revocation", listedButGone(err))
		}
		got.add(bucketPending, key, []byte{})
		pending(sequence)
		return nil
	})
	if err != nil {
		return err
	}
	if got != want.tally {
		return damaged("the file", fmt.Errorf("%w: it holds %d claims and pending revocations, not the %d it should", errDamaged, got.Entries, want.Entries))
	}
	return nil
}
