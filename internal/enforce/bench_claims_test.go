package enforce

import (
	"fmt"
	"sync"
	"testing"

	"github.com/caddy-capif/aef/internal/revocation"
)

// BenchmarkDecideCachedOverClaims decides calls whose verdict is cached while the
// ledger holds many claims of other API invokers: what is cached must not cost
// more for what is denied elsewhere. Hold it against BenchmarkBareRistrettoGet
// of the same run.
func BenchmarkDecideCachedOverClaims(b *testing.B) {
	for _, claims := range []int{10_000, 1_000_000} {
		x := newScene(b, newEd())
		fillLedger(b, x.ledger, claims)
		for _, tokens := range []int{1, 10_000} {
			x.cache.Resize(2 * int64(tokens))
			raws := make([]string, tokens)
			for i := range raws {
				raws[i] = x.signer.good(fmt.Sprint("inv ", i))
			}
			for _, raw := range raws {
				wantCached(b, x.decider, raw, Allowed)
			}
			b.Run(fmt.Sprintf("claims=%d/tokens=%d", claims, tokens), func(b *testing.B) {
				b.ReportAllocs()
				missed := 0
				for i := 0; b.Loop(); i++ {
					d := x.decider.Decide(b.Context(), raws[i%tokens], now)
					if d.Reason != Allowed {
						b.Fatalf("got %v; want %v", d.Reason, Allowed)
					}
					if !d.Cached {
						missed++
					}
				}
				b.ReportMetric(float64(missed)/float64(b.N), "misses/op")
			})
		}
	}
}

// fillLedger sets so many claims, a hundred on each API invoker.
func fillLedger(b *testing.B, l *revocation.Ledger, claims int) {
	b.Helper()
	const apis, callers = 100, 100
	names := make([]string, apis)
	for i := range names {
		names[i] = fmt.Sprint("api ", i)
	}
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := caller; i < claims/apis; i += callers {
				err := l.Deny(b.Context(), revocation.Deny{Invoker: fmt.Sprint("denied ", i), AEF: aef, APIs: names})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := l.Stats().DeniedScopes; got != int64(claims) {
		b.Fatalf("got %d claims; want %d", got, claims)
	}
}
