package corecallback

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func stateOf(cert *tls.Certificate) *tls.ConnectionState {
	return &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert.Leaf}}
}

// Bodies as real cores send them.
const (
	oranOffboarded   = `{"eventDetail":{"apiInvokerIds":["api_invoker_id_inv_one"]},"events":"API_INVOKER_OFFBOARDED","subscriptionId":"AEF_id_gw_A1"}`
	evolvedText      = `{"text": "{'event_detail': None,\n 'events': 'API_INVOKER_AUTHORIZATION_REVOKED',\n 'subscription_id': '459bfcf6ac0eff46f653cc3dced42c'}"}`
	ocfRevoked       = `{"subscriptionId": "6db9", "events": "API_INVOKER_AUTHORIZATION_REVOKED"}`
	ocfUnavailable   = `{"subscriptionId": "6db9", "events": "ACCESS_CONTROL_POLICY_UNAVAILABLE"}`
	ocfOffboarded    = `{"subscriptionId": "6db9", "events": "API_INVOKER_OFFBOARDED", "eventDetail": {"apiInvokerIds": ["INV1"]}}`
	ocfPolicyUpdate  = `{"subscriptionId": "6db9", "events": "ACCESS_CONTROL_POLICY_UPDATE", "eventDetail": {"accCtrlPolList": {"apiId": "api-1", "apiInvokerPolicies": [{"apiInvokerId": "INV1", "allowedTotalInvocations": 5, "allowedInvocationsPerSecond": 10, "allowedInvocationTimeRangeList": [{"startTime": "2026-01-01T00:00:00Z", "stopTime": "2027-01-01T00:00:00Z"}]}]}}}`
	release19Revoked = `{"subscriptionId":"s","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["inv-1","inv-2"],"apiIds":["api-1","api-2"]}}`
	testNotification = `{"subscription":"https://core.example/capif-events/v1/aef/subscriptions/s"}`
)

func TestEvents(t *testing.T) {
	event := func(name, detail string) string {
		body := `{"subscriptionId":"s","events":` + name
		if detail != "" {
			body += `,"eventDetail":` + detail
		}
		return body + "}"
	}
	const all = `hint [] authenticated=true event="API_INVOKER_AUTHORIZATION_REVOKED"`
	tests := []struct {
		name string
		body string
		want []string
	}{
		{"O-RAN offboarding", oranOffboarded, []string{"gone [api_invoker_id_inv_one]"}},
		{"OpenCAPIF revoke", ocfRevoked, []string{all}},
		{"OpenCAPIF deleted context", ocfUnavailable, []string{
			"policy ACCESS_CONTROL_POLICY_UNAVAILABLE apis=[] invokers=[] list=none",
			`hint [] authenticated=true event="ACCESS_CONTROL_POLICY_UNAVAILABLE"`}},
		{"OpenCAPIF offboarding", ocfOffboarded, []string{"gone [INV1]"}},
		{"OpenCAPIF created context", ocfPolicyUpdate, []string{
			"policy ACCESS_CONTROL_POLICY_UPDATE apis=[api-1] invokers=[INV1] list=api-1:1",
			`hint [INV1] authenticated=true event="ACCESS_CONTROL_POLICY_UPDATE"`}},
		{"release 19 revoke", release19Revoked, []string{
			`deny [inv-1 inv-2] aef="" apis=[api-1 api-2] token="" cause="" event="API_INVOKER_AUTHORIZATION_REVOKED"`}},
		{"revoke that names invokers only", event(`"API_INVOKER_AUTHORIZATION_REVOKED"`, `{"apiInvokerIds":["inv-1"]}`), []string{
			`deny [inv-1] aef="" apis=[] token="" cause="" event="API_INVOKER_AUTHORIZATION_REVOKED"`}},
		{"revoke that names APIs only", event(`"API_INVOKER_AUTHORIZATION_REVOKED"`, `{"apiIds":["api-1"]}`), []string{all}},
		{"revoke, detail empty", event(`"API_INVOKER_AUTHORIZATION_REVOKED"`, `{}`), []string{all}},
		{"revoke, detail null", event(`"API_INVOKER_AUTHORIZATION_REVOKED"`, `null`), []string{all}},
		{"revoke, lists empty", event(`"API_INVOKER_AUTHORIZATION_REVOKED"`, `{"apiInvokerIds":[],"apiIds":[]}`), []string{all}},
		{"offboarding without names", event(`"API_INVOKER_OFFBOARDED"`, ""), []string{`hint [] authenticated=true event="API_INVOKER_OFFBOARDED"`}},
		{"updated", event(`"API_INVOKER_UPDATED"`, `{"apiInvokerIds":["inv-1"]}`), []string{`hint [inv-1] authenticated=true event="API_INVOKER_UPDATED"`}},
		{"updated without names", event(`"API_INVOKER_UPDATED"`, ""), []string{`hint [] authenticated=true event="API_INVOKER_UPDATED"`}},
		{"policy unavailable with a list hints all", event(`"ACCESS_CONTROL_POLICY_UNAVAILABLE"`, `{"accCtrlPolList":{"apiId":"api-1","apiInvokerPolicies":[{"apiInvokerId":"inv-1"}]}}`), []string{
			"policy ACCESS_CONTROL_POLICY_UNAVAILABLE apis=[api-1] invokers=[inv-1] list=api-1:1",
			`hint [] authenticated=true event="ACCESS_CONTROL_POLICY_UNAVAILABLE"`}},
		{"policy update without policies hints all", event(`"ACCESS_CONTROL_POLICY_UPDATE"`, `{"accCtrlPolList":{"apiId":"api-1","apiInvokerPolicies":[]}}`), []string{
			"policy ACCESS_CONTROL_POLICY_UPDATE apis=[api-1] invokers=[] list=api-1:0",
			`hint [] authenticated=true event="ACCESS_CONTROL_POLICY_UPDATE"`}},
		{"API unpublished", event(`"SERVICE_API_UNAVAILABLE"`, `{"apiIds":["api-1"]}`), []string{"unavailable [api-1]"}},
		{"API unpublished, which is not said", event(`"SERVICE_API_UNAVAILABLE"`, ""), []string{"unavailable []"}},
		{"list of one", event(`[ "API_INVOKER_AUTHORIZATION_REVOKED" ]`, ""), []string{all}},
		{"list, in order, with one hint at the end",
			event(`["API_INVOKER_UPDATED","ACCESS_CONTROL_POLICY_UPDATE","API_INVOKER_OFFBOARDED","API_INVOKER_AUTHORIZATION_REVOKED"]`, `{"apiInvokerIds":["inv-1"]}`), []string{
				"policy ACCESS_CONTROL_POLICY_UPDATE apis=[] invokers=[inv-1] list=none",
				"gone [inv-1]",
				`deny [inv-1] aef="" apis=[] token="" cause="" event="API_INVOKER_AUTHORIZATION_REVOKED"`,
				`hint [inv-1] authenticated=true event="API_INVOKER_UPDATED"`}},
		{"list of which one names nobody hints all",
			event(`["ACCESS_CONTROL_POLICY_UPDATE","ACCESS_CONTROL_POLICY_UNAVAILABLE"]`, `{"accCtrlPolList":{"apiId":"api-1","apiInvokerPolicies":[{"apiInvokerId":"inv-1"}]}}`), []string{
				"policy ACCESS_CONTROL_POLICY_UPDATE apis=[api-1] invokers=[inv-1] list=api-1:1",
				"policy ACCESS_CONTROL_POLICY_UNAVAILABLE apis=[api-1] invokers=[inv-1] list=api-1:1",
				`hint [] authenticated=true event="ACCESS_CONTROL_POLICY_UPDATE"`}},
		{"event instead of events, snake_case", `{"subscription_id":"s","event":"API_INVOKER_OFFBOARDED","event_detail":{"api_invoker_ids":["inv-1"]}}`, []string{"gone [inv-1]"}},
		{"unknown event", event(`"NEW_IN_R21"`, `{"apiIds":7}`), nil},
		{"event of no concern", event(`"SERVICE_API_AVAILABLE"`, `{"apiIds":["api-1"]}`), nil},
		{"unknown event beside a known one", event(`["NEW_IN_R21","API_INVOKER_OFFBOARDED"]`, `{"apiInvokerIds":["inv-1"]}`), []string{"gone [inv-1]"}},
		{"unknown members", event(`"API_INVOKER_OFFBOARDED"`, `{"apiInvokerIds":["inv-1"],"new":{"a":[null]},"invocationLogs":[]}`), []string{"gone [inv-1]"}},
		{"test notification", testNotification, nil},
	}
	for _, test := range tests {
		for _, method := range []string{"POST", "PUT"} {
			t.Run(test.name+" by "+method, func(t *testing.T) {
				s := newSetup(t, nil)
				w := s.direct(method, DefaultEventsPath, test.body)
				if w.Code != http.StatusNoContent || w.Body.Len() != 0 {
					t.Errorf("got %d %s; want 204 without a body", w.Code, w.Body)
				}
				checkCalls(t, s.consumer, test.want...)
			})
		}
	}
}

func TestRefusedEvents(t *testing.T) {
	tests := []struct{ name, body, params, detail string }{
		{"EVOLVED text", evolvedText, "/events is required; /subscriptionId is required", ""},
		{"no events", `{"subscriptionId":"s"}`, "/events is required", ""},
		{"no subscriptionId", `{"events":"API_INVOKER_UPDATED"}`, "/subscriptionId is required", ""},
		{"events empty", `{"subscriptionId":"s","events":[]}`, "/events must hold at least one entry", ""},
		{"events a number", `{"subscriptionId":"s","events":7}`, "/events must be a string", ""},
		{"events and event differ", `{"subscriptionId":"s","events":"API_INVOKER_UPDATED","event":"API_INVOKER_OFFBOARDED"}`,
			"/events is given more than once, with different values", ""},
		{"detail a string", `{"subscriptionId":"s","events":"API_INVOKER_OFFBOARDED","eventDetail":"x"}`, "/eventDetail must be an object", ""},
		{"apiIds of a wrong type do not widen", `{"subscriptionId":"s","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["i"],"apiIds":"a"}}`,
			"/eventDetail/apiIds must be an array", ""},
		{"policy list without apiId", `{"subscriptionId":"s","events":"ACCESS_CONTROL_POLICY_UPDATE","eventDetail":{"accCtrlPolList":{}}}`,
			"/eventDetail/accCtrlPolList/apiId is required", ""},
		{"policy without invoker, with half a call", `{"subscriptionId":"s","events":"ACCESS_CONTROL_POLICY_UPDATE","eventDetail":{"accCtrlPolList":{"apiId":"a","apiInvokerPolicies":[{"allowedTotalInvocations":0.5}]}}}`,
			"/eventDetail/accCtrlPolList/apiInvokerPolicies/0/apiInvokerId is required; /eventDetail/accCtrlPolList/apiInvokerPolicies/0/allowedTotalInvocations must be a whole number, not negative", ""},
		{"too many pairs", fmt.Sprintf(`{"subscriptionId":"s","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":%s,"apiIds":%s}}`, manyIDs(101), manyIDs(100)),
			"/eventDetail names more than 10000 pairs of API invoker and service API; send several events", ""},
		{"broken", `{"subscriptionId"`, "", "not one complete JSON value"},
		{"empty", ``, "", "the body is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSetup(t, nil)
			w := s.direct("POST", DefaultEventsPath, test.body)
			p := decodeProblem(t, w)
			if w.Code != http.StatusBadRequest || p.InvalidParams.Error() != test.params || !strings.Contains(p.Detail, test.detail) {
				t.Errorf("got %d %+v; want 400 with %q %q", w.Code, p, test.params, test.detail)
			}
			checkCalls(t, s.consumer)
		})
	}
}

// TestEventFailsAsAWhole: what could not be carried out is not answered 204,
// and what would have followed is not begun.
func TestEventFailsAsAWhole(t *testing.T) {
	s := newSetup(t, nil)
	s.consumer.err = ErrNotDurable
	w := s.direct("POST", DefaultEventsPath, `{"subscriptionId":"s","events":["API_INVOKER_OFFBOARDED","API_INVOKER_UPDATED"],"eventDetail":{"apiInvokerIds":["inv-1"]}}`)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d, %v; want 503 with Retry-After", w.Code, w.Header())
	}
	checkCalls(t, s.consumer, "gone [inv-1]")
}

func TestPolicyMembers(t *testing.T) {
	n, err := ParseEventNotification([]byte(strings.Replace(ocfPolicyUpdate, "stopTime", "end_time", 1)))
	if err != nil {
		t.Fatalf("decoding failed: %v", err)
	}
	p := n.Detail.AccCtrlPolList.Policies[0]
	if *p.AllowedTotalInvocations != 5 || *p.AllowedInvocationsPerSecond != 10 ||
		p.AllowedTimeRanges[0] != (TimeRange{"2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"}) {
		t.Errorf("got %+v; want 5 in all, 10 per second, the year 2026", p)
	}
}

func TestUnknownEventsAreCounted(t *testing.T) {
	s := newSetup(t, nil)
	s.direct("POST", DefaultEventsPath, `{"subscriptionId":"s","events":["NEW_1","NEW_2"]}`)
	if got := s.count(OutcomeIgnoredEvent); got != 2 {
		t.Errorf("got %d; want 2", got)
	}
	if logs := s.logs.String(); !strings.Contains(logs, `"level":"DEBUG"`) || !strings.Contains(logs, "NEW_2") {
		t.Errorf("got %s; want a debug line for each", logs)
	}
}

// TestChunkedPut sends an event as O-RAN's core does, over real TLS.
func TestChunkedPut(t *testing.T) {
	s := newSetup(t, nil)
	s.start(t, tls.RequestClientCert, nil)
	body := io.MultiReader(strings.NewReader(oranOffboarded[:40]), strings.NewReader(oranOffboarded[40:]))
	r, err := http.NewRequestWithContext(t.Context(), "PUT", s.server.URL+DefaultEventsPath, body)
	if err != nil {
		t.Fatalf("making a request failed: %v", err)
	}
	if r.ContentLength != 0 || r.Body == nil {
		t.Fatalf("got length %d; want it unknown, so that the body is chunked", r.ContentLength)
	}
	res, err := s.client(t, s.core).Do(r)
	if err != nil {
		t.Fatalf("PUT failed: %v", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Errorf("got %d; want 204", res.StatusCode)
	}
	checkCalls(t, s.consumer, "gone [api_invoker_id_inv_one]")
}
