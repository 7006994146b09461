package policy

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const pairShards = 64

// pair is the policy of one API at one AEF, and the accounts at it.
type pair struct {
	table *Table
	id    Pair
	// known says that there is a word about the policy: it is configured, or the
	// core was read at least once.
	known atomic.Bool

	seed   maphash.Seed
	shards [pairShards]pairShard

	mu      sync.Mutex // guards what follows; before those of shards
	rules   atomic.Pointer[ruleset]
	fetched bool
	failing bool
	first   chan struct{} // closed after the first try to read
	tried   bool
	// read is the last word of the core that was asked.
	read word
}

type pairShard struct {
	mu sync.RWMutex
	m  map[string]*account
	_  [24]byte // keeps neighbours off one cache line
}

func (p *pair) shard(invoker string) *pairShard {
	return &p.shards[maphash.String(p.seed, invoker)%pairShards]
}

// account returns the account of an API invoker.
func (p *pair) account(invoker string) *account {
	if a := p.find(invoker); a != nil {
		return a
	}
	s := p.shard(invoker)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.m[invoker]
	if a == nil {
		// Within the shard's lock: setLocked looks at every account after it has
		// changed the rules.
		a = newAccount(p, invoker, p.rules.Load().of(invoker))
		s.m[invoker] = a
		p.table.stats.accounts.Add(1)
	}
	return a
}

// find returns the account of an API invoker, nil if there is none.
func (p *pair) find(invoker string) *account {
	s := p.shard(invoker)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[invoker]
}

func (p *pair) all() []*account {
	var list []*account
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.RLock()
		for _, a := range s.m {
			list = append(list, a)
		}
		s.mu.RUnlock()
	}
	return list
}

// word is what a core said about a policy; core is nil if none did.
type word struct {
	core  Core
	rules *Rules
}

// configure takes over what a configuration says of the pair. One that comes back
// into force, because a reload was rejected, goes on with what its core said: that
// must not begin with calls that pass without limit.
func (p *pair) configure(s Source, ok bool, core Core) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !ok || s.Rules != nil:
		p.fetched, p.failing = false, false
		p.setLocked(s.Rules)
		p.known.Store(true)
		p.triedLocked()
	case !p.fetched && p.read.core != nil && p.read.core == core:
		p.fetched = true
		p.setLocked(p.read.rules)
		p.known.Store(true)
	case !p.fetched:
		p.fetched, p.tried = true, false
		p.first = make(chan struct{})
		p.known.Store(false)
		p.setLocked(nil)
	}
}

// setLocked puts rules in force for every account, also for those that are just
// being made.
func (p *pair) setLocked(rules *Rules) {
	if p.rules.Load().rules.Equal(rules) {
		return
	}
	set := newRuleset(rules)
	p.rules.Store(set)
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		for invoker, a := range s.m {
			a.set(set.of(invoker))
		}
		s.mu.Unlock()
	}
}

// triedLocked lets go of the calls that wait for the first read.
func (p *pair) triedLocked() {
	if !p.tried {
		p.tried = true
		close(p.first)
	}
}

// firstWait is how long a call waits for the first read.
const firstWait = time.Second

// await waits for the first try to read the policy, and reports whether it is
// known.
func (p *pair) await(ctx context.Context) bool {
	p.mu.Lock()
	first := p.first
	p.mu.Unlock()
	select {
	case <-first:
		return p.known.Load()
	default:
	}
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
	case <-ctx.Done():
	}
	return p.known.Load()
}
