package subscription

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
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
	"github.com/caddy-capif/aef/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCore keeps subscriptions as a core does, with the faults that a test sets.
type fakeCore struct {
	mu      sync.Mutex
	subs    map[string]coreclient.Subscription
	serial  int
	calls   []string // POST, PUT id, DELETE id, as they came
	unknown []string // events that it refuses
	noPut   int      // status of every PUT; 0: PUT works
	down    error    // every call
	posts   int      // after so many POSTs more it is in trouble; 0: never
}

func newFakeCore() *fakeCore { return &fakeCore{subs: map[string]coreclient.Subscription{}} }

func answered(status int) error { return &coreclient.Error{Op: "test", Status: status} }

func (c *fakeCore) judge(s coreclient.Subscription) error {
	if slices.ContainsFunc(s.Events, func(e string) bool { return slices.Contains(c.unknown, e) }) {
		return answered(400)
	}
	return nil
}

func (c *fakeCore) Subscribe(_ context.Context, subscriber string, s coreclient.Subscription) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "POST")
	if c.down != nil {
		return "", c.down
	}
	if c.posts > 0 {
		c.posts--
		if c.posts == 0 {
			c.down = answered(503)
		}
	}
	if err := c.judge(s); err != nil {
		return "", err
	}
	c.serial++
	id := fmt.Sprintf("%s-%d", subscriber, c.serial)
	c.subs[id] = s
	return id, nil
}

func (c *fakeCore) Renew(_ context.Context, _, id string, s coreclient.Subscription) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "PUT "+id)
	switch _, ok := c.subs[id]; {
	case c.down != nil:
		return c.down
	case c.noPut != 0:
		return answered(c.noPut)
	case !ok:
		return answered(404)
	}
	if err := c.judge(s); err != nil {
		return err
	}
	c.subs[id] = s
	return nil
}

func (c *fakeCore) Unsubscribe(_ context.Context, _, id string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "DELETE "+id)
	if c.down != nil {
		return false, c.down
	}
	_, ok := c.subs[id]
	delete(c.subs, id)
	return ok, nil
}

func (c *fakeCore) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// take returns the calls since it was asked last.
func (c *fakeCore) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

func (c *fakeCore) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.subs))
}

func (c *fakeCore) sub(id string) coreclient.Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subs[id]
}

// memory is a store.
type memory struct {
	mu    sync.Mutex
	saved revocation.Subscription
	err   error
}

func (m *memory) Subscription() (revocation.Subscription, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved, m.saved.ID != "", m.err
}

func (m *memory) SaveSubscription(_ context.Context, s revocation.Subscription) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.saved = s
	return nil
}

func (m *memory) last() revocation.Subscription {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// bench is a keeper with everything around it, in a bubble of synctest.
type bench struct {
	*testing.T
	core   *fakeCore
	store  *memory
	alarms *alarm.Set
	keeper *Keeper
	log    *lines
	gaps   atomic.Int32
}

// lines is what was logged.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

const destination = "https://aef.example/capif/hints/0123456789abcdef"

func run(t *testing.T, f func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, core: newFakeCore(), store: new(memory), log: new(lines)}
		f(b)
		b.stop()
		if b.log.count("0123456789abcdef") > 0 {
			t.Error("got the destination in the log; want it secret")
		}
	})
}

func (b *bench) settings(destination string) *Settings {
	return &Settings{
		Core: b.core, CoreURL: "https://core.example", Subscriber: "aef-1", Destination: destination,
		Gap: func(context.Context) { b.gaps.Add(1) }, Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	}
}

// start begins a process: a new keeper over the same store.
func (b *bench) start(destination string) {
	b.alarms = new(alarm.Set)
	b.keeper = New(b.store, b.alarms)
	b.keeper.Apply(b.settings(destination))
	b.keeper.Start()
	synctest.Wait()
}

func (b *bench) stop() {
	if b.keeper != nil {
		b.keeper.Stop()
	}
}

// after lets time pass.
func (b *bench) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) wantCalls(what string, want ...string) {
	b.Helper()
	if got := b.core.take(); !slices.Equal(got, want) {
		b.Errorf("%s: got calls %q; want %q", what, got, want)
	}
}

func (b *bench) wantIDs(what string, want ...string) {
	b.Helper()
	if got := b.core.ids(); !slices.Equal(got, want) {
		b.Errorf("%s: got %q at the core; want %q", what, got, want)
	}
}

func (b *bench) wantAlarm(what string, want bool) {
	b.Helper()
	if got := len(b.alarms.List()) > 0; got != want {
		b.Errorf("%s: got alarms %+v; want one: %v", what, b.alarms.List(), want)
	}
}
