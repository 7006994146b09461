package enforce

import (
	"context"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/reconcile"
)

// Contexts says what security contexts list; *reconcile.Reconciler does.
type Contexts interface {
	// Check MUST NOT wait longer than a bound of its own, and is asked only
	// for API invokers whose token was verified.
	Check(ctx context.Context, q reconcile.Query) reconcile.Answer
	// WarnIfMapped looks for a likely mistake in the route's apiIds.
	WarnIfMapped(q reconcile.Query)
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

func (d *Decider) listed(ctx context.Context, e *denycache.Entry) (Reason, reconcile.Answer) {
	q := reconcile.Query{Invoker: e.Invoker, AEF: d.route.AEFID, APIs: d.route.APIIDs, Require: d.rule.Require}
	a := d.contexts.Check(ctx, q)
	e.Follow(denycache.Context{Seen: a.Seen, ReadAt: a.ReadAt})
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

func (d *Decider) tooOld(age time.Duration) bool {
	return d.rule.MaxStaleness > 0 && age > d.rule.MaxStaleness
}

var _ Contexts = (*reconcile.Reconciler)(nil)
