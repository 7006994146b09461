package revocation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

func init() { childRoles["revoke and lift"] = revokeAndLift }

const (
	killWorkers  = 8
	killInvokers = 12 // of each worker
)

// revokeAndLift is the child: it changes the ledger at args[0] as fast as it
// can and prints "+ invoker", "- invoker" after each acknowledgement, and
// "? invoker" before each change, until it is killed.
func revokeAndLift(args []string) error {
	l := NewLedger(args[0])
	err := l.Open(Options{Logger: quiet(), MustExist: args[1] == "again"})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(mark, invoker string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(os.Stdout, mark, invoker) // unbuffered: one write each
	}
	ctx := context.Background()
	var all sync.WaitGroup
	for worker := range killWorkers {
		all.Go(func() {
			for n := 0; ; n++ {
				invoker := fmt.Sprintf("w%d-i%d", worker, n%killInvokers)
				say("?", invoker)
				switch rand.IntN(3) {
				case 0:
					err := l.Deny(ctx, Deny{Invoker: invoker, AEF: "aef", APIs: []string{"api"}})
					mustAck(err)
					say("+", invoker)
				case 1:
					made, err := l.Trigger(ctx, Trigger{Invoker: invoker, AEF: "aef", APIs: []string{"api"}, Cause: "X", Hold: true})
					mustAck(err)
					say("+", invoker+" "+made[0].ID)
				default:
					_, err := l.Lift(ctx, Lift{Invoker: invoker})
					mustAck(err)
					say("-", invoker)
				}
			}
		})
	}
	all.Wait()
	return nil
}

func mustAck(err error) {
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}

// startChild runs this test binary again in a role.
func startChild(tb testing.TB, role string, args ...string) (*exec.Cmd, io.ReadCloser) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	child := exec.CommandContext(tb.Context(), self, args...)
	child.Env = append(os.Environ(), childRole+"="+role)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	err = child.Start()
	if err != nil {
		tb.Fatal(err)
	}
	return child, out
}

// acknowledged is what the parent knows about one invoker.
type acknowledged struct {
	mark       string // the last acknowledgement: "+", "-", or "" for none
	revocation string // of the last trigger since the last lift
	open       bool   // a change was in flight when the child died
}

func TestKill9LosesNothing(t *testing.T) {
	rounds := 20
	if long() {
		rounds = 200
	}
	path := ledgerPath(t)
	known := map[string]*acknowledged{}
	changes := 0
	for round := range rounds {
		again := "first"
		if round > 0 {
			again = "again"
		}
		child, out := startChild(t, "revoke and lift", path, again)
		kill := 1 + rand.IntN(1500)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			mark, rest, _ := strings.Cut(lines.Text(), " ")
			invoker, revocation, _ := strings.Cut(rest, " ")
			note(known, mark, invoker, revocation)
			if mark != "?" {
				changes++
			}
			if n == kill {
				err := child.Process.Kill()
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		err := child.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("round %d: got %v; want the child killed", round, err)
		}
		wantAcknowledged(t, path, known)
		if t.Failed() {
			t.Fatalf("in round %d of %d", round, rounds)
		}
	}
	t.Logf("%d rounds, %d acknowledged changes", rounds, changes)
}

func note(known map[string]*acknowledged, mark, invoker, revocation string) {
	a := known[invoker]
	if a == nil {
		a = &acknowledged{}
		known[invoker] = a
	}
	if mark == "?" {
		a.open = true
		return
	}
	a.open, a.mark = false, mark
	if mark == "-" {
		a.revocation = ""
	}
	if revocation != "" {
		a.revocation = revocation
	}
}

// wantAcknowledged opens what the killed child left and then forgets which
// changes were in flight: from now on the file says what they came to.
func wantAcknowledged(t *testing.T, path string, known map[string]*acknowledged) {
	t.Helper()
	l := openLedger(t, path, Options{MustExist: true})
	defer closeLedger(t, l)
	for invoker, a := range known {
		got := covered(l, invoker)
		if !a.open && got != (a.mark == "+") {
			t.Errorf("%s: got covered %v; want what was acknowledged: %q", invoker, got, a.mark)
		}
		if !a.open && a.revocation != "" {
			r, err := l.Revocation(a.revocation)
			if err != nil || r.State != StatePending || !l.IsPending(r.Sequence) {
				t.Errorf("%s: got %+v, %v; want an accepted trigger to go on", invoker, r, err)
			}
		}
		if a.open && got != (a.mark == "+") {
			a.mark, a.revocation = map[bool]string{true: "+", false: "-"}[got], ""
		} else if a.open {
			a.revocation = "" // it may have been lifted and set again
		}
		a.open = false
	}
	wantIndexFromClaims(t, l)
}

func TestHeldByAnotherProcess(t *testing.T) {
	path := ledgerPath(t)
	child, out := startChild(t, "revoke and lift", path, "first")
	line, err := bufio.NewReader(out).ReadString('\n') // it is open now
	if err != nil {
		t.Fatalf("got %q, %v; want a first line", line, err)
	}
	wantSentence(t, path, openError(t, path, Options{}), "held by another process", "its own path")
	err = child.Process.Kill()
	if err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed: never nil
	openLedger(t, path, Options{MustExist: true})
}
