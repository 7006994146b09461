package coretest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// strictDialect keeps to TS 29.222 of Release 19. Where the standard leaves a choice, it chooses:
//
//   - aefId and apiIds must both be met. aefId left out is the indication of TS 23.222 8.23.3 step 7, and
//     the revoke covers the caller's provider. An aefId of another provider is answered 403.
//   - A revoke that meets no entry, and any operation on an unknown context, is answered 404.
//   - The context stays, empty, when its last entry is revoked; an API invoker may put it again.
//   - REVOKED events name invoker and APIs (as corrected in Release 19) if the subscription has
//     Enhanced_event_report. They carry no aefId, so an AEF hears only of what was revoked at itself:
//     its own revoke, step 7, or a revoke by the core.
//   - Tokens are given out for every API that the API invoker has discovered, also after a revoke.
func strictDialect() *dialect {
	return &dialect{
		name:      "strict",
		algorithm: "ES256", tokenLifetime: 10 * time.Minute, keyIDs: true, jwksPath: "/jwks",
		claims: strictClaims, grant: strictGrant,

		authenticates: true, bindsInvoker: true, roleOf: roleInCertificate,
		noCertificate: func() reply { return problem(http.StatusUnauthorized, "a client certificate is required") },
		wrongRole:     func(detail string) reply { return problem(http.StatusForbidden, detail) },
		assignAEFID:   func(name string) string { return name },
		fail:          problem,

		checksEntries: true, knowsCause: anyCause, remove: removeExactly,
		refusesNothingRevoked: true, ownProviderOnly: true, refusesToken: true,

		bindsSubscriber: true, testsSubscriptions: true, honoursFilters: true, location: standardLocation,

		authenticatesItself: true, callsAEFs: true, notifiesInvoker: true,
		events: strictEvents, encode: postJSON,
	}
}

func strictClaims(_, invokerID, scope string, serial int) map[string]any {
	return map[string]any{
		"iss": invokerID, "client_id": invokerID, "scope": scope, "jti": fmt.Sprintf("token-%d", serial),
	}
}

func strictGrant(reg *registry, st *store, t tokenRequest) (tokenGrant, *reply) {
	refuse := func(rep reply) (tokenGrant, *reply) { return tokenGrant{}, &rep }
	if _, ok := st.contexts[t.pathID]; !ok || !reg.invokers[t.pathID] {
		return refuse(problem(http.StatusNotFound, noContext))
	}
	if t.clientID != t.pathID {
		return refuse(tokenError(http.StatusBadRequest, "invalid_client", "client_id is not the API invoker of the path"))
	}
	if t.scope == "" {
		t.scope = discoveredScope(reg, t.pathID)
	}
	names, ok := parseScope(t.scope)
	if !ok {
		return refuse(tokenError(http.StatusBadRequest, "invalid_scope", "the scope is not 3gpp#aefId:apiName,..."))
	}
	for aefID, apis := range names {
		for _, name := range apis {
			if !reg.discoveredName(t.pathID, aefID, name) {
				return refuse(tokenError(http.StatusBadRequest, "invalid_scope", fmt.Sprintf("%s:%s was not discovered", aefID, name)))
			}
		}
	}
	return tokenGrant{invokerID: t.pathID, scope: t.scope, responseScope: t.scope}, nil
}

func (r *registry) discoveredName(invokerID, aefID, apiName string) bool {
	for p := range r.discovered[invokerID] {
		if p.aefID == aefID && r.apis[p.apiID].Name == apiName {
			return true
		}
	}
	return false
}

// discoveredScope is a scope with everything that the API invoker has discovered.
func discoveredScope(r *registry, invokerID string) string {
	names := map[string][]string{}
	for p := range r.discovered[invokerID] {
		if name := r.apis[p.apiID].Name; !slices.Contains(names[p.aefID], name) {
			names[p.aefID] = append(names[p.aefID], name)
		}
	}
	var parts []string
	for _, aefID := range slices.Sorted(maps.Keys(names)) {
		slices.Sort(names[aefID])
		parts = append(parts, aefID+":"+strings.Join(names[aefID], ","))
	}
	return "3gpp#" + strings.Join(parts, ";")
}

func strictEvents(o occasion, sub subscription, _ int) []EventNotification {
	n := EventNotification{}
	switch o.kind {
	case authorizationRevoked, contextDeleted:
		apiIDs := apiIDsOf(slices.DeleteFunc(slices.Clone(o.told), func(p pair) bool { return p.aefID != sub.subscriberID }))
		if len(apiIDs) == 0 {
			return nil
		}
		n.Events = EventRevoked
		n.EventDetail = &EventDetail{APIInvokerIDs: []string{o.invokerID}, APIIDs: apiIDs}
	case invokerOffboarded:
		n.Events = EventOffboarded
		n.EventDetail = &EventDetail{APIInvokerIDs: []string{o.invokerID}}
	case policyChanged:
		n.Events = EventPolicyUpdate
		n.EventDetail = &EventDetail{AccCtrlPolList: &AccessControlPolicyListExt{APIID: o.pairs[0].apiID, APIInvokerPolicies: o.policies}}
	default:
		return nil
	}
	if !hasFeature(sub.SupportedFeatures, featureEnhancedReport) {
		n.EventDetail = nil
	}
	return []EventNotification{n}
}
