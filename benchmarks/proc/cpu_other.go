//go:build !linux

package proc

import (
	"errors"
	"time"
)

var errLinux = errors.New("the CPU time and the memory of another process are read on Linux only: run the benchmarks there")

func cpuOf(int) (time.Duration, error) { return 0, errLinux }

func rssOf(int) (int64, error) { return 0, errLinux }
