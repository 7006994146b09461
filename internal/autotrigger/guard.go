package autotrigger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

var errStopped = errors.New("automatic triggers are stopped")

const (
	// DefaultPerMinute is the budget where nothing else is said.
	DefaultPerMinute = 60
	// MaxPerMinute is the largest budget.
	MaxPerMinute = 10_000
	// QueueSize is how many accepted triggers can wait for the ledger.
	QueueSize = 256

	rememberedDry = 4096 // pairs
	maxText       = 1000 // bytes, as at the admin endpoint
	// ledgerTimeout bounds one trigger, and at the end all that wait.
	ledgerTimeout = 5 * time.Second
)

// Ledger is where triggers become durable; *revocation.Ledger is one.
type Ledger interface {
	// Covering MUST NOT do I/O.
	Covering(invoker, aef string, apis []string, token revocation.Digest) revocation.Cover
	// Trigger MUST have set the claims when it returns, whatever it returns
	// but an error that says that nothing was done.
	Trigger(ctx context.Context, t revocation.Trigger) ([]revocation.Revocation, error)
}

// Settings belong to one configuration and are replaced with it.
type Settings struct {
	// PerMinute is how many automatic triggers any 60 seconds may bring, over
	// all invokers, APIs and sources. 0 means none.
	PerMinute int
	Logger    *slog.Logger
}

// Call is one request for a revocation.
type Call struct {
	// Invoker is the API invoker whose call was let in; "" if there is none.
	Invoker string
	AEF     string
	// APIs are the apiIds, one revocation each; empty means all APIs of the
	// invoker.
	APIs []string
	// Cause is TS 29.222 8.5.4.2.5 cause.
	Cause string
	// Reason is for people; what is too long or not UTF-8 in it is cut out.
	Reason string
	// RequestedBy says what asked: "policy", "route location".
	RequestedBy string
	// Source is [revocation.SourcePolicy] or [revocation.SourceRoute].
	Source revocation.Source
	// Bound says that the caller's client certificate names the invoker.
	Bound bool
	// AllowUnbound is the operator's word that it need not.
	AllowUnbound bool
	// DryRun counts and logs, and triggers nothing.
	DryRun bool
}

// Guard lets automatic triggers through to a ledger. Make one with [New]. It is
// safe for concurrent use.
type Guard struct {
	ledger   Ledger
	alarms   *alarm.Set
	settings atomic.Pointer[Settings]
	counts   [outcomes]atomic.Uint64

	mu      sync.Mutex
	stopped bool
	queue   chan *job
	onWay   map[pair]*job
	budget  budget
	refused time.Time // last refusal for the budget; zero while the alarm is not raised

	// Dry runs have a budget of their own and touch nothing real.
	dryBudget budget
	drySeen   map[pair]bool

	quiet  chan struct{} // the alarm is raised: see to its end
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// pair is what a trigger is about. Several apiIds of one route are one API.
type pair struct{ invoker, aef, apis string }

func pairOf(c *Call) pair {
	return pair{c.Invoker, c.AEF, strings.Join(slices.Sorted(slices.Values(c.APIs)), "\x00")}
}

// job is an accepted request. outcome and err are set before done is closed.
type job struct {
	call    Call
	pair    pair
	at      time.Time
	done    chan struct{}
	outcome Outcome
	err     error
}

// New makes a guard that refuses everything until [Guard.Apply] and
// [Guard.Start].
func New(ledger Ledger, alarms *alarm.Set) *Guard {
	return &Guard{
		ledger: ledger, alarms: alarms, stopped: true,
		queue: make(chan *job, QueueSize), onWay: make(map[pair]*job), drySeen: make(map[pair]bool),
		quiet: make(chan struct{}, 1),
	}
}

// Apply replaces the settings. What was accepted in this minute still counts.
func (g *Guard) Apply(s *Settings) { g.settings.Store(s) }

// Start starts the worker. The ledger MUST be open.
func (g *Guard) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.mu.Lock()
	g.cancel, g.stopped = cancel, false
	g.mu.Unlock()
	g.done.Go(func() { g.work(ctx) })
}

// Stop refuses what comes, hands what was accepted to the ledger, for at most
// five seconds, and ends the worker.
func (g *Guard) Stop() {
	g.mu.Lock()
	g.stopped = true
	cancel := g.cancel
	g.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	g.done.Wait()
}

// Counts returns how many requests had each outcome, by [Outcome].
func (g *Guard) Counts() []uint64 {
	counts := make([]uint64, outcomes)
	for i := range counts {
		counts[i] = g.counts[i].Load()
	}
	return counts
}

// Request asks for a revocation and returns at once. Accepted is a promise to
// try: see the package.
func (g *Guard) Request(c Call) Outcome {
	outcome, _ := g.request(&c)
	g.counts[outcome].Add(1)
	return outcome
}

// RequestAndWait asks for a revocation and, where it was accepted or the same
// one is on its way, waits until it is durable: no call of the pair that starts
// afterwards is passed on. The error says why that is not so; with [Failed] it
// is that of the ledger, else that of ctx.
func (g *Guard) RequestAndWait(ctx context.Context, c Call) (Outcome, error) {
	outcome, j := g.request(&c)
	g.counts[outcome].Add(1)
	if j == nil && outcome == Failed {
		return Failed, errStopped
	}
	if j == nil {
		return outcome, nil
	}
	select {
	case <-j.done:
		if j.outcome == Failed {
			return Failed, j.err
		}
		return outcome, nil
	case <-ctx.Done():
		return outcome, fmt.Errorf("waiting for the block: %w", ctx.Err())
	}
}

// request decides. The job is that of the pair, if one is on its way.
func (g *Guard) request(c *Call) (Outcome, *job) {
	switch {
	case c.Invoker == "":
		return NoInvoker, nil
	case !c.Bound && !c.AllowUnbound:
		return Unbound, nil
	case g.denied(c):
		return Already, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.settings.Load()
	if g.stopped || s == nil {
		return Failed, nil
	}
	p := pairOf(c)
	for _, same := range []pair{p, {p.invoker, p.aef, ""}} {
		j := g.onWay[same]
		if j != nil {
			return Already, j
		}
	}
	// Asked again: a job leaves onWay after its claim is set, so one that
	// went between the first question and the lock is found now.
	if g.denied(c) {
		return Already, nil
	}
	if c.DryRun {
		return g.dryRun(c, p, s), nil
	}
	if len(g.queue) == cap(g.queue) {
		g.alarms.Raise(s.Logger, alarm.AutomaticTriggerFailed,
			fmt.Sprintf("%d automatic triggers wait for the ledger, and more are refused: see to its disk", cap(g.queue)))
		return QueueFull, nil
	}
	now := time.Now()
	if !g.budget.take(now, s.PerMinute) {
		g.spent(now, s)
		return BudgetSpent, nil
	}
	j := &job{call: *c, pair: p, at: now, done: make(chan struct{})}
	j.call.APIs = slices.Clone(c.APIs)
	g.onWay[p] = j
	g.queue <- j // never blocks: there is room, and only here is something put in
	return Accepted, j
}

func (g *Guard) denied(c *Call) bool {
	return g.ledger.Covering(c.Invoker, c.AEF, c.APIs, revocation.Digest{}) == revocation.CoverAuthorization
}

// dryRun says what would have happened, each pair once: nothing is denied
// afterwards, and every further call would say it again.
func (g *Guard) dryRun(c *Call, p pair, s *Settings) Outcome {
	if g.drySeen[p] {
		return Already
	}
	if !g.dryBudget.take(time.Now(), s.PerMinute) {
		return BudgetSpent
	}
	if len(g.drySeen) == rememberedDry {
		clear(g.drySeen)
	}
	g.drySeen[p] = true
	s.Logger.Info("revocation would be triggered", "api_invoker_id", c.Invoker, "aef_id", c.AEF, "api_ids", c.APIs,
		"cause", c.Cause, "reason", clip(c.Reason), "requested_by", c.RequestedBy)
	return DryRun
}

// spent raises the alarm, and not anew for every call of a storm.
func (g *Guard) spent(now time.Time, s *Settings) {
	if g.refused.IsZero() {
		g.alarms.Raise(s.Logger, alarm.AutomaticTriggersSpent, fmt.Sprintf(
			"%d automatic triggers in a minute are all that automatic_triggers allows, and more were asked for: look for a rule that matches too much; `automatic_triggers off` stops them", s.PerMinute))
		select {
		case g.quiet <- struct{}{}:
		default:
		}
	}
	g.refused = now
}

// work hands jobs to the ledger, one at a time, and ends the alarm.
func (g *Guard) work(ctx context.Context) {
	calm := time.NewTimer(window)
	calm.Stop()
	defer calm.Stop()
	for {
		select {
		case j := <-g.queue:
			g.trigger(context.Background(), j) // the end does not break it off
		case <-g.quiet:
			calm.Reset(window)
		case <-calm.C:
			rest := g.untilCalm()
			if rest > 0 {
				calm.Reset(rest)
			}
		case <-ctx.Done():
			g.drain()
			return
		}
	}
}

// untilCalm clears the alarm if a minute went by without a refusal, and returns
// otherwise how much of it is left.
func (g *Guard) untilCalm() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := window - time.Since(g.refused)
	if rest > 0 {
		return rest
	}
	g.refused = time.Time{}
	g.alarms.Clear(g.settings.Load().Logger, alarm.AutomaticTriggersSpent)
	return 0
}

// drain hands over what was accepted before the stop.
func (g *Guard) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	for {
		select {
		case j := <-g.queue:
			g.trigger(ctx, j)
		default:
			return
		}
	}
}

func (g *Guard) trigger(ctx context.Context, j *job) {
	s := g.settings.Load()
	c := &j.call
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	_, err := g.ledger.Trigger(ctx, revocation.Trigger{
		Invoker: c.Invoker, AEF: c.AEF, APIs: c.APIs, Cause: clip(c.Cause), Reason: clip(c.Reason),
		RequestedBy: c.RequestedBy, Source: c.Source, Hold: true,
	})
	if err != nil {
		j.outcome, j.err = Failed, fmt.Errorf("automatic trigger: %w", err)
		g.counts[Failed].Add(1)
		g.alarms.Raise(s.Logger, alarm.AutomaticTriggerFailed, detailOf(err))
	} else {
		s.Logger.Info("revocation triggered", "api_invoker_id", c.Invoker, "aef_id", c.AEF, "api_ids", c.APIs,
			"cause", c.Cause, "hold", true, "requested_by", c.RequestedBy)
	}
	g.mu.Lock()
	delete(g.onWay, j.pair)
	if errors.Is(err, revocation.ErrInvalid) {
		g.budget.giveBack(j.at) // nothing was done: one odd id must not stop the others
	}
	if err == nil && len(g.queue) == 0 {
		g.alarms.Clear(s.Logger, alarm.AutomaticTriggerFailed)
	}
	g.mu.Unlock()
	close(j.done)
}

func detailOf(err error) string {
	if errors.Is(err, revocation.ErrNotDurable) {
		return "the ledger cannot be written: the API invoker is blocked, which may not survive a restart; see to its disk"
	}
	return "the ledger did not take it, and the next call asks again: " + err.Error()
}

// clip makes a text fit for the ledger, which refuses what is no UTF-8: parts
// of a reason can come from a request.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "")
}
