package coreclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds how long a core can tell us to wait.
const maxRetryAfter = 24 * time.Hour

// Class says what a failed call means for the one who made it.
type Class int

const (
	// Unknown means that nothing was learnt, and a revoke may have been done: no answer, 5xx, 408, 425, 429, a
	// redirect that is not followed, or a success that cannot be read.
	Unknown Class = iota
	// NotFound is a 404: see Error.InCoreShape before believing it.
	NotFound
	// BadRequest means that the request itself is wrong and sending it again will not help: 400 and most other 4xx.
	BadRequest
	// Refused is a 401 or 403: the core refuses this AEF, which says nothing about the API invoker.
	Refused
)

// String is the class in lower case, as in logs.
func (c Class) String() string {
	switch c {
	case NotFound:
		return "not_found"
	case BadRequest:
		return "bad_request"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Error is the error of every call to the core.
type Error struct {
	// Op is what was being done.
	Op string
	// Status that came; 0: none.
	Status int
	// RetryAfter is how long the core asked us to wait, at most 24 h; 0: it did not say.
	RetryAfter time.Duration
	// Reason is the core's own text: at most 300 bytes, printable. It is empty if there was none.
	Reason string
	// InCoreShape tells that the body was an error of the core's API and not that of a proxy: a JSON
	// object, sent as JSON, with a cause, title or detail, and with no other status than the answer's.
	// Only such a 404 is the core's word about an API invoker.
	InCoreShape bool
	// Err is the cause where it is not the status.
	Err error

	unsent bool // the request was found wrong here
}

func invalid(op string, err error) *Error { return &Error{Op: op, Err: err, unsent: true} }

// Error names the operation, what came, and for common mistakes what to look at.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	switch {
	case e.unsent:
	case e.Status == 0:
		b.WriteString(": no answer")
	default:
		fmt.Fprintf(&b, ": core answered %d", e.Status)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, " (%s)", e.Reason)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	var unverified *tls.CertificateVerificationError
	switch {
	case e.Class() == Refused:
		b.WriteString("; the core refuses this AEF, not the API invoker: check client_cert and the role of its subject at the core")
	case errors.As(e.Err, &unverified):
		b.WriteString("; check trusted_ca and the host name in the core's url")
	}
	return b.String()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Class of the failure, by status code whatever the body says.
func (e *Error) Class() Class {
	if e.unsent {
		return BadRequest
	}
	switch e.Status {
	case http.StatusNotFound:
		return NotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return Refused
	case http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusConflict, http.StatusMisdirectedRequest,
		http.StatusLocked, http.StatusFailedDependency, http.StatusTooEarly, http.StatusTooManyRequests,
		499: // of nginx: its client went away
		return Unknown // nothing that the request itself could mend
	}
	if e.Status/100 == 4 {
		return BadRequest
	}
	return Unknown
}

// retryAfter reads the header in both its forms (RFC 9110 10.2.3); what cannot be read is 0.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// Interface guards
var _ error = (*Error)(nil)
