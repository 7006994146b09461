package caddyplugin

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-capif/aef/internal/enforce"
)

// problemBase is where the problem types are explained.
const problemBase = "https://github.com/caddy-capif/aef/blob/main/docs/problems.md#"

// problem is what a reason looks like on the wire: RFC 6750 3 for the header,
// RFC 9457 for the body.
type problem struct {
	status int
	kind   string // fragment of the problem type
	code   string // RFC 6750 error code, "" for none
	title  string
	detail string
}

// A revoked authorization is 403 and not 401: a new token would not help, and
// callers that are told 401 ask for one for ever.
var problems = map[enforce.Reason]problem{
	enforce.NoToken: {http.StatusUnauthorized, "no-token", "", "Access token required",
		"send the access token as Authorization: Bearer"},
	enforce.MalformedRequest: {http.StatusBadRequest, "malformed-request", "invalid_request", "Malformed request",
		"send exactly one Authorization header with exactly one bearer token"},
	enforce.TokenMalformed: {http.StatusUnauthorized, "token-malformed", "invalid_token", "Malformed access token",
		"the access token is malformed"},
	enforce.TokenBadSignature: {http.StatusUnauthorized, "token-bad-signature", "invalid_token", "Access token not verified",
		"the access token does not verify"},
	enforce.TokenExpired: {http.StatusUnauthorized, "token-expired", "invalid_token", "Access token expired",
		"the access token has expired"},
	enforce.TokenNotYetValid: {http.StatusUnauthorized, "token-not-yet-valid", "invalid_token", "Access token not valid yet",
		"the access token is not valid yet"},
	enforce.TokenNoInvoker: {http.StatusUnauthorized, "token-no-invoker", "invalid_token", "Access token names no API invoker",
		"the access token does not name one API invoker"},
	enforce.TokenNotBound: {http.StatusUnauthorized, "token-not-bound", "invalid_token", "Access token of another API invoker",
		"the access token does not belong to the API invoker of the client certificate"},
	enforce.TokenRevoked: {http.StatusUnauthorized, "token-revoked", "invalid_token", "Access token revoked",
		"this access token was revoked"},
	enforce.InsufficientScope: {http.StatusForbidden, "insufficient-scope", "insufficient_scope", "API not in scope",
		"the access token does not cover this API"},
	enforce.AuthorizationRevoked: {http.StatusForbidden, "authorization-revoked", "", "Authorization revoked",
		"the API invoker's authorization for this API was revoked; a new access token will not help"},
	enforce.NotInContext: {http.StatusForbidden, "not-in-context", "", "Not authorized",
		"the API invoker's security context does not list this API; a new access token will not help"},
	enforce.ContextUnknown: {http.StatusServiceUnavailable, "not-ready", "", "Not ready",
		"the API invoker's authorization cannot be checked at the moment"},
	enforce.ContextStale: {http.StatusServiceUnavailable, "not-ready", "", "Not ready",
		"the API invoker's authorization could not be checked for too long"},
	enforce.NotReady: {http.StatusServiceUnavailable, "not-ready", "", "Not ready",
		"authorization cannot be checked at the moment"},
	enforce.OutsideTimeRange: {http.StatusForbidden, "outside-time-range", "", "Not allowed at this time",
		"the access control policy allows the API invoker to call this API at other times"},
	enforce.OverRate: {http.StatusTooManyRequests, "over-rate", "", "Too many calls in a second",
		"the API invoker has made more calls in a second than the access control policy allows"},
	enforce.OverLimit: {http.StatusForbidden, "over-limit", "", "All calls used",
		"the API invoker has made all calls that the access control policy allows it; a new access token will not help"},
	enforce.PolicyUnavailable: {http.StatusServiceUnavailable, "not-ready", "", "Not ready",
		"the access control policy cannot be applied at the moment"},
	enforce.KeysMissing: {http.StatusServiceUnavailable, "not-ready", "", "Not ready",
		"access tokens cannot be verified at the moment"},
}

// answer is a rendered problem.
type answer struct {
	status int
	detail string
	header []headerLine
	// content describes body, which handle_errors replaces.
	content []headerLine
	body    []byte
}

type headerLine struct {
	name   string
	values []string
}

// answers are the problems of one route, rendered once: refusing costs next to
// nothing.
type answers struct {
	realm    string
	rendered map[enforce.Reason]*answer
}

func newAnswers(realm string) *answers {
	a := &answers{realm: realm, rendered: make(map[enforce.Reason]*answer, len(problems))}
	for reason, p := range problems {
		a.rendered[reason] = a.render(p)
	}
	return a
}

// of returns the answer to a decision. The verifier's own words, which say what
// is wrong with a token, take the place of the general ones.
func (a *answers) of(d *enforce.Decision) *answer {
	known, ok := a.rendered[d.Reason]
	if !ok {
		return a.rendered[enforce.NotReady]
	}
	if d.Err == nil || d.Err.Error() == known.detail {
		return known
	}
	p := problems[d.Reason]
	p.detail = d.Err.Error()
	return a.render(p)
}

func (a *answers) render(p problem) *answer {
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{problemBase + p.kind, p.title, p.status, p.detail})
	if err != nil {
		panic(err) // four plain fields: cannot happen
	}
	out := &answer{status: p.status, detail: p.detail, body: body,
		header: []headerLine{{"Cache-Control", []string{"no-store"}}},
		content: []headerLine{
			{"Content-Type", []string{"application/problem+json"}},
			{"Content-Length", []string{strconv.Itoa(len(body))}},
		}}
	switch p.status {
	case http.StatusServiceUnavailable:
		out.header = append(out.header, headerLine{"Retry-After", []string{"5"}})
	case http.StatusTooManyRequests:
		// A bucket that has a token in a second or never: see internal/policy.
		out.header = append(out.header, headerLine{"Retry-After", []string{"1"}})
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest:
		out.header = append(out.header, headerLine{"Www-Authenticate", []string{a.challenge(p)}})
	}
	return out
}

// challenge is the WWW-Authenticate value (RFC 6750 3). Without a credential
// there is no error code.
func (a *answers) challenge(p problem) string {
	value := `Bearer realm="` + quotable(a.realm) + `"`
	if p.code == "" {
		return value
	}
	return value + `, error="` + p.code + `", error_description="` + quotable(p.detail) + `"`
}

// quotable keeps the characters that RFC 6750 3 allows in a quoted value.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, s)
}

func (a *answer) setHeader(h http.Header) {
	for _, line := range a.header {
		h[line.name] = line.values
	}
}

func (a *answer) write(w http.ResponseWriter) error {
	a.setHeader(w.Header())
	for _, line := range a.content {
		w.Header()[line.name] = line.values
	}
	w.WriteHeader(a.status)
	_, err := w.Write(a.body)
	return err
}
