package lincheck

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// The mutations prove that the checker can see: each is a fault put into the
// parts, and has to be found in ten of ten runs.

// mutationRuns is how often each mutation has to be found, mutationLimit how
// long one run may look for it.
const (
	mutationRuns  = 10
	mutationLimit = 20 * time.Second
)

// wantFound plays short histories until one shows a late call.
func wantFound(t *testing.T, s setup, mutate func(x *system)) {
	t.Helper()
	calls, changes := 0, 0
	for run := range uint64(mutationRuns) {
		x := newSystem(t, s)
		mutate(x)
		found := false
		begun := time.Now()
		for seed := run << 32; !found && time.Since(begun) < mutationLimit; seed++ {
			r := x.round(t, seed, 20_000)
			found = r.Late > 0
			calls, changes = calls+r.Calls, changes+r.Changes
		}
		if !found {
			t.Errorf("run %d: got no late call within %v; want the mutation found", run, mutationLimit)
		}
	}
	t.Logf("found in %d runs after %d calls and %d changes altogether", mutationRuns, calls, changes)
}

// ownEpochs has an epoch of its own for each pair, which the mutation raises
// when it likes.
type ownEpochs struct {
	enforce.Claims
	counts map[string]*atomic.Uint64
}

func newOwnEpochs(x *system) *ownEpochs {
	m := &ownEpochs{Claims: x.ledger, counts: map[string]*atomic.Uint64{}}
	for _, name := range x.invokers {
		m.counts[name] = &atomic.Uint64{}
		m.counts[name].Store(1)
	}
	x.claims = func() enforce.Claims { return m }
	return m
}

func (m *ownEpochs) Epoch(invoker string) *atomic.Uint64 { return m.counts[invoker] }

// yield lets others run where the fault leaves a gap.
func yield() {
	for range 4 {
		runtime.Gosched()
	}
}

// On a deny, the epoch is raised before the claim is in the index.
func TestCheckerSeesAnEpochRaisedBeforeTheIndex(t *testing.T) {
	wantFound(t, setup{pairs: 8, tokens: 100, slice: 8}, func(x *system) {
		m := newOwnEpochs(x)
		x.denyVia = func(pair int, deny func() error) error {
			m.Epoch(x.invokers[pair]).Add(1)
			yield()
			return deny()
		}
		x.liftVia = func(pair int, lift func() error) error {
			defer m.Epoch(x.invokers[pair]).Add(1)
			return lift()
		}
	})
}

// A verdict is cached without its epoch: it is always current.
func TestCheckerSeesAVerdictWithoutItsEpoch(t *testing.T) {
	wantFound(t, setup{pairs: 8, tokens: 100, slice: 8}, func(x *system) {
		newOwnEpochs(x)
	})
}

// lookedUpFirst does the lookups before the epoch is read. It serves one caller:
// what it found is for the verdict that this caller is about to stamp.
type lookedUpFirst struct {
	enforce.Claims
	found *revocation.Cover
}

func (m *lookedUpFirst) Epoch(invoker string) *atomic.Uint64 {
	cover := m.Claims.Covering(invoker, aef, []string{api}, revocation.Digest{})
	m.found = &cover
	yield()
	return m.Claims.Epoch(invoker)
}

func (m *lookedUpFirst) Covering(invoker, aef string, apis []string, d revocation.Digest) revocation.Cover {
	if m.found != nil {
		cover := *m.found
		m.found = nil
		return cover
	}
	return m.Claims.Covering(invoker, aef, apis, d)
}

// The epoch is read after the lookups.
func TestCheckerSeesAnEpochReadAfterTheLookups(t *testing.T) {
	wantFound(t, setup{pairs: 4, tokens: 100, slice: 8, rotateEvery: 4}, func(x *system) {
		x.claims = func() enforce.Claims { return &lookedUpFirst{Claims: x.ledger} }
		x.denyVia = wholeInvoker(x) // lookedUpFirst knows no digests
	})
}

// wholeInvoker denies all APIs, whatever was asked.
func wholeInvoker(x *system) func(int, func() error) error {
	return func(pair int, _ func() error) error {
		return x.ledger.Deny(context.Background(), revocation.Deny{Invoker: x.invokers[pair]})
	}
}

// openedEarly lets a call pass while a lift of its pair is on its way.
type openedEarly struct {
	enforce.Claims
	opened sync.Map // invoker -> nothing
}

func (m *openedEarly) Covering(invoker, aef string, apis []string, d revocation.Digest) revocation.Cover {
	if _, open := m.opened.Load(invoker); open {
		return revocation.CoverNone
	}
	return m.Claims.Covering(invoker, aef, apis, d)
}

// On a lift, the index is lowered before the disk has it, and raised again if
// the disk fails.
func TestCheckerSeesALiftThatOpensBeforeTheDisk(t *testing.T) {
	wantFound(t, setup{pairs: 8, tokens: 100, slice: 8, wrapCommit: badDisk(2)}, func(x *system) {
		m := &openedEarly{Claims: x.ledger}
		x.claims = func() enforce.Claims { return m }
		x.liftVia = func(pair int, lift func() error) error {
			m.opened.Store(x.invokers[pair], true)
			x.ledger.RaiseEpochs()
			err := lift()
			m.opened.Delete(x.invokers[pair])
			x.ledger.RaiseEpochs()
			return err
		}
	})
}
