package revocation

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// childRole names, in the environment of this test binary started again, what
// the child is to do instead of running tests.
const childRole = "CAPIF_TEST_CHILD"

// childRoles is filled by the files that start a child.
var childRoles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	role := os.Getenv(childRole)
	if role != "" {
		err := childRoles[role](os.Args[1:])
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// long reports whether the long versions are asked for.
func long() bool { return os.Getenv("CAPIF_LONG") == "1" }

func ledgerPath(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "ledger.db")
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openLedger(tb testing.TB, path string, options Options) *Ledger {
	tb.Helper()
	l := NewLedger(path)
	options.Logger = quiet()
	err := l.Open(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeLedger(tb, l) })
	return l
}

func closeLedger(tb testing.TB, l *Ledger) {
	tb.Helper()
	err := l.Close()
	if err != nil {
		tb.Errorf("close: got %v; want no error", err)
	}
}

func reopen(tb testing.TB, l *Ledger) *Ledger {
	tb.Helper()
	closeLedger(tb, l)
	return openLedger(tb, l.Path(), Options{MustExist: true})
}

func mustDeny(tb testing.TB, l *Ledger, d Deny) {
	tb.Helper()
	err := l.Deny(tb.Context(), d)
	if err != nil {
		tb.Fatalf("deny %+v: got %v; want no error", d, err)
	}
}

func mustLift(tb testing.TB, l *Ledger, lift Lift) Lifted {
	tb.Helper()
	done, err := l.Lift(tb.Context(), lift)
	if err != nil {
		tb.Fatalf("lift %+v: got %v; want no error", lift, err)
	}
	return done
}

func mustTrigger(tb testing.TB, l *Ledger, trigger Trigger) []Revocation {
	tb.Helper()
	made, err := l.Trigger(tb.Context(), trigger)
	if err != nil {
		tb.Fatalf("trigger %+v: got %v; want no error", trigger, err)
	}
	return made
}

func mustRecord(tb testing.TB, l *Ledger, sequence uint64, p Progress) Revocation {
	tb.Helper()
	r, err := l.Record(tb.Context(), sequence, p)
	if err != nil {
		tb.Fatalf("record %+v: got %v; want no error", p, err)
	}
	return r
}

// claims returns all claims of an invoker; "" for all.
func claims(tb testing.TB, l *Ledger, invoker string) []Claim {
	tb.Helper()
	var all []Claim
	q := ClaimQuery{Invoker: invoker}
	for {
		page, next, err := l.Claims(q)
		if err != nil {
			tb.Fatalf("claims: got %v; want no error", err)
		}
		all = append(all, page...)
		if next == nil {
			return all
		}
		q.After = next
	}
}

func wantCover(tb testing.TB, l *Ledger, invoker, aef, api string, token Digest, want Cover) {
	tb.Helper()
	got := l.Covering(invoker, aef, []string{api}, token)
	if got != want {
		tb.Errorf("covering(%s, %s, %s, %.8s): got %v; want %v", invoker, aef, api, token, got, want)
	}
}

func covered(l *Ledger, invoker string) bool {
	return l.Covering(invoker, "aef", []string{"api"}, Digest{}) != CoverNone
}

// fault is what the disk does with one commit.
type fault int

const (
	works   fault = iota
	refuses       // an error, and nothing reached the disk
	lands         // an error, and all of it reached the disk
)

var errDisk = errors.New("input/output error (made up by a test)")

// disk stands between the ledger and its commits.
type disk struct {
	mu      sync.Mutex
	always  fault
	plan    []fault // for the next commits, before always
	held    chan struct{}
	commits int // that returned success
	tries   int
}

func (d *disk) set(always fault, plan ...fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.always, d.plan = always, plan
}

// counts returns how many commits were tried and how many succeeded.
func (d *disk) counts() (int, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries, d.commits
}

func (d *disk) next() (fault, chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	if len(d.plan) == 0 {
		return d.always, d.held
	}
	f := d.plan[0]
	d.plan = d.plan[1:]
	return f, d.held
}

func (d *disk) wrap(commit func() error) error {
	f, held := d.next()
	if held != nil {
		<-held
	}
	if f == refuses {
		return errDisk
	}
	err := commit()
	if err != nil {
		return err
	}
	if f == lands {
		return errDisk
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits++
	return nil
}

// inOneBatch makes the writer commit what the functions ask for in one
// transaction and in their order. It needs a synctest bubble.
func inOneBatch(tb testing.TB, l *Ledger, d *disk, asks ...func()) {
	tb.Helper()
	held := make(chan struct{})
	d.mu.Lock()
	d.held = held
	d.mu.Unlock()
	var all sync.WaitGroup
	all.Go(func() { _ = l.Deny(tb.Context(), Deny{Invoker: "keeps the writer busy"}) })
	synctest.Wait()
	for _, ask := range asks {
		all.Go(ask)
		synctest.Wait() // it stands in the queue now
	}
	if len(l.ops) != len(asks) {
		tb.Fatalf("queued changes: got %d; want %d", len(l.ops), len(asks))
	}
	d.mu.Lock()
	d.held = nil
	d.mu.Unlock()
	close(held)
	all.Wait()
}

// pass lets time go by in a synctest bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
