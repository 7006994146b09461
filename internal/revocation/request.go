package revocation

import (
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// request is what a named trigger made. A caller that was cut off repeats what it
// sent, and nothing is triggered twice.
type request struct {
	Sequences []uint64 `json:"sequences"`
}

// ErrRequestReused means that a request id stands for another request already.
// It wraps [ErrInvalid].
var ErrRequestReused = fmt.Errorf("%w: the request_id was used for another request", ErrInvalid)

// noteTrigger writes the audit record of a trigger, and its name.
func (t *txn) noteTrigger(asked *Trigger, made []Revocation) {
	record := Audit{
		Action: ActionRevoke, By: asked.RequestedBy, Reason: asked.Reason, Ticket: asked.Ticket, RequestID: asked.RequestID,
		Invoker: asked.Invoker, AEF: asked.AEF, APIs: asked.APIs, AllAPIs: len(asked.APIs) == 0, Cause: asked.Cause,
	}
	var named request
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
