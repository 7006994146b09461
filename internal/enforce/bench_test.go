package enforce

import (
	"fmt"
	"testing"

	"github.com/dgraph-io/ristretto/v2"
)

// BenchmarkDecideCached decides calls whose verdict is cached, beside a bare
// look into ristretto for the same number of tokens.
func BenchmarkDecideCached(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			x := newScene(b, newEd())
			x.cache.Resize(2 * int64(tokens))
			raws := make([]string, tokens)
			for i := range raws {
				raws[i] = x.signer.good(fmt.Sprint("inv ", i))
			}
			for _, raw := range raws {
				wantCached(b, x.decider, raw, Allowed)
			}
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

func BenchmarkBareRistrettoGet(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			store := must(ristretto.NewCache(&ristretto.Config[uint64, *int]{
				NumCounters: 20 * int64(tokens), MaxCost: 2 * int64(tokens), BufferItems: 64, IgnoreInternalCost: true,
			}))
			defer store.Close()
			const spread = 0x9e3779b97f4a7c15 // keys as a hash would give them
			for i := range tokens {
				for !store.Set(uint64(i)*spread, new(int), 1) {
				}
				store.Wait()
			}
			b.ReportAllocs()
			missed := 0
			for i := 0; b.Loop(); i++ {
				if _, ok := store.Get(uint64(i%tokens) * spread); !ok {
					missed++
				}
			}
			b.ReportMetric(float64(missed)/float64(b.N), "misses/op")
		})
	}
}
