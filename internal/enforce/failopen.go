package enforce

import (
	"context"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
)

// Rest judges a call that Decide could not decide, by what there is: [Allowed] if
// nothing refuses it. It is for routes that pass such calls on. While keys are
// there, a token that does not verify or does not name the route's API is refused,
// and so is what a claim or the context, as they are known, deny; it waits for no
// context. Without keys nothing can be known of the caller, and Entry is nil.
func (d *Decider) Rest(ctx context.Context, raw string, undecided Decision, now time.Time) Decision {
	rest := d.rest(ctx, raw, undecided, now)
	rest.passing = undecided.passing // its end is still to be told
	return rest
}

func (d *Decider) rest(ctx context.Context, raw string, undecided Decision, now time.Time) Decision {
	e := undecided.Entry
	if e == nil {
		if _, ok := d.verifier.KeySetID(); !ok {
			return Decision{Reason: Allowed}
		}
		v := d.verify(ctx, raw, now)
		switch {
		case v.err != nil && !oneToken(raw):
			return Decision{Reason: MalformedRequest}
		case v.err != nil && reasonOf(v.err) == KeysMissing:
			return Decision{Reason: Allowed}
		case v.err != nil:
			return Decision{Reason: reasonOf(v.err), Err: v.err}
		case !v.inScope:
			return Decision{Reason: InsufficientScope, Entry: v.entry}
		}
		e = v.entry
	}
	return Decision{Reason: d.Again(e), Entry: e}
}

// RestInvoker is Rest for what ExplainInvoker could not decide.
func (d *Decider) RestInvoker(invoker string, undecided Decision) Decision {
	e := undecided.Entry
	if e == nil {
		if _, ok := d.verifier.KeySetID(); !ok {
			return Decision{Reason: Allowed}
		}
		e = d.entryOf(invoker)
	}
	return Decision{Reason: d.Again(e), Entry: e}
}

// entryOf stands for a token of invoker that is in order.
func (d *Decider) entryOf(invoker string) *denycache.Entry {
	e := &denycache.Entry{Invoker: invoker, User: invoker}
	e.Track(d.claims.Epoch(invoker))
	return e
}
