package enforce

import (
	"context"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/token"
)

// firstSight verifies a token that the cache does not know, and offers the
// verdict to the cache. Only verified tokens get in: forged ones cannot push
// anything out.
func (d *Decider) firstSight(ctx context.Context, raw string, keySet *token.KeySetID, now time.Time) Decision {
	v, mine := d.verifyOnce(ctx, raw, keySet, now)
	if v.err != nil {
		if !oneToken(raw) {
			return Decision{Reason: MalformedRequest}
		}
		return Decision{Reason: reasonOf(v.err), Err: v.err}
	}
	e := v.entry
	if !mine {
		// Another call's time stood for exp and nbf.
		err := d.verifier.ValidAt(e.Expires, e.NotBefore, now)
		if err != nil {
			return Decision{Reason: reasonOf(err), Entry: e, Err: err}
		}
	}
	if !v.inScope {
		return Decision{Reason: InsufficientScope, Entry: e}
	}
	reason, passing := d.judge(ctx, e, now)
	if mine {
		d.cache.Put(e, time.Unix(e.Expires, 0).Add(token.MaxLeeway).Sub(now))
	}
	return Decision{Reason: reason, Entry: e, passing: passing}
}

// verification is what calls that begin at the same time share: that the token
// is good, never that the call is allowed.
type verification struct {
	entry   *denycache.Entry // nil with err
	inScope bool
	err     error
	// alone is true if the call that verified was given up, or if its
	// time was before nbf: its error holds for that call only.
	alone bool
}

// verifyOnce verifies raw, or waits for another call of this route that is just
// verifying the same bytes and began with the same key set: one under keys that
// were rotated out since serves nobody. The bool says that this call did it.
//
// Nothing is kept: the next call after these verifies again unless the cache
// knows the token by then. So a forged token gains nothing, and holds up nobody
// but calls with that very token, for no longer than one verification takes:
// one signature check, and where a load of the keys is due that load, which all
// callers would share anyway.
func (d *Decider) verifyOnce(ctx context.Context, raw string, keySet *token.KeySetID, now time.Time) (*verification, bool) {
	if len(raw) > token.MaxBytes {
		return d.verify(ctx, raw, now), true // refused unseen: not worth a copy
	}
	key := string(keySet[:]) + raw
	for {
		mine := false
		shared, _, _ := d.flights.Do(key, func() (any, error) {
			mine = true
			return d.verify(ctx, raw, now), nil
		})
		v := shared.(*verification)
		if mine || !v.alone {
			return v, mine
		}
	}
}

func (d *Decider) verify(ctx context.Context, raw string, now time.Time) *verification {
	t, err := d.verifier.Verify(ctx, raw, now)
	if err != nil {
		return &verification{err: err, alone: ctx.Err() != nil || token.KindOf(err) == token.NotYetValid}
	}
	e := &denycache.Entry{
		Token: raw, Route: d.id, KeySet: denycache.ID(t.KeySetID),
		Invoker: t.Invoker, User: t.Invoker, Digest: t.Digest,
		Expires: t.Expires, NotBefore: t.NotBefore,
	}
	e.Track(d.claims.Epoch(t.Invoker))
	return &verification{entry: e, inScope: d.inScope(t.Scope)}
}
