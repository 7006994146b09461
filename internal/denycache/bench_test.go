package denycache

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// BenchmarkGet is a hit: the key, ristretto, and the comparison of the whole
// token, route and key set.
func BenchmarkGet(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		for _, size := range []int{300, 1200} {
			b.Run(fmt.Sprintf("tokens=%d/bytes=%d", tokens, size), func(b *testing.B) {
				c := newCache(b, 0)
				entries := benchEntries(tokens, size)
				raws := make([]string, tokens)
				for i, e := range entries {
					put(b, c, e)
					raws[i] = strings.Clone(e.Token) // as it comes in a request
				}
				route, keySet := entries[0].Route, entries[0].KeySet
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if c.Get(raws[i%tokens], &route, keySet) == nil {
						b.Fatal("got nothing; want a hit")
					}
				}
			})
		}
	}
}

// BenchmarkPut puts in new entries, while others end.
func BenchmarkPut(b *testing.B) {
	for name, ttl := range map[string]time.Duration{"none_over": time.Hour, "as_many_over": time.Nanosecond} {
		b.Run(name, func(b *testing.B) {
			c := newCache(b, 0)
			entries := benchEntries(100_000, 100)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Put(entries[i%len(entries)], ttl)
			}
		})
	}
}

func benchEntries(n, size int) []*Entry {
	entries := make([]*Entry, n)
	for i := range entries {
		entries[i] = entry(fmt.Sprintf("%0*d", size, i), 1, 1)
	}
	return entries
}
