// Package adminapi holds the messages of the admin API, which the server and
// the command line share. All of them are JSON in snake_case; unknown members
// of a request are refused.
package adminapi

import (
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// The paths on Caddy's admin endpoint.
const (
	PathRevocations = "/capif/revocations"
	PathClaims      = "/capif/claims"
	PathLifts       = "/capif/lifts"
	PathStatus      = "/capif/status"
	PathReconcile   = "/capif/reconcile"
	PathCheck       = "/capif/check"
	PathAudit       = "/capif/audit"
	PathWatch       = "/capif/watch"
)

// MaxAPIIDs bounds api_ids of one request.
const MaxAPIIDs = 100

// RevocationRequest triggers the procedure of TS 23.222 8.23.3.
type RevocationRequest struct {
	APIInvokerID string `json:"api_invoker_id"`
	// APIIDs are 1 to 100 apiIds; AllAPIs stands in their place.
	APIIDs  []string `json:"api_ids,omitempty"`
	AllAPIs bool     `json:"all_apis,omitempty"`
	// AEFID defaults to the app's aef_id.
	AEFID string `json:"aef_id,omitempty"`
	// Cause is the cause of TS 29.222 8.5.4.2.5: OVERLIMIT_USAGE,
	// UNEXPECTED_REASON, from Release 19 on also AUTHORIZATION_ISSUE and
	// OTHER_REASON. Required.
	Cause string `json:"cause"`
	// Reason and Ticket are for people; they are recorded, not sent.
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
	// AllAEFs is the indication of step 7.
	AllAEFs *bool `json:"all_aefs,omitempty"`
	// Hold blocks the invoker here while the core's word is awaited.
	// Default: true.
	Hold *bool `json:"hold,omitempty"`
	// RequestID, if set, names this request, at most 200 bytes. A repeat of it,
	// for 30 days, triggers nothing and answers with what the first one made;
	// another request of the same name is refused.
	RequestID string `json:"request_id,omitempty"`
	// NoWait answers at once, without waiting for the core.
	NoWait bool `json:"no_wait,omitempty"`
}

// RevocationResponse answers a trigger.
type RevocationResponse struct {
	// Blocked says that no call of what was asked for is passed on here any
	// more.
	Blocked bool `json:"blocked"`
	// EffectiveScope is what the core's profile makes of the request:
	// this_aef or all_aefs.
	EffectiveScope string `json:"effective_scope"`
	// Existing says that nothing new was triggered: the same request, or an
	// equal revocation that is pending, was there already.
	Existing bool `json:"existing"`
	// Note says what cannot be seen from here.
	Note        string                  `json:"note"`
	Revocations []revocation.Revocation `json:"revocations"`
}

// LiftRequest allows again what was denied.
type LiftRequest struct {
	APIInvokerID string   `json:"api_invoker_id"`
	APIIDs       []string `json:"api_ids,omitempty"`
	AllAPIs      bool     `json:"all_apis,omitempty"`
	// AEFID narrows the lift to claims that name this aefId. Default: every
	// claim, also those of the core that name no aefId.
	AEFID  string `json:"aef_id,omitempty"`
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
}

// LiftResponse says what a lift did and what it left.
type LiftResponse struct {
	Lifted       []revocation.Claim      `json:"lifted"`
	Cancelled    []revocation.Revocation `json:"cancelled"`
	StillDenying []revocation.Claim      `json:"still_denying"`
	// NotInContext are pairs that no claim denies, and that are refused all
	// the same because the core's security context does not list them.
	NotInContext []Pair `json:"not_in_context"`
	// ContextUnknown are pairs that no claim denies, of which nobody knows: the
	// core has not answered.
	ContextUnknown []Pair `json:"context_unknown,omitempty"`
	// CountsBegunAnew are pairs whose total of calls was used up, and is counted
	// from 0 again.
	CountsBegunAnew []Pair `json:"counts_begun_anew,omitempty"`
}

// Pair is an API at an AEF.
type Pair struct {
	AEFID string `json:"aef_id"`
	APIID string `json:"api_id"`
}

// ReconcileRequest asks for every context and all token keys to be read again.
type ReconcileRequest struct {
	// Accept lets a suspended mass change count: the core is right.
	Accept bool `json:"accept,omitempty"`
	// Reason and Ticket are recorded in the audit.
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
}

// ReconcileResponse answers it.
type ReconcileResponse struct {
	// Accepted says that a mass change was suspended and now counts.
	Accepted bool     `json:"accepted"`
	Contexts Contexts `json:"contexts"`
	// Keys are the key sources, after they were read.
	Keys []Keys `json:"keys"`
}

// Contexts is the state of what the core says about API invokers.
type Contexts struct {
	Invokers int `json:"invokers"`
	// Due contexts are read again before they decide.
	Due int `json:"due"`
	// Suspended says that a mass change is withheld; Withheld counts it.
	Suspended     bool `json:"suspended"`
	Withheld      int  `json:"withheld"`
	CoreReachable bool `json:"core_reachable"`
	// LastAnswer is when the core answered last.
	LastAnswer time.Time `json:"last_answer,omitzero"`
	// Oldest is how long ago the oldest context of an active API invoker was
	// read: the worst exposure to a revoke that was announced to nobody.
	OldestSeconds float64 `json:"oldest_seconds"`
	Reads         uint64  `json:"reads"`
	FailedReads   uint64  `json:"failed_reads"`
	// LateReads are calls that were decided before their read came.
	LateReads uint64 `json:"late_reads"`
}

// Subscription is the state of the event subscription at the core.
type Subscription struct {
	// Configured says that there should be one.
	Configured bool `json:"configured"`
	// Subscribed says that the core had it when it was asked last.
	Subscribed bool     `json:"subscribed"`
	ID         string   `json:"id,omitempty"`
	Events     []string `json:"events,omitempty"`
	// RefusedEvents are those that the core does not know.
	RefusedEvents []string `json:"refused_events,omitempty"`
	// Since is when the core made it, Checked when it last confirmed it.
	Since   time.Time `json:"since,omitzero"`
	Checked time.Time `json:"checked,omitzero"`
	// Error is why the core could not be asked, or refused.
	Error string `json:"error,omitempty"`
}

// RevocationList is one page of revocations, newest first.
type RevocationList struct {
	Revocations []revocation.Revocation `json:"revocations"`
	// Next continues the listing, as the query parameter before.
	Next uint64 `json:"next,omitempty"`
}

// ClaimList is one page of claims.
type ClaimList struct {
	Claims []revocation.Claim `json:"claims"`
	// Next continues the listing, as the query parameter after.
	Next string `json:"next,omitempty"`
}

// AuditList is one page of audit records, newest first.
type AuditList struct {
	Audit []revocation.Audit `json:"audit"`
	// Next continues the listing, as the query parameter before.
	Next uint64 `json:"next,omitempty"`
}

// CheckRequest asks whether a call would pass, and why: of an API invoker whose
// token is in order, or with a token.
type CheckRequest struct {
	// APIInvokerID or Token is required, not both.
	APIInvokerID string `json:"api_invoker_id,omitempty"`
	// Token is an access token. It is neither stored nor logged nor answered.
	Token string `json:"token,omitempty"`
	// APIID and AEFID narrow the check to routes that stand for them.
	// Default: every route.
	APIID string `json:"api_id,omitempty"`
	AEFID string `json:"aef_id,omitempty"`
	// ClientCertificateNames are the common name and the subject alternative
	// names (DNS, URI) of the certificate that the caller will show, at most 100.
	// Default: a route's bind is not checked.
	ClientCertificateNames []string `json:"client_certificate_names,omitempty"`
}

// MaxCertificateNames bounds client_certificate_names of one request.
const MaxCertificateNames = 100

// CheckResponse answers it, with one check for each route.
type CheckResponse struct {
	Checks []Check `json:"checks"`
}

// Check is what becomes of a call at one route.
type Check struct {
	Route
	// Passed says that the call is passed on: it is allowed, or the route only
	// monitors, or it cannot be decided and the route passes such calls on.
	Passed  bool `json:"passed"`
	Allowed bool `json:"allowed"`
	// Reason is allowed, or why not.
	Reason string `json:"reason"`
	// Status and Detail are what a refused caller is answered.
	Status int    `json:"status,omitempty"`
	Detail string `json:"detail,omitempty"`
	// APIInvokerID is whom the token names, once it was verified.
	APIInvokerID string `json:"api_invoker_id,omitempty"`
	// Steps are those of the decision, in order, up to the one that refuses.
	Steps []Step `json:"steps"`
	// Claims are those that cover the call.
	Claims []revocation.Claim `json:"claims"`
	// Notes say what was not checked.
	Notes []string `json:"notes,omitempty"`
}

// Step is one question of a decision and its answer.
type Step struct {
	Step    string `json:"step"`
	Passed  bool   `json:"passed"`
	Outcome string `json:"outcome"`
}

// The events of a watch. The id of an event, given as Last-Event-ID, continues
// the watch after it.
const (
	// EventStart begins every watch; its data is a WatchStart.
	EventStart = "start"
	// EventChange is a change that the audit records; its data is that record.
	EventChange = "change"
	// EventAlarm is an alarm raised or cleared; its data is an alarm.Change.
	EventAlarm = "alarm"
	// EventGap says that changes are missing here; its data is a WatchGap.
	EventGap = "gap"
)

// WatchGap says that changes after the last one seen are no longer in the audit.
// The watch goes on with what still is.
type WatchGap struct {
	// After is the sequence of the last change before the gap.
	After uint64 `json:"after"`
	// To is that of the last change that is missing.
	To uint64 `json:"to"`
	// First is that of the first change after the gap, left out if there is
	// none yet.
	First uint64 `json:"first,omitempty"`
}

// WatchStart says where a watch begins.
type WatchStart struct {
	// Sequence is that of the last change before the watch.
	Sequence uint64 `json:"sequence"`
	// Alarms are those that are raised now.
	Alarms []alarm.Alarm `json:"alarms"`
}

// HeaderError is the header that names the kind of an error.
const HeaderError = "Capif-Error"

// The values of [HeaderError].
const (
	CodeNotConfigured = "not_configured" // the running Caddy has no capif app
	CodeNotFound      = "not_found"      // there is no such record
	CodeInvalid       = "invalid"        // the request is wrong
	CodeUnavailable   = "unavailable"    // the ledger is not open or cannot be written
	CodeInternal      = "internal"       // see the log
)

// Error is the body of an answer that is an error.
type Error struct {
	Error string `json:"error"`
}

// Status is the state of the AEF.
type Status struct {
	AEFID   string   `json:"aef_id"`
	AEFIDs  []string `json:"aef_ids"`
	Core    string   `json:"core"`
	Profile string   `json:"profile"`
	Ledger  Ledger   `json:"ledger"`
	Keys    []Keys   `json:"keys"`
	Routes  []Route  `json:"routes"`
	// Outbox is how many revocations wait for the core.
	Outbox       int           `json:"outbox"`
	Contexts     Contexts      `json:"contexts"`
	Subscription Subscription  `json:"subscription"`
	Cache        Cache         `json:"deny_cache"`
	Alarms       []alarm.Alarm `json:"alarms"`
}

// Ledger is the state of the ledger.
type Ledger struct {
	Path         string `json:"path"`
	Ready        bool   `json:"ready"`
	Failing      bool   `json:"failing"`
	DeniedScopes int64  `json:"denied_scopes"`
	Pending      int    `json:"pending_revocations"`
	AuditRecords int64  `json:"audit_records"`
	// Bytes is the size of the file.
	Bytes int64 `json:"bytes"`
}

// Keys is the state of one key source.
type Keys struct {
	Source   string    `json:"source"`
	Present  bool      `json:"present"`
	LoadedAt time.Time `json:"loaded_at,omitzero"`
	Error    string    `json:"error,omitempty"`
}

// Route is what one capif_enforce protects.
type Route struct {
	AEFID   string   `json:"aef_id"`
	APIName string   `json:"api_name,omitempty"`
	APIIDs  []string `json:"api_ids"`
	// Mode is enforce or monitor.
	Mode string `json:"mode"`
	// OnError is what becomes of calls that cannot be decided: deny or allow.
	OnError        string `json:"on_error"`
	RequireContext bool   `json:"require_context"`
}

// Cache counts what the deny cache did since the process started.
type Cache struct {
	Dropped  uint64 `json:"dropped"`
	Rejected uint64 `json:"rejected"`
	Evicted  uint64 `json:"evicted"`
}
