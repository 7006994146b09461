package revocation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func init() { childRoles["full disk"] = onAFullDisk }

// TestFullDisk limits the file size of a child process, so that the kernel
// refuses its writes as a full disk would (EFBIG instead of ENOSPC), and lifts
// the limit again. The child reports what it saw, the parent opens the file.
func TestFullDisk(t *testing.T) {
	path := ledgerPath(t)
	child, out := startChild(t, "full disk", path)
	report := map[string]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, value, _ := strings.Cut(lines.Text(), ": ")
		report[what] = value
		t.Log(lines.Text())
	}
	err := child.Wait()
	if err != nil {
		t.Fatalf("child: got %v; want it to end well", err)
	}
	want := map[string]string{
		"not durable":                     "true",
		"words":                           "true",
		"denied before the disk was full": "true",
		"denied by the failed change":     "true",
		"lift on the full disk":           "not durable, still denied",
		"small changes acknowledged":      "0",
		"works again":                     "true",
		"failing at the end":              "false",
	}
	for what, value := range want {
		if report[what] != value {
			t.Errorf("%s: got %q; want %q", what, report[what], value)
		}
	}
	l := openLedger(t, path, Options{MustExist: true})
	for _, invoker := range []string{"before", "huge", "small-0", "small-9", "after"} {
		if !covered(l, invoker) {
			t.Errorf("%s after a restart: got allowed; want denied", invoker)
		}
	}
	wantIndexFromClaims(t, l)
}

// onAFullDisk is the child.
func onAFullDisk(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l := NewLedger(args[0])
	err := l.Open(Options{Logger: quiet()})
	if err != nil {
		return err
	}
	err = l.Deny(ctx, Deny{Invoker: "before"})
	if err != nil {
		return err
	}
	err = limitFileSize(args[0], 0)
	if err != nil {
		return err
	}
	// More than the free pages of the file can take.
	huge := l.Deny(ctx, Deny{Invoker: "huge", AEF: "aef", APIs: manyAPIs()})
	fmt.Println("not durable:", errors.Is(huge, ErrNotDurable))
	fmt.Println("words:", strings.Contains(fmt.Sprint(huge), "file too large") && strings.Contains(fmt.Sprint(huge), args[0]))
	// These would fit into the pages that are free.
	acknowledged := 0
	for i := range 10 {
		err := l.Deny(ctx, Deny{Invoker: fmt.Sprint("small-", i)})
		if err == nil {
			acknowledged++
		}
		pause := time.NewTimer(200 * time.Millisecond) // over several tries to recover
		<-pause.C
	}
	fmt.Println("small changes acknowledged:", acknowledged)
	fmt.Println("denied before the disk was full:", covered(l, "before"))
	fmt.Println("denied by the failed change:", covered(l, "huge") && covered(l, "small-0"))
	_, err = l.Lift(ctx, Lift{Invoker: "before"})
	switch {
	case err == nil || !errors.Is(err, ErrNotDurable):
		fmt.Println("lift on the full disk:", err)
	case !covered(l, "before"):
		fmt.Println("lift on the full disk: not durable, but open")
	default:
		fmt.Println("lift on the full disk: not durable, still denied")
	}
	err = limitFileSize(args[0], 1<<40)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		err = l.Deny(ctx, Deny{Invoker: "after"})
		if err == nil {
			break
		}
		pause := time.NewTimer(50 * time.Millisecond)
		<-pause.C
	}
	fmt.Println("works again:", err == nil)
	fmt.Println("failing at the end:", l.Failing())
	return nil // no close: the parent opens what a dead process left
}

// manyAPIs are long apiIds that need about a megabyte.
func manyAPIs() []string {
	list := []string{"api"}
	for i := range maxAPIs - 1 {
		list = append(list, fmt.Sprintf("%d-%s", i, strings.Repeat("x", MaxIDBytes-10)))
	}
	return list
}

// limitFileSize lets no file of this process grow beyond what the file has now
// and more. Go ignores SIGXFSZ, so a write beyond it answers EFBIG.
func limitFileSize(path string, more uint64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	err = syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit)
	if err != nil {
		return err
	}
	limit.Cur = min(uint64(info.Size())+more, limit.Max)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}
