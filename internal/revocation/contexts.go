package revocation

import (
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ContextEntry is one (aefId, apiId) that a security context lists. An empty
// apiId covers every API of its aefId, an empty aefId its apiId at any AEF.
type ContextEntry struct {
	AEF string `json:"aef_id,omitempty"`
	API string `json:"api_id,omitempty"`
}

// Covers reports whether the entry is about the pair.
func (e ContextEntry) Covers(aef, api string) bool {
	if e == (ContextEntry{}) {
		return false
	}
	return (e.AEF == "" || e.AEF == aef) && (e.API == "" || e.API == api)
}

// Context is what the core said last about an API invoker. It never holds
// credentials.
type Context struct {
	Invoker string `json:"-"`
	// Found is false when the core knows no context of the invoker.
	Found   bool           `json:"found"`
	Entries []ContextEntry `json:"entries,omitempty"`
	// Gone are entries that were listed once and are no longer, at most
	// [MaxGone].
	Gone []ContextEntry `json:"gone,omitempty"`
	// ReadSequence is the ledger's sequence when the read began.
	ReadSequence uint64    `json:"read_sequence"`
	ReadAt       time.Time `json:"read_at"`
	// Change is what the read changes for calls here, nil for nothing; the audit
	// records it. It is not kept with the context.
	Change *ContextChange `json:"-"`
}

// ContextChange is what a context newly lists and no longer lists.
type ContextChange struct {
	Listed, Unlisted []ContextEntry
}

// MaxGone bounds the memory of entries that are no longer listed.
const MaxGone = 256

// Lists reports whether the context lists the pair.
func (c *Context) Lists(aef, api string) bool {
	return slices.ContainsFunc(c.Entries, func(e ContextEntry) bool { return e.Covers(aef, api) })
}

// Sequence returns the number of the last change that was begun. A read of the
// core notes it when it begins: what it says is older than any later change.
func (l *Ledger) Sequence() uint64 { return l.published.Load() }

// ApplyContext makes what a read of the core brought durable. With coreLift, it
// also judges in the same transaction what the read means for core claims of
// the invoker: a claim whose pair a read begun after it showed absent, and a
// later one listed, is lifted (the context was found both times: a 404 is no
// absence). The lifted claims are returned. A read begun before the last one
// applied is dropped. A stored context that is damaged is overwritten.
func (l *Ledger) ApplyContext(ctx context.Context, c Context, coreLift bool) ([]Claim, error) {
	err := checkID("api_invoker_id", c.Invoker)
	if err != nil {
		return nil, err
	}
	o := &op{width: 1}
	var lifted []Claim
	o.apply = func(t *txn) error {
		key := []byte(c.Invoker)
		if old := t.tx.Bucket(bucketContexts).Get(key); old != nil {
			var known Context
			_, err := decodeRecord(key, old, &known)
			// A damaged one is worth nothing: what the core says now takes its place.
			if err == nil && known.ReadSequence > c.ReadSequence {
				return nil
			}
		}
		t.putRecord(bucketContexts, key, o.first, &c)
		if !coreLift || !c.Found {
			t.noteContext(&c, 0)
			return nil
		}
		claims, err := t.observe(&c, o.first)
		if err != nil {
			return err
		}
		t.noteContext(&c, len(claims))
		lifted = claims
		return nil
	}
	err = l.submit(ctx, o)
	if err != nil {
		return nil, err
	}
	return lifted, nil
}

// observe notes on each core claim of the invoker whether the context lists
// what it is about, and lifts those that were seen absent before.
func (t *txn) observe(c *Context, sequence uint64) ([]Claim, error) {
	var absent, lifted []Claim
	for key, value := range scan(t.tx.Bucket(bucketClaims).Cursor(), appendInvoker(nil, c.Invoker)) {
		claim, err := decodeClaim(key, value)
		if err != nil {
			return nil, err
		}
		if claim.Origin != OriginCore || !claim.Token.IsZero() || c.ReadSequence < claim.Sequence {
			continue
		}
		listed := c.touches(&claim.Scope)
		switch {
		case !listed && claim.AbsentSequence == 0:
			claim.AbsentSequence = max(c.ReadSequence, 1)
			absent = append(absent, claim)
		case listed && claim.AbsentSequence > 0 && c.ReadSequence > claim.AbsentSequence:
			lifted = append(lifted, claim)
		}
	}
	for i := range absent {
		key := claimKey(&absent[i])
		t.putRecord(bucketClaims, key, absent[i].Sequence, &absent[i])
	}
	for i := range lifted {
		t.removeClaim(&lifted[i], sequence)
	}
	return lifted, nil
}

// touches reports whether the context lists anything that the scope is about.
func (c *Context) touches(s *Scope) bool {
	return slices.ContainsFunc(c.Entries, func(e ContextEntry) bool {
		return (s.AEF == "" || e.AEF == "" || e.AEF == s.AEF) && (s.API == "" || e.API == "" || e.API == s.API)
	})
}

// ForgetContexts deletes contexts: of offboarded invokers, or to stay within
// bounds. It forgets permission, never a claim.
func (l *Ledger) ForgetContexts(ctx context.Context, invokers []string) error {
	return l.submit(ctx, &op{width: 1, apply: func(t *txn) error {
		for _, invoker := range invokers {
			t.delete(bucketContexts, []byte(invoker))
		}
		return nil
	}})
}

// Contexts calls f with every context that is stored. A damaged one is left
// out and reported in the log: its invoker is unknown until the core is asked
// again.
func (l *Ledger) Contexts(f func(Context)) error {
	damaged := 0
	var first error
	err := l.view(func(tx *bolt.Tx) error {
		var order ascending
		return tx.Bucket(bucketContexts).ForEach(func(key, value []byte) error {
			err := order.next(key)
			if err != nil {
				return fmt.Errorf("the contexts: %w", err)
			}
			var c Context
			_, err = decodeRecord(key, value, &c)
			if err != nil {
				damaged++
				if first == nil {
					first = fmt.Errorf("context of %q: %w", clip(string(key)), err)
				}
				return nil
			}
			c.Invoker = string(key)
			f(c)
			return nil
		})
	})
	if damaged > 0 {
		l.logger().Warn("stored contexts are damaged; they count as unknown until the core is asked again",
			"path", l.path, "contexts", damaged, "first_error", first)
	}
	return err
}

// HasCoreClaim reports whether the core has set a claim on the invoker.
func (l *Ledger) HasCoreClaim(invoker string) (bool, error) {
	found := false
	err := l.view(func(tx *bolt.Tx) error {
		for key := range scan(tx.Bucket(bucketClaims).Cursor(), appendInvoker(nil, invoker)) {
			c, err := readClaimKey(key)
			if err != nil {
				return err
			}
			if c.Origin == OriginCore {
				found = true
				return nil
			}
		}
		return nil
	})
	return found, err
}
