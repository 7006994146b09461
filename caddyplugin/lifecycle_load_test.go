package caddyplugin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// loadCaller is one API invoker that calls as fast as it can.
type loadCaller struct {
	token string
	// acked is true once its revoke has been acknowledged.
	acked atomic.Bool

	passed, refused     atomic.Int64
	late, wrong, broken atomic.Int64
	after               atomic.Int64 // calls that began after the acknowledgement
	example             atomic.Value
}

func (c *loadCaller) run(ctx context.Context, client *http.Client, url string) {
	for ctx.Err() == nil {
		acked := c.acked.Load() // before the call begins
		status, err := get(ctx, client, url, c.token)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.broken.Add(1)
			c.example.Store(err.Error())
		case status == http.StatusOK && acked:
			c.late.Add(1)
		case status == http.StatusOK:
			c.passed.Add(1)
		case status == http.StatusForbidden:
			c.refused.Add(1)
		default:
			c.wrong.Add(1)
			c.example.Store(http.StatusText(status))
		}
		if acked {
			c.after.Add(1)
		}
	}
}

func get(ctx context.Context, client *http.Client, url, token string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, err
}

const (
	loadLasts     = 3 * time.Second // at least
	reloadEvery   = 100 * time.Millisecond
	callersOfEach = 2
)

// TestScheduleRevokeUnderLoadWithReloads is schedules 1 and 2 with reloads in the
// middle: API invokers call as fast as they can, one is revoked by a trigger and
// one by the core, while the configuration is replaced ten times a second by an
// equal one, by one with a small deny cache, and by one that is rejected.
func TestScheduleRevokeUnderLoadWithReloads(t *testing.T) {
	l := startLife(t)
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 32, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
	}
	defer client.CloseIdleConnections()
	triggered, byCore, other := l.newInvoker(), l.newInvoker(), l.newInvoker()
	callersOf := map[string]*loadCaller{}
	for _, id := range []string{triggered, byCore, other} {
		callersOf[id] = &loadCaller{token: l.tokenOf(id)}
		l.want(l.aef, lifePath, callersOf[id].token, http.StatusOK)
	}
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	began := time.Now()
	var running sync.WaitGroup
	for _, c := range callersOf {
		for range callersOfEach {
			running.Go(func() { c.run(ctx, client, "http://"+l.aef.API+lifePath) })
		}
	}
	small, rejected := *l.aef, *l.aef
	small.GlobalExtra = "deny_cache 1"
	rejected.OptionsExtra = "lifecycle_fault start"
	var accepted, refused atomic.Int64
	running.Go(func() {
		tick := time.NewTicker(reloadEvery)
		defer tick.Stop()
		configs := []string{l.caddyfile(l.aef), l.caddyfile(&small), l.caddyfile(&rejected)}
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Not with ctx: a reload under way is not to be broken off.
			err := l.caddy.Reload(l.ctx, configs[i%len(configs)])
			if err == nil {
				accepted.Add(1)
			} else {
				refused.Add(1)
			}
		}
	})
	// Both revokes come in the middle, beside reloads.
	middle := time.NewTimer(loadLasts / 3)
	defer middle.Stop()
	<-middle.C
	l.revokeBesideReloads(triggered)
	callersOf[triggered].acked.Store(true)
	l.tell(byCore)
	callersOf[byCore].acked.Store(true)
	l.poll(func() bool {
		return time.Since(began) >= loadLasts && accepted.Load() >= 5 && refused.Load() >= 2 &&
			callersOf[triggered].after.Load() > 0 && callersOf[byCore].after.Load() > 0
	})
	cancel()
	running.Wait()
	if !slices.ContainsFunc(l.revocations(triggered), func(r revocation.Revocation) bool { return r.State == revocation.StateRevoked }) ||
		l.scene.Core.Authorized(triggered, l.aef.ID, testbed.APIID) {
		t.Errorf("%s: got %+v; want one that the core revoked", triggered, l.revocations(triggered))
	}

	total, broken := int64(0), int64(0)
	for id, c := range callersOf {
		total += c.passed.Load() + c.refused.Load()
		broken += c.broken.Load()
		if c.late.Load()+c.wrong.Load() > 0 {
			t.Errorf("%s: got %d late, %d answers other than 200 and 403 (%v); want none",
				id, c.late.Load(), c.wrong.Load(), c.example.Load())
		}
		if c.passed.Load() == 0 {
			t.Errorf("%s: got no call passed on; want many", id)
		}
		if id != other && (c.after.Load() == 0 || c.refused.Load() == 0) {
			t.Errorf("%s: got %d calls after the revoke, %d refused; want many", id, c.after.Load(), c.refused.Load())
		}
	}
	if got := callersOf[other].refused.Load(); got > 0 {
		t.Errorf("%s, which nobody revoked: got %d refused; want none", other, got)
	}
	// Caddy may close a connection that comes while a listener changes hands.
	if callers := int64(len(callersOf) * callersOfEach); broken > callers*(accepted.Load()+refused.Load()) {
		t.Errorf("got %d calls without an answer; want at most one for each of %d callers and reload", broken, callers)
	}
	t.Logf("%d without an answer; %d calls, %d reloads accepted, %d rejected", broken, total, accepted.Load(), refused.Load())
}

// TestCallInFlightAcrossReload holds a call at the service API while the
// configuration is replaced and the API invoker is revoked: the call, which began
// before, ends well, and the next is refused.
func TestCallInFlightAcrossReload(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(release) })
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/location/slow" {
			close(entered)
			<-release
		}
		_, _ = io.WriteString(w, "served")
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(once)
	l := newLife(t)
	l.aef.BackendAddress = slow.Listener.Addr().String()
	l.begin()
	id := l.newInvoker()
	token := l.tokenOf(id)
	type result struct {
		status int
		body   []byte
		err    error
	}
	ended := make(chan result, 1)
	go func() {
		status, body, err := l.aef.Call(l.ctx, "/location/slow", token)
		ended <- result{status, body, err}
	}()
	select {
	case <-entered:
	case <-l.ctx.Done():
		t.Fatal("the call did not reach the service API")
	}
	l.reload(l.aef)
	l.revoke(id)
	l.want(l.aef, lifePath, token, http.StatusForbidden)
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	once()
	got := <-ended
	if got.err != nil || got.status != http.StatusOK || string(got.body) != "served" {
		t.Errorf("call in flight: got %v, %q, %v; want 200, served", got.status, got.body, got.err)
	}
	l.want(l.aef, lifePath, token, http.StatusForbidden)
}
