package coretest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// opencapifDialect behaves as ETSI OpenCAPIF (Python, 2025):
//
//   - A revoke matches "aefId equal OR apiId listed" and pops from the list that it walks, so entries are
//     skipped, and a repeat with aefId removes more. The context goes with its last entry.
//   - Two events for a revoke, in either order, also for one that removed nothing (then only the first);
//     never with detail. A deleted context tells of ACCESS_CONTROL_POLICY_UNAVAILABLE only, a created one
//     of ACCESS_CONTROL_POLICY_UPDATE. revoke-authorization is never called.
//   - Notifications come without client certificate.
//   - Tokens: RS256, signed with the private key of the TLS server certificate, no kid, no key set; iss
//     and sub are both client_id, whoever asks; of the scope only "3gpp" is checked.
//   - The aefId is assigned and is the certificate's common name, below an intermediate CA. A wrong role
//     is 401 text/plain, no certificate 403 HTML, an Authorization header beside a certificate 401.
//   - An API without access control policies is answered 404, not with an empty list.
//   - Subscriptions need supportedFeatures, take no filter on REVOKED, and have a wrong host and path in
//     Location.
func opencapifDialect() *dialect {
	return &dialect{
		name:      "opencapif",
		algorithm: "RS256", tokenLifetime: 10 * time.Minute, signsWithServerKey: true,
		claims: pythonClaims(map[string]any{"csrf": "8d4e2b0c", "res_owner_id": nil}), grant: pythonGrant,

		intermediateCA: true, authenticates: true, refusesBearer: true, roleOf: roleInCertificate,
		noCertificate: htmlForbidden, wrongRole: textUnauthorized,
		assignAEFID: func(name string) string {
			if opencapifAEF.MatchString(name) {
				return name
			}
			return "AEF" + lettersAndDigits(name)
		},
		fail: problem,

		dropsEmptyContext: true,
		knowsCause: func(cause string) bool {
			return slices.Contains([]string{CauseOverlimit, CauseUnexpected, CauseAuthorization, CauseOther}, cause)
		},
		remove: removeWhilePopping,

		noPolicies: func() reply { return problem(http.StatusNotFound, "No ACLs found for the requested service") },

		needsFeatures: true, refusesRevokedFilters: true, bindsSubscriber: true, location: wrongLocation,

		notifiesInvoker: true,
		events:          opencapifEvents, encode: postJSON,
	}
}

// opencapifAEF is the form of the common name that this core gives to an AEF.
var opencapifAEF = regexp.MustCompile(`^AEF[a-zA-Z0-9]+$`)

func lettersAndDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
}

// wrongLocation has the right last segment and nothing else that can be relied on.
func wrongLocation(_, subscriberID, id string) string {
	return "http://localhost:8080/capif-events/v1/" + subscriberID + "/subscription/" + id
}

// removeWhilePopping is the loop of EVOLVED and OpenCAPIF: what follows a popped entry is not looked at.
func removeWhilePopping(_ *registry, _ string, entries []SecurityInformation, n SecurityNotification) ([]SecurityInformation, bool) {
	for i := 0; i < len(entries); i++ {
		if entries[i].AEFID == n.AEFID || slices.Contains(n.APIIDs, entries[i].APIID) {
			entries = slices.Delete(entries, i, i+1)
		}
	}
	return entries, true
}

// pythonClaims are those of EVOLVED and OpenCAPIF: iss is the API invoker, not the issuer.
func pythonClaims(more map[string]any) func(string, string, string, int) map[string]any {
	return func(_, invokerID, scope string, serial int) map[string]any {
		claims := map[string]any{
			"iss": invokerID, "sub": invokerID, "scope": scope, "type": "access", "fresh": false,
			"nbf": time.Now().Unix(), "jti": fmt.Sprintf("00000000-0000-4000-8000-%012d", serial),
		}
		for name, v := range more {
			claims[name] = v
		}
		return claims
	}
}

// pythonGrant does not compare client_id with the path, and of the scope it reads four characters.
func pythonGrant(_ *registry, st *store, t tokenRequest) (tokenGrant, *reply) {
	if _, ok := st.contexts[t.pathID]; !ok {
		rep := problem(http.StatusNotFound, "security context not found")
		return tokenGrant{}, &rep
	}
	if !strings.HasPrefix(t.scope, "3gpp") {
		rep := tokenError(http.StatusBadRequest, "invalid_scope", "the first characters must be '3gpp'")
		return tokenGrant{}, &rep
	}
	return tokenGrant{invokerID: t.clientID, scope: t.scope, responseScope: t.scope}, nil
}

func opencapifEvents(o occasion, sub subscription, turn int) []EventNotification {
	var detail *EventDetail
	enhanced := hasFeature(sub.SupportedFeatures, featureEnhancedReport)
	revoked := EventNotification{Events: EventRevoked}
	unavailable := EventNotification{Events: EventPolicyUnavailable}
	switch o.kind {
	case authorizationRevoked:
		if len(o.pairs) == 0 {
			return []EventNotification{revoked}
		}
		if turn%2 == 1 {
			return []EventNotification{unavailable, revoked}
		}
		return []EventNotification{revoked, unavailable}
	case contextDeleted:
		return []EventNotification{unavailable}
	case invokerOffboarded:
		if enhanced {
			detail = &EventDetail{APIInvokerIDs: []string{o.invokerID}}
		}
		return []EventNotification{{Events: EventOffboarded, EventDetail: detail}}
	case contextCreated, policyChanged:
		var updates []EventNotification
		for _, apiID := range apiIDsOf(o.pairs) {
			n := EventNotification{Events: EventPolicyUpdate}
			if enhanced {
				policies := o.policies
				if o.kind == contextCreated {
					policies = []APIInvokerPolicy{{APIInvokerID: o.invokerID}}
				}
				n.EventDetail = &EventDetail{AccCtrlPolList: &AccessControlPolicyListExt{APIID: apiID, APIInvokerPolicies: policies}}
			}
			updates = append(updates, n)
		}
		return updates
	}
	return nil
}
