package caddyplugin_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// streamPause lies between two events of a stream of the service API.
const streamPause = 20 * time.Millisecond

// streamBackend is a service API that never ends a stream by itself.
type streamBackend struct {
	open atomic.Int64 // requests that are being served
	// pause between events; 0 sends the first one only.
	pause time.Duration
	// quit, once closed, ends all streams below /bare.
	quit chan struct{}
}

func (s *streamBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.open.Add(1)
	defer s.open.Add(-1)
	switch {
	case strings.HasSuffix(r.URL.Path, "/ws"):
		s.webSocket(w)
		return
	case strings.HasSuffix(r.URL.Path, "/flood"):
		w.WriteHeader(http.StatusOK)
		for chunk := make([]byte, 64<<10); r.Context().Err() == nil; {
			_, err := w.Write(chunk)
			if err != nil {
				return
			}
		}
		return
	case strings.HasSuffix(r.URL.Path, "/silent"):
		<-r.Context().Done()
		return
	case strings.HasSuffix(r.URL.Path, "/short"):
		_, _ = io.WriteString(w, "complete")
		return
	case strings.HasSuffix(r.URL.Path, "/upload"):
		_, _ = io.Copy(io.Discard, r.Body)
		return
	case strings.HasSuffix(r.URL.Path, "/sse"):
		w.Header().Set("Content-Type", "text/event-stream")
	}
	done := r.Context().Done()
	if strings.HasPrefix(r.URL.Path, "/bare/") {
		done = s.quit
	}
	s.events(done, func(event string) error {
		_, err := io.WriteString(w, event)
		if err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	})
}

// events sends until done is closed or sending fails.
func (s *streamBackend) events(done <-chan struct{}, send func(string) error) {
	var tick <-chan time.Time
	if s.pause > 0 {
		ticker := time.NewTicker(s.pause)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		err := send("data: event\n\n")
		if err != nil {
			return
		}
		select {
		case <-tick:
		case <-done:
			return
		}
	}
}

// webSocket sends text frames (RFC 6455 5.2, unmasked) and reads until the
// connection ends.
func (s *streamBackend) webSocket(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, buffered)
		close(done)
		_ = conn.Close()
	}()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	if err != nil {
		return
	}
	s.events(done, func(event string) error {
		_, err := conn.Write(append([]byte{0x81, byte(len(event))}, event...))
		return err
	})
}

// rawCodec sends bytes as they are: gRPC without generated code.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "raw" }

const grpcMethod = "/location.Events/Watch"

// serveGRPC serves a stream of events and returns its address.
func serveGRPC(t *testing.T, s *streamBackend) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		s.open.Add(1)
		defer s.open.Add(-1)
		s.events(stream.Context().Done(), func(event string) error {
			message := []byte(event)
			return stream.SendMsg(&message)
		})
		return stream.Context().Err()
	}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	return listener.Addr().String()
}

// streamBed is an AEF whose routes end calls in flight.
type streamBed struct {
	*bed
	aef     *testbed.AEF
	caddy   *testbed.Caddy
	backend *streamBackend
	h2      *http.Client // one that shares HTTP/2 connections
	number  int
}

func startStreams(t *testing.T, backend *streamBackend, endStreams string, set ...func(*testbed.AEF)) *streamBed {
	t.Helper()
	b := &streamBed{bed: newBedWith(t, coretest.Options{}, backend), backend: backend}
	b.aef = b.bed.aef("aef-a", testbed.Provider)
	b.aef.RouteExtra = "require_context off\n" + endStreams
	b.aef.OptionsExtra = fmt.Sprintf("servers %s {\n\tprotocols h1 h2 h2c\n}\n", b.aef.API)
	b.aef.SiteExtra = fmt.Sprintf("handle %s {\n\tcapif_enforce {\n\t\tapi_id %s\n\t\tapi_name %s\n\t\t%s\n\t}\n\treverse_proxy h2c://%s\n}\n",
		grpcMethod, b.aef.APIID, testbed.APIName, b.aef.RouteExtra, serveGRPC(t, backend))
	for _, change := range set {
		change(b.aef)
	}
	b.publish("aef-a")
	b.caddy = b.start(b.aef)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	b.h2 = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return b
}

// minted returns a new API invoker's id and token.
func (b *streamBed) minted() (string, string) {
	b.t.Helper()
	b.number++
	id := fmt.Sprint("inv-", b.number)
	token, err := b.scene.Core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: coretest.ScopeOf(b.aef.ID, testbed.APIName, testbed.OtherAPIName)})
	if err != nil {
		b.t.Fatal(err)
	}
	return id, token
}

// stream is a caller's end of a call in flight.
type stream struct {
	events atomic.Int64
	close  func()
	ended  chan struct{}
	// The rest is valid once ended is closed: when, and how.
	at  time.Time
	err error
}

// follow counts what next brings until it fails.
func follow(next func() error, closing func()) *stream {
	s := &stream{ended: make(chan struct{}), close: closing}
	go func() {
		defer close(s.ended)
		for s.err == nil {
			s.err = next()
			s.at = time.Now()
			if s.err == nil {
				s.events.Add(1)
			}
		}
	}()
	return s
}

func (b *streamBed) follow(next func() error, closing func()) *stream {
	s := follow(next, closing)
	b.t.Cleanup(func() { s.close(); <-s.ended })
	b.poll(func() bool { return s.events.Load() > 0 })
	return s
}

func (s *stream) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (b *streamBed) request(ctx context.Context, path, token string) *http.Request {
	b.t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.aef.API+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return request
}

// over opens a stream of events with a client.
func (b *streamBed) over(client *http.Client, path, token string) *stream {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	response, err := client.Do(b.request(ctx, path, token))
	if err != nil || response.StatusCode != http.StatusOK {
		cancel()
		b.t.Fatalf("stream %s: got %v, %v; want 200", path, response, err)
	}
	buffer := make([]byte, 1024)
	return b.follow(func() error {
		_, err := response.Body.Read(buffer)
		return err
	}, func() { cancel(); response.Body.Close() })
}

// webSocket opens one over HTTP/1.1.
func (b *streamBed) webSocket(path, token string) *stream {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.aef.API)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.webSocketOn(conn, path, token)
}

// webSocketOn opens one on a connection, which is its own from then on.
func (b *streamBed) webSocketOn(conn net.Conn, path, token string) *stream {
	b.t.Helper()
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %s\r\n\r\n",
		path, b.aef.API, token)
	if err != nil {
		b.t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		b.t.Fatalf("WebSocket: got %v, %v; want 101", response, err)
	}
	buffer := make([]byte, 1024)
	return b.follow(func() error {
		_, err := reader.Read(buffer)
		return err
	}, func() { _ = conn.Close() })
}

func (b *streamBed) grpc(token string) *stream {
	b.t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+b.aef.API,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(b.ctx, "authorization", "Bearer "+token)
	call, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, grpcMethod)
	if err == nil {
		err = errors.Join(call.SendMsg(new([]byte)), call.CloseSend())
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var message []byte
	var once sync.Once
	return b.follow(func() error { return call.RecvMsg(&message) }, func() { once.Do(func() { _ = connection.Close() }) })
}

// settled waits until so many streams are left, at the service API (requests there
// are cancelled) and in the registry.
func (b *streamBed) settled(left int) {
	b.t.Helper()
	b.poll(func() bool {
		if b.backend.open.Load() != int64(left) {
			return false
		}
		_, body, err := get2(b.bed, "http://"+b.aef.Admin+"/metrics")
		return err == nil && strings.Contains(body, fmt.Sprintf("\ncapif_streams %d\n", left))
	})
}
