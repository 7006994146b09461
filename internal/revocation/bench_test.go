package revocation

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Figures for docs/performance.md:
//
//	go test -run '^$' -bench . ./internal/revocation
//
// CAPIF_LONG=1 adds 10 million claims. The fixtures are kept for one run.

// BenchmarkFsync is the disk's own speed, to hold the others against.
func BenchmarkFsync(b *testing.B) {
	file, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 4096)
	for n := 0; b.Loop(); n++ {
		_, err := file.WriteAt(block, int64(n%256)*int64(len(block)))
		if err != nil {
			b.Fatal(err)
		}
		err = file.Sync()
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDeny(b *testing.B) {
	for _, callers := range []int{1, 2, 8, 64, 1000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := openLedger(b, ledgerPath(b), Options{})
			var number atomic.Int64
			b.ResetTimer()
			share(b, callers, func() error {
				n := number.Add(1)
				return l.Deny(b.Context(), Deny{Invoker: fmt.Sprintf("invoker-%08d", n), AEF: "aef-north-1", APIs: []string{"8f36c0"}})
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "denies/s")
		})
	}
}

func BenchmarkTrigger(b *testing.B) {
	for _, callers := range []int{1, 1000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := openLedger(b, ledgerPath(b), Options{})
			var number atomic.Int64
			b.ResetTimer()
			share(b, callers, func() error {
				n := number.Add(1)
				_, err := l.Trigger(b.Context(), Trigger{
					Invoker: fmt.Sprintf("invoker-%08d", n), AEF: "aef-north-1", APIs: []string{"8f36c0"},
					Cause: "OVERLIMIT_USAGE", Reason: "more calls than agreed", RequestedBy: "operator", Hold: true,
				})
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "triggers/s")
		})
	}
}

// share does b.N asks from so many goroutines.
func share(b *testing.B, callers int, ask func() error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				err := ask()
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkCovering(b *testing.B) {
	for _, n := range []int{1, 10_000, 1_000_000} {
		x := newIndex()
		for i := range n {
			s := benchScope(i)
			x.add(appendScope(nil, &s), false, uint64(i))
		}
		l := &Ledger{index: x}
		apis := []string{"8f36c0"}
		invokers := make([]string, 4096)
		for i := range invokers {
			invokers[i] = benchScope(i * max(1, n/len(invokers)) % n).Invoker
		}
		for name, aef := range map[string]string{"denied": "aef-north-1", "allowed": "aef-north-2"} {
			want := map[string]Cover{"denied": CoverAuthorization, "allowed": CoverNone}[name]
			b.Run(fmt.Sprintf("claims=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					got := l.Covering(invokers[i%len(invokers)], aef, apis, someToken)
					if got != want {
						b.Fatalf("got %v; want %v", got, want)
					}
				}
			})
		}
	}
}

func benchScope(i int) Scope {
	return Scope{Invoker: fmt.Sprintf("INV%032x", i), AEF: "aef-north-1", API: "8f36c0"}
}

// BenchmarkOpen reports the time until a ledger is ready and what its index
// holds on the heap.
func BenchmarkOpen(b *testing.B) {
	sizes := []int{10_000, 1_000_000}
	if long() {
		sizes = append(sizes, 10_000_000)
	}
	for _, n := range sizes {
		path := ledgerPath(b)
		fillFile(b, path, n)
		b.Run(fmt.Sprintf("claims=%d", n), func(b *testing.B) {
			heap := uint64(0)
			for b.Loop() {
				b.StopTimer()
				before := heapNow()
				l := NewLedger(path)
				b.StartTimer()
				err := l.Open(Options{Logger: quiet(), MustExist: true})
				b.StopTimer()
				if err != nil || l.Stats().DeniedScopes != int64(n) {
					b.Fatalf("got %d scopes, %v; want %d", l.Stats().DeniedScopes, err, n)
				}
				heap = heapNow() - before
				closeLedger(b, l)
				b.StartTimer()
			}
			b.ReportMetric(float64(heap)/1e6, "heap-MB")
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/open")
		})
	}
}

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fillFile writes n claims past the ledger, in large transactions.
func fillFile(b *testing.B, path string, n int) {
	b.Helper()
	closeLedger(b, openLedger(b, path, Options{}))
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.NoSync = true // it is only a fixture
	c := counters{Sequence: uint64(n)}
	at := time.Now().UTC()
	for done := 0; done < n; {
		err := db.Update(func(tx *bolt.Tx) error {
			bucket := tx.Bucket(bucketClaims)
			bucket.FillPercent = 0.9
			for end := min(n, done+100_000); done < end; done++ {
				claim := Claim{Scope: benchScope(done), Origin: OriginCore, Cause: "OVERLIMIT_USAGE", SetAt: at}
				key := claimKey(&claim)
				record, err := encodeRecord(key, uint64(done+1), claim)
				if err != nil {
					return err
				}
				c.add(bucketClaims, key, record)
				err = bucket.Put(key, record)
				if err != nil {
					return err
				}
			}
			state, err := encodeRecord(keyState, 0, c)
			if err != nil {
				return err
			}
			return tx.Bucket(bucketMeta).Put(keyState, state)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	// Or the kernel would write it back while its opening is measured.
	err = db.Sync()
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkVerify is the check of the whole file after a disk error; changes
// wait for it.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		path := ledgerPath(b)
		fillFile(b, path, n)
		l := openLedger(b, path, Options{MustExist: true})
		file, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = file.Close() })
		b.Run(fmt.Sprintf("claims=%d", n), func(b *testing.B) {
			for b.Loop() {
				err := verify(l.db, file, l.tag)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIndexAdd separates the index from the reading of the file.
func BenchmarkIndexAdd(b *testing.B) {
	x := newIndex()
	scope := appendScope(nil, &Scope{Invoker: "INV00000000", AEF: "aef-north-1", API: "8f36c0"})
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(scope[4:], uint64(i%1_000_000))
		x.add(scope, false, uint64(i))
	}
}
