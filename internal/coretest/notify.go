package coretest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// errSwallowed is the end of a message that a fault kept from leaving.
var errSwallowed = errors.New("swallowed by an injected fault")

// message is one request that the core sends.
type message struct {
	operation string
	to        string // for the journal
	method    string
	url       string
	body      []byte
	chunked   bool // without Content-Length
	mutual    bool // with the core's certificate
	invokerID string
	aefID     string
	apiIDs    []string
	cause     string
}

// enlist counts the groups as running and returns those that may be sent; none are while closing.
func (c *Core) enlist(groups [][]message) [][]message {
	var begun [][]message
	for _, group := range groups {
		if len(group) > 0 && c.messages.begin() {
			begun = append(begun, group)
		}
	}
	return begun
}

// sendGroup sends one message after the other, whatever becomes of each: once, no retry.
func (c *Core) sendGroup(st *store, group []message) {
	defer c.messages.end()
	for _, m := range group {
		c.deliver(st, m)
	}
}

// deliver sends one notification, unless this is the dialect whose events a dead subscriber has ended.
func (c *Core) deliver(st *store, m message) {
	fragile := c.dialect.deadSubscriberEndsEvents && m.operation == OpNotifyEvent
	if fragile {
		c.mu.Lock()
		dead := st.eventsDead
		c.mu.Unlock()
		if dead {
			return
		}
	}
	_, _, err := c.send(c.ctx, m)
	if fragile && err != nil && !errors.Is(err, errSwallowed) {
		c.mu.Lock()
		st.eventsDead = true
		c.mu.Unlock()
	}
}

// send sends a message within NotifyTimeout and returns status and body of the answer.
func (c *Core) send(ctx context.Context, m message) (int, []byte, error) {
	start := time.Now()
	e := Event{
		Phase: PhaseRequest, Sent: true, From: "core", To: m.to, Operation: m.operation,
		Method: m.method, URL: m.url, InvokerID: m.invokerID, AEFID: m.aefID, APIIDs: m.apiIDs, Cause: m.cause,
		Body: m.body,
	}
	c.journal.add(e)
	status, answer, err := c.attempt(ctx, m)
	e.Phase, e.Status, e.Answer, e.Duration, e.Err = PhaseAnswer, status, answer, time.Since(start), err
	c.journal.add(e)
	if err != nil {
		c.log.Warn("core notification failed", "operation", m.operation, "to", m.to, "error", err)
	}
	return status, answer, err
}

// attempt is send with the fault, if any, that is in force for it.
func (c *Core) attempt(ctx context.Context, m message) (int, []byte, error) {
	in := c.faults.take(m.operation, m.invokerID, true)
	if in == nil {
		return c.roundTrip(ctx, m)
	}
	var (
		status int
		answer []byte
		err    error
	)
	if in.fault.Execute {
		status, answer, err = c.roundTrip(ctx, m)
	}
	goOn := in.pause(ctx)
	switch {
	case !goOn:
		return 0, nil, fmt.Errorf("send %s: %w", m.operation, ctx.Err())
	case in.fault.Drop:
		return 0, nil, errSwallowed
	case in.fault.Status != 0:
		return in.fault.Status, []byte(in.fault.Body), nil
	case !in.fault.Execute:
		return c.roundTrip(ctx, m)
	}
	return status, answer, err
}

func (c *Core) roundTrip(ctx context.Context, m message) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.NotifyTimeout)
	defer cancel()
	var body io.Reader = bytes.NewReader(m.body)
	if m.chunked {
		body = struct{ io.Reader }{body} // net/http cannot see its length
	}
	req, err := http.NewRequestWithContext(ctx, m.method, m.url, body)
	if err != nil {
		return 0, nil, fmt.Errorf("send %s: %w", m.operation, err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := c.anonymous
	if m.mutual {
		client = c.mutual
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("send %s: %w", m.operation, withoutURL(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return resp.StatusCode, answer, fmt.Errorf("send %s: read answer: %w", m.operation, err)
	}
	return resp.StatusCode, answer, nil
}

// withoutURL keeps the address out of the log: a subscriber's hint path is a secret.
func withoutURL(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		return inURL.Err
	}
	return err
}

// invokerMessage is step 6 of TS 23.222 8.23.3: the API invoker is told.
func (c *Core) invokerMessage(destination string, n SecurityNotification) message {
	n.AccessToken = "" // a credential; the invoker knows which APIs are meant
	return message{
		operation: OpNotifyInvoker, to: RoleInvoker + " " + n.APIInvokerID, method: http.MethodPost, url: destination,
		body: mustJSON(n), mutual: c.dialect.authenticatesItself,
		invokerID: n.APIInvokerID, aefID: n.AEFID, apiIDs: n.APIIDs, cause: n.Cause,
	}
}

// aefMessage is the request of TS 29.222 6.2.2.3 to an AEF, always with the core's certificate.
func (c *Core) aefMessage(aef AEF, n SecurityNotification) message {
	features := "0"
	if n.AccessToken != "" {
		features = "1" // CAPIF_Ext1
	}
	return message{
		operation: OpCallAEF, to: RoleAEF + " " + aef.ID, method: http.MethodPost,
		url:  strings.TrimRight(aef.CallbackURL, "/") + "/aef-security/v1/revoke-authorization",
		body: mustJSON(RevokeAuthorizationReq{RevokeInfo: n, SupportedFeatures: features}), mutual: true,
		invokerID: n.APIInvokerID, aefID: aef.ID, apiIDs: n.APIIDs, cause: n.Cause,
	}
}

// mustJSON encodes one of this package's own types: it cannot fail.
func mustJSON(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("coretest: encode %T: %v", v, err))
	}
	return body
}
