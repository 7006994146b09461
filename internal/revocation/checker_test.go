package revocation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The checker: many goroutines deny and lift on a disk that fails at random,
// while every invoker is looked up at the moments that matter, which are before
// and after each commit. It knows of each invoker what must be true.
type checker struct {
	l           *Ledger
	state       [checkerInvokers]atomic.Int32
	seenOpen    [checkerInvokers]atomic.Bool
	looks       atomic.Int64
	failedLifts atomic.Int64
	lifts       atomic.Int64
	violations  atomic.Int64
	firstWords  atomic.Pointer[string]

	// mutate, if set, is a fault in the writer: it runs before each commit.
	mutate func(x *checker)
}

const (
	checkerInvokers = 40
	checkerWorkers  = 8
	checkerRounds   = 150
)

const (
	mayPass int32 = iota // never denied, or a lift was acknowledged
	denied               // a deny was answered, whatever the answer
	lifting              // a lift is in flight: open only if it will be acknowledged
)

func invokerNumber(i int) string { return fmt.Sprint("invoker ", i) }

func (x *checker) violation(format string, args ...any) {
	x.violations.Add(1)
	words := fmt.Sprintf(format, args...)
	x.firstWords.CompareAndSwap(nil, &words)
}

// look asks for every invoker whether a call would pass now.
func (x *checker) look() {
	for i := range checkerInvokers {
		before := x.state[i].Load()
		open := !covered(x.l, invokerNumber(i))
		x.looks.Add(1)
		if !open || before != x.state[i].Load() {
			continue
		}
		switch before {
		case denied:
			x.violation("%s: a call passes that was denied", invokerNumber(i))
		case lifting:
			x.seenOpen[i].Store(true) // a violation if the lift fails
		}
	}
}

// commit stands where the disk is.
func (x *checker) commit(d *disk) func(func() error) error {
	return func(commit func() error) error {
		if x.mutate != nil {
			x.mutate(x)
		}
		x.look()
		err := d.wrap(commit)
		x.look()
		return err
	}
}

// work denies and lifts the invokers of one worker.
func (x *checker) work(t *testing.T, worker int, random *rand.Rand) {
	for range checkerRounds {
		i := random.IntN(checkerInvokers/checkerWorkers)*checkerWorkers + worker
		change := x.deny
		if random.IntN(2) == 0 {
			change = x.lift
		}
		if !change(t, i) && random.IntN(5) > 0 { // else go on while it fails
			<-time.After(time.Duration(random.IntN(1500)) * time.Millisecond)
		}
	}
}

func (x *checker) deny(t *testing.T, i int) bool {
	err := x.l.Deny(t.Context(), Deny{Invoker: invokerNumber(i), AEF: "aef", APIs: []string{"api"}})
	if err != nil && !errors.Is(err, ErrNotDurable) {
		x.violation("deny: got %v; want %v", err, ErrNotDurable)
	}
	x.state[i].Store(denied)
	return err == nil
}

func (x *checker) lift(t *testing.T, i int) bool {
	before := x.state[i].Load()
	x.seenOpen[i].Store(false)
	if before == denied {
		x.state[i].Store(lifting)
	}
	_, err := x.l.Lift(t.Context(), Lift{Invoker: invokerNumber(i)})
	if err == nil {
		x.state[i].Store(mayPass)
		x.lifts.Add(1)
		return true
	}
	if !errors.Is(err, ErrNotDurable) {
		x.violation("lift: got %v; want %v", err, ErrNotDurable)
	}
	x.state[i].Store(before)
	if before == denied && (x.seenOpen[i].Load() || !covered(x.l, invokerNumber(i))) {
		x.violation("%s: a call passed because of a lift that failed", invokerNumber(i))
	}
	x.failedLifts.Add(1)
	return false
}

// run plays one history and returns the checker with what it found.
func runChecker(t *testing.T, seed uint64, mutate func(*checker)) *checker {
	t.Helper()
	x := &checker{mutate: mutate}
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		d := &disk{}
		var plan []fault
		for range 4 * checkerWorkers * checkerRounds {
			plan = append(plan, []fault{refuses, lands, works, works, works, works, works, works}[random.IntN(8)])
		}
		d.set(works, plan...)
		path := ledgerPath(t)
		x.l = NewLedger(path)
		err := x.l.Open(Options{Logger: quiet(), WrapCommit: x.commit(d)})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for worker := range checkerWorkers {
			own := rand.New(rand.NewPCG(seed, uint64(worker)+1))
			all.Go(func() { x.work(t, worker, own) })
		}
		all.Wait()
		d.set(works)
		pass(3 * recoverInterval)
		x.end(t)
	})
	return x
}

// end compares with what a restart finds.
func (x *checker) end(t *testing.T) {
	x.look()
	if x.l.Failing() {
		x.violation("the ledger still fails on a disk that works")
	}
	closeLedger(t, x.l)
	x.l = openLedger(t, x.l.Path(), Options{MustExist: true})
	defer closeLedger(t, x.l)
	x.look()
	for i := range checkerInvokers {
		if got := covered(x.l, invokerNumber(i)); x.state[i].Load() == mayPass && got {
			x.violation("%s: denied after a restart though its lift was acknowledged", invokerNumber(i))
		}
	}
}

func TestNoLateCallOnAFailingDisk(t *testing.T) {
	seeds := uint64(12)
	if long() {
		seeds = 1000
	}
	looks, lifts, failedLifts := int64(0), int64(0), int64(0)
	for seed := range seeds {
		x := runChecker(t, seed, nil)
		if x.violations.Load() > 0 {
			t.Fatalf("seed %d: got %d violations, the first %q; want none", seed, x.violations.Load(), *x.firstWords.Load())
		}
		looks += x.looks.Load()
		lifts += x.lifts.Load()
		failedLifts += x.failedLifts.Load()
	}
	t.Logf("%d looks, %d lifts acknowledged, %d answered with an error, no violation", looks, lifts, failedLifts)
	if lifts == 0 || failedLifts == 0 {
		t.Errorf("got %d lifts acknowledged and %d failed; want some of both, or nothing was shown", lifts, failedLifts)
	}
}

// The mutation: on a lift, memory first and then the disk. What a writer with
// that fault would do before the commit is done here at that very place.
func TestCheckerSeesALiftThatOpensBeforeTheDisk(t *testing.T) {
	for seed := range uint64(10) {
		x := runChecker(t, seed, func(x *checker) {
			for i := range checkerInvokers {
				if x.state[i].Load() == lifting {
					s := Scope{Invoker: invokerNumber(i), AEF: "aef", API: "api"}
					x.l.index.lower(appendScope(nil, &s), false, ^uint64(0), 0)
				}
			}
		})
		words := x.firstWords.Load()
		if words == nil || !strings.Contains(*words, "a call pass") {
			t.Errorf("seed %d: got no violation; want the mutation found", seed)
		}
	}
}

// Another mutation: a failed deny is taken out of memory again.
func TestCheckerSeesADenyThatIsForgottenOnFailure(t *testing.T) {
	for seed := range uint64(10) {
		x := runChecker(t, seed, func(x *checker) {
			if !x.l.failed.Load() {
				return
			}
			for _, o := range x.l.unsaved {
				for i := range o.denies {
					x.l.index.lower(appendScope(nil, &o.denies[i]), false, ^uint64(0), 0)
				}
			}
		})
		if x.firstWords.Load() == nil {
			t.Errorf("seed %d: got no violation; want the mutation found", seed)
		}
	}
}
