package caddyplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-capif/aef/internal/testbed"
)

// TestStreamsEndOverHTTP3: the stream is reset, the connection stays.
func TestStreamsEndOverHTTP3(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		a.MutualTLS = true
		a.OptionsExtra = fmt.Sprintf("servers %s {\n\tprotocols h1 h2 h3\n\tstrict_sni_host insecure_off\n}\n", a.API)
	})
	id, token := b.minted()
	identity, err := b.scene.Core.IssueInvoker(id)
	must(t, err)
	transport := &http3.Transport{TLSClientConfig: identity.ClientTLS(b.scene.Core.CA())}
	defer transport.Close()
	open := func(path, token string) (*stream, *http.Response) {
		ctx, cancel := context.WithCancel(b.ctx)
		request := b.request(ctx, path, token)
		request.URL.Scheme = "https"
		response, err := transport.RoundTrip(request)
		if err != nil || response.StatusCode != http.StatusOK {
			cancel()
			t.Fatalf("%s: got %v, %v; want 200", path, response, err)
		}
		buffer := make([]byte, 1024)
		return b.follow(func() error {
			_, err := response.Body.Read(buffer)
			return err
		}, cancel), response
	}
	mine, response := open("/location/sse", token)
	if response.ProtoMajor != 3 {
		t.Fatalf("got %s; want HTTP/3", response.Proto)
	}
	otherAPI, _ := open("/qos/sse", token)
	b.revoke(id)
	b.wantEnded(mine)
	if mine.err == io.EOF { //nolint:errorlint // the plain end of a complete body
		t.Error("got a body that looks complete; want an error")
	}
	b.settled(1)
	b.wantOpen(otherAPI)

	// A caller that does not read leaves the handler in a write.
	id, token = b.minted()
	request := b.request(b.ctx, "/location/flood", token)
	request.URL.Scheme = "https"
	response, err = transport.RoundTrip(request)
	must(t, err)
	defer response.Body.Close()
	b.poll(func() bool { return b.backend.open.Load() == 2 })
	b.revoke(id)
	b.settled(1)
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil {
		t.Errorf("got a complete body of %d bytes; want an error", n)
	}
	b.wantOpen(otherAPI)
}

// webSocketOverH2 opens a WebSocket by an extended CONNECT (RFC 8441 4) on an
// HTTP/2 connection of its own.
func (b *streamBed) webSocketOverH2(path, token string) *stream {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.aef.API)
	must(b.t, err)
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(b.t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(b.t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", http.MethodConnect}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", path}, {":authority", b.aef.API},
		{"sec-websocket-version", "13"}, {"authorization", "Bearer " + token},
	} {
		must(b.t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	must(b.t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	next := func() error {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return err
			}
			switch f := frame.(type) {
			case *http2.MetaHeadersFrame:
				if status := f.PseudoValue("status"); status != "200" {
					return fmt.Errorf("status %s", status)
				}
			case *http2.DataFrame:
				if f.StreamEnded() {
					return io.EOF
				}
				return nil
			case *http2.RSTStreamFrame:
				return http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode}
			case *http2.SettingsFrame:
				if !f.IsAck() {
					err = framer.WriteSettingsAck()
					if err != nil {
						return err
					}
				}
			}
		}
	}
	return b.follow(next, func() { _ = conn.Close() })
}

// TestStreamsEndWebSocketsOverHTTP2 (RFC 8441): Go's server takes an extended
// CONNECT only with this setting.
func TestStreamsEndWebSocketsOverHTTP2(t *testing.T) {
	t.Setenv("GODEBUG", "http2xconnect=1")
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams")
	id, token := b.minted()
	_, other := b.minted()
	mine, bystander := b.webSocketOverH2("/location/ws", token), b.webSocketOverH2("/location/ws", other)
	b.revoke(id)
	b.wantEnded(mine)
	reset, ok := mine.err.(http2.StreamError) //nolint:errorlint // as next returns it
	if !ok || reset.StreamID != 1 {
		t.Errorf("got %v; want the stream reset", mine.err)
	}
	b.settled(1)
	b.wantOpen(bystander)
}
