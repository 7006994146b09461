package corecallback

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// InvalidParam names one member of a message that is refused, and why
// (InvalidParam of TS 29.122). As an error of a [Consumer] it becomes a 400, and both
// texts are sent to the core.
type InvalidParam struct { //nolint:errname // the name that TS 29.122 gives it
	Param  string `json:"param"`            // JSON pointer, as in "/revokeInfo/apiIds"
	Reason string `json:"reason,omitempty"` // "must hold at least one entry"
}

// Error returns pointer and reason.
func (p InvalidParam) Error() string { return p.Param + " " + p.Reason }

// InvalidParams is everything that is wrong with one message.
type InvalidParams []InvalidParam //nolint:errname // the name that TS 29.122 gives it

// Error returns all pointers and reasons.
func (p InvalidParams) Error() string {
	texts := make([]string, len(p))
	for i := range p {
		texts[i] = p[i].Error()
	}
	return strings.Join(texts, "; ")
}

// Problem is the document of every refusal (RFC 9457, ProblemDetails of TS 29.122),
// sent as application/problem+json.
type Problem struct {
	Type          string        `json:"type"`
	Title         string        `json:"title"`
	Status        int           `json:"status"`
	Detail        string        `json:"detail,omitempty"`
	InvalidParams InvalidParams `json:"invalidParams,omitempty"`

	// retryAfter becomes a header unless it is zero.
	retryAfter time.Duration
}

const defaultRetryAfter = 5 * time.Second

// refusal returns a problem whose meaning is that of its status code.
func refusal(status int, detail string) Problem {
	return Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// write sends the problem. Every answer is for this one request, so none may be
// kept by a cache on the way.
func (p Problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if p.retryAfter > 0 {
		seconds := (p.retryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a core that has gone away is not our error
}

// problemFor returns the answer for an error of the decoder or of a Consumer.
func problemFor(err error) Problem {
	var one InvalidParam
	if errors.As(err, &one) {
		return invalid(InvalidParams{one})
	}
	var many InvalidParams
	if errors.As(err, &many) {
		return invalid(many)
	}
	var p problemError
	if errors.As(err, &p) {
		return Problem(p)
	}
	after := defaultRetryAfter
	var retry *RetryError
	if errors.As(err, &retry) && retry.After > 0 {
		after = retry.After
	}
	switch {
	case errors.Is(err, ErrForeignAEF):
		return refusal(http.StatusNotFound, "the aefId is not hosted here; nothing was stored")
	case errors.Is(err, ErrUnknownInvoker):
		return refusal(http.StatusForbidden, "this AEF knows no security context of the API invoker")
	case errors.Is(err, ErrRateLimited):
		p := refusal(http.StatusTooManyRequests, "too many requests; try again later")
		p.retryAfter = after
		return p
	case errors.Is(err, ErrNotDurable):
		p := refusal(http.StatusServiceUnavailable, "the AEF could not make this durable: it cannot write to its disk; what was revoked is blocked, and may not survive a restart; send it again")
		p.retryAfter = after
		return p
	default:
		p := refusal(http.StatusServiceUnavailable, "the AEF could not carry this out completely; send it again")
		p.retryAfter = after
		return p
	}
}

func invalid(params InvalidParams) Problem {
	p := refusal(http.StatusBadRequest, "the message is not valid; nothing was stored")
	p.InvalidParams = params
	return p
}

// problemError is a problem on its way up to the one place that answers.
type problemError Problem

// Error returns the detail.
func (e problemError) Error() string { return e.Detail }

var (
	_ error = InvalidParam{}
	_ error = InvalidParams(nil)
	_ error = problemError{}
)
