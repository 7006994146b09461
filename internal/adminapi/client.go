package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/caddy-capif/aef/internal/revocation"
)

// ClientOptions say where the admin endpoint is.
type ClientOptions struct {
	// Address is how an operator knows it: it stands in errors.
	Address string
	// Host is the Host of requests, such as localhost:2019.
	Host string
	// Origin is sent as such if it is set: Caddy checks it where it is told to.
	Origin string
	// Dial connects to it, TCP or unix socket.
	Dial func(context.Context) (net.Conn, error)
}

// Client calls the admin API. Every error is a [*CallError], but for those of a
// context that ended. It is safe for concurrent use.
type Client struct {
	options ClientOptions
	http    *http.Client
}

// What a Caddy may take to answer: a trigger waits for trigger_timeout, which is the
// operator's to set.
const (
	readTimeout   = time.Minute
	changeTimeout = 10 * time.Minute
)

// How often, and after what time, a call is made again whose connection was cut.
const (
	tries    = 3
	tryAgain = 200 * time.Millisecond
)

// maxAnswer bounds an answer: a page of the largest records is below it.
const maxAnswer = 256 << 20

// NewClient makes a client. Close it.
func NewClient(options ClientOptions) *Client {
	return &Client{options: options, http: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return options.Dial(ctx) },
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     30 * time.Second,
	}}}
}

// Close ends the connections that no call uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	target := "http://" + c.options.Host + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, c.failed(KindFailed, err)
	}
	if c.options.Origin != "" {
		request.Header.Set("Origin", c.options.Origin)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

func (c *Client) failed(kind Kind, err error) error {
	return &CallError{Kind: kind, Address: c.options.Address, Err: err}
}

// call sends one request and decodes the answer; it returns the status. Where the
// connection is cut, as a reload of Caddy may cut it, it asks again what may be
// asked twice.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, into any) (int, error) {
	var data []byte
	if body != nil {
		var err error
		data, err = json.Marshal(body)
		if err != nil {
			return 0, c.failed(KindFailed, err)
		}
	}
	for try := 1; ; try++ {
		status, err := c.once(ctx, method, path, query, data, into)
		if try == tries || !isCut(err) || !repeatable(method, body) {
			return status, err
		}
		err = pause(ctx, tryAgain)
		if err != nil {
			return 0, err
		}
	}
}

// pause waits, and returns the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repeatable tells of a request that does the same once and twice: one that
// changes nothing, or a trigger that has a name.
func repeatable(method string, body any) bool {
	switch body := body.(type) {
	case *CheckRequest:
		return true
	case *RevocationRequest:
		return body.RequestID != ""
	}
	return method == http.MethodGet
}

// isCut tells of a connection that was there and ended before the answer did.
func isCut(err error) bool {
	var network *net.OpError
	if errors.As(err, &network) {
		return network.Op != "dial" && !network.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (c *Client) once(ctx context.Context, method, path string, query url.Values, body []byte, into any) (int, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	deadline := readTimeout
	if method != http.MethodGet {
		deadline = changeTimeout
	}
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	request, err := c.request(limited, method, path, query, reader)
	if err != nil {
		return 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, c.notAnswered(ctx, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, c.notAnswered(ctx, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return response.StatusCode, answered(c.options.Address, response, data)
	}
	err = json.Unmarshal(data, into)
	if err != nil {
		return response.StatusCode, &CallError{Kind: KindWrongAddress, Address: c.options.Address, Status: response.StatusCode, Err: err}
	}
	return response.StatusCode, nil
}

// notAnswered: a server that cannot be reached, or that answers something other than HTTP.
func (c *Client) notAnswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var dial *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return c.failed(KindFailed, errors.New("it does not answer: is its process stopped or overloaded? See its log"))
	case errors.As(err, &dial), isCut(err):
		return c.failed(KindUnreachable, unwrapURL(err))
	case strings.Contains(err.Error(), "malformed HTTP"), strings.Contains(err.Error(), "readLoopPeekFailLocked"):
		// The second is what net/http says of a server that speaks before it is
		// asked, as SSH does.
		return c.failed(KindWrongAddress, unwrapURL(err))
	default:
		return c.failed(KindFailed, unwrapURL(err))
	}
}

// unwrapURL leaves out the URL, which says nothing to an operator.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Revoke triggers a revocation. The status is 200 if the core has decided, 202 if
// not.
func (c *Client) Revoke(ctx context.Context, r *RevocationRequest) (*RevocationResponse, int, error) {
	answer := new(RevocationResponse)
	status, err := c.call(ctx, http.MethodPost, PathRevocations, nil, r, answer)
	return answer, status, err
}

// Revocation returns one revocation.
func (c *Client) Revocation(ctx context.Context, id string) (*revocation.Revocation, error) {
	answer := new(revocation.Revocation)
	_, err := c.call(ctx, http.MethodGet, PathRevocations+"/"+url.PathEscape(id), nil, nil, answer)
	return answer, err
}

// Filter selects records of a list. Zero fields select all.
type Filter struct {
	Invoker string
	API     string
	State   string // of revocations
	Action  string // of audit records
	Limit   int    // of one page
}

func (f *Filter) query(cursor, value string) url.Values {
	q := url.Values{}
	for name, value := range map[string]string{
		"api_invoker_id": f.Invoker, "api_id": f.API, "state": f.State, "action": f.Action, cursor: value,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// Revocations returns a page of revocations, newest first, before a sequence (0
// for the first page).
func (c *Client) Revocations(ctx context.Context, f Filter, before uint64) (*RevocationList, error) {
	answer := new(RevocationList)
	_, err := c.call(ctx, http.MethodGet, PathRevocations, f.query("before", number(before)), nil, answer)
	return answer, err
}

// Claims returns a page of claims after a cursor ("" for the first page).
func (c *Client) Claims(ctx context.Context, f Filter, after string) (*ClaimList, error) {
	answer := new(ClaimList)
	_, err := c.call(ctx, http.MethodGet, PathClaims, f.query("after", after), nil, answer)
	return answer, err
}

// Audit returns a page of audit records, newest first, before a sequence.
func (c *Client) Audit(ctx context.Context, f Filter, before uint64) (*AuditList, error) {
	answer := new(AuditList)
	_, err := c.call(ctx, http.MethodGet, PathAudit, f.query("before", number(before)), nil, answer)
	return answer, err
}

// Lift allows again what was denied.
func (c *Client) Lift(ctx context.Context, r *LiftRequest) (*LiftResponse, error) {
	answer := new(LiftResponse)
	_, err := c.call(ctx, http.MethodPost, PathLifts, nil, r, answer)
	return answer, err
}

// Reconcile has every context read again.
func (c *Client) Reconcile(ctx context.Context, r *ReconcileRequest) (*ReconcileResponse, error) {
	answer := new(ReconcileResponse)
	_, err := c.call(ctx, http.MethodPost, PathReconcile, nil, r, answer)
	return answer, err
}

// Check asks what becomes of a call.
func (c *Client) Check(ctx context.Context, r *CheckRequest) (*CheckResponse, error) {
	answer := new(CheckResponse)
	_, err := c.call(ctx, http.MethodPost, PathCheck, nil, r, answer)
	return answer, err
}

// Status returns the state of the AEF.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	answer := new(Status)
	_, err := c.call(ctx, http.MethodGet, PathStatus, nil, nil, answer)
	return answer, err
}

// Event is one event of a watch: Data is the JSON of what its name says.
type Event struct {
	ID   string          `json:"id"`
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

const (
	watchRetry    = 100 * time.Millisecond
	watchRetryMax = 5 * time.Second
	// watchPatience is how long a Caddy may be up without the app: while it
	// starts, its admin endpoint answers before the configuration is in force.
	watchPatience = 30 * time.Second
	maxEvent      = 4 << 20
)

// Watch calls f with every event, in order, until ctx ends or f returns an error;
// it returns why it ended. A watch that breaks off, as at each reload, is taken up
// where it was; lost is told of it. after is the id of the event to go on after, ""
// to begin now. A Caddy that cannot be reached at the beginning is an error.
func (c *Client) Watch(ctx context.Context, after string, f func(Event) error, lost func(error)) error {
	w := &watching{client: c, after: after, f: f, lost: lost}
	for {
		err := w.connect(ctx)
		var call *CallError
		if !errors.As(err, &call) || !w.begun || time.Since(w.heard) > watchPatience ||
			(call.Kind != KindNotConfigured && call.Kind != KindUnavailable) {
			return err
		}
		lost(err)
		err = pause(ctx, watchRetry)
		if err != nil {
			return err
		}
	}
}

// watching is a watch with what it has come to.
type watching struct {
	client *Client
	after  string // the id of the last event
	begun  bool
	heard  time.Time // when something came last
	f      func(Event) error
	lost   func(error)
}

// connect follows the stream, over breaks, until there is an answer that is no
// stream.
func (w *watching) connect(ctx context.Context) error {
	c := w.client
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := c.request(ctx, http.MethodGet, PathWatch, nil, nil)
	if err != nil {
		return err
	}
	if w.after != "" {
		request.Header.Set("Last-Event-ID", w.after)
	}
	stream := sse.Client{
		HTTPClient: c.http,
		Backoff:    sse.Backoff{InitialInterval: watchRetry, Multiplier: 1.5, MaxInterval: watchRetryMax},
		OnRetry: func(err error, _ time.Duration) {
			if ctx.Err() != nil {
				return // this end broke it off
			}
			if w.begun {
				w.heard = time.Now()
				w.lost(err)
				return
			}
			cancel(c.notAnswered(ctx, connectionError(err)))
		},
		ResponseValidator: func(response *http.Response) error {
			if response.StatusCode == http.StatusOK && strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
				return nil
			}
			body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
			if err != nil {
				return err
			}
			return answered(c.options.Address, response, body)
		},
	}
	connection := stream.NewConnection(request)
	connection.Buffer(nil, maxEvent)
	connection.SubscribeToAll(func(e sse.Event) {
		if ctx.Err() != nil {
			return
		}
		err := w.f(Event{ID: e.LastEventID, Name: e.Type, Data: json.RawMessage(e.Data)})
		if err != nil {
			cancel(err)
			return
		}
		w.begun, w.heard, w.after = true, time.Now(), e.LastEventID
	})
	err = connection.Connect()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var call *CallError
	if errors.As(err, &call) {
		return call
	}
	return c.failed(KindFailed, fmt.Errorf("watching: %w", err))
}

func connectionError(err error) error {
	var e *sse.ConnectionError
	if errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}
