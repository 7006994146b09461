package report

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Machine describes where and when figures were made.
func Machine(now time.Time) string {
	return fmt.Sprintf("%s, %s: %s, %d cores, %s of memory, kernel %s, %s.",
		now.UTC().Format("2006-01-02"), runtime.GOOS+"/"+runtime.GOARCH, fieldOf("/proc/cpuinfo", "model name"),
		runtime.NumCPU(), memory(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")), runtime.Version())
}

func memory() string {
	var kb int64
	_, err := fmt.Sscanf(fieldOf("/proc/meminfo", "MemTotal"), "%d kB", &kb)
	if err != nil {
		return "an unknown amount"
	}
	return fmt.Sprintf("%.0f GB", float64(kb)*1024/1e9)
}

// VersionOf runs a program for the first line that it says of its version.
func VersionOf(path string, args ...string) string {
	out, err := exec.Command(path, args...).Output() //nolint:gosec,noctx // a program that is measured
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return string(data)
}

func fieldOf(path, name string) string {
	for line := range strings.Lines(read(path)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
