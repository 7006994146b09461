package token

import "errors"

// Kind says why a token was not accepted, in the classes that get different
// answers on the wire.
type Kind uint8

const (
	// Malformed: the token is not a well-formed access token: size, parts,
	// encoding, JSON, or a claim of the wrong type.
	Malformed Kind = iota + 1
	// BadSignature: no key verifies it, or its algorithm is not allowed.
	BadSignature
	// Expired: exp has passed (TS 33.122 C.6: such a token shall be rejected).
	Expired
	// NotYetValid: nbf has not been reached.
	NotYetValid
	// NoInvoker: the claims that name the API invoker are missing, empty or
	// do not agree.
	NoInvoker
	// KeysMissing: there is no key yet. This says nothing about the token: the
	// answer is "not ready", not "refused".
	KeysMissing
)

var kindNames = [...]string{
	Malformed:    "malformed",
	BadSignature: "bad_signature",
	Expired:      "expired",
	NotYetValid:  "not_yet_valid",
	NoInvoker:    "no_invoker",
	KeysMissing:  "keys_missing",
}

// String returns a constant snake_case word, fit for a metric label.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Error is the one error type of a verification. Its text is constant for each
// cause, holds nothing of the token, and has no character that an
// error_description may not have (RFC 6750 3): it can be shown to the caller.
type Error struct {
	Kind Kind
	text string
}

// Error returns the text for the caller.
func (e *Error) Error() string { return e.text }

// KindOf returns the Kind of err, or 0 if err is not from a verification.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// All errors of a verification exist once, so that refusing costs no memory.
var (
	errTooLong     = &Error{Malformed, "the token is longer than 16 KiB"}
	errParts       = &Error{Malformed, "the token is not a compact JWS of three parts"}
	errEncoding    = &Error{Malformed, "a part of the token is not canonical base64url"}
	errHeader      = &Error{Malformed, "the token header is not a JSON object with one alg of type string"}
	errCritical    = &Error{Malformed, "the token header has crit or b64, which are not supported"}
	errClaims      = &Error{Malformed, "the token claims are not a JSON object"}
	errExpType     = &Error{Malformed, "the token has no single exp claim that is a number of seconds since 1970"}
	errNbfType     = &Error{Malformed, "the nbf claim of the token is not a number of seconds since 1970"}
	errScopeType   = &Error{Malformed, "the scope claim of the token is neither a string nor a list of strings"}
	errInvokerType = &Error{Malformed, "a claim that names the API invoker is not a single plain string"}

	errAlgorithm = &Error{BadSignature, "the signature algorithm of the token is not allowed"}
	errSignature = &Error{BadSignature, "the token signature does not verify with any key of the core"}

	errExpired     = &Error{Expired, "the token has expired"}
	errNotYetValid = &Error{NotYetValid, "the token is not valid yet"}

	errNoInvoker      = &Error{NoInvoker, "the token does not name an API invoker"}
	errInvokersDiffer = &Error{NoInvoker, "the claims of the token that name the API invoker differ"}

	errKeysMissing = &Error{KeysMissing, "the keys that verify tokens are not loaded yet"}
)

var _ error = (*Error)(nil)
