//go:build linux && (amd64 || arm64)

package revocation

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// BenchmarkOpenCold is BenchmarkOpen as after a reboot: nothing of the file is in
// the page cache. Hold it against BenchmarkOpen of the same run.
func BenchmarkOpenCold(b *testing.B) {
	sizes := []int{10_000, 1_000_000}
	if long() {
		sizes = append(sizes, 10_000_000)
	}
	for _, n := range sizes {
		path := ledgerPath(b)
		fillFile(b, path, n)
		b.Run(fmt.Sprintf("claims=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dropCached(b, path)
				l := NewLedger(path)
				b.StartTimer()
				err := l.Open(Options{Logger: quiet(), MustExist: true})
				b.StopTimer()
				if err != nil || l.Stats().DeniedScopes != int64(n) {
					b.Fatalf("got %d scopes, %v; want %d", l.Stats().DeniedScopes, err, n)
				}
				closeLedger(b, l)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/open")
		})
	}
}

// dropCached takes a synced file out of the page cache.
func dropCached(b *testing.B, path string) {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	_, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, file.Fd(), 0, 0, dontNeed, 0, 0)
	if errno != 0 {
		b.Fatal(errno)
	}
}
