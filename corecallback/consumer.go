package corecallback

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// A Consumer acts on what the core says. All methods may be called
// concurrently, MUST be idempotent, since a core repeats what it got no answer
// to, and MUST return when ctx is done. The context ends 30 s after the call,
// but not when the request is cancelled.
//
// A nil error becomes a 2xx. [InvalidParam] and [InvalidParams] become 400,
// [ErrForeignAEF] 404, anything else 503 with Retry-After. The texts of other
// errors than InvalidParam are logged and not sent.
type Consumer interface {
	// Deny blocks what d names. It MUST return nil only after the deny is
	// durable and in force: no call that starts later is let through. It
	// denies all of d or returns an error; with ErrForeignAEF or InvalidParam
	// it has stored nothing. Reading the security context again is the Consumer's own job: no
	// Hint follows.
	Deny(ctx context.Context, d Deny) error

	// Gone says that these API invokers were offboarded: deny all of their
	// APIs, durably as in Deny, and delete what is kept about their security
	// (TS 33.122 6.8). There is at least one.
	Gone(ctx context.Context, invokers []string) error

	// Hint asks to read security contexts again. It MUST NOT deny or lift by
	// itself. When it returns nil, a verdict computed before the call must no
	// longer be relied on.
	Hint(ctx context.Context, h Hint) error

	// PolicyChanged says that an access control policy was updated or is no
	// longer available. A Hint follows it.
	PolicyChanged(ctx context.Context, p Policy) error

	// ServiceUnavailable says that these service APIs were unpublished; an
	// empty list means that the core did not say which. It denies no API
	// invoker: the APIs come back when they are published again.
	ServiceUnavailable(ctx context.Context, apiIDs []string) error
}

// Deny is the core's word that an authorization is revoked.
type Deny struct {
	// Invokers are the API invokers concerned, at least one;
	// exactly one if Event is empty.
	Invokers []string
	// AEFID is the AEF concerned; empty means every AEF that is reached here
	// and exposes the APIs. TS 29.222 8.5.4.2.5
	AEFID string
	// APIIDs are the service APIs; empty means all of them, and occurs only
	// for an event.
	APIIDs []string
	// Token, unless zero, narrows the deny to this one access token
	// (Release 19) and never widens it. It is as the core sent it: not
	// verified, perhaps not even a JWS. One that belongs to another API
	// invoker is to be refused with InvalidParam for [ParamAccessToken].
	Token Secret
	// Cause is one of the Cause constants or any other text; an event has none.
	Cause string
	// Event is the event that said so, empty for revoke-authorization.
	Event string
}

// Hint is the wish that security contexts be read again.
type Hint struct {
	// Invokers are the API invokers to read again; empty means all that were
	// seen lately. From an unauthenticated hint these can be any texts.
	Invokers []string
	// Authenticated tells an event of the authenticated core from a message
	// on HintPath, which anyone may have sent.
	Authenticated bool
	// Event is the event behind it, if it is one that this package knows.
	Event string
}

// Policy is what an event says about access control policies.
type Policy struct {
	Event    string                   // EventPolicyUpdate or EventPolicyUnavailable
	APIIDs   []string                 // the service APIs named, if any
	Invokers []string                 // the API invokers named, if any
	List     *AccessControlPolicyList // the new policies, nil if not included
}

// A CheckAuthenticator answers check-authentication (TS 29.222 6.2.2.2). API
// invokers call it, perhaps before they have any session: the handler
// authenticates none of them, and limiting their rate is the job of the
// implementation.
//
// A nil error becomes 200, [ErrUnknownInvoker] 403, [ErrRateLimited] 429,
// InvalidParam 400, anything else 503.
type CheckAuthenticator interface {
	CheckAuthentication(ctx context.Context, c CheckAuthentication) error
}

// CheckAuthentication is the question whether the AEF has what it needs to
// authenticate this API invoker.
type CheckAuthentication struct {
	Invoker string
	// RemoteAddr is that of the HTTP request.
	RemoteAddr string
	// Certificate is the leaf that the caller presented, nil if none. It
	// holds the key, but nobody has verified who it is.
	Certificate *x509.Certificate
}

// Errors for a Consumer to return, bare or wrapped.
var (
	// ErrForeignAEF: the aefId is not hosted here, and nothing was stored.
	ErrForeignAEF = errors.New("the aefId is not hosted here")
	// ErrNotDurable: the deny could not be made durable. It may be in force,
	// and may not survive a restart.
	ErrNotDurable = errors.New("the change could not be made durable")
	// ErrUnknownInvoker: the core has no security context of the API invoker for this AEF.
	ErrUnknownInvoker = errors.New("the API invoker is not known")
	// ErrRateLimited: the caller asks too often.
	ErrRateLimited = errors.New("too many requests")
)

// RetryError says when to try again: After becomes Retry-After, rounded up to
// seconds, where the answer for Err has that header. Without it, 5 s are said.
type RetryError struct {
	Err   error
	After time.Duration
}

// Error returns the text of Err.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RetryError) Unwrap() error { return e.Err }

// Secret is a text that does not show itself: printed, logged or marshalled it
// reads "[redacted]". The zero value holds nothing.
type Secret struct{ value string }

// NewSecret returns s as a Secret.
func NewSecret(s string) Secret { return Secret{s} }

const redacted = "[redacted]"

// Reveal returns the text itself.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns "[redacted]", or nothing for the zero value.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format hides the text whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue hides the text in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the text in JSON and other encodings.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var (
	_ error          = (*RetryError)(nil)
	_ fmt.Formatter  = Secret{}
	_ slog.LogValuer = Secret{}
)
