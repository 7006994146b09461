package enforce

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// Verifier verifies tokens; *token.Verifier is one.
type Verifier interface {
	// Fingerprint identifies the settings that decide a verification.
	Fingerprint() [16]byte
	// KeySetID identifies the keys now in force; it MUST NOT block or
	// allocate, and MUST change before a rotation counts as done.
	KeySetID() (token.KeySetID, bool)
	// Verify checks a token; the key set that it returns MUST have been read
	// before the verification began.
	Verify(ctx context.Context, raw string, now time.Time) (token.Token, error)
	// ValidAt checks exp and nbf of a token that was verified before.
	ValidAt(expires, notBefore int64, now time.Time) error
}

// Claims answers what is denied; *revocation.Ledger does.
type Claims interface {
	// Ready reports whether a lookup that finds nothing means that nothing
	// is denied.
	Ready() bool
	// Epoch returns the counter that MUST be raised after a claim on invoker
	// can be found by Covering and before it is acknowledged.
	Epoch(invoker string) *atomic.Uint64
	// Covering MUST NOT do I/O.
	Covering(invoker, aef string, apis []string, t revocation.Digest) revocation.Cover
	// Passing notes a call that is about to be looked up, where a revocation
	// counts it; nil nearly always.
	Passing(invoker, aef string, apis []string) *revocation.Passing
}

// Cache keeps verdicts; *denycache.Cache does. It may forget anything.
type Cache interface {
	Get(token string, route *denycache.ID, keySet denycache.ID) *denycache.Entry
	Put(e *denycache.Entry, ttl time.Duration)
}

// Route is what a handler protects.
type Route struct {
	// AEFID and APIName are matched against `3gpp#aefId:apiName`.
	AEFID   string
	APIName string
	// APIIDs are the apiIds under which the core knows this API. A claim on
	// any of them denies.
	APIIDs []string
	// PlainScope, if set, is a scope value that must be present instead, for
	// tokens that carry no 3gpp scope.
	PlainScope string
	// GrantFromContext takes the security context alone as the grant, for
	// cores whose tokens carry no scope. It needs [Decider.UseContexts] with
	// Require.
	GrantFromContext bool
}

// Decider decides the calls of one route. It is safe for concurrent use.
type Decider struct {
	route    Route
	id       denycache.ID
	verifier Verifier
	claims   Claims
	cache    Cache
	flights  singleflight.Group // verifications under way

	contexts Contexts
	rule     ContextRule
}

// NewDecider puts the parts together.
func NewDecider(route Route, verifier Verifier, claims Claims, cache Cache) (*Decider, error) {
	if route.AEFID == "" {
		return nil, errors.New("the route has no aefId")
	}
	if len(route.APIIDs) == 0 {
		return nil, errors.New("the route has no apiId")
	}
	if route.APIName == "" && route.PlainScope == "" {
		return nil, errors.New("the route has neither an apiName nor a plain scope")
	}
	return &Decider{
		route: route, id: routeID(&route, verifier.Fingerprint()),
		verifier: verifier, claims: claims, cache: cache,
	}, nil
}

// routeID is equal for routes that judge every token alike, so that cached
// verdicts survive a reload and no verdict of one route serves another.
func routeID(r *Route, verifier [16]byte) denycache.ID {
	h := sha256.New()
	field := func(s string) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write([]byte(s))
	}
	h.Write(verifier[:])
	field(r.AEFID)
	field(r.APIName)
	field(r.PlainScope)
	field(strconv.FormatBool(r.GrantFromContext))
	for _, api := range r.APIIDs {
		field(api)
	}
	return denycache.ID(h.Sum(nil)[:16])
}

// Decision is the outcome of one call.
type Decision struct {
	Reason Reason
	// Entry is what is known about the token: nil unless it was verified.
	Entry *denycache.Entry
	// Err is the verifier's error, for the answer's text; nil otherwise.
	Err error
	// Cached says that the verdict came from the cache.
	Cached bool

	passing *revocation.Passing
}

// End says what became of the call in the end: whether it was passed on. Call it
// once after each Decide.
func (d *Decision) End(passed bool) {
	if d.passing != nil {
		d.passing.End(passed)
	}
}

// Decide decides a call that carries raw, at the time now.
func (d *Decider) Decide(ctx context.Context, raw string, now time.Time) Decision {
	if !d.claims.Ready() {
		return Decision{Reason: NotReady}
	}
	keySet, ok := d.verifier.KeySetID()
	if !ok {
		return Decision{Reason: KeysMissing}
	}
	e := d.cache.Get(raw, &d.id, denycache.ID(keySet))
	if e == nil {
		return d.firstSight(ctx, raw, &keySet, now)
	}
	err := d.verifier.ValidAt(e.Expires, e.NotBefore, now)
	if err != nil {
		return Decision{Reason: reasonOf(err), Entry: e, Err: err}
	}
	verdict, current := e.Verdict()
	if !current {
		reason, passing := d.judge(ctx, e, now)
		return Decision{Reason: reason, Entry: e, passing: passing}
	}
	if age := e.Touch(now); d.tooOld(age) && Reason(verdict) == Allowed {
		return Decision{Reason: ContextStale, Entry: e}
	}
	return Decision{Reason: Reason(verdict), Entry: e, Cached: true}
}

// judge looks up what denies a verified token, and whether the context lists the
// route. The epoch is read before the lookups: a deny that comes in between
// makes the verdict stale at once. A verdict that is not settled is not stamped,
// nor one that allows while a revocation counts what passes.
func (d *Decider) judge(ctx context.Context, e *denycache.Entry, now time.Time) (Reason, *revocation.Passing) {
	var passing *revocation.Passing
	reason := d.judgeCounted(ctx, e, now, &passing)
	if reason != Allowed && passing != nil {
		passing.End(false)
		passing = nil
	}
	return reason, passing
}

func (d *Decider) judgeCounted(ctx context.Context, e *denycache.Entry, now time.Time, passing **revocation.Passing) Reason {
	for again := true; ; again = false {
		epoch := e.Epoch()
		if *passing == nil {
			*passing = d.claims.Passing(e.Invoker, d.route.AEFID, d.route.APIIDs)
		}
		stamp := func(reason Reason) {
			if reason != Allowed || *passing == nil {
				e.Stamp(epoch, denycache.Verdict(reason))
			}
		}
		reason := d.claimed(e)
		if reason != Allowed || d.contexts == nil {
			stamp(reason)
			return reason
		}
		reason, answer := d.listed(ctx, e)
		if answer.Waited && again && e.Epoch() != epoch {
			continue // claims may have come while the core was asked
		}
		if answer.Settled {
			stamp(reason)
		}
		if age := e.Touch(now); d.tooOld(age) && reason == Allowed {
			return ContextStale
		}
		return reason
	}
}

func (d *Decider) claimed(e *denycache.Entry) Reason {
	switch d.claims.Covering(e.Invoker, d.route.AEFID, d.route.APIIDs, e.Digest) {
	case revocation.CoverNone:
		return Allowed
	case revocation.CoverToken:
		return TokenRevoked
	default:
		return AuthorizationRevoked
	}
}

func (d *Decider) inScope(scope string) bool {
	if d.route.GrantFromContext {
		return true
	}
	if d.route.PlainScope != "" {
		return token.HasScope(scope, d.route.PlainScope)
	}
	return token.GrantsAPI(scope, d.route.AEFID, d.route.APIName)
}

var (
	_ Verifier = (*token.Verifier)(nil)
	_ Claims   = (*revocation.Ledger)(nil)
	_ Cache    = (*denycache.Cache)(nil)
)
