package policy

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
)

// Trigger asks for revocations (TS 23.222 8.23.3 step 1).
type Trigger interface {
	// TriggerOverlimit asks for a revocation with cause OVERLIMIT_USAGE. No call
	// waits for it, but it MUST end with its context and soon. It reports whether
	// the revocation is durable; if not, a later call has it asked again, at the
	// earliest after a minute.
	TriggerOverlimit(ctx context.Context, o Overlimit) bool
}

// Overlimit is a total that an API invoker has used up and tried to exceed.
type Overlimit struct {
	Invoker, AEF, API string
	// Total is allowedTotalInvocations.
	Total int64
	// Bound says that the API invoker is bound to the client certificate of the
	// call: nobody else made it in its name.
	Bound bool
}

// offer is what one call may ask for; a nil trigger is nothing.
type offer struct {
	trigger Trigger
	bound   bool
}

// GateOptions say what a route makes of policies.
type GateOptions struct {
	// AEF and APIs are the aefId and the apiIds of the route. A call needs the
	// consent of the policy of each.
	AEF  string
	APIs []string
	// Required refuses calls while a policy of the core was never read.
	Required bool
	// Trigger takes calls over a total; nil only refuses them.
	Trigger Trigger
	// UnboundTriggers lets also calls trigger whose API invoker is not bound to
	// a client certificate. Real cores give tokens in another's name: with those one
	// API invoker could have another one revoked.
	UnboundTriggers bool
}

// Gate holds the calls of one route to the policies of its APIs.
type Gate struct {
	options GateOptions
	pairs   []*pair
}

// Gate makes the gate of a route. It does no I/O.
func (t *Table) Gate(o GateOptions) *Gate {
	g := &Gate{options: o}
	for _, api := range o.APIs {
		p := t.pair(Pair{AEF: o.AEF, API: api})
		if !slices.Contains(g.pairs, p) { // one that is named twice counts a call once
			g.pairs = append(g.pairs, p)
		}
	}
	return g
}

// Grant is an API invoker at a gate. It may be kept with a cached verdict: it
// follows changes of the policy by itself.
type Grant struct {
	one     *account // of a gate with one API
	several *several // of a gate with more
}

type several struct {
	gate     *Gate
	accounts []*account
}

// Grant returns the grant of an API invoker.
func (g *Gate) Grant(invoker string) *Grant {
	if len(g.pairs) == 1 {
		return &g.pairs[0].account(invoker).grant
	}
	s := &several{gate: g, accounts: make([]*account, len(g.pairs))}
	for i, p := range g.pairs {
		s.accounts[i] = p.account(invoker)
	}
	return &Grant{several: s}
}

// Has reports whether the grant, which may be nil, is one of this gate: after a
// reload it may not be.
func (g *Gate) Has(grant *Grant) bool {
	switch {
	case grant == nil:
		return false
	case len(g.pairs) == 1:
		return grant.one != nil && grant.one.pair == g.pairs[0]
	default:
		return grant.several != nil && grant.several.gate == g
	}
}

// Admit decides one call at the time now, and counts it if it passes. bound says
// that the API invoker is bound to the client certificate of the call. The answer
// is [enforce.Allowed], [enforce.OutsideTimeRange], [enforce.OverRate],
// [enforce.OverLimit] or [enforce.PolicyUnavailable].
func (g *Gate) Admit(ctx context.Context, grant *Grant, now time.Time, bound bool) enforce.Reason {
	if a := grant.one; a != nil {
		t, reason := g.consent(ctx, a, now, bound)
		if reason != enforce.Allowed || t == nil {
			return reason
		}
		return g.take(ctx, a, t, now, bound)
	}
	outcome := enforce.Allowed
	for _, a := range grant.several.accounts {
		_, reason := g.consent(ctx, a, now, bound)
		switch reason {
		case enforce.Allowed:
		case enforce.PolicyUnavailable:
			outcome = reason // what another one refuses is refused all the same
		default:
			return reason
		}
	}
	if outcome != enforce.Allowed {
		return outcome
	}
	for _, a := range grant.several.accounts {
		t := a.terms.Load()
		if t == nil {
			continue
		}
		reason := g.take(ctx, a, t, now, bound)
		if reason != enforce.Allowed {
			return reason
		}
	}
	return enforce.Allowed
}

// consent is what a policy says before the call is counted, with the terms that it
// says so by: nil if it limits nothing.
func (g *Gate) consent(ctx context.Context, a *account, now time.Time, bound bool) (*terms, enforce.Reason) {
	t := a.terms.Load()
	if t == nil {
		if !a.pair.known.Load() && !a.pair.await(ctx) && g.options.Required {
			return nil, enforce.PolicyUnavailable
		}
		t = a.terms.Load()
	}
	if t == nil {
		return nil, enforce.Allowed
	}
	reason := a.admit(t, now)
	if reason == enforce.Allowed && t.total != noTotal && a.usedUp(t) {
		a.exceeded(now, g.offer(bound))
		return t, enforce.OverLimit
	}
	return t, reason
}

// take counts the call.
func (g *Gate) take(ctx context.Context, a *account, t *terms, now time.Time, bound bool) enforce.Reason {
	if t.total == noTotal || a.count(t) {
		return enforce.Allowed
	}
	reason := a.countWaiting(ctx, t)
	if reason == enforce.OverLimit {
		a.exceeded(now, g.offer(bound))
	}
	return reason
}

func (g *Gate) offer(bound bool) offer {
	if !bound && !g.options.UnboundTriggers {
		return offer{}
	}
	return offer{trigger: g.options.Trigger, bound: bound}
}
