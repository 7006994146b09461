package streams

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
)

// wire is a real server whose calls are in a registry. The API invoker stands in
// the path.
type wire struct {
	*httptest.Server
	registry *Registry
	words    *words
	begun    chan struct{} // one for each call whose handler runs
	errs     chan error    // what handlers ended with
}

type connKey struct{}

// newWire serves with handler. withConn names the connections of HTTP/1.1, as
// Caddy does.
func newWire(t *testing.T, h2, withConn bool, handler func(w http.ResponseWriter, r *http.Request) error) *wire {
	t.Helper()
	x := &wire{registry: newRegistry(t), words: new(words), begun: make(chan struct{}, 10), errs: make(chan error, 10)}
	x.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := Call{Judge: x.words, Entry: &denycache.Entry{Invoker: r.URL.Path[1:]}}
		if withConn && r.ProtoMajor == 1 {
			call.Conn = r.Context().Value(connKey{}).(net.Conn)
		}
		s, r, reason := x.registry.Open(w, r, call)
		if s == nil {
			http.Error(w, reason.String(), http.StatusForbidden)
			return
		}
		x.begun <- struct{}{}
		err := handler(s, r)
		over := s.Close()
		x.errs <- err
		if over && !s.Taken() {
			panic(http.ErrAbortHandler)
		}
	}))
	x.EnableHTTP2 = h2
	x.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	x.StartTLS()
	t.Cleanup(func() {
		x.CloseClientConnections()
		x.Close()
	})
	return x
}

func (x *wire) deny(invoker string) {
	x.words.deny(invoker, enforce.AuthorizationRevoked)
	x.registry.Changed(invoker)
}

func (x *wire) open(t *testing.T, invoker string) *http.Response {
	t.Helper()
	response, err := x.Client().Get(x.URL + "/" + invoker)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v; want 200", response, err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// within fails if f takes long.
func within(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: got nothing in 10 s", what)
		return nil
	}
}

func drain(body io.Reader) func() error {
	return func() error {
		_, err := io.Copy(io.Discard, body)
		return err
	}
}

// A handler that is blocked in a write, for a caller that does not read, ends with
// an error, and so does the caller's body.
func TestBlockedWrites(t *testing.T) {
	flood := func(w http.ResponseWriter, _ *http.Request) error {
		for chunk := make([]byte, 64<<10); ; {
			_, err := w.Write(chunk)
			if err != nil {
				return err
			}
		}
	}
	for _, test := range []struct {
		name         string
		h2, withConn bool
	}{
		{"HTTP/1.1", false, true}, {"HTTP/1.1 by deadlines", false, false}, {"HTTP/2", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newWire(t, test.h2, test.withConn, flood)
			response := x.open(t, "a")
			x.deny("a")
			err := within(t, "the handler", func() error { return <-x.errs })
			if err == nil {
				t.Error("handler: got no error; want its write to fail")
			}
			err = within(t, "the body", drain(response.Body))
			if err == nil {
				t.Error("caller: got a complete body; want an error")
			}
		})
	}
}

// A handler that waits for a body that its caller does not send ends with an error.
func TestBlockedReads(t *testing.T) {
	for _, test := range []struct {
		name         string
		h2, withConn bool
	}{
		{"HTTP/1.1", false, true}, {"HTTP/1.1 by deadlines", false, false}, {"HTTP/2", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newWire(t, test.h2, test.withConn, func(_ http.ResponseWriter, r *http.Request) error {
				_, err := io.Copy(io.Discard, r.Body)
				return err
			})
			body, sender := io.Pipe()
			answered := make(chan error, 1)
			go func() {
				response, err := x.Client().Post(x.URL+"/a", "text/plain", body)
				if err == nil {
					err = response.Body.Close()
				}
				answered <- err
			}()
			_, err := io.WriteString(sender, "begun")
			if err != nil {
				t.Fatal(err)
			}
			within(t, "the call", func() error { <-x.begun; return nil })
			x.deny("a")
			err = within(t, "the handler", func() error { return <-x.errs })
			if err == nil {
				t.Error("handler: got a complete body; want its read to fail")
			}
			err = errors.Join(sender.Close(), within(t, "the caller", func() error { return <-answered }))
			if err == nil {
				t.Error("caller: got an answer; want an error")
			}
		})
	}
}

// A handler that looks at nothing is not ended by anything; its caller is cut off
// all the same.
func TestCallerIsCutOffFromADeafHandler(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			release := make(chan struct{})
			x := newWire(t, h2, true, func(w http.ResponseWriter, _ *http.Request) error {
				// The caller has the answer, and this may still see the end of the call.
				_ = http.NewResponseController(w).Flush()
				<-release
				_, err := w.Write([]byte("more"))
				if err == nil {
					return errors.New("a write after the end: got no error; want one")
				}
				return nil
			})
			denied := x.open(t, "a")
			x.deny("a")
			err := within(t, "the body", drain(denied.Body))
			if err == nil {
				t.Error("caller: got a complete body; want an error")
			}
			close(release)
			err = within(t, "the handler", func() error { return <-x.errs })
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Streams of others on the same HTTP/2 connection go on.
func TestSharedConnection(t *testing.T) {
	next := make(chan struct{})
	x := newWire(t, true, true, func(w http.ResponseWriter, r *http.Request) error {
		for {
			_, err := io.WriteString(w, "event\n")
			if err != nil {
				return err
			}
			err = http.NewResponseController(w).Flush()
			if err != nil {
				return err
			}
			select {
			case <-next:
			case <-r.Context().Done():
				return nil
			}
		}
	})
	mine, other := x.open(t, "a"), x.open(t, "b")
	x.deny("a")
	if err := within(t, "the body", drain(mine.Body)); err == nil {
		t.Error("got a complete body; want an error")
	}
	for range 3 {
		event := make([]byte, len("event\n"))
		if err := within(t, "the other", func() error { _, err := io.ReadFull(other.Body, event); return err }); err != nil {
			t.Fatalf("got %v; want the other stream open", err)
		}
		next <- struct{}{}
	}
}

// A connection that a handler took over is closed, also when its caller does not
// read: over TLS an orderly close would wait for it.
func TestTakenConnection(t *testing.T) {
	x := newWire(t, false, true, func(w http.ResponseWriter, _ *http.Request) error {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return err
		}
		defer conn.Close()
		for chunk := make([]byte, 64<<10); err == nil; {
			_, err = conn.Write(chunk)
		}
		return err
	})
	conn, err := tls.Dial("tcp", x.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadFull(conn, make([]byte, 1024))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	x.deny("a")
	err = within(t, "the handler", func() error { return <-x.errs })
	if took := time.Since(begun); err == nil || took > 4*time.Second {
		t.Errorf("got %v after %v; want an error at once", err, took)
	}
	_ = within(t, "the caller", drain(conn))
}

// slowToClose stands for a TLS connection whose caller does not read.
type slowToClose struct {
	net.Conn
	closed bool
}

func (s *slowToClose) Close() error {
	s.closed = true
	return s.Conn.Close()
}

func (s *slowToClose) NetConn() net.Conn { return s.Conn }

func TestCutGoesAroundAnOrderlyClose(t *testing.T) {
	conn, other := net.Pipe()
	outer := &slowToClose{Conn: conn}
	cut(outer)
	_, err := other.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) || outer.closed {
		t.Errorf("got %v, closed in order %t; want only the inner connection closed", err, outer.closed)
	}
	_ = other.Close()
}

// Nothing is taken over once the call was ended.
func TestHijackAfterTheEnd(t *testing.T) {
	x := newWire(t, false, true, func(w http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		_, _, err := http.NewResponseController(w).Hijack()
		return err
	})
	go func() {
		response, err := x.Client().Get(x.URL + "/a")
		if err == nil {
			response.Body.Close()
		}
	}()
	within(t, "the call", func() error { <-x.begun; return nil })
	x.deny("a")
	if err := within(t, "the handler", func() error { return <-x.errs }); err == nil {
		t.Error("got the connection; want an error")
	}
}
