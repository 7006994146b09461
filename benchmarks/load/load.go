// Package load calls a server over a fixed number of keep-alive connections and
// notes how long each call took. It writes requests that were made beforehand and
// lets fasthttp parse the answers, so that it takes little of the machine it
// shares with what is measured.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	dialTimeout = 5 * time.Second
	callTimeout = 10 * time.Second
)

// Options of a load. All are required but Rate.
type Options struct {
	Address     string
	Connections int
	Duration    time.Duration
	// Rate is how many calls a second begin, over all connections together; 0
	// means that each begins when the one before has ended (saturating).
	Rate float64
	// Requests are whole requests, as Request makes them. The connections
	// take them in turn.
	Requests [][]byte
	// First is the request to begin with.
	First int
}

// Result of a load.
type Result struct {
	// Served counts calls that were answered 200, Failed all others.
	Served, Failed int
	// FirstFailure says what one of Failed was.
	FirstFailure error
	// Reconnects counts calls that began on a connection which the server had
	// closed, and were made again on a new one.
	Reconnects int
	Elapsed    time.Duration
	// Latencies of served calls, in seconds. With a Rate they count from the
	// moment the call was due if its connection was still busy then, so a
	// server that stalls does not hide the calls it held up.
	Latencies []float64
}

// Request returns the bytes of a GET with a bearer token; "" sends none.
func Request(host, path, token string) []byte {
	head := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: capif-bench\r\n"
	if token != "" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	return []byte(head + "\r\n")
}

// Run makes the calls. It returns early, without an error, when ctx ends.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Connections < 1 || len(o.Requests) == 0 {
		return Result{}, fmt.Errorf("load: %d connections and %d requests; give at least one of each", o.Connections, len(o.Requests))
	}
	begin := time.Now()
	ctx, cancel := context.WithDeadline(ctx, begin.Add(o.Duration))
	defer cancel()
	callers := make([]caller, o.Connections)
	var all sync.WaitGroup
	for i := range callers {
		c := &callers[i]
		c.options, c.number, c.begin = &o, i, begin
		all.Go(func() { c.run(ctx) })
	}
	all.Wait()
	sum := Result{Elapsed: time.Since(begin)}
	for i := range callers {
		r := &callers[i].result
		sum.Served += r.Served
		sum.Failed += r.Failed
		sum.Reconnects += r.Reconnects
		sum.Latencies = append(sum.Latencies, r.Latencies...)
		if sum.FirstFailure == nil {
			sum.FirstFailure = r.FirstFailure
		}
	}
	return sum, nil
}

// caller is one connection.
type caller struct {
	options *Options
	number  int
	begin   time.Time
	result  Result

	conn     net.Conn
	reader   *bufio.Reader
	response fasthttp.Response
}

func (c *caller) run(ctx context.Context) {
	defer c.hangUp()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		start, ok := c.wait(ctx, timer, n)
		if !ok {
			return
		}
		request := c.options.Requests[(c.options.First+c.number+n*c.options.Connections)%len(c.options.Requests)]
		err := c.call(ctx, request)
		if err != nil {
			c.result.Failed++
			if c.result.FirstFailure == nil {
				c.result.FirstFailure = err
			}
			continue
		}
		c.result.Served++
		c.result.Latencies = append(c.result.Latencies, time.Since(start).Seconds())
	}
}

// wait returns the moment from which call n counts, or false at the end.
func (c *caller) wait(ctx context.Context, timer *time.Timer, n int) (time.Time, bool) {
	if c.options.Rate <= 0 {
		return time.Now(), ctx.Err() == nil
	}
	position := float64(c.number) + float64(n)*float64(c.options.Connections)
	due := c.begin.Add(time.Duration(position / c.options.Rate * float64(time.Second)))
	if due.Sub(c.begin) >= c.options.Duration {
		return due, false
	}
	early := time.Until(due)
	if early <= 0 {
		return due, ctx.Err() == nil
	}
	timer.Reset(early)
	select {
	case <-ctx.Done():
		return due, false
	case <-timer.C:
		return time.Now(), true // late by the timer's doing, not by the server's
	}
}

// call sends one request. A server may close an idle connection at any moment,
// as Caddy does when it reloads: a call that got no answer at all is made once
// more on a new one.
func (c *caller) call(ctx context.Context, request []byte) error {
	fresh := c.conn == nil
	err := c.try(ctx, request)
	if err == nil || fresh || !errors.Is(err, errNoAnswer) {
		return err
	}
	c.result.Reconnects++
	return c.try(ctx, request)
}

var errNoAnswer = errors.New("the connection ended without an answer")

func (c *caller) try(ctx context.Context, request []byte) error {
	if c.conn == nil {
		// A call that has begun ends, within its own limits.
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.WithoutCancel(ctx), "tcp", c.options.Address)
		if err != nil {
			return err
		}
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	err := c.conn.SetDeadline(time.Now().Add(callTimeout))
	if err == nil {
		_, err = c.conn.Write(request)
	}
	if err == nil {
		_, err = c.reader.Peek(1)
	}
	if err != nil {
		c.hangUp()
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	err = c.response.Read(c.reader)
	if err != nil {
		c.hangUp()
		return fmt.Errorf("reading the answer: %w", err)
	}
	if c.response.ConnectionClose() {
		c.hangUp()
	}
	if status := c.response.StatusCode(); status != fasthttp.StatusOK {
		return fmt.Errorf("got %d: %.200s", status, c.response.Body())
	}
	return nil
}

func (c *caller) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close() // everything that counts was read
		c.conn = nil
	}
}
