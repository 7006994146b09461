package coreclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// seen is one request as the core received it.
type seen struct {
	method, uri, body, peer string
	header                  http.Header
}

func record(into *seen, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*into = seen{method: r.Method, uri: r.RequestURI, body: string(body), header: r.Header}
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			into.peer = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		h(w, r)
	}
}

const contextBody = `{
	"securityInfo": [
		{"aefId":"aef-1","apiId":"api-1","prefSecurityMethods":["OAUTH"],"authenticationInfo":"s3cret","authorizationInfo":"s3cret"},
		{"aefId":"aef-2","prefSecurityMethods":["PSK"]},
		{"interfaceDetails":{"ipv4Addr":"192.0.2.1"},"apiId":"api-3","prefSecurityMethods":["PKI"]},
		{"interfaceDetails":{"ipv4Addr":"192.0.2.1"},"prefSecurityMethods":["PKI"]}
	],
	"notificationDestination":"https://invoker.example/n","supportedFeatures":"4","vendorSpecific-000001":{"a":1}
}`

func TestContext(t *testing.T) {
	var got seen
	s := newSite(t, record(&got, reply(200, "application/json", contextBody)))
	sc, err := s.core(t).Context(t.Context(), "inv/1 ü?#..%2F")
	if err != nil {
		t.Fatal(err)
	}
	want := Context{Entries: []Entry{{"aef-1", "api-1"}, {"aef-2", ""}, {"", "api-3"}}, Unnamed: 1}
	if !reflect.DeepEqual(sc, want) {
		t.Errorf("got %+v; want %+v", sc, want)
	}
	wantURI := "/capif-security/v1/trustedInvokers/inv%2F1%20%C3%BC%3F%23..%252F?authenticationInfo=true&authorizationInfo=true"
	if got.method != http.MethodGet || got.uri != wantURI {
		t.Errorf("got %s %s; want GET %s", got.method, got.uri, wantURI)
	}
	if got.peer != "aef-1" {
		t.Errorf("got client certificate of %q; want aef-1", got.peer)
	}
	if v, ok := got.header["Authorization"]; ok {
		t.Errorf("got Authorization %q; want none beside a certificate", v)
	}
}

func TestContextLists(t *testing.T) {
	sc := Context{Entries: []Entry{{"aef-1", "api-1"}, {"aef-2", ""}, {"", "api-3"}, {"", ""}}}
	tests := []struct {
		name, aefID, apiID string
		want               bool
	}{
		{"the pair", "aef-1", "api-1", true},
		{"another API of it", "aef-1", "api-2", false},
		{"the API at another AEF", "aef-9", "api-1", false},
		{"an entry without apiId covers every API", "aef-2", "api-9", true},
		{"an entry without aefId covers any AEF", "aef-9", "api-3", true},
		{"an entry without both covers nothing", "aef-9", "api-9", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sc.Lists(tt.aefID, tt.apiID); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

func TestContextThatIsNone(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"empty", "", "no security context"},
		{"HTML", "<html>login</html>", "no security context"},
		{"JSON without securityInfo", `{"status":"ok"}`, "no securityInfo"},
		{"a list", `[]`, "no security context"},
		{"securityInfo of another type", `{"securityInfo":{}}`, "securityInfo"},
		{"an entry of another type", `{"securityInfo":["a"]}`, "securityInfo"},
		{"an id of another type", `{"securityInfo":[{"aefId":7}]}`, "securityInfo"},
		{"cut off", `{"securityInfo":[{"aefId":"a"`, "no security context"},
		{"something after it", `{"securityInfo":[]} {}`, "no security context"},
		{"too long", `{"securityInfo":[],"x":"` + strings.Repeat("a", maxBody) + `"}`, "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, reply(200, "application/json", tt.body))
			sc, err := s.core(t).Context(t.Context(), "inv-1")
			e := asError(t, err)
			if e.Status != 200 || e.Class() != Unknown || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("got %v (status %d, %v); want status 200, unknown, %q", e, e.Status, e.Class(), tt.want)
			}
			if len(sc.Entries) != 0 {
				t.Errorf("got %v beside an error; want nothing", sc)
			}
		})
	}
}

func TestContextEmpty(t *testing.T) {
	for _, body := range []string{`{"securityInfo":[]}`, `{"securityInfo":null}`} {
		sc, err := decodeContext([]byte(body))
		if err != nil || len(sc.Entries) != 0 || sc.Lists("a", "b") {
			t.Errorf("%s: got %v, %v; want an empty context", body, sc, err)
		}
	}
}

func TestContextBreaksOff(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"securityInfo":[]}`)
	})
	_, err := s.core(t).Context(t.Context(), "inv-1")
	if e := asError(t, err); e.Class() != Unknown || !strings.Contains(e.Error(), "broke off") {
		t.Errorf("got %v (%v); want an answer that broke off, unknown", e, e.Class())
	}
}

func TestContextWantsA200(t *testing.T) {
	s := newSite(t, reply(204, "", ""))
	_, err := s.core(t).Context(t.Context(), "inv-1")
	if e := asError(t, err); e.Status != 204 || e.Class() != Unknown {
		t.Errorf("got %v (%v); want status 204, unknown", e, e.Class())
	}
}

func TestRevoke(t *testing.T) {
	tests := []struct {
		name, profile string
		r             RevokeRequest
		want          string
	}{
		{"strict", "strict", RevokeRequest{"inv-1", "aef-1", "api-1", "OTHER_REASON", nil},
			`{"apiInvokerId":"inv-1","aefId":"aef-1","apiIds":["api-1"],"cause":"OTHER_REASON"}`},
		{"strict, all AEFs", "strict", RevokeRequest{"inv-1", "aef-1", "api-1", "VENDOR", ptr(true)},
			`{"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"VENDOR"}`},
		{"strict, no cause", "", RevokeRequest{"inv-1", "aef-1", "api-1", "", ptr(false)},
			`{"apiInvokerId":"inv-1","aefId":"aef-1","apiIds":["api-1"],"cause":"UNEXPECTED_REASON"}`},
		{"opencapif", "opencapif", RevokeRequest{"inv-1", "aef-1", "api-1", "AUTHORIZATION_ISSUE", nil},
			`{"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"UNEXPECTED_REASON"}`},
		{"oran", "oran", RevokeRequest{"inv-1", "aef-1", "api-1", "OVERLIMIT_USAGE", ptr(true)},
			`{"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"OVERLIMIT_USAGE"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got seen
			s := newSite(t, record(&got, reply(204, "", "")))
			s.settings.Profile = tt.profile
			if _, err := s.core(t).Revoke(t.Context(), tt.r); err != nil {
				t.Fatal(err)
			}
			if got.body != tt.want {
				t.Errorf("got body %s; want %s", got.body, tt.want)
			}
			if wantURI := "/capif-security/v1/trustedInvokers/inv-1/delete"; got.method != http.MethodPost || got.uri != wantURI {
				t.Errorf("got %s %s; want POST %s", got.method, got.uri, wantURI)
			}
			if ct := got.header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("got Content-Type %q; want application/json", ct)
			}
			if got.peer != "aef-1" || got.header.Get("Authorization") != "" {
				t.Errorf("got certificate of %q, Authorization %q; want aef-1 and none", got.peer, got.header.Get("Authorization"))
			}
		})
	}
}

func TestRevokeAcceptsEvery2xx(t *testing.T) {
	for name, test := range map[string]struct {
		core   http.HandlerFunc
		status int
	}{
		"200 with a page": {reply(200, "text/html", "<html>"), 200},
		"202":             {reply(202, "", ""), 202},
		"204":             {reply(204, "", ""), 204},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) { // the status had come
			w.Header().Set("Content-Length", "9")
			w.WriteHeader(200)
		}, 200},
	} {
		status, err := newSite(t, test.core).core(t).Revoke(t.Context(), RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"})
		if err != nil || status != test.status {
			t.Errorf("%s: got %d, %v; want %d", name, status, err, test.status)
		}
	}
}

func TestRequestsThatAreNotSent(t *testing.T) {
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("got %s %s; want nothing sent", r.Method, r.URL)
	})
	strict := s.core(t)
	s.settings.Profile = "opencapif"
	opencapif := s.core(t)
	revoke := func(c *Core, r RevokeRequest) func() error {
		return func() error { return revokeError(t.Context(), c, r) }
	}
	read := func(id string) func() error {
		return func() error { _, err := strict.Context(t.Context(), id); return err }
	}
	tests := []struct {
		name string
		call func() error
		want string
	}{
		{"read nobody", read(""), "is empty"},
		{"read a dot", read("."), "cannot stand in a path"},
		{"read two dots", read(".."), "cannot stand in a path"},
		{"read bytes", read("a\xff"), "UTF-8"},
		{"revoke for nobody", revoke(strict, RevokeRequest{AEFID: "a", APIID: "b"}), "id of the API invoker is empty"},
		{"revoke nothing", revoke(strict, RevokeRequest{Invoker: "i", AEFID: "a"}), "id of the API is empty"},
		{"revoke at no AEF", revoke(strict, RevokeRequest{Invoker: "i", APIID: "b"}), "aef_id is missing"},
		{"revoke at bytes", revoke(strict, RevokeRequest{Invoker: "i", AEFID: "\xff", APIID: "b"}), "id of the AEF"},
		{"revoke what the profile cannot", revoke(opencapif, RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b", AllAEFs: ptr(false)}), "all_aefs is false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := asError(t, tt.call())
			if e.Class() != BadRequest || e.Status != 0 || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("got %v (status %d, %v); want no status, bad request, %q", e, e.Status, e.Class(), tt.want)
			}
		})
	}
}

func TestStatusDecides(t *testing.T) {
	// Each status with each body: the class is that of the status.
	classes := map[Class][]int{
		NotFound:   {404},
		BadRequest: {400, 402, 405, 406, 410, 411, 413, 414, 415, 422},
		Refused:    {401, 403},
		Unknown:    {300, 304, 408, 409, 421, 423, 425, 429, 500, 501, 502, 503, 504},
	}
	bodies := []struct{ contentType, body string }{
		{"", ""},
		{"application/problem+json", `{"title":"Not Found","detail":"d","cause":"c"}`},
		{"text/html", "<html><head><title>x</title></head>"},
		{"text/plain", `{"title":"Unauthorized"}`},
		{"application/json", `"`},
	}
	var status, body int
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		reply(status, bodies[body].contentType, bodies[body].body)(w, r)
	})
	c := s.core(t)
	for want, statuses := range classes {
		for _, status = range statuses {
			for body = range bodies {
				e := asError(t, revokeError(t.Context(), c, RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"}))
				_, err := c.Context(t.Context(), "i")
				e2 := asError(t, err)
				if e.Status != status || e.Class() != want || e2.Status != status || e2.Class() != want {
					t.Errorf("status %d, body %q: got %v and %v; want %v", status, bodies[body].body, e.Class(), e2.Class(), want)
				}
			}
		}
	}
}

func TestNoAnswer(t *testing.T) {
	tests := []struct {
		name    string
		handler http.HandlerFunc
		timeout time.Duration
		want    error
		text    string
	}{
		{"empty reply", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		}, time.Minute, io.EOF, "no answer"},
		{"too slow", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the caller goes away
			<-r.Context().Done()
		}, 100 * time.Millisecond,
			context.DeadlineExceeded, "nothing came within 100ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.handler) // plain: HTTP/2 has no connection to hijack
			t.Cleanup(srv.Close)
			c, err := New(Settings{URL: srv.URL, InsecureHTTP: true, Timeout: tt.timeout})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			e := asError(t, revokeError(t.Context(), c, RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"}))
			if e.Status != 0 || e.Class() != Unknown || !errors.Is(e, tt.want) || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("got %v (status %d, %v); want no status, unknown, %v", e, e.Status, e.Class(), tt.want)
			}
		})
	}
}

func TestSlowBodyEnds(t *testing.T) {
	// The status came in time, the body never does.
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		_, _ = io.WriteString(w, "overloaded")
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	c, err := New(Settings{URL: srv.URL, InsecureHTTP: true, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	_, err = c.Context(t.Context(), "i")
	if e := asError(t, err); e.Status != 503 || e.Reason != "overloaded" {
		t.Errorf("got %v; want status 503 (overloaded)", e)
	}
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	c, err := New(Settings{URL: "https://" + ln.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Context(t.Context(), "i")
	if e := asError(t, err); e.Status != 0 || e.Class() != Unknown || strings.Contains(e.Error(), "trustedInvokers") {
		t.Errorf("got %v; want no answer, and no URL in the text", e)
	}
}

func TestCancelledCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, err := s.core(t).Context(ctx, "i")
	if e := asError(t, err); !errors.Is(e, context.Canceled) || e.Class() != Unknown {
		t.Errorf("got %v; want a cancelled call", e)
	}
}

func TestMessageIsStable(t *testing.T) {
	// Golden: exactly the members that TS 29.222 8.5.4.2.5 has for an AEF.
	data, err := json.Marshal(securityNotification{"i", "a", []string{"b"}, "c"})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"aefId", "apiIds", "apiInvokerId", "cause"}; !slices.Equal(names, want) {
		t.Errorf("got %v; want %v", names, want)
	}
}

func FuzzDecodeContext(f *testing.F) {
	for _, s := range []string{contextBody, `{"securityInfo":null}`, `{"securityInfo":[null,{}]}`, `{}`, `[`, `{"securityInfo":[{"aefId":"\ud800"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		sc, err := decodeContext(body)
		if err != nil && (len(sc.Entries) != 0 || sc.Unnamed != 0) {
			t.Errorf("got %v beside %v; want nothing", sc, err)
		}
		for _, e := range sc.Entries {
			if e == (Entry{}) {
				t.Error("got an entry without ids; want it counted only")
			}
			if !sc.Lists(e.AEFID, e.APIID) {
				t.Errorf("got %v not listed in its own context", e)
			}
		}
	})
}
