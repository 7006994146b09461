package enforce

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/token"
)

// missing is a cache that is asked and filled as ever, and misses each time.
type missing struct{ *denycache.Cache }

func (m missing) Get(raw string, route *denycache.ID, keySet denycache.ID) *denycache.Entry {
	_ = m.Cache.Get(raw, route, keySet)
	return nil
}

// firstSight is a route that has never seen its token, and the bare signature
// check of that token as the standard library does it.
type firstSight struct {
	decider *Decider
	raw     string
	bare    func() bool
}

func newFirstSight(tb testing.TB, alg string) *firstSight {
	tb.Helper()
	// The claims of a token of OpenCAPIF.
	payload := fmt.Sprintf(`{"fresh":false,"iat":%d,"jti":"5f0c6c2a-1e55-4a3e-9d7b-0a52a7a4c001","type":"access","sub":"INV8b6c",`+
		`"nbf":%d,"csrf":"d1","exp":%d,"iss":"INV8b6c","scope":"%s,qos;AEFb2:x","res_owner_id":null}`, now.Unix()-60, now.Unix()-60, soon, scopeOfA)
	f := &firstSight{}
	var key token.Key
	var check func(digest, sig []byte) bool
	switch alg {
	case "ES256":
		s := newES256()
		f.raw, key = s.mint(payload), s.key
		check = func(digest, sig []byte) bool {
			return ecdsa.Verify(&s.ec.PublicKey, digest, new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
		}
	case "RS256":
		private := must(rsa.GenerateKey(rand.Reader, 2048))
		input := b64([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + b64([]byte(payload))
		digest := sha256.Sum256([]byte(input))
		f.raw = input + "." + b64(must(rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])))
		key = must(token.NewKey(&private.PublicKey, "", ""))
		check = func(digest, sig []byte) bool {
			return rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest, sig) == nil
		}
	}
	cut := strings.LastIndexByte(f.raw, '.')
	input, sig := []byte(f.raw[:cut]), must(base64.RawURLEncoding.DecodeString(f.raw[cut+1:]))
	f.bare = func() bool {
		digest := sha256.Sum256(input)
		return check(digest[:], sig)
	}
	verifier := must(token.NewVerifier(token.Settings{}, newKeyRing(key)))
	f.decider = decider(tb, testRoute(), verifier, openLedger(tb), missing{must(denycache.New(0))})
	return f
}

// BenchmarkFirstSight takes turns: the whole first sight of a token, from its
// bytes to the verdict in the cache, and the bare signature check. One op is one
// of each; the ratio is the median of those of all pairs.
func BenchmarkFirstSight(b *testing.B) {
	for _, alg := range []string{"RS256", "ES256"} {
		b.Run(alg, func(b *testing.B) {
			f := newFirstSight(b, alg)
			ctx := b.Context()
			var first, bare, ratios []float64
			for b.Loop() {
				start := time.Now()
				if d := f.decider.Decide(ctx, f.raw, now); d.Reason != Allowed {
					b.Fatalf("got %v (%v); want %v", d.Reason, d.Err, Allowed)
				}
				middle := time.Now()
				if !f.bare() {
					b.Fatal("got a bad signature; want a good one")
				}
				end := time.Now()
				first = append(first, float64(middle.Sub(start)))
				bare = append(bare, float64(end.Sub(middle)))
				ratios = append(ratios, float64(middle.Sub(start))/float64(end.Sub(middle)))
			}
			b.ReportMetric(median(first), "ns/first")
			b.ReportMetric(median(bare), "ns/bare")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// maxFirstSightAllocations bounds the whole first sight of a token.
const maxFirstSightAllocations = 80

func TestFirstSightAllocations(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256"} {
		t.Run(alg, func(t *testing.T) {
			f := newFirstSight(t, alg)
			ctx := t.Context()
			got := testing.AllocsPerRun(200, func() {
				d := f.decider.Decide(ctx, f.raw, now)
				if d.Reason != Allowed || d.Cached {
					t.Fatalf("got %v, cached %v; want %v at first sight", d.Reason, d.Cached, Allowed)
				}
			})
			t.Logf("%v allocations", got)
			if got > maxFirstSightAllocations {
				t.Errorf("got %v allocations; want at most %d", got, maxFirstSightAllocations)
			}
		})
	}
}

var _ Cache = missing{}
