package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// maxConfirmed is how often the core may say yes and still list the
// authorization before that is final.
const maxConfirmed = 2

// opRead names the read of a context in what is recorded.
const opRead = "read_context"

// exchange takes one revocation as far as the core's answers carry it, with
// these settings. It returns when to try again, or zero if there is nothing
// left to do.
func (o *Outbox) exchange(ctx context.Context, s *Settings, e *entry) time.Time {
	sequence := e.sequence
	if s == nil {
		return time.Now().Add(time.Second)
	}
	r, err := o.ledger.RevocationBySequence(sequence)
	if errors.Is(err, revocation.ErrNotFound) {
		return time.Time{}
	}
	if err != nil {
		return o.ledgerFailed(s, e, err)
	}
	e.damaged = 0
	if r.State != revocation.StatePending {
		if o.ledger.IsPending(sequence) {
			// The file shows a decision whose commit was answered with an
			// error: recovery may take it back.
			return o.ledgerFailed(s, e, revocation.ErrNotDurable)
		}
		return time.Time{}
	}
	x := &exchange{outbox: o, settings: s, entry: e, ctx: ctx, r: r}
	err = x.run()
	switch {
	case err == nil:
		return time.Time{}
	case ctx.Err() != nil:
		return time.Now() // pending in the ledger; the next start goes on
	case errors.Is(err, errLifted):
		return time.Time{}
	case x.coreErr != nil:
		return x.postpone()
	default:
		return o.ledgerFailed(s, e, err)
	}
}

// recordDamaged waits longer and longer for a record that cannot be read: only
// an operator mends it. One that is no longer pending is waited for by nobody.
func (o *Outbox) recordDamaged(s *Settings, e *entry, err error) time.Time {
	o.alarms.Raise(s.Logger, alarm.LedgerDamaged,
		fmt.Sprintf("the record of a revocation cannot be read (%v); stop, restore the ledger from a backup, start", err))
	if !o.ledger.IsPending(e.sequence) {
		return time.Time{}
	}
	e.damaged++
	return time.Now().Add(backoffDelay(e.damaged-1, 0))
}

// ledgerRetry is how soon an exchange is tried again that the ledger stopped.
const ledgerRetry = 2 * time.Second

func (o *Outbox) ledgerFailed(s *Settings, e *entry, err error) time.Time {
	if errors.Is(err, revocation.ErrDamaged) {
		return o.recordDamaged(s, e, err)
	}
	s.Logger.Debug("revocation waits for the ledger", "sequence", e.sequence, "error", err)
	return time.Now().Add(ledgerRetry)
}

// errLifted ends an exchange whose revocation is no longer pending.
var errLifted = errors.New("no longer pending")

// exchange is one run for one revocation.
type exchange struct {
	outbox   *Outbox
	settings *Settings
	entry    *entry
	ctx      context.Context //nolint:containedctx // lives as long as one run
	r        revocation.Revocation
	// coreErr is the answer that left the revocation pending.
	coreErr  *coreclient.Error
	rejected *coreclient.Error
	// readBack is what the last read said.
	readBack *revocation.Answer
	// unnamed tells that the context, as last read, has an entry without apiId.
	unnamed bool
}

func (x *exchange) run() error {
	for {
		listed, err := x.read()
		if err != nil {
			return err
		}
		if len(listed) == 0 && x.unnamed {
			return x.cannotAsk()
		}
		if len(listed) == 0 {
			return x.decideAbsent()
		}
		if x.r.Confirmed >= maxConfirmed {
			return x.decide(revocation.StateUnconfirmed)
		}
		err = x.record(revocation.Progress{ListedSent: true})
		if err != nil {
			return err
		}
		err = x.send(listed)
		if err != nil {
			return err
		}
		if x.rejected != nil {
			return x.decide(revocation.StateRejected)
		}
	}
}

// read returns the apiIds that this revocation concerns and that the context
// of the invoker lists. A 404 in the core's own words lists nothing.
func (x *exchange) read() ([]string, error) {
	x.unnamed = false
	answer, err := x.settings.Core.Context(x.ctx, x.r.InvokerID)
	if err == nil {
		apis := x.concerned(answer)
		x.readBack = &revocation.Answer{At: time.Now().UTC(), Operation: opRead, Status: 200, Detail: "not listed"}
		if len(apis) > 0 || x.unnamed {
			x.readBack.Detail = "listed"
		}
		return apis, nil
	}
	e := asCoreError(opRead, err)
	if e.Class() == coreclient.NotFound && e.InCoreShape {
		x.readBack = answerOf(e)
		return nil, nil
	}
	x.coreErr = e
	return nil, err
}

func (x *exchange) concerned(c coreclient.Context) []string {
	if !x.r.AllAPIs {
		if c.Lists(x.r.AEFID, x.r.APIID) {
			return []string{x.r.APIID}
		}
		return nil
	}
	var apis []string
	for _, entry := range c.Entries {
		if entry.AEFID != "" && entry.AEFID != x.r.AEFID {
			continue
		}
		if entry == (coreclient.Entry{}) {
			continue // covers nothing
		}
		if entry.APIID == "" {
			// The entry covers every API: ask for those that are served here.
			x.unnamed = true
			apis = append(apis, x.settings.APIs(x.r.AEFID)...)
			continue
		}
		apis = append(apis, entry.APIID)
	}
	return slices.Compact(slices.Sorted(slices.Values(apis)))
}

// cannotAsk leaves a revocation of all APIs pending: an entry without apiId
// still covers them, no route tells an apiId, and a request must name one
// (TS 29.222 8.5.4.2.5, apiIds). A route that comes later lets it go on.
func (x *exchange) cannotAsk() error {
	x.coreErr = &coreclient.Error{
		Op: opRead, Status: 200,
		Reason: "the context covers every API of " + x.r.AEFID + " and no route names an apiId to ask for",
	}
	x.outbox.alarms.Raise(x.settings.Logger, alarm.UnmappedAPI,
		fmt.Sprintf("revocation %s cannot be asked for: the security context covers every API of aef_id %s without naming one, and no route stands for an API of it; add a route with its api_id, or have it removed at the core", x.r.ID, x.r.AEFID))
	return x.coreErr
}

// send asks for each API in a request of its own: the one form that is exact
// and can be repeated with every core that is known.
func (x *exchange) send(apis []string) error {
	accepted, status, notFound := 0, 0, (*coreclient.Error)(nil)
	for _, api := range apis {
		if !x.outbox.ledger.IsPending(x.r.Sequence) {
			return errLifted
		}
		answered, err := x.settings.Core.Revoke(x.ctx, coreclient.RevokeRequest{
			Invoker: x.r.InvokerID, AEFID: x.r.AEFID, APIID: api, Cause: x.r.Cause, AllAEFs: x.r.AllAEFs,
		})
		if err == nil {
			accepted, status = accepted+1, answered
			continue
		}
		e := asCoreError("revoke", err)
		switch {
		case e.Class() == coreclient.NotFound && e.InCoreShape:
			notFound = e // nothing left to revoke; the read tells
		case e.Class() == coreclient.BadRequest:
			x.rejected = e // the others are asked for all the same
		default: // also the 404 of a proxy: it says nothing
			x.coreErr = e
			return err
		}
	}
	if x.rejected != nil {
		return nil
	}
	return x.recordSent(accepted, status, notFound)
}

// recordSent notes what the core answered to the requests, the last status of those
// that it accepted: none of them left anything to revoke, as the core has it.
func (x *exchange) recordSent(accepted, status int, notFound *coreclient.Error) error {
	p := revocation.Progress{Confirmed: true}
	if notFound != nil {
		p.Answer = answerOf(notFound)
	}
	if accepted == 0 {
		return x.record(p)
	}
	if notFound != nil {
		err := x.record(revocation.Progress{Answer: p.Answer})
		if err != nil {
			return err
		}
	}
	p.Answer = &revocation.Answer{
		At: time.Now().UTC(), Operation: "revoke", Status: status, Detail: fmt.Sprintf("%d requests accepted", accepted),
	}
	return x.record(p)
}

func (x *exchange) decideAbsent() error {
	if x.r.Listed && x.r.Sent {
		return x.decide(revocation.StateRevoked)
	}
	return x.decide(revocation.StateNoAuthorizationFound)
}

func (x *exchange) decide(state revocation.State) error {
	p := revocation.Progress{State: state, Answer: x.readBack}
	if x.rejected != nil {
		p.Answer = answerOf(x.rejected)
	}
	err := x.record(p)
	if err != nil {
		return err
	}
	log := x.settings.Logger
	args := []any{
		"revocation", x.r.ID, "api_invoker_id", x.r.InvokerID, "aef_id", x.r.AEFID, "api_id", x.r.APIID,
		"state", string(state),
	}
	log.Info("revocation decided", args...)
	x.outbox.alarms.Clear(log, alarm.CoreRefusesUs) // it has answered us
	if state == revocation.StateUnconfirmed {
		x.outbox.alarms.Raise(log, alarm.RevocationUnconfirmed,
			fmt.Sprintf("the core answered revocation %s as done and still lists the authorization; calls here stay blocked, other AEFs may let the API invoker in: see to it at the core", x.r.ID))
	}
	return nil
}

// record notes progress; the revocation may have been lifted meanwhile.
func (x *exchange) record(p revocation.Progress) error {
	deciding := p.State != ""
	after, err := x.outbox.ledger.Record(x.ctx, x.r.Sequence, p)
	if err != nil {
		return err
	}
	x.r = after
	if after.State != revocation.StatePending && (!deciding || after.State != p.State) {
		return errLifted
	}
	return nil
}

// postpone records the answer that decided nothing and says when to go on.
func (x *exchange) postpone() time.Time {
	delay := backoffDelay(x.r.Attempts, x.coreErr.RetryAfter)
	next := time.Now().Add(delay)
	err := x.record(revocation.Progress{NextAttempt: next, Answer: answerOf(x.coreErr)})
	log := x.settings.Logger
	if x.coreErr.Class() == coreclient.Refused {
		x.outbox.alarms.Raise(log, alarm.CoreRefusesUs,
			fmt.Sprintf("the core answered %d to this AEF's %s; check the client certificate and the AEF's registration at the core", x.coreErr.Status, x.coreErr.Op))
	}
	switch {
	case errors.Is(err, errLifted):
		return time.Time{}
	case err != nil:
		return x.outbox.ledgerFailed(x.settings, x.entry, err)
	}
	level := slog.LevelDebug
	if x.r.Attempts == 1 {
		level = slog.LevelWarn // one line for the change of state, not for each try
	}
	log.Log(x.ctx, level, "revocation pending, core did not decide",
		"revocation", x.r.ID, "attempts", x.r.Attempts, "status", x.coreErr.Status, "error", x.coreErr, "next_attempt", next.UTC())
	return next
}

func asCoreError(op string, err error) *coreclient.Error {
	var e *coreclient.Error
	if errors.As(err, &e) {
		return e
	}
	return &coreclient.Error{Op: op, Err: err}
}

func answerOf(e *coreclient.Error) *revocation.Answer {
	detail := e.Reason
	if e.Status == 0 {
		detail = "no answer"
	}
	return &revocation.Answer{At: time.Now().UTC(), Operation: e.Op, Status: e.Status, Detail: detail}
}
