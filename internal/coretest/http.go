package coretest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxBody bounds a request; the largest honest one is a context with some hundred entries.
const maxBody = 1 << 20

// caller is who the client certificate says is calling.
type caller struct {
	certified bool
	role, id  string
}

func (c caller) String() string {
	if !c.certified {
		return "a caller without certificate"
	}
	return c.role + " " + c.id
}

// request is one call of an operation, its body read.
type request struct {
	http      *http.Request
	st        *store // of the listener it came in at
	operation string
	id        string // the apiInvokerId, subscriberId or API id of the path
	body      []byte
	caller    caller
}

// reply is what an operation answers, and what it causes.
type reply struct {
	status int
	header http.Header
	body   []byte
	drop   bool        // no answer: the connection is closed
	note   string      // what changed; empty: nothing
	after  [][]message // sent after the answer: groups side by side, each group in order
}

type operation func(*request) reply

// handler routes the requests of one listener.
func (c *Core) handler(st *store) http.Handler {
	mux := http.NewServeMux()
	route := func(pattern, name string, op operation) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.exchange(w, r, st, name, op) })
	}
	const (
		security      = "/capif-security/v1"
		trusted       = security + "/trustedInvokers/{id}"
		subscriptions = "/capif-events/v1/{id}/subscriptions"
	)
	route("POST "+security+"/securities/{id}/token", OpToken, c.token)
	route("PUT "+trusted, OpPutContext, c.putContext)
	route("GET "+trusted, OpGetContext, c.getContext)
	route("DELETE "+trusted, OpDeleteContext, c.deleteContext)
	route("POST "+trusted+"/update", OpUpdateContext, c.updateContext)
	route("POST "+trusted+"/delete", OpRevoke, c.revoke)
	route("POST "+subscriptions, OpSubscribe, c.subscribe)
	route("PUT "+subscriptions+"/{sub}", OpResubscribe, c.resubscribe)
	route("DELETE "+subscriptions+"/{sub}", OpUnsubscribe, c.unsubscribe)
	route("GET /access-control-policy/v1/accessControlPolicyList/{id}", OpGetPolicies, c.getPolicies)
	if c.dialect.jwksPath != "" {
		route("GET "+c.dialect.jwksPath, OpJWKS, c.jwks)
	}
	route("/", OpUnknown, func(*request) reply { return c.dialect.fail(http.StatusNotFound, "no such resource") })
	return mux
}

// exchange runs one operation: journal, faults, answer, and then the messages that it caused.
func (c *Core) exchange(w http.ResponseWriter, r *http.Request, st *store, name string, op operation) {
	if !c.requests.begin() {
		panic(http.ErrAbortHandler) // closing
	}
	defer c.requests.end()
	start := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	rq := &request{http: r, st: st, operation: name, id: r.PathValue("id"), body: body, caller: callerOf(r)}
	e := rq.event()
	c.journal.add(e)

	var rep reply
	if err != nil {
		rep = c.unreadable(err)
	} else {
		rep = c.execute(rq, op, e)
	}
	// Counted before the answer: who has the answer and calls Quiesce waits for these messages.
	groups := c.enlist(rep.after)
	e.Phase, e.Status, e.Answer, e.Duration = PhaseAnswer, rep.status, rep.body, time.Since(start)
	c.journal.add(e)
	if !rep.drop {
		write(w, rep)
	}
	for _, group := range groups {
		go c.sendGroup(st, group) // ends with its last message or c.ctx; Close waits for c.messages
	}
	if rep.drop {
		panic(http.ErrAbortHandler)
	}
}

// execute runs the operation with the fault, if any, that is in force for it.
func (c *Core) execute(rq *request, op operation, e Event) reply {
	in := c.faults.take(rq.operation, e.InvokerID, false)
	var rep reply
	run := func() {
		rep = op(rq)
		if rep.note != "" {
			e.Phase, e.Note = PhaseState, rep.note
			c.journal.add(e)
			c.log.Info("core state changed", "operation", rq.operation, "api_invoker_id", e.InvokerID, "change", rep.note)
		}
	}
	if in == nil {
		run()
		return rep
	}
	if in.fault.Execute {
		run()
	}
	goOn := in.pause(c.ctx)
	switch {
	case !goOn:
		return reply{drop: true}
	case in.fault.Drop:
		return reply{drop: true, after: rep.after}
	case in.fault.Status != 0:
		faulty := in.answer(c.dialect)
		faulty.after = rep.after
		return faulty
	case !in.fault.Execute:
		run()
	}
	return rep
}

func (c *Core) unreadable(err error) reply {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return c.dialect.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit))
	}
	return c.dialect.fail(http.StatusBadRequest, "the body could not be read")
}

func write(w http.ResponseWriter, rep reply) {
	for name, values := range rep.header {
		w.Header()[name] = values
	}
	if rep.status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(rep.body)))
	}
	w.WriteHeader(rep.status)
	// A caller that has gone away is no fault of the core.
	_, _ = w.Write(rep.body)
	_ = http.NewResponseController(w).Flush()
}

func callerOf(r *http.Request) caller {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return caller{}
	}
	subject := r.TLS.VerifiedChains[0][0].Subject
	who := caller{certified: true, id: subject.CommonName}
	if len(subject.OrganizationalUnit) > 0 {
		who.role = subject.OrganizationalUnit[0]
	}
	return who
}

// event describes the request for the journal. What the body says is read without judging it.
func (rq *request) event() Event {
	e := Event{
		Phase: PhaseRequest, From: rq.caller.String(), To: "core", Operation: rq.operation,
		Method: rq.http.Method, URL: rq.http.URL.RequestURI(), Header: rq.http.Header.Clone(), Body: rq.body,
	}
	switch rq.operation {
	case OpToken, OpPutContext, OpGetContext, OpDeleteContext, OpUpdateContext:
		e.InvokerID = rq.id
	case OpRevoke:
		e.InvokerID = rq.id
		var n SecurityNotification
		if json.Unmarshal(rq.body, &n) == nil {
			e.AEFID, e.APIIDs, e.Cause = n.AEFID, n.APIIDs, n.Cause
		}
	case OpSubscribe, OpResubscribe, OpUnsubscribe:
		e.AEFID = rq.id
	case OpGetPolicies:
		e.AEFID, e.APIIDs = rq.http.URL.Query().Get("aef-id"), []string{rq.id}
	}
	return e
}

func jsonReply(status int, v any) reply {
	return reply{status: status, body: mustJSON(v), header: http.Header{"Content-Type": {"application/json"}}}
}

func problem(status int, detail string, invalid ...InvalidParam) reply {
	rep := jsonReply(status, ProblemDetails{
		Title: http.StatusText(status), Status: status, Detail: detail, InvalidParams: invalid,
	})
	rep.header.Set("Content-Type", "application/problem+json")
	return rep
}

func noContent() reply { return reply{status: http.StatusNoContent, header: http.Header{}} }

// admit checks who calls: nil, or the answer that refuses. With ownID the caller's id must be this one.
func (c *Core) admit(rq *request, role, ownID string) *reply {
	d := c.dialect
	if !d.authenticates {
		return nil
	}
	var refusal reply
	switch {
	case !rq.caller.certified:
		refusal = d.noCertificate()
	case d.refusesBearer && rq.http.Header.Get("Authorization") != "":
		refusal = d.wrongRole("an Authorization header beside a client certificate")
	case d.roleOf(rq.caller) != role:
		refusal = d.wrongRole(fmt.Sprintf("this operation is for the role %s", role))
	case ownID != "" && ownID != rq.caller.id:
		refusal = d.wrongRole(fmt.Sprintf("the certificate is of %s, not of %s", rq.caller.id, ownID))
	default:
		return nil
	}
	return &refusal
}
