package caddyplugin

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/streams"
	"github.com/caddy-capif/aef/internal/token"
)

// Enforce is the `capif_enforce` handler. It passes a call on only if its
// access token is valid, names this route's aefId and API in its scope, and
// nothing denies the API invoker. It needs the `capif` app.
//
// Placeholders: `{http.auth.user.id}` is the API invoker of a call that was
// passed on; `{http.capif.reason}` is why a call was not,
// or what kept one from being decided that was passed on all the same. A span
// that is recorded gets both, as capif.reason and capif.api_invoker_id.
type Enforce struct {
	// AEFID is the aefId that exposes this API. Default: that of the app.
	AEFID string `json:"aef_id,omitempty"`

	// APIName is the name of the API as it stands in token scopes. Required
	// unless Scope is set.
	APIName string `json:"api_name,omitempty"`

	// APIIDs are the ids under which the core knows this API: a revoke names
	// these, not the name. At least one; a claim on any of them denies, a
	// context that lists any of them allows.
	APIIDs []string `json:"api_ids,omitempty"`

	// Scope is a plain scope value that the token must carry, for issuers
	// whose tokens have no `3gpp#` scope, such as CAMARA's. Default: the
	// token must carry `3gpp#aefId:apiName`.
	Scope string `json:"scope,omitempty"`

	// Token replaces settings of the app for this route, one by one.
	Token *Token `json:"token,omitempty"`

	// RequireContext refuses API invokers whose security context at the core
	// does not list this API, also with a valid token: real cores go on
	// issuing tokens for a revoked API. `off` refuses only what was listed
	// once and no longer is. Default: on.
	RequireContext string `json:"require_context,omitempty"`

	// MaxStaleness refuses calls, with 503, when the API invoker's context
	// could not be read from the core for longer. Default: no bound.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`

	// Mode is `enforce`, or `monitor`: decide, count and log what would be
	// refused, and pass every call on. Default: enforce.
	Mode string `json:"mode,omitempty"`

	// OnError is what becomes of a call that cannot be decided (`not_ready`,
	// `keys_missing`, `context_unknown`, `context_stale`, `policy_unavailable`):
	// `deny` answers 503, `allow` passes it on. What is known to be refused is
	// refused all the same; without token keys nothing is known, and everything
	// that brings a token passes. Default: deny.
	OnError string `json:"on_error,omitempty"`

	// Bind is `client_certificate` to require that the token's API invoker is
	// a common name or subject alternative name of the caller's verified
	// client certificate: on real cores an invoker can get a token in
	// another's name. Default: none.
	Bind string `json:"bind,omitempty"`

	// PassErrors hands refused calls to `handle_errors` instead of answering
	// them with a problem document. Default: false.
	PassErrors bool `json:"pass_errors,omitempty"`

	// PassPreflight passes CORS preflight requests on, which carry no token.
	// Default: false.
	PassPreflight bool `json:"pass_preflight,omitempty"`

	// Policy is how often and when API invokers may call. Default: no limit, and
	// the core's policy is not read.
	Policy *Policy `json:"policy,omitempty"`

	// EndStreams ends calls in flight that are no longer allowed, such as open
	// WebSockets and event streams. Without effect where the route only
	// monitors. Default: they go on until they end by themselves.
	EndStreams *EndStreams `json:"end_streams,omitempty"`

	app      *App
	failOpen bool
	target   target // what capif_trigger is told
	decider  *enforce.Decider
	gate     *policy.Gate      // nil without a policy
	streams  *streams.Registry // nil unless calls in flight are ended
	answers  *answers
	figures  figures
	traced   *atomic.Bool // calls come with spans
	log      *zap.Logger
	sampled  *zap.Logger // for what is refused, or would be: many calls, few lines
}

// CaddyModule returns the Caddy module information.
func (Enforce) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.capif_enforce", New: func() caddy.Module { return new(Enforce) }}
}

// appOf returns the capif app of the configuration that ctx belongs to.
func appOf(ctx caddy.Context, module string) (*App, error) {
	value, err := ctx.AppIfConfigured("capif")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, fmt.Errorf("%s needs the global option capif: add a block `capif { … }` at the top of the Caddyfile (in JSON: apps.capif)", module)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", module, err)
	}
	return value.(*App), nil
}

// Provision resolves the settings and builds the decision.
func (e *Enforce) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx, "capif_enforce")
	if err != nil {
		return err
	}
	e.log = ctx.Logger()
	e.sampled = app.sampledLog("capif_enforce", e.log)
	err = e.checkWords()
	if err != nil {
		return fmt.Errorf("capif_enforce: %w", err)
	}
	re := newResolver()
	r := enforce.Route{
		AEFID:      re.text("aef_id", e.AEFID),
		APIName:    re.text("api_name", e.APIName),
		APIIDs:     re.texts("api_id", e.APIIDs),
		PlainScope: re.text("scope", e.Scope),
	}
	if re.err != nil {
		return re.err
	}
	if r.AEFID == "" {
		r.AEFID = app.aefID
	}
	r.GrantFromContext = r.PlainScope == "" && app.core.GrantsInContext()
	if r.GrantFromContext && e.RequireContext == wordOff {
		return fmt.Errorf("capif_enforce: require_context off cannot stand with profile %s: its tokens carry no scope, and the context is the only grant", app.core.Profile())
	}
	settings, err := app.token.with(e.Token)
	if err != nil {
		return fmt.Errorf("capif_enforce: %w", err)
	}
	source, err := acquireSource(&settings, app.log)
	if err != nil {
		return fmt.Errorf("capif_enforce: %w", err)
	}
	app.addSource(source) // the app gives it back, also if we fail below
	verifier, err := token.NewVerifier(settings.verifier, source)
	if err != nil {
		return fmt.Errorf("capif_enforce: %w", err)
	}
	e.decider, err = enforce.NewDecider(r, verifier, app.state.ledger, app.state.cache)
	if err != nil {
		return fmt.Errorf("capif_enforce: %w; give api_id, and api_name or scope", err)
	}
	e.decider.UseContexts(app.state.context, enforce.ContextRule{
		Require: e.RequireContext != wordOff, MaxStaleness: time.Duration(e.MaxStaleness),
	})
	err = e.provisionPolicy(app, &r)
	if err != nil {
		return err
	}
	err = e.provisionStreams(app.state)
	if err != nil {
		return fmt.Errorf("capif_enforce: %w", err)
	}
	if e.streams != nil {
		knowConnections(ctx)
	}
	e.failOpen = e.OnError == onErrorAllow
	if e.failOpen {
		e.log.Warn("route fails open: calls that cannot be decided are passed on", zap.String("api_name", r.APIName), zap.Strings("api_ids", r.APIIDs))
	}
	if e.Mode == modeMonitor {
		e.log.Warn("route only monitors: every call is passed on", zap.String("api_name", r.APIName), zap.Strings("api_ids", r.APIIDs))
	}
	label := r.APIName
	if label == "" {
		label = r.PlainScope
	}
	e.figures = app.state.metrics.forRoute(label)
	e.traced = &app.state.traced
	e.answers = newAnswers(r.AEFID)
	e.app = app
	e.target = target{aefID: r.AEFID, apiIDs: r.APIIDs, name: label, bound: e.Bind != ""}
	app.addRoute(route{
		aefID: r.AEFID, apiName: r.APIName, apiIDs: r.APIIDs, invokerClaims: verifier.InvokerClaims(),
		mode: cmp.Or(e.Mode, modeEnforce), onError: cmp.Or(e.OnError, onErrorDeny), require: e.RequireContext != wordOff,
		decider: e.decider, answers: e.answers, bind: e.Bind != "", gate: e.gate,
	})
	return nil
}

// ServeHTTP decides the call.
func (e *Enforce) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if e.PassPreflight && isPreflight(r) {
		return next.ServeHTTP(w, r)
	}
	raw, reason := enforce.Bearer(r.Header["Authorization"])
	decision := enforce.Decision{Reason: reason}
	now := time.Now()
	if reason == enforce.Undecided {
		decision = e.decider.Decide(r.Context(), raw, now)
		if decision.Cached {
			e.figures.hits.Inc()
		} else {
			since(e.figures.decide, now)
		}
	}
	undecided := enforce.Undecided // why the call was not decided and passes all the same
	if e.failOpen && decision.Reason.Undecidable() {
		undecided = decision.Reason
		decision = e.decider.Rest(r.Context(), raw, decision, now)
	}
	if decision.Reason == enforce.Allowed && decision.Entry != nil {
		e.restrict(r, &decision, &undecided, now)
	}
	var stream *streams.Stream
	parent := r.Context()
	if e.streams != nil && decision.Reason == enforce.Allowed && decision.Entry != nil {
		stream = e.openStream(w, r, &decision)
	}
	if decision.Reason != enforce.Allowed {
		undecided = enforce.Undecided
	}
	counted := max(decision.Reason, undecided) // Allowed is the least of them
	e.figures.decisions[counted].Inc()
	decision.End(decision.Reason == enforce.Allowed || e.Mode == modeMonitor)
	e.annotate(r, counted, &decision)
	e.tellTriggers(r, &decision)
	if decision.Reason == enforce.Allowed {
		if undecided != enforce.Undecided {
			e.noteUndecided(r, undecided, &decision)
		}
		if decision.Entry != nil {
			replacerOf(r).Set("http.auth.user.id", decision.Entry.User)
		}
		if stream != nil {
			return serveStream(stream, r, parent, next)
		}
		return next.ServeHTTP(w, r)
	}
	if e.Mode == modeMonitor {
		replacerOf(r).Set("http.capif.reason", reasonValues[decision.Reason])
		e.logRefusal(e.sampled, zap.InfoLevel, "call would be refused", &decision)
		return next.ServeHTTP(w, r)
	}
	return e.refuse(w, r, &decision)
}

// restrict holds a call that nothing denies to the client certificate and to the
// policy. Where the route fails open, undecided becomes what keeps the policy from
// deciding.
func (e *Enforce) restrict(r *http.Request, d *enforce.Decision, undecided *enforce.Reason, now time.Time) {
	if e.Bind != "" && !boundTo(r.TLS, d.Entry.Invoker) {
		d.Reason = enforce.TokenNotBound
		return
	}
	if e.gate == nil || *undecided == enforce.NotReady { // the ledger holds the counts
		return
	}
	if !d.Cached {
		now = time.Now() // the decision may have waited for the core
	}
	d.Reason = e.admit(r.Context(), d.Entry, now)
	if e.failOpen && d.Reason == enforce.PolicyUnavailable {
		d.Reason = enforce.Allowed
		*undecided = cmp.Or(*undecided, enforce.PolicyUnavailable)
	}
}

// noteUndecided says that a call is passed on that was not decided.
func (e *Enforce) noteUndecided(r *http.Request, why enforce.Reason, d *enforce.Decision) {
	replacerOf(r).Set("http.capif.reason", reasonValues[why])
	e.logRefusal(e.sampled, zap.InfoLevel, "call passed on undecided", &enforce.Decision{Reason: why, Entry: d.Entry})
}

// refuse answers a call that is not passed on. Bad credentials are the caller's
// affair: they are no error of this server and not logged as one.
func (e *Enforce) refuse(w http.ResponseWriter, r *http.Request, d *enforce.Decision) error {
	e.logRefusal(e.sampled, zap.DebugLevel, "call refused", d)
	replacerOf(r).Set("http.capif.reason", reasonValues[d.Reason])
	if e.PassErrors {
		a := e.answers.of(d)
		a.setHeader(w.Header())
		return caddyhttp.Error(a.status, errors.New(a.detail))
	}
	return e.answers.of(d).write(w)
}

func (e *Enforce) logRefusal(log *zap.Logger, level zapcore.Level, message string, d *enforce.Decision) {
	c := log.Check(level, message)
	if c == nil {
		return
	}
	fields := []zap.Field{zap.Stringer("reason", d.Reason)}
	if d.Entry != nil {
		fields = append(fields, zap.String("api_invoker_id", d.Entry.Invoker))
	}
	c.Write(fields...)
}

// sampledLog returns the logger of a module that lets through the first ten lines
// of a second and then every hundredth. All routes share it: a sampler takes half
// a megabyte.
func (a *App) sampledLog(module string, log *zap.Logger) *zap.Logger {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sampled[module] == nil {
		if a.sampled == nil {
			a.sampled = make(map[string]*zap.Logger)
		}
		a.sampled[module] = sampled(log)
	}
	return a.sampled[module]
}

func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 10, 100)
	}))
}

// reasonValues are the reasons as a placeholder holds them, boxed once.
var reasonValues = func() []any {
	reasons := enforce.Reasons()
	values := make([]any, int(reasons[len(reasons)-1])+1)
	for _, reason := range reasons {
		values[reason] = reason.String()
	}
	return values
}()

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

func replacerOf(r *http.Request) *caddy.Replacer {
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
}

var (
	_ caddy.Provisioner           = (*Enforce)(nil)
	_ caddyhttp.MiddlewareHandler = (*Enforce)(nil)
)
