package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	aef     = "aef-1"
	api     = "api-1"
	latency = 5 * time.Millisecond
)

var entry = coreclient.Entry{AEFID: aef, APIID: api}

// fakeCore answers from a map, a little later, as a script says.
type fakeCore struct {
	mu       sync.Mutex
	contexts map[string][]coreclient.Entry // absent: 404
	// fail, if set, says which reads fail, and how.
	fail func(invoker string) error
	// hold, if set, is called between the sampling and the answer. What it
	// returns replaces the answer if it is an error.
	hold     func(ctx context.Context, invoker string) error
	latency  time.Duration
	step     func() // called when a test has changed or held something
	reads    []readAt
	inFlight int
	most     int
}

type readAt struct {
	invoker string
	at      time.Time
}

func (c *fakeCore) Context(ctx context.Context, invoker string) (coreclient.Context, error) {
	c.mu.Lock()
	c.reads = append(c.reads, readAt{invoker, time.Now()})
	c.inFlight++
	c.most = max(c.most, c.inFlight)
	entries, found := c.contexts[invoker]
	entries = slices.Clone(entries)
	fail, hold, latency := c.fail, c.hold, c.latency
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight--
		c.mu.Unlock()
	}()
	select {
	case <-time.After(max(latency, 1)): // an ended timer and the race detector do not go together in a bubble
	case <-ctx.Done():
		return coreclient.Context{}, &coreclient.Error{Op: "read", Err: ctx.Err()}
	}
	if fail != nil {
		err := fail(invoker)
		if err != nil {
			return coreclient.Context{}, err
		}
	}
	if hold != nil {
		err := hold(ctx, invoker)
		if err != nil {
			return coreclient.Context{}, err
		}
	}
	if !found {
		return coreclient.Context{}, absent()
	}
	return coreclient.Context{Entries: entries}, nil
}

func absent() error { return &coreclient.Error{Op: "read", Status: 404, InCoreShape: true} }
func silent() error { return &coreclient.Error{Op: "read", Err: errors.New("connection refused")} }

func (c *fakeCore) set(invoker string, entries ...coreclient.Entry) {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.contexts[invoker] = entries
}

func (c *fakeCore) remove(invoker string) {
	defer c.step()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.contexts, invoker)
}

func (c *fakeCore) script(f func(c *fakeCore)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// count is how many reads there were, of an invoker or of all.
func (c *fakeCore) count(invoker string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, r := range c.reads {
		if invoker == "" || r.invoker == invoker {
			n++
		}
	}
	return n
}

// since returns the reads after the first n.
func (c *fakeCore) since(n int) []readAt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reads[n:])
}

// gate holds back the next answer about an invoker, which is sampled already.
// The returned functions wait until it is held, and let it go.
func (c *fakeCore) gate(invoker string, answer error) (func(), func()) {
	held, free := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	c.script(func(c *fakeCore) {
		c.hold = func(ctx context.Context, i string) error {
			if i != invoker || once.Swap(true) {
				return nil
			}
			close(held)
			select {
			case <-free:
				return answer
			case <-ctx.Done():
				return &coreclient.Error{Op: "read", Err: ctx.Err()}
			}
		}
	})
	return func() { <-held; c.step() }, func() { close(free) }
}

// verifier takes the token for the name of the invoker.
type verifier struct{}

func (verifier) Fingerprint() [16]byte                 { return [16]byte{1} }
func (verifier) KeySetID() (token.KeySetID, bool)      { return token.KeySetID{}, true }
func (verifier) ValidAt(_, _ int64, _ time.Time) error { return nil }

func (verifier) Verify(_ context.Context, raw string, now time.Time) (token.Token, error) {
	return token.Token{Invoker: raw, Scope: "3gpp#" + aef + ":location", Expires: now.Add(1000 * time.Hour).Unix()}, nil
}

// mapCache forgets nothing.
type mapCache struct{ m sync.Map }

func (c *mapCache) Get(raw string, route *denycache.ID, _ denycache.ID) *denycache.Entry {
	e, ok := c.m.Load(raw + string(route[:]))
	if !ok {
		return nil
	}
	return e.(*denycache.Entry)
}

func (c *mapCache) Put(e *denycache.Entry, _ time.Duration) {
	c.m.Store(e.Token+string(e.Route[:]), e)
}

type store interface {
	Store
	enforce.Claims
}

// world is one reconciler with its core, in a bubble of fake time.
type world struct {
	t       *testing.T
	core    *fakeCore
	memory  *memory // nil with a real ledger
	store   store
	alarms  *alarm.Set
	log     *strings.Builder
	s       Settings
	r       *Reconciler
	decider atomic.Pointer[enforce.Decider]
	cache   *mapCache // of decider
	steps   int       // of the test so far
}

// inWorld runs a test in a bubble, with a reconciler that is started.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newMemory())
		w.restart()
		defer func() { w.r.Stop() }()
		test(w)
	})
}

// withLedger runs a test in a bubble with a real ledger.
func withLedger(t *testing.T, test func(w *world, l *revocation.Ledger)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		l := revocation.NewLedger(path)
		err := l.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, l)
		w.s.CoreLift = true
		w.restart()
		defer func() {
			w.r.Stop()
			err := w.store.(*revocation.Ledger).Close()
			if err != nil {
				t.Error(err)
			}
		}()
		test(w, l)
	})
}

func newWorld(t *testing.T, s store) *world {
	core := &fakeCore{contexts: make(map[string][]coreclient.Entry), latency: latency}
	w := &world{t: t, core: core, store: s, alarms: new(alarm.Set), log: new(strings.Builder)}
	core.step = w.step
	w.memory, _ = s.(*memory)
	w.s = Settings{
		Core: core, Hosted: func() []string { return []string{aef} },
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	return w
}

// restart makes a new reconciler on what is stored, as a new process does.
func (w *world) restart() {
	w.t.Helper()
	if w.r != nil {
		w.r.Stop()
	}
	w.r = New(w.store, w.alarms)
	w.r.Apply(&w.s)
	err := w.r.Start()
	if err != nil {
		w.t.Fatal(err)
	}
	w.cache = new(mapCache)
	w.decider.Store(w.decidesWith(enforce.ContextRule{Require: true}, w.cache))
	synctest.Wait()
}

func (w *world) decides(rule enforce.ContextRule) *enforce.Decider {
	return w.decidesWith(rule, new(mapCache))
}

func (w *world) decidesWith(rule enforce.ContextRule, cache *mapCache) *enforce.Decider {
	route := enforce.Route{AEFID: aef, APIName: "location", APIIDs: []string{api}}
	d, err := enforce.NewDecider(route, verifier{}, w.store, cache)
	if err != nil {
		w.t.Fatal(err)
	}
	d.UseContexts(w.r, rule)
	return d
}

func (w *world) check(invoker string) Answer {
	return w.r.Check(w.t.Context(), Query{Invoker: invoker, AEF: aef, APIs: []string{api}, Require: true})
}

// call decides a call of the invoker.
func (w *world) call(invoker string) enforce.Reason {
	return w.decider.Load().Decide(w.t.Context(), invoker, time.Now()).Reason
}

func (w *world) wantCall(invoker string, want enforce.Reason) {
	w.t.Helper()
	w.step()
	got := w.call(invoker)
	if got != want {
		w.t.Errorf("call of %s: got %v; want %v", invoker, got, want)
	}
}

func (w *world) hint(invokers ...string) {
	w.t.Helper()
	err := w.r.Hint(w.t.Context(), invokers)
	if err != nil {
		w.t.Errorf("hint: got %v; want no error", err)
	}
	w.step()
}

// settle lets all reads end that nothing holds back; a second passes.
func (w *world) settle() { w.pass(time.Second) }

func (w *world) pass(d time.Duration) {
	w.step()
	<-time.After(d)
	synctest.Wait()
}

// known makes contexts that list the API known here.
func (w *world) known(invokers ...string) {
	w.t.Helper()
	for _, invoker := range invokers {
		w.core.set(invoker, entry)
		if !w.check(invoker).Listed {
			w.t.Fatalf("%s: got not listed; want listed", invoker)
		}
	}
}

func (w *world) wantReads(invoker string, before, want int) {
	w.t.Helper()
	got := w.core.count(invoker) - before
	if got != want {
		w.t.Errorf("reads of %q: got %d; want %d", invoker, got, want)
	}
}

func (w *world) raised(name alarm.Name) int {
	for _, a := range w.alarms.List() {
		if a.Name == name {
			return a.Count
		}
	}
	return 0
}

func (w *world) wantSuspended(want bool) {
	w.t.Helper()
	got := w.r.Status().Suspended
	if got != want {
		w.t.Errorf("suspended: got %v; want %v", got, want)
	}
	if raised := w.raised(alarm.MassChangeSuspended) > 0; raised != want {
		w.t.Errorf("alarm: got %v; want %v", raised, want)
	}
}

var (
	_ Store            = (*memory)(nil)
	_ store            = (*revocation.Ledger)(nil)
	_ Core             = (*fakeCore)(nil)
	_ enforce.Verifier = verifier{}
	_ enforce.Cache    = (*mapCache)(nil)
)
