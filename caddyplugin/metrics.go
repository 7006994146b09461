package caddyplugin

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/enforce"
)

// metrics are the figures of one state. They live as long as the state, and
// every configuration registers them in its own registry, so that a reload
// neither loses nor freezes them. Label values come from closed sets: reasons,
// alarms, and the API names of the configuration.
type metrics struct {
	state       *state
	decisions   *prometheus.CounterVec
	hits        *prometheus.CounterVec
	messages    *prometheus.CounterVec
	timings     *timings
	revocations *revocations
}

var (
	descDenied = prometheus.NewDesc("capif_denied_scopes",
		"Scopes (pairs, API invokers, tokens) that a claim denies.", nil, nil)
	descPending = prometheus.NewDesc("capif_revocations_pending",
		"Revocations that the core has not decided.", nil, nil)
	descFailing = prometheus.NewDesc("capif_ledger_failing",
		"1 while the ledger cannot be written: denies hold in memory only and are answered 503.", nil, nil)
	descLedgerBytes = prometheus.NewDesc("capif_ledger_bytes",
		"Size of the ledger's file.", nil, nil)
	descOutboxOldest = prometheus.NewDesc("capif_revocations_pending_oldest_seconds",
		"Age of the oldest revocation that the core has not decided; 0 if there is none.", nil, nil)
	descKeysAge = prometheus.NewDesc("capif_keys_age_seconds",
		"Time since the token keys were loaded; absent while there are none.", []string{"source"}, nil)
	descKeysFailing = prometheus.NewDesc("capif_keys_failing",
		"1 while the last attempt to load the token keys has failed.", []string{"source"}, nil)
	descDropped = prometheus.NewDesc("capif_deny_cache_dropped_total",
		"Verdicts that the deny cache did not take because its buffer was full.", nil, nil)
	descRejected = prometheus.NewDesc("capif_deny_cache_rejected_total",
		"Verdicts that the deny cache did not take because others are asked for more.", nil, nil)
	descEvicted = prometheus.NewDesc("capif_deny_cache_evicted_total",
		"Verdicts that made room for others.", nil, nil)
	descContexts = prometheus.NewDesc("capif_contexts",
		"API invokers whose security context is kept.", nil, nil)
	descContextsDue = prometheus.NewDesc("capif_contexts_due",
		"Security contexts that are read again before they decide.", nil, nil)
	descReads = prometheus.NewDesc("capif_context_reads_total",
		"Security contexts asked for at the core.", nil, nil)
	descReadsFailed = prometheus.NewDesc("capif_context_reads_failed_total",
		"Of these, those that brought no word of the core about the API invoker.", nil, nil)
	descLate = prometheus.NewDesc("capif_context_late_total",
		"Calls that were decided before their read came.", nil, nil)
	descOldest = prometheus.NewDesc("capif_context_oldest_seconds",
		"Age of the oldest security context of an active API invoker.", nil, nil)
	descReachable = prometheus.NewDesc("capif_core_reachable",
		"0 while reads of security contexts get no answer from the core.", nil, nil)
	descSubscribed = prometheus.NewDesc("capif_subscription_active",
		"1 while the core has confirmed the event subscription.", nil, nil)
	descTriggers = prometheus.NewDesc("capif_automatic_triggers_total",
		"Revocations asked for by routes and policies, by what became of them.", []string{"outcome"}, nil)
	descPolicyReads = prometheus.NewDesc("capif_policy_reads_total",
		"Access control policies asked for at the core.", nil, nil)
	descPolicyReadsFailed = prometheus.NewDesc("capif_policy_reads_failed_total",
		"Of these, those that brought no word of the core.", nil, nil)
	descPolicyExhausted = prometheus.NewDesc("capif_policy_exhausted",
		"API invokers, for each API, whose total of calls is used up.", nil, nil)
	descStreams = prometheus.NewDesc("capif_streams",
		"Calls in flight at routes with end_streams.", nil, nil)
	descStreamsEnded = prometheus.NewDesc("capif_streams_ended_total",
		"Calls in flight that were ended, by what denied them.", []string{"reason"}, nil)
	descAlarm = prometheus.NewDesc("capif_alarm",
		"1 while the alarm is raised.", []string{"alarm"}, nil)
)

func newMetrics(s *state) *metrics {
	m := &metrics{
		state: s,
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capif_decisions_total",
			Help: "Calls decided, by API name of the route and reason.",
		}, []string{"api_name", "reason"}),
		hits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capif_deny_cache_hits_total",
			Help: "Calls that the deny cache answered, by API name of the route.",
		}, []string{"api_name"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capif_core_messages_total",
			Help: "Messages that capif_callback received, by how they ended.",
		}, []string{"outcome"}),
		timings:     newTimings(),
		revocations: newRevocations(),
	}
	for _, outcome := range corecallback.Outcomes() {
		m.messages.WithLabelValues(string(outcome)) // a rate needs the zero before the first
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{
		descDenied, descPending, descOutboxOldest, descFailing, descLedgerBytes, descKeysAge, descKeysFailing,
		descDropped, descRejected, descEvicted,
		descContexts, descContextsDue, descReads, descReadsFailed, descLate, descOldest, descReachable, descSubscribed, descTriggers,
		descPolicyReads, descPolicyReadsFailed, descPolicyExhausted,
		descStreams, descStreamsEnded, descAlarm,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
	ledger := m.state.ledger.Stats()
	cache := m.state.cache.Stats()
	for i, count := range m.state.triggers.Counts() {
		ch <- prometheus.MustNewConstMetric(descTriggers, prometheus.CounterValue, float64(count), autotrigger.Outcome(i).String())
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(descDenied, float64(ledger.DeniedScopes))
	gauge(descPending, float64(ledger.Pending))
	gauge(descOutboxOldest, m.state.oldestPending().Seconds())
	gauge(descFailing, truth(ledger.Failing))
	gauge(descLedgerBytes, float64(m.state.ledger.FileStats().Bytes))
	for _, source := range m.state.keySources() {
		if at := source.LoadedAt(); !at.IsZero() {
			gauge(descKeysAge, time.Since(at).Seconds(), source.name)
		}
		gauge(descKeysFailing, truth(source.LastError() != nil), source.name)
	}
	counter(descDropped, cache.Dropped)
	counter(descRejected, cache.Rejected)
	counter(descEvicted, cache.Evicted)
	contexts := m.state.context.Status()
	gauge(descContexts, float64(contexts.Invokers))
	gauge(descContextsDue, float64(contexts.Due))
	counter(descReads, contexts.Reads)
	counter(descReadsFailed, contexts.Failed)
	counter(descLate, contexts.Late)
	oldest := 0.0
	if !contexts.Oldest.IsZero() {
		oldest = time.Since(contexts.Oldest).Seconds()
	}
	gauge(descOldest, oldest)
	gauge(descReachable, truth(contexts.Reachable))
	gauge(descSubscribed, truth(m.state.events.Status().Subscribed))
	policies := m.state.policy.Stats()
	counter(descPolicyReads, policies.Reads)
	counter(descPolicyReadsFailed, policies.Failed)
	gauge(descPolicyExhausted, float64(policies.Exhausted))
	inFlight := m.state.streams.Stats()
	gauge(descStreams, float64(inFlight.Open))
	for reason, n := range inFlight.Ended {
		ch <- prometheus.MustNewConstMetric(descStreamsEnded, prometheus.CounterValue, float64(n), reason.String())
	}
	raised := map[alarm.Name]bool{}
	for _, a := range m.state.alarms.List() {
		raised[a.Name] = true
	}
	for _, name := range alarm.Names() {
		gauge(descAlarm, truth(raised[name]), string(name))
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return slices.Concat([]prometheus.Collector{m.decisions, m.hits, m.messages}, m.timings.collectors(), m.revocations.collectors())
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// figures are those of a route, resolved once: counting is one atomic add.
type figures struct {
	decisions []prometheus.Counter // by reason
	hits      prometheus.Counter   // what the deny cache answered
	decide    prometheus.Histogram // what it did not answer
}

func (m *metrics) forRoute(apiName string) figures {
	reasons := enforce.Reasons()
	f := figures{
		decisions: make([]prometheus.Counter, int(reasons[len(reasons)-1])+1),
		hits:      m.hits.WithLabelValues(apiName), decide: m.timings.decide,
	}
	for _, reason := range reasons {
		f.decisions[reason] = m.decisions.WithLabelValues(apiName, reason.String())
	}
	return f
}

func (m *metrics) countMessage(o corecallback.Outcome) {
	m.messages.WithLabelValues(string(o)).Inc()
}

var _ prometheus.Collector = (*metrics)(nil)
