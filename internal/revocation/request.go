package revocation

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// request is what a named trigger made. A caller that was cut off repeats what it
// sent, and nothing is triggered twice.
type request struct {
	Sequences []uint64 `json:"sequences"`
	// At is when; files of before had none, and it is when the first was made.
	At time.Time `json:"at,omitzero"`
}

// RequestAge is how long the name of a trigger is known at least. It does not
// depend on the retention of the audit: a file of any length can be repeated.
const RequestAge = 30 * 24 * time.Hour

// ErrRequestReused means that a request id stands for another request already.
// It wraps [ErrInvalid].
var ErrRequestReused = fmt.Errorf("%w: the request_id was used for another request", ErrInvalid)

// noteTrigger writes the audit record of a trigger, and its name.
func (t *txn) noteTrigger(asked *Trigger, made []Revocation) {
	record := Audit{
		Action: ActionRevoke, By: asked.RequestedBy, Reason: asked.Reason, Ticket: asked.Ticket, RequestID: asked.RequestID,
		Invoker: asked.Invoker, AEF: asked.AEF, APIs: asked.APIs, AllAPIs: len(asked.APIs) == 0, Cause: asked.Cause,
	}
	named := request{At: t.at}
	for i := range made {
		record.Revocations = append(record.Revocations, made[i].ID)
		named.Sequences = append(named.Sequences, made[i].Sequence)
	}
	if asked.Hold {
		record.Claims = len(made)
	}
	t.audit(record)
	if asked.RequestID != "" {
		t.putRecord(bucketRequests, []byte(asked.RequestID), t.op.first, &named)
	}
}

// knownRequest returns what a trigger of this name made before, nil for nothing.
func (l *Ledger) knownRequest(asked *Trigger, apis []string) ([]Revocation, error) {
	var known []Revocation
	err := l.view(func(tx *bolt.Tx) error {
		var err error
		known, err = readRequest(tx, asked, apis)
		return err
	})
	if errors.Is(err, ErrInvalid) {
		return nil, err
	}
	if err != nil || l.failed.Load() {
		return nil, nil // whatever is wrong with the file, the writer says it
	}
	return known, nil
}

func (t *txn) requested(asked *Trigger, apis []string) ([]Revocation, error) {
	if asked.RequestID == "" {
		return nil, nil
	}
	return readRequest(t.tx, asked, apis)
}

func readRequest(tx *bolt.Tx, asked *Trigger, apis []string) ([]Revocation, error) {
	key := []byte(asked.RequestID)
	value := tx.Bucket(bucketRequests).Get(key)
	if value == nil {
		return nil, nil
	}
	var named request
	_, err := decodeRecord(key, value, &named)
	if err != nil {
		return nil, fmt.Errorf("request %q: %w", asked.RequestID, err)
	}
	var made []Revocation
	for _, sequence := range named.Sequences {
		r, err := readRevocation(tx, sequence)
		if err != nil {
			return nil, listedButGone(err)
		}
		if r.InvokerID != asked.Invoker || r.AEFID != asked.AEF || !slices.Contains(apis, r.APIID) || !r.sameRequest(asked) {
			return nil, ErrRequestReused
		}
		made = append(made, r)
	}
	if len(made) != len(apis) {
		return nil, ErrRequestReused
	}
	return made, nil
}

// unblock takes back what was blocked for an op that turned out to change
// nothing.
func (t *txn) unblock(denies []Scope, first uint64) {
	for i := range denies {
		t.removals = append(t.removals, removal{scope: denies[i], limit: first + uint64(i), remaining: t.highest(&denies[i])})
	}
}

// oldRequests returns the names that are past their age among the next
// [maxSweep]; at the end it begins anew. Names are in no order of time, so each
// sweep looks at a part of them. A damaged one stays: whoever repeats it is told.
func (l *Ledger) oldRequests() [][]byte {
	var old [][]byte
	err := l.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketRequests).Cursor()
		key, value := cursor.Seek(l.requestsTo)
		for n := 0; key != nil && n < maxSweep; n++ {
			var named request
			_, err := decodeRecord(key, value, &named)
			if err == nil && named.At.IsZero() && len(named.Sequences) > 0 {
				var r Revocation
				r, err = readRevocation(tx, named.Sequences[0])
				named.At = r.CreatedAt
			}
			if err == nil && l.now().Sub(named.At) > RequestAge {
				old = append(old, bytes.Clone(key))
			}
			key, value = cursor.Next()
		}
		l.requestsTo = bytes.Clone(key)
		return nil
	})
	if err != nil {
		return nil
	}
	return old
}

// forgetOp forgets names of triggers. What they triggered stays.
func forgetOp(names [][]byte) *op {
	return &op{width: 1, done: make(chan struct{}), apply: func(t *txn) error {
		for _, name := range names {
			t.delete(bucketRequests, name)
		}
		return nil
	}}
}
