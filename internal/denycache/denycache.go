// Package denycache keeps verdicts about tokens that were seen before, in
// ristretto.
//
// # Guarantees
//
// The cache is only a cache. It may drop, delay, reject or evict anything at
// any time; that costs a new decision and never changes one. What makes a
// verdict safe to use is not the cache but three checks on every hit:
//
//   - the whole token, the route and the key set are equal to those of the
//     verdict ([Entry.Is]): the 64-bit key authorizes nothing;
//   - the verdict's epoch is the current one ([Entry.Verdict]): it was read
//     before the lookups that the verdict rests on, and stands in one word with
//     the verdict, so the two cannot tear;
//   - the caller checks exp and nbf.
//
// A verdict that is no longer current is refreshed in place by one atomic
// store ([Entry.Stamp]), never by a second Set, which ristretto may lose.
//
// # Memory
//
// It holds at most so many tokens as it was made for. Before ristretto stands a table
// of pointers to entries that were asked for (16 to 32 bytes for each token that the
// cache was made for, 16 MiB at most, the same after a resize). What leaves ristretto
// leaves the table, but for what a hit puts in at that very moment: that stays until
// another takes its place or a hit on it asks ristretto.
//
// Entries whose time is over leave as new ones come: each Put takes out a few of
// them, so no hit looks at a clock of ristretto's and no goroutine sweeps. Where
// nothing new comes, old entries stay, within the bound. One whose key is
// forgotten (at most twice the bound are noted) leaves as ristretto's policy wants.
//
// # Life
//
// A cache is never closed while a call can be in flight, for ristretto panics
// then: whoever holds a *Cache may use it, and its goroutines end when nobody
// holds it any more.
package denycache

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// DefaultTokens is how many tokens a cache holds where nothing is said.
const DefaultTokens = 100_000

// ID is a fingerprint: of a route's settings or of a key set.
type ID = [16]byte

// Verdict is a small number that the caller gives meaning to.
type Verdict uint8

const (
	verdictBits = 8
	verdictMask = 1<<verdictBits - 1
)

// Entry is what is known about one token at one route. All but the verdict is
// fixed when it is made. What a hit reads stands first, side by side.
type Entry struct {
	Token   string // the whole token, compared on every hit
	Route   ID
	KeySet  ID
	Expires int64 // Unix seconds, without leeway
	// NotBefore is in Unix seconds, without leeway; 0 is none.
	NotBefore int64

	epoch *atomic.Uint64
	word  atomic.Uint64 // epoch << 8 | verdict
	times atomic.Pointer[Times]
	// attached is what the caller keeps with the entry.
	attached atomic.Value

	User    any // Invoker, boxed once so that handing it on costs nothing
	Invoker string
	Digest  [32]byte

	// Objects of 192 bytes begin with a line of the processor's cache, so that
	// a hit reads two lines of the entry, not four.
	_ [24]byte
}

// Attach keeps v with the entry, so that a later hit need not look it up. All
// values must be of one type. It says nothing about the verdict.
func (e *Entry) Attach(v any) { e.attached.Store(v) }

// Attached returns what was attached last, nil if nothing was.
func (e *Entry) Attached() any { return e.attached.Load() }

// Times are those of a security context, by which an entry whose verdict rests on
// it stays in touch with it. They stand side by side, for a hit reads both.
type Times struct {
	// Seen takes the time of each call, in Unix seconds: contexts of API
	// invokers that call are read again by a timer.
	Seen atomic.Int64
	// ReadAt is when the read began that the context is of, in Unix nanoseconds.
	ReadAt atomic.Int64
}

// Follow names the context that the verdict rests on by its times.
func (e *Entry) Follow(t *Times) {
	if e.times.Load() != t {
		e.times.Store(t)
	}
}

// Touch notes a call at the time now and returns how old the context is, 0 if
// the verdict rests on none.
func (e *Entry) Touch(now time.Time) time.Duration {
	t := e.times.Load()
	if t == nil {
		return 0
	}
	if seconds := now.Unix(); t.Seen.Load() != seconds {
		t.Seen.Store(seconds) // once a second, so that cores do not fight for the line
	}
	return time.Duration(now.UnixNano() - t.ReadAt.Load())
}

// Track names the epoch that covers everything a verdict of e rests on. Call
// it once, before e is shared.
func (e *Entry) Track(epoch *atomic.Uint64) { e.epoch = epoch }

// Epoch reads the current epoch. Read it before the lookups.
func (e *Entry) Epoch() uint64 { return e.epoch.Load() }

// Stamp stores a verdict whose lookups began after epoch was read.
func (e *Entry) Stamp(epoch uint64, v Verdict) {
	e.word.Store(epoch<<verdictBits | uint64(v))
}

// Verdict returns the stored verdict and whether it is current.
func (e *Entry) Verdict() (Verdict, bool) {
	word := e.word.Load()
	return Verdict(word & verdictMask), word>>verdictBits == e.epoch.Load()
}

// Is reports whether e is about exactly this token, route and key set.
func (e *Entry) Is(token string, route, keySet *ID) bool {
	return e.Route == *route && e.KeySet == *keySet && e.Token == token
}

// Stats counts what a cache did with what it was given, since it was made.
type Stats struct {
	// Dropped entries never got in: ristretto's buffer was full.
	Dropped uint64
	// Rejected entries were less asked for than those they would replace.
	Rejected uint64
	// Evicted entries made room for others.
	Evicted uint64
}

// Cache is a bounded set of entries. It is safe for concurrent use.
type Cache struct {
	store *ristretto.Cache[uint64, *Entry]
	front *front
	seed  maphash.Seed
	count *counters
	ends  ends
}

type counters struct {
	dropped, rejected, evicted atomic.Uint64
}

// New makes a cache for at most so many tokens; 0 means [DefaultTokens].
func New(tokens int64) (*Cache, error) {
	if tokens == 0 {
		tokens = DefaultTokens
	}
	if tokens < 0 {
		return nil, fmt.Errorf("deny cache: %d tokens; give a number of at least 1", tokens)
	}
	count, front, seed := &counters{}, newFront(tokens), maphash.MakeSeed()
	store, err := ristretto.NewCache(&ristretto.Config[uint64, *Entry]{
		NumCounters:        10 * tokens,
		MaxCost:            tokens,
		BufferItems:        64,
		IgnoreInternalCost: true,
		OnEvict:            func(*ristretto.Item[*Entry]) { count.evicted.Add(1) },
		OnReject:           func(*ristretto.Item[*Entry]) { count.rejected.Add(1) },
		OnExit: func(e *Entry) { // it must not hold the Cache, whose end closes the store
			if e != nil {
				front.forget(keyOf(seed, e.Token, &e.Route), e)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("deny cache: %w", err)
	}
	c := &Cache{store: store, front: front, seed: seed, count: count, ends: ends{since: time.Now()}}
	runtime.AddCleanup(c, func(store *ristretto.Cache[uint64, *Entry]) { store.Close() }, store)
	return c, nil
}

// Resize changes how many tokens the cache holds; 0 means [DefaultTokens].
func (c *Cache) Resize(tokens int64) {
	if tokens <= 0 {
		tokens = DefaultTokens
	}
	if c.store.MaxCost() != tokens {
		c.store.UpdateMaxCost(tokens)
	}
	runtime.KeepAlive(c)
}

// Get returns the entry for exactly this token, route and key set, or nil. The
// key set comes by value: a pointer to one on the stack of the caller would
// cost an allocation for each call.
func (c *Cache) Get(token string, route *ID, keySet ID) *Entry {
	key := keyOf(c.seed, token, route)
	near := c.front.get(key)
	hit := near != nil && near.Is(token, route, &keySet)
	if hit && !askAll() {
		return near
	}
	e, ok := c.store.Get(key)
	runtime.KeepAlive(c) // its cleanup closes the store
	if ok && e != nil && e.Is(token, route, &keySet) {
		c.front.keep(key, e)
		return e
	}
	if hit { // it left ristretto while it was put in
		c.front.forget(key, near)
	}
	return nil
}

// Put offers an entry that is of use for ttl, and takes out a few of those
// that no longer are.
func (c *Cache) Put(e *Entry, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	key := keyOf(c.seed, e.Token, &e.Route)
	over := c.ends.note(key, ttl, 2*c.store.MaxCost())
	for _, k := range over {
		if k != 0 {
			c.store.Del(k)
		}
	}
	if !c.store.Set(key, e, 1) {
		c.count.dropped.Add(1)
	}
	runtime.KeepAlive(c)
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	return Stats{
		Dropped:  c.count.dropped.Load(),
		Rejected: c.count.rejected.Load(),
		Evicted:  c.count.evicted.Load(),
	}
}

// hashed is how much of a token's end the key is made of: 24 of the bytes of its
// signature.
const hashed = 32

// keyOf is made of the token's end. Only verified tokens are put in, and nobody
// but the core can make two of them whose signatures end alike, so they spread
// as the whole tokens would. A forged token with the end of another one finds
// the other's entry and is not equal to it: that is a miss, and a miss changes
// nothing in the cache. The seed keeps others from aiming at a shard.
func keyOf(seed maphash.Seed, token string, route *ID) uint64 {
	h := maphash.String(seed, token[max(0, len(token)-hashed):])
	return h ^ binary.LittleEndian.Uint64(route[:8])
}
