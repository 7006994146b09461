package streams

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
)

// Judge decides about a call in flight; *enforce.Decider does. It MUST NOT wait.
type Judge interface {
	Again(e *denycache.Entry) enforce.Reason
}

// Call is one that was allowed.
type Call struct {
	Judge Judge
	Entry *denycache.Entry
	// Grace is how long it may go on after it is no longer allowed. 0 ends it
	// at once.
	Grace time.Duration
	// Conn is the connection if it serves nothing but this call now, as over
	// HTTP/1.x; else nil.
	Conn net.Conn
}

func (c *Call) again() enforce.Reason { return c.Judge.Again(c.Entry) }

// errEnded is what a handler gets that goes on writing.
var errEnded = errors.New("the call was ended: its API invoker is no longer authorized")

// Stream is a call in flight, and the ResponseWriter that its handler must use.
type Stream struct {
	http.ResponseWriter
	call   Call
	cancel context.CancelFunc
	over   atomic.Bool // it was ended
	doomed atomic.Bool // it is in its grace

	list       *list
	prev, next *Stream // guarded by the list

	mu     sync.Mutex // held while the ResponseWriter may be touched by end
	closed bool
	taken  net.Conn // by a handler, for instance for WebSocket
}

// Open registers a call that was allowed and judges it once more. If that allows
// it, the handler must get the stream and the request that are returned, and
// [Stream.Close] must be called when it has returned. Else there is no stream, and
// the reason says why.
func (r *Registry) Open(w http.ResponseWriter, request *http.Request, call Call) (*Stream, *http.Request, enforce.Reason) {
	// Without a cause: reverse proxies know the plain context.Canceled as the end
	// of a call that is nobody's fault.
	ctx, cancel := context.WithCancel(request.Context())
	s := &Stream{ResponseWriter: w, call: call, cancel: cancel}
	r.add(s)
	reason := s.call.again()
	if reason != enforce.Allowed {
		s.Close()
		return nil, nil, reason
	}
	return s, request.WithContext(ctx), enforce.Allowed
}

// Close takes the call out when its handler has returned. It reports whether the
// call was ended: then what was sent must not look complete.
func (s *Stream) Close() bool {
	s.list.remove(s)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	return s.over.Load()
}

// Taken reports whether a handler has taken the connection over: net/http does
// nothing more with it.
func (s *Stream) Taken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken != nil
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// end ends the call unless it is over, and reports whether it did. It does not
// wait for the handler.
func (s *Stream) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.over.Swap(true) {
		return false
	}
	s.cancel()
	switch {
	case s.taken != nil:
		cut(s.taken)
		return true
	case s.call.Conn != nil:
		cut(s.call.Conn)
	}
	// Where a ResponseWriter knows no deadlines, the context has to do.
	controller := http.NewResponseController(s.ResponseWriter)
	_ = controller.SetWriteDeadline(past)
	_ = controller.SetReadDeadline(past)
	return true
}

// cut closes a connection without a word: a TLS close would wait for a caller that
// does not read.
func cut(c net.Conn) {
	for {
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner := outer.NetConn()
		if inner == nil {
			break
		}
		c = inner
	}
	_ = c.Close()
}

// Write fails once the call was ended, whatever becomes of deadlines.
func (s *Stream) Write(p []byte) (int, error) {
	if s.over.Load() {
		return 0, errEnded
	}
	return s.ResponseWriter.Write(p)
}

// ReadFrom keeps the fast path of what is wrapped.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	if s.over.Load() {
		return 0, errEnded
	}
	if from, ok := s.ResponseWriter.(io.ReaderFrom); ok {
		return from.ReadFrom(r)
	}
	return io.Copy(writeOnly{s}, r)
}

// writeOnly hides ReadFrom from io.Copy.
type writeOnly struct{ io.Writer }

// Push implements http.Pusher.
func (s *Stream) Push(target string, options *http.PushOptions) error {
	if pusher, ok := s.ResponseWriter.(http.Pusher); ok {
		return pusher.Push(target, options)
	}
	return http.ErrNotSupported
}

// Hijack hands the connection over and remembers it.
func (s *Stream) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.Load() {
		return nil, nil, errEnded
	}
	conn, buffered, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil {
		s.taken = conn
	}
	return conn, buffered, err
}

// Unwrap is for http.ResponseController.
func (s *Stream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

var (
	_ http.ResponseWriter = (*Stream)(nil)
	_ http.Hijacker       = (*Stream)(nil)
	_ http.Pusher         = (*Stream)(nil)
	_ io.ReaderFrom       = (*Stream)(nil)
	_ Judge               = (*enforce.Decider)(nil)
)
