package caddyplugin

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/reconcile"
	"github.com/caddy-capif/aef/internal/revocation"
)

// unseenSteps says what an AEF cannot see of 8.23.3.
const unseenSteps = "what the core tells the API invoker (step 6) and other AEFs (step 7) cannot be seen from this AEF"

// pendingSteps says what happens next where the core has not decided.
const pendingSteps = "what is pending is sent again until the core has decided or a lift ends it; "

const maxText = 1000

const causeMissing = "cause is missing: give OVERLIMIT_USAGE or UNEXPECTED_REASON, or from Release 19 on AUTHORIZATION_ISSUE or OTHER_REASON"

// trigger runs steps 1 to 5 of TS 23.222 8.23.3: block here, ask the core, and
// say how it stands when the core has decided or the wait is over.
func trigger(app *App, r *http.Request) (int, any, error) {
	var asked adminapi.RevocationRequest
	err := decode(r, &asked)
	if err != nil {
		return 0, nil, err
	}
	t, err := triggerOf(app, &asked)
	if err != nil {
		return 0, nil, err
	}
	t.RequestedBy = requestedBy(r)
	effective, err := app.core.EffectiveScope(t.AEF, t.AllAEFs)
	if err != nil {
		return 0, nil, apiError(http.StatusBadRequest, "%w", err)
	}
	before := app.state.ledger.Sequence()
	made, err := app.state.ledger.Trigger(r.Context(), t)
	if err != nil {
		return 0, nil, err
	}
	app.log.slog.Info("revocation triggered", "api_invoker_id", t.Invoker, "aef_id", t.AEF, "api_ids", t.APIs,
		"cause", t.Cause, "hold", t.Hold, "requested_by", t.RequestedBy)
	status, answer := app.awaitDecision(r.Context(), made, string(effective), !asked.NoWait)
	answer.Existing = !slices.ContainsFunc(made, func(r revocation.Revocation) bool { return r.Sequence > before })
	return status, answer, nil
}

// awaitDecision says how it stands, and before that waits for the core, at most
// trigger_timeout.
func (a *App) awaitDecision(ctx context.Context, made []revocation.Revocation, effective string, wait bool) (int, *adminapi.RevocationResponse) {
	sequences := make([]uint64, len(made))
	for i := range made {
		sequences[i] = made[i].Sequence
	}
	if wait {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(a.TriggerTimeout))
		defer cancel()
		_ = a.state.ledger.WaitDecided(ctx, sequences) // what is pending then is said below
	}
	answer := &adminapi.RevocationResponse{EffectiveScope: effective, Note: unseenSteps, Blocked: true}
	status := http.StatusOK
	for i := range made {
		now, err := a.state.ledger.RevocationBySequence(made[i].Sequence)
		if err != nil {
			// It is durable; only this look at it failed.
			now = made[i]
		}
		if now.State == revocation.StatePending {
			status = http.StatusAccepted
			answer.Note = pendingSteps + unseenSteps
		}
		answer.Blocked = answer.Blocked && a.blocks(&now)
		answer.Revocations = append(answer.Revocations, now)
	}
	return status, answer
}

// blocks reports whether claims deny what a revocation is about.
func (a *App) blocks(r *revocation.Revocation) bool {
	var apis []string
	if !r.AllAPIs {
		apis = []string{r.APIID}
	}
	return !a.monitored(r.AEFID, apis) &&
		a.state.ledger.Covering(r.InvokerID, r.AEFID, apis, revocation.Digest{}) == revocation.CoverAuthorization
}

// monitored reports whether a route of the aefId only monitors one of the APIs,
// all of them if there are none: it passes on what a claim denies.
func (a *App) monitored(aefID string, apis []string) bool {
	return slices.ContainsFunc(a.allRoutes(), func(r route) bool {
		return r.mode == modeMonitor && (aefID == "" || r.aefID == aefID) &&
			(len(apis) == 0 || slices.ContainsFunc(apis, func(api string) bool { return slices.Contains(r.apiIDs, api) }))
	})
}

func triggerOf(app *App, asked *adminapi.RevocationRequest) (revocation.Trigger, error) {
	t := revocation.Trigger{
		Invoker: asked.APIInvokerID, AEF: asked.AEFID, APIs: asked.APIIDs, AllAEFs: asked.AllAEFs,
		Cause: asked.Cause, Reason: asked.Reason, Ticket: asked.Ticket, RequestID: asked.RequestID, Hold: asked.Hold == nil || *asked.Hold,
	}
	if t.AEF == "" {
		t.AEF = app.aefID
	}
	err := checkTarget(app, asked.APIInvokerID, asked.APIIDs, asked.AllAPIs, t.AEF)
	if err != nil {
		return t, err
	}
	if asked.Cause == "" {
		return t, apiError(http.StatusBadRequest, causeMissing)
	}
	for what, text := range map[string]string{"cause": asked.Cause, "reason": asked.Reason, "ticket": asked.Ticket} {
		if len(text) > maxText {
			return t, apiError(http.StatusBadRequest, "%s is longer than %d bytes", what, maxText)
		}
	}
	return t, nil
}

// checkTarget checks what triggers and lifts have in common.
func checkTarget(app *App, invoker string, apiIDs []string, allAPIs bool, aefID string) error {
	switch {
	case invoker == "":
		return apiError(http.StatusBadRequest, "api_invoker_id is missing")
	case allAPIs && len(apiIDs) > 0:
		return apiError(http.StatusBadRequest, "api_ids and all_apis are both given: give one of them")
	case !allAPIs && len(apiIDs) == 0:
		return apiError(http.StatusBadRequest, "api_ids is missing: give 1 to %d apiIds, or all_apis", adminapi.MaxAPIIDs)
	case len(apiIDs) > adminapi.MaxAPIIDs:
		return apiError(http.StatusBadRequest, "api_ids has %d entries; at most %d are allowed", len(apiIDs), adminapi.MaxAPIIDs)
	case slices.Contains(apiIDs, ""):
		return apiError(http.StatusBadRequest, "api_ids holds an empty entry")
	case aefID != "" && !slices.Contains(app.hosted(), aefID):
		return apiError(http.StatusBadRequest, "aef_id %q is not hosted here; hosted: %s", aefID, strings.Join(app.hosted(), ", "))
	}
	return nil
}

// lift allows again what was denied, and says what still denies.
func lift(app *App, r *http.Request) (int, any, error) {
	var asked adminapi.LiftRequest
	err := decode(r, &asked)
	if err != nil {
		return 0, nil, err
	}
	err = checkTarget(app, asked.APIInvokerID, asked.APIIDs, asked.AllAPIs, asked.AEFID)
	if err != nil {
		return 0, nil, err
	}
	// Also for a caller that goes away: once the ledger has lifted, the counts in
	// memory must hear of it.
	done, err := app.state.ledger.Lift(context.WithoutCancel(r.Context()), revocation.Lift{
		Invoker: asked.APIInvokerID, AEF: asked.AEFID, APIs: asked.APIIDs,
		Who: revocation.Who{By: requestedBy(r), Reason: asked.Reason, Ticket: asked.Ticket},
	})
	if err != nil {
		return 0, nil, err
	}
	app.state.policy.Lifted(done.Counts)
	app.log.slog.Info("claims lifted", "api_invoker_id", asked.APIInvokerID, "aef_id", asked.AEFID, "api_ids", asked.APIIDs,
		"lifted", len(done.Claims), "cancelled", len(done.Cancelled), "counts", len(done.Counts), "reason", asked.Reason, "ticket", asked.Ticket,
		"requested_by", requestedBy(r))
	missing, unknown := app.notInContext(r.Context(), &asked)
	return http.StatusOK, adminapi.LiftResponse{
		Lifted: orEmpty(done.Claims), Cancelled: orEmpty(done.Cancelled), StillDenying: orEmpty(done.StillDenying),
		NotInContext: orEmpty(missing), ContextUnknown: unknown, CountsBegunAnew: countsOf(done.Counts),
	}, nil
}

func countsOf(refs []revocation.CountRef) []adminapi.Pair {
	var pairs []adminapi.Pair
	for _, ref := range refs {
		pairs = append(pairs, adminapi.Pair{AEFID: ref.AEF, APIID: ref.API})
	}
	return pairs
}

// notInContext reads the invoker's context anew and returns the pairs of a lift
// that it does not list, and those of which the core has said nothing: no claim
// denies them any more, the context does.
func (a *App) notInContext(ctx context.Context, asked *adminapi.LiftRequest) ([]adminapi.Pair, []adminapi.Pair) {
	err := a.state.context.Hint(ctx, []string{asked.APIInvokerID})
	if err != nil {
		return nil, nil
	}
	var missing, unknown []adminapi.Pair
	patience := 3 // over all pairs
	for _, r := range a.allRoutes() {
		if !r.require || (asked.AEFID != "" && asked.AEFID != r.aefID) {
			continue
		}
		for _, api := range r.apiIDs {
			pair := adminapi.Pair{AEFID: r.aefID, APIID: api}
			if (!asked.AllAPIs && !slices.Contains(asked.APIIDs, api)) || slices.Contains(missing, pair) || slices.Contains(unknown, pair) {
				continue
			}
			query := reconcile.Query{Invoker: asked.APIInvokerID, AEF: r.aefID, APIs: []string{api}, Require: true}
			answer := a.state.context.Check(ctx, query)
			for ; answer.Late && patience > 0; patience-- { // an operator can wait longer than a call
				answer = a.state.context.Check(ctx, query)
			}
			switch {
			case answer.Listed:
			case answer.Known:
				missing = append(missing, pair)
			default:
				unknown = append(unknown, pair)
			}
		}
	}
	return missing, unknown
}

// orEmpty makes an empty list [] in JSON, not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// requestedBy names who asked: the subject of a client certificate where the
// admin endpoint has mutual TLS, else the remote address.
func requestedBy(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return "certificate " + r.TLS.PeerCertificates[0].Subject.String()
	}
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return "unix socket"
	}
	return "address " + r.RemoteAddr
}
