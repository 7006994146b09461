package enforce

import (
	"context"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
)

// Contexts says what security contexts list; *reconcile.Reconciler does.
type Contexts interface {
	// Check MUST NOT wait longer than a bound of its own, and is asked only
	// for API invokers whose token was verified.
	Check(ctx context.Context, q ContextQuery) ContextAnswer
	// Known answers by what is known now. It MUST NOT wait or ask anybody.
	Known(q ContextQuery) ContextAnswer
	// WarnIfMapped looks for a likely mistake in the route's apiIds.
	WarnIfMapped(q ContextQuery)
}

// ContextQuery asks whether a context lists a route.
type ContextQuery struct {
	Invoker string
	AEF     string
	APIs    []string
	// Require is false where a pair is refused only if it was listed and no
	// longer is.
	Require bool
}

// ContextAnswer is what the context says.
type ContextAnswer struct {
	// Listed says that the context lists the route.
	Listed bool
	// Known is false if nothing is known of the invoker and the core could
	// not be asked.
	Known bool
	// Settled says that the answer may be cached.
	Settled bool
	// Waited says that a read was waited for: what was looked up before may
	// be old.
	Waited bool
	// Late says that the read that was waited for brought nothing: the answer
	// is what was known before.
	Late bool
	// Times are those of the context, to be given those of later calls. They go
	// on changing.
	Times *denycache.Times
}

// ContextRule says what a route makes of contexts.
type ContextRule struct {
	// Require refuses a pair that the context does not list. Without it, only
	// a pair that was listed and no longer is.
	Require bool
	// MaxStaleness refuses calls whose context was read longer ago; 0 is no
	// bound.
	MaxStaleness time.Duration
}

// UseContexts makes security contexts part of the decision. Call it before the
// first Decide.
func (d *Decider) UseContexts(c Contexts, rule ContextRule) {
	d.contexts, d.rule = c, rule
	// A verdict that rests on no context must not serve one that does.
	for i, b := range []byte("context") {
		d.id[i] ^= b
	}
	if rule.Require {
		d.id[len(d.id)-1] ^= 1
	}
}

func (d *Decider) listed(ctx context.Context, e *denycache.Entry) (Reason, ContextAnswer) {
	q := d.query(e)
	a := d.contexts.Check(ctx, q)
	e.Follow(a.Times)
	switch {
	case !a.Known:
		return ContextUnknown, a
	case !a.Listed:
		d.contexts.WarnIfMapped(q)
		return NotInContext, a
	default:
		return Allowed, a
	}
}

func (d *Decider) query(e *denycache.Entry) ContextQuery {
	return ContextQuery{Invoker: e.Invoker, AEF: d.route.AEFID, APIs: d.route.APIIDs, Require: d.rule.Require}
}

// Again judges a call that was allowed and is still in flight: do claims or the
// context, as it is known now, deny it? It waits for nobody and asks nobody, so
// what is merely unknown or old ends no call; nor does the end of its token.
func (d *Decider) Again(e *denycache.Entry) Reason {
	verdict, current := e.Verdict()
	if current && Reason(verdict) == Allowed {
		return Allowed
	}
	reason := d.claimed(e)
	if reason != Allowed || d.contexts == nil {
		return reason
	}
	answer := d.contexts.Known(d.query(e))
	if answer.Known && !answer.Listed {
		return NotInContext
	}
	return Allowed
}

func (d *Decider) tooOld(age time.Duration) bool {
	return d.rule.MaxStaleness > 0 && age > d.rule.MaxStaleness
}
