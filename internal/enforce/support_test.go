package enforce

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// TestMain looks for goroutines that stay. Those of a cache end with the
// garbage collection that finds it unreachable.
func TestMain(m *testing.M) {
	code := m.Run()
	var err error
	for range 10 {
		runtime.GC()
		err = goleak.Find()
		if err == nil {
			break
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// now is the time of all calls, soon a fitting exp.
var (
	now  = time.Unix(1_800_000_000, 0)
	soon = now.Add(10 * time.Minute).Unix()
)

const (
	aef      = "aef-1"
	api      = "api-1"
	scopeOfA = "3gpp#aef-1:location"
)

func testRoute() Route { return Route{AEFID: aef, APIName: "location", APIIDs: []string{api}} }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// signer is a key of the core that mints tokens.
type signer struct {
	ed  ed25519.PrivateKey // one of the two
	ec  *ecdsa.PrivateKey
	key token.Key
}

func newEd() *signer {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return &signer{ed: private, key: must(token.NewKey(public, "", ""))}
}

func newES256() *signer {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	return &signer{ec: private, key: must(token.NewKey(&private.PublicKey, "", ""))}
}

func (s *signer) sign(header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	if s.ed != nil {
		return input + "." + b64(ed25519.Sign(s.ed, []byte(input)))
	}
	digest := sha256.Sum256([]byte(input))
	r, v, err := ecdsa.Sign(rand.Reader, s.ec, digest[:])
	if err != nil {
		panic(err)
	}
	return input + "." + b64(joinRS(r, v))
}

// mint makes a token of these claims.
func (s *signer) mint(claims string) string {
	alg := "EdDSA"
	if s.ec != nil {
		alg = "ES256"
	}
	return s.sign(fmt.Sprintf(`{"alg":%q,"typ":"JWT"}`, alg), claims)
}

// good makes a token of an invoker that is in order for [testRoute].
func (s *signer) good(invoker string) string {
	return s.mint(fmt.Sprintf(`{"iss":%q,"exp":%d,"scope":%q}`, invoker, soon, scopeOfA))
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func joinRS(r, s *big.Int) []byte {
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// keyRing is a key source that a test rotates.
type keyRing struct {
	token.Source
	set atomic.Pointer[token.KeySet]
	// afterRead, if set, runs after each read of the keys.
	afterRead atomic.Pointer[func()]
}

func newKeyRing(keys ...token.Key) *keyRing {
	k := &keyRing{}
	k.rotate(keys...)
	return k
}

func (k *keyRing) rotate(keys ...token.Key) {
	if len(keys) > 0 {
		k.set.Store(must(token.NewKeySet(keys...)))
	}
}

func (k *keyRing) Keys() *token.KeySet {
	set := k.set.Load()
	if hook := k.afterRead.Load(); hook != nil {
		(*hook)()
	}
	return set
}

func (k *keyRing) Refresh(context.Context) {}

// scene is one AEF: real parts, with a ledger in a folder of the test.
type scene struct {
	tb       testing.TB
	signer   *signer
	keys     *keyRing
	verifier *token.Verifier
	ledger   *revocation.Ledger
	cache    *denycache.Cache
	decider  *Decider
}

func newScene(tb testing.TB, s *signer) *scene {
	tb.Helper()
	x := &scene{tb: tb, signer: s, keys: newKeyRing(s.key)}
	x.verifier = must(token.NewVerifier(token.Settings{}, x.keys))
	x.ledger = openLedger(tb)
	x.cache = must(denycache.New(1000))
	x.reload()
	return x
}

// reload makes a new decider over the shared state, as a new configuration does.
func (x *scene) reload() { x.decider = x.over(x.ledger) }

func (x *scene) over(claims Claims) *Decider {
	x.tb.Helper()
	return decider(x.tb, testRoute(), x.verifier, claims, x.cache)
}

func decider(tb testing.TB, r Route, v Verifier, claims Claims, cache Cache) *Decider {
	tb.Helper()
	d, err := NewDecider(r, v, claims, cache)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func openLedger(tb testing.TB) *revocation.Ledger {
	tb.Helper()
	l := revocation.NewLedger(filepath.Join(tb.TempDir(), "ledger.db"))
	err := l.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("close: got %v; want no error", err)
		}
	})
	return l
}

func denyOf(invoker string) revocation.Deny {
	return revocation.Deny{Invoker: invoker, AEF: aef, APIs: []string{api}, Cause: "UNEXPECTED_REASON"}
}

func (x *scene) deny(d revocation.Deny) {
	x.tb.Helper()
	if err := x.ledger.Deny(x.tb.Context(), d); err != nil {
		x.tb.Fatal(err)
	}
}

func (x *scene) lift(l revocation.Lift) {
	x.tb.Helper()
	if _, err := x.ledger.Lift(x.tb.Context(), l); err != nil {
		x.tb.Fatal(err)
	}
}

func (x *scene) want(raw string, want Reason) Decision {
	x.tb.Helper()
	return wantReason(x.tb, x.decider, raw, want)
}

func wantReason(tb testing.TB, d *Decider, raw string, want Reason) Decision {
	tb.Helper()
	got := d.Decide(tb.Context(), raw, now)
	if got.Reason != want {
		tb.Errorf("got %v (%v); want %v", got.Reason, got.Err, want)
	}
	return got
}

// wantCached calls until the verdict comes from the cache, which ristretto
// fills in its own time.
func wantCached(tb testing.TB, d *Decider, raw string, want Reason) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		got := d.Decide(tb.Context(), raw, now)
		if got.Reason != want {
			tb.Fatalf("got %v (%v); want %v", got.Reason, got.Err, want)
		}
		if got.Cached {
			return
		}
	}
	tb.Fatal("got no verdict from the cache; want one")
}

func digestOf(tb testing.TB, v Verifier, raw string) revocation.Digest {
	tb.Helper()
	t, err := v.Verify(tb.Context(), raw, now)
	if err != nil {
		tb.Fatal(err)
	}
	return revocation.Digest(t.Digest)
}
