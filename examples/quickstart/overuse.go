package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// overLimitType is the end of the problem type of a call over the total.
const overLimitType = "#over-limit"

// bystanderEvents is how many events the other API invoker's stream must still
// bring.
const bystanderEvents = 10

// overuse is the second act: nobody sends a command. One API invoker uses up what
// its policy allows, and the AEF triggers 8.23.3 by itself.
func (w *walk) overuse(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	var open []*eventStream
	defer func() {
		cancel()
		for _, s := range open {
			<-s.ended
		}
		w.story.procedure(time.Time{})
	}()

	w.out.heading(fmt.Sprintf("The second act, TS 23.222 8.23.1: %s exceeds its usage limit, and nobody sends a command", limitedID))
	w.out.line("  the limit is in " + w.kind.limitedBy())
	w.out.line("  calls come over plain HTTP here, so the route says unbound_triggers; over mutual TLS it would say bind client_certificate")
	token, err := w.authorizeLimited(ctx)
	if err != nil {
		return err
	}
	limited, err := openStream(ctx, w.a, limitedID, token, func(s *eventStream) {
		w.out.step("", w.story.since(s.at), w.a.ID, fmt.Sprintf("ends the event stream of %s, after %d events (end_streams)", s.invoker, s.count))
	})
	if err != nil {
		return err
	}
	open = append(open, limited)
	other, err := openStream(ctx, w.a, invokerID, w.token, nil)
	if err != nil {
		return err
	}
	open = append(open, other)
	for _, s := range open {
		err = s.goesOn(ctx, 1)
		if err != nil {
			return err
		}
		w.out.exchange(s.invoker+" -> "+w.a.ID, "GET "+streamPath+", an event stream that stays open", http.StatusOK)
	}
	err = w.useUp(ctx, token, allowedCalls-1) // the stream was the first
	if err != nil {
		return err
	}

	err = w.revokedByItself(ctx, token, limited, other)
	if err != nil {
		return err
	}
	err = w.onlyThat(ctx)
	if err != nil {
		return err
	}
	return other.goesOn(ctx, 1)
}

// revokedByItself is 8.23.3 with a call as the trigger.
func (w *walk) revokedByItself(ctx context.Context, token string, limited, other *eventStream) error {
	revoked, err := w.exceed(ctx, token)
	if err != nil {
		return err
	}
	err = limited.cutOff(ctx)
	if err != nil {
		return err
	}
	if limited.at.Before(w.triggered) {
		return fmt.Errorf("event stream of %s: expected it to end with the revoke, but it ended before call %d", limitedID, allowedCalls+1)
	}
	err = w.wantRevoked(ctx)
	if err != nil {
		return err
	}
	err = other.goesOn(ctx, bystanderEvents)
	if err != nil {
		return err
	}
	w.out.step("", w.story.since(time.Now()), w.a.ID, fmt.Sprintf("goes on with the event stream of %s: %d more events", invokerID, bystanderEvents))
	w.story.procedure(time.Time{})
	w.out.heading("Measured")
	since := func(at time.Time) string { return fmt.Sprintf("%7.1f ms", milliseconds(at.Sub(w.triggered))) }
	call := fmt.Sprintf("call %d until ", allowedCalls+1)
	w.out.measurements([]measurement{
		{call + "its refusal", since(w.answered)},
		{call + "the core's answer", since(revoked)},
		{call + limitedID + "'s stream ended", since(limited.at)},
	})
	return nil
}

// onlyThat: the revoke holds, and took away one API of one API invoker.
func (w *walk) onlyThat(ctx context.Context) error {
	w.out.heading("A new token does not help here either, and only this API was revoked, of " + limitedID + " only")
	token, err := w.limited.Token(ctx, w.limitedScope())
	if err != nil {
		return err
	}
	for _, call := range []struct {
		invoker, token, path string
		want                 int
	}{
		{limitedID, token, otherPath, http.StatusForbidden},
		{limitedID, token, path1, http.StatusOK},
		{invokerID, w.token, otherPath, http.StatusOK},
	} {
		err = w.callAs(ctx, call.invoker, call.token, call.path, call.want)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) limitedScope() string {
	return coretest.ScopeOf(w.a.ID, testbed.APIName, testbed.OtherAPIName)
}

// authorizeLimited returns the access token of the second API invoker.
func (w *walk) authorizeLimited(ctx context.Context) (string, error) {
	err := w.limited.PutContext(ctx, coretest.Entry(w.a.ID, w.a.APIID), coretest.Entry(w.a.ID, w.a.OtherAPIID))
	if err != nil {
		return "", err
	}
	return w.limited.Token(ctx, w.limitedScope())
}

// useUp makes calls that are all within the limit.
func (w *walk) useUp(ctx context.Context, token string, calls int) error {
	for n := range calls {
		status, body, err := w.a.Call(ctx, otherPath, token)
		if err != nil {
			return fmt.Errorf("call %s at %s: %w", otherPath, w.a.ID, err)
		}
		if status != http.StatusOK {
			return fmt.Errorf("call %s at %s, %d of %d within the limit: expected 200, got %d %s", otherPath, w.a.ID, n+1, calls, status, body)
		}
	}
	if n := w.revokesOfLimited(); len(n) != 0 {
		return fmt.Errorf("at the limit: expected no revoke before it is exceeded, got %d", len(n))
	}
	w.out.exchange(limitedID+" -> "+w.a.ID, fmt.Sprintf("GET %s, %d times; with the stream %d of %d calls", otherPath, calls, calls+1, allowedCalls), http.StatusOK)
	return nil
}

// exceed makes the call that is one too many, and returns when the core had answered
// the revoke that it caused.
func (w *walk) exceed(ctx context.Context, token string) (time.Time, error) {
	w.out.heading(fmt.Sprintf("TS 23.222 8.23.3: call %d is one too many, and %s revokes by itself", allowedCalls+1, w.a.ID))
	w.triggered = time.Now()
	w.story.procedure(w.triggered)
	w.out.step("1", 0, limitedID+" -> "+w.a.ID, fmt.Sprintf("GET %s, call %d of %d", otherPath, allowedCalls+1, allowedCalls))
	status, body, err := w.a.Call(ctx, otherPath, token)
	w.answered = time.Now()
	if err != nil {
		return time.Time{}, fmt.Errorf("call over the limit at %s: %w", w.a.ID, err)
	}
	if !isRefusal(status, body, overLimitType) {
		return time.Time{}, fmt.Errorf("call over the limit at %s: expected 403 %s, got %d %s", w.a.ID, overLimitType, status, body)
	}
	w.out.step("", w.answered.Sub(w.triggered), w.a.ID+" -> "+limitedID, w.out.status(status)+", all calls used")
	answer, err := w.scene.Core.WaitFor(ctx, func(e coretest.Event) bool {
		return e.Operation == coretest.OpRevoke && e.Phase == coretest.PhaseAnswer && e.InvokerID == limitedID
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("step 4 of %s's own revoke: %w", w.a.ID, err)
	}
	if answer.Cause != coretest.CauseOverlimit || answer.Status < 200 || answer.Status > 299 {
		return time.Time{}, fmt.Errorf("%s's own revoke: expected cause %s, answered 2xx; got %s and %d", w.a.ID, coretest.CauseOverlimit, answer.Cause, answer.Status)
	}
	return answer.Time, nil
}

// wantRevoked checks what the revoke came to: in the AEF's ledger, at the core, and
// at the API invoker. It does not wait for events to the AEFs: one that announces the
// revoke after others may take a second, since an AEF acts on one hint a second.
func (w *walk) wantRevoked(ctx context.Context) error {
	err := w.wantInLedger(ctx)
	if err != nil {
		return err
	}
	if got := len(w.revokesOfLimited()); got != 1 {
		return fmt.Errorf("revokes of %s at the core: expected 1, got %d", limitedID, got)
	}
	if w.scene.Core.Authorized(limitedID, w.a.ID, w.a.OtherAPIID) {
		return fmt.Errorf("authorization of %s at the core: expected none any more", limitedID)
	}
	if !w.kind.tellsInvoker {
		return nil
	}
	notice, err := w.scene.Core.WaitFor(ctx, func(e coretest.Event) bool {
		return e.Operation == coretest.OpNotifyInvoker && e.Phase == coretest.PhaseAnswer && e.InvokerID == limitedID
	})
	if err != nil {
		return fmt.Errorf("step 6, notification of %s: %w", limitedID, err)
	}
	if notice.Cause != coretest.CauseOverlimit || notice.Status != http.StatusNoContent {
		return fmt.Errorf("step 6, notification of %s: expected cause %s, answered 204; got %s and %d", limitedID, coretest.CauseOverlimit, notice.Cause, notice.Status)
	}
	return nil
}

// wantInLedger waits until the AEF takes the revocation for done.
func (w *walk) wantInLedger(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var list adminapi.RevocationList
		_, err := w.a.caddy.Admin(ctx, http.MethodGet, adminapi.PathRevocations+"?api_invoker_id="+limitedID, nil, &list)
		if err != nil {
			return fmt.Errorf("revocations of %s at %s: %w", limitedID, w.a.ID, err)
		}
		all := list.Revocations
		if len(all) == 1 && all[0].State == revocation.StateRevoked && all[0].Cause == coretest.CauseOverlimit {
			w.out.step("", w.story.since(time.Now()), "operator -> "+w.a.ID, fmt.Sprintf("GET %s: 1 of %s, %s, requested by %s, state %s", adminapi.PathRevocations, limitedID, all[0].Cause, all[0].RequestedBy, all[0].State))
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("revocations of %s at %s: expected one with cause %s, state revoked; got %+v", limitedID, w.a.ID, coretest.CauseOverlimit, all)
		case <-tick.C:
		}
	}
}

func (w *walk) revokesOfLimited() []coretest.Event {
	return slices.DeleteFunc(w.scene.Core.Requests(coretest.OpRevoke), func(e coretest.Event) bool { return e.InvokerID != limitedID })
}

// callAs calls the first AEF and fails unless it answers as it must.
func (w *walk) callAs(ctx context.Context, invoker, token, path string, want int) error {
	status, body, err := w.a.Call(ctx, path, token)
	if err != nil {
		return fmt.Errorf("call %s of %s at %s: %w", path, invoker, w.a.ID, err)
	}
	w.out.exchange(invoker+" -> "+w.a.ID, "GET "+path, status)
	if status != want || want == http.StatusForbidden && !isRefusal(status, body, revokedType) {
		return fmt.Errorf("call %s of %s at %s: expected %d, got %d %s", path, invoker, w.a.ID, want, status, body)
	}
	return nil
}
