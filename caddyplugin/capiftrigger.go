package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Trigger is the `capif_trigger` handler. A call that reaches it has its API
// invoker's authorization revoked (TS 23.222 8.23.3 step 1), so that any matcher,
// web application firewall, rate limiter or answer of an upstream can be the
// trigger. It needs a `capif_enforce` before it in the route, which says whose
// call it is: a call that was not let in triggers nothing.
//
// The block is set in the background unless Wait is set. One API invoker is
// revoked once for an API until an operator lifts, and all automatic triggers
// share the budget `automatic_triggers` of the app.
type Trigger struct {
	// Cause is what the core is told: `OVERLIMIT_USAGE`, `UNEXPECTED_REASON`,
	// or from Release 19 on `AUTHORIZATION_ISSUE` or `OTHER_REASON`. Required.
	Cause string `json:"cause,omitempty"`

	// Reason is kept with the revocation, for people. Placeholders of the
	// request are allowed; it is cut at 1000 bytes. Default: empty.
	Reason string `json:"reason,omitempty"`

	// Name of this trigger in logs and records, as `route <name>`. Default:
	// the API name of the `capif_enforce` before it.
	Name string `json:"name,omitempty"`

	// API is what is revoked: `this` API, the one of the `capif_enforce`
	// that let the call in, or `all` APIs of the API invoker at this aefId.
	// Default: this.
	API string `json:"api,omitempty"`

	// Respond is the status, 400 to 599, that the call is answered with,
	// whatever became of the trigger. Default: the call is passed on.
	Respond int `json:"respond,omitempty"`

	// Wait goes on with the call only when the block is durable. If that
	// fails, the call is answered 503. It does not wait for the core.
	// Default: false.
	Wait bool `json:"wait,omitempty"`

	// DryRun counts and logs what would be revoked, revokes nothing and passes
	// every call on. Default: false.
	DryRun bool `json:"dry_run,omitempty"`

	// UnboundTriggers also revokes where the `capif_enforce` before it has no
	// `bind client_certificate`. On real cores an API invoker can get a token
	// in another's name, and can so have that one revoked. Default: false, and
	// then such a configuration does not load.
	UnboundTriggers bool `json:"unbound_triggers,omitempty"`

	app     *App
	sampled *zap.Logger
}

// The words of api.
const (
	apiThis = "this"
	apiAll  = "all"
)

// CaddyModule returns the Caddy module information.
func (Trigger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.capif_trigger", New: func() caddy.Module { return new(Trigger) }}
}

// Provision resolves the settings.
func (t *Trigger) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx, "capif_trigger")
	if err != nil {
		return err
	}
	t.sampled = app.sampledLog("capif_trigger", ctx.Logger())
	re := newResolver()
	t.Cause, t.Name, t.API = re.text("cause", t.Cause), re.text("name", t.Name), re.text("api", t.API)
	switch {
	case re.err != nil:
		return re.err
	case t.Cause == "":
		return errors.New("capif_trigger: " + causeMissing)
	case len(t.Cause) > maxText:
		return fmt.Errorf("capif_trigger: cause is longer than %d bytes", maxText)
	case !slices.Contains([]string{"", apiThis, apiAll}, t.API):
		return fmt.Errorf("capif_trigger: unknown api %q; accepted: this, all", t.API)
	case t.Respond != 0 && (t.Respond < 400 || t.Respond > 599):
		return fmt.Errorf("capif_trigger: respond is %d; give a status of 400 to 599, or leave it out to pass the call on", t.Respond)
	}
	if !slices.Contains(standardCauses, t.Cause) {
		ctx.Logger().Warn("cause is none of the standard's: the core may refuse it", zap.String("cause", t.Cause))
	}
	t.app = app
	app.hasTriggers.Store(true)
	if t.UnboundTriggers {
		ctx.Logger().Warn("a token alone can have an API invoker revoked: unbound_triggers is set")
	}
	return nil
}

// ServeHTTP triggers, and answers or passes on.
func (t *Trigger) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	call := autotrigger.Call{
		Cause: t.Cause, Reason: replacerOf(r).ReplaceAll(t.Reason, ""), DryRun: t.DryRun, AllowUnbound: t.UnboundTriggers,
	}
	letIn, _ := caddyhttp.GetVar(r.Context(), varLetIn).(*letIn)
	name := t.Name
	if letIn != nil {
		call.Invoker, call.AEF, call.Bound = letIn.invoker, letIn.aefID, letIn.bound
		if t.API != apiAll {
			call.APIs = letIn.apiIDs
		}
		if name == "" {
			name = letIn.name
		}
	}
	call.RequestedBy, call.Source = "route "+name, revocation.SourceRoute
	outcome, err := t.request(r.Context(), &call)
	t.logUnused(outcome, &call)
	switch {
	case t.DryRun:
		return next.ServeHTTP(w, r)
	case err != nil:
		return writeProblem(w, http.StatusServiceUnavailable)
	case t.Respond != 0:
		return writeProblem(w, t.Respond)
	}
	return next.ServeHTTP(w, r)
}

func (t *Trigger) request(ctx context.Context, call *autotrigger.Call) (autotrigger.Outcome, error) {
	if t.Wait && !t.DryRun {
		return t.app.state.triggers.RequestAndWait(ctx, *call)
	}
	return t.app.state.triggers.Request(*call), nil
}

// logUnused says why a call that should have triggered did not: many calls, few
// lines. What triggers is logged by the guard.
func (t *Trigger) logUnused(outcome autotrigger.Outcome, call *autotrigger.Call) {
	switch outcome {
	case autotrigger.Accepted, autotrigger.Already, autotrigger.DryRun:
		return
	}
	c := t.sampled.Check(zapcore.WarnLevel, "call triggers no revocation")
	if c == nil {
		return
	}
	c.Write(zap.Stringer("outcome", outcome), zap.String("api_invoker_id", call.Invoker),
		zap.String("aef_id", call.AEF), zap.Strings("api_ids", call.APIs), zap.String("requested_by", call.RequestedBy))
}

// writeProblem answers with a problem document that says no more than its
// status (RFC 9457 4.2.1).
func writeProblem(w http.ResponseWriter, status int) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	h.Del("Content-Length") // of an answer that is replaced
	h.Del("Content-Encoding")
	w.WriteHeader(status)
	_, err := fmt.Fprintf(w, `{"type":"about:blank","title":%s,"status":%d}`, strconv.Quote(http.StatusText(status)), status)
	return err
}

// varLetIn is the variable of a request under which capif_enforce tells
// capif_trigger whose call it let in.
const varLetIn = "capif.let_in"

// target is what one capif_enforce stands for.
type target struct {
	aefID  string
	apiIDs []string
	name   string
	bound  bool // its calls are bound to the client certificate
}

// letIn is a call that was let in. No configuration can make one: its type is
// known here only.
type letIn struct {
	*target
	invoker string
}

// tellTriggers hands on a call that was let in, and takes back what an earlier
// capif_enforce handed on where this one refuses.
func (e *Enforce) tellTriggers(r *http.Request, d *enforce.Decision) {
	if !e.app.hasTriggers.Load() {
		return
	}
	if d.Reason != enforce.Allowed || d.Entry == nil {
		caddyhttp.SetVar(r.Context(), varLetIn, nil)
		return
	}
	caddyhttp.SetVar(r.Context(), varLetIn, &letIn{target: &e.target, invoker: d.Entry.Invoker})
}

var (
	_ caddy.Provisioner           = (*Trigger)(nil)
	_ caddyhttp.MiddlewareHandler = (*Trigger)(nil)
)
