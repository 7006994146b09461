package coretest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// evolvedDialect behaves as EVOLVED-5G CAPIF (Python, 2023). It shares matching and tokens with opencapif
// and differs in this:
//
//   - Event notifications are JSON with one string that holds Python's pretty print. Offboarding comes as
//     API_INVOKER_UPDATED. One dead subscriber ends all events until RestartEvents.
//   - The API invoker is told before the answer, and the answer is 500, although the state has changed,
//     if its callback is dead.
//   - Any cause is taken. An AEF's common name begins with "aef" in any case.
func evolvedDialect() *dialect {
	return &dialect{
		name:      "evolved",
		algorithm: "RS256", tokenLifetime: 10 * time.Minute, signsWithServerKey: true,
		claims: pythonClaims(nil), grant: pythonGrant,

		authenticates: true,
		roleOf: func(c caller) string {
			if strings.HasPrefix(strings.ToLower(c.id), "aef") {
				return RoleAEF
			}
			return c.role
		},
		noCertificate: htmlForbidden, wrongRole: textUnauthorized,
		assignAEFID: func(name string) string {
			if strings.HasPrefix(strings.ToLower(name), "aef") {
				return name
			}
			return "aef-" + name
		},
		fail: problem,

		dropsEmptyContext: true, knowsCause: anyCause, remove: removeWhilePopping,
		location: wrongLocation,

		notifiesInvoker: true, notifiesBeforeAnswer: true, deadSubscriberEndsEvents: true,
		events: evolvedEvents, encode: pythonText,
	}
}

func evolvedEvents(o occasion, _ subscription, _ int) []EventNotification {
	switch o.kind {
	case authorizationRevoked:
		return []EventNotification{{Events: EventRevoked}}
	case invokerOffboarded:
		return []EventNotification{{Events: EventInvokerUpdated}}
	case policyChanged:
		return []EventNotification{{Events: EventPolicyUpdate}}
	}
	return nil
}

// pythonText is Python's pprint of a dict, in a JSON string.
func pythonText(n EventNotification) (string, []byte, bool) {
	text := fmt.Sprintf("{'event_detail': None,\n 'events': '%s',\n 'subscription_id': '%s'}", n.Events, n.SubscriptionID)
	return http.MethodPost, mustJSON(struct {
		Text string `json:"text"`
	}{text}), false
}
