package caddyplugin

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Health is the `capif_health` handler, for readiness probes, which cannot reach
// an admin endpoint on loopback or a unix socket. It answers 200 while calls can
// be decided: the ledger is open, every key source has keys, and no security
// context of an active API invoker is older than max_staleness. Otherwise it
// answers 503. Why stands in the log, and in `/capif/status` for operators: an
// answer says nothing but that.
//
// A ledger that cannot be written does not make it answer 503: calls are decided
// by what memory holds, which is never less than what was acknowledged. The
// alarm is capif_ledger_failing.
type Health struct {
	// MaxStaleness is the age of the oldest security context of an active API
	// invoker beyond which this AEF is not ready. Default: no bound.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`

	app *App
	log *zap.Logger
	// unready is why the last probe found it not ready, "" if it was.
	unready atomic.Pointer[string]
}

// CaddyModule returns the Caddy module information.
func (*Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.capif_health", New: func() caddy.Module { return new(Health) }}
}

// Provision finds the app.
func (h *Health) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx, "capif_health")
	if err != nil {
		return err
	}
	if h.MaxStaleness < 0 {
		return fmt.Errorf("capif_health: max_staleness is %s; it must not be negative", time.Duration(h.MaxStaleness))
	}
	h.app, h.log = app, ctx.Logger()
	h.unready.Store(new(string))
	return nil
}

// ServeHTTP answers a probe.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddyhttp.Error(http.StatusMethodNotAllowed, errors.New("capif_health takes GET and HEAD"))
	}
	reasons := strings.Join(h.reasons(), "; ")
	if last := h.unready.Swap(&reasons); *last != reasons {
		if reasons == "" {
			h.log.Info("ready")
		} else {
			h.log.Warn("not ready", zap.String("reasons", reasons))
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	text, status := "ready\n", http.StatusOK
	if reasons != "" {
		text, status = "not ready\n", http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := w.Write([]byte(text))
	return err
}

// reasons says why calls cannot be decided, without figures: it changes only
// when the state does.
func (h *Health) reasons() []string {
	var reasons []string
	if !h.app.state.ledger.Ready() {
		reasons = append(reasons, "the ledger is not open")
	}
	for _, source := range h.app.keySources() {
		if source.Keys() == nil {
			reasons = append(reasons, "no keys from "+source.name)
		}
	}
	if h.MaxStaleness > 0 {
		oldest := h.app.state.context.Status().Oldest
		if !oldest.IsZero() && time.Since(oldest) > time.Duration(h.MaxStaleness) {
			reasons = append(reasons, "security contexts are older than "+time.Duration(h.MaxStaleness).String())
		}
	}
	return reasons
}

func parseHealth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	health := new(Health)
	return health, health.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	capif_health [<matcher>] {
//		max_staleness <duration>
//	}
func (h *Health) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "max_staleness":
			return duration(d, &h.MaxStaleness)
		default:
			return unrecognized(d, "max_staleness")
		}
	})
}

var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
	_ caddyfile.Unmarshaler       = (*Health)(nil)
)
