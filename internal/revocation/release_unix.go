//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package revocation

import (
	"os"
	"syscall"
)

// release closes a file that bbolt left open when it panicked. Closing is not
// enough to unlock it: bbolt's mapping keeps the file, and so the lock, alive.
func release(file *os.File) {
	_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	_ = file.Close()
}
