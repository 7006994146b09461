package token

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestVerifyAfterRotation(t *testing.T) {
	k := keys()
	oldKey, newKey := pub(t, &k.rsa.PublicKey, "old", ""), pub(t, k.ed.Public(), "new", "")
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{oldKey}}
		source := FromFunc("test", s.load, Options{})
		v := verifier(t, Settings{}, source)
		run(t, source)
		synctest.Wait()
		oldToken := mint("RS256", k.rsa, `{"alg":"RS256","kid":"old"}`, goodClaims(""))
		newToken := mint("EdDSA", k.ed, `{"alg":"EdDSA","kid":"new"}`, goodClaims(""))
		before, err := v.Verify(t.Context(), oldToken, now)
		if err != nil {
			t.Fatal(err)
		}

		s.set(nil, newKey)
		_, err = v.Verify(t.Context(), newToken, now)
		wantKind(t, err, BadSignature) // the floor has not passed
		time.Sleep(urlFloor)
		after, err := v.Verify(t.Context(), newToken, now)
		if err != nil {
			t.Fatalf("unknown kid after the floor: %v", err)
		}
		if id, ok := v.KeySetID(); !ok || after.KeySetID != id || before.KeySetID == id {
			t.Errorf("key sets: before %v, after %v, in force %v; want the last two equal", before.KeySetID, after.KeySetID, id)
		}
		_, err = v.Verify(t.Context(), oldToken, now)
		wantKind(t, err, BadSignature)
	})
}

// A token without a kid, or with the same kid, that a new key signed is found by
// its bad signature.
func TestBadSignatureRefreshes(t *testing.T) {
	k := keys()
	for name, kid := range map[string]string{"same kid": "k", "no kid": ""} {
		t.Run(name, func(t *testing.T) {
			oldKey, newKey := pub(t, &k.rsa.PublicKey, kid, ""), pub(t, &k.otherRSA.PublicKey, kid, "")
			synctest.Test(t, func(t *testing.T) {
				s := &script{keys: []Key{oldKey}}
				source := FromFunc("test", s.load, Options{})
				v := verifier(t, Settings{}, source)
				run(t, source)
				time.Sleep(urlFloor)
				s.set(nil, newKey)
				if _, err := v.Verify(t.Context(), mintAs("RS256", k.otherRSA, goodClaims("")), now); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The key set is read before the verification begins: one that is rotated out
// during it does not leave a token that looks as if the new set had verified it.
func TestKeySetIDIsReadBefore(t *testing.T) {
	k := keys()
	oldSet := must(NewKeySet(pub(t, k.ed.Public(), "", "")))
	newSet := must(NewKeySet(pub(t, &k.rsa.PublicKey, "", "")))
	source := &rotating{sets: []*KeySet{oldSet, newSet}}
	v := verifier(t, Settings{}, source)
	got, err := v.Verify(t.Context(), mintAs("EdDSA", k.ed, goodClaims("")), now)
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := v.KeySetID(); got.KeySetID != oldSet.ID() || got.KeySetID == id {
		t.Errorf("got key set %v, in force %v; want %v", got.KeySetID, id, oldSet.ID())
	}
}

// rotating hands out its sets one after the other, as if each read were followed
// by a rotation.
type rotating struct {
	Source
	sets []*KeySet
}

func (r *rotating) Keys() *KeySet {
	set := r.sets[0]
	if len(r.sets) > 1 {
		r.sets = r.sets[1:]
	}
	return set
}

// Verifications, refreshes and rotations at once: each result belongs to the set
// that it names.
func TestConcurrentRotation(t *testing.T) {
	k := keys()
	sets := [2]Key{pub(t, k.ed.Public(), "", ""), pub(t, &k.p256.PublicKey, "", "")}
	ids := [2]KeySetID{must(NewKeySet(sets[0])).ID(), must(NewKeySet(sets[1])).ID()}
	raws := [2]string{mintAs("EdDSA", k.ed, goodClaims("")), mintAs("ES256", k.p256, goodClaims(""))}
	var round atomic.Int64
	source := FromFunc("test", func(context.Context) ([]Key, error) {
		return []Key{sets[round.Add(1)%2]}, nil
	}, Options{Floor: time.Microsecond})
	v := verifier(t, Settings{}, source)
	if err := source.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, source)

	var group sync.WaitGroup
	var accepted [2]atomic.Int64
	for range 4 {
		group.Go(func() {
			for i := range 400 {
				which := i % 2
				got, err := v.Verify(t.Context(), raws[which], now)
				if err != nil {
					if KindOf(err) != BadSignature {
						t.Errorf("got %v; want a bad signature or none", err)
					}
					continue
				}
				accepted[which].Add(1)
				if got.KeySetID != ids[which] {
					t.Errorf("token %d verified by key set %v; want %v", which, got.KeySetID, ids[which])
				}
			}
		})
	}
	group.Wait()
	if accepted[0].Load() == 0 || accepted[1].Load() == 0 || round.Load() < 10 {
		t.Errorf("accepted %d and %d in %d loads; want some of each in many", accepted[0].Load(), accepted[1].Load(), round.Load())
	}
}
