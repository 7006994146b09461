package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// watcher calls an AEF again and again without a pause, as an API invoker that
// does not know yet, and notes when it is refused.
type watcher struct {
	aef     *exposer
	token   string
	refusal string // the end of the problem type by which it is to be refused
	// warm is closed after some calls were passed on, refused at the first
	// refusal, done at the end.
	warm, refused, done chan struct{}

	// What follows is set by the loop: read refusedAt after refused, the rest
	// after done.
	refusedAt   time.Time // the first refusal had arrived
	lastAllowed time.Time // when the last call that was passed on began
	calls       int
	passed      int
	err         error
}

// warmCalls pass before a measurement begins, so that connections and caches
// are there.
const warmCalls = 50

// watch starts a watcher; it ends with ctx or at the first answer that has no
// place in the story.
func watch(ctx context.Context, aef *exposer, token, refusal string, onRefusal func(time.Time)) *watcher {
	w := &watcher{aef: aef, token: token, refusal: refusal, warm: make(chan struct{}), refused: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for ctx.Err() == nil && w.err == nil {
			w.call(ctx, onRefusal)
		}
	}()
	return w
}

func (w *watcher) call(ctx context.Context, onRefusal func(time.Time)) {
	began := time.Now()
	status, body, err := w.aef.Call(ctx, path1, w.token)
	ended := time.Now()
	if ctx.Err() != nil {
		return // cut off by the end of the watch
	}
	w.calls++
	refusedBefore := !w.refusedAt.IsZero()
	switch {
	case err != nil:
		w.err = fmt.Errorf("call at %s: %w", w.aef.ID, err)
	case status == http.StatusOK && refusedBefore:
		w.err = fmt.Errorf("call at %s after a refusal: expected 403, got 200: the revoke did not hold", w.aef.ID)
	case status == http.StatusOK:
		w.lastAllowed = began
		w.passed++
		if w.passed == warmCalls {
			close(w.warm)
		}
	case !isRefusal(status, body, w.refusal):
		w.err = fmt.Errorf("call at %s: expected 200 or 403 %s, got %d %s", w.aef.ID, w.refusal, status, body)
	case !refusedBefore:
		w.refusedAt = ended
		onRefusal(ended)
		close(w.refused)
	}
}

// wait waits for one of the watcher's signals.
func (w *watcher) wait(ctx context.Context, signal <-chan struct{}, what string) error {
	select {
	case <-signal:
		return nil
	case <-w.done:
		return fmt.Errorf("waiting until %s %s: %w", w.aef.ID, what, cmp.Or(w.err, ctx.Err(), context.Canceled))
	case <-ctx.Done():
		return fmt.Errorf("waiting until %s %s: %w", w.aef.ID, what, ctx.Err())
	}
}

// The ends of the problem types by which a revoke shows: a claim denies, or the
// security context does not list the API any more.
const (
	revokedType   = "#authorization-revoked"
	notListedType = "#not-in-context"
)

func isRefusal(status int, body []byte, refusal string) bool {
	return status == http.StatusForbidden && strings.Contains(string(body), refusal+`"`)
}
