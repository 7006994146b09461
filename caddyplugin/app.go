package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-capif/aef/internal/autotrigger"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/outbox"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/reconcile"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/subscription"
)

// App is the `capif` app: the identity of this API exposing function (AEF), its
// CAPIF core function, and the state that all routes share. One app serves one
// core and one or more aefIds.
type App struct {
	// AEFID is the aefId of routes and triggers that name none, as the core
	// assigned it. Required. Placeholders such as `{env.AEF_ID}` are allowed
	// in every string of this module.
	AEFID string `json:"aef_id,omitempty"`

	// Core is the CAPIF core function. Required.
	Core *Core `json:"core,omitempty"`

	// Token says how access tokens are verified. Its keys are required
	// unless every route brings its own.
	Token *Token `json:"token,omitempty"`

	// Ledger is the durable record of what is denied.
	Ledger *Ledger `json:"ledger,omitempty"`

	// DenyCache is how many tokens the deny cache holds, about 2 KiB each.
	// It changes speed, never a decision. Default: 100000.
	DenyCache int64 `json:"deny_cache,omitempty"`

	// TriggerTimeout is how long a trigger waits for the core before it
	// answers that the revocation is pending. Default: 5s.
	TriggerTimeout caddy.Duration `json:"trigger_timeout,omitempty"`

	// Reconcile is how often the security contexts of the API invokers seen
	// lately are read again from the core. A revoke that the core announces
	// to nobody blocks here within this time. Default: 5m.
	Reconcile caddy.Duration `json:"reconcile,omitempty"`

	// CoreLift says who may lift a claim that the core has set: `operator`, or
	// `context`: also the core, when its context of the API invoker first no
	// longer listed what was revoked and later lists it again. Default:
	// operator.
	CoreLift string `json:"core_lift,omitempty"`

	// Subscribe has the core announce revocations, offboarding and changes of
	// access control policies here. Default: nothing is subscribed to, and
	// what the core announces to nobody is found by Reconcile.
	Subscribe *Subscribe `json:"subscribe,omitempty"`

	// AutomaticTriggers is how many revocations any minute may bring that no
	// operator asked for, over all API invokers, routes and policies, so that a
	// wrong rule cannot cut off everyone at once; what comes beyond it is
	// refused and raises an alarm. At most 10000; -1 (`off`) allows none.
	// A reload does not refill it. Default: 60.
	AutomaticTriggers int64 `json:"automatic_triggers,omitempty"`

	aefID  string
	state  *state
	held   bool // a reference to state is held
	core   *coreclient.Core
	log    loggers
	token  tokenSettings
	events subscribeSettings
	cancel context.CancelFunc
	notify *notifier // emits events
	// running ends when this configuration does; nil before Start.
	running atomic.Pointer[context.Context]

	// hasTriggers is set by the first capif_trigger of this configuration:
	// without one, no call pays for being handed on to it.
	hasTriggers atomic.Bool
	// httpApp returns Caddy's http app once everything is provisioned.
	httpApp func() (any, error)

	mu      sync.Mutex
	routes  []route
	sources []*keySource           // references held
	sampled map[string]*zap.Logger // by module
	// policies are what the routes of this configuration make of them.
	policies map[policy.Pair]policyUse
	options  ledgerOptions
}

// Core is how the CAPIF core function is reached.
type Core struct {
	// URL of the core: `https://host[:port][/prefix]`.
	URL string `json:"url,omitempty"`

	// Profile is what kind of core it is: `strict` (to the letter of the
	// standard), `opencapif` or `oran`. Default: strict.
	Profile string `json:"profile,omitempty"`

	// ClientCertificate is a PEM file: the certificate of this AEF with its
	// chain. It is read again when it changes.
	ClientCertificate string `json:"client_certificate,omitempty"`

	// ClientKey is the PEM file with the certificate's key. It is read again
	// when it changes.
	ClientKey string `json:"client_key,omitempty"`

	// TrustedCA are PEM files with the roots that the core's server
	// certificate must chain to. Default: the system's.
	TrustedCA []string `json:"trusted_ca,omitempty"`

	// Timeout of one request to the core. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// RedirectHosts are hosts besides the core's own that a 307 or 308 of
	// the core may lead to, as `host` or `host:port`.
	RedirectHosts []string `json:"redirect_hosts,omitempty"`

	// InsecureHTTP allows an http URL: nobody is authenticated then. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`
}

// Ledger is the durable record of what is denied.
type Ledger struct {
	// Path of the file. One ledger serves one running Caddy. Default:
	// `capif/ledger.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// MustExist refuses to start when the file does not exist, so that a
	// lost ledger is noticed before calls pass. Default: false.
	MustExist bool `json:"must_exist,omitempty"`

	// AuditRecords is how many audit records are kept, the newest. Default:
	// 100000.
	AuditRecords int64 `json:"audit_records,omitempty"`

	// AuditAge is how long audit records are kept. Default: 8760h (a year).
	AuditAge caddy.Duration `json:"audit_age,omitempty"`
}

type ledgerOptions struct {
	path      string
	mustExist bool
	audit     revocation.Retention
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "capif", New: func() caddy.Module { return new(App) }}
}

const defaultTriggerTimeout = 5 * time.Second

// The values of core_lift.
const (
	liftOperator = "operator"
	liftContext  = "context"
)

// Provision resolves the settings and takes a reference to the shared state. It
// opens no file for writing and sends nothing, so that `caddy validate` works
// beside a running server.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = newLoggers(ctx)
	a.httpApp = func() (any, error) { return ctx.AppIfConfigured("http") }
	re := newResolver()
	a.aefID = re.text("aef_id", a.AEFID)
	a.options = a.ledgerOptions(re)
	core := a.coreSettings(re)
	var err error
	a.events, err = a.Subscribe.settings(re, a.aefID)
	if re.err != nil {
		return re.err
	}
	if a.aefID == "" {
		return errors.New("capif: aef_id is missing: give the aefId that the core assigned to this AEF")
	}
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	if a.Core == nil || core.URL == "" {
		return errors.New("capif: core is missing: give the URL of the CAPIF core function")
	}
	if a.DenyCache < 0 {
		return fmt.Errorf("capif: deny_cache is %d; give a number of tokens of at least 1", a.DenyCache)
	}
	if a.Ledger != nil && (a.Ledger.AuditRecords < 0 || a.Ledger.AuditAge < 0) {
		return errors.New("capif: audit_records and audit_age must not be negative")
	}
	if a.TriggerTimeout < 0 {
		return fmt.Errorf("capif: trigger_timeout is %s; it must not be negative", time.Duration(a.TriggerTimeout))
	}
	if a.Reconcile < 0 || (a.Reconcile > 0 && a.Reconcile < caddy.Duration(time.Second)) {
		return fmt.Errorf("capif: reconcile is %s; give at least 1s", time.Duration(a.Reconcile))
	}
	if !slices.Contains([]string{"", liftOperator, liftContext}, a.CoreLift) {
		return fmt.Errorf("capif: core_lift is %q; accepted: operator, context", a.CoreLift)
	}
	if a.AutomaticTriggers < triggersOff || a.AutomaticTriggers > autotrigger.MaxPerMinute {
		return fmt.Errorf("capif: automatic_triggers is %d; give 1 to %d for a minute, or off", a.AutomaticTriggers, autotrigger.MaxPerMinute)
	}
	if a.TriggerTimeout == 0 {
		a.TriggerTimeout = caddy.Duration(defaultTriggerTimeout)
	}
	core.Logger = a.log.slog
	core.Observe = func(o coreclient.Observation) { a.state.metrics.timings.observe(o) } // the core is called once there is a state
	a.core, err = coreclient.New(core)
	if err != nil {
		return fmt.Errorf("capif: core: %w", err)
	}
	a.token, err = newTokenSettings(a.Token, core)
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	a.state, err = acquireState(a.options.path)
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	a.held = true
	err = ctx.GetMetricsRegistry().Register(a.state.metrics)
	if err != nil {
		return fmt.Errorf("capif: registering metrics: %w", err)
	}
	a.notify, err = newNotifier(ctx)
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	return nil
}

func (a *App) ledgerOptions(re *resolver) ledgerOptions {
	o := ledgerOptions{path: filepath.Join(caddy.AppDataDir(), "capif", "ledger.db")}
	if a.Ledger == nil {
		return o
	}
	o.mustExist = a.Ledger.MustExist
	o.audit = revocation.Retention{Records: int(a.Ledger.AuditRecords), Age: time.Duration(a.Ledger.AuditAge)}
	if path := re.text("ledger path", a.Ledger.Path); path != "" {
		o.path = path
	}
	absolute, err := filepath.Abs(o.path)
	if err != nil {
		re.err = errors.Join(re.err, fmt.Errorf("capif: ledger path %q: %w", o.path, err))
		return o
	}
	o.path = absolute
	return o
}

func (a *App) coreSettings(re *resolver) coreclient.Settings {
	if a.Core == nil {
		return coreclient.Settings{}
	}
	return coreclient.Settings{
		URL:            re.text("core url", a.Core.URL),
		Profile:        re.text("core profile", a.Core.Profile),
		CertFile:       re.text("client_cert", a.Core.ClientCertificate),
		KeyFile:        re.text("client_cert key", a.Core.ClientKey),
		TrustedCAFiles: re.texts("trusted_ca", a.Core.TrustedCA),
		Timeout:        time.Duration(a.Core.Timeout),
		RedirectHosts:  re.texts("redirect_hosts", a.Core.RedirectHosts),
		InsecureHTTP:   a.Core.InsecureHTTP,
	}
}

// Start opens the ledger, unless an earlier configuration has it open, and puts
// this configuration's settings in force.
func (a *App) Start() error {
	err := a.checkTriggers()
	if err != nil {
		return err
	}
	err = a.state.open(a.settings())
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.running.Store(&ctx)
	for _, source := range a.heldSources() {
		source.start(ctx)
	}
	a.notify.start(ctx, a.state)
	return nil
}

// settings are what this configuration puts in force.
func (a *App) settings() applied {
	return applied{
		app:    a,
		outbox: &outbox.Settings{Core: a.core, APIs: a.apisOf, Logger: a.log.slog},
		reconcile: &reconcile.Settings{
			Core: a.core, CoreURL: a.core.URL(), Interval: time.Duration(a.Reconcile), CoreLift: a.CoreLift == liftContext,
			Hosted: a.hosted, Reachable: a.state.coreReachable, Unreachable: a.state.feed.poke, Logger: a.log.slog,
		},
		events: &subscription.Settings{
			Core: a.core, CoreURL: a.core.URL(), Subscriber: a.events.subscriber, Destination: a.events.destination,
			Gap: a.state.readAll, Logger: a.log.slog,
		},
		triggers: &autotrigger.Settings{PerMinute: a.triggersPerMinute(), Logger: a.log.slog},
		policy: &policy.Settings{
			Core: a.core, Interval: time.Duration(a.Reconcile), Pairs: a.policySources(), Logger: a.log.slog,
		},
	}
}

// triggersOff is automatic_triggers where it says off.
const triggersOff = -1

func (a *App) triggersPerMinute() int {
	switch a.AutomaticTriggers {
	case 0:
		return autotrigger.DefaultPerMinute
	case triggersOff:
		return 0
	default:
		return int(a.AutomaticTriggers)
	}
}

// Stop ends what belongs to this configuration alone. The shared state stays
// for the next one.
func (a *App) Stop() error {
	if a.cancel != nil {
		a.cancel()
		a.notify.stop()
	}
	return nil
}

// Cleanup releases what Provision took, and nothing that a request still in
// flight may look at. Settings of a configuration that was
// rejected after its Start give way to those of the one that stays.
func (a *App) Cleanup() error {
	if a.cancel != nil {
		a.cancel()
		a.notify.stop() // if a rejected reload has started it
	}
	var err error
	if a.held {
		a.held = false
		err = a.state.release(a)
	}
	for _, source := range a.heldSources() {
		err = errors.Join(err, source.release())
	}
	a.mu.Lock()
	a.sources = nil
	a.mu.Unlock()
	if a.core != nil {
		a.core.Close()
	}
	return err
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
