package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/caddy-capif/aef/benchmarks/load"
	"github.com/caddy-capif/aef/benchmarks/stats"
)

// sample is one measurement of one gateway.
type sample struct {
	// PerSecond is how many calls were served under a saturating load, and CPU
	// the microseconds of user and system time that the process took for each.
	PerSecond, CPU float64
	// P50 and P99 are latencies under the load of a fixed rate, in
	// milliseconds.
	P50, P99 float64
	// RSS is the resident memory at the end, in MB.
	RSS float64
	// Failed are calls that were not answered 200, Reconnects those that found
	// their connection closed.
	Failed, Reconnects int
	// Failure says what the first of Failed was, nil without one.
	Failure error
	// Meanwhile is what went on beside the loads, for so many Seconds.
	Meanwhile outcome
	Seconds   float64
}

// outcome counts the revokes or reloads that were carried out, and those that were
// not, with the first error.
type outcome struct {
	done, refused int
	first         error
	// took is how long each of those revokes took that were acknowledged through the
	// callback, in milliseconds.
	took []float64
}

// background is what goes on beside a load: it is begun, and ended by the
// function it returns.
type background func(ctx context.Context, g *gateway) func() outcome

// begin begins what goes on beside a load; nil is nothing.
func (b background) begin(ctx context.Context, g *gateway) func() outcome {
	if b == nil {
		return func() outcome { return outcome{} }
	}
	return b(ctx, g)
}

// measure loads g twice, saturating and at a fixed rate, each for its time.
func (w *world) measure(ctx context.Context, g *gateway, requests [][]byte, beside background) (sample, error) {
	options := load.Options{Address: g.address, Connections: w.config.connections, Requests: requests}
	run := func(duration time.Duration, rate float64) (load.Result, error) {
		o := options
		o.Duration, o.Rate, o.First = duration, rate, g.next
		r, err := load.Run(ctx, o)
		g.next = (g.next + r.Served) % len(requests)
		return r, err
	}
	_, err := run(100*time.Millisecond, 0)
	if err != nil {
		return sample{}, err
	}
	begin := time.Now()
	end := beside.begin(ctx, g)
	s, err := w.loads(g, run)
	meanwhile := end()
	switch {
	case err != nil:
		return s, err
	case meanwhile.refused > 0 && meanwhile.done == 0:
		return s, fmt.Errorf("%s: %w", g.name, meanwhile.first)
	case ctx.Err() != nil:
		return s, ctx.Err()
	}
	s.Meanwhile, s.Seconds = meanwhile, time.Since(begin).Seconds()
	return s, nil
}

func (w *world) loads(g *gateway, run func(time.Duration, float64) (load.Result, error)) (sample, error) {
	before, err := g.process.CPU()
	if err != nil {
		return sample{}, err
	}
	full, err := run(w.config.duration, 0)
	if err != nil {
		return sample{}, err
	}
	after, err := g.process.CPU()
	if err != nil {
		return sample{}, err
	}
	if full.Served == 0 {
		return sample{}, fmt.Errorf("%s served no call: %w", g.name, full.FirstFailure)
	}
	paced, err := run(w.config.paced, w.config.rate)
	if err != nil {
		return sample{}, err
	}
	if paced.Served == 0 {
		return sample{}, fmt.Errorf("%s served no call at a fixed rate: %w", g.name, paced.FirstFailure)
	}
	rss, err := g.process.RSS()
	if err != nil {
		return sample{}, err
	}
	return sample{
		PerSecond: float64(full.Served) / full.Elapsed.Seconds(),
		CPU:       float64((after - before).Nanoseconds()) / 1e3 / float64(full.Served+full.Failed),
		P50:       1e3 * stats.Quantile(paced.Latencies, 0.5),
		P99:       1e3 * stats.Quantile(paced.Latencies, 0.99),
		RSS:       float64(rss) / 1e6,
		Failed:    full.Failed + paced.Failed, Failure: cmp.Or(full.FirstFailure, paced.FirstFailure), Reconnects: full.Reconnects + paced.Reconnects,
	}, nil
}

// reloads reloads the configuration every second, first after a quarter of one.
func reloads(ctx context.Context, g *gateway) func() outcome {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var o outcome
	go func() {
		defer close(ended)
		timer := time.NewTimer(250 * time.Millisecond)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			timer.Reset(time.Second)
			// One that has begun ends, or the next measurement would have it.
			err := g.reload(context.WithoutCancel(ctx))
			if err != nil {
				o.first = cmp.Or(o.first, err)
				o.refused++
				continue
			}
			o.done++
		}
	}()
	return func() outcome {
		cancel()
		<-ended
		return o
	}
}
