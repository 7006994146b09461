package coretest

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What each core removes from a context of one@A, two@A, three@B.
func TestRemoval(t *testing.T) {
	listed := []SecurityInformation{Entry("A", "one"), Entry("A", "two"), Entry("B", "three")}
	reg := newRegistry()
	reg.aefs["A"], reg.aefs["B"] = AEF{ID: "A", ProviderID: "p"}, AEF{ID: "B", ProviderID: "p"}
	const crash = "crash"
	tests := []struct {
		name, aefID            string
		apiIDs                 []string
		strict, opencapif, orn string
	}{
		{"one API", "", []string{"two"}, "one three", "one three", "one three"},
		{"last API", "", []string{"three"}, "one two", "one two", "one two"},
		{"unknown API", "", []string{"nope"}, "one two three", "one two three", "one two three"},
		{"one and two", "", []string{"one", "two"}, "three", "two three", "two"},
		{"one and three", "", []string{"one", "three"}, "two", "two", crash},
		{"all three", "", []string{"one", "two", "three"}, "", "two", crash},
		{"aefId and API", "A", []string{"one"}, "two three", "two three", "two three"},
		{"foreign aefId", "B", []string{"one"}, "one two three", "two", "two three"},
	}
	for _, tt := range tests {
		n := SecurityNotification{AEFID: tt.aefID, APIIDs: tt.apiIDs}
		for _, core := range []struct {
			dialect *dialect
			want    string
		}{{strictDialect(), tt.strict}, {opencapifDialect(), tt.opencapif}, {evolvedDialect(), tt.opencapif}, {oranDialect(), tt.orn}} {
			t.Run(core.dialect.name+"/"+tt.name, func(t *testing.T) {
				left, ok := core.dialect.remove(&reg, "A", slices.Clone(listed), n)
				got := crash
				if ok {
					got = strings.Join(apiIDsOf(pairsOf(left)), " ")
				}
				if got != core.want {
					t.Errorf("got %q left; want %q", got, core.want)
				}
			})
		}
	}
}

// One API at two AEFs is where one request for each API is not enough: opencapif skips the second entry
// (a repeat removes it), oran crashes, or cuts the entry of another API.
func TestRemovalOfOneAPIAtTwoAEFs(t *testing.T) {
	reg := newRegistry()
	reg.aefs["A"], reg.aefs["B"] = AEF{ID: "A", ProviderID: "p"}, AEF{ID: "B", ProviderID: "p"}
	n := SecurityNotification{APIIDs: []string{"one"}}
	two := []SecurityInformation{Entry("A", "one"), Entry("B", "one")}
	three := []SecurityInformation{Entry("A", "one"), Entry("B", "one"), Entry("A", "two")}
	tests := []struct {
		dialect *dialect
		entries []SecurityInformation
		want    []pair
		ok      bool
	}{
		{strictDialect(), two, nil, true},
		{opencapifDialect(), two, []pair{{"B", "one"}}, true},
		{oranDialect(), two, nil, false},
		{oranDialect(), three, []pair{{"B", "one"}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.dialect.name, func(t *testing.T) {
			left, ok := tt.dialect.remove(&reg, "A", slices.Clone(tt.entries), n)
			if ok != tt.ok {
				t.Errorf("got ok %v; want %v", ok, tt.ok)
			}
			wantEqual(t, "left", pairsOf(left), tt.want)
		})
	}
}

func TestRemovalRepeatedOrWithoutAEF(t *testing.T) {
	listed := []SecurityInformation{Entry("A", "one"), Entry("A", "two"), Entry("B", "three")}
	n := SecurityNotification{AEFID: "A", APIIDs: []string{"one"}}
	left, _ := removeWhilePopping(nil, "", slices.Clone(listed), n)
	left, _ = removeWhilePopping(nil, "", left, n)
	wantEqual(t, "opencapif, the same request again", apiIDsOf(pairsOf(left)), []string{"three"})

	bare := []SecurityInformation{Entry("A", "one"), Entry("", "two")}
	left, ok := removeByStaleIndex(nil, "", bare, SecurityNotification{APIIDs: []string{"nope"}})
	if !ok {
		t.Fatal("got a crash; want the entry without aefId gone")
	}
	wantEqual(t, "oran, request and entry without aefId", apiIDsOf(pairsOf(left)), []string{"one"})
}

// One apiId, no aefId, one request for each API: exact and idempotent on every core.
func TestOneAPIForEachRequest(t *testing.T) {
	for _, name := range Dialects() {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiLocation), Entry(s.a, apiQoS)))
			body := `{"apiInvokerId":"inv-1","apiIds":["77aa01"],"cause":"UNEXPECTED_REASON"}`
			wantStatus(t, s.revokeJSON(body), 204)
			wantEqual(t, "left", s.entries(), []string{s.a + "/" + apiLocation})
			s.revokeJSON(body)
			wantEqual(t, "left after a repeat", s.entries(), []string{s.a + "/" + apiLocation})
			if _, err := s.inv.Token(s.ctx, ScopeOf(s.a, "qos")); err != nil {
				t.Errorf("token for the revoked API: got %v; want one, as real cores do", err)
			}
		})
	}
}

func TestContextAfterItsLastEntry(t *testing.T) {
	for name, want := range map[string]int{"strict": 200, "opencapif": 404, "oran": 404, "evolved": 404} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiQoS)))
			wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["77aa01"],"cause":"UNEXPECTED_REASON"}`), 204)
			got := s.do(s.aefClient, "GET", contexts+"inv-1", "", "")
			wantStatus(t, got, want)
			if want == 200 && !strings.Contains(got.body, `"securityInfo":[]`) {
				t.Errorf("got %s; want an empty list", got.body)
			}
			s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiQoS))) // an invoker may put it again
		})
	}
}

func TestDialectErrors(t *testing.T) {
	revoke := func(cause string) string {
		return `{"apiInvokerId":"inv-1","apiIds":["77aa01"],"cause":"` + cause + `"}`
	}
	tests := []struct {
		dialect, name, as string
		body              string
		want              int
		kind              string
		says              string
	}{
		{"opencapif", "unknown cause", "a", revoke("NEW"), 400, "application/problem+json", "/cause"},
		{"opencapif", "no certificate", "nobody", revoke("X"), 403, "text/html", "403 Forbidden"},
		{"opencapif", "wrong role", "invoker", revoke("X"), 401, "text/plain; charset=utf-8", `"title":"Unauthorized"`},
		{"opencapif", "Authorization beside a certificate", "a+bearer", revoke(CauseUnexpected), 401, "text/plain; charset=utf-8", "Authorization header"},
		{"evolved", "unknown cause", "a", revoke("NEW"), 204, "", ""},
		{"evolved", "no certificate", "nobody", revoke("X"), 403, "text/html", "403 Forbidden"},
		{"evolved", "wrong role", "invoker", revoke("X"), 401, "text/plain; charset=utf-8", `"status":401`},
		{"evolved", "unknown context", "a", revoke("X"), 404, "application/problem+json", `"status":404`},
		{"oran", "unknown cause", "a", revoke("NEW"), 400, "application/json", `"cause":"unknown cause","status":400`},
		{"oran", "no certificate", "nobody", revoke(CauseUnexpected), 204, "", ""},
		{"oran", "missing field", "nobody", `{"apiInvokerId":"inv-1"}`, 400, "application/json", `"status":400`},
		{"oran", "unknown context", "nobody", revoke(CauseUnexpected), 404, "application/json", `{"cause":"the invoker is not register as a trusted invoker","status":404}`},
	}
	for _, tt := range tests {
		t.Run(tt.dialect+"/"+tt.name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: tt.dialect})
			if tt.name != "unknown context" {
				s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiQoS)))
			}
			client := s.aefClient
			switch tt.as {
			case "nobody":
				client = s.noCertificate
			case "invoker":
				client = s.Client(s.inv.Identity)
			case "a+bearer":
				client = &http.Client{Transport: bearer{s.aefClient.Transport}}
			}
			got := s.do(client, "POST", contexts+"inv-1/delete", "application/json", tt.body)
			wantStatus(t, got, tt.want)
			if got.header.Get("Content-Type") != tt.kind || !strings.Contains(got.body, tt.says) {
				t.Errorf("got %s %s; want %s that says %s", got.header.Get("Content-Type"), got.body, tt.kind, tt.says)
			}
		})
	}
}

type bearer struct{ next http.RoundTripper }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer x")
	return b.next.RoundTrip(r)
}

func TestDialectSubscriptions(t *testing.T) {
	sub := func(events, rest string) string {
		return `{"events":[` + events + `],"notificationDestination":"https://127.0.0.1:1/e"` + rest + `}`
	}
	const revoked, updated = `"API_INVOKER_AUTHORIZATION_REVOKED"`, `"API_INVOKER_UPDATED"`
	tests := []struct {
		dialect, name, subscriber, body string
		want                            int
		location                        string
	}{
		{"opencapif", "good", "a", sub(revoked, `,"supportedFeatures":"4"`), 201, `^http://localhost:8080/.*/sub-1$`},
		{"opencapif", "no supportedFeatures", "a", sub(revoked, ``), 400, ""},
		{"opencapif", "a filter on REVOKED", "a", sub(revoked, `,"supportedFeatures":"4","eventFilters":[{"apiInvokerIds":["x"]}]`), 400, ""},
		{"opencapif", "an empty filter on REVOKED", "a", sub(revoked, `,"supportedFeatures":"4","eventFilters":[{}]`), 201, "sub-1$"},
		{"opencapif", "for another", "b", sub(revoked, `,"supportedFeatures":"4"`), 401, ""},
		{"oran", "good", "a", sub(revoked, ``), 201, "sub-1$"},
		{"oran", "an unknown event", "a", sub(revoked+","+updated, ``), 400, ""},
		{"evolved", "good", "a", sub(revoked+","+updated, ``), 201, "sub-1$"},
	}
	for _, tt := range tests {
		t.Run(tt.dialect+"/"+tt.name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: tt.dialect})
			got := s.do(s.aefClient, "POST", "/capif-events/v1/"+s.aefs[tt.subscriber].id+"/subscriptions", "application/json", tt.body)
			wantStatus(t, got, tt.want)
			if tt.location != "" && !regexp.MustCompile(tt.location).MatchString(got.header.Get("Location")) {
				t.Errorf("got Location %q; want it to match %s", got.header.Get("Location"), tt.location)
			}
		})
	}
}

// Golden bodies, as an AEF receives them; the subscription of a is sub-1.
func TestDialectNotifications(t *testing.T) {
	const (
		revoked     = `{"subscriptionId":"sub-1","events":"API_INVOKER_AUTHORIZATION_REVOKED"}`
		unavailable = `{"subscriptionId":"sub-1","events":"ACCESS_CONTROL_POLICY_UNAVAILABLE"}`
	)
	put := func(s *scene) { s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiQoS), Entry(s.a, apiLocation))) }
	revoke := func(apiID string) func(*scene) {
		return func(s *scene) {
			wantStatus(s.t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["`+apiID+`"],"cause":"UNEXPECTED_REASON"}`), 204)
		}
	}
	offboard := func(s *scene) { s.must(s.Offboard("inv-1")) }
	tests := []struct {
		dialect, name string
		do            []func(*scene)
		want          []string
	}{
		{"opencapif", "revoke", []func(*scene){revoke(apiQoS)}, []string{revoked, unavailable}},
		{"opencapif", "second revoke, the other order", []func(*scene){revoke(apiQoS), revoke(apiLocation)}, []string{revoked, unavailable, unavailable, revoked}},
		{"opencapif", "revoke of nothing", []func(*scene){revoke("nope")}, []string{revoked}},
		{"opencapif", "context deleted", []func(*scene){func(s *scene) {
			wantStatus(s.t, s.do(s.aefClient, "DELETE", contexts+"inv-1", "", ""), 204)
		}}, []string{unavailable}},
		{"opencapif", "context created", []func(*scene){put}, []string{
			`{"subscriptionId":"sub-1","events":"ACCESS_CONTROL_POLICY_UPDATE","eventDetail":{"accCtrlPolList":{"apiId":"77aa01","apiInvokerPolicies":[{"apiInvokerId":"inv-1"}]}}}`,
			`{"subscriptionId":"sub-1","events":"ACCESS_CONTROL_POLICY_UPDATE","eventDetail":{"accCtrlPolList":{"apiId":"8f36c0","apiInvokerPolicies":[{"apiInvokerId":"inv-1"}]}}}`,
		}},
		{"opencapif", "offboarded", []func(*scene){offboard}, []string{`{"subscriptionId":"sub-1","events":"API_INVOKER_OFFBOARDED","eventDetail":{"apiInvokerIds":["inv-1"]}}`}},
		{"oran", "revoke", []func(*scene){revoke(apiQoS)}, nil},
		{"oran", "offboarded", []func(*scene){offboard}, []string{`{"eventDetail":{"apiInvokerIds":["inv-1"]},"events":"API_INVOKER_OFFBOARDED","subscriptionId":"sub-1"}`}},
		{"evolved", "revoke", []func(*scene){revoke(apiQoS)}, []string{`{"text":"{'event_detail': None,\n 'events': 'API_INVOKER_AUTHORIZATION_REVOKED',\n 'subscription_id': 'sub-1'}"}`}},
		{"evolved", "revoke of nothing", []func(*scene){revoke("nope")}, []string{`{"text":"{'event_detail': None,\n 'events': 'API_INVOKER_AUTHORIZATION_REVOKED',\n 'subscription_id': 'sub-1'}"}`}},
		{"evolved", "offboarded", []func(*scene){offboard}, []string{`{"text":"{'event_detail': None,\n 'events': 'API_INVOKER_UPDATED',\n 'subscription_id': 'sub-1'}"}`}},
	}
	for _, tt := range tests {
		t.Run(tt.dialect+"/"+tt.name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: tt.dialect})
			put(s)
			s.subscribeAll(eventsTo)
			for _, step := range tt.do {
				step(s)
				s.quiesce()
			}
			got := s.aefs["a"].at(eventPath)
			var bodies []string
			for _, r := range got {
				bodies = append(bodies, r.body)
				method, chunked := http.MethodPost, false
				if tt.dialect == "oran" {
					method, chunked = http.MethodPut, true
				}
				if r.caller != "" || r.method != method || r.chunked != chunked {
					t.Errorf("got %s, chunked %v, by %q; want %s, chunked %v, without certificate", r.method, r.chunked, r.caller, method, chunked)
				}
			}
			wantEqual(t, "bodies", bodies, tt.want)
			for name, aef := range s.aefs {
				if calls := aef.at(callPath); len(calls) != 0 {
					t.Errorf("got %d calls of revoke-authorization at %s; want none", len(calls), name)
				}
			}
		})
	}
}

func TestDialectRevokeByCore(t *testing.T) {
	for name, events := range map[string]int{"opencapif": 2, "oran": 0, "evolved": 1} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.authorize()
			s.subscribeAll(eventsTo)
			answers, err := s.RevokeByCore(s.ctx, CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiLocation}})
			s.must(err)
			s.quiesce()
			wantEqual(t, "left", s.entries(), []string{s.a + "/" + apiQoS})
			if got := len(s.aefs["a"].at(eventPath)); len(answers) != 0 || got != events {
				t.Errorf("got %d answers and %d events; want 0 and %d", len(answers), got, events)
			}
		})
	}
}

func TestEvolvedDeadCallback(t *testing.T) {
	tests := []struct {
		name string
		kill func(*scene)
	}{
		{"callback gone", func(s *scene) { s.must(s.inv.Close()) }},
		{"callback answers 500", func(s *scene) { s.Inject(Fault{Operations: []string{OpNotifyInvoker}, Status: 500}) }},
		{"by fault", func(s *scene) { s.Inject(Fault{Operations: []string{OpNotifyInvoker}, Drop: true}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: "evolved"})
			s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiQoS), Entry(s.a, apiLocation)))
			tt.kill(s)
			wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["77aa01"],"cause":"X"}`), 500)
			wantEqual(t, "left", s.entries(), []string{s.a + "/" + apiLocation})
		})
	}
}

func TestEvolvedDeadSubscriberSilencesAll(t *testing.T) {
	s := newScene(t, Options{Dialect: "evolved"})
	s.authorize()
	dead, err := s.Subscribe("aef-0", EventSubscription{Events: []string{EventInvokerUpdated}, NotificationDestination: deadAddress(t)})
	s.must(err)
	s.subscribeAll(eventsTo)
	s.SendEvent(EventInvokerUpdated, nil)
	s.quiesce()
	s.SendEvent(EventInvokerUpdated, nil)
	s.quiesce()
	before := len(s.aefs["a"].at(eventPath))
	s.mu.Lock()
	delete(s.main.subscriptions, dead)
	s.mu.Unlock()
	s.RestartEvents()
	s.SendEvent(EventInvokerUpdated, nil)
	s.quiesce()
	if after := len(s.aefs["a"].at(eventPath)); before > 1 || after != before+1 {
		t.Errorf("got %d events while silenced, %d after the restart; want at most 1, then one more", before, after)
	}
}

func TestOranCrash(t *testing.T) {
	s := newScene(t, Options{Dialect: "oran"})
	s.must(s.inv.PutContext(s.ctx, Entry(s.a, "one"), Entry(s.a, "two"), Entry(s.b, "three")))
	before := s.entries()
	got := s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["one","three"],"cause":"UNEXPECTED_REASON"}`)
	if !isEOF(got.err) {
		t.Errorf("got %+v; want an empty reply", got)
	}
	wantEqual(t, "entries", s.entries(), before)
}

func TestOranListenersAreApart(t *testing.T) {
	s := newScene(t, Options{Dialect: "oran"})
	s.authorize()
	if len(s.PlainContexts()) != 0 || len(s.Contexts()) != 1 {
		t.Fatalf("got %d plain and %d other contexts; want 0 and 1", len(s.PlainContexts()), len(s.Contexts()))
	}
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	resp := getPlain(ctx, t, s, "inv-1")
	if resp != 404 {
		t.Errorf("read on the other listener: got %d; want 404", resp)
	}
	s.inv.Base = s.PlainURL()
	s.must(s.inv.PutContext(ctx, Entry(s.a, apiQoS)))
	if resp := getPlain(ctx, t, s, "inv-1"); resp != 200 || len(s.PlainContexts()) != 1 {
		t.Errorf("after a put there: got %d; want 200", resp)
	}
	backup := s.Snapshot()
	s.Empty()
	s.Restore(backup)
	if len(s.PlainContexts()) != 1 {
		t.Errorf("after restore: got %d plain contexts; want 1", len(s.PlainContexts()))
	}
	s.must(s.Offboard("inv-1"))
	if n := len(s.PlainContexts()) + len(s.Contexts()); n != 0 {
		t.Errorf("after offboarding: got %d contexts; want 0", n)
	}
	if strict := newScene(t, Options{}); strict.PlainURL() != "" || len(strict.PlainContexts()) != 0 {
		t.Error("strict: got a plain listener; want none")
	}
}

func getPlain(ctx context.Context, t *testing.T, s *scene, id string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.PlainURL()+contexts+id, nil)
	s.must(err)
	resp, err := s.noCertificate.Do(req)
	s.must(err)
	s.must(resp.Body.Close())
	return resp.StatusCode
}

func TestAssignAEFID(t *testing.T) {
	tests := []struct{ dialect, name, want string }{
		{"strict", "north-1", "north-1"},
		{"oran", "north-1", "north-1"},
		{"opencapif", "north-1", "AEFnorth1"},
		{"opencapif", "AEF0a", "AEF0a"},
		{"evolved", "north-1", "aef-north-1"},
		{"evolved", "AEF-x", "AEF-x"},
	}
	for _, tt := range tests {
		d, err := dialectFor(tt.dialect)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.assignAEFID(tt.name); got != tt.want {
			t.Errorf("%s, %s: got %s; want %s", tt.dialect, tt.name, got, tt.want)
		}
	}
}
