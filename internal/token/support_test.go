package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of all tokens in tests; soon is a fitting exp.
var now = time.Unix(1_800_000_000, 0)

const soon = 1_800_000_600

// testKeys are made once: RSA keys are slow to make.
type testKeys struct {
	rsa, otherRSA *rsa.PrivateKey
	p256, p384    *ecdsa.PrivateKey
	p521          *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
}

var keys = sync.OnceValue(func() testKeys {
	var k testKeys
	k.rsa = must(rsa.GenerateKey(rand.Reader, 2048))
	k.otherRSA = must(rsa.GenerateKey(rand.Reader, 2048))
	k.p256 = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	k.p384 = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	k.p521 = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// mint signs claims with the standard library alone, so that no mistake of the
// library under test can hide in it.
func mint(alg string, key any, header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(signature(alg, key, input))
}

// mintAs is mint with a header of alg alone.
func mintAs(alg string, key any, claims string) string {
	return mint(alg, key, fmt.Sprintf(`{"alg":%q,"typ":"JWT"}`, alg), claims)
}

func signature(alg string, key any, input string) []byte {
	switch alg {
	case "none":
		return nil
	case "HS256":
		mac := hmac.New(sha256.New, key.([]byte))
		mac.Write([]byte(input))
		return mac.Sum(nil)
	case "EdDSA":
		return ed25519.Sign(key.(ed25519.PrivateKey), []byte(input))
	}
	hash, digest := crypto.SHA256, []byte(nil)
	switch alg[2:] {
	case "256":
		d := sha256.Sum256([]byte(input))
		digest = d[:]
	case "384":
		d := sha512.Sum384([]byte(input))
		hash, digest = crypto.SHA384, d[:]
	case "512":
		d := sha512.Sum512([]byte(input))
		hash, digest = crypto.SHA512, d[:]
	}
	switch alg[:2] {
	case "RS":
		return must(rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), hash, digest))
	case "PS":
		return must(rsa.SignPSS(rand.Reader, key.(*rsa.PrivateKey), hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	case "ES":
		private := key.(*ecdsa.PrivateKey)
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			panic(err)
		}
		return joinRS(private.Curve, r, s)
	}
	panic("no such alg: " + alg)
}

func joinRS(curve elliptic.Curve, r, s *big.Int) []byte {
	n := (curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*n)
	r.FillBytes(out[:n])
	s.FillBytes(out[n:])
	return out
}

// goodClaims returns a claim set that is accepted, with extra members in front.
func goodClaims(extra string) string {
	return fmt.Sprintf(`{%s"iss":"inv-1","exp":%d,"scope":"3gpp#aef-1:location,qos"}`, extra, soon)
}

func pub(t testing.TB, public any, kid, alg string) Key {
	t.Helper()
	k, err := NewKey(public, kid, alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fixedSource(t testing.TB, keys ...Key) Source {
	t.Helper()
	s, err := Fixed(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifier(t testing.TB, s Settings, source Source) *Verifier {
	t.Helper()
	v, err := NewVerifier(s, source)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// allKeys is a source of the public halves of all test keys, none with a kid.
func allKeys(t testing.TB) Source {
	t.Helper()
	k := keys()
	return fixedSource(t, pub(t, &k.rsa.PublicKey, "", ""), pub(t, &k.p256.PublicKey, "", ""), pub(t, &k.p384.PublicKey, "", ""),
		pub(t, &k.p521.PublicKey, "", ""), pub(t, k.ed.Public(), "", ""))
}

func wantKind(t *testing.T, err error, want Kind) {
	t.Helper()
	if got := KindOf(err); got != want {
		t.Errorf("error %v is of kind %v; want %v", err, got, want)
	}
}

func pemOf(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func publicPEM(public any) []byte {
	return pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(public)))
}

// jwkOf writes a public JWK by hand, with extra members.
func jwkOf(public any, extra map[string]any) map[string]any {
	m := map[string]any{}
	switch p := public.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(p.N.Bytes()), b64(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(p.Bytes())
		n := len(point) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", p.Curve.Params().Name, b64(point[1:1+n]), b64(point[1+n:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(p)
	}
	for name, v := range extra {
		m[name] = v
	}
	return m
}

func jwks(keys ...map[string]any) []byte {
	return must(json.Marshal(map[string]any{"keys": keys}))
}

// logBuffer is safe to read while a logger writes to it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newLog() (*slog.Logger, *logBuffer) {
	b := &logBuffer{}
	return slog.New(slog.NewTextHandler(b, nil)), b
}

// run runs source until the test ends, and waits for its end.
func run(t *testing.T, source Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
