package caddyplugin

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-capif/aef/internal/revocation"
)

// revocations count what the ledger made durable about revocations.
type revocations struct {
	total   *prometheus.CounterVec
	decided prometheus.Histogram
}

// Label values of capif_revocations_total.
const (
	stateTriggered = "triggered"
	causeOther     = "other"
)

// standardCauses are those of TS 29.222 8.5.4.2.5, which is open to others.
var standardCauses = []string{causeOverlimit, "UNEXPECTED_REASON", "AUTHORIZATION_ISSUE", "OTHER_REASON"}

// revocationCauses are their labels: whatever else is told counts as other.
var revocationCauses = append(slices.Clone(standardCauses), causeOther)

func newRevocations() *revocations {
	m := &revocations{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capif_revocations_total",
			Help: "Revocations, by who asked, cause and what became of them; of the core, what it newly denied.",
		}, []string{"origin", "cause", "state"}),
		decided: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "capif_revocation_decided_seconds",
			Help:    "Time from the trigger of a revocation to the core's decision.",
			Buckets: prometheus.ExponentialBuckets(5e-3, 4, 11), // to 1.5 h: a core can be down for long
		}),
	}
	states := []string{
		stateTriggered, string(revocation.StateRevoked), string(revocation.StateUnconfirmed),
		string(revocation.StateNoAuthorizationFound), string(revocation.StateRejected), string(revocation.StateCancelled),
	}
	for _, cause := range revocationCauses { // a rate needs the zero before the first
		for _, source := range []revocation.Source{revocation.SourceOperator, revocation.SourcePolicy, revocation.SourceRoute} {
			for _, state := range states {
				m.total.WithLabelValues(string(source), cause, state)
			}
		}
		m.total.WithLabelValues(string(revocation.SourceCore), cause, string(revocation.StateDenied))
	}
	return m
}

func (m *revocations) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.total, m.decided}
}

// observe takes a step that is durable.
func (m *revocations) observe(s revocation.Step) {
	cause, state := s.Cause, string(s.State)
	if !slices.Contains(revocationCauses, cause) {
		cause = causeOther
	}
	switch s.State {
	case revocation.StatePending:
		state = stateTriggered
	case revocation.StateDenied, revocation.StateCancelled: // no decision of the core
	default:
		m.decided.Observe(s.Took.Seconds())
	}
	m.total.WithLabelValues(string(s.Source), cause, state).Inc()
}
