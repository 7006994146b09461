package coretest

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// oranRealm is the Keycloak realm whose key set verifies tokens.
const oranRealm = "/realms/invokerrealm"

// oranDialect behaves as O-RAN SC capifcore (Go, 2025) with Keycloak:
//
//   - No authentication at all, and a plain HTTP listener whose contexts and subscriptions are apart.
//   - A revoke ignores aefId and cuts from a copy of the list by the index in the original: [one,two] of
//     one, two, three leaves two; [one,three] and all three crash it (no answer, nothing changed).
//   - Nothing is sent on a revoke. Other events come by PUT, chunked, without client certificate.
//   - Tokens come from Keycloak: RS256 with kid, azp and clientId name the API invoker, sub is unrelated,
//     aud is "account", the scope is "profile email" whatever was asked for; key set under the realm.
//   - There is no CAPIF_Access_Control_Policy: the router's own 404 answers, which is not in the core's shape.
//   - Errors are {"cause","status"} as application/json; unknown causes and events are refused.
func oranDialect() *dialect {
	return &dialect{
		name:      "oran",
		algorithm: "RS256", tokenLifetime: 5 * time.Minute, keyIDs: true, jwksPath: oranRealm + "/protocol/openid-connect/certs",
		claims: oranClaims, grant: oranGrant,

		plainListener: true, roleOf: roleInCertificate,
		assignAEFID: func(name string) string { return name },
		fail:        oranError,

		dropsEmptyContext: true,
		knowsCause:        func(cause string) bool { return cause == CauseOverlimit || cause == CauseUnexpected },
		remove:            removeByStaleIndex,

		withoutPolicies: true,
		noPolicies: func() reply {
			return jsonReply(http.StatusNotFound, struct {
				Message string `json:"message"`
			}{"Not Found"})
		},

		knownEvents: []string{
			"SERVICE_API_AVAILABLE", EventAPIUnavailable, "SERVICE_API_UPDATE",
			"API_INVOKER_ONBOARDED", EventOffboarded,
			"SERVICE_API_INVOCATION_SUCCESS", "SERVICE_API_INVOCATION_FAILURE",
			EventPolicyUpdate, EventPolicyUnavailable, EventRevoked,
		},
		location: standardLocation,

		events: oranEvents, encode: putChunked,
	}
}

func oranError(status int, detail string, _ ...InvalidParam) reply {
	return jsonReply(status, struct {
		Cause  string `json:"cause"`
		Status int    `json:"status"`
	}{detail, status})
}

// putChunked has the members in the order in which that core writes them.
func putChunked(n EventNotification) (string, []byte, bool) {
	return http.MethodPut, mustJSON(struct {
		EventDetail    *EventDetail `json:"eventDetail,omitempty"`
		Events         string       `json:"events"`
		SubscriptionID string       `json:"subscriptionId"`
	}{n.EventDetail, n.Events, n.SubscriptionID}), true
}

// removeByStaleIndex is that core's loop. Its aefId is a pointer, so two are equal only if both are nil.
// Its append(left[:i], left[i+1:]...) reaches behind the end after an earlier cut, which is a panic.
func removeByStaleIndex(_ *registry, _ string, entries []SecurityInformation, n SecurityNotification) ([]SecurityInformation, bool) {
	left := slices.Clone(entries)
	for i, e := range entries {
		if !(n.AEFID == "" && e.AEFID == "") && !slices.Contains(n.APIIDs, e.APIID) {
			continue
		}
		if i+1 > len(left) {
			return nil, false
		}
		left = slices.Delete(left, i, i+1)
	}
	return left, true
}

func oranClaims(coreURL, invokerID, _ string, serial int) map[string]any {
	return map[string]any{
		"iss": coreURL + oranRealm, "aud": "account", "typ": "Bearer",
		"sub": fmt.Sprintf("3f1c0a52-7d0e-4b6f-9c55-%012d", serial),
		"azp": invokerID, "clientId": invokerID, "preferred_username": "service-account-" + invokerID,
		"scope": "profile email", "jti": fmt.Sprintf("b7a1e3d4-0c2f-4e8a-8f6d-%012d", serial),
	}
}

// oranGrant gives a token to whoever is onboarded, with a context or without.
func oranGrant(reg *registry, _ *store, t tokenRequest) (tokenGrant, *reply) {
	if !reg.invokers[t.pathID] {
		rep := oranError(http.StatusBadRequest, "invoker not registered")
		return tokenGrant{}, &rep
	}
	return tokenGrant{invokerID: t.clientID, responseScope: t.scope}, nil
}

func oranEvents(o occasion, _ subscription, _ int) []EventNotification {
	switch o.kind {
	case invokerOffboarded:
		return []EventNotification{{Events: EventOffboarded, EventDetail: &EventDetail{APIInvokerIDs: []string{o.invokerID}}}}
	case policyChanged:
		return []EventNotification{{Events: EventPolicyUpdate}}
	}
	return nil
}
