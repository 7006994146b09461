//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package revocation

import "os"

// release closes a file that bbolt left open when it panicked.
func release(file *os.File) { _ = file.Close() }
