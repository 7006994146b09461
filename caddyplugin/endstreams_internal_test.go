package caddyplugin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/streams"
)

// TestStreamKeepsTheRequest: a placeholder that reads the body leaves it to the
// next handler, and what handles an error gets a context that goes on.
func TestStreamKeepsTheRequest(t *testing.T) {
	e := &Enforce{streams: streams.New(), decider: new(enforce.Decider), EndStreams: new(EndStreams)}
	defer e.streams.Stop()
	var epoch atomic.Uint64
	entry := &denycache.Entry{Invoker: "inv-1"}
	entry.Track(&epoch)
	entry.Stamp(0, denycache.Verdict(enforce.Allowed))

	repl := caddy.NewReplacer()
	w := httptest.NewRecorder()
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("body")), repl, w, nil)
	parent := r.Context()
	stream := e.openStream(w, r, &enforce.Decision{Reason: enforce.Allowed, Entry: entry})
	if stream == nil {
		t.Fatal("got no stream; want one")
	}
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		if got := repl.ReplaceAll("{http.request.body}", ""); got != "body" {
			t.Errorf("placeholder: got %q; want the body", got)
		}
		if got, err := io.ReadAll(r.Body); string(got) != "body" || err != nil {
			t.Errorf("handler: got %q, %v; want the body", got, err)
		}
		if r.Context() == parent {
			t.Error("got the context of the server; want one that ends with the stream")
		}
		return caddyhttp.Error(http.StatusBadGateway, io.EOF)
	})
	err := serveStream(stream, r, parent, next)
	if err == nil || r.Context().Err() != nil {
		t.Errorf("after the call: got %v, context %v; want the error and a context that goes on", err, r.Context().Err())
	}
}
