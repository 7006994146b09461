package revocation

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestSubscriptionSurvivesAReopen(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	got, found, err := l.Subscription()
	if err != nil || found || got.ID != "" {
		t.Fatalf("a new ledger: got %+v, %v, %v; want none", got, found, err)
	}
	want := Subscription{
		SubscriptionRef: SubscriptionRef{Subscriber: "aef-1", ID: "sub-1"}, Core: "https://core.example", Destination: "00ff",
		Events: []string{"A"}, Refused: []string{"B"}, Since: time.Now().UTC().Truncate(0),
		Stale: []SubscriptionRef{{"aef-1", "sub-0"}},
	}
	err = l.SaveSubscription(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	mustDeny(t, l, Deny{Invoker: "inv-1"}) // the claims' sum does not know the record
	l = reopen(t, l)
	got, found, err = l.Subscription()
	if err != nil || !found || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, %v; want %+v", got, found, err, want)
	}
}

func TestSubscriptionIsBounded(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	var s Subscription
	for i := range 3 * MaxStale {
		s.Stale = append(s.Stale, SubscriptionRef{"aef-1", fmt.Sprint(i)})
	}
	err := l.SaveSubscription(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := l.Subscription()
	if err != nil || len(got.Stale) != MaxStale || got.Stale[MaxStale-1].ID != fmt.Sprint(3*MaxStale-1) {
		t.Errorf("got %d stale, %v; want the last %d", len(got.Stale), err, MaxStale)
	}
	s.ID = strings.Repeat("a", MaxIDBytes+1)
	err = l.SaveSubscription(t.Context(), s)
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("an id too long: got %v; want it refused", err)
	}
}

// A damaged subscription costs a new one, and must not keep the ledger closed.
func TestDamagedSubscriptionIsAnError(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	closeLedger(t, l)
	edit(t, l.Path(), func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySubscription, []byte("{}")) })
	l = openLedger(t, l.Path(), Options{})
	_, found, err := l.Subscription()
	if err == nil || found {
		t.Errorf("got %v, %v; want an error", found, err)
	}
	err = l.SaveSubscription(t.Context(), Subscription{SubscriptionRef: SubscriptionRef{"aef-1", "sub-1"}})
	if err != nil {
		t.Fatal(err)
	}
	got, found, err := l.Subscription()
	if err != nil || !found || got.ID != "sub-1" {
		t.Errorf("got %+v, %v, %v; want the new one", got, found, err)
	}
}
