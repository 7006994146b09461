package enforce

import "github.com/caddy-capif/aef/internal/token"

// Reason is the outcome of a decision. The set is closed: it labels metrics.
type Reason uint8

const (
	// Undecided is the zero value and never an outcome.
	Undecided Reason = iota
	// Allowed passes the call on.
	Allowed
	// NoToken: there is no bearer token (RFC 6750 3.1: 401 without a code).
	NoToken
	// MalformedRequest: the request itself is wrong (400 invalid_request).
	MalformedRequest
	// TokenMalformed: the token is no well-formed access token (401
	// invalid_token, as all that follow up to TokenRevoked).
	TokenMalformed
	// TokenBadSignature: no key verifies the token.
	TokenBadSignature
	// TokenExpired: exp has passed.
	TokenExpired
	// TokenNotYetValid: nbf has not been reached.
	TokenNotYetValid
	// TokenNoInvoker: the token does not name one API invoker.
	TokenNoInvoker
	// TokenNotBound: the token is not the caller's by its client certificate
	// (401).
	TokenNotBound
	// TokenRevoked: this token is denied, another may pass (401).
	TokenRevoked
	// InsufficientScope: the scope does not name this API (403).
	InsufficientScope
	// AuthorizationRevoked: a claim denies the API invoker; a new token will
	// not help (403).
	AuthorizationRevoked
	// NotInContext: the security context does not list this API for the API
	// invoker (403).
	NotInContext
	// ContextUnknown: nothing is known of the API invoker's security context,
	// and the core cannot be asked (503).
	ContextUnknown
	// ContextStale: the context was read longer ago than the route allows
	// (503).
	ContextStale
	// NotReady: the ledger is not open (503).
	NotReady
	// KeysMissing: no key has been loaded yet (503).
	KeysMissing
	// OutsideTimeRange: the access control policy allows calls at other times
	// (403).
	OutsideTimeRange
	// OverRate: more calls in a second than the access control policy allows
	// (429, RFC 6585 4).
	OverRate
	// OverLimit: all calls that the access control policy allows in total have
	// been made (403).
	OverLimit
	// PolicyUnavailable: the access control policy that the route requires, or
	// the count of calls, cannot be had (503).
	PolicyUnavailable
	reasons
)

var reasonNames = [reasons]string{
	Undecided:            "undecided",
	Allowed:              "allowed",
	NoToken:              "no_token",
	MalformedRequest:     "malformed_request",
	TokenMalformed:       "token_malformed",
	TokenBadSignature:    "token_bad_signature",
	TokenExpired:         "token_expired",
	TokenNotYetValid:     "token_not_yet_valid",
	TokenNoInvoker:       "token_no_invoker",
	TokenNotBound:        "token_not_bound",
	TokenRevoked:         "token_revoked",
	InsufficientScope:    "insufficient_scope",
	AuthorizationRevoked: "authorization_revoked",
	NotInContext:         "not_in_context",
	ContextUnknown:       "context_unknown",
	ContextStale:         "context_stale",
	NotReady:             "not_ready",
	KeysMissing:          "keys_missing",
	OutsideTimeRange:     "outside_time_range",
	OverRate:             "over_rate",
	OverLimit:            "over_limit",
	PolicyUnavailable:    "policy_unavailable",
}

// String returns the name that stands in metrics, logs and placeholders.
func (r Reason) String() string {
	if r >= reasons {
		return reasonNames[Undecided]
	}
	return reasonNames[r]
}

// Undecidable says that what a decision needs is not there: nothing was decided
// about the call, neither for it nor against it.
func (r Reason) Undecidable() bool {
	switch r {
	case NotReady, KeysMissing, ContextUnknown, ContextStale, PolicyUnavailable:
		return true
	default:
		return false
	}
}

// Reasons returns every reason that a decision can have.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons)
	for r := Allowed; r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

func reasonOf(err error) Reason {
	switch token.KindOf(err) {
	case token.BadSignature:
		return TokenBadSignature
	case token.Expired:
		return TokenExpired
	case token.NotYetValid:
		return TokenNotYetValid
	case token.NoInvoker:
		return TokenNoInvoker
	case token.KeysMissing:
		return KeysMissing
	default:
		return TokenMalformed
	}
}
