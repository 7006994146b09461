package revocation

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"os"

	bolt "go.etcd.io/bbolt"
)

// MaxPage bounds how many records a query returns.
const MaxPage = 1000

// scan walks the keys that begin with prefix.
func scan(cursor *bolt.Cursor, prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for key, value := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
			if !yield(key, value) {
				return
			}
		}
	}
}

// view runs f in a read transaction. While the disk fails it reads what was
// last known to be on it, if the file can be read at all.
func (l *Ledger) view(f func(*bolt.Tx) error) error {
	if !l.Ready() {
		return fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
	}
	l.dbMu.RLock()
	defer l.dbMu.RUnlock()
	if l.db == nil {
		return fmt.Errorf("ledger %s: %w", l.path, ErrNotDurable)
	}
	return guard(func() error { return l.db.View(f) })
}

func readRevocation(tx *bolt.Tx, sequence uint64) (Revocation, error) {
	key := sequenceKey(sequence)
	value := tx.Bucket(bucketRevocations).Get(key)
	if value == nil {
		return Revocation{}, fmt.Errorf("%w: no revocation with sequence %d", ErrNotFound, sequence)
	}
	var r Revocation
	_, err := decodeRecord(key, value, &r)
	if err != nil {
		return Revocation{}, fmt.Errorf("revocation %d: %w", sequence, err)
	}
	return r, nil
}

// Revocation returns one record by its id, or an error wrapping [ErrNotFound].
func (l *Ledger) Revocation(id string) (Revocation, error) {
	if !l.Ready() {
		return Revocation{}, fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
	}
	sequence, err := l.parseRevocationID(id)
	if err != nil {
		return Revocation{}, err
	}
	return l.RevocationBySequence(sequence)
}

// RevocationBySequence returns one record by its number. Errors wrap
// [ErrNotFound], [ErrDamaged], [ErrNotReady] or [ErrNotDurable].
func (l *Ledger) RevocationBySequence(sequence uint64) (Revocation, error) {
	var r Revocation
	err := l.view(func(tx *bolt.Tx) error {
		var err error
		r, err = readRevocation(tx, sequence)
		return err
	})
	return r, err
}

// RevocationQuery selects revocations. The zero value selects the newest.
type RevocationQuery struct {
	Invoker string
	API     string
	State   State
	// Before continues a listing: only sequences below it; 0 for no bound.
	Before uint64
	// Limit is at most [MaxPage], which is also the default.
	Limit int
}

// Revocations returns what q selects, newest first, and the value of Before
// that continues the listing, 0 at its end. A damaged record hides no other: it
// stands in the listing with its id and [StateDamaged], whatever q asks for,
// since it may be what is looked for.
func (l *Ledger) Revocations(q RevocationQuery) ([]Revocation, uint64, error) {
	limit := pageSize(q.Limit)
	found := []Revocation{}
	next := uint64(0)
	err := l.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketRevocations).Cursor()
		key, value := cursor.Last()
		if q.Before > 0 {
			cursor.Seek(sequenceKey(q.Before))
			key, value = cursor.Prev()
		}
		for ; key != nil; key, value = cursor.Prev() {
			var r Revocation
			_, err := decodeRecord(key, value, &r)
			switch {
			case err == nil && !q.selects(&r):
				continue
			case err != nil && len(key) != len(sequenceKey(0)):
				return err
			case err != nil:
				sequence := binary.BigEndian.Uint64(key)
				r = Revocation{ID: l.revocationID(sequence), Sequence: sequence, State: StateDamaged}
			}
			if len(found) == limit {
				next = found[limit-1].Sequence
				return nil
			}
			found = append(found, r)
		}
		return nil
	})
	return found, next, err
}

func (q *RevocationQuery) selects(r *Revocation) bool {
	return (q.Invoker == "" || r.InvokerID == q.Invoker) && (q.API == "" || r.APIID == q.API) && (q.State == "" || r.State == q.State)
}

// ClaimQuery selects claims.
type ClaimQuery struct {
	Invoker string
	// After continues a listing: the cursor that Claims returned.
	After []byte
	Limit int
}

// Claims returns what q selects, ordered by invoker, and a cursor that
// continues the listing, nil at its end.
func (l *Ledger) Claims(q ClaimQuery) ([]Claim, []byte, error) {
	limit := pageSize(q.Limit)
	found := []Claim{}
	var next []byte
	err := l.view(func(tx *bolt.Tx) error {
		var prefix []byte
		if q.Invoker != "" {
			prefix = appendInvoker(nil, q.Invoker)
		}
		cursor := tx.Bucket(bucketClaims).Cursor()
		key, value := cursor.Seek(prefix)
		if q.After != nil {
			key, value = cursor.Seek(q.After)
			if bytes.Equal(key, q.After) {
				key, value = cursor.Next()
			}
		}
		var last []byte
		for ; key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
			if len(found) == limit {
				next = bytes.Clone(last)
				return nil
			}
			c, err := decodeClaim(key, value)
			if err != nil {
				return err
			}
			found = append(found, c)
			last = key
		}
		return nil
	})
	return found, next, err
}

// Pending returns every revocation that waits for the core.
func (l *Ledger) Pending() ([]PendingRef, error) {
	refs := []PendingRef{}
	err := l.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketPending).ForEach(func(key, _ []byte) error {
			sequence, invoker, err := readPendingKey(key)
			if err != nil {
				return err
			}
			r, err := readRevocation(tx, sequence)
			if err != nil {
				return err
			}
			due := r.NextAttempt
			if due.IsZero() {
				due = r.CreatedAt
			}
			refs = append(refs, PendingRef{Sequence: sequence, Invoker: invoker, Due: due})
			return nil
		})
	})
	return refs, err
}

// Stats are figures about the ledger, read from memory.
type Stats struct {
	DeniedScopes int64
	Pending      int
	Failing      bool
}

// Stats returns the figures.
func (l *Ledger) Stats() Stats {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	return Stats{DeniedScopes: l.index.size.Load(), Pending: len(l.pending), Failing: l.Failing()}
}

// FileStats are figures about the file.
type FileStats struct {
	AuditRecords int64
	Bytes        int64 // 0 while the file cannot be looked at
}

// FileStats returns the figures. It waits for nothing that the ledger does.
func (l *Ledger) FileStats() FileStats {
	s := FileStats{AuditRecords: l.audits.Load()}
	info, err := os.Stat(l.path)
	if err == nil {
		s.Bytes = info.Size()
	}
	return s
}

func pageSize(limit int) int {
	if limit <= 0 || limit > MaxPage {
		return MaxPage
	}
	return limit
}
