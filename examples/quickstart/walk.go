package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// Calls to the two APIs.
const (
	path1     = "/" + testbed.APIName + "/1"
	otherPath = "/" + testbed.OtherAPIName + "/1"
)

// patience is how long something is waited for that should come in
// milliseconds.
const patience = 5 * time.Second

// walk goes through the procedure and stops at the first thing that does not
// come out as it must.
type walk struct {
	*cast
	out   *printer
	story *narrator

	token string
	// What the procedure measured.
	triggered, answered time.Time
	// takenAway is when the core took the API away at the other AEF and said
	// nothing; zero unless the core is silent.
	takenAway time.Time
}

func (w *walk) run(ctx context.Context) error {
	for _, part := range []func(context.Context) error{w.letIn, w.revoke, w.stillRefused, w.letInAgain, w.overuse} {
		err := part(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// letIn: a security context, a token, and calls that are passed on.
func (w *walk) letIn(ctx context.Context) error {
	w.out.heading("The API invoker is let in at both AEFs")
	err := w.authorize(ctx)
	if err != nil {
		return err
	}
	err = w.newToken(ctx)
	if err != nil {
		return err
	}
	return w.callBoth(ctx, path1, http.StatusOK)
}

// revoke is 8.23.3, while calls go on at both AEFs without a pause.
func (w *walk) revoke(ctx context.Context) error {
	w.out.heading("TS 23.222 8.23.3: " + w.a.ID + " revokes, while the API invoker goes on calling both AEFs")
	watching, stop := context.WithCancel(ctx)
	defer stop()
	atA := watch(watching, w.a, w.token, revokedType, func(at time.Time) {
		w.out.step("5", at.Sub(w.triggered), w.a.ID, "refuses the API invoker (it blocks before it asks the core)")
	})
	atB := watch(watching, w.b, w.token, w.kind.refusal, func(at time.Time) {
		w.out.step("", at.Sub(w.triggered), w.b.ID, "refuses the API invoker"+w.kind.because())
	})
	err := w.revokeWatched(ctx, atA, atB)
	stop()
	<-atA.done
	<-atB.done
	w.story.procedure(time.Time{})
	if err == nil {
		err = errors.Join(atA.err, atB.err)
	}
	if err != nil {
		return err
	}
	return w.measured(ctx, atA, atB)
}

func (w *walk) revokeWatched(ctx context.Context, atA, atB *watcher) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, watcher := range []*watcher{atA, atB} {
		err := watcher.wait(ctx, watcher.warm, "passes calls on")
		if err != nil {
			return err
		}
	}
	w.triggered = time.Now()
	w.story.procedure(w.triggered)
	w.out.step("1", 0, "operator -> "+w.a.ID, fmt.Sprintf("POST %s: %s, API %s (%s), all_aefs", adminapi.PathRevocations, invokerID, testbed.APIName, w.a.APIID))
	allAEFs := true
	var answer adminapi.RevocationResponse
	status, err := w.a.caddy.Admin(ctx, http.MethodPost, adminapi.PathRevocations, adminapi.RevocationRequest{
		APIInvokerID: invokerID, APIIDs: []string{w.a.APIID}, Cause: coretest.CauseUnexpected,
		Reason: "quickstart", AllAEFs: &allAEFs,
	}, &answer)
	w.answered = time.Now()
	if err != nil {
		return fmt.Errorf("step 1, trigger at %s: %w", w.a.ID, err)
	}
	if status != http.StatusOK || !answer.Blocked || len(answer.Revocations) != 1 || answer.Revocations[0].State != revocation.StateRevoked {
		return fmt.Errorf("step 1, trigger at %s: expected 200, blocked, state revoked; got %d, %+v", w.a.ID, status, answer)
	}
	w.out.step("", w.answered.Sub(w.triggered), w.a.ID+" -> operator", fmt.Sprintf("%s, blocked, state %s, scope %s", w.out.status(status), answer.Revocations[0].State, answer.EffectiveScope))
	err = atA.wait(ctx, atA.refused, "refuses calls")
	if err != nil {
		return err
	}
	if w.kind.silent() {
		err = w.takeAwaySilently(ctx)
		if err != nil {
			return err
		}
	}
	err = atB.wait(ctx, atB.refused, "refuses calls")
	if err != nil {
		return err
	}
	if !w.kind.tellsInvoker {
		w.out.step("6", time.Since(w.triggered), "core", "does not happen: this core tells no API invoker of a revoke")
		return w.scene.Core.Quiesce(ctx)
	}
	notice, err := w.invoker.WaitNotification(ctx, 1)
	if err != nil {
		return fmt.Errorf("step 6, notification of the API invoker: %w", err)
	}
	if notice.APIInvokerID != invokerID || len(notice.APIIDs) != 1 || notice.APIIDs[0] != w.a.APIID {
		return fmt.Errorf("step 6, notification of the API invoker: expected %s and %s, got %+v", invokerID, w.a.APIID, notice)
	}
	return w.scene.Core.Quiesce(ctx) // the answers to steps 6 and 7 are in
}

// takeAwaySilently: the core neither revoked anything at the other AEF nor told
// it of the revoke. That the other AEF finds out by itself is shown by somebody
// who takes its API away at the core.
func (w *walk) takeAwaySilently(ctx context.Context) error {
	status, body, err := w.b.Call(ctx, path1, w.token)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("call at %s, whose API was not revoked: expected 200, got %d %s, %w", w.b.ID, status, body, err)
	}
	w.out.step("7", time.Since(w.triggered), "core", "does not happen: this core tells no AEF of a revoke")
	w.out.step("", time.Since(w.triggered), w.b.ID, "passes calls on: its API has an apiId of its own ("+w.b.APIID+"), which nobody revoked")
	w.takenAway = time.Now()
	_, err = w.scene.Core.RevokeByCore(ctx, coretest.CoreRevoke{InvokerID: invokerID, AEFID: w.b.ID, APIIDs: []string{w.b.APIID}})
	if err != nil {
		return fmt.Errorf("revoke of the API of %s by the core: %w", w.b.ID, err)
	}
	return nil
}

// acknowledged is when the other AEF must refuse from: it has answered step 7, or
// the event that stands for it. Zero if nobody told it anything.
func (w *walk) acknowledged() (time.Time, error) {
	operation := coretest.OpCallAEF
	if w.kind.hints {
		operation = coretest.OpNotifyEvent
	}
	var told []coretest.Event
	for _, e := range w.scene.Core.Sent(operation) {
		var n coretest.EventNotification
		if short(e.To) == w.b.ID && (!w.kind.hints || e.Decode(&n) == nil && n.Events == coretest.EventRevoked) {
			told = append(told, e)
		}
	}
	if w.kind.silent() {
		if len(told) != 0 {
			return time.Time{}, fmt.Errorf("step 7: expected that %s is told nothing; got %d requests", w.b.ID, len(told))
		}
		return time.Time{}, nil
	}
	if len(told) != 1 || told[0].Status < 200 || told[0].Status > 299 {
		return time.Time{}, fmt.Errorf("step 7: expected one request to %s, answered 2xx; got %d requests", w.b.ID, len(told))
	}
	return told[0].Time, nil
}

// measured checks that no call was passed on after the revoke had been
// acknowledged, and says how long everything took.
func (w *walk) measured(ctx context.Context, atA, atB *watcher) error {
	core := w.scene.Core
	answer, err := core.WaitFor(ctx, func(e coretest.Event) bool {
		return e.Operation == coretest.OpRevoke && e.Phase == coretest.PhaseAnswer
	})
	if err != nil {
		return fmt.Errorf("step 4: %w", err)
	}
	acknowledged, err := w.acknowledged()
	if err != nil {
		return err
	}
	if atA.lastAllowed.After(w.answered) {
		return fmt.Errorf("%s passed a call on that began after its trigger was answered: expected none", w.a.ID)
	}
	if !acknowledged.IsZero() && atB.lastAllowed.After(acknowledged) {
		return fmt.Errorf("%s passed a call on that began after it had acknowledged what the core told it: expected none", w.b.ID)
	}
	w.out.heading(fmt.Sprintf("Measured by %d calls at %s and %d at %s, one after the other without a pause", atA.calls, w.a.ID, atB.calls, w.b.ID))
	since := func(at time.Time) string { return fmt.Sprintf("%7.1f ms", milliseconds(at.Sub(w.triggered))) }
	other := measurement{"trigger until " + w.b.ID + " refuses", since(atB.refusedAt)}
	if w.kind.silent() {
		other = measurement{"the core's change until " + w.b.ID + " refuses",
			fmt.Sprintf("%7.1f ms   (reconcile is %s here, 5m by default)", milliseconds(atB.refusedAt.Sub(w.takenAway)), shortReconcile)}
	}
	w.out.measurements([]measurement{
		{"trigger until " + w.a.ID + " refuses", since(atA.refusedAt)},
		{"trigger until the core's answer", since(answer.Time) + fmt.Sprintf("   (the core itself took %.1f ms)", milliseconds(answer.Duration))},
		{"trigger until the operator's answer", since(w.answered)},
		other,
		{"passed on after an acknowledgement", "      0 calls"},
	})
	return nil
}

// stillRefused: a newer token lifts nothing, nor does a context that the API
// invoker puts again.
func (w *walk) stillRefused(ctx context.Context) error {
	w.out.heading("A new token does not help, and only this API was revoked")
	err := w.newToken(ctx)
	if err != nil {
		return err
	}
	err = w.callBoth(ctx, path1, http.StatusForbidden)
	if err != nil {
		return err
	}
	return w.callBoth(ctx, otherPath, http.StatusOK)
}

// letInAgain: the API invoker is authorized again, and operators lift what their
// own triggers and the core's commands deny. What an AEF only read at the core
// ends with what it reads there next.
func (w *walk) letInAgain(ctx context.Context) error {
	w.out.heading("The API invoker is authorized again, and operators lift what denies it")
	began := time.Now()
	err := w.invoker.PutContext(ctx, w.entries()...)
	if err != nil {
		return err
	}
	denying := []*exposer{w.a, w.b}
	if w.kind.refusal != revokedType {
		denying = denying[:1] // nobody authenticated told the other one to deny: it believes the context
		err = w.letInByContext(ctx, began)
		if err != nil {
			return err
		}
	}
	for _, e := range denying {
		err = w.call(ctx, e, path1, http.StatusForbidden)
		if err != nil {
			return err
		}
	}
	for _, e := range denying {
		var answer adminapi.LiftResponse
		status, err := e.caddy.Admin(ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{
			APIInvokerID: invokerID, APIIDs: []string{e.APIID}, Reason: "quickstart",
		}, &answer)
		if err != nil {
			return fmt.Errorf("lift at %s: %w", e.ID, err)
		}
		if status != http.StatusOK || len(answer.Lifted) == 0 || len(answer.StillDenying)+len(answer.NotInContext) != 0 {
			return fmt.Errorf("lift at %s: expected 200, something lifted, nothing that still denies; got %d, %+v", e.ID, status, answer)
		}
		w.out.exchange("operator -> "+e.ID, "POST "+adminapi.PathLifts+", "+claims(answer.Lifted)+" lifted", status)
	}
	return w.callBoth(ctx, path1, http.StatusOK)
}

func claims(lifted []revocation.Claim) string {
	if len(lifted) == 1 {
		return "1 claim (" + lifted[0].Origin.String() + ")"
	}
	return fmt.Sprintf("%d claims", len(lifted))
}

func (w *walk) newToken(ctx context.Context) error {
	token, err := w.invoker.Token(ctx, w.scope())
	if err != nil {
		return err
	}
	if token == w.token {
		return errors.New("new access token: expected another one, got the same")
	}
	w.token = token
	return nil
}

// callBoth calls both AEFs and fails unless both answer as they must.
func (w *walk) callBoth(ctx context.Context, path string, want int) error {
	for _, e := range []*exposer{w.a, w.b} {
		err := w.call(ctx, e, path, want)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) call(ctx context.Context, e *exposer, path string, want int) error {
	status, body, err := e.Call(ctx, path, w.token)
	if err != nil {
		return fmt.Errorf("call %s at %s: %w", path, e.ID, err)
	}
	w.out.exchange(invokerID+" -> "+e.ID, "GET "+path, status)
	refusal := revokedType
	if e == w.b {
		refusal = w.kind.refusal
	}
	if status != want || want == http.StatusForbidden && !isRefusal(status, body, refusal) {
		return fmt.Errorf("call %s at %s: expected %d, got %d %s", path, e.ID, want, status, body)
	}
	return nil
}

// letInByContext waits until the other AEF has read the context again: "not
// listed" counts for at most five seconds.
func (w *walk) letInByContext(ctx context.Context, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body, err := w.b.Call(ctx, path1, w.token)
		if err != nil {
			return fmt.Errorf("call %s at %s, waiting until it is let in: %w", path1, w.b.ID, err)
		}
		if status == http.StatusOK {
			w.out.exchange(invokerID+" -> "+w.b.ID, fmt.Sprintf("GET %s, %.1f ms after the context", path1, milliseconds(time.Since(began))), status)
			return nil
		}
		if !isRefusal(status, body, w.kind.refusal) {
			return fmt.Errorf("call %s at %s: expected 403 %s or 200, got %d %s", path1, w.b.ID, w.kind.refusal, status, body)
		}
		<-tick.C
	}
}
