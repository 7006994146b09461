package revocation

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// index is the exact set of denied scopes, in memory: for each scope the
// highest sequence of a claim on it. A scope is named by 128 bits of two
// seeded hashes; the seeds are drawn for each process and known to nobody, so
// nobody can construct a collision, and one by chance among 10 million scopes
// has a probability of 10^-25 and would deny, not allow.
type index struct {
	seeds       [2]maphash.Seed
	shards      [indexShards]indexShard
	tokenScopes atomic.Int64
	size        atomic.Int64
}

const indexShards = 256

type indexKey struct{ hi, lo uint64 }

type indexShard struct {
	mu sync.RWMutex
	m  map[indexKey]uint64
	_  [32]byte // keeps neighbours off one cache line
}

func newIndex() *index {
	x := &index{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	for i := range x.shards {
		x.shards[i].m = make(map[indexKey]uint64)
	}
	return x
}

func (x *index) key(scope []byte) indexKey {
	return indexKey{maphash.Bytes(x.seeds[0], scope), maphash.Bytes(x.seeds[1], scope)}
}

func (x *index) shard(k indexKey) *indexShard { return &x.shards[k.lo%indexShards] }

// add records a claim on an encoded scope.
func (x *index) add(scope []byte, token bool, sequence uint64) {
	k := x.key(scope)
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	x.put(s, indexEntry{k, sequence, token})
}

type indexEntry struct {
	key      indexKey
	sequence uint64
	token    bool
}

// put records an entry in its shard, which is locked.
func (x *index) put(s *indexShard, e indexEntry) {
	old, known := s.m[e.key]
	if !known {
		x.size.Add(1)
		if e.token {
			x.tokenScopes.Add(1)
		}
	}
	s.m[e.key] = max(old, e.sequence)
}

// expect makes room for so many scopes in an empty index.
func (x *index) expect(scopes uint64) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		s.m = make(map[indexKey]uint64, scopes/indexShards)
		s.mu.Unlock()
	}
}

// loader adds a whole file. It gathers for each shard and so works in one small
// map at a time: with millions of claims, waiting for memory is most of the
// work. What was added is not found before flush.
type loader struct {
	index   *index
	waiting [indexShards][]indexEntry
}

const loaderGathers = 2048 // for each shard

func (l *loader) add(scope []byte, token bool, sequence uint64) {
	k := l.index.key(scope)
	i := k.lo % indexShards
	l.waiting[i] = append(l.waiting[i], indexEntry{k, sequence, token})
	if len(l.waiting[i]) == loaderGathers {
		l.flushShard(int(i))
	}
}

func (l *loader) flush() {
	for i := range l.waiting {
		l.flushShard(i)
	}
}

func (l *loader) flushShard(i int) {
	s := &l.index.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range l.waiting[i] {
		l.index.put(s, e)
	}
	l.waiting[i] = l.waiting[i][:0]
}

// lower takes back what was recorded at or before limit; remaining is the
// highest sequence of a claim that is still on the scope, 0 for none. What
// came after limit stands.
func (x *index) lower(scope []byte, token bool, limit, remaining uint64) {
	k := x.key(scope)
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	current, known := s.m[k]
	if !known || current > limit {
		return
	}
	if remaining > 0 {
		s.m[k] = remaining
		return
	}
	delete(s.m, k)
	x.size.Add(-1)
	if token {
		x.tokenScopes.Add(-1)
	}
}

func (x *index) clear() {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		clear(s.m)
		s.mu.Unlock()
	}
	x.size.Store(0)
	x.tokenScopes.Store(0)
}

func (x *index) has(scope []byte) bool {
	k := x.key(scope)
	s := x.shard(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.m[k]
	return ok
}

// Cover says what denies a call.
type Cover uint8

const (
	// CoverNone means that no claim covers the call.
	CoverNone Cover = iota
	// CoverToken means that only this token is denied: another may pass.
	CoverToken
	// CoverAuthorization means that the authorization is denied: a new
	// token will not help.
	CoverAuthorization
)

// covering looks the call up under every scope that could cover it. A route
// with several apiIds is denied when any of them is.
func (x *index) covering(invoker, aef string, apis []string, token Digest) Cover {
	var stack [256]byte
	tokens := !token.IsZero() && x.tokenScopes.Load() > 0
	cover := CoverNone
	for _, a := range [2]string{aef, ""} {
		s := Scope{Invoker: invoker, AEF: a}
		if x.has(appendScope(stack[:0], &s)) {
			return CoverAuthorization
		}
		if tokens && x.has(appendScope(stack[:0], &Scope{Invoker: invoker, AEF: a, Token: token})) {
			cover = CoverToken
		}
		for _, api := range apis {
			s.API = api
			if x.has(appendScope(stack[:0], &s)) {
				return CoverAuthorization
			}
			if tokens && x.has(appendScope(stack[:0], &Scope{Invoker: invoker, AEF: a, API: api, Token: token})) {
				cover = CoverToken
			}
		}
	}
	return cover
}

// epochs count the changes that could alter a verdict, one counter for each
// group of invokers. They start at 1: a verdict stamped 0 is never current.
type epochs struct {
	seed   maphash.Seed
	counts [epochShards]atomic.Uint64
}

// epochShards is so many (256 KiB) that even a stream of revokes leaves most verdicts
// current: 1,000 a second make every verdict stale once in half a minute. With
// 4,096 it was once in four seconds (ADR 0005).
const epochShards = 1 << 15

func newEpochs() *epochs {
	e := &epochs{seed: maphash.MakeSeed()}
	for i := range e.counts {
		e.counts[i].Store(1)
	}
	return e
}

func (e *epochs) of(invoker string) *atomic.Uint64 {
	return &e.counts[maphash.String(e.seed, invoker)%epochShards]
}

func (e *epochs) raiseAll() {
	for i := range e.counts {
		e.counts[i].Add(1)
	}
}
