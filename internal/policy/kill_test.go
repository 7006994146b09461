package policy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

const (
	killTotal    = 2000 // blocks of 100
	killWorkers  = 4
	killInvokers = 3
)

// callUntilKilled is the child: it calls in the name of some API invokers as fast
// as it can and prints a line for each call that passed, until it is killed or
// every total is used up, which it prints, too.
func callUntilKilled(path string) error {
	ledger := revocation.NewLedger(path)
	err := ledger.Open(revocation.Options{Logger: quiet})
	if err != nil {
		return err
	}
	table := New(ledger, new(alarm.Set))
	gate := table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}})
	table.Apply(&Settings{Pairs: map[Pair]Source{api: {Rules: total(killTotal)}}, Logger: quiet})
	table.Start()
	var all sync.WaitGroup
	var over atomic.Int64
	for worker := range killWorkers {
		all.Go(func() {
			for i := worker; over.Load() < 1000; i++ {
				invoker := fmt.Sprintf("i%d", i%killInvokers)
				switch admit(gate, invoker, context.Background(), time.Now(), false) {
				case enforce.Allowed:
					// Unbuffered: one write each. Long, so that the pipe holds this
					// process back where the one that reads is slow.
					fmt.Fprintf(os.Stdout, "%s %100s\n", invoker, "")
				case enforce.OverLimit:
					over.Add(1)
				default:
					println("unavailable")
					os.Exit(1)
				}
			}
		})
	}
	all.Wait()
	fmt.Fprintln(os.Stdout, "used up")
	return errors.Join(table.Stop(context.Background()), ledger.Close())
}

// TestKill9 kills the process again and again while calls pass: never more than
// the total pass, and a crash loses at most a block of each API invoker.
func TestKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	passed := map[string]int{}
	kills := 0
	for finished := false; !finished; {
		finished = callAndKill(t, path, passed, 1+rand.IntN(600))
		if !finished {
			kills++
		}
		if kills > 500 {
			t.Fatal("got no end in 500 rounds; want every total used up")
		}
	}
	if kills == 0 {
		t.Error("got no kill; want some before all is used up")
	}
	for i := range killInvokers {
		invoker := fmt.Sprintf("i%d", i)
		// A call that passed and was killed before its line is not known here.
		least := killTotal - kills*(int(Block(killTotal))+killWorkers)
		if got := passed[invoker]; got > killTotal || got < least {
			t.Errorf("%s: got %d calls over %d kills; want %d to %d", invoker, got, kills, least, killTotal)
		}
	}
	t.Logf("%v of %d each, over %d kills", passed, killTotal, kills)
}

// callAndKill runs the child and kills it after some lines; it reports whether
// every total was used up before.
func callAndKill(t *testing.T, path string, passed map[string]int, lines int) bool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, path)
	child.Env = append(os.Environ(), childRole+"=call")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = child.Start()
	if err != nil {
		t.Fatal(err)
	}
	finished := false
	scanner := bufio.NewScanner(out)
	for n := 1; scanner.Scan(); n++ {
		if line := strings.TrimSpace(scanner.Text()); strings.HasPrefix(line, "i") {
			passed[line]++
		} else {
			finished = true
		}
		if n == lines {
			_ = child.Process.Kill() // it may have ended by itself
		}
	}
	err = child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		t.Fatalf("got %v; want the child killed or at its end", err)
	}
	return finished
}
