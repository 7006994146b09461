package corecallback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// revokeBody wraps members of revokeInfo.
func revokeBody(members string) string {
	return `{"revokeInfo":{` + members + `},"supportedFeatures":"1"}`
}

func manyIDs(n int) string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("api-%d", i)
	}
	text, _ := json.Marshal(ids)
	return string(text)
}

func TestRevokeAuthorization(t *testing.T) {
	const ids = `"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"OVERLIMIT_USAGE"`
	const denied = `deny [inv-1] aef="" apis=[api-1] token="" cause="OVERLIMIT_USAGE" event=""`
	tests := []struct {
		name     string
		body     string
		want     string // the call, empty if refused
		features string // default "1"
		params   string // "pointer reason; …"
		detail   string // if the body could not be decoded at all
	}{
		{name: "release 15", body: revokeBody(ids), want: denied},
		{name: "with aefId", body: revokeBody(ids + `,"aefId":"aef-1"`),
			want: `deny [inv-1] aef="aef-1" apis=[api-1] token="" cause="OVERLIMIT_USAGE" event=""`},
		{name: "release 19 with a token", body: revokeBody(ids + `,"accessToken":"h.c.s"`),
			want: `deny [inv-1] aef="" apis=[api-1] token="h.c.s" cause="OVERLIMIT_USAGE" event=""`},
		{name: "token that is no JWS is for the Consumer", body: revokeBody(ids + `,"accessToken":"???"`),
			want: `deny [inv-1] aef="" apis=[api-1] token="???" cause="OVERLIMIT_USAGE" event=""`},
		{name: "token without the feature agreed still narrows",
			body: `{"revokeInfo":{` + ids + `,"accessToken":"h.c.s"},"supportedFeatures":"0"}`, features: "0",
			want: `deny [inv-1] aef="" apis=[api-1] token="h.c.s" cause="OVERLIMIT_USAGE" event=""`},
		{name: "null optional members", body: revokeBody(ids + `,"aefId":null,"accessToken":null`), want: denied},
		{name: "unknown cause", body: revokeBody(`"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"NEW_IN_R20"`),
			want: `deny [inv-1] aef="" apis=[api-1] token="" cause="NEW_IN_R20" event=""`},
		{name: "unknown members", body: `{"x":{"y":[1]},"supportedFeatures":"1","revokeInfo":{"vendorSpecific-000001":{},` + ids + `}}`, want: denied},
		{name: "snake_case", body: `{"revoke_info":{"api_invoker_id":"inv-1","aef_id":"aef-1","api_ids":["api-1"],"cause":"OTHER_REASON","access_token":"h.c.s"},"supported_features":"1"}`,
			want: `deny [inv-1] aef="aef-1" apis=[api-1] token="h.c.s" cause="OTHER_REASON" event=""`},
		{name: "both spellings, same value", body: revokeBody(ids + `,"api_invoker_id":"inv-1"`), want: denied},
		{name: "repeated ids count once", body: revokeBody(`"apiInvokerId":"inv-1","apiIds":["b","a","b"],"cause":"X"`),
			want: `deny [inv-1] aef="" apis=[b a] token="" cause="X" event=""`},
		{name: "spaces and line breaks", body: " {\n\"revokeInfo\" : { \"apiInvokerId\" : \"inv-1\" , \"apiIds\" : [ \"api-1\" ] , \"cause\" : \"OVERLIMIT_USAGE\" } ,\r\n \"supportedFeatures\" : \"1\" }\n", want: denied},
		{name: "ids with slash and spaces", body: revokeBody(`"apiInvokerId":"a/b c","apiIds":["ü"],"cause":"X"`),
			want: `deny [a/b c] aef="" apis=[ü] token="" cause="X" event=""`},
		{name: "features of ours among others", body: strings.Replace(revokeBody(ids), `"1"}`, `"A00F"}`, 1), want: denied},
		{name: "features of others only", body: strings.Replace(revokeBody(ids), `"1"}`, `"fffe"}`, 1), want: denied, features: "0"},
		{name: "features empty", body: strings.Replace(revokeBody(ids), `"1"}`, `""}`, 1), want: denied, features: "0"},

		{name: "nothing in it", body: `{}`, params: "/revokeInfo is required; /supportedFeatures is required"},
		{name: "features missing", body: `{"revokeInfo":{` + ids + `}}`, params: "/supportedFeatures is required"},
		{name: "features not hexadecimal", body: strings.Replace(revokeBody(ids), `"1"}`, `"0x1"}`, 1), params: "/supportedFeatures must be a string of hexadecimal digits"},
		{name: "features a number", body: strings.Replace(revokeBody(ids), `"1"}`, `1}`, 1), params: "/supportedFeatures must be a string of hexadecimal digits"},
		{name: "revokeInfo empty", body: revokeBody(``),
			params: "/revokeInfo/apiInvokerId is required; /revokeInfo/cause is required; /revokeInfo/apiIds is required"},
		{name: "revokeInfo a list", body: `{"revokeInfo":[],"supportedFeatures":"1"}`, params: "/revokeInfo must be an object"},
		{name: "required members null", body: revokeBody(`"apiInvokerId":null,"apiIds":null,"cause":null`),
			params: "/revokeInfo/apiInvokerId is required; /revokeInfo/cause is required; /revokeInfo/apiIds is required"},
		{name: "apiIds empty", body: revokeBody(`"apiInvokerId":"i","apiIds":[],"cause":"X"`), params: "/revokeInfo/apiIds must hold at least one entry"},
		{name: "apiIds a string", body: revokeBody(`"apiInvokerId":"i","apiIds":"api-1","cause":"X"`), params: "/revokeInfo/apiIds must be an array"},
		{name: "apiIds with an empty one", body: revokeBody(`"apiInvokerId":"i","apiIds":["a",""],"cause":"X"`),
			params: "/revokeInfo/apiIds/1 must not be empty; leave it out if there is none"},
		{name: "apiIds with a null", body: revokeBody(`"apiInvokerId":"i","apiIds":[null],"cause":"X"`),
			params: "/revokeInfo/apiIds/0 must not be empty; leave it out if there is none"},
		{name: "apiIds with a number", body: revokeBody(`"apiInvokerId":"i","apiIds":["a",7],"cause":"X"`), params: "/revokeInfo/apiIds/1 must be a string"},
		{name: "1001 apiIds", body: revokeBody(`"apiInvokerId":"i","cause":"X","apiIds":` + manyIDs(1001)), params: "/revokeInfo/apiIds must not hold more than 1000 entries"},
		{name: "aefId empty", body: revokeBody(ids + `,"aefId":""`), params: "/revokeInfo/aefId must not be empty; leave it out if there is none"},
		{name: "token empty does not widen", body: revokeBody(ids + `,"accessToken":""`), params: "/revokeInfo/accessToken must not be empty; leave it out if there is none"},
		{name: "token of a wrong type does not widen", body: revokeBody(ids + `,"accessToken":{}`), params: "/revokeInfo/accessToken must be a string"},
		{name: "two invokers", body: revokeBody(ids + `,"apiInvokerId":"inv-2"`), params: "/revokeInfo/apiInvokerId is given more than once, with different values"},
		{name: "two spellings, two values", body: revokeBody(ids + `,"api_ids":["api-2"]`), params: "/revokeInfo/apiIds is given more than once, with different values"},
		{name: "id with a control character", body: revokeBody(`"apiInvokerId":"a\u0000","apiIds":["a"],"cause":"X"`), params: "/revokeInfo/apiInvokerId must not hold control characters"},
		{name: "id with half a surrogate pair", body: revokeBody(`"apiInvokerId":"a\ud800","apiIds":["a"],"cause":"X"`), params: "/revokeInfo/apiInvokerId must be well-formed Unicode"},
		{name: "id too long", body: revokeBody(`"apiInvokerId":"` + strings.Repeat("a", 1025) + `","apiIds":["a"],"cause":"X"`), params: "/revokeInfo/apiInvokerId must not be longer than 1024 bytes"},
		{name: "cause a number", body: revokeBody(`"apiInvokerId":"i","apiIds":["a"],"cause":5`), params: "/revokeInfo/cause must be a string"},

		{name: "empty", body: "", detail: "the body is empty"},
		{name: "white space", body: " \n", detail: "the body is empty"},
		{name: "broken", body: `{"revokeInfo":`, detail: "not one complete JSON value"},
		{name: "trailing garbage", body: revokeBody(ids) + `x`, detail: "error at byte"},
		{name: "two values", body: revokeBody(ids) + revokeBody(ids), detail: "error at byte"},
		{name: "a list", body: "[" + revokeBody(ids) + "]", detail: "not a JSON object"},
		{name: "null", body: "null", detail: "not a JSON object"},
		{name: "not UTF-8", body: revokeBody(`"apiInvokerId":"` + "\xff" + `","apiIds":["a"],"cause":"X"`), detail: "not valid UTF-8"},
		{name: "deep nesting", body: strings.Repeat("[", 20_000), detail: "not one complete JSON value"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSetup(t, nil)
			w := s.direct("POST", RevokeAuthorizationPath, test.body)
			if test.want != "" {
				features := test.features
				if features == "" {
					features = "1"
				}
				if want := `{"supportedFeatures":"` + features + `"}`; w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want {
					t.Errorf("got %d %s; want 200 %s", w.Code, w.Body, want)
				}
				checkCalls(t, s.consumer, test.want)
				return
			}
			checkCalls(t, s.consumer)
			p := decodeProblem(t, w)
			if w.Code != http.StatusBadRequest || p.InvalidParams.Error() != test.params || !strings.Contains(p.Detail, test.detail) {
				t.Errorf("got %d %+v; want 400 with %q %q", w.Code, p, test.params, test.detail)
			}
		})
	}
}

func decodeProblem(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	err := json.Unmarshal(w.Body.Bytes(), &p)
	if err != nil {
		t.Fatalf("the answer is no problem document: %v: %s", err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers: got %v; want a problem document that is not stored", w.Header())
	}
	if p.Status != w.Code || p.Type != "about:blank" || p.Title != http.StatusText(w.Code) {
		t.Errorf("got %+v for status %d; want them to agree", p, w.Code)
	}
	return p
}

func TestThousandAPIs(t *testing.T) {
	s := newSetup(t, nil)
	w := s.direct("POST", RevokeAuthorizationPath, revokeBody(`"apiInvokerId":"i","cause":"X","apiIds":`+manyIDs(1000)))
	if w.Code != http.StatusOK {
		t.Errorf("got %d %s; want 200", w.Code, w.Body)
	}
}

func TestManyMistakesMakeAShortAnswer(t *testing.T) {
	s := newSetup(t, nil)
	w := s.direct("POST", RevokeAuthorizationPath, revokeBody(`"apiInvokerId":"i","cause":"X","apiIds":[`+strings.Repeat("1,", 900)+"1]"))
	if p := decodeProblem(t, w); len(p.InvalidParams) != maxRefusals {
		t.Errorf("got %d invalidParams; want %d", len(p.InvalidParams), maxRefusals)
	}
}

// TestErrorsOfTheConsumer shows each error on the wire, and that its text stays here.
func TestErrorsOfTheConsumer(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
		after  string
		params string
	}{
		{"foreign aefId", fmt.Errorf("looking up internal-name failed: %w", ErrForeignAEF), 404, "", ""},
		{"not durable", fmt.Errorf("writing internal-name failed: %w", ErrNotDurable), 503, "5", ""},
		{"anything else", errors.New("internal-name"), 503, "5", ""},
		{"with a time", &RetryError{Err: ErrNotDurable, After: 1500 * time.Millisecond}, 503, "2", ""},
		{"rate", &RetryError{Err: ErrRateLimited, After: time.Minute}, 429, "60", ""},
		{"rate without a time", ErrRateLimited, 429, "5", ""},
		{"out of time", context.DeadlineExceeded, 503, "5", ""},
		{"one parameter", fmt.Errorf("internal-name: %w", InvalidParam{ParamAccessToken, "names another API invoker"}), 400, "",
			"/revokeInfo/accessToken names another API invoker"},
		{"two parameters", InvalidParams{{"/a", "x"}, {"/b", "y"}}, 400, "", "/a x; /b y"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSetup(t, nil)
			s.consumer.err = test.err
			w := s.direct("POST", RevokeAuthorizationPath, goodRevoke)
			p := decodeProblem(t, w)
			if w.Code != test.status || w.Header().Get("Retry-After") != test.after || p.InvalidParams.Error() != test.params {
				t.Errorf("got %d, Retry-After %q, %q; want %d, %q, %q", w.Code, w.Header().Get("Retry-After"),
					p.InvalidParams.Error(), test.status, test.after, test.params)
			}
			if strings.Contains(w.Body.String(), "internal-name") {
				t.Errorf("got %s; want no internal text", w.Body)
			}
			if got := s.count(OutcomeRevoked); got != 0 {
				t.Errorf("revoked: got %d; want 0", got)
			}
		})
	}
}

func TestContentTypes(t *testing.T) {
	tests := []struct {
		given          string
		revoke, events int
	}{
		{"application/json", 200, 204},
		{"application/json; charset=utf-8", 200, 204},
		{"Application/JSON", 200, 204},
		{"application/vnd.core+json", 200, 204},
		{"", 200, 204},
		{"text/plain", 415, 204},
		{"application/x-www-form-urlencoded", 415, 204},
		{"application/json;;;", 415, 204},
	}
	for _, test := range tests {
		t.Run(test.given, func(t *testing.T) {
			s := newSetup(t, nil)
			post := func(path, body string) int {
				r := httptest.NewRequest("POST", path, strings.NewReader(body))
				r.Header.Set("Content-Type", test.given)
				r.TLS = stateOf(s.core)
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				return w.Code
			}
			if got := post(RevokeAuthorizationPath, goodRevoke); got != test.revoke {
				t.Errorf("revoke: got %d; want %d", got, test.revoke)
			}
			if got := post(DefaultEventsPath, `{"subscriptionId":"s","events":"API_INVOKER_UPDATED"}`); got != test.events {
				t.Errorf("events: got %d; want %d", got, test.events)
			}
		})
	}
}

// checker answers check-authentication and remembers what it was asked.
type checker struct {
	asked []CheckAuthentication
	err   error
}

func (c *checker) CheckAuthentication(_ context.Context, q CheckAuthentication) error {
	c.asked = append(c.asked, q)
	return c.err
}

func TestCheckAuthentication(t *testing.T) {
	const good = `{"apiInvokerId":"inv-1","supportedFeatures":"3"}`
	tests := []struct {
		name   string
		body   string
		err    error
		status int
		answer string
		asked  int
	}{
		{"known", good, nil, 200, `{"supportedFeatures":"1"}`, 1},
		{"snake_case", `{"api_invoker_id":"inv-1","supported_features":"0"}`, nil, 200, `{"supportedFeatures":"0"}`, 1},
		{"unknown invoker", good, ErrUnknownInvoker, 403, "knows no security context", 1},
		{"too often", good, ErrRateLimited, 429, "too many requests", 1},
		{"core unreachable", good, errors.New("dialling failed"), 503, "send it again", 1},
		{"nothing in it", `{}`, nil, 400, `"param":"/apiInvokerId"`, 0},
		{"broken", `{`, nil, 400, "not one complete JSON value", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &checker{err: test.err}
			s := newSetup(t, func(o *Options) { o.CheckAuthentication = c })
			r := httptest.NewRequest("POST", CheckAuthenticationPath, strings.NewReader(test.body))
			r.TLS = stateOf(s.ca.issue(t, nil))
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.answer) {
				t.Errorf("got %d %s; want %d with %s", w.Code, w.Body, test.status, test.answer)
			}
			if len(c.asked) != test.asked {
				t.Fatalf("asked: got %d; want %d", len(c.asked), test.asked)
			}
			if test.asked == 1 && (c.asked[0].Invoker != "inv-1" || c.asked[0].RemoteAddr != r.RemoteAddr || c.asked[0].Certificate == nil) {
				t.Errorf("asked: got %+v; want inv-1 with address and certificate", c.asked[0])
			}
			checkCalls(t, s.consumer)
		})
	}
}

func TestCheckAuthenticationIsOffByDefault(t *testing.T) {
	s := newSetup(t, nil)
	if w := s.direct("POST", CheckAuthenticationPath, `{}`); w.Code != http.StatusNotFound {
		t.Errorf("got %d; want 404", w.Code)
	}
}

var _ CheckAuthenticator = (*checker)(nil)
