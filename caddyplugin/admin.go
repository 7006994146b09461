package caddyplugin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// adminAPI is the `admin.api.capif` module: the trigger, and all that an
// operator does at run time. It is stateless and asks for the running app on
// each request: after a rejected reload the admin endpoint serves routers of a
// configuration that never ran.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.capif", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes returns the admin routes. Methods are checked by hand: the mux would
// answer a wrong one in plain text.
func (*adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		adminRoute(adminapi.PathRevocations, methods{http.MethodPost: trigger, http.MethodGet: listRevocations}),
		adminRoute(adminapi.PathRevocations+"/{id}", methods{http.MethodGet: showRevocation}),
		adminRoute(adminapi.PathClaims, methods{http.MethodGet: listClaims}),
		adminRoute(adminapi.PathLifts, methods{http.MethodPost: lift}),
		adminRoute(adminapi.PathReconcile, methods{http.MethodPost: reconcileNow}),
		adminRoute(adminapi.PathStatus, methods{http.MethodGet: showStatus}),
		adminRoute(adminapi.PathCheck, methods{http.MethodPost: check}),
		adminRoute(adminapi.PathAudit, methods{http.MethodGet: listAudit}),
		{Pattern: adminapi.PathWatch, Handler: caddy.AdminHandlerFunc(watch)},
	}
}

// methods maps an HTTP method to what answers it: a status and a body.
type methods map[string]func(*App, *http.Request) (int, any, error)

func adminRoute(pattern string, m methods) caddy.AdminRoute {
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		handle, ok := m[r.Method]
		if !ok {
			allowed := make([]string, 0, len(m))
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if m[method] != nil {
					allowed = append(allowed, method)
				}
			}
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here; use %s", r.Method, strings.Join(allowed, " or "))
		}
		app, err := runningApp()
		if err != nil {
			w.Header().Set(adminapi.HeaderError, adminapi.CodeNotConfigured)
			return err
		}
		status, body, err := handle(app, r)
		if err != nil {
			return failed(w, asAPIError(app, err))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		return json.NewEncoder(w).Encode(body)
	})}
}

// runningApp is the one place that asks Caddy for the configuration in force
// (an experimental function of Caddy's).
func runningApp() (*App, error) {
	value, err := caddy.ActiveContext().AppIfConfigured("capif")
	if err != nil {
		return nil, apiError(http.StatusNotFound, "the capif app is not configured in the running Caddy: add the global option capif and reload")
	}
	return value.(*App), nil
}

// failed names the kind of an error in a header: the text is for people.
func failed(w http.ResponseWriter, err caddy.APIError) error {
	code := adminapi.CodeInternal
	switch {
	case err.HTTPStatus == http.StatusNotFound:
		code = adminapi.CodeNotFound
	case err.HTTPStatus == http.StatusServiceUnavailable:
		code = adminapi.CodeUnavailable
	case err.HTTPStatus < http.StatusInternalServerError:
		code = adminapi.CodeInvalid
	}
	w.Header().Set(adminapi.HeaderError, code)
	return err
}

func apiError(status int, format string, args ...any) caddy.APIError {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// asAPIError turns an error into an answer. Caddy looks for the value type and
// unwraps nothing.
func asAPIError(app *App, err error) caddy.APIError {
	var api caddy.APIError
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, revocation.ErrInvalid):
		return apiError(http.StatusBadRequest, "%w", err)
	case errors.Is(err, revocation.ErrNotFound):
		return apiError(http.StatusNotFound, "%w", err)
	case errors.Is(err, revocation.ErrNotDurable):
		app.log.zap.Error("admin request could not be made durable", zap.Error(err))
		return apiError(http.StatusServiceUnavailable, "the ledger %s cannot be written: the outcome is unknown; a revoke blocks and may not survive a restart, a lift has not happened; see to the disk and repeat the request a second or two after there is room", app.state.path)
	case errors.Is(err, revocation.ErrNotReady):
		return apiError(http.StatusServiceUnavailable, "the ledger %s is not open; see the log for the reason", app.state.path)
	default:
		app.log.zap.Error("admin request failed", zap.Error(err))
		return apiError(http.StatusInternalServerError, "internal error; see the log")
	}
}

// maxRequestBody bounds the body of an admin request.
const maxRequestBody = 1 << 20

// decode reads exactly one JSON object without unknown members.
func decode(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequestBody+1))
	if err != nil {
		return apiError(http.StatusBadRequest, "reading the request: %w", err)
	}
	if len(body) > maxRequestBody {
		return apiError(http.StatusRequestEntityTooLarge, "the request is longer than %d bytes", maxRequestBody)
	}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(into)
	if err != nil {
		return apiError(http.StatusBadRequest, "the request is not valid: %w", err)
	}
	_, err = decoder.Token()
	if !errors.Is(err, io.EOF) {
		return apiError(http.StatusBadRequest, "the request is not valid: something follows the JSON object")
	}
	return nil
}

func showRevocation(app *App, r *http.Request) (int, any, error) {
	found, err := app.state.ledger.Revocation(r.PathValue("id"))
	return http.StatusOK, found, err
}

func listRevocations(app *App, r *http.Request) (int, any, error) {
	query := r.URL.Query()
	limit, err := limitOf(query.Get("limit"))
	if err != nil {
		return 0, nil, err
	}
	before, err := beforeOf(query.Get("before"))
	if err != nil {
		return 0, nil, err
	}
	err = oneOf("state", query.Get("state"), revocation.States())
	if err != nil {
		return 0, nil, err
	}
	q := revocation.RevocationQuery{
		Before:  before,
		Invoker: query.Get("api_invoker_id"),
		API:     query.Get("api_id"),
		State:   revocation.State(query.Get("state")),
		Limit:   limit,
	}
	list, next, err := app.state.ledger.Revocations(q)
	for _, found := range list {
		if found.State == revocation.StateDamaged {
			app.state.alarms.Raise(app.log.slog, alarm.LedgerDamaged,
				fmt.Sprintf("the record of revocation %s cannot be read; stop, restore the ledger from a backup, start", found.ID))
		}
	}
	return http.StatusOK, adminapi.RevocationList{Revocations: list, Next: next}, err
}

func listClaims(app *App, r *http.Request) (int, any, error) {
	query := r.URL.Query()
	limit, err := limitOf(query.Get("limit"))
	if err != nil {
		return 0, nil, err
	}
	q := revocation.ClaimQuery{Invoker: query.Get("api_invoker_id"), Limit: limit}
	if after := query.Get("after"); after != "" {
		q.After, err = base64.RawURLEncoding.DecodeString(after)
		if err != nil {
			return 0, nil, apiError(http.StatusBadRequest, "after %q is not a cursor: give the next of the page before", after)
		}
	}
	list, next, err := app.state.ledger.Claims(q)
	return http.StatusOK, adminapi.ClaimList{Claims: list, Next: base64.RawURLEncoding.EncodeToString(next)}, err
}

// oneOf refuses a word that is none of a filter's: an empty list would say that there
// is nothing.
func oneOf[T ~string](name, text string, words []T) error {
	if text == "" || slices.Contains(words, T(text)) {
		return nil
	}
	known := make([]string, len(words))
	for i, word := range words {
		known[i] = string(word)
	}
	return apiError(http.StatusBadRequest, "%s %q is none: give one of %s", name, strings.ToValidUTF8(text[:min(len(text), 100)], ""), strings.Join(known, ", "))
}

func beforeOf(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	before, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, apiError(http.StatusBadRequest, "before %q is not a number: give the next of the page before", text)
	}
	return before, nil
}

const defaultPage = 100

func limitOf(text string) (int, error) {
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > revocation.MaxPage {
		return 0, apiError(http.StatusBadRequest, "limit %q is not a number from 1 to %d", text, revocation.MaxPage)
	}
	return n, nil
}

// reconcileNow has every context and all token keys read again and the event
// subscription confirmed, and with accept lets a suspended mass change count.
func reconcileNow(app *App, r *http.Request) (int, any, error) {
	var asked adminapi.ReconcileRequest
	err := decode(r, &asked)
	if err != nil {
		return 0, nil, err
	}
	action, outcome := revocation.ActionReconcile, ""
	if asked.Accept {
		// The record is durable before anything counts, hence what it will come to.
		action, outcome = revocation.ActionAccept, revocation.OutcomeNothingSuspended
		if app.state.context.Status().Suspended {
			outcome = revocation.OutcomeAccepted
		}
	}
	err = app.state.ledger.Note(r.Context(), action, outcome, revocation.Who{By: requestedBy(r), Reason: asked.Reason, Ticket: asked.Ticket})
	if err != nil {
		return 0, nil, err
	}
	app.state.events.Poke()
	var answer adminapi.ReconcileResponse
	if asked.Accept {
		answer.Accepted = app.state.context.Accept()
		app.log.slog.Info("mass change accepted", "was_suspended", answer.Accepted, "requested_by", requestedBy(r))
	}
	for _, source := range app.keySources() {
		_ = source.Load(r.Context()) // the last good keys stay; the answer says why
	}
	err = app.state.context.Hint(r.Context(), nil)
	if err != nil {
		return 0, nil, err
	}
	answer.Contexts, answer.Keys = contextsOf(app), keysOf(app)
	return http.StatusOK, answer, nil
}

func contextsOf(app *App) adminapi.Contexts {
	st := app.state.context.Status()
	c := adminapi.Contexts{
		Invokers: st.Invokers, Due: st.Due, Suspended: st.Suspended, Withheld: st.Withheld,
		CoreReachable: st.Reachable, LastAnswer: st.LastAnswer,
		Reads: st.Reads, FailedReads: st.Failed, LateReads: st.Late,
	}
	if !st.Oldest.IsZero() {
		c.OldestSeconds = time.Since(st.Oldest).Seconds()
	}
	return c
}

func subscriptionOf(app *App) adminapi.Subscription {
	st := app.state.events.Status()
	return adminapi.Subscription{
		Configured: st.Configured, Subscribed: st.Subscribed, ID: st.ID, Events: st.Events, RefusedEvents: st.Refused,
		Since: st.Since, Checked: st.Checked, Error: st.Error,
	}
}

func keysOf(app *App) []adminapi.Keys {
	list := []adminapi.Keys{}
	for _, source := range app.keySources() {
		keys := adminapi.Keys{Source: source.name, Present: source.Keys() != nil, LoadedAt: source.LoadedAt()}
		if err := source.LastError(); err != nil {
			keys.Error = err.Error()
		}
		list = append(list, keys)
	}
	return list
}

func showStatus(app *App, _ *http.Request) (int, any, error) {
	ledger, file := app.state.ledger.Stats(), app.state.ledger.FileStats()
	cache := app.state.cache.Stats()
	status := adminapi.Status{
		AEFID:   app.aefID,
		AEFIDs:  app.hosted(),
		Core:    app.core.URL(),
		Profile: app.core.Profile(),
		Ledger: adminapi.Ledger{
			Path: app.state.path, Ready: app.state.ledger.Ready(), Failing: ledger.Failing,
			DeniedScopes: ledger.DeniedScopes, Pending: ledger.Pending, AuditRecords: file.AuditRecords, Bytes: file.Bytes,
		},
		Keys:         keysOf(app),
		Routes:       []adminapi.Route{},
		Outbox:       app.state.outbox.Depth(),
		Contexts:     contextsOf(app),
		Subscription: subscriptionOf(app),
		Cache:        adminapi.Cache{Dropped: cache.Dropped, Rejected: cache.Rejected, Evicted: cache.Evicted},
		Alarms:       app.state.alarms.List(),
	}
	for _, r := range app.allRoutes() {
		status.Routes = append(status.Routes, r.shown())
	}
	return http.StatusOK, status, nil
}

var _ caddy.AdminRouter = (*adminAPI)(nil)
