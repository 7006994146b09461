package outbox

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// slowCore keeps contexts and takes its time. It notes what it was asked, and
// how much of it at once.
type slowCore struct {
	mu       sync.Mutex
	contexts map[string][]string // apiIds by invoker
	calls    []call

	latency time.Duration
	// fail, if set, answers in place of the core; executed says that the
	// revoke was done all the same.
	fail func(c call) (executed bool, err error)

	busy     map[string]int
	now      int
	mostAt   int // in flight at once
	mostSame int // for one invoker
}

type call struct {
	op, invoker, api string
	at               time.Time
}

func newSlowCore() *slowCore {
	return &slowCore{contexts: map[string][]string{}, busy: map[string]int{}}
}

func (c *slowCore) enter(ctx context.Context, k call) (bool, error) {
	k.at = time.Now()
	c.mu.Lock()
	c.calls = append(c.calls, k)
	c.busy[k.invoker]++
	c.now++
	c.mostAt, c.mostSame = max(c.mostAt, c.now), max(c.mostSame, c.busy[k.invoker])
	fail := c.fail
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy[k.invoker]--
		c.now--
	}()
	if c.latency > 0 {
		select {
		case <-time.After(c.latency):
		case <-ctx.Done():
			return false, &coreclient.Error{Op: k.op, Err: ctx.Err()}
		}
	}
	if fail != nil {
		return fail(k)
	}
	return true, nil
}

func (c *slowCore) Context(ctx context.Context, invoker string) (coreclient.Context, error) {
	_, err := c.enter(ctx, call{op: "read", invoker: invoker})
	if err != nil {
		return coreclient.Context{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return listed(c.contexts[invoker]...), nil
}

func (c *slowCore) Revoke(ctx context.Context, r coreclient.RevokeRequest) (int, error) {
	executed, err := c.enter(ctx, call{op: "revoke", invoker: r.Invoker, api: r.APIID})
	c.mu.Lock()
	defer c.mu.Unlock()
	if executed {
		var left []string
		for _, api := range c.contexts[r.Invoker] {
			if api != r.APIID {
				left = append(left, api)
			}
		}
		c.contexts[r.Invoker] = left
	}
	return http.StatusNoContent, err
}

// lists says which APIs the context of an invoker lists.
func (c *slowCore) lists(invoker string, apis ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.contexts[invoker] = apis
}

// answer replaces what the core answers; nil is to work again.
func (c *slowCore) answer(fail func(call) (bool, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fail
}

// asked returns the calls of an operation, "" for all.
func (c *slowCore) asked(op string) []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []call
	for _, k := range c.calls {
		if op == "" || k.op == op {
			found = append(found, k)
		}
	}
	return found
}

// unavailable answers every revoke with 503.
func unavailable(retryAfter time.Duration) func(call) (bool, error) {
	return func(k call) (bool, error) {
		if k.op == "read" {
			return false, nil
		}
		return false, &coreclient.Error{Op: k.op, Status: 503, RetryAfter: retryAfter}
	}
}

// inBubble runs a test on a clock that moves by itself, with a real ledger.
func inBubble(t *testing.T, test func(t *testing.T, b *bed, c *slowCore)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		c := newSlowCore()
		test(t, startBed(t, path, c, revocation.Options{}), c)
	})
}

// startBed is newBed with options for the ledger.
func startBed(t *testing.T, path string, c Core, options revocation.Options) *bed {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	b := &bed{ledger: revocation.NewLedger(path), alarms: new(alarm.Set)}
	err := b.ledger.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	b.outbox = New(b.ledger, b.alarms)
	b.apply(c)
	err = b.ledger.SetQueue(b.outbox)
	if err != nil {
		t.Fatal(err)
	}
	b.outbox.Start()
	t.Cleanup(b.stop)
	return b
}

func (b *bed) apply(c Core) {
	b.outbox.Apply(&Settings{
		Core: c, Logger: slog.New(slog.DiscardHandler), APIs: func(string) []string { return []string{"api-1", "api-2"} }})
}

// ask triggers for an invoker; no API is all of them.
func (b *bed) ask(t *testing.T, invoker string, apis ...string) []revocation.Revocation {
	t.Helper()
	made, err := b.ledger.Trigger(t.Context(), revocation.Trigger{Invoker: invoker, AEF: "aef-1", APIs: apis, Cause: "C", Hold: true})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (b *bed) want(t *testing.T, r revocation.Revocation, want revocation.State) revocation.Revocation {
	t.Helper()
	got, err := b.ledger.RevocationBySequence(r.Sequence)
	if err != nil || got.State != want {
		t.Fatalf("got %+v, %v; want it %v", got, err, want)
	}
	return got
}

// pass lets time go by, and everything come to rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
