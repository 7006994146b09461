package policy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// childRole names what this test binary does instead of running tests.
const childRole = "CAPIF_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childRole) != "" {
		err := callUntilKilled(os.Args[1])
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var (
	api   = Pair{AEF: "aef", API: "api"}
	quiet = slog.New(slog.DiscardHandler)
)

func number(n int64) *int64 { return &n }

// memory is a store that can lose what was never acknowledged, and fail.
type memory struct {
	mu     sync.Mutex
	counts map[revocation.CountRef]revocation.Count
	delay  time.Duration
	err    error
	writes int
}

func (m *memory) Count(ref revocation.CountRef) (revocation.Count, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[ref], m.err
}

func (m *memory) Reserve(_ context.Context, ref revocation.CountRef, c revocation.Count) (revocation.Count, error) {
	m.mu.Lock()
	delay := m.delay
	m.mu.Unlock()
	if delay > 0 {
		<-time.After(delay) // within synctest: no real time passes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return revocation.Count{}, m.err
	}
	m.writes++
	if m.counts[ref].Generation == c.Generation {
		m.counts[ref] = c
	}
	return m.counts[ref], nil
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) slow(delay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = delay
}

// lift is what the ledger does in the transaction of a lift.
func (m *memory) lift(refs ...revocation.CountRef) []revocation.CountRef {
	m.mu.Lock()
	defer m.mu.Unlock()
	var reset []revocation.CountRef
	for _, ref := range refs {
		if m.counts[ref].Exhausted {
			m.counts[ref] = revocation.Count{Generation: m.counts[ref].Generation + 1}
			reset = append(reset, ref)
		}
	}
	return reset
}

func (m *memory) stored() map[revocation.CountRef]revocation.Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}

// core answers with what it is given.
type core struct {
	mu    sync.Mutex
	list  []coreclient.Policy
	err   error
	reads int
	slow  time.Duration
}

func (c *core) Policies(ctx context.Context, _, _ string) ([]coreclient.Policy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	if c.slow > 0 {
		select {
		case <-time.After(c.slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.list, c.err
}

func (c *core) set(err error, list ...coreclient.Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.err = list, err
}

func (c *core) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// triggers records what was asked for.
type triggers struct {
	mu     sync.Mutex
	asked  []Overlimit
	refuse bool
}

func (r *triggers) TriggerOverlimit(_ context.Context, o Overlimit) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, o)
	return !r.refuse
}

func (r *triggers) list() []Overlimit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Overlimit(nil), r.asked...)
}

// scene is a table with one route, for one test.
type scene struct {
	t        *testing.T
	table    *Table
	store    *memory
	core     *core
	alarms   *alarm.Set
	triggers *triggers
	gate     *Gate
}

// newScene starts a table; rules nil has the policy read from the core.
func newScene(t *testing.T, rules *Rules) *scene {
	t.Helper()
	s := &scene{
		t: t, core: &core{}, alarms: new(alarm.Set), triggers: &triggers{},
		store: &memory{counts: make(map[revocation.CountRef]revocation.Count)},
	}
	s.boot(rules)
	return s
}

// boot makes a table on the store as it is.
func (s *scene) boot(rules *Rules) {
	s.table = New(s.store, s.alarms)
	s.gate = s.table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}, Trigger: s.triggers})
	s.apply(rules)
	s.table.Start()
}

func (s *scene) apply(rules *Rules) {
	s.table.Apply(&Settings{Core: s.core, Pairs: map[Pair]Source{api: {Rules: rules}}, Logger: quiet})
}

func (s *scene) stop() {
	s.t.Helper()
	err := s.table.Stop(context.Background())
	if err != nil {
		s.t.Errorf("stop: got %v; want no error", err)
	}
}

// admit makes one call, as if nothing were cached.
func admit(g *Gate, invoker string, ctx context.Context, now time.Time, bound bool) enforce.Reason { //nolint:revive // as in a sentence
	return g.Admit(ctx, g.Grant(invoker), now, bound)
}

func (s *scene) call(invoker string) enforce.Reason {
	return admit(s.gate, invoker, context.Background(), time.Now(), true)
}

// passes makes n calls and returns how many passed.
func (s *scene) passes(invoker string, n int) int {
	passed := 0
	for range n {
		if s.call(invoker) == enforce.Allowed {
			passed++
		}
	}
	return passed
}

func (s *scene) want(invoker string, want enforce.Reason) {
	s.t.Helper()
	if got := s.call(invoker); got != want {
		s.t.Errorf("call of %s at %s: got %v; want %v", invoker, time.Now().UTC().Format(time.RFC3339Nano), got, want)
	}
}

func (s *scene) wantPasses(invoker string, n, want int) {
	s.t.Helper()
	if got := s.passes(invoker, n); got != want {
		s.t.Errorf("%d calls of %s: got %d passed; want %d", n, invoker, got, want)
	}
}

func total(n int64) *Rules { return &Rules{All: &Rule{Total: number(n)}} }

var (
	errDisk = errors.New("no space left")
	ref     = revocation.CountRef{Invoker: "i", AEF: "aef", API: "api"}
)

func (m *memory) failing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}
