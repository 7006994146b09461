package caddyplugin_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/testbed"
)

// overTLS sends requests that name http to https.
type overTLS struct{ *http.Transport }

func (o overTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "https"
	return o.Transport.RoundTrip(r)
}

// streamRoute is a route of the API location with a path of its own.
func streamRoute(a *testbed.AEF, path, endStreams, rest string) string {
	return fmt.Sprintf("handle %s {\n\tcapif_enforce {\n\t\tapi_id %s\n\t\tapi_name %s\n\t\trequire_context off\n\t\t%s\n\t}\n\t%s\n}\n",
		path, a.APIID, testbed.APIName, endStreams, rest)
}

// TestStreamsEndOverTLS: as it is in production.
func TestStreamsEndOverTLS(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		a.MutualTLS = true
		a.OptionsExtra = fmt.Sprintf("servers %s {\n\tprotocols h1 h2\n\tstrict_sni_host insecure_off\n}\n", a.API)
	})
	identity, err := b.scene.Core.IssueInvoker("inv-tls")
	must(t, err)
	config := identity.ClientTLS(b.scene.Core.CA())
	h1, h2 := overTLS{&http.Transport{TLSClientConfig: config.Clone()}}, overTLS{&http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}}
	defer h1.CloseIdleConnections()
	defer h2.CloseIdleConnections()
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp", b.aef.API, config)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	_, other := b.minted()
	bystander := b.over(&http.Client{Transport: h2}, "/location/sse", other)
	for _, kind := range []struct {
		name string
		open func(token string) *stream
		may  func(error) bool // look complete
	}{
		{"event stream over HTTP/1.1", func(token string) *stream { return b.over(&http.Client{Transport: h1}, "/location/sse", token) }, isEOF},
		{"event stream over HTTP/2", func(token string) *stream { return b.over(&http.Client{Transport: h2}, "/location/sse", token) }, isEOF},
		{"WebSocket", func(token string) *stream { return b.webSocketOn(dial(), "/location/ws", token) }, func(error) bool { return false }},
	} {
		id, token := b.minted()
		s := kind.open(token)
		b.revoke(id)
		b.wantEnded(s)
		if kind.may(s.err) {
			t.Errorf("%s: got %v; want an error that shows the stream is not complete", kind.name, s.err)
		}
	}
	b.settled(1)

	id, token := b.minted()
	const deaf = 10 // callers that do not read
	for range deaf {
		_, err = fmt.Fprintf(dial(), "GET /location/flood HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", b.aef.API, token)
		must(t, err)
	}
	b.poll(func() bool { return b.backend.open.Load() == 1+deaf })
	begun := time.Now()
	b.revoke(id)
	b.settled(1)
	if took := time.Since(begun); took > 4*time.Second { // crypto/tls waits 5 s for an alert
		t.Errorf("callers that do not read: got them ended after %v; want it at once", took)
	}
	b.wantOpen(bystander)
}

// TestStreamsEndBeforeTheAnswer: a call that is not answered yet, and one that is
// still sending, are cut off and not answered.
func TestStreamsEndBeforeTheAnswer(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams")
	h1 := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // a connection that is used again has it tried again
	for _, tt := range []struct {
		name, path string
		client     *http.Client
		sends      bool
	}{
		{"HTTP/1.1", "/location/silent", h1, false},
		{"HTTP/2", "/location/silent", b.h2, false},
		{"HTTP/1.1, sending", "/location/upload", h1, true},
		{"HTTP/2, sending", "/location/upload", b.h2, true},
	} {
		id, token := b.minted()
		request := b.request(b.ctx, tt.path, token)
		body, sender := io.Pipe()
		if tt.sends {
			request.Method, request.Body = http.MethodPost, body
			go func() { _, _ = io.WriteString(sender, "begun") }()
		}
		answered := make(chan error, 1)
		go func() {
			response, err := tt.client.Do(request)
			if err == nil {
				err = response.Body.Close()
				t.Errorf("%s: got %d; want no answer", tt.name, response.StatusCode)
			}
			answered <- err
		}()
		b.poll(func() bool { return b.backend.open.Load() == 1 })
		b.revoke(id)
		b.settled(0)
		must(t, sender.Close()) // Go's client waits for it
		select {
		case <-answered:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: got the call in flight; want it ended", tt.name)
		}
	}
}

// TestStreamsEndWhateverTheProxySays: settings of reverse_proxy about streams
// change nothing.
func TestStreamsEndWhateverTheProxySays(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		a.SiteExtra += streamRoute(a, "/location/proxied/*", "end_streams", "reverse_proxy "+a.BackendAddress+" {\n\t\tflush_interval -1\n\t\tstream_close_delay 1h\n\t}")
	})
	id, token := b.minted()
	webSocket, events := b.webSocket("/location/proxied/ws", token), b.over(http.DefaultClient, "/location/proxied/sse", token)
	b.revoke(id)
	b.wantEnded(webSocket)
	b.wantEnded(events)
	b.settled(0)
}

// TestStreamsEndBelowOtherHandlers: Caddy's own modules wrap the ResponseWriter and
// unwrap it again. Only deadlines end a write that a caller over HTTP/2 blocks.
func TestStreamsEndBelowOtherHandlers(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		const around = "encode gzip\n\tintercept {\n\t\t@none status 599\n\t\thandle_response @none {\n\t\t\trespond 500\n\t\t}\n\t}\n\t"
		a.SiteExtra += "route /location/wrapped/* {\n\t" + around + streamRoute(a, "/location/wrapped/*", "end_streams", "reverse_proxy "+a.BackendAddress) + "}\n"
	})
	id, token := b.minted()
	response, err := b.h2.Do(b.request(b.ctx, "/location/wrapped/flood", token))
	must(t, err)
	defer response.Body.Close()
	b.poll(func() bool { return b.backend.open.Load() == 1 })
	b.revoke(id)
	b.settled(0)
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil {
		t.Errorf("got a complete body of %d bytes; want an error", n)
	}
}

// TestStreamsOfACallThatTriggers: a call that has its own API invoker revoked is in
// flight, too. It is ended, or within a grace answered.
func TestStreamsOfACallThatTriggers(t *testing.T) {
	const trigger = "capif_trigger {\n\t\tcause OVERLIMIT_USAGE\n\t\tunbound_triggers\n\t\twait\n\t}\n\t" // so that the block comes before the answer
	const onAnswer = "intercept {\n\t\thandle_response {\n\t\t\t" + trigger + "}\n\t}\n\t"
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		proxy := "reverse_proxy " + a.BackendAddress
		a.SiteExtra += streamRoute(a, "/location/at-once/*", "end_streams", trigger+proxy) +
			streamRoute(a, "/location/graced/*", "end_streams {\n\t\t\tgrace 5s\n\t\t}", trigger+proxy) +
			streamRoute(a, "/location/answered/*", "end_streams {\n\t\t\tgrace 5s\n\t\t}", onAnswer+proxy) +
			streamRoute(a, "/location/answering/*", "end_streams", proxy+" {\n\t\thandle_response {\n\t\t\t"+trigger+"copy_response\n\t\t}\n\t}")
	})
	for _, path := range []string{"/location/at-once/sse", "/location/answering/sse"} {
		_, token := b.minted()
		ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
		response, err := b.h2.Do(b.request(ctx, path, token))
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if err == nil || ctx.Err() != nil {
			t.Errorf("%s: got %v, %v; want the stream ended", path, err, ctx.Err())
		}
		cancel()
		b.settled(0)
	}
	for _, path := range []string{"/location/graced/short", "/location/answered/short"} {
		_, token := b.minted()
		response, err := b.h2.Do(b.request(b.ctx, path, token))
		must(t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || string(body) != "complete" {
			t.Errorf("%s: got %d %s, %v; want the answer of the service API", path, response.StatusCode, body, err)
		}
		b.want(b.aef, path, token, http.StatusForbidden)
	}
}
