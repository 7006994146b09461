package revocation

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Deny is a word of the core that names whom to deny.
type Deny struct {
	Invoker string
	// AEF is the aefId the core named; "" means every aefId hosted here.
	AEF string
	// APIs are apiIds; empty means all APIs of the invoker.
	APIs []string
	// Token narrows the deny to one token on these APIs.
	Token Digest
	// TokenExpires is exp of that token, zero if unknown.
	TokenExpires time.Time
	Cause        string
}

// tokenClaimGrace is how long a token claim outlives its token.
const tokenClaimGrace = 24 * time.Hour

// maxAPIs bounds the apiIds of one change.
const maxAPIs = 1000

// Deny sets a core claim for each API. When it returns nil, the claims are
// durable and no call that starts afterwards passes. A repeat renews the
// sequence. Errors wrap [ErrInvalid], [ErrNotReady] or [ErrNotDurable].
func (l *Ledger) Deny(ctx context.Context, d Deny) error {
	apis, err := checkAPIs(d.APIs)
	if err != nil {
		return err
	}
	d.Cause = clip(d.Cause)
	o := &op{width: len(apis)}
	for _, api := range apis {
		s := Scope{Invoker: d.Invoker, AEF: d.AEF, API: api, Token: d.Token}
		err := s.check()
		if err != nil {
			return err
		}
		o.denies = append(o.denies, s)
		o.key += "deny|" + string(appendScope(nil, &s))
	}
	o.key += fmt.Sprintf("|%d|%q", d.TokenExpires.UnixNano(), d.Cause)
	o.apply = func(t *txn) error {
		fresh := 0
		for i, s := range o.denies {
			c := Claim{Scope: s, Origin: OriginCore, Cause: d.Cause, SetAt: t.at}
			if !d.Token.IsZero() && !d.TokenExpires.IsZero() {
				c.Expires = d.TokenExpires.Add(tokenClaimGrace).UTC()
			}
			if t.putClaim(&c, o.first+uint64(i)) {
				fresh++
				t.steps = append(t.steps, Step{Source: SourceCore, Cause: d.Cause, State: StateDenied})
			}
		}
		if fresh > 0 {
			t.audit(Audit{
				Action: ActionCoreDeny, By: byCore, Invoker: d.Invoker, AEF: d.AEF, APIs: d.APIs, AllAPIs: len(d.APIs) == 0,
				Token: d.Token, Cause: d.Cause, Claims: fresh,
			})
		}
		return nil
	}
	return l.submit(ctx, o)
}

// checkAPIs sorts out what a list of apiIds means; no entry is all APIs.
func checkAPIs(apis []string) ([]string, error) {
	if len(apis) == 0 {
		return []string{""}, nil
	}
	if len(apis) > maxAPIs {
		return nil, fmt.Errorf("%w: more than %d api_ids", ErrInvalid, maxAPIs)
	}
	unique := slices.Compact(slices.Sorted(slices.Values(apis)))
	for _, api := range unique {
		err := checkID("api_id", api)
		if err != nil {
			return nil, err
		}
	}
	return unique, nil
}

// putClaim writes a claim with a new sequence. A claim that was known keeps
// the time at which it was first set, and the later expiry. It reports whether
// the claim is a new one.
func (t *txn) putClaim(c *Claim, sequence uint64) bool {
	key := claimKey(c)
	old := t.tx.Bucket(bucketClaims).Get(key)
	if old != nil {
		var known Claim
		_, err := decodeRecord(key, old, &known)
		if err != nil {
			t.broken = err
			return false
		}
		c.SetAt = known.SetAt
		if known.Expires.IsZero() || known.Expires.After(c.Expires) {
			// A repeat without a known end must not end earlier.
			if !c.Expires.IsZero() {
				c.Expires = known.Expires
			}
		}
		t.deleteExpiry(&known, key)
	}
	c.Sequence = sequence
	t.putRecord(bucketClaims, key, sequence, c)
	if !c.Expires.IsZero() {
		t.put(bucketExpiry, expiryKey(c.Expires, key), nil)
	}
	return old == nil
}

// removeClaim deletes one claim; the index follows once the file is synced.
func (t *txn) removeClaim(c *Claim, limit uint64) {
	key := claimKey(c)
	t.delete(bucketClaims, key)
	t.deleteExpiry(c, key)
	t.removals = append(t.removals, removal{scope: c.Scope, limit: limit, remaining: t.highest(&c.Scope)})
}

func (t *txn) deleteExpiry(c *Claim, key []byte) {
	if !c.Expires.IsZero() {
		t.delete(bucketExpiry, expiryKey(c.Expires, key))
	}
}

// highest is the highest sequence of a claim on exactly this scope.
func (t *txn) highest(s *Scope) uint64 {
	prefix := appendScope(nil, s)
	cursor := t.tx.Bucket(bucketClaims).Cursor()
	highest := uint64(0)
	for key, value := range scan(cursor, prefix) {
		sequence, err := checkRecord(key, value)
		if err != nil {
			t.broken = err
			return 0
		}
		highest = max(highest, sequence)
	}
	return highest
}

// expiryKey counts in whole seconds, rounded up: never too early.
func expiryKey(expires time.Time, claim []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(max(expires.Add(time.Second-1).Unix(), 0)))
	return append(b, claim...)
}

// maxSweep bounds how many claims one sweep removes.
const maxSweep = 1000

// sweepDue reports whether a token claim's time has come.
func (l *Ledger) sweepDue() bool {
	due := false
	err := l.view(func(tx *bolt.Tx) error {
		key, _ := tx.Bucket(bucketExpiry).Cursor().First()
		due = key != nil && expired(key, l.now())
		return nil
	})
	return err == nil && due
}

func expired(key []byte, now time.Time) bool {
	return len(key) >= 8 && binary.BigEndian.Uint64(key) <= uint64(now.Unix())
}

// sweepOp removes token claims whose time has come, and audit records past their
// age. Nothing else expires.
func (l *Ledger) sweepOp() *op {
	o := &op{width: 1, done: make(chan struct{})}
	o.apply = func(t *txn) error {
		var due []Claim
		cursor := t.tx.Bucket(bucketExpiry).Cursor()
		for key, _ := cursor.First(); key != nil && len(due) < maxSweep; key, _ = cursor.Next() {
			if !expired(key, t.at) {
				break
			}
			c, err := t.claim(key[8:])
			if err != nil {
				return err
			}
			due = append(due, c)
		}
		for i := range due {
			t.removeClaim(&due[i], o.first)
		}
		t.deleteAudit(maxSweep, t.ledger.tooOld)
		if len(due) > 0 {
			t.audit(Audit{Action: ActionExpire, Claims: len(due)})
		}
		return nil
	}
	return o
}

func (t *txn) claim(key []byte) (Claim, error) {
	return decodeClaim(key, t.tx.Bucket(bucketClaims).Get(key))
}

func decodeClaim(key, value []byte) (Claim, error) {
	c, err := readClaimKey(key)
	if err != nil {
		return Claim{}, err
	}
	scope := c.Scope
	sequence, err := decodeRecord(key, value, &c)
	if err != nil {
		return Claim{}, err
	}
	c.Scope, c.Sequence = scope, sequence // the key and the header are what counts
	return c, nil
}
