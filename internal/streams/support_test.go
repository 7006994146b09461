package streams

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// words is a Judge that denies the API invokers that it is told.
type words struct {
	mu     sync.Mutex
	denied map[string]enforce.Reason
	// asked, if set, is called before each answer.
	asked func()
}

func (w *words) Again(e *denycache.Entry) enforce.Reason {
	if w.asked != nil {
		w.asked()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if reason, ok := w.denied[e.Invoker]; ok {
		return reason
	}
	return enforce.Allowed
}

func (w *words) deny(invoker string, reason enforce.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.denied == nil {
		w.denied = map[string]enforce.Reason{}
	}
	w.denied[invoker] = reason
}

func (w *words) lift(invoker string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.denied, invoker)
}

func newRegistry(t *testing.T) *Registry {
	t.Helper()
	r := New()
	t.Cleanup(r.Stop)
	return r
}

// open opens a call to a recorder and closes it with the test.
func open(t *testing.T, r *Registry, j Judge, invoker string, grace time.Duration) (*Stream, *http.Request) {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	s, request, reason := r.Open(httptest.NewRecorder(), request,
		Call{Judge: j, Entry: &denycache.Entry{Invoker: invoker}, Grace: grace})
	if s == nil {
		t.Fatalf("open: got %v; want a stream", reason)
	}
	t.Cleanup(func() {
		if !s.over.Load() {
			s.Close()
		}
	})
	return s, request
}

func isOver(s *Stream) bool { return s.over.Load() }
