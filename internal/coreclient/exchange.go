package coreclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	maxRedirects = 3
	// maxErrorBody bounds what is read of an answer that is not a success: enough for a reason.
	maxErrorBody = 64 << 10
)

// request is one message to the core.
type request struct {
	op, method, url string
	body            []byte // JSON; nil: none
}

// answer is what came back at the end of the redirects.
type answer struct {
	status  int
	header  http.Header
	body    []byte // bounded; of a success one byte more than maxBody at most
	readErr error  // body is what came before it
}

// exchange sends a request and follows 307 and 308. Its errors are *Error.
func (c *Core) exchange(ctx context.Context, r request) (answer, error) {
	began := time.Now()
	a, err := c.follow(ctx, r)
	status := a.status
	var failure *Error
	if errors.As(err, &failure) {
		status = failure.Status
	}
	c.observe(observed(r, status, a.header, time.Since(began)))
	return a, err
}

func (c *Core) follow(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout,
		fmt.Errorf("nothing came within %s: %w", c.timeout, context.DeadlineExceeded))
	defer cancel()
	pool := c.files.current()
	seen := map[string]bool{r.url: true}
	for hop := 0; ; hop++ {
		a, err := send(ctx, pool, r)
		if err != nil {
			return answer{}, &Error{Op: r.op, Err: err}
		}
		if a.status/100 != 3 {
			return a, nil
		}
		next, err := c.redirectTarget(r.url, a)
		if err == nil && seen[next] {
			err = errors.New("it leads in a circle")
		}
		if err == nil && hop == maxRedirects {
			err = fmt.Errorf("it is one more than the %d that are followed", maxRedirects)
		}
		if err != nil {
			failure := a.failure(r.op)
			failure.Reason = ""
			failure.Err = fmt.Errorf("redirect is not followed: %w", err)
			return answer{}, failure
		}
		seen[next] = true
		r.url = next
	}
}

// redirectTarget is the URL that a 3xx leads to (TS 29.222 7.7, TS 29.122 5.2.10), or why it is not used.
func (c *Core) redirectTarget(from string, a answer) (string, error) {
	if a.status != http.StatusTemporaryRedirect && a.status != http.StatusPermanentRedirect {
		return "", errors.New("only 307 and 308 keep a request as it is")
	}
	location := a.header.Get("Location")
	if location == "" {
		return "", errors.New("it has no Location")
	}
	base, err := url.Parse(from)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	target, err := base.Parse(location)
	if err != nil {
		return "", errors.New("its Location is no URL")
	}
	if target.Scheme != "https" {
		return "", fmt.Errorf("it leads to %s, not to https", clean(target.Scheme))
	}
	if !c.hosts[hostPort(target)] {
		return "", fmt.Errorf("it leads to %s, which is neither the core nor one of redirect_hosts", clean(hostPort(target)))
	}
	target.User = nil // nobody asked for these credentials to be used
	target.Fragment, target.RawFragment = "", ""
	return target.String(), nil
}

// send does one hop. A nil error means that a status came.
func send(ctx context.Context, pool *http.Transport, r request) (answer, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", "caddy-capif-aef")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := pool.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	limit := int64(maxErrorBody)
	if resp.StatusCode == http.StatusOK && r.method == http.MethodGet {
		limit = maxBody + 1
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	a.body, a.readErr = io.ReadAll(io.LimitReader(resp.Body, limit))
	return a, nil
}

// failure is the error for an answer that is not a success.
func (a answer) failure(op string) *Error {
	p := readProblem(a.header.Get("Content-Type"), a.status, a.body)
	return &Error{
		Op:          op,
		Status:      a.status,
		RetryAfter:  retryAfter(a.header.Get("Retry-After"), time.Now()),
		Reason:      p.reason,
		InCoreShape: p.coreShape,
	}
}
