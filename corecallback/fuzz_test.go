package corecallback

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func seed(f *testing.F, bodies ...string) {
	for _, body := range bodies {
		f.Add([]byte(body))
	}
	for _, body := range []string{"", "null", "[]", "{", `{"a":1}{`, "\xff", goodRevoke, evolvedText, ocfPolicyUpdate, testNotification} {
		f.Add([]byte(body))
	}
}

func checkID(t *testing.T, what, id string) {
	t.Helper()
	if id == "" || len(id) > maxIDBytes {
		t.Errorf("%s: got %q; want 1 to %d bytes", what, id, maxIDBytes)
	}
}

func FuzzParseRevokeAuthorization(f *testing.F) {
	seed(f, revokeBody(`"api_invoker_id":"i","api_ids":["a","b"],"cause":"X","access_token":"h.c.s","aefId":null`),
		revokeBody(`"apiInvokerId":"i","apiInvokerId":"j","apiIds":["a"],"cause":"X"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := ParseRevokeAuthorization(body)
		if err != nil {
			if p := problemFor(err); p.Status != http.StatusBadRequest {
				t.Errorf("got %+v for %v; want 400", p, err)
			}
			return
		}
		info := req.RevokeInfo
		checkID(t, "invoker", info.APIInvokerID)
		checkID(t, "cause", info.Cause)
		if len(info.APIIDs) == 0 || len(info.APIIDs) > maxIDs {
			t.Errorf("apiIds: got %d; want 1 to %d", len(info.APIIDs), maxIDs)
		}
		// The strict form of what was understood must be understood alike.
		members := map[string]any{"apiInvokerId": info.APIInvokerID, "apiIds": info.APIIDs, "cause": info.Cause}
		if info.AEFID != "" {
			members["aefId"] = info.AEFID
		}
		if !info.AccessToken.IsZero() {
			members["accessToken"] = info.AccessToken.Reveal()
		}
		strict, err := json.Marshal(map[string]any{"revokeInfo": members, "supportedFeatures": req.SupportedFeatures})
		if err != nil {
			t.Fatalf("encoding failed: %v", err)
		}
		again, err := ParseRevokeAuthorization(strict)
		if err != nil || !reflect.DeepEqual(again, req) {
			t.Errorf("got %+v, %v from %s; want %+v", again, err, strict, req)
		}
		// A token that is there must narrow.
		var loose struct {
			RevokeInfo struct {
				AccessToken any `json:"accessToken"`
			} `json:"revokeInfo"`
		}
		err = json.Unmarshal(body, &loose)
		if err == nil && loose.RevokeInfo.AccessToken != nil && info.AccessToken.IsZero() {
			t.Errorf("the token of %s was lost", body)
		}
	})
}

func FuzzParseCheckAuthentication(f *testing.F) {
	seed(f, `{"apiInvokerId":"i","supportedFeatures":"0"}`, `{"api_invoker_id":"i","supported_features":"fF"}`)
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := ParseCheckAuthentication(body)
		if err != nil {
			return
		}
		checkID(t, "invoker", req.APIInvokerID)
		if !req.SupportedFeatures.valid() {
			t.Errorf("features: got %q; want hexadecimal digits", req.SupportedFeatures)
		}
	})
}

func FuzzParseEventNotification(f *testing.F) {
	seed(f, oranOffboarded, ocfRevoked, release19Revoked,
		`{"subscription_id":"s","event":["API_INVOKER_OFFBOARDED","X"],"event_detail":{"api_invoker_ids":["i"]}}`)
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := ParseEventNotification(body)
		if err != nil {
			if p := problemFor(err); p.Status != http.StatusBadRequest {
				t.Errorf("got %+v for %v; want 400", p, err)
			}
			return
		}
		checkID(t, "subscription", n.SubscriptionID)
		for _, event := range n.Events {
			checkID(t, "event", event)
		}
		actions, ignored, err := interpret(n)
		if err != nil {
			return
		}
		if len(actions) == 0 && len(ignored) != len(n.Events) {
			t.Errorf("%q means nothing, and only %q are left alone", n.Events, ignored)
		}
		c := &consumer{}
		for _, act := range actions {
			err := act(t.Context(), c)
			if err != nil {
				t.Fatalf("acting failed: %v", err)
			}
		}
		for _, call := range c.got() {
			if strings.HasPrefix(call, "deny []") || strings.HasPrefix(call, "gone []") {
				t.Errorf("%s names nobody: %s", n.Events, call)
			}
		}
	})
}

// FuzzHintPath: whatever arrives, it is at most a hint, and answered 204.
func FuzzHintPath(f *testing.F) {
	seed(f, oranOffboarded, ocfRevoked, release19Revoked)
	s := newSetup(f, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		c := &consumer{}
		s.handler.consumer = c
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, httptest.NewRequest("PUT", testHintPath, strings.NewReader(string(body))))
		if w.Code != http.StatusNoContent {
			t.Errorf("got %d; want 204", w.Code)
		}
		calls := c.got()
		if len(calls) > 1 || len(calls) == 1 && (!strings.HasPrefix(calls[0], "hint [") || strings.Contains(calls[0], "] authenticated=true event=\"API")) {
			t.Errorf("got %q; want at most one unauthenticated hint", calls)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("san", coreName)
	f.Add("cn", "capifcore")
	f.Add("spki", "sha256/"+strings.Repeat("A", 43)+"=")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, kind, value string) {
		id, err := ParseIdentity(kind, value)
		if (err == nil) != (id.kind != "") {
			t.Errorf("got %v, %v; want an identity or an error", id, err)
		}
	})
}

func FuzzFeatures(f *testing.F) {
	f.Add("1", "f0")
	f.Add("", "0x")
	f.Fuzz(func(t *testing.T, a, b string) {
		both := Features(a).Intersect(Features(b))
		if both != Features(b).Intersect(Features(a)) || !both.valid() || both == "" || len(both) > max(1, min(len(a), len(b))) {
			t.Errorf("%q and %q: got %q; want a valid mask, the same both ways", a, b, both)
		}
	})
}
