package caddyplugin

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// withStreams switches end_streams on.
func (b *bench) withStreams() *bench {
	b.handler.EndStreams = new(EndStreams)
	b.handler.streams = b.streams
	return b
}

// maxStreamAllocs is what a call may allocate where calls in flight can be ended.
// Where they cannot, it allocates nothing: TestHandlerAllocations.
const maxStreamAllocs = 5

func TestEndStreamsAllocations(t *testing.T) {
	b := newBench(t).withStreams()
	r := b.requests(t, 1)[0]
	w := httptest.NewRecorder()
	replacerOf(r).Set("http.auth.user.id", "")
	got := leastAllocs(func() {
		err := b.handler.ServeHTTP(w, r, called)
		if err != nil {
			t.Fatal(err)
		}
	})
	if got > maxStreamAllocs {
		t.Errorf("got %v allocations for an allowed call that can be ended; want at most %d", got, maxStreamAllocs)
	}
}

// A call that is denied between its decision and its registration is refused, and
// counted once.
func TestDeniedBeforeItIsRegistered(t *testing.T) {
	b := newBench(t).withStreams()
	r := b.requests(t, 1)[0]
	raw, _ := enforce.Bearer(r.Header["Authorization"])
	decision := b.handler.decider.Decide(t.Context(), raw, time.Now())
	if decision.Reason != enforce.Allowed {
		t.Fatalf("got %v; want allowed", decision.Reason)
	}
	err := b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "invoker-0", APIs: []string{"api-1"}, Cause: "X"})
	if err != nil {
		t.Fatal(err)
	}
	stream := b.handler.openStream(httptest.NewRecorder(), r, &decision)
	if stream != nil || decision.Reason != enforce.AuthorizationRevoked {
		t.Errorf("got %v, %v; want no stream, %v", stream, decision.Reason, enforce.AuthorizationRevoked)
	}
}

// A handler that panics leaves no call in the registry.
func TestStreamOfAPanickingHandler(t *testing.T) {
	b := newBench(t).withStreams()
	r := b.requests(t, 1)[0]
	func() {
		defer func() {
			err, _ := recover().(error)
			if !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("got panic %v; want %v", err, http.ErrAbortHandler)
			}
		}()
		_ = b.handler.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			panic(http.ErrAbortHandler)
		}))
	}()
	if got := b.streams.Stats().Open; got != 0 {
		t.Errorf("got %d calls in flight; want 0", got)
	}
}

// A handler that returns as if all were well must not make what it sent look
// complete, unless it has taken the connection over.
func TestEndedCallIsAborted(t *testing.T) {
	for _, taken := range []bool{false, true} {
		b := newBench(t).withStreams()
		r := b.requests(t, 1)[0]
		var got any
		func() {
			defer func() { got = recover() }()
			err := b.handler.ServeHTTP(&hijackable{ResponseRecorder: httptest.NewRecorder()}, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				if taken {
					_, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						return err
					}
				}
				err := b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "invoker-0", APIs: []string{"api-1"}, Cause: "X"})
				<-r.Context().Done()
				return err
			}))
			if err != nil || !taken {
				t.Errorf("taken %t: got %v; want a panic, or nothing where the connection was taken", taken, err)
			}
		}()
		err, _ := got.(error)
		if aborted := errors.Is(err, http.ErrAbortHandler); aborted == taken {
			t.Errorf("taken %t: got %v; want it aborted only if not", taken, got)
		}
	}
}

// hijackable gives a connection away.
type hijackable struct{ *httptest.ResponseRecorder }

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, other := net.Pipe()
	return conn, nil, other.Close()
}

func TestEndStreamsSettings(t *testing.T) {
	e := &Enforce{EndStreams: &EndStreams{Grace: -1}}
	if err := e.provisionStreams(new(state)); err == nil || !strings.Contains(err.Error(), "must not be negative") {
		t.Errorf("got %v; want a negative grace refused", err)
	}
	b := newBench(t)
	e = &Enforce{Mode: modeMonitor, EndStreams: new(EndStreams)}
	if err := e.provisionStreams(&state{streams: b.streams}); err != nil || e.streams != nil {
		t.Errorf("monitor: got %v, %v; want nothing ended", err, e.streams)
	}
	var parsed Enforce
	err := parsed.UnmarshalCaddyfile(caddyfile.NewTestDispenser("capif_enforce {\n api_id 1\n api_name a\n end_streams\n}"))
	if err != nil || parsed.EndStreams == nil || parsed.EndStreams.Grace != 0 {
		t.Errorf("got %v, %+v; want end_streams without a grace", err, parsed.EndStreams)
	}
}

// BenchmarkEndStreams is BenchmarkHandler where calls in flight can be ended.
func BenchmarkEndStreams(b *testing.B) {
	for name, bed := range map[string]*bench{"off": newBench(b), "on": newBench(b).withStreams()} {
		header := headersOf(bed.requests(b, 1))[0]
		b.Run(name, func(b *testing.B) {
			r, w := bed.request("x"), httptest.NewRecorder()
			r.Header["Authorization"] = header
			b.ReportAllocs()
			for b.Loop() {
				_ = bed.handler.ServeHTTP(w, r, called)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r, w := bed.request("x"), httptest.NewRecorder()
				r.Header["Authorization"] = header
				for pb.Next() {
					_ = bed.handler.ServeHTTP(w, r, called)
				}
			})
		})
	}
}
