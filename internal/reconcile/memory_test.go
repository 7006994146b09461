package reconcile

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/caddy-capif/aef/internal/revocation"
)

// memory is a Store that keeps contexts as the ledger does.
type memory struct {
	mu       sync.Mutex
	sequence uint64
	epochs   map[string]*atomic.Uint64
	contexts map[string]revocation.Context
	denied   map[string]bool // invokers with a claim for all APIs
	judged   int             // words that counted for claims
	writes   int
	// before, if set, is called before a word is stored.
	before func(revocation.Context)
}

func newMemory() *memory {
	return &memory{
		epochs: make(map[string]*atomic.Uint64), contexts: make(map[string]revocation.Context),
		denied: make(map[string]bool),
	}
}

func (m *memory) Ready() bool { return true }

func (m *memory) Sequence() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sequence
}

func (m *memory) Epoch(invoker string) *atomic.Uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.epochs[invoker]
	if e == nil {
		e = new(atomic.Uint64)
		e.Store(1)
		m.epochs[invoker] = e
	}
	return e
}

func (m *memory) Changed(invoker string) { m.Epoch(invoker).Add(1) }

func (m *memory) RaiseEpochs() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.epochs {
		e.Add(1)
	}
}

func (m *memory) Covering(invoker, _ string, _ []string, _ revocation.Digest) revocation.Cover {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.denied[invoker] {
		return revocation.CoverAuthorization
	}
	return revocation.CoverNone
}

func (m *memory) deny(invoker string) {
	m.mu.Lock()
	m.sequence++
	m.denied[invoker] = true
	m.mu.Unlock()
	m.Epoch(invoker).Add(1)
}

func (m *memory) ApplyContext(ctx context.Context, c revocation.Context, coreLift bool) ([]revocation.Claim, error) {
	m.mu.Lock()
	before := m.before
	m.mu.Unlock()
	if before != nil {
		before(c)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	m.sequence++
	m.writes++
	if m.contexts[c.Invoker].ReadSequence > c.ReadSequence {
		return nil, nil
	}
	m.contexts[c.Invoker] = c
	if coreLift {
		m.judged++
	}
	return nil, nil
}

func (m *memory) ForgetContexts(_ context.Context, invokers []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sequence++
	for _, invoker := range invokers {
		delete(m.contexts, invoker)
	}
	return nil
}

func (m *memory) Contexts(f func(revocation.Context)) error {
	m.mu.Lock()
	all := maps.Clone(m.contexts)
	m.mu.Unlock()
	for _, c := range all {
		f(c)
	}
	return nil
}

func (m *memory) HasCoreClaim(invoker string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.denied[invoker], nil
}

func (m *memory) stored(invoker string) (revocation.Context, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.contexts[invoker]
	return c, ok
}

func (m *memory) Passing(string, string, []string) *revocation.Passing { return nil }
