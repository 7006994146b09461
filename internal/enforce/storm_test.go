package enforce

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// plainVerifier takes a token for the name of its invoker: where a signature
// would cost more than all that is under test.
type plainVerifier struct{}

func (plainVerifier) Fingerprint() [16]byte { return [16]byte{} }

func (plainVerifier) KeySetID() (token.KeySetID, bool) { return token.KeySetID{1}, true }

func (plainVerifier) Verify(_ context.Context, raw string, _ time.Time) (token.Token, error) {
	return token.Token{Invoker: raw, Expires: soon, Scope: "all", Digest: sha256.Sum256([]byte(raw)), KeySetID: token.KeySetID{1}}, nil
}

func (plainVerifier) ValidAt(int64, int64, time.Time) error { return nil }

// A deny cache of 100 entries, 100,000 denied pairs, calls from all sides: every
// one is refused.
func TestEvictionStorm(t *testing.T) {
	const (
		invokers = 100
		apis     = 1000
		callers  = 4
	)
	rounds := max(4/underRace, 1)
	ledger := openLedger(t)
	cache := must(denycache.New(100))
	names := make([]string, apis)
	deciders := make([]*Decider, apis)
	for i := range apis {
		names[i] = fmt.Sprint("api ", i)
		deciders[i] = decider(t, Route{AEFID: aef, APIIDs: []string{names[i]}, PlainScope: "all"}, plainVerifier{}, ledger, cache)
	}
	invoker := func(i int) string { return fmt.Sprint("invoker ", i) }
	for i := range invokers {
		err := ledger.Deny(t.Context(), revocation.Deny{Invoker: invoker(i), AEF: aef, APIs: names})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := ledger.Stats().DeniedScopes; got != invokers*apis {
		t.Fatalf("got %d denied pairs; want %d", got, invokers*apis)
	}

	var refused, passed, innocent, hits atomic.Int64
	var group sync.WaitGroup
	for caller := range callers {
		random := mathrand.New(mathrand.NewPCG(1, uint64(caller)))
		group.Go(func() {
			for range rounds {
				for _, n := range random.Perm(invokers * apis) {
					d := deciders[n%apis]
					for range 2 { // the second may find it cached
						got := d.Decide(t.Context(), invoker(n/apis), now)
						if got.Reason == AuthorizationRevoked {
							refused.Add(1)
						} else {
							passed.Add(1)
						}
						if got.Cached {
							hits.Add(1)
						}
					}
					if n%10 == 0 && d.Decide(t.Context(), "nobody denies this one", now).Reason == Allowed {
						innocent.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	calls := int64(callers * rounds * invokers * apis)
	if got := passed.Load(); got != 0 {
		t.Errorf("got %d calls not refused; want none", got)
	}
	if got := refused.Load(); got != 2*calls {
		t.Errorf("got %d calls refused; want %d", got, 2*calls)
	}
	if got := innocent.Load(); got != calls/10 {
		t.Errorf("got %d calls of an API invoker that nobody denies passed; want %d", got, calls/10)
	}
	stats := cache.Stats()
	if stats.Dropped+stats.Rejected+stats.Evicted == 0 {
		t.Errorf("got %+v; want a cache that loses entries, or nothing was shown", stats)
	}
	t.Logf("%d calls refused, %d of all from the cache; the cache: %+v", refused.Load(), hits.Load(), stats)
}

// floodMemory is how much the heap may grow over a flood of forged tokens.
const floodMemory = 4 << 20

// A flood of distinct forged tokens neither pushes good ones out of the cache
// nor fills the memory.
func TestFloodOfForgedTokens(t *testing.T) {
	const good = 50
	forged := 100_000 / underRace
	private := must(rsa.GenerateKey(rand.Reader, 2048)) // verifies fastest
	ed := newEd()
	x := &scene{tb: t, signer: ed, keys: newKeyRing(ed.key, must(token.NewKey(&private.PublicKey, "", "")))}
	x.verifier = must(token.NewVerifier(token.Settings{}, x.keys))
	x.ledger = openLedger(t)
	x.cache = must(denycache.New(100))
	x.reload()
	raws := make([]string, good)
	for i := range raws {
		raws[i] = ed.good(fmt.Sprint("inv ", i))
		wantCached(t, x.decider, raws[i], Allowed)
	}
	for i := range raws { // all of them are in at once
		wantCached(t, x.decider, raws[i], Allowed)
	}
	header := b64([]byte(`{"alg":"RS256","typ":"JWT"}`))
	before := heap()

	var next, notRefused, notCached atomic.Int64
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			signature := make([]byte, 256)
			for {
				i := int(next.Add(1))
				if i > forged {
					return
				}
				new(big.Int).SetInt64(int64(i) * 7919).FillBytes(signature)
				payload := b64([]byte(fmt.Sprintf(`{"iss":"inv %d","exp":%d,"scope":%q,"jti":"%d"}`, i%good, soon, scopeOfA, i)))
				raw := strings.Join([]string{header, payload, b64(signature)}, ".")
				if x.decider.Decide(t.Context(), raw, now).Reason != TokenBadSignature {
					notRefused.Add(1)
				}
				d := x.decider.Decide(t.Context(), raws[i%good], now)
				if d.Reason != Allowed || !d.Cached {
					notCached.Add(1)
				}
			}
		})
	}
	group.Wait()
	after := heap()
	if got := notRefused.Load(); got != 0 {
		t.Errorf("got %d forged tokens not refused for their signature; want none", got)
	}
	if got := notCached.Load(); got != 0 {
		t.Errorf("got %d calls with a good token not answered from the cache; want none", got)
	}
	if after > before+floodMemory {
		t.Errorf("got a heap of %d bytes, %d before; want at most %d more", after, before, floodMemory)
	}
	t.Logf("%d forged tokens: heap from %d to %d bytes, the cache: %+v", forged, before, after, x.cache.Stats())
}

// heap is what is reachable.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
