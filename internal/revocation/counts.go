package revocation

import (
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// CountRef names what calls are counted for: a pair.
type CountRef struct {
	Invoker string
	AEF     string
	API     string
}

func (r *CountRef) scope() Scope { return Scope{Invoker: r.Invoker, AEF: r.AEF, API: r.API} }

func (r *CountRef) check() error {
	s := r.scope()
	err := s.check()
	if err != nil {
		return err
	}
	err = checkID("aef_id", r.AEF)
	if err != nil {
		return err
	}
	return checkID("api_id", r.API)
}

// Count is the durable part of a count of calls. It decides nothing: it keeps
// what internal/policy must not forget.
type Count struct {
	// Reserved is how many calls may have passed since the count began: never
	// less than did.
	Reserved int64 `json:"reserved"`
	// Exhausted says that a call was refused because the total was used up.
	Exhausted bool `json:"exhausted,omitempty"`
	// Generation rises with each reset, so that what was in flight before one
	// is not taken for something after it.
	Generation uint64 `json:"generation,omitempty"`
}

// Count returns what is stored for a pair; nothing stored is the zero Count. A
// damaged record is an error until a lift has reset it.
func (l *Ledger) Count(ref CountRef) (Count, error) {
	err := ref.check()
	if err != nil {
		return Count{}, err
	}
	var c Count
	err = l.view(func(tx *bolt.Tx) error {
		var err error
		c, err = readCount(tx, &ref)
		return err
	})
	if err != nil {
		return Count{}, err
	}
	return c, nil
}

func readCount(tx *bolt.Tx, ref *CountRef) (Count, error) {
	s := ref.scope()
	key := appendScope(nil, &s)
	record := tx.Bucket(bucketCounts).Get(key)
	if record == nil {
		return Count{}, nil
	}
	var c Count
	_, err := decodeRecord(key, record, &c)
	if err != nil {
		return Count{}, fmt.Errorf("%w: the count of calls of %q at apiId %q is damaged; lift to begin it anew: %w", ErrUnreadable, clip(ref.Invoker), clip(ref.API), err)
	}
	return c, nil
}

// Reserve stores a count in the place of what is there, if that has the same
// generation, and returns what is stored then: of another generation if the
// count was reset meanwhile. Only when it has returned nil may calls pass on
// what was reserved. Errors wrap [ErrInvalid], [ErrUnreadable], [ErrNotReady]
// or [ErrNotDurable]; a failed one may be repeated.
func (l *Ledger) Reserve(ctx context.Context, ref CountRef, c Count) (Count, error) {
	err := ref.check()
	if err != nil {
		return Count{}, err
	}
	if c.Reserved < 0 {
		return Count{}, fmt.Errorf("%w: a count of %d calls", ErrInvalid, c.Reserved)
	}
	var stored Count
	o := &op{}
	o.apply = func(t *txn) error {
		known, err := readCount(t.tx, &ref)
		if err != nil {
			return err
		}
		stored = known
		if known.Generation != c.Generation || known == c {
			return nil
		}
		stored = c
		s := ref.scope()
		t.putRecord(bucketCounts, appendScope(nil, &s), o.first, &c)
		return nil
	}
	err = l.submit(ctx, o)
	if err != nil {
		return Count{}, err
	}
	return stored, nil
}

// resetCounts begins anew what the lift covers and what was used up: whoever
// lifts expects calls to pass again. Other counts go on.
func (t *txn) resetCounts(lift *Lift, sequence uint64) []CountRef {
	type reset struct {
		key []byte
		ref CountRef
		c   Count
	}
	var resets []reset
	for key, record := range scan(t.tx.Bucket(bucketCounts).Cursor(), appendInvoker(nil, lift.Invoker)) {
		s, n, err := readScope(key)
		if err != nil || n != len(key) || !lift.Covers(&s) {
			continue // what has a damaged key counts for nobody
		}
		var c Count
		_, err = decodeRecord(key, record, &c)
		if err == nil && !c.Exhausted {
			continue
		}
		if err != nil {
			// Its generation is lost with it: one that none in flight has.
			c.Generation = sequence
		}
		resets = append(resets, reset{
			key: append([]byte(nil), key...), ref: CountRef{Invoker: s.Invoker, AEF: s.AEF, API: s.API},
			c: Count{Generation: c.Generation + 1},
		})
	}
	refs := make([]CountRef, len(resets))
	for i := range resets {
		t.putRecord(bucketCounts, resets[i].key, sequence, &resets[i].c)
		refs[i] = resets[i].ref
	}
	return refs
}
