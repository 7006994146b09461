package reconcile

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// plan is the reload that TestSchedule29 puts into every world: at which step,
// and to what. Tests of this package run one after the other.
var plan struct {
	mu      sync.Mutex // of most, and of the steps of a world: calls run beside one another
	at      int        // 0: no reload
	changed bool
	most    int // steps that a world took
}

// step is a moment of a schedule at which a reload may come.
func (w *world) step() {
	plan.mu.Lock()
	w.steps++
	plan.most = max(plan.most, w.steps)
	now := plan.at == w.steps
	plan.mu.Unlock()
	if now {
		w.reload(plan.changed)
	}
}

// mostReloads bounds, roughly, at how many steps of a schedule a reload comes.
const mostReloads = 25

// newClient is what a reload makes anew for the same core.
type newClient struct{ core Core }

func (c newClient) Context(ctx context.Context, invoker string) (coreclient.Context, error) {
	return c.core.Context(ctx, invoker)
}

// reload does what a reload of the configuration does: other settings, of the
// same meaning or with another interval, and a new handler, on the same verdicts.
func (w *world) reload(changed bool) {
	s := w.s
	s.Core = newClient{w.core}
	if changed {
		s.Interval, s.MaxInvokers = 2*time.Minute, 1000
	}
	w.r.Apply(&s)
	w.decider.Store(w.decidesWith(enforce.ContextRule{Require: true}, w.cache))
}

// TestSchedule29ReloadInTheMiddle runs the other schedules with a reload at each
// of their steps, reads in flight or not: what must hold there holds all the same.
func TestSchedule29ReloadInTheMiddle(t *testing.T) {
	for _, schedule := range []struct {
		name string
		test func(*testing.T)
	}{
		{"03", TestSchedule03ReadSampledBeforeTheSecondHintOfASecond},
		{"04", TestSchedule04RestartWithAYoungStoredContext},
		{"05", TestSchedule05HintWithACachedAllow},
		{"06", TestSchedule06DueReadFails},
		{"07", TestSchedule07CallJoinsAReadThatWillFail},
		{"08", TestSchedule08FirstSightInFlightWhenAHintNamesIt},
		{"09", TestSchedule09ContextDeletedWithItsLastAPI},
		{"10", TestSchedule10EmptiedCoreAndEachCallReadsForItself},
		{"11", TestSchedule11ReadFromBeforeTheEmptyingIsAppliedAfterIt},
		{"11, pass", TestSchedule11PassJoinsReadsFromBeforeTheEmptying},
		{"12", TestSchedule12CoreRevokesAgainWhileAReadSaysListed},
		{"12, granted", TestSchedule12CoreRevokesOnceAndGrantsAgain},
		{"13", TestSchedule13CoreEmptiedThenRestored},
		{"14", TestSchedule14CoreMayNotLift},
		{"22", TestSchedule22EarlierReadFinishesAfterALaterOne},
		{"23", TestSchedule23LiftedPairThatAStaleReadCallsAbsent},
	} {
		t.Run(schedule.name, func(t *testing.T) {
			defer func() { plan.at, plan.changed = 0, false }()
			plan.at, plan.most = 0, 0
			if !t.Run("no reload", schedule.test) {
				return // another test's failure
			}
			steps := plan.most
			if steps < 3 {
				t.Fatalf("steps: got %d; want some to reload at", steps)
			}
			stride := max(1, steps/mostReloads) // those with many steps repeat themselves
			for _, changed := range []bool{false, true} {
				for at := 1; at <= steps; at += stride {
					plan.at, plan.changed = at, changed
					t.Run(fmt.Sprintf("changed %v, step %d", changed, at), schedule.test)
				}
			}
		})
	}
}

// TestSchedule29CoreMayLiftNoLonger: a read that began while the core was allowed
// to lift ends after a reload that forbids it.
func TestSchedule29CoreMayLiftNoLonger(t *testing.T) {
	withLedger(t, func(w *world, l *revocation.Ledger) {
		w.known("a")
		denyAtLedger(w.t, l, "a")
		w.core.set("a")
		w.reread("a") // absent seen
		w.core.set("a", entry)
		held, free := w.core.gate("a", nil)
		w.hint("a")
		held() // sampled "listed"
		w.s.CoreLift = false
		w.reload(false)
		free()
		w.settle()
		if coreClaims(w.t, l, "a") != 1 {
			w.t.Error("claim: got lifted; want it to stand")
		}
		w.wantCall("a", enforce.AuthorizationRevoked)
	})
}
