package coretest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Steps 6 and 7 of TS 23.222 8.23.3: who is told, and who is not.
func TestRevokeTellsWhomItMust(t *testing.T) {
	tests := []struct {
		name    string
		request string
		calls   []string // AEFs called by revoke-authorization
		events  []string // AEFs that get the event
		left    []string
	}{
		{
			"without the indication only the caller hears of its own revoke",
			`{"apiInvokerId":"inv-1","aefId":"aef-a","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`,
			nil, []string{"a"}, []string{"aef-a/77aa01", "aef-b/8f36c0", "aef-x/8f36c0"},
		},
		{
			"with it the AEF of the same provider that exposes the API and was discovered, not c, not x",
			`{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"UNEXPECTED_REASON"}`,
			[]string{"b"}, []string{"a", "b"}, []string{"aef-a/77aa01", "aef-x/8f36c0"},
		},
		{
			"with it for an API that no other AEF exposes",
			`{"apiInvokerId":"inv-1","apiIds":["77aa01"],"cause":"UNEXPECTED_REASON"}`,
			nil, []string{"a"}, []string{"aef-a/8f36c0", "aef-b/8f36c0", "aef-x/8f36c0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{})
			s.authorize()
			s.subscribeAll(eventsTo)
			wantStatus(t, s.revokeJSON(tt.request), http.StatusNoContent)
			s.quiesce()

			wantEqual(t, "entries left", s.entries(), tt.left)
			var asked SecurityNotification
			s.must(json.Unmarshal([]byte(tt.request), &asked))
			got := s.inv.Notifications()
			if len(got) != 1 || got[0].Cause != asked.Cause || !slices.Equal(got[0].APIIDs, asked.APIIDs) {
				t.Fatalf("invoker was told %+v; want one notification like %+v", got, asked)
			}
			var calls, events []string
			for _, name := range []string{"a", "b", "c", "x"} {
				for _, r := range s.aefs[name].at(callPath) {
					calls = append(calls, name)
					if r.caller != CoreCommonName {
						t.Errorf("call to %s: got client certificate %q; want %q", name, r.caller, CoreCommonName)
					}
				}
				if n := len(s.aefs[name].at(eventPath)); n > 0 {
					events = append(events, name)
				}
			}
			wantEqual(t, "called", calls, tt.calls)
			wantEqual(t, "events", events, tt.events)
		})
	}
}

func TestStepSevenMessages(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	s.subscribeAll(eventsTo)
	wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"UNEXPECTED_REASON"}`), http.StatusNoContent)
	s.quiesce()
	call := s.aefs["b"].at(callPath)[0].body
	want := `{"revokeInfo":{"apiInvokerId":"inv-1","aefId":"aef-b","apiIds":["8f36c0"],"cause":"UNEXPECTED_REASON"},"supportedFeatures":"0"}`
	if call != want {
		t.Errorf("call: got %s; want %s", call, want)
	}
	event := s.aefs["b"].at(eventPath)[0].body
	want = `{"subscriptionId":"sub-2","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiIds":["8f36c0"],"apiInvokerIds":["inv-1"]}}`
	if event != want {
		t.Errorf("event: got %s; want %s", event, want)
	}
}

func TestRevokeRefused(t *testing.T) {
	const path = "/capif-security/v1/trustedInvokers/inv-1/delete"
	tests := []struct {
		name, as, path, body string
		want                 int
		says                 string
	}{
		{"no certificate", "nobody", path, `{}`, 401, "certificate"},
		{"an invoker's certificate", "invoker", path, `{}`, 403, "role AEF"},
		{"broken JSON", "a", path, `{`, 400, "SecurityNotification"},
		{"no fields", "a", path, `{}`, 400, "/apiIds"},
		{"empty apiIds", "a", path, `{"apiInvokerId":"inv-1","apiIds":[],"cause":"X"}`, 400, "/apiIds"},
		{"no cause", "a", path, `{"apiInvokerId":"inv-1","apiIds":["8f36c0"]}`, 400, "/cause"},
		{"invoker differs from the path", "a", path, `{"apiInvokerId":"inv-2","apiIds":["8f36c0"],"cause":"X"}`, 400, "/apiInvokerId"},
		{"aefId of another provider", "a", path, `{"apiInvokerId":"inv-1","aefId":"aef-x","apiIds":["8f36c0"],"cause":"X"}`, 403, "provider"},
		{"a token in an AEF's request", "a", path, `{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"X","accessToken":"h.p.s"}`, 400, "/accessToken"},
		{"unknown invoker", "a", strings.Replace(path, "inv-1", "inv-9", 1), `{"apiInvokerId":"inv-9","apiIds":["8f36c0"],"cause":"X"}`, 404, "trusted invoker"},
		{"API not in the context", "a", path, `{"apiInvokerId":"inv-1","apiIds":["nope"],"cause":"X"}`, 404, "no authorization"},
		{"body over the limit", "a", path, strings.Repeat(" ", maxBody+1), 413, "larger"},
		{"no such path", "a", "/capif-security/v2/x", `{}`, 404, "resource"},
	}
	s := newScene(t, Options{})
	s.authorize()
	before := s.entries()
	clients := map[string]*http.Client{"nobody": s.noCertificate, "invoker": s.Client(s.inv.Identity), "a": s.aefClient}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(clients[tt.as], http.MethodPost, tt.path, "application/json", tt.body)
			wantStatus(t, got, tt.want)
			if kind := got.header.Get("Content-Type"); kind != "application/problem+json" || !strings.Contains(got.body, tt.says) {
				t.Errorf("got %s %s; want a problem that says %q", kind, got.body, tt.says)
			}
		})
	}
	s.quiesce()
	wantEqual(t, "entries", s.entries(), before)
	if n := s.Count(OpNotifyInvoker) + s.Count(OpCallAEF); n != 0 {
		t.Errorf("got %d messages sent; want none", n)
	}
}

func TestRevokeIsExact(t *testing.T) {
	s := newScene(t, Options{})
	s.must(s.inv.PutContext(s.ctx, Entry(s.a, ""), Entry(s.b, "")))
	body := `{"apiInvokerId":"inv-1","aefId":"aef-a","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"}`
	wantStatus(t, s.revokeJSON(body), 204)
	wantEqual(t, "entry for all APIs", s.entries(), []string{"aef-a/77aa01", "aef-b/"})
	wantStatus(t, s.revokeJSON(body), 404) // a repeat finds nothing
	wantEqual(t, "after the repeat", s.entries(), []string{"aef-a/77aa01", "aef-b/"})
	if s.Authorized("inv-1", s.a, apiLocation) || !s.Authorized("inv-1", s.b, apiLocation) {
		t.Errorf("got a authorized or b not; want the opposite")
	}
}

func TestRevokeByCore(t *testing.T) {
	tests := []struct {
		name   string
		revoke CoreRevoke
		called []string
		body   string // of the first call
		left   []string
	}{
		{
			"every AEF concerned", CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiLocation}}, []string{"a", "b", "x"},
			`{"revokeInfo":{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"UNEXPECTED_REASON"},"supportedFeatures":"0"}`,
			[]string{"aef-a/77aa01"},
		},
		{
			"one AEF", CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiLocation}, AEFID: "aef-b", Cause: CauseAuthorization}, []string{"b"},
			`{"revokeInfo":{"apiInvokerId":"inv-1","aefId":"aef-b","apiIds":["8f36c0"],"cause":"AUTHORIZATION_ISSUE"},"supportedFeatures":"0"}`,
			[]string{"aef-a/8f36c0", "aef-a/77aa01", "aef-x/8f36c0"},
		},
		{
			"one token", CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiQoS}, AccessToken: "h.p.s"}, []string{"a"},
			`{"revokeInfo":{"apiInvokerId":"inv-1","apiIds":["77aa01"],"accessToken":"h.p.s","cause":"UNEXPECTED_REASON"},"supportedFeatures":"1"}`,
			[]string{"aef-a/8f36c0", "aef-a/77aa01", "aef-b/8f36c0", "aef-x/8f36c0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{})
			s.authorize()
			answers, err := s.RevokeByCore(s.ctx, tt.revoke)
			s.must(err)
			s.quiesce()
			var called []string
			for _, a := range answers {
				if a.Status != http.StatusOK || !strings.Contains(string(a.Body), "supportedFeatures") {
					t.Errorf("answer of %s: got %d %s %v; want 200 with supportedFeatures", a.AEFID, a.Status, a.Body, a.Err)
				}
				called = append(called, strings.TrimPrefix(a.AEFID, "aef-"))
			}
			wantEqual(t, "called", called, tt.called)
			wantEqual(t, "entries left", s.entries(), tt.left)
			if got := s.aefs[tt.called[0]].at(callPath)[0].body; got != tt.body {
				t.Errorf("got %s; want %s", got, tt.body)
			}
			for _, n := range s.inv.Notifications() {
				if n.AccessToken != "" {
					t.Errorf("the invoker was sent a token: %+v", n)
				}
			}
		})
	}
}

func TestRevokeByCoreRefuses(t *testing.T) {
	s := newScene(t, Options{})
	if _, err := s.RevokeByCore(s.ctx, CoreRevoke{InvokerID: "inv-1"}); err == nil || !strings.Contains(err.Error(), "/apiIds") {
		t.Errorf("without APIs: got %v; want an error that names /apiIds", err)
	}
	if _, err := s.CallAEF(s.ctx, "nope", SecurityNotification{}); err == nil || !strings.Contains(err.Error(), "CallbackURL") {
		t.Errorf("unknown AEF: got %v; want an error that names CallbackURL", err)
	}
	if err := s.Offboard("nope"); err == nil {
		t.Error("offboard of an unknown invoker: got nil; want an error")
	}
}

func TestAddressIsCalledOnce(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	s.must(s.AddAEF(AEF{ID: s.b, ProviderID: "prov-1", CallbackURL: s.aefs["a"].url}))
	answers, err := s.RevokeByCore(s.ctx, CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiLocation}})
	s.must(err)
	if len(answers) != 2 || len(s.aefs["a"].at(callPath)) != 1 {
		t.Errorf("got %d answers, %d calls at the shared address; want 2 (a, x) and 1", len(answers), len(s.aefs["a"].at(callPath)))
	}
}

func TestCallAEFIsDialectIndependent(t *testing.T) {
	for _, name := range Dialects() {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			n := SecurityNotification{APIInvokerID: "inv-9", AEFID: "foreign", APIIDs: []string{"x"}, Cause: "NEW_CAUSE"}
			got, err := s.CallAEF(s.ctx, s.a, n)
			s.must(err)
			calls := s.aefs["a"].at(callPath)
			if got.Status != 200 || len(calls) != 1 || calls[0].caller != CoreCommonName || !strings.Contains(calls[0].body, `"aefId":"foreign"`) {
				t.Errorf("got %+v, calls %+v; want 200 and the request as given, by %s", got, calls, CoreCommonName)
			}
		})
	}
}

func TestOffboard(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	s.subscribeAll(eventsTo)
	s.must(s.Offboard("inv-1"))
	s.quiesce()
	want := `{"subscriptionId":"sub-3","events":"API_INVOKER_OFFBOARDED","eventDetail":{"apiInvokerIds":["inv-1"]}}`
	if got := s.aefs["c"].at(eventPath); len(got) != 1 || got[0].body != want || got[0].caller != CoreCommonName {
		t.Errorf("got %+v; want once %s by %s", got, want, CoreCommonName)
	}
	if _, ok := s.Context("inv-1"); ok {
		t.Error("got a context after offboarding; want none")
	}
	var refused *StatusError
	if err := s.inv.PutContext(s.ctx, Entry(s.a, apiQoS)); !asStatus(err, &refused) || refused.Status != 404 {
		t.Errorf("put after offboarding: got %v; want 404", err)
	}
}
