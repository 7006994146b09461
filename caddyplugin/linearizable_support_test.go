package caddyplugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/token"
)

const (
	linAEF  = "aef-1"
	linAPI  = "api-1"
	linName = "location"
	linWays = 6 // to deny
)

// handlers are the modules of one AEF over one pooled state, as configurations
// that follow one another make them. All is real but the core and the HTTP
// servers around the handlers.
type handlers struct {
	invokers []string
	tokens   []string
	bearers  [][]string // values of Authorization
	verifier enforce.Verifier
	ca       *x509.CertPool
	core     *x509.Certificate // that the core shows
	path     string            // of the ledger
	state    *state
	current  atomic.Pointer[configuration]

	denied                 [linWays]atomic.Int64
	lifted, reloads, hints atomic.Int64
}

// configuration is what a reload replaces.
type configuration struct {
	app      *App
	enforce  *Enforce
	callback *corecallback.Handler
}

// knownTokens verified each token once: where every first sight costs a
// signature check, calls and changes hardly meet.
type knownTokens struct {
	*token.Verifier
	known map[string]token.Token
}

func (v *knownTokens) Verify(_ context.Context, raw string, _ time.Time) (token.Token, error) {
	return v.known[raw], nil
}

// listingCore is a core that lists every pair and takes no revoke: what is
// denied here is up to claims, and every trigger stays pending until it is
// lifted.
type listingCore struct{}

func (listingCore) Context(context.Context, string) (coreclient.Context, error) {
	return coreclient.Context{Entries: []coreclient.Entry{{AEFID: linAEF, APIID: linAPI}}}, nil
}

func (listingCore) Revoke(context.Context, coreclient.RevokeRequest) (int, error) {
	return 0, &coreclient.Error{Op: "revoke", Status: http.StatusServiceUnavailable}
}

func newHandlers(t *testing.T, signatures bool) *handlers {
	t.Helper()
	x := &handlers{path: filepath.Join(t.TempDir(), "ledger.db")}
	x.mint(t, signatures)
	ca, err := coretest.NewCA("core CA", false)
	if err != nil {
		t.Fatal(err)
	}
	core, err := ca.Issue(coretest.CertSpec{CommonName: "capifcore", ClientAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	x.ca = ca.Pool()
	x.core, err = x509.ParseCertificate(core.TLS.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	x.reload(t)
	x.state = x.current.Load().app.state
	t.Cleanup(func() {
		err := x.current.Load().app.Cleanup()
		if err != nil {
			t.Error(err)
		}
		if !Unused() {
			t.Error("pools: got a state held; want none")
		}
		x.current.Store(nil)
		x.state = nil
		awaitNoDenyCache(t)
	})
	return x
}

// awaitNoDenyCache waits until the garbage collection has found the deny caches
// that nobody holds and ended their goroutines: tests that come later want none.
func awaitNoDenyCache(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 4<<20)
	for deadline := time.Now().Add(30 * time.Second); ; {
		runtime.GC()
		if !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("dgraph-io/ristretto")) {
			return
		}
		if time.Now().After(deadline) {
			t.Error("got goroutines of a deny cache 30 s after the end; want none")
			return
		}
	}
}

func (x *handlers) mint(t *testing.T, signatures bool) {
	t.Helper()
	key, verifier := newSigner(t)
	known := map[string]token.Token{}
	b := &bench{key: key}
	for i := range linPairs {
		name := fmt.Sprint("invoker-", i)
		raw := b.token(t, name)
		verified, err := verifier.Verify(t.Context(), raw, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		known[raw] = verified
		x.invokers, x.tokens, x.bearers = append(x.invokers, name), append(x.tokens, raw), append(x.bearers, []string{"Bearer " + raw})
	}
	x.verifier = verifier
	if !signatures {
		x.verifier = &knownTokens{Verifier: verifier, known: known}
	}
}

// reload puts a new configuration in force and cleans up the one before, with
// calls and changes in flight in it.
func (x *handlers) reload(t *testing.T) {
	next, err := x.configure()
	if err != nil {
		t.Errorf("reload: got %v; want none", err)
		return
	}
	old := x.current.Swap(next)
	if old == nil {
		return
	}
	x.reloads.Add(1)
	err = old.app.Cleanup()
	if err != nil {
		t.Errorf("reload: got %v; want none", err)
	}
}

func (x *handlers) configure() (*configuration, error) {
	log := loggers{zap: zap.NewNop(), slog: slog.New(slog.DiscardHandler)}
	app := &App{aefID: linAEF, log: log, options: ledgerOptions{path: x.path}, DenyCache: linTokens, TriggerTimeout: caddy.Duration(time.Nanosecond)}
	if x.reloads.Load()%2 == 0 {
		app.DenyCache = linMoreTokens
	}
	var err error
	app.core, err = coreclient.New(coreclient.Settings{URL: "http://127.0.0.1:1", InsecureHTTP: true}) // never called
	if err != nil {
		return nil, err
	}
	app.state, err = acquireState(x.path)
	if err != nil {
		return nil, err
	}
	app.held = true
	app.addRoute(route{aefID: linAEF, apiName: linName, apiIDs: []string{linAPI}, mode: modeEnforce, require: true})
	e := &Enforce{app: app, answers: newAnswers(linAEF), figures: app.state.metrics.forRoute(linName), traced: &app.state.traced, log: log.zap, sampled: log.zap}
	e.decider, err = enforce.NewDecider(enforce.Route{AEFID: linAEF, APIName: linName, APIIDs: []string{linAPI}}, x.verifier, app.state.ledger, app.state.cache)
	if err != nil {
		return nil, err
	}
	e.decider.UseContexts(app.state.context, enforce.ContextRule{Require: true})
	identity, err := corecallback.ParseIdentity("cn", "capifcore")
	if err != nil {
		return nil, err
	}
	callback, err := corecallback.New(corecallback.Options{
		Identities: []corecallback.Identity{identity}, CoreCA: x.ca, Consumer: &coreWords{app: app, state: app.state},
	})
	if err != nil {
		return nil, err
	}
	settings := app.settings()
	settings.outbox.Core, settings.reconcile.Core = listingCore{}, listingCore{}
	// A wait that is never over: a call must not be decided by a context that is
	// unknown, however slow the machine.
	settings.reconcile.Wait = time.Hour
	return &configuration{app: app, enforce: e, callback: callback}, app.state.open(settings)
}

// decided counts the calls that the deny cache did not answer.
func (x *handlers) decided(t *testing.T) uint64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(x.state.metrics.timings.decide)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetHistogram().GetSampleCount()
}

// denyWays are the ways in which a deny gets in.
var denyWays = [linWays]struct {
	name string
	by   func(x *handlers, pair int) error
}{
	{"a trigger for one API", func(x *handlers, pair int) error {
		return x.trigger(&adminapi.RevocationRequest{APIInvokerID: x.invokers[pair], APIIDs: []string{linAPI}, Cause: corecallback.CauseUnexpectedReason})
	}},
	{"a trigger for all APIs", func(x *handlers, pair int) error {
		return x.trigger(&adminapi.RevocationRequest{APIInvokerID: x.invokers[pair], AllAPIs: true, Cause: corecallback.CauseUnexpectedReason})
	}},
	{"the core, for this aefId", func(x *handlers, pair int) error {
		return x.revoke(map[string]any{"apiInvokerId": x.invokers[pair], "aefId": linAEF})
	}},
	{"the core, for every aefId", func(x *handlers, pair int) error {
		return x.revoke(map[string]any{"apiInvokerId": x.invokers[pair]})
	}},
	{"the core, for one token", func(x *handlers, pair int) error {
		return x.revoke(map[string]any{"apiInvokerId": x.invokers[pair], "accessToken": x.tokens[pair]})
	}},
	{"the core's event that an invoker was offboarded", func(x *handlers, pair int) error {
		return x.tell(corecallback.DefaultEventsPath, http.StatusNoContent, map[string]any{
			"subscriptionId": "s-1", "events": corecallback.EventInvokerOffboarded, "eventDetail": map[string]any{"apiInvokerIds": []string{x.invokers[pair]}},
		})
	}},
}

func (x *handlers) deny(t *testing.T, pair, way int) {
	err := denyWays[way].by(x, pair)
	if err != nil {
		t.Errorf("deny by %s: got %v; want none", denyWays[way].name, err)
	}
	x.denied[way].Add(1)
}

// trigger does not wait for the core.
func (x *handlers) trigger(asked *adminapi.RevocationRequest) error {
	r, err := adminRequest(adminapi.PathRevocations, asked)
	if err != nil {
		return err
	}
	status, _, err := trigger(x.current.Load().app, r)
	if err == nil && status != http.StatusAccepted && status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	return err
}

func (x *handlers) lift(t *testing.T, pair int) {
	r, err := adminRequest(adminapi.PathLifts, &adminapi.LiftRequest{APIInvokerID: x.invokers[pair], AllAPIs: true})
	if err == nil {
		_, _, err = lift(x.current.Load().app, r)
	}
	if err != nil {
		t.Errorf("lift: got %v; want none", err)
	}
	x.lifted.Add(1)
}

func adminRequest(path string, asked any) (*http.Request, error) {
	body, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	return httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)), nil
}

// revoke is the core's revoke-authorization (TS 29.222 9.1).
func (x *handlers) revoke(info map[string]any) error {
	info["apiIds"], info["cause"] = []string{linAPI}, corecallback.CauseUnexpectedReason
	return x.tell(corecallback.RevokeAuthorizationPath, http.StatusOK, map[string]any{"revokeInfo": info, "supportedFeatures": "0"})
}

// tell sends what the authenticated core says.
func (x *handlers) tell(path string, want int, message any) error {
	r, err := adminRequest(path, message)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{x.core}}
	w := httptest.NewRecorder()
	x.current.Load().callback.ServeHTTP(w, r)
	if w.Code != want {
		return fmt.Errorf("status %d (%s), not %d", w.Code, w.Body, want)
	}
	return nil
}
