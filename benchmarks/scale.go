package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/caddy-capif/aef/benchmarks/load"
	"github.com/caddy-capif/aef/internal/coretest"
)

// scaleRow is one Caddy of the part scale.
type scaleRow struct {
	what, key string
	gateway   *gateway
	tokens    int
	// against is the key of the row with bare Caddy under the same conditions;
	// empty for bare Caddy itself.
	against string
	samples []sample
}

// readsRow is how often the core was asked.
type readsRow struct {
	invokers  int
	interval  time.Duration
	PerSecond float64
	calls     int
}

// scaled is what the part scale found.
type scaled struct {
	rows      []*scaleRow
	decisions []decision
	firstUS   float64
	reads     []readsRow
}

func (s *scaled) row(key string) *scaleRow {
	for _, r := range s.rows {
		if r.key == key {
			return r
		}
	}
	return nil
}

// claimCounts are 1, 10,000, the flag's and with -long 10 million.
func (c *config) claimCounts() []int {
	counts := []int{1}
	if c.claims > 10_000 {
		counts = append(counts, 10_000)
	}
	counts = append(counts, c.claims)
	if c.long {
		counts = append(counts, 10_000_000)
	}
	return counts
}

func (w *world) scale(ctx context.Context) (*scaled, error) {
	s := &scaled{}
	var err error
	s.decisions, s.firstUS, err = w.decisionCosts(ctx, w.config.claimCounts())
	if err != nil {
		return nil, err
	}
	s.rows, err = w.scaleRows(ctx)
	if err != nil {
		return nil, err
	}
	order := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // an order of chance that a second run repeats
	for round := range w.config.scaleRounds {
		w.log("scale, round %d of %d", round+1, w.config.scaleRounds)
		for _, i := range order.Perm(len(s.rows)) {
			row := s.rows[i]
			got, err := w.saturate(ctx, row.gateway, w.requests(row.tokens, "/location/1"), w.config.duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", row.what, err)
			}
			row.samples = append(row.samples, got)
		}
	}
	w.stopGateways()
	s.reads, err = w.readsTowardsTheCore(ctx)
	return s, err
}

// scaleRows starts every Caddy of the part.
func (w *world) scaleRows(ctx context.Context) ([]*scaleRow, error) {
	var rows []*scaleRow
	add := func(what, key, against string, tokens int, v variant) error {
		w.log("starting %s", what)
		var g *gateway
		var err error
		if against == "" {
			g, err = w.startBare(ctx, "scale-"+key, "bare", "", v)
		} else {
			g, err = w.startCapif(ctx, "scale-"+key, v)
		}
		if err != nil {
			return err
		}
		rows = append(rows, &scaleRow{what: what, key: key, gateway: g, tokens: tokens, against: against})
		return w.warm(ctx, g, w.requests(tokens, "/location/1"))
	}
	all := w.config.tokens
	err := add("bare Caddy", "bare", "", all, variant{})
	if err != nil {
		return nil, err
	}
	for _, n := range w.config.claimCounts() {
		ledger, err := w.ledgerOf(ctx, n)
		if err != nil {
			return nil, err
		}
		err = add(fmt.Sprintf("claims: %s, tokens: %s", thousands(n), thousands(all)), fmt.Sprint("claims-", n), "bare", all, variant{ledger: ledger})
		if err != nil {
			return nil, err
		}
	}
	for _, n := range tokenCounts(all) {
		err := add(fmt.Sprintf("no claims, tokens: %s", thousands(n)), fmt.Sprint("tokens-", n), "bare", n, variant{})
		if err != nil {
			return nil, err
		}
	}
	type pair struct {
		what, key string
		variant   variant
	}
	pairs := []pair{{"GOMAXPROCS 1", "procs-1", variant{procs: 1}}, {"GOMAXPROCS 2", "procs-2", variant{procs: 2}}}
	for _, n := range w.config.routes {
		pairs = append(pairs, pair{thousands(n) + " more routes", fmt.Sprint("routes-", n), variant{routes: n}})
	}
	for _, v := range pairs {
		err := add("bare Caddy, "+v.what, "bare-"+v.key, "", all, v.variant)
		if err != nil {
			return nil, err
		}
		err = add(v.what, v.key, "bare-"+v.key, all, v.variant)
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// saturate measures the CPU of each call under a saturating load of that duration.
func (w *world) saturate(ctx context.Context, g *gateway, requests [][]byte, duration time.Duration) (sample, error) {
	before, err := g.process.CPU()
	if err != nil {
		return sample{}, err
	}
	r, err := load.Run(ctx, load.Options{
		Address: g.address, Connections: w.config.connections, Duration: duration, Requests: requests, First: g.next,
	})
	if err != nil {
		return sample{}, err
	}
	after, err := g.process.CPU()
	if err != nil {
		return sample{}, err
	}
	memory, err := g.process.RSS()
	if err != nil {
		return sample{}, err
	}
	if r.Served == 0 || r.Failed > 0 {
		return sample{}, fmt.Errorf("%d calls served, %d failed: %w", r.Served, r.Failed, r.FirstFailure)
	}
	g.next = (g.next + r.Served) % len(requests)
	return sample{
		PerSecond: float64(r.Served) / r.Elapsed.Seconds(), CPU: float64((after - before).Nanoseconds()) / 1e3 / float64(r.Served),
		RSS: float64(memory) / 1e6,
	}, ctx.Err()
}

// readsTowardsTheCore counts reads of contexts while so many API invokers call,
// each at least once in every interval.
func (w *world) readsTowardsTheCore(ctx context.Context) ([]readsRow, error) {
	interval := max(time.Second, w.config.readsDuration/4)
	var rows []readsRow
	for _, n := range []int{10, 100, 1000} {
		n = min(n, len(w.tokens))
		w.log("reads towards the core, %d API invokers", n)
		g, err := w.startCapif(ctx, fmt.Sprint("reads-", n, "-", len(rows)), variant{reconcile: interval.String()})
		if err != nil {
			return nil, err
		}
		requests := w.requests(n, "/location/1")
		err = w.warm(ctx, g, requests)
		if err != nil {
			return nil, err
		}
		o := load.Options{
			Address: g.address, Connections: 4, Duration: interval, Rate: 3 * float64(n) / interval.Seconds(), Requests: requests,
		}
		_, err = load.Run(ctx, o) // all were read at the start: their next reads come an interval later
		if err != nil {
			return nil, err
		}
		o.Duration = w.config.readsDuration
		before := w.scene.Core.Count(coretest.OpGetContext)
		r, err := load.Run(ctx, o)
		if err != nil {
			return nil, err
		}
		reads := w.scene.Core.Count(coretest.OpGetContext) - before
		if r.Failed > 0 {
			return nil, fmt.Errorf("%d calls failed: %w", r.Failed, r.FirstFailure)
		}
		rows = append(rows, readsRow{invokers: n, interval: interval, PerSecond: float64(reads) / r.Elapsed.Seconds(), calls: r.Served})
		w.stopGateways()
	}
	return rows, ctx.Err()
}
