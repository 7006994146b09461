package caddyplugin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Policy is the access control policy of an API (TS 29.222 8.6): how often and
// when an API invoker may call. It belongs to the route's aefId and apiIds: routes
// with the same ones share counts, and their policies must be the same.
type Policy struct {
	// FromCore has the policy read from the core: at the start, when the core
	// announces a change, and in each `reconcile` interval. The limits below must
	// be absent then. OpenCAPIF gives every API invoker 100 calls in all unless
	// its operator has set another number. Default: false.
	FromCore bool `json:"from_core,omitempty"`

	// Total is how many calls each API invoker may make in all. 0 allows none.
	// The count is durable. Default: no limit.
	Total *int64 `json:"total,omitempty"`

	// PerSecond is how many calls each API invoker may make in a second; at most
	// so many at once. 0 allows none. Default: no limit.
	PerSecond *int64 `json:"per_second,omitempty"`

	// TimeRanges are when calls are allowed; any of them suffices. Default: at any
	// time.
	TimeRanges []PolicyTime `json:"time_ranges,omitempty"`

	// Invokers are policies for single API invokers. Each stands in the place of
	// the limits above: what it leaves out is not limited.
	Invokers []PolicyInvoker `json:"invokers,omitempty"`

	// Required refuses calls, with 503, while the policy of the core was never
	// read. Default: false, they pass without limit until then.
	Required bool `json:"required,omitempty"`

	// OverLimit is what a call over the total does: `revoke`, refuse it and
	// revoke the API invoker's authorization with cause OVERLIMIT_USAGE, or
	// `refuse`. Default: revoke.
	OverLimit string `json:"over_limit,omitempty"`

	// UnboundTriggers lets a call revoke although the route has no `bind
	// client_certificate`. On real cores an API invoker can get a token in
	// another's name, and can so use up that one's calls and have it revoked.
	// Default: false, and then a route without bind that could revoke does not
	// load.
	UnboundTriggers bool `json:"unbound_triggers,omitempty"`
}

// PolicyInvoker is the policy of one API invoker.
type PolicyInvoker struct {
	// ID is the apiInvokerId. Required.
	ID string `json:"id,omitempty"`

	// Total is how many calls it may make in all. Default: no limit.
	Total *int64 `json:"total,omitempty"`

	// PerSecond is how many calls it may make in a second. Default: no limit.
	PerSecond *int64 `json:"per_second,omitempty"`

	// TimeRanges are when it may call. Default: at any time.
	TimeRanges []PolicyTime `json:"time_ranges,omitempty"`
}

// PolicyTime is a time in which calls are allowed, from Start on and before Stop.
type PolicyTime struct {
	// Start as in RFC 3339, such as `2026-01-01T08:00:00+01:00`. Default: open.
	Start string `json:"start,omitempty"`

	// Stop as in RFC 3339. Default: open.
	Stop string `json:"stop,omitempty"`
}

// Words of policy.
const (
	overLimitRevoke = "revoke"
	overLimitRefuse = "refuse"
	openEnd         = "-"
)

// provisionPolicy makes the gate of a route that has a policy.
func (e *Enforce) provisionPolicy(app *App, r *enforce.Route) error {
	p := e.Policy
	if p == nil {
		return nil
	}
	re := newResolver()
	source, err := p.source(re)
	overLimit := re.text("over_limit", p.OverLimit)
	if re.err != nil {
		return re.err
	}
	if err != nil {
		return fmt.Errorf("capif_enforce: policy: %w", err)
	}
	if !slices.Contains([]string{"", overLimitRevoke, overLimitRefuse}, overLimit) {
		return fmt.Errorf("capif_enforce: policy: over_limit is %q; accepted: revoke, refuse", overLimit)
	}
	revokes := overLimit != overLimitRefuse && e.Mode != modeMonitor && source.Limits()
	if revokes && e.Bind == "" && !p.UnboundTriggers {
		return fmt.Errorf("capif_enforce: policy: a total is limited, and the route has no `bind client_certificate`: on real cores an API invoker can get a token in another's name, and could have that one revoked; bind it, or say `unbound_triggers` or `over_limit refuse` in policy")
	}
	use := policyUse{source: source, unbound: e.Bind == "", revokesBound: revokes && !p.UnboundTriggers}
	for _, api := range r.APIIDs {
		err := app.addPolicy(policy.Pair{AEF: r.AEFID, API: api}, use)
		if err != nil {
			return fmt.Errorf("capif_enforce: policy: %w", err)
		}
	}
	o := policy.GateOptions{
		AEF: r.AEFID, APIs: r.APIIDs, UnboundTriggers: p.UnboundTriggers,
		// A configured policy is only unknown until the app is started: no call
		// gets by while the rest of the start takes its time.
		Required: p.Required || source.Rules != nil,
	}
	if revokes {
		o.Trigger = &overlimitTrigger{app: app}
	}
	e.gate = app.state.policy.Gate(o)
	return nil
}

// source is where the policy comes from, checked.
func (p *Policy) source(re *resolver) (policy.Source, error) {
	own := p.Total != nil || p.PerSecond != nil || len(p.TimeRanges) > 0 || len(p.Invokers) > 0
	switch {
	case p.FromCore && own:
		return policy.Source{}, fmt.Errorf("it comes from the core and has limits of its own; give one of the two")
	case p.FromCore:
		return policy.Source{}, nil
	case !own:
		return policy.Source{}, fmt.Errorf("it limits nothing; give total, per_second, time_range or invoker, or `policy core`")
	case p.Required:
		return policy.Source{}, fmt.Errorf("required is about the core's policy, and this one is configured; leave it out")
	}
	all, err := rule(re, p.Total, p.PerSecond, p.TimeRanges)
	if err != nil {
		return policy.Source{}, err
	}
	rules := &policy.Rules{All: all, Single: make(map[string]*policy.Rule, len(p.Invokers))}
	for _, invoker := range p.Invokers {
		id := re.text("policy invoker", invoker.ID)
		if id == "" && re.err == nil {
			return policy.Source{}, fmt.Errorf("an invoker has no id; give the apiInvokerId")
		}
		if rules.Single[id] != nil {
			return policy.Source{}, fmt.Errorf("invoker %q is there twice", id)
		}
		rules.Single[id], err = rule(re, invoker.Total, invoker.PerSecond, invoker.TimeRanges)
		if err != nil {
			return policy.Source{}, fmt.Errorf("invoker %q: %w", id, err)
		}
	}
	return policy.Source{Rules: rules}, nil
}

func rule(re *resolver, total, perSecond *int64, times []PolicyTime) (*policy.Rule, error) {
	r := &policy.Rule{Total: total, PerSecond: perSecond}
	for name, n := range map[string]*int64{"total": total, "per_second": perSecond} {
		if n != nil && *n < 0 {
			return nil, fmt.Errorf("%s is %d; give a number of calls, or leave it out for no limit", name, *n)
		}
	}
	for _, t := range times {
		var ends [2]time.Time
		for i, text := range []string{re.text("time_range", t.Start), re.text("time_range", t.Stop)} {
			if text == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return nil, fmt.Errorf("time_range: %q is no time as in RFC 3339, such as 2026-01-01T08:00:00+01:00", text)
			}
			ends[i] = at
		}
		if !ends[1].IsZero() && !ends[0].Before(ends[1]) {
			return nil, fmt.Errorf("time_range: it ends at %s, which is not after its start", t.Stop)
		}
		r.Ranges = append(r.Ranges, policy.Range{Start: ends[0], Stop: ends[1]})
	}
	return r, nil
}

// policyUse is what one route makes of the policy of a pair.
type policyUse struct {
	source policy.Source
	// unbound says that calls count whose API invoker is not bound to the client
	// certificate.
	unbound bool
	// revokesBound says that a bound call over the total revokes.
	revokesBound bool
}

// addPolicy notes where the policy of a pair comes from. Counts belong to the pair,
// so two routes must not differ about it, and where one revokes by it, nobody must
// be able to use up another's calls at the other.
func (a *App) addPolicy(pair policy.Pair, use policyUse) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.policies[pair]
	if ok && !known.source.Rules.Equal(use.source.Rules) {
		return fmt.Errorf("another route has another policy for apiId %s at aefId %s; write the same in both", pair.API, pair.AEF)
	}
	use.unbound = use.unbound || known.unbound
	use.revokesBound = use.revokesBound || known.revokesBound
	if use.unbound && use.revokesBound {
		return fmt.Errorf("one route revokes when the calls of apiId %s at aefId %s are used up, and another one that counts them has no `bind client_certificate`: there an API invoker with a token in another's name could use up that one's calls; bind both, or say `over_limit refuse` or `unbound_triggers` in the policy that revokes", pair.API, pair.AEF)
	}
	if a.policies == nil {
		a.policies = make(map[policy.Pair]policyUse)
	}
	a.policies[pair] = use
	return nil
}

// policySources are where the policies of this configuration come from.
func (a *App) policySources() map[policy.Pair]policy.Source {
	a.mu.Lock()
	defer a.mu.Unlock()
	sources := make(map[policy.Pair]policy.Source, len(a.policies))
	for pair, use := range a.policies {
		sources[pair] = use.source
	}
	return sources
}

// admit holds an allowed call to the policy.
func (e *Enforce) admit(ctx context.Context, entry *denycache.Entry, now time.Time) enforce.Reason {
	grant, _ := entry.Attached().(*policy.Grant)
	if !e.gate.Has(grant) {
		grant = e.gate.Grant(entry.Invoker)
		entry.Attach(grant)
	}
	return e.gate.Admit(ctx, grant, now, e.Bind != "")
}

// overlimitTrigger has the authorization of an API invoker revoked that has
// exceeded its total, within the budget of automatic triggers.
type overlimitTrigger struct{ app *App }

// TriggerOverlimit implements policy.Trigger.
func (t *overlimitTrigger) TriggerOverlimit(ctx context.Context, o policy.Overlimit) bool {
	outcome, err := t.app.state.triggers.RequestAndWait(ctx, autotrigger.Call{
		Invoker: o.Invoker, AEF: o.AEF, APIs: []string{o.API}, Cause: causeOverlimit,
		Reason:      fmt.Sprintf("all %d calls of the access control policy were used", o.Total),
		RequestedBy: "policy", Source: revocation.SourcePolicy, Bound: o.Bound,
		AllowUnbound: true, // the gate offers no other: see policy.GateOptions
	})
	return err == nil && (outcome == autotrigger.Accepted || outcome == autotrigger.Already)
}

// causeOverlimit is a cause of TS 29.222 8.5.4.2.5.
const causeOverlimit = "OVERLIMIT_USAGE"

var _ policy.Trigger = (*overlimitTrigger)(nil)
