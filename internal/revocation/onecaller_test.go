package revocation

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
)

func init() { childRoles["one caller"] = oneCaller }

// oneCaller is the child whose system calls .ci/long counts: it opens a new
// ledger at args[0], prints "open", denies args[1] times, one after the other,
// and prints "+ n" with one write after each acknowledgement.
func oneCaller(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	l := NewLedger(args[0])
	err = l.Open(Options{Logger: quiet()})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "open")
	for n := range count {
		err := l.Deny(context.Background(), Deny{Invoker: fmt.Sprint("invoker ", n), AEF: "aef", APIs: []string{"api"}})
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "+", n)
	}
	return l.Close()
}

// The child counts as the script believes: without this, a count of nothing
// would look like a count of everything.
func TestOneCallerPrintsEachAcknowledgement(t *testing.T) {
	path := ledgerPath(t)
	const count = 20
	child, out := startChild(t, "one caller", path, strconv.Itoa(count))
	want := "open\n"
	for n := range count {
		want += fmt.Sprintln("+", n)
	}
	got, err := io.ReadAll(out)
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	err = child.Wait()
	if err != nil {
		t.Errorf("child: got %v; want it to end well", err)
	}
	l := openLedger(t, path, Options{MustExist: true})
	if got := len(claims(t, l, "")); got != count {
		t.Errorf("got %d claims; want %d", got, count)
	}
}
