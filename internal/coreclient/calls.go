package coreclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"unicode/utf8"
)

const (
	opContext = "read the security context from the core"
	opRevoke  = "revoke at the core"
)

// Context reads the security context of an API invoker
// (GET …/trustedInvokers/{apiInvokerId}, TS 29.222 8.5.2.3.3.1). Only a 200 that holds a context is a
// success: every error is an *Error, and one with a status of 200 means that the body was none.
func (c *Core) Context(ctx context.Context, invoker string) (Context, error) {
	if err := checkID("API invoker", invoker); err != nil {
		return Context{}, invalid(opContext, err)
	}
	a, err := c.exchange(ctx, request{
		op:     opContext,
		method: http.MethodGet,
		url:    c.resource(invoker, "") + "?authenticationInfo=true&authorizationInfo=true",
	})
	if err != nil {
		return Context{}, err
	}
	if a.status != http.StatusOK {
		return Context{}, a.failure(opContext)
	}
	if a.readErr != nil {
		return Context{}, &Error{Op: opContext, Status: a.status, Err: fmt.Errorf("answer broke off: %w", a.readErr)}
	}
	sc, err := decodeContext(a.body)
	if err != nil {
		return Context{}, &Error{Op: opContext, Status: a.status, Err: err}
	}
	return sc, nil
}

// RevokeRequest asks the core to take one API away from one API invoker.
type RevokeRequest struct {
	// Invoker, AEFID and APIID are the ids that the core assigned.
	Invoker, AEFID, APIID string
	// Cause of TS 29.222 8.5.4.2.5; empty means UNEXPECTED_REASON. Profiles of cores from before
	// Release 19 send UNEXPECTED_REASON for a cause that came later.
	Cause string
	// AllAEFs asks to cover other AEFs as well: see EffectiveScope.
	AllAEFs *bool
}

// securityNotification is the wire form (TS 29.222 8.5.4.2.5). An AEF never sends accessToken
// (TS 23.222 8.23.2.1 NOTE 1).
type securityNotification struct {
	APIInvokerID string   `json:"apiInvokerId"`
	AEFID        string   `json:"aefId,omitempty"`
	APIIDs       []string `json:"apiIds"`
	Cause        string   `json:"cause"`
}

// Revoke sends the request (POST …/trustedInvokers/{apiInvokerId}/delete, TS 29.222 8.5.2.3.4.2) with one
// apiId, since cores mishandle several. Any 2xx is a success, returned as the core gave it, and proves
// nothing: read the context back. Every error is an *Error; where its class is Unknown the core may have
// done it all the same.
func (c *Core) Revoke(ctx context.Context, r RevokeRequest) (int, error) {
	if err := errors.Join(checkID("API invoker", r.Invoker), checkID("API", r.APIID)); err != nil {
		return 0, invalid(opRevoke, err)
	}
	scope, err := c.EffectiveScope(r.AEFID, r.AllAEFs)
	if err != nil {
		return 0, invalid(opRevoke, err)
	}
	msg := securityNotification{APIInvokerID: r.Invoker, APIIDs: []string{r.APIID}, Cause: c.profile.cause(r.Cause)}
	if scope == ScopeThisAEF {
		if err := checkID("AEF", r.AEFID); err != nil {
			return 0, invalid(opRevoke, err)
		}
		msg.AEFID = r.AEFID
	}
	body, err := json.Marshal(msg)
	if err != nil {
		return 0, invalid(opRevoke, err)
	}
	a, err := c.exchange(ctx, request{
		op:     opRevoke,
		method: http.MethodPost,
		url:    c.resource(r.Invoker, "delete"),
		body:   body,
	})
	if err != nil {
		return 0, err
	}
	if a.status/100 != 2 {
		return 0, a.failure(opRevoke)
	}
	return a.status, nil
}

// resource is the URL of an individual trusted API invoker, or of a custom operation on it.
func (c *Core) resource(invoker, operation string) string {
	u := c.base.JoinPath("capif-security/v1/trustedInvokers").String() + "/" + url.PathEscape(invoker)
	if operation != "" {
		u += "/" + operation
	}
	return u
}

// checkID refuses what cannot be carried unchanged: a path segment of dots names another resource, and
// JSON has no bytes that are not UTF-8.
func checkID(what, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("id of the %s is empty", what)
	case id == "." || id == "..":
		return fmt.Errorf("id of the %s is %q, which cannot stand in a path", what, id)
	case !utf8.ValidString(id):
		return fmt.Errorf("id of the %s is not valid UTF-8", what)
	}
	return nil
}
