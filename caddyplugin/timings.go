package caddyplugin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-capif/aef/internal/coreclient"
)

// timings are how long things take that are not on the path of a call whose
// verdict is cached: that one costs less than timing it would.
type timings struct {
	decide   prometheus.Histogram
	message  prometheus.Histogram
	commit   prometheus.Histogram
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	skew     prometheus.Gauge
}

func newTimings() *timings {
	histogram := func(name, help string, first, factor float64, count int) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, factor, count)}
	}
	t := &timings{
		decide: prometheus.NewHistogram(histogram("capif_decide_seconds",
			"Time to decide a call that the deny cache did not answer.", 25e-6, 4, 9)), // to 1.6 s
		message: prometheus.NewHistogram(histogram("capif_core_message_seconds",
			"Time from a message of the core, read and authenticated, until what it says is in force and durable.", 250e-6, 4, 8)),
		commit: prometheus.NewHistogram(histogram("capif_ledger_commit_seconds",
			"Time of a commit of the ledger, its sync of the disk included.", 100e-6, 4, 8)),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capif_core_requests_total",
			Help: "Requests to the core, by operation and class of the answer.",
		}, []string{"operation", "outcome"}),
		latency: prometheus.NewHistogramVec(histogram("capif_core_request_seconds",
			"Time of requests to the core.", 1e-3, 4, 7), []string{"operation"}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capif_core_clock_skew_seconds",
			Help: "How much the core's clock is ahead of this machine's, by its last answer; to a second.",
		}),
	}
	for _, operation := range coreclient.Operations() {
		t.latency.WithLabelValues(operation)
		for _, outcome := range coreclient.Outcomes {
			t.requests.WithLabelValues(operation, outcome)
		}
	}
	return t
}

func (t *timings) collectors() []prometheus.Collector {
	return []prometheus.Collector{t.decide, t.message, t.commit, t.requests, t.latency, t.skew}
}

// observe takes how a request to the core went.
func (t *timings) observe(o coreclient.Observation) {
	t.requests.WithLabelValues(o.Operation, o.Outcome).Inc()
	t.latency.WithLabelValues(o.Operation).Observe(o.Took.Seconds())
	if !o.Date.IsZero() {
		// The date is cut to the second: on average it is half a second old.
		t.skew.Set((time.Until(o.Date) + time.Second/2).Round(time.Second).Seconds())
	}
}

// wrapCommit times commits of the ledger.
func (t *timings) wrapCommit(commit func() error) error {
	began := time.Now()
	err := commit()
	t.commit.Observe(time.Since(began).Seconds())
	return err
}

// since observes the time since began.
func since(h prometheus.Histogram, began time.Time) { h.Observe(time.Since(began).Seconds()) }
