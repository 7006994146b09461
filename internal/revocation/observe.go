package revocation

import "time"

// Source says what asked for a revocation. The set is closed: it labels metrics.
type Source string

const (
	// SourceOperator is whoever used the admin API.
	SourceOperator Source = "operator"
	// SourcePolicy is an access control policy whose total was used up.
	SourcePolicy Source = "policy"
	// SourceRoute is a route with a trigger.
	SourceRoute Source = "route"
	// SourceCore is the core itself: it is none of a [Trigger].
	SourceCore Source = "core"
)

// Step is a durable change of a revocation.
type Step struct {
	Source Source
	// Cause is as it was given: an open enumeration.
	Cause string
	// State is pending for a new revocation, then the state that ends it. Of the
	// core's own word it is [StateDenied].
	State State
	// Took is the time from the trigger to the state that ended it.
	Took time.Duration
}

// StateDenied stands, in a [Step] alone, for a scope that the core newly denied.
const StateDenied State = "denied"

// SetObserver names who is told of every step, once, after it is durable. Call it
// before Open. f is called by the writer: it MUST NOT block and MUST NOT call the
// ledger.
func (l *Ledger) SetObserver(f func(Step)) { l.observe = f }

// step notes where a revocation has come to.
func (t *txn) step(r *Revocation) {
	s := Step{Source: r.Source, Cause: r.Cause, State: r.State}
	if s.Source == "" { // recorded before sources were
		s.Source = SourceOperator
	}
	if r.State != StatePending {
		s.Took = max(0, r.DecidedAt.Sub(r.CreatedAt))
	}
	t.steps = append(t.steps, s)
}

// tellSteps hands over what a transaction did, after its commit.
func (l *Ledger) tellSteps(t *txn) {
	if l.observe == nil {
		return
	}
	for _, s := range t.steps {
		l.observe(s)
	}
}
