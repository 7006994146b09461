package caddyplugin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/streams"
)

// EndStreams says how calls in flight are ended that are no longer allowed. What
// can be ended, and what cannot: docs/streams.md.
type EndStreams struct {
	// Grace is the time between the block and the end. A call that is allowed
	// again by then goes on. Default: 0, at once.
	Grace caddy.Duration `json:"grace,omitempty"`
}

func (s *EndStreams) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument %q: end_streams takes none, grace stands in its block", d.Val())
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "grace":
			return duration(d, &s.Grace)
		default:
			return unrecognized(d, "grace")
		}
	})
}

func (e *Enforce) provisionStreams(s *state) error {
	if e.EndStreams == nil {
		return nil
	}
	if e.EndStreams.Grace < 0 {
		return fmt.Errorf("grace of end_streams is %s; it must not be negative", time.Duration(e.EndStreams.Grace))
	}
	if e.Mode != modeMonitor {
		e.streams = s.streams
	}
	return nil
}

// connKey is the key under which the context of a request has its connection.
type connKey struct{}

// knowConnections has the server of a route name the connection of each call: over
// HTTP/1.x it is closed to end one. It must be called while the route is provisioned.
func knowConnections(ctx context.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	server.RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
		if ctx.Value(connKey{}) != nil { // another route of the server was first
			return ctx
		}
		return context.WithValue(ctx, connKey{}, c)
	})
}

// openStream registers a call that was allowed, so that it can be ended. A deny
// that came since the decision changes the decision.
//
// The request stays the same one, with another context: Caddy's placeholders hold
// it, and one that reads the body puts it back there.
func (e *Enforce) openStream(w http.ResponseWriter, r *http.Request, d *enforce.Decision) *streams.Stream {
	call := streams.Call{Judge: e.decider, Entry: d.Entry, Grace: time.Duration(e.EndStreams.Grace)}
	if r.ProtoMajor == 1 {
		call.Conn, _ = r.Context().Value(connKey{}).(net.Conn)
	}
	stream, request, reason := e.streams.Open(w, r, call)
	if stream == nil {
		d.Reason, d.Cached = reason, false
		return nil
	}
	*r = *request
	return stream
}

// serveStream serves a call that can be ended. The request gets back its context
// parent: what handles an error needs one that goes on.
func serveStream(s *streams.Stream, r *http.Request, parent context.Context, next caddyhttp.Handler) error { //nolint:revive // the context is not this call's own
	ended := false
	serve := func() error {
		defer func() { // also when next panics
			ended = s.Close()
			*r = *r.WithContext(parent)
		}()
		return next.ServeHTTP(s, r)
	}
	err := serve()
	switch {
	case !ended:
		return err
	case s.Taken():
		return nil // the connection is closed already, and nobody is there for an error
	default:
		// Resets an HTTP/2 or HTTP/3 stream and closes an HTTP/1.1 connection
		// without the last chunk.
		panic(http.ErrAbortHandler)
	}
}
