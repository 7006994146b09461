package policy

import (
	"context"
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
		g.pairs = append(g.pairs, t.pair(Pair{AEF: o.AEF, API: api}))
	}
	return g
}

// Grant is an API invoker at a gate. It may be kept with a cached verdict: it
// follows changes of the policy by itself.
type Grant struct {
	gate     *Gate
	accounts []*account
}

// Grant returns the grant of an API invoker.
func (g *Gate) Grant(invoker string) *Grant {
	grant := &Grant{gate: g, accounts: make([]*account, len(g.pairs))}
	for i, p := range g.pairs {
		grant.accounts[i] = p.account(invoker)
	}
	return grant
}

// Of reports whether the grant belongs to a gate: after a reload it may not.
func (g *Grant) Of(gate *Gate) bool { return g != nil && g.gate == gate }

// Admit decides one call at the time now, and counts it if it passes. bound says
// that the API invoker is bound to the client certificate of the call. The answer
// is [enforce.Allowed], [enforce.OutsideTimeRange], [enforce.OverRate],
// [enforce.OverLimit] or [enforce.PolicyUnavailable].
func (g *Grant) Admit(ctx context.Context, now time.Time, bound bool) enforce.Reason {
	for _, a := range g.accounts {
		t := a.terms.Load()
		if t == nil {
			if !a.pair.known.Load() && !a.pair.await(ctx) && g.gate.options.Required {
				return enforce.PolicyUnavailable
			}
			t = a.terms.Load()
		}
		if t == nil {
			continue
		}
		reason := t.admit(now)
		if reason != enforce.Allowed {
			return reason
		}
		if t.total != noTotal && a.usedUp(t) {
			a.exceeded(now, g.gate.offer(bound))
			return enforce.OverLimit
		}
	}
	for _, a := range g.accounts {
		t := a.terms.Load()
		if t == nil || t.total == noTotal || a.count(t) {
			continue
		}
		reason := a.countWaiting(ctx, t)
		if reason == enforce.OverLimit {
			a.exceeded(now, g.gate.offer(bound))
		}
		if reason != enforce.Allowed {
			return reason
		}
	}
	return enforce.Allowed
}

func (g *Gate) offer(bound bool) offer {
	if !bound && !g.options.UnboundTriggers {
		return offer{}
	}
	return offer{trigger: g.options.Trigger, bound: bound}
}
