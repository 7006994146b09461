package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf reads the CPU-time clock of another process (clock_getcpuclockid(3)):
// user and system time of all its threads, ended ones included, in nanoseconds
// where /proc/PID/stat has hundredths of a second.
func cpuOf(pid int) (time.Duration, error) {
	const schedClock = 2
	var at unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|schedClock), &at)
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(at.Nano()), nil
}

// rssOf reads the memory that is in use, in bytes.
func rssOf(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("reading the memory of process %d: got %q", pid, data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}
