package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-capif/aef/internal/testbed"
)

// streamPath is where the service API answers with an event stream that does not
// end.
const streamPath = "/" + testbed.OtherAPIName + "/events"

// eventPause is between two events.
const eventPause = 2 * time.Millisecond

// serveAPI is the service API behind the AEFs.
func serveAPI(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != streamPath {
		fmt.Fprintf(w, "served %s\n", r.URL.Path)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	tick := time.NewTicker(eventPause)
	defer tick.Stop()
	for n := 1; ; n++ {
		_, err := fmt.Fprintf(w, "data: %d\n\n", n)
		if err != nil {
			return
		}
		err = flusher.Flush()
		if err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// eventStream is an open event stream of an API invoker.
type eventStream struct {
	invoker string
	events  chan struct{} // takes each event, if somebody waits for it
	ended   chan struct{}

	// What follows is set by the reader: read it after ended.
	at    time.Time
	count int
	err   error // io.EOF if the caller could take the stream for complete
}

// openStream opens an event stream; it is read until it ends, or ctx does. onEnd
// may be nil.
func openStream(ctx context.Context, aef *exposer, invoker, token string, onEnd func(*eventStream)) (*eventStream, error) {
	response, err := aef.Open(ctx, streamPath, token)
	if err != nil {
		return nil, fmt.Errorf("opening an event stream of %s at %s: %w", invoker, aef.ID, err)
	}
	kind := response.Header.Get("Content-Type")
	if response.StatusCode != http.StatusOK || kind != "text/event-stream" {
		_ = response.Body.Close()
		return nil, fmt.Errorf("opening an event stream of %s at %s: expected 200 and text/event-stream, got %d and %q", invoker, aef.ID, response.StatusCode, kind)
	}
	s := &eventStream{invoker: invoker, events: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		defer response.Body.Close()
		s.read(response.Body)
		if onEnd != nil && ctx.Err() == nil {
			onEnd(s)
		}
	}()
	return s, nil
}

func (s *eventStream) read(body io.Reader) {
	lines := bufio.NewReader(body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.at, s.err = time.Now(), err
			return
		}
		if !strings.HasPrefix(line, "data: ") {
			continue
		}
		s.count++
		select {
		case s.events <- struct{}{}:
		default:
		}
	}
}

// goesOn waits for further events.
func (s *eventStream) goesOn(ctx context.Context, events int) error {
	for range events {
		select {
		case <-s.events:
		case <-s.ended:
			return fmt.Errorf("event stream of %s: expected it to go on, but it ended: %w", s.invoker, s.err)
		case <-ctx.Done():
			return fmt.Errorf("event stream of %s: expected events, got none: %w", s.invoker, ctx.Err())
		}
	}
	return nil
}

// cutOff waits until the AEF has ended the stream, in a way that its caller cannot
// take for a complete one.
func (s *eventStream) cutOff(ctx context.Context) error {
	select {
	case <-s.ended:
	case <-ctx.Done():
		return fmt.Errorf("event stream of %s: expected it to end with the revoke, but it is open: %w", s.invoker, ctx.Err())
	}
	if errors.Is(s.err, io.EOF) {
		return fmt.Errorf("event stream of %s: expected it to be cut off, but it ended as a complete one does", s.invoker)
	}
	return nil
}
