package enforce

import (
	"context"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// Step is one question of a decision and its answer. The set of names is closed.
type Step struct {
	// Name is one of the Step constants.
	Name string
	// Passed is false for the step that refuses the call.
	Passed bool
	// Outcome is what was found. It never holds the token.
	Outcome string
}

// The steps of a decision, in their order.
const (
	StepBearer  = "bearer"  // the Authorization header holds one token
	StepLedger  = "ledger"  // the ledger is open
	StepKeys    = "keys"    // keys are loaded
	StepToken   = "token"   // the token verifies, and names one API invoker
	StepScope   = "scope"   // the scope names the route's API
	StepClaims  = "claims"  // no claim covers the call
	StepContext = "context" // the security context lists the route
	// What a handler asks besides, where it does.
	StepBinding = "binding" // the client certificate names the API invoker
	StepPolicy  = "policy"  // the access control policy allows the call
)

// Explanation is a decision with how it came about.
type Explanation struct {
	Decision
	Steps []Step
}

// Explain decides as Decide does, and says how. It is Decide itself that runs,
// on parts that note what they are asked; only the cache is passed over, so that
// each step is taken anew and nothing that is cached changes. It may read the
// context from the core, as a call may.
func (d *Decider) Explain(ctx context.Context, authorization []string, now time.Time) Explanation {
	raw, reason := Bearer(authorization)
	if reason != Undecided {
		return Explanation{Decision: Decision{Reason: reason}, Steps: []Step{{StepBearer, false, reason.String()}}}
	}
	r := &recorder{steps: []Step{{StepBearer, true, "one bearer token"}}}
	copied := d.recorded(r)
	return r.explain(copied.Decide(ctx, raw, now))
}

// ExplainInvoker decides what becomes of a call of invoker whose token is in
// order and names the route's API: a token is not asked for.
func (d *Decider) ExplainInvoker(ctx context.Context, invoker string, now time.Time) Explanation {
	r := &recorder{}
	copied := d.recorded(r)
	if !copied.claims.Ready() {
		return r.explain(Decision{Reason: NotReady})
	}
	if _, ok := copied.verifier.KeySetID(); !ok {
		return r.explain(Decision{Reason: KeysMissing})
	}
	r.add(StepToken, true, "not given; taken to be in order, with a scope that names the API")
	e := d.entryOf(invoker)
	reason, _ := copied.judge(ctx, e, now)
	return r.explain(Decision{Reason: reason, Entry: e})
}

// recorded is the same decider on parts that note what they are asked.
func (d *Decider) recorded(r *recorder) *Decider {
	copied := &Decider{
		route: d.route, id: d.id, rule: d.rule,
		verifier: recordedVerifier{d.verifier, r}, claims: recordedClaims{d.claims, r, d.route.GrantFromContext}, cache: noCache{},
	}
	if d.contexts != nil {
		copied.contexts = recordedContexts{d.contexts, r}
	}
	return copied
}

// recorder notes steps. A decision runs in one goroutine.
type recorder struct {
	steps []Step
}

// add notes a step; one that is taken again takes the place of what it said.
func (r *recorder) add(name string, passed bool, outcome string) {
	for i := range r.steps {
		if r.steps[i].Name == name {
			r.steps[i] = Step{name, passed, outcome}
			return
		}
	}
	r.steps = append(r.steps, Step{name, passed, outcome})
}

// explain adds what the decider judges by itself.
func (r *recorder) explain(d Decision) Explanation {
	switch d.Reason {
	case InsufficientScope:
		r.add(StepScope, false, "the scope does not name this API")
	case ContextStale:
		r.add(StepContext, false, "read longer ago than max_staleness allows")
	}
	return Explanation{Decision: d, Steps: r.steps}
}

type recordedVerifier struct {
	Verifier
	r *recorder
}

func (v recordedVerifier) KeySetID() (token.KeySetID, bool) {
	id, ok := v.Verifier.KeySetID()
	if ok {
		v.r.add(StepKeys, true, "loaded")
	} else {
		v.r.add(StepKeys, false, "none loaded yet")
	}
	return id, ok
}

func (v recordedVerifier) Verify(ctx context.Context, raw string, now time.Time) (token.Token, error) {
	t, err := v.Verifier.Verify(ctx, raw, now)
	if err != nil {
		v.r.add(StepToken, false, reasonOf(err).String())
		return t, err
	}
	v.r.add(StepToken, true, "verified; expires "+time.Unix(t.Expires, 0).UTC().Format(time.RFC3339))
	return t, nil
}

type recordedClaims struct {
	Claims
	r                *recorder
	grantFromContext bool
}

func (c recordedClaims) Ready() bool {
	ready := c.Claims.Ready()
	if ready {
		c.r.add(StepLedger, true, "open")
	} else {
		c.r.add(StepLedger, false, "not open")
	}
	return ready
}

// Passing counts nothing: an explanation is no call.
func (recordedClaims) Passing(string, string, []string) *revocation.Passing { return nil }

func (c recordedClaims) Covering(invoker, aef string, apis []string, digest revocation.Digest) revocation.Cover {
	cover := c.Claims.Covering(invoker, aef, apis, digest)
	switch { // claims are looked up once the scope was found to fit
	case digest.IsZero():
	case c.grantFromContext:
		c.r.add(StepScope, true, "not asked for: with this core the context is the grant")
	default:
		c.r.add(StepScope, true, "names this API")
	}
	switch cover {
	case revocation.CoverNone:
		c.r.add(StepClaims, true, "none covers the call")
	case revocation.CoverToken:
		c.r.add(StepClaims, false, "a claim denies this token; another may pass")
	default:
		c.r.add(StepClaims, false, "a claim denies the authorization; a new token will not help")
	}
	return cover
}

type recordedContexts struct {
	Contexts
	r *recorder
}

func (c recordedContexts) Check(ctx context.Context, q ContextQuery) ContextAnswer {
	a := c.Contexts.Check(ctx, q)
	switch {
	case !a.Known:
		c.r.add(StepContext, false, "unknown, and the core cannot be asked")
	case !a.Listed && q.Require:
		c.r.add(StepContext, false, "does not list this API"+readAt(a))
	case !a.Listed:
		c.r.add(StepContext, false, "listed this API once and no longer does"+readAt(a))
	case q.Require:
		c.r.add(StepContext, true, "lists this API"+readAt(a))
	default:
		c.r.add(StepContext, true, "not required by the route, and nothing was taken out of it"+readAt(a))
	}
	return a
}

// readAt says when the read began that an answer rests on.
func readAt(a ContextAnswer) string {
	if a.Times == nil || a.Times.ReadAt.Load() == 0 {
		return ""
	}
	return ", as read at " + time.Unix(0, a.Times.ReadAt.Load()).UTC().Format(time.RFC3339)
}

// noCache knows nothing and keeps nothing.
type noCache struct{}

func (noCache) Get(string, *denycache.ID, denycache.ID) *denycache.Entry { return nil }

func (noCache) Put(*denycache.Entry, time.Duration) {}

var (
	_ Verifier = recordedVerifier{}
	_ Claims   = recordedClaims{}
	_ Contexts = recordedContexts{}
	_ Cache    = noCache{}
)
