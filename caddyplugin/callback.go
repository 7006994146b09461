package caddyplugin

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-capif/aef/corecallback"
)

// Callback is the `capif_callback` handler: it serves the AEF_Security_API
// (TS 29.222 9.1) and the event notifications of the CAPIF core function. A
// revoke of the core blocks calls here before it is answered. The handler
// answers everything it is given: what it does not own gets 404.
//
// It authenticates the core itself, by its client certificate and identity, and
// trusts neither the site's TLS policy nor forwarded-certificate headers. The
// site must ask for client certificates: `client_auth { mode request }`.
type Callback struct {
	// CoreIdentities are who the core is; any of them suffices. Required
	// unless HintPath is set.
	CoreIdentities []CoreIdentity `json:"core_identities,omitempty"`

	// CoreCA are PEM files with the roots of the core's client certificate.
	// Default: trusted_ca of the core in the capif app.
	CoreCA []string `json:"core_ca,omitempty"`

	// EventsPath receives event notifications. Default: /capif/events.
	EventsPath string `json:"events_path,omitempty"`

	// HintPath takes notifications of a core that cannot authenticate. What
	// arrives there is only a hint: it starts re-reads and denies nothing. It
	// is a secret, so take it from the environment, as in
	// `/capif/hints/{env.CAPIF_HINT}`; its last segment must have at least 16
	// characters. Default: none.
	HintPath string `json:"hint_path,omitempty"`

	// PreviousHintPath is the hint path before, accepted while it is rotated.
	PreviousHintPath string `json:"previous_hint_path,omitempty"`

	// MaxBody bounds the body of a message, in bytes. Default: 65536.
	MaxBody int64 `json:"max_body,omitempty"`

	// CheckAuthentication answers API invokers that ask whether this AEF can
	// authenticate them (TS 29.222 6.2.2.2). Anybody can ask, and so learn which
	// apiInvokerIds are known here: the rate is limited. Default: the path is
	// answered 404.
	CheckAuthentication *CheckAuthentication `json:"check_authentication,omitempty"`

	handler *corecallback.Handler
}

// CoreIdentity is one way to recognise the core by its certificate.
type CoreIdentity struct {
	// Kind is san, cn or spki.
	Kind string `json:"kind,omitempty"`

	// Value is the subject alternative name, the common name, or `sha256/`
	// and the base64 SHA-256 of the public key.
	Value string `json:"value,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Callback) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.capif_callback", New: func() caddy.Module { return new(Callback) }}
}

// Provision builds the handler.
func (c *Callback) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx, "capif_callback")
	if err != nil {
		return err
	}
	if len(c.CoreIdentities) == 0 && c.HintPath == "" {
		return errors.New("capif_callback: core_identity is missing: without it nothing authenticates the core; give `core_identity san|cn|spki <value>`, or for a core that cannot authenticate hint_path")
	}
	re := newResolver()
	var identities []corecallback.Identity
	for _, id := range c.CoreIdentities {
		identity, err := corecallback.ParseIdentity(re.text("core_identity", id.Kind), re.text("core_identity", id.Value))
		if err != nil {
			return fmt.Errorf("capif_callback: %w", err)
		}
		identities = append(identities, identity)
	}
	files := re.texts("core_ca", c.CoreCA)
	if len(files) == 0 {
		files = app.coreSettings(re).TrustedCAFiles
	}
	events := re.text("events_path", c.EventsPath)
	hint, previous := re.text("hint_path", c.HintPath), re.text("hint_path", c.PreviousHintPath)
	if re.err != nil {
		return re.err
	}
	var roots *x509.CertPool
	if len(identities) > 0 {
		roots, err = coreRoots(files)
		if err != nil {
			return fmt.Errorf("capif_callback: %w", err)
		}
	}
	checker, err := c.CheckAuthentication.checker(app)
	if err != nil {
		return fmt.Errorf("capif_callback: %w", err)
	}
	consumer := &coreWords{app: app, state: app.state}
	c.handler, err = corecallback.New(corecallback.Options{
		Identities: identities,
		CoreCA:     roots,
		EventsPath: events,
		HintPath:   hint, PreviousHintPath: previous,
		MaxBody:             c.MaxBody,
		Consumer:            consumer,
		CheckAuthentication: checker,
		Count:               app.state.metrics.countMessage,
		Logger:              ctx.Slogger(),
	})
	if err != nil {
		return fmt.Errorf("capif_callback: %w", err)
	}
	return nil
}

func coreRoots(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, errors.New("core_ca is missing, and the core has no trusted_ca: name the PEM file with the roots of the core's certificate")
	}
	return readCertPool(files)
}

// ServeHTTP answers the core. It calls no next handler: an unknown path
// answered 200 would let a core believe that its revoke worked.
func (c *Callback) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if c.handler.IsHint(r.URL.Path) {
		// The path is a secret, and access logs have it.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	c.handler.ServeHTTP(w, r)
	return nil
}

var (
	_ caddy.Provisioner           = (*Callback)(nil)
	_ caddyhttp.MiddlewareHandler = (*Callback)(nil)
)
