package revocation

import (
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

var keySubscription = []byte("subscription")

// SubscriptionRef names an event subscription at the core.
type SubscriptionRef struct {
	Subscriber string `json:"subscriber_id"`
	ID         string `json:"id"`
}

// Subscription is the event subscription in force at the core (TS 29.222 8.3), and
// what is left to be deleted there. It decides nothing about calls.
type Subscription struct {
	SubscriptionRef
	// Core is the URL of the core that has it.
	Core string `json:"core"`
	// Destination is the SHA-256, in hexadecimal, of the URL that receives
	// notifications: the URL itself may hold a secret.
	Destination string `json:"destination_sha256"`
	// Events are those that the core accepted, Refused those it did not.
	Events  []string `json:"events"`
	Refused []string `json:"refused,omitempty"`
	// Since is when the core made it.
	Since time.Time `json:"since"`
	// Stale are earlier subscriptions that the core may still have, at most
	// [MaxStale].
	Stale []SubscriptionRef `json:"stale,omitempty"`
}

// MaxStale bounds the memory of subscriptions that are still to be deleted.
const MaxStale = 16

// Subscription returns what was saved last; false means that there is none.
func (l *Ledger) Subscription() (Subscription, bool, error) {
	var s Subscription
	found := false
	err := l.view(func(tx *bolt.Tx) error {
		record := tx.Bucket(bucketMeta).Get(keySubscription)
		if record == nil {
			return nil
		}
		found = true
		_, err := decodeRecord(keySubscription, record, &s)
		if err != nil {
			return fmt.Errorf("the subscription: %w", err)
		}
		return nil
	})
	if err != nil {
		return Subscription{}, false, err
	}
	return s, found, nil
}

// SaveSubscription makes s durable in the place of what was saved before. One
// without an id says that none is in force.
func (l *Ledger) SaveSubscription(ctx context.Context, s Subscription) error {
	if s.ID != "" {
		err := checkID("the id of the subscription", s.ID)
		if err != nil {
			return err
		}
	}
	s.Stale = slices.Clone(s.Stale[max(0, len(s.Stale)-MaxStale):])
	return l.submit(ctx, &op{width: 1, apply: func(t *txn) error {
		t.putRecord(bucketMeta, keySubscription, t.op.first, &s)
		return nil
	}})
}
