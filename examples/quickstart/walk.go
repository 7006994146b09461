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
}

func (w *walk) run(ctx context.Context) error {
	for _, part := range []func(context.Context) error{w.letIn, w.revoke, w.stillRefused, w.letInAgain} {
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
	w.out.heading("TS 23.222 8.23.3: " + aefA + " revokes, while the API invoker goes on calling both AEFs")
	watching, stop := context.WithCancel(ctx)
	defer stop()
	atA := watch(watching, w.a, w.token, func(at time.Time) {
		w.out.step("5", at.Sub(w.triggered), aefA, "refuses the API invoker (it blocks before it asks the core)")
	})
	atB := watch(watching, w.b, w.token, func(at time.Time) {
		w.out.step("", at.Sub(w.triggered), aefB, "refuses the API invoker")
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
	w.out.step("1", 0, "operator -> "+aefA, fmt.Sprintf("POST %s: %s, API %s (%s), all_aefs", adminapi.PathRevocations, invokerID, testbed.APIName, testbed.APIID))
	allAEFs := true
	var answer adminapi.RevocationResponse
	status, err := w.a.caddy.Admin(ctx, http.MethodPost, adminapi.PathRevocations, adminapi.RevocationRequest{
		APIInvokerID: invokerID, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
		Reason: "quickstart", AllAEFs: &allAEFs,
	}, &answer)
	w.answered = time.Now()
	if err != nil {
		return fmt.Errorf("step 1, trigger at %s: %w", aefA, err)
	}
	if status != http.StatusOK || !answer.Blocked || len(answer.Revocations) != 1 || answer.Revocations[0].State != revocation.StateRevoked {
		return fmt.Errorf("step 1, trigger at %s: expected 200, blocked, state revoked; got %d, %+v", aefA, status, answer)
	}
	w.out.step("", w.answered.Sub(w.triggered), aefA+" -> operator", fmt.Sprintf("%s, blocked, state %s, scope %s", w.out.status(status), answer.Revocations[0].State, answer.EffectiveScope))
	for _, watcher := range []*watcher{atA, atB} {
		err = watcher.wait(ctx, watcher.refused, "refuses calls")
		if err != nil {
			return err
		}
	}
	notice, err := w.invoker.WaitNotification(ctx, 1)
	if err != nil {
		return fmt.Errorf("step 6, notification of the API invoker: %w", err)
	}
	if notice.APIInvokerID != invokerID || len(notice.APIIDs) != 1 || notice.APIIDs[0] != testbed.APIID {
		return fmt.Errorf("step 6, notification of the API invoker: expected %s and %s, got %+v", invokerID, testbed.APIID, notice)
	}
	return w.scene.Core.Quiesce(ctx) // the answers to steps 6 and 7 are in
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
	calls := core.Sent(coretest.OpCallAEF)
	if len(calls) != 1 || calls[0].Status != http.StatusOK {
		return fmt.Errorf("step 7: expected one request to %s, answered 200; got %d requests", aefB, len(calls))
	}
	if atA.lastAllowed.After(w.answered) {
		return fmt.Errorf("%s passed a call on that began after its trigger was answered: expected none", aefA)
	}
	if atB.lastAllowed.After(calls[0].Time) {
		return fmt.Errorf("%s passed a call on that began after it had acknowledged step 7: expected none", aefB)
	}
	w.out.heading(fmt.Sprintf("Measured by %d calls at %s and %d at %s, one after the other without a pause", atA.calls, aefA, atB.calls, aefB))
	since := func(at time.Time) string { return fmt.Sprintf("%7.1f ms", milliseconds(at.Sub(w.triggered))) }
	for _, m := range []struct{ what, value string }{
		{"trigger until " + aefA + " refuses", since(atA.refusedAt)},
		{"trigger until the core's answer", since(answer.Time) + fmt.Sprintf("   (the core itself took %.1f ms)", milliseconds(answer.Duration))},
		{"trigger until the operator's answer", since(w.answered)},
		{"trigger until " + aefB + " refuses", since(atB.refusedAt)},
		{"passed on after an acknowledgement", "      0 calls"},
	} {
		w.out.line(fmt.Sprintf("  %-37s %s", m.what, m.value))
	}
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

// letInAgain: the API invoker is authorized again, and operators lift.
func (w *walk) letInAgain(ctx context.Context) error {
	w.out.heading("The API invoker is authorized again, and operators lift what denies it")
	err := w.authorize(ctx)
	if err != nil {
		return err
	}
	err = w.callBoth(ctx, path1, http.StatusForbidden)
	if err != nil {
		return err
	}
	for _, e := range []*exposer{w.a, w.b} {
		var answer adminapi.LiftResponse
		status, err := e.caddy.Admin(ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{
			APIInvokerID: invokerID, APIIDs: []string{testbed.APIID}, Reason: "quickstart",
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
	token, err := w.invoker.Token(ctx, scope)
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
		status, body, err := e.Call(ctx, path, w.token)
		if err != nil {
			return fmt.Errorf("call %s at %s: %w", path, e.ID, err)
		}
		w.out.exchange(invokerID+" -> "+e.ID, "GET "+path, status)
		if status != want || want == http.StatusForbidden && !isRevoked(status, body) {
			return fmt.Errorf("call %s at %s: expected %d, got %d %s", path, e.ID, want, status, body)
		}
	}
	return nil
}
