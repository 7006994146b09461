package coretest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const contexts = "/capif-security/v1/trustedInvokers/"

func TestContextEndpoints(t *testing.T) {
	good := `{"securityInfo":[{"aefId":"aef-a","apiId":"77aa01","prefSecurityMethods":["PSK","OAUTH"],"authenticationInfo":"secret","authorizationInfo":"rights"}],"notificationDestination":"https://127.0.0.1:1/n"}`
	tests := []struct {
		name, as, method, path, body string
		want                         int
		says                         string
	}{
		{"put", "invoker", "PUT", "inv-1", good, 201, `"selSecurityMethod":"PSK"`},
		{"put another's", "invoker", "PUT", "inv-2", good, 403, "the certificate is of inv-1"},
		{"put by an AEF", "a", "PUT", "inv-1", good, 403, "role API invoker"},
		{"put without certificate", "nobody", "PUT", "inv-1", good, 401, "certificate"},
		{"put of broken JSON", "invoker", "PUT", "inv-1", `[`, 400, "ServiceSecurity"},
		{"put without entries", "invoker", "PUT", "inv-1", `{"notificationDestination":"x"}`, 400, "/securityInfo"},
		{"put without destination", "invoker", "PUT", "inv-1", `{"securityInfo":[{"aefId":"aef-a","prefSecurityMethods":["PKI"]}]}`, 400, "/notificationDestination"},
		{"put with an unknown AEF", "invoker", "PUT", "inv-1", strings.Replace(good, "aef-a", "aef-z", 1), 400, "/securityInfo/0/aefId"},
		{"put with an API that is not exposed there", "invoker", "PUT", "inv-1", strings.Replace(good, "aef-a", "aef-b", 1), 400, "/securityInfo/0/apiId"},
		{"put without methods", "invoker", "PUT", "inv-1", strings.Replace(good, `["PSK","OAUTH"]`, `[]`, 1), 400, "/securityInfo/0/prefSecurityMethods"},
		{"put with neither aefId nor interface", "invoker", "PUT", "inv-1", strings.Replace(good, `"aefId":"aef-a",`, ``, 1), 400, "interfaceDetails"},
		{"get", "a", "GET", "inv-1", "", 200, `"apiId":"77aa01"`},
		{"get with information", "a", "GET", "inv-1?authenticationInfo=true&authorizationInfo=true", "", 200, `"authenticationInfo":"secret","authorizationInfo":"rights"`},
		{"get by the invoker", "invoker", "GET", "inv-1", "", 403, "role AEF"},
		{"get of an unknown one", "a", "GET", "inv-9", "", 404, "trusted invoker"},
		{"get of an id with a slash", "a", "GET", "inv%2F1", "", 404, "trusted invoker"},
		{"update", "invoker", "POST", "inv-1/update", strings.Replace(good, "77aa01", "8f36c0", 1), 200, `"apiId":"8f36c0"`},
		{"update by an AEF", "a", "POST", "inv-1/update", good, 403, "role API invoker"},
		{"update of broken JSON", "invoker", "POST", "inv-1/update", "", 400, "ServiceSecurity"},
		{"update without entries", "invoker", "POST", "inv-1/update", "{}", 400, "/securityInfo"},
		{"delete by the invoker", "invoker", "DELETE", "inv-1", "", 403, "role AEF"},
		{"delete", "a", "DELETE", "inv-1", "", 204, ""},
		{"delete again", "a", "DELETE", "inv-1", "", 404, "trusted invoker"},
		{"update of none", "invoker", "POST", "inv-1/update", good, 404, "trusted invoker"},
	}
	s := newScene(t, Options{})
	clients := map[string]*http.Client{"nobody": s.noCertificate, "invoker": s.Client(s.inv.Identity), "a": s.aefClient}
	for _, tt := range tests { // each row finds what the rows before it left
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(clients[tt.as], tt.method, contexts+tt.path, "application/json", tt.body)
			wantStatus(t, got, tt.want)
			if !strings.Contains(got.body, tt.says) {
				t.Errorf("got %s; want it to say %s", got.body, tt.says)
			}
			if tt.name == "get" && strings.Contains(got.body, "secret") {
				t.Errorf("got authenticationInfo although nobody asked: %s", got.body)
			}
			if tt.name == "put" && got.header.Get("Location") != s.URL()+contexts+"inv-1" {
				t.Errorf("got Location %q; want that of the context", got.header.Get("Location"))
			}
		})
	}
}

func TestTokenEndpoint(t *testing.T) {
	form := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v.Encode()
	}
	const ok = "client_credentials"
	tests := []struct {
		name, as, id, body string
		want               int
		says               string
	}{
		{"one API", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-1", "scope", "3gpp#aef-a:location"), 200, `"token_type":"Bearer","expires_in":600,"scope":"3gpp#aef-a:location"`},
		{"all discovered", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-1"), 200, `"scope":"3gpp#aef-a:location,qos;aef-b:location;aef-x:location"`},
		{"an API not discovered", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-1", "scope", "3gpp#aef-c:location"), 400, `"error":"invalid_scope"`},
		{"another prefix", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-1", "scope", "3gppX#aef-a:location"), 400, `"error":"invalid_scope"`},
		{"an empty name", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-1", "scope", "3gpp#aef-a:location,"), 400, `"error":"invalid_scope"`},
		{"another grant", "invoker", "inv-1", form("grant_type", "password", "client_id", "inv-1"), 400, `"error":"unsupported_grant_type"`},
		{"no client_id", "invoker", "inv-1", form("grant_type", ok), 400, `"error":"invalid_request"`},
		{"another's client_id", "invoker", "inv-1", form("grant_type", ok, "client_id", "inv-2"), 400, `"error":"invalid_client"`},
		{"another's path", "invoker", "inv-2", form("grant_type", ok, "client_id", "inv-2"), 403, "certificate"},
		{"not a form", "invoker", "inv-1", "%zz", 400, `"error":"invalid_request"`},
		{"by an AEF", "a", "inv-1", "", 403, "role API invoker"},
		{"without certificate", "nobody", "inv-1", "", 401, "certificate"},
	}
	s := newScene(t, Options{})
	s.authorize()
	clients := map[string]*http.Client{"nobody": s.noCertificate, "invoker": s.Client(s.inv.Identity), "a": s.aefClient}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(clients[tt.as], "POST", "/capif-security/v1/securities/"+tt.id+"/token", "application/x-www-form-urlencoded", tt.body)
			wantStatus(t, got, tt.want)
			if !strings.Contains(got.body, tt.says) {
				t.Errorf("got %s; want it to say %s", got.body, tt.says)
			}
		})
	}
}

func TestSubscriptionEndpoints(t *testing.T) {
	good := `{"events":["API_INVOKER_AUTHORIZATION_REVOKED","NEW_EVENT"],"eventFilters":[{},{"apiIds":["x"]}],"notificationDestination":"https://127.0.0.1:1/e","supportedFeatures":"4"}`
	const base = "/capif-events/v1/"
	tests := []struct {
		name, as, method, path, body string
		want                         int
	}{
		{"create", "a", "POST", "aef-a/subscriptions", good, 201},
		{"create for another", "a", "POST", "aef-b/subscriptions", good, 403},
		{"create by an invoker", "invoker", "POST", "inv-1/subscriptions", good, 403},
		{"create without certificate", "nobody", "POST", "aef-a/subscriptions", good, 401},
		{"create with nothing", "a", "POST", "aef-a/subscriptions", "{}", 400},
		{"create with broken JSON", "a", "POST", "aef-a/subscriptions", "{", 400},
		{"replace", "a", "PUT", "aef-a/subscriptions/sub-1", good, 200},
		{"replace an unknown one", "a", "PUT", "aef-a/subscriptions/sub-9", good, 404},
		{"replace with nothing", "a", "PUT", "aef-a/subscriptions/sub-1", "{}", 400},
		{"delete an unknown one", "a", "DELETE", "aef-a/subscriptions/sub-9", "", 404},
		{"delete for another", "a", "DELETE", "aef-b/subscriptions/sub-1", "", 403},
		{"delete", "a", "DELETE", "aef-a/subscriptions/sub-1", "", 204},
		{"delete again", "a", "DELETE", "aef-a/subscriptions/sub-1", "", 404},
	}
	s := newScene(t, Options{})
	clients := map[string]*http.Client{"nobody": s.noCertificate, "invoker": s.Client(s.inv.Identity), "a": s.aefClient}
	for _, tt := range tests { // each row finds what the rows before it left
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(clients[tt.as], tt.method, base+tt.path, "application/json", tt.body)
			wantStatus(t, got, tt.want)
			if location := s.URL() + base + "aef-a/subscriptions/sub-1"; tt.want == 201 && got.header.Get("Location") != location {
				t.Errorf("got Location %q; want %q", got.header.Get("Location"), location)
			}
		})
	}
	if n := len(s.Subscriptions()); n != 0 {
		t.Errorf("got %d subscriptions left; want 0", n)
	}
}

func TestEventDelivery(t *testing.T) {
	tests := []struct {
		name string
		sub  EventSubscription
		want string // the one body received; empty: none
	}{
		{"with detail", EventSubscription{Events: []string{EventOffboarded}, SupportedFeatures: "4"}, `"eventDetail":{"apiInvokerIds":["inv-1"]}`},
		{"without the feature", EventSubscription{Events: []string{EventOffboarded}, SupportedFeatures: "0"}, `"events":"API_INVOKER_OFFBOARDED"}`},
		{"filter on this invoker", EventSubscription{Events: []string{EventRevoked, EventOffboarded}, EventFilters: []EventFilter{{}, {APIInvokerIDs: []string{"inv-1"}}}, SupportedFeatures: "4"}, `"apiInvokerIds":["inv-1"]`},
		{"filter on another", EventSubscription{Events: []string{EventOffboarded}, EventFilters: []EventFilter{{APIInvokerIDs: []string{"inv-2"}}}, SupportedFeatures: "4"}, ""},
		{"another event", EventSubscription{Events: []string{EventPolicyUpdate}, SupportedFeatures: "4"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{})
			tt.sub.NotificationDestination = eventsTo(s.aefs["a"])
			_, err := s.Subscribe(s.a, tt.sub)
			s.must(err)
			s.must(s.Offboard("inv-1"))
			s.quiesce()
			got := s.aefs["a"].at(eventPath)
			if tt.want == "" {
				if len(got) != 0 {
					t.Fatalf("got %+v; want nothing", got)
				}
				return
			}
			if len(got) != 1 || !strings.Contains(got[0].body, tt.want) {
				t.Errorf("got %+v; want one with %s", got, tt.want)
			}
		})
	}
}

func TestTestNotification(t *testing.T) {
	s := newScene(t, Options{})
	body := `{"events":["API_INVOKER_OFFBOARDED"],"notificationDestination":"` + eventsTo(s.aefs["a"]) + `","requestTestNotification":true,"supportedFeatures":"5"}`
	wantStatus(t, s.do(s.aefClient, "POST", "/capif-events/v1/aef-a/subscriptions", "application/json", body), 201)
	s.quiesce()
	want := `{"subscription":"` + s.URL() + `/capif-events/v1/aef-a/subscriptions/sub-1"}`
	if got := s.aefs["a"].at(eventPath); len(got) != 1 || got[0].body != want {
		t.Errorf("got %+v; want %s", got, want)
	}
}

func TestPolicies(t *testing.T) {
	s := newScene(t, Options{})
	s.subscribeAll(eventsTo)
	s.must(s.SetPolicies(s.a, apiLocation,
		APIInvokerPolicy{APIInvokerID: "inv-1", AllowedTotalInvocations: 10},
		APIInvokerPolicy{APIInvokerID: "inv-2", AllowedInvocationsPerSecond: 2}))
	s.quiesce()
	list := `"apiInvokerPolicies":[{"apiInvokerId":"inv-1","allowedTotalInvocations":10},{"apiInvokerId":"inv-2","allowedInvocationsPerSecond":2}]`
	if got := s.aefs["a"].at(eventPath); len(got) != 1 || !strings.Contains(got[0].body, `"accCtrlPolList":{"apiId":"8f36c0",`+list) {
		t.Errorf("event: got %+v; want one with the list", got)
	}
	const base = "/access-control-policy/v1/accessControlPolicyList/"
	tests := []struct {
		name, path string
		want       int
		body       string
	}{
		{"all", apiLocation + "?aef-id=aef-a", 200, "{" + list + "}"},
		{"one invoker", apiLocation + "?aef-id=aef-a&api-invoker-id=inv-2", 200, `{"apiInvokerPolicies":[{"apiInvokerId":"inv-2","allowedInvocationsPerSecond":2}]}`},
		{"none set", apiLocation + "?aef-id=aef-b", 200, `{"apiInvokerPolicies":[]}`},
		{"no aef-id", apiLocation, 400, ""},
		{"not exposed there", apiQoS + "?aef-id=aef-b", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(s.aefClient, "GET", base+tt.path, "", "")
			wantStatus(t, got, tt.want)
			if tt.body != "" && got.body != tt.body {
				t.Errorf("got %s; want %s", got.body, tt.body)
			}
		})
	}
	wantStatus(t, s.do(s.noCertificate, "GET", base+apiLocation+"?aef-id=aef-a", "", ""), 401)
	if err := s.SetPolicies(s.b, apiQoS); err == nil {
		t.Error("policies for an API not exposed there: got nil; want an error")
	}
}

func TestOnboardingRefusesUnknownNames(t *testing.T) {
	s := newScene(t, Options{})
	_, noDestination := s.Subscribe("aef-a", EventSubscription{Events: []string{EventRevoked}})
	tests := map[string]error{
		"AEF without id":                s.AddAEF(AEF{ProviderID: "prov-1"}),
		"AEF of an unknown provider":    s.AddAEF(AEF{ID: "aef-n", ProviderID: "prov-9"}),
		"API without name":              s.PublishAPI(API{ID: "x"}),
		"API at an unknown AEF":         s.PublishAPI(API{ID: "x", Name: "x", AEFIDs: []string{"aef-n"}}),
		"invoker without id":            s.AddInvoker(""),
		"discovery of an unknown one":   s.Discover("inv-9", apiQoS, s.a),
		"discovery where it is not":     s.Discover("inv-1", apiQoS, s.b),
		"authorization of an unknown":   s.Authorize("inv-9", "https://127.0.0.1:1/n"),
		"subscription without delivery": noDestination,
	}
	for name, err := range tests {
		if err == nil {
			t.Errorf("%s: got nil; want an error", name)
		}
	}
}

func TestAuthorizeAgain(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"X"}`), 204)
	s.must(s.Authorize("inv-1", "", Entry(s.a, apiLocation), Entry(s.a, apiQoS)))
	wantEqual(t, "entries", s.entries(), []string{"aef-a/77aa01", "aef-x/8f36c0", "aef-a/8f36c0"})
}

func TestSnapshotRestoreEmpty(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	s.subscribeAll(eventsTo)
	full := s.entries()
	backup := s.Snapshot()
	wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"X"}`), 204)
	s.quiesce()
	sent := len(s.Sent())
	s.Empty()
	if n := len(s.Contexts()) + len(s.Subscriptions()); n != 0 {
		t.Errorf("emptied: got %d contexts and subscriptions; want 0", n)
	}
	wantStatus(t, s.do(s.aefClient, "GET", contexts+"inv-1", "", ""), 404)
	s.Restore(backup)
	wantEqual(t, "restored", s.entries(), full)
	if n := len(s.Subscriptions()); n != 4 {
		t.Errorf("restored: got %d subscriptions; want 4", n)
	}
	s.quiesce()
	if got := len(s.Sent()); got != sent {
		t.Errorf("got %d messages; want %d: a backup is restored in silence", got, sent)
	}
}
