package coretest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// putContext creates or replaces a security context (TS 29.222 8.5.2.3.3.2).
func (c *Core) putContext(rq *request) reply {
	if refusal := c.admit(rq, RoleInvoker, rq.id); refusal != nil {
		return *refusal
	}
	var sec ServiceSecurity
	if err := json.Unmarshal(rq.body, &sec); err != nil {
		return c.dialect.fail(http.StatusBadRequest, "the body is not a ServiceSecurity")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reg.invokers[rq.id] {
		return c.dialect.fail(http.StatusNotFound, "the API invoker is not onboarded")
	}
	if invalid := c.invalidContext(sec); len(invalid) > 0 {
		return c.dialect.fail(http.StatusBadRequest, "the context cannot be used", invalid...)
	}
	sec.SecurityInfo = selectMethods(sec.SecurityInfo)
	rq.st.contexts[rq.id] = sec
	rep := jsonReply(http.StatusCreated, sec)
	rep.header.Set("Location", c.url+"/capif-security/v1/trustedInvokers/"+url.PathEscape(rq.id))
	rep.note = fmt.Sprintf("context of %s has %d entries", rq.id, len(sec.SecurityInfo))
	rep.after = c.eventGroups(rq.st, occasion{kind: contextCreated, invokerID: rq.id, pairs: pairsOf(sec.SecurityInfo)})
	return rep
}

// updateContext replaces the entries of a context (TS 29.222 8.5.2.3.4.2).
func (c *Core) updateContext(rq *request) reply {
	if refusal := c.admit(rq, RoleInvoker, rq.id); refusal != nil {
		return *refusal
	}
	var sec ServiceSecurity
	if err := json.Unmarshal(rq.body, &sec); err != nil {
		return c.dialect.fail(http.StatusBadRequest, "the body is not a ServiceSecurity")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := rq.st.contexts[rq.id]; !ok {
		return c.dialect.fail(http.StatusNotFound, noContext)
	}
	if invalid := c.invalidContext(sec); len(invalid) > 0 {
		return c.dialect.fail(http.StatusBadRequest, "the context cannot be used", invalid...)
	}
	sec.SecurityInfo = selectMethods(sec.SecurityInfo)
	rq.st.contexts[rq.id] = sec
	rep := jsonReply(http.StatusOK, sec)
	rep.note = fmt.Sprintf("context of %s has %d entries", rq.id, len(sec.SecurityInfo))
	return rep
}

// noContext is worded as O-RAN words it.
const noContext = "the invoker is not register as a trusted invoker"

// invalidContext needs c.mu.
func (c *Core) invalidContext(sec ServiceSecurity) []InvalidParam {
	var bad []InvalidParam
	if len(sec.SecurityInfo) == 0 {
		bad = append(bad, InvalidParam{"/securityInfo", "must hold at least one entry"})
	}
	if sec.NotificationDestination == "" {
		bad = append(bad, InvalidParam{"/notificationDestination", "must be set"})
	}
	for i, e := range sec.SecurityInfo {
		at := fmt.Sprintf("/securityInfo/%d", i)
		if len(e.PrefSecurityMethods) == 0 {
			bad = append(bad, InvalidParam{at + "/prefSecurityMethods", "must hold at least one method"})
		}
		if (e.AEFID == "") == (len(e.InterfaceDetails) == 0) && c.dialect.checksEntries {
			bad = append(bad, InvalidParam{at, "must hold either aefId or interfaceDetails"})
			continue
		}
		if e.AEFID == "" || !c.dialect.checksEntries {
			continue
		}
		if _, ok := c.reg.aefs[e.AEFID]; !ok {
			bad = append(bad, InvalidParam{at + "/aefId", "is not an AEF of this core"})
			continue
		}
		if e.APIID != "" && !c.reg.exposes(e.AEFID, e.APIID) {
			bad = append(bad, InvalidParam{at + "/apiId", "is not exposed by this AEF"})
		}
	}
	return bad
}

// getContext is how an AEF reads back (TS 29.222 8.5.2.3.3.1).
func (c *Core) getContext(rq *request) reply {
	if refusal := c.admit(rq, RoleAEF, ""); refusal != nil {
		return *refusal
	}
	c.mu.Lock()
	sec, ok := rq.st.contexts[rq.id]
	sec = cloneContext(sec)
	c.mu.Unlock()
	if !ok {
		return c.dialect.fail(http.StatusNotFound, noContext)
	}
	query := rq.http.URL.Query()
	for i := range sec.SecurityInfo {
		if query.Get("authenticationInfo") != "true" {
			sec.SecurityInfo[i].AuthenticationInfo = ""
		}
		if query.Get("authorizationInfo") != "true" {
			sec.SecurityInfo[i].AuthorizationInfo = ""
		}
	}
	if sec.SecurityInfo == nil {
		sec.SecurityInfo = []SecurityInformation{}
	}
	return jsonReply(http.StatusOK, sec)
}

// tokenRequest is a token request as the dialects judge it.
type tokenRequest struct {
	pathID   string // securityId, the apiInvokerId in the path
	clientID string
	scope    string
}

// tokenGrant is what they allow.
type tokenGrant struct {
	invokerID     string
	scope         string // in the token
	responseScope string // beside it
}

// token gives out an access token (TS 29.222 8.5.2.4.2.3.1). Every dialect goes on giving them out for an
// API that was revoked, as real cores do: a new token proves no new authorization.
func (c *Core) token(rq *request) reply {
	if refusal := c.admit(rq, RoleInvoker, ""); refusal != nil {
		return *refusal
	}
	form, err := url.ParseQuery(string(rq.body))
	if err != nil {
		return tokenError(http.StatusBadRequest, "invalid_request", "the body is not a form")
	}
	if form.Get("client_id") == "" || form.Get("grant_type") == "" {
		return tokenError(http.StatusBadRequest, "invalid_request", "grant_type and client_id must be set")
	}
	if form.Get("grant_type") != "client_credentials" {
		return tokenError(http.StatusBadRequest, "unsupported_grant_type", "only client_credentials is known")
	}
	if c.dialect.bindsInvoker && rq.caller.id != rq.id {
		return c.dialect.wrongRole(fmt.Sprintf("the certificate is of %s, not of %s", rq.caller.id, rq.id))
	}
	c.mu.Lock()
	grant, refusal := c.dialect.grant(&c.reg, rq.st, tokenRequest{
		pathID: rq.id, clientID: form.Get("client_id"), scope: form.Get("scope"),
	})
	c.mu.Unlock()
	if refusal != nil {
		return *refusal
	}
	token, err := c.MintToken(TokenSpec{InvokerID: grant.invokerID, Scope: grant.scope})
	if err != nil {
		return c.dialect.fail(http.StatusInternalServerError, err.Error())
	}
	rep := jsonReply(http.StatusOK, AccessTokenRsp{
		AccessToken: token, TokenType: "Bearer", ExpiresIn: int(c.opts.TokenLifetime.Seconds()), Scope: grant.responseScope,
	})
	rep.header.Set("Cache-Control", "no-store")
	return rep
}

func tokenError(status int, code, description string) reply {
	return jsonReply(status, AccessTokenErr{Error: code, ErrorDescription: description})
}

// jwks publishes the keys that verify tokens.
func (c *Core) jwks(*request) reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := json.Marshal(c.keys.set)
	if err != nil {
		return c.dialect.fail(http.StatusInternalServerError, err.Error())
	}
	return reply{status: http.StatusOK, body: body, header: http.Header{"Content-Type": {"application/json"}}}
}

// ScopeOf builds the scope of TS 29.222 8.5.4.2.8 for API names at one AEF: "3gpp#aef-a:location,qos".
func ScopeOf(aefID string, apiNames ...string) string {
	return "3gpp#" + aefID + ":" + strings.Join(apiNames, ",")
}

// parseScope reads a scope; ok is false if any part of it is not of the form.
func parseScope(scope string) (map[string][]string, bool) {
	rest, found := strings.CutPrefix(scope, "3gpp#")
	if !found {
		return nil, false
	}
	names := map[string][]string{}
	for part := range strings.SplitSeq(rest, ";") {
		aefID, list, found := strings.Cut(part, ":")
		apis := strings.Split(list, ",")
		if !found || aefID == "" || slices.Contains(apis, "") {
			return nil, false
		}
		names[aefID] = append(names[aefID], apis...)
	}
	return names, true
}
