package adminapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func clientOf(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	c := NewClient(ClientOptions{Address: address, Host: address, Origin: "http://" + address, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}})
	t.Cleanup(c.Close)
	return c
}

// TestSilentServer: a server that takes a request and says nothing is given up.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Address: "silent", Host: "silent", Dial: func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends when the client hangs up
			return ours, nil
		}})
		defer c.Close()
		started := time.Now()
		_, err := c.Status(t.Context())
		var call *CallError
		if !errors.As(err, &call) || !strings.Contains(err.Error(), "does not answer") || time.Since(started) != readTimeout {
			t.Errorf("got %v after %v; want to be told after %v", err, time.Since(started), readTimeout)
		}
	})
}

// TestCutConnections: what may be asked twice is asked again; a change is not, for
// it may have been made.
func TestCutConnections(t *testing.T) {
	status := func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err }
	for name, test := range map[string]struct {
		call func(context.Context, *Client) error
		cuts int // of the first connections
		want int // connections
		ok   bool
	}{
		"a read, once":      {status, 1, 2, true},
		"a read, twice":     {status, tries - 1, tries, true},
		"a read, each time": {status, tries, tries, false},
		"a check": {func(ctx context.Context, c *Client) error {
			_, err := c.Check(ctx, &CheckRequest{APIInvokerID: "inv"})
			return err
		}, 1, 2, true},
		"a named trigger": {func(ctx context.Context, c *Client) error {
			_, _, err := c.Revoke(ctx, &RevocationRequest{APIInvokerID: "inv", RequestID: "batch/1"})
			return err
		}, 1, 2, true},
		"a trigger": {func(ctx context.Context, c *Client) error {
			_, _, err := c.Revoke(ctx, &RevocationRequest{APIInvokerID: "inv"})
			return err
		}, 1, 1, false},
		"a lift": {func(ctx context.Context, c *Client) error {
			_, err := c.Lift(ctx, &LiftRequest{APIInvokerID: "inv"})
			return err
		}, 1, 1, false},
		"a reconcile": {func(ctx context.Context, c *Client) error {
			_, err := c.Reconcile(ctx, &ReconcileRequest{})
			return err
		}, 1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dialed := 0
				c := NewClient(ClientOptions{Address: "cut", Host: "cut", Dial: func(context.Context) (net.Conn, error) {
					ours, theirs := net.Pipe()
					dialed++
					cut := dialed <= test.cuts
					go answerOnce(theirs, cut)
					return ours, nil
				}})
				defer c.Close()
				err := test.call(t.Context(), c)
				var call *CallError
				switch {
				case test.ok && err != nil:
					t.Errorf("got %v; want an answer", err)
				case !test.ok && (!errors.As(err, &call) || call.Kind != KindUnreachable || !strings.Contains(err.Error(), "may have been done")):
					t.Errorf("got %v; want to be told that it may have been done", err)
				}
				if dialed != test.want {
					t.Errorf("connections: got %d; want %d", dialed, test.want)
				}
			})
		})
	}
}

// TestNobodyThere: whoever cannot connect is told at once, and that no Caddy answers.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed := 0
		c := NewClient(ClientOptions{Address: "nobody", Host: "nobody", Dial: func(context.Context) (net.Conn, error) {
			dialed++
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}})
		defer c.Close()
		_, err := c.Status(t.Context())
		if dialed != 1 || err == nil || !strings.Contains(err.Error(), "no Caddy answers") {
			t.Errorf("got %v after %d connections; want to be told after 1 that no Caddy answers", err, dialed)
		}
	})
}

// answerOnce reads a request and answers it, or hangs up.
func answerOnce(conn net.Conn, cut bool) {
	defer conn.Close()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, request.Body)
	if !cut {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
	}
}

func TestErrorsOfAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		status           int
		code, kind, body string
		want             Kind
		text             string
	}{
		"no app":            {404, CodeNotConfigured, "application/json", `{"error":"the capif app is not configured"}`, KindNotConfigured, "add the global option capif"},
		"no such record":    {404, CodeNotFound, "application/json", `{"error":"no revocation \"x\""}`, KindNotFound, `no revocation "x"`},
		"invalid":           {400, CodeInvalid, "application/json", `{"error":"cause is missing"}`, KindInvalid, "nothing was changed: cause is missing"},
		"a failing ledger":  {503, CodeUnavailable, "application/json", `{"error":"the outcome is unknown"}`, KindUnavailable, "the outcome is unknown"},
		"an internal error": {500, CodeInternal, "application/json", `{"error":"internal error; see the log"}`, KindFailed, "see the log"},
		"Caddy's own":       {403, "", "application/json", `{"error":"host not allowed: x"}`, KindFailed, "host not allowed"},
		"another server":    {404, "", "text/plain", "404 page not found", KindWrongAddress, "list-modules"},
		"another JSON API":  {404, "", "application/json", `{"error":"no route"}`, KindWrongAddress, "check --address"},
		"a page":            {200, "", "text/html", "<html>", KindWrongAddress, "check --address"},
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.kind)
				if test.code != "" {
					w.Header().Set(HeaderError, test.code)
				}
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			})
			_, err := c.Status(t.Context())
			var call *CallError
			if !errors.As(err, &call) || call.Kind != test.want || call.Status != test.status || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v; want kind %d with %q", err, test.want, test.text)
			}
		})
	}
}

// TestWatchGoesOn: over a stream that ends, a Caddy that is starting and so has no app
// yet, and a ledger that is not open yet; each time after the last event.
func TestWatchGoesOn(t *testing.T) {
	var asked atomic.Int32
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		switch n {
		case 2:
			w.Header().Set(HeaderError, CodeNotConfigured)
			w.WriteHeader(http.StatusNotFound)
			return
		case 3:
			w.Header().Set(HeaderError, CodeUnavailable)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "event: change\nid: %d-0\ndata: {\"after\":%q}\n\n", n, r.Header.Get("Last-Event-ID"))
	})
	var seen []string
	lost := 0
	enough := errors.New("enough")
	err := c.Watch(t.Context(), "0-0", func(e Event) error {
		seen = append(seen, e.ID+string(e.Data))
		if len(seen) == 3 {
			return enough
		}
		return nil
	}, func(error) { lost++ })
	want := `[1-0{"after":"0-0"} 4-0{"after":"1-0"} 5-0{"after":"4-0"}]`
	if !errors.Is(err, enough) || fmt.Sprint(seen) != want || lost < 3 {
		t.Errorf("got %v, %d breaks, %v; want %s", seen, lost, err, want)
	}
}

// TestWatchOfNothing: what is wrong at the beginning is an error at once.
func TestWatchOfNothing(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(HeaderError, CodeNotConfigured)
		w.WriteHeader(http.StatusNotFound)
	})
	var call *CallError
	err := c.Watch(t.Context(), "", func(Event) error { return nil }, func(error) {})
	if !errors.As(err, &call) || call.Kind != KindNotConfigured {
		t.Errorf("got %v; want kind %d", err, KindNotConfigured)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Status(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want %v", err, context.Canceled)
	}
}
