package caddyplugin_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/testbed"
)

// hammer calls one path with one token, one call after the other.
type hammer struct {
	mu    sync.Mutex
	calls []call
}

type call struct {
	began, ended time.Time
	status       int
	err          error
}

func (c call) String() string { return fmt.Sprintf("%d %v", c.status, c.err) }

func (b *dialectBed) hammer(token, path string) *hammer { return hammerAt(b.t, b.here, token, path) }

// hammerAt calls until the test ends.
func hammerAt(t *testing.T, a *testbed.AEF, token, path string) *hammer {
	h := new(hammer)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		pause := time.NewTicker(time.Millisecond)
		defer pause.Stop()
		for ctx.Err() == nil {
			c := call{began: time.Now()}
			c.status, _, c.err = a.Call(ctx, path, token)
			c.ended = time.Now()
			if ctx.Err() != nil {
				return
			}
			h.mu.Lock()
			h.calls = append(h.calls, c)
			h.mu.Unlock()
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return h
}

func (h *hammer) list() []call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// until waits for the first call with a status and says when it ended.
func (h *hammer) until(t *testing.T, status int) time.Time {
	t.Helper()
	var at time.Time
	(&bed{t: t}).poll(func() bool {
		list := h.list()
		i := slices.IndexFunc(list, func(c call) bool { return c.status == status })
		if i >= 0 {
			at = list[i].ended
		}
		return i >= 0
	})
	return at
}

// more waits for n more calls.
func (h *hammer) more(t *testing.T, n int) {
	t.Helper()
	from := len(h.list())
	(&bed{t: t}).poll(func() bool { return len(h.list()) >= from+n })
}

// nonePassed checks the calls that began after a moment.
func (h *hammer) nonePassed(t *testing.T, after time.Time) {
	t.Helper()
	for _, c := range h.list() {
		if c.began.After(after) && c.status != http.StatusForbidden {
			t.Errorf("a call %v after the block: got %v; want 403", c.began.Sub(after), c)
			return
		}
	}
}

func (h *hammer) allPassed(t *testing.T) {
	t.Helper()
	for _, c := range h.list() {
		if c.status != http.StatusOK {
			t.Errorf("a call of what was not revoked: got %v; want 200", c)
			return
		}
	}
}
