package caddyplugin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// check says what becomes of a call, and why, at each route that it is asked
// about. It is the routes' own deciders and policies that decide; nothing is counted.
func check(app *App, r *http.Request) (int, any, error) {
	var asked adminapi.CheckRequest
	err := decode(r, &asked)
	switch {
	case err != nil:
		return 0, nil, err
	case (asked.APIInvokerID == "") == (asked.Token == ""):
		return 0, nil, apiError(http.StatusBadRequest, "give either api_invoker_id or token")
	case len(asked.ClientCertificateNames) > adminapi.MaxCertificateNames:
		return 0, nil, apiError(http.StatusBadRequest, "client_certificate_names are more than %d", adminapi.MaxCertificateNames)
	case len(asked.APIInvokerID) > revocation.MaxIDBytes:
		return 0, nil, apiError(http.StatusBadRequest, "api_invoker_id is longer than %d bytes", revocation.MaxIDBytes)
	}
	answer := adminapi.CheckResponse{Checks: []adminapi.Check{}}
	for _, route := range app.allRoutes() {
		if (asked.AEFID != "" && asked.AEFID != route.aefID) || (asked.APIID != "" && !slices.Contains(route.apiIDs, asked.APIID)) {
			continue
		}
		one, err := app.checkAt(r.Context(), &route, &asked)
		if err != nil {
			return 0, nil, err
		}
		answer.Checks = append(answer.Checks, one)
	}
	if len(answer.Checks) == 0 {
		return 0, nil, apiError(http.StatusNotFound, "no route stands for api_id %q at aef_id %q; GET %s lists the routes", asked.APIID, asked.AEFID, adminapi.PathStatus)
	}
	return http.StatusOK, answer, nil
}

func (a *App) checkAt(ctx context.Context, r *route, asked *adminapi.CheckRequest) (adminapi.Check, error) {
	var e enforce.Explanation
	if asked.Token != "" {
		e = r.decider.Explain(ctx, []string{"Bearer " + asked.Token}, time.Now())
	} else {
		e = r.decider.ExplainInvoker(ctx, asked.APIInvokerID, time.Now())
	}
	// As the handler does it.
	undecided, refusedAnyway := enforce.Undecided, false
	if r.onError == onErrorAllow && e.Reason.Undecidable() {
		undecided = e.Reason
		e.Decision = r.rest(ctx, asked, e.Decision)
	}
	if e.Reason == enforce.Allowed && e.Entry != nil {
		r.explainRest(ctx, &e, asked, &undecided)
	}
	reason := e.Reason
	switch {
	case undecided == enforce.Undecided:
	case e.Reason == enforce.Allowed:
		reason = undecided
	default:
		undecided, refusedAnyway = enforce.Undecided, true
	}
	failsOpen := undecided != enforce.Undecided
	c := adminapi.Check{
		Route: r.shown(), Allowed: reason == enforce.Allowed, Reason: reason.String(),
		Steps: []adminapi.Step{}, Claims: []revocation.Claim{},
	}
	c.Passed = c.Allowed || failsOpen || r.mode == modeMonitor
	for _, s := range e.Steps {
		c.Steps = append(c.Steps, adminapi.Step{Step: s.Name, Passed: s.Passed, Outcome: s.Outcome})
	}
	if !c.Allowed && !failsOpen {
		refusal := r.answers.of(&e.Decision)
		c.Status, c.Detail = refusal.status, refusal.detail
	}
	switch {
	case failsOpen:
		c.Notes = append(c.Notes, "the route fails open (on_error allow): the call cannot be decided and is passed on")
	case r.mode == modeMonitor && !c.Allowed:
		c.Notes = append(c.Notes, "the route only monitors: the call is passed on all the same")
	}
	if refusedAnyway {
		c.Notes = append(c.Notes, "the call cannot be decided in full, and what is known refuses it")
	}
	if r.bind && len(asked.ClientCertificateNames) == 0 {
		c.Notes = append(c.Notes, "the caller's client certificate was not checked: the route requires that it names the API invoker; give client_certificate_names")
	}
	if e.Entry == nil {
		return c, nil
	}
	c.APIInvokerID = e.Entry.Invoker
	claims, err := a.covering(r, e.Entry.Invoker, revocation.Digest(e.Entry.Digest))
	c.Claims = append(c.Claims, claims...)
	return c, err
}

// explainRest adds what the handler asks of a call that the decider allows, in its
// order.
func (r *route) explainRest(ctx context.Context, e *enforce.Explanation, asked *adminapi.CheckRequest, undecided *enforce.Reason) {
	add := func(name, outcome string) {
		e.Steps = append(e.Steps, enforce.Step{Name: name, Passed: e.Reason == enforce.Allowed, Outcome: outcome})
	}
	if e.Reason == enforce.Allowed && r.bind {
		switch names := asked.ClientCertificateNames; {
		case len(names) == 0:
			add(enforce.StepBinding, "not checked: needs the caller's certificate")
		case slices.Contains(names, e.Entry.Invoker):
			add(enforce.StepBinding, "the client certificate names the API invoker")
		default:
			e.Reason = enforce.TokenNotBound
			add(enforce.StepBinding, "the client certificate does not name the API invoker")
		}
	}
	if e.Reason != enforce.Allowed || r.gate == nil || *undecided == enforce.NotReady {
		return
	}
	reason, outcome := r.gate.Peek(ctx, e.Entry.Invoker, time.Now())
	e.Reason = reason
	add(enforce.StepPolicy, outcome)
	if r.onError == onErrorAllow && reason == enforce.PolicyUnavailable {
		e.Reason = enforce.Allowed
		*undecided = cmp.Or(*undecided, enforce.PolicyUnavailable)
	}
}

// rest is what the handler of the route asks when it cannot decide a call and is
// to pass it on.
func (r *route) rest(ctx context.Context, asked *adminapi.CheckRequest, undecided enforce.Decision) enforce.Decision {
	if asked.Token == "" {
		return r.decider.RestInvoker(asked.APIInvokerID, undecided)
	}
	raw, _ := enforce.Bearer([]string{"Bearer " + asked.Token}) // it was read once before
	return r.decider.Rest(ctx, raw, undecided, time.Now())
}

// covering returns the claims that cover calls of an invoker at a route, with a
// token if one is named.
func (a *App) covering(r *route, invoker string, token revocation.Digest) ([]revocation.Claim, error) {
	var covering []revocation.Claim
	q := revocation.ClaimQuery{Invoker: invoker}
	for {
		claims, next, err := a.state.ledger.Claims(q)
		if err != nil {
			return nil, err
		}
		for _, c := range claims {
			if (c.AEF == "" || c.AEF == r.aefID) && (c.API == "" || slices.Contains(r.apiIDs, c.API)) && (c.Token.IsZero() || c.Token == token) {
				covering = append(covering, c)
			}
		}
		if next == nil {
			return covering, nil
		}
		q.After = next
	}
}
