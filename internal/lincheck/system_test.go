package lincheck

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
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

const (
	aef   = "aef-1"
	api   = "api-1"
	scope = "3gpp#aef-1:location"
)

var (
	now  = time.Unix(1_800_000_000, 0)
	soon = now.Add(10 * time.Minute).Unix()
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// verifier is an [enforce.Verifier] whose keys can be rotated: the tokens stay
// good, the key set is another.
type verifier interface {
	enforce.Verifier
	rotate()
}

// plainVerifier knows its tokens by heart: where signatures would cost more than
// what is under test, calls and changes would hardly meet.
type plainVerifier struct {
	known  map[string]token.Token
	keySet atomic.Uint64
}

func newPlainVerifier(invokers []string) *plainVerifier {
	v := &plainVerifier{known: map[string]token.Token{}}
	for _, name := range invokers {
		v.known[name] = token.Token{Invoker: name, Expires: soon, Scope: scope, Digest: sha256.Sum256([]byte(name))}
	}
	return v
}

func (v *plainVerifier) rotate() { v.keySet.Add(1) }

func (v *plainVerifier) Fingerprint() [16]byte { return [16]byte{} }

func (v *plainVerifier) KeySetID() (token.KeySetID, bool) {
	return token.KeySetID{byte(v.keySet.Load() % 4)}, true
}

func (v *plainVerifier) Verify(_ context.Context, raw string, _ time.Time) (token.Token, error) {
	t := v.known[raw]
	t.KeySetID, _ = v.KeySetID()
	return t, nil
}

func (v *plainVerifier) ValidAt(int64, int64, time.Time) error { return nil }

// realVerifier checks signatures, with keys that change.
type realVerifier struct {
	*token.Verifier
	sets  []*token.KeySet
	count atomic.Uint64
}

// ring is the key source of a realVerifier.
type ring struct {
	token.Source
	v *realVerifier
}

func (r ring) Keys() *token.KeySet { return r.v.sets[r.v.count.Load()%uint64(len(r.v.sets))] }

func (r ring) Refresh(context.Context) {}

func (v *realVerifier) rotate() { v.count.Add(1) }

// newRealVerifier also mints a token for each name.
func newRealVerifier(invokers []string) (*realVerifier, []string) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	key := must(token.NewKey(public, "", ""))
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	v := &realVerifier{sets: []*token.KeySet{
		must(token.NewKeySet(key)),
		must(token.NewKeySet(key, must(token.NewKey(other, "", "")))),
	}}
	v.Verifier = must(token.NewVerifier(token.Settings{}, ring{v: v}))
	encode := base64.RawURLEncoding.EncodeToString
	raws := make([]string, len(invokers))
	for i, name := range invokers {
		input := encode([]byte(`{"alg":"EdDSA"}`)) + "." +
			encode(fmt.Appendf(nil, `{"iss":%q,"exp":%d,"scope":%q}`, name, soon, scope))
		raws[i] = input + "." + encode(ed25519.Sign(private, []byte(input)))
	}
	return v, raws
}

// system is one AEF: all is real but, where it says so, the verifier.
type system struct {
	invokers []string
	tokens   []string
	verifier verifier
	ledger   *revocation.Ledger
	cache    *denycache.Cache
	// claims is what the deciders ask, denyVia and liftVia how changes get
	// in: the places where a mutation puts its fault.
	claims  func() enforce.Claims
	denyVia func(pair int, deny func() error) error
	liftVia func(pair int, lift func() error) error
	// reloads counts configurations: each caller follows with a new decider.
	reloads atomic.Int64
	used    bool // by an earlier round

	// slice is how many calls a caller makes between two yields, rotateEvery
	// how many yields lie between two rotations of the keys.
	slice, rotateEvery int
}

type setup struct {
	pairs  int
	tokens int64 // that the cache holds
	real   bool  // signatures
	slice  int   // default: defaultSlice

	rotateEvery int // default: 32
	wrapCommit  func(func() error) error
	watcher     revocation.Watcher // default: none
}

func newSystem(t *testing.T, s setup) *system {
	t.Helper()
	x := &system{slice: cmp.Or(s.slice, defaultSlice), rotateEvery: cmp.Or(s.rotateEvery, 32)}
	for i := range s.pairs {
		x.invokers = append(x.invokers, fmt.Sprint("invoker ", i))
	}
	if s.real {
		x.verifier, x.tokens = newRealVerifier(x.invokers)
	} else {
		x.verifier, x.tokens = newPlainVerifier(x.invokers), x.invokers
	}
	x.ledger = revocation.NewLedger(filepath.Join(t.TempDir(), "ledger.db"))
	if s.watcher != nil {
		x.ledger.SetWatcher(s.watcher)
	}
	err := x.ledger.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler), WrapCommit: s.wrapCommit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.ledger.Close() }) // on a failing disk it says what was lost
	x.cache = must(denycache.New(s.tokens))
	x.claims = func() enforce.Claims { return x.ledger }
	x.denyVia = func(_ int, deny func() error) error { return deny() }
	x.liftVia = func(_ int, lift func() error) error { return lift() }
	return x
}

// decider is what a configuration makes of the shared state.
func (x *system) decider() *enforce.Decider {
	return must(enforce.NewDecider(
		enforce.Route{AEFID: aef, APIName: "location", APIIDs: []string{api}}, x.verifier, x.claims(), x.cache))
}

// deny denies a pair in one of the ways there are.
func (x *system) deny(ctx context.Context, pair, way int) error {
	return x.denyVia(pair, func() error {
		d := revocation.Deny{Invoker: x.invokers[pair], Cause: "UNEXPECTED_REASON"}
		switch way % 5 {
		case 0:
			_, err := x.ledger.Trigger(ctx, revocation.Trigger{
				Invoker: d.Invoker, AEF: aef, APIs: []string{api}, Cause: d.Cause, Hold: true})
			return err
		case 1: // the core names this aefId
			d.AEF, d.APIs = aef, []string{api}
		case 2: // the core names none
			d.APIs = []string{api}
		case 3: // all APIs
		case 4: // one token
			d.APIs = []string{api}
			d.Token = x.digest(pair)
		}
		return x.ledger.Deny(ctx, d)
	})
}

func (x *system) digest(pair int) revocation.Digest {
	digest, err := token.DigestOf(x.tokens[pair])
	if err != nil {
		return sha256.Sum256([]byte(x.tokens[pair])) // of the plain verifier
	}
	return revocation.Digest(digest)
}

func (x *system) lift(ctx context.Context, pair int) error {
	return x.liftVia(pair, func() error {
		_, err := x.ledger.Lift(ctx, revocation.Lift{Invoker: x.invokers[pair]})
		return err
	})
}
