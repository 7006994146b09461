package adminapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
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
