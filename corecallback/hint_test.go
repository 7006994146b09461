package corecallback

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestHints(t *testing.T) {
	tests := []struct {
		name string
		body string
		want string // default: a hint for all
	}{
		{"EVOLVED text", evolvedText, ""},
		{"OpenCAPIF revoke", ocfRevoked, `hint [] authenticated=false event="API_INVOKER_AUTHORIZATION_REVOKED"`},
		{"OpenCAPIF deleted context", ocfUnavailable, `hint [] authenticated=false event="ACCESS_CONTROL_POLICY_UNAVAILABLE"`},
		{"OpenCAPIF created context", ocfPolicyUpdate, `hint [INV1] authenticated=false event="ACCESS_CONTROL_POLICY_UPDATE"`},
		{"OpenCAPIF offboarding", ocfOffboarded, `hint [INV1] authenticated=false event="API_INVOKER_OFFBOARDED"`},
		{"O-RAN offboarding", oranOffboarded, `hint [api_invoker_id_inv_one] authenticated=false event="API_INVOKER_OFFBOARDED"`},
		{"release 19 revoke", release19Revoked, `hint [inv-1 inv-2] authenticated=false event="API_INVOKER_AUTHORIZATION_REVOKED"`},
		{"without subscriptionId", `{"events":"API_INVOKER_UPDATED","eventDetail":{"apiInvokerIds":["i"]}}`, `hint [i] authenticated=false event="API_INVOKER_UPDATED"`},
		{"a revocation never denies here", goodRevoke, `hint [inv-1] authenticated=false event=""`},
		{"a bare security notification", `{"apiInvokerId":"inv-1","apiIds":["a"],"cause":"X"}`, `hint [inv-1] authenticated=false event=""`},
		{"test notification", testNotification, "none"},
		{"unknown event", `{"subscriptionId":"s","events":"NEW","eventDetail":{"apiInvokerIds":["i"]}}`, ""},
		{"one event of two unknown", `{"events":["API_INVOKER_UPDATED","NEW"],"eventDetail":{"apiInvokerIds":["i"]}}`, ""},
		{"names of a wrong type", `{"events":"API_INVOKER_UPDATED","eventDetail":{"apiInvokerIds":"i"}}`, ""},
		{"two different names", `{"apiInvokerId":"a","api_invoker_id":"b"}`, ""},
		{"revokeInfo not an object", `{"revokeInfo":7,"apiInvokerId":"a"}`, ""},
		{"empty", "", ""},
		{"empty object", "{}", ""},
		{"broken", `{"events":`, ""},
		{"a list", "[]", ""},
		{"HTML", "<html>", ""},
		{"not UTF-8", "\xff\xfe", ""},
		{"over the limit", strings.Repeat("x", 100<<10), ""},
		{"far over the limit", strings.Repeat("x", 3<<20), ""},
	}
	for _, test := range tests {
		for _, method := range []string{"POST", "PUT"} {
			t.Run(test.name+" by "+method, func(t *testing.T) {
				s := newSetup(t, nil)
				r := httptest.NewRequest(method, testHintPath, strings.NewReader(test.body))
				r.Header.Set("Content-Type", "text/html; ;")
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				if w.Code != http.StatusNoContent || w.Body.Len() != 0 {
					t.Errorf("got %d %s; want 204 without a body", w.Code, w.Body)
				}
				switch test.want {
				case "none":
					checkCalls(t, s.consumer)
				case "":
					checkCalls(t, s.consumer, `hint [] authenticated=false event=""`)
				default:
					checkCalls(t, s.consumer, test.want)
				}
			})
		}
	}
}

// TestHintIsNeverMore: not even the core's own certificate makes it a command.
func TestHintIsNeverMore(t *testing.T) {
	s := newSetup(t, nil)
	if w := s.direct("POST", testHintPath, release19Revoked); w.Code != http.StatusNoContent {
		t.Errorf("got %d; want 204", w.Code)
	}
	checkCalls(t, s.consumer, `hint [inv-1 inv-2] authenticated=false event="API_INVOKER_AUTHORIZATION_REVOKED"`)
}

func TestHintFails(t *testing.T) {
	s := newSetup(t, nil)
	s.consumer.err = io.ErrUnexpectedEOF
	if w := s.direct("POST", testHintPath, ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d; want 503", w.Code)
	}
}

func TestHintPathIsExact(t *testing.T) {
	previous := "/capif/hints/fedcba9876543210"
	s := newSetup(t, func(o *Options) { o.PreviousHintPath = previous })
	for path, want := range map[string]int{
		testHintPath:                             204,
		previous:                                 204,
		testHintPath + "/":                       404,
		testHintPath + "x":                       404,
		testHintPath[:len(testHintPath)-1]:       404,
		strings.ToLower(testHintPath):            404,
		"/capif/hints/":                          404,
		"/":                                      404,
		DefaultEventsPath + "/":                  404,
		RevokeAuthorizationPath + "/":            404,
		"/aef-security/v2/revoke-authorization":  404,
		"/aef-security/v1//revoke-authorization": 404,
	} {
		if w := s.direct("POST", path, ""); w.Code != want {
			t.Errorf("%s: got %d; want %d", path, w.Code, want)
		}
	}
}

func TestMethods(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.CheckAuthentication = &checker{} })
	for path, allow := range map[string]string{
		RevokeAuthorizationPath: "POST", CheckAuthenticationPath: "POST",
		DefaultEventsPath: "POST, PUT", testHintPath: "POST, PUT",
	} {
		for _, method := range []string{"GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "PUT"} {
			if strings.Contains(allow, method) {
				continue
			}
			w := s.direct(method, path, "")
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != allow {
				t.Errorf("%s %s: got %d, Allow %q; want 405, %q", method, path, w.Code, w.Header().Get("Allow"), allow)
			}
			decodeProblem(t, w)
		}
	}
	checkCalls(t, s.consumer)
}

func TestBodyLimit(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.MaxBody = int64(len(goodRevoke)) })
	if w := s.direct("POST", RevokeAuthorizationPath, goodRevoke); w.Code != http.StatusOK {
		t.Errorf("at the limit: got %d; want 200", w.Code)
	}
	for name, length := range map[string]int64{"length known": 0, "length unknown": -1} {
		for _, path := range []string{RevokeAuthorizationPath, DefaultEventsPath} {
			r := httptest.NewRequest("POST", path, strings.NewReader(goodRevoke+" "))
			if length < 0 {
				r.ContentLength = length
			}
			r.TLS = stateOf(s.core)
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%s, %s: got %d; want 413", path, name, w.Code)
			}
			decodeProblem(t, w)
		}
	}
	if got := len(s.consumer.got()); got != 1 {
		t.Errorf("calls: got %d; want 1", got)
	}
}

// TestSlowBody: a body that does not end is cut off, and is still a hint.
func TestSlowBody(t *testing.T) {
	s := newSetup(t, nil)
	s.handler.readTimeout = 50 * time.Millisecond
	s.start(t, tls.RequestClientCert, nil)
	c := s.client(t, s.core)
	for path, want := range map[string]int{RevokeAuthorizationPath: 408, DefaultEventsPath: 408, testHintPath: 204} {
		reader, writer := io.Pipe()
		go func() { _, _ = writer.Write([]byte("{")) }()
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.server.URL+path, reader)
		if err != nil {
			t.Fatalf("making a request failed: %v", err)
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatalf("POST failed: %v", err)
		}
		res.Body.Close()
		writer.Close()
		if res.StatusCode != want {
			t.Errorf("%s: got %d; want %d", path, res.StatusCode, want)
		}
	}
	checkCalls(t, s.consumer, `hint [] authenticated=false event=""`)
}

// slowConsumer takes longer than the time for the body.
type slowConsumer struct {
	consumer
	wait time.Duration
}

func (c *slowConsumer) Hint(ctx context.Context, h Hint) error {
	select {
	case <-time.After(c.wait):
		return c.consumer.Hint(ctx, h)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestSlowConsumer: the deadline is for the body, not for the Consumer.
func TestSlowConsumer(t *testing.T) {
	slow := &slowConsumer{wait: 300 * time.Millisecond}
	s := newSetup(t, func(o *Options) { o.Consumer = slow })
	s.handler.readTimeout = 100 * time.Millisecond
	s.start(t, tls.RequestClientCert, nil)
	c := s.client(t, nil)
	for range 2 {
		res, answer := send(t, c, "POST", s.server.URL+testHintPath, "{}", nil)
		if res.StatusCode != http.StatusNoContent {
			t.Errorf("got %d %s; want 204", res.StatusCode, answer)
		}
		s.mu.Lock()
		if s.after != nil {
			t.Errorf("the request was cancelled: %v", s.after)
		}
		s.mu.Unlock()
	}
	checkCalls(t, &slow.consumer, `hint [] authenticated=false event=""`, `hint [] authenticated=false event=""`)
}

// TestCancelledRequest: a core that goes away, or a reload, does not stop a deny.
func TestCancelledRequest(t *testing.T) {
	s := newSetup(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "POST", RevokeAuthorizationPath, strings.NewReader(goodRevoke))
	r.TLS = stateOf(s.core)
	live := &liveConsumer{}
	s.handler.consumer = live
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK || live.err != nil || !live.bounded {
		t.Errorf("got %d, context %v, deadline %v; want 200, live, with a deadline", w.Code, live.err, live.bounded)
	}
}

type liveConsumer struct {
	consumer
	err     error
	bounded bool
}

func (c *liveConsumer) Deny(ctx context.Context, d Deny) error {
	c.err = ctx.Err()
	_, c.bounded = ctx.Deadline()
	return c.consumer.Deny(ctx, d)
}

// TestNoSecretsOut sends a token and the hint path everywhere, with every kind of
// answer, and looks for them in logs and answers.
func TestNoSecretsOut(t *testing.T) {
	const token = "eyJhbGciOiJTRUNSRVQ.eyJpc3MiOiJTRUNSRVQ.SECRET"
	withToken := strings.Replace(goodRevoke, `"cause"`, `"accessToken":"`+token+`","cause"`, 1)
	bodies := []string{withToken, withToken + "SECRET", strings.Replace(withToken, `"inv-1"`, `7`, 1),
		strings.Replace(withToken, `"`+token+`"`, `["`+token+`"]`, 1), `{"events":"API_INVOKER_UPDATED","accessToken":"` + token + `"}`}
	for _, err := range []error{nil, ErrNotDurable, ErrForeignAEF, InvalidParam{ParamAccessToken, "names another API invoker"}} {
		s := newSetup(t, func(o *Options) { o.CheckAuthentication = &checker{} })
		s.consumer.err = err
		for _, path := range []string{RevokeAuthorizationPath, CheckAuthenticationPath, DefaultEventsPath, testHintPath, testHintPath + "x"} {
			for _, body := range bodies {
				for _, method := range []string{"POST", "GET"} {
					w := s.direct(method, path, body)
					if strings.Contains(w.Body.String()+fmt.Sprint(w.Header()), "SECRET") {
						t.Errorf("%s %d: the answer holds a secret: %s", path, w.Code, w.Body)
					}
				}
			}
		}
		logs := s.logs.String()
		if logs == "" {
			t.Error("nothing was logged; want lines to look through")
		}
		if strings.Contains(logs, "SECRET") || strings.Contains(logs, "/capif/hints") {
			t.Errorf("the log holds a secret: %s", logs)
		}
	}
}

func TestSecretDoesNotShow(t *testing.T) {
	d := Deny{Invokers: []string{"i"}, Token: NewSecret("SECRET")}
	s := newSetup(t, nil)
	s.handler.logger.Info("x", "deny", d, "token", d.Token)
	text := fmt.Sprintf("%v %+v %#v %s %q %d %x %v", d, d, d, d.Token, d.Token, d.Token, d.Token, &d) + s.logs.String()
	if strings.Contains(text, "SECRET") || strings.Contains(text, fmt.Sprintf("%x", "SECRET")) {
		t.Errorf("got %s; want no secret", text)
	}
	if d.Token.Reveal() != "SECRET" || !strings.Contains(text, redacted) {
		t.Errorf("got %q, %s; want it revealed only on request", d.Token.Reveal(), text)
	}
}

func TestNew(t *testing.T) {
	s := newSetup(t, nil)
	const secret = "0123456789abcdef"
	tests := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"both ways", func(o *Options) {}, ""},
		{"hint path only", func(o *Options) { o.Identities, o.CoreCA = nil, nil }, ""},
		{"certificate only", func(o *Options) { o.HintPath = "" }, ""},
		{"no way to authenticate", func(o *Options) { o.Identities, o.HintPath = nil, "" }, "nothing authenticates the core"},
		{"a CA without identities is no way", func(o *Options) { o.Identities, o.HintPath = nil, "" }, "set Identities and CoreCA"},
		{"previous hint path only", func(o *Options) { o.Identities, o.HintPath, o.PreviousHintPath = nil, "", "/h/"+secret }, "nothing authenticates the core"},
		{"no Consumer", func(o *Options) { o.Consumer = nil }, "Consumer is required"},
		{"no CA", func(o *Options) { o.CoreCA = nil }, "CoreCA has no certificate"},
		{"empty Identity", func(o *Options) { o.Identities = append(o.Identities, Identity{}) }, "make it with ParseIdentity"},
		{"negative MaxBody", func(o *Options) { o.MaxBody = -1 }, "must not be negative"},
		{"EventsPath relative", func(o *Options) { o.EventsPath = "events" }, "must begin with /"},
		{"EventsPath escaped", func(o *Options) { o.EventsPath = "/a%20b" }, "hold only"},
		{"EventsPath taken", func(o *Options) { o.EventsPath = RevokeAuthorizationPath }, "belongs to the AEF_Security_API"},
		{"HintPath guessable", func(o *Options) { o.HintPath = "/capif/hints/SECRET" }, "has 6 characters"},
		{"HintPath from an empty variable", func(o *Options) { o.HintPath = "/capif/a-long-SECRET-folder/" }, "has 0 characters"},
		{"HintPath with a query", func(o *Options) { o.HintPath = "/h/SECRET?" + secret }, "hint path must begin with /"},
		{"HintPath taken", func(o *Options) { o.EventsPath = "/SECRET" + secret; o.HintPath = o.EventsPath }, "must differ"},
		{"PreviousHintPath guessable", func(o *Options) { o.PreviousHintPath = "/SECRET" }, "has 6 characters"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Identities: s.handler.core.identities, CoreCA: s.ca.pool(), HintPath: testHintPath, Consumer: s.consumer}
			test.change(&o)
			h, err := New(o)
			if test.want == "" {
				if err != nil || h == nil {
					t.Errorf("got %v; want a handler", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("got %v; want %q in it and no path", err, test.want)
			}
		})
	}
}

func TestHintPathOnly(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.Identities, o.CoreCA = nil, nil })
	for path, want := range map[string]int{RevokeAuthorizationPath: 403, DefaultEventsPath: 403, testHintPath: 204} {
		if w := s.direct("POST", path, goodRevoke); w.Code != want {
			t.Errorf("%s: got %d; want %d", path, w.Code, want)
		}
	}
	checkCalls(t, s.consumer, `hint [inv-1] authenticated=false event=""`)
}

func TestFeatures(t *testing.T) {
	for _, test := range []struct{ a, b, want Features }{
		{"1", "1", "1"}, {"", "1", "0"}, {"0", "1", "0"}, {"3", "1", "1"}, {"0001", "1", "1"},
		{"10", "1", "0"}, {"fF", "A5", "a5"}, {"F0", "3C", "30"}, {"00", "00", "0"},
	} {
		if got := test.a.Intersect(test.b); got != test.want {
			t.Errorf("%q and %q: got %q; want %q", test.a, test.b, got, test.want)
		}
		if got := test.b.Intersect(test.a); got != test.want {
			t.Errorf("%q and %q: got %q; want %q", test.b, test.a, got, test.want)
		}
	}
}

// TestGolden compares whole exchanges with testdata/exchanges.txt. To write the
// file anew: UPDATE_GOLDEN=1 go test -run TestGolden ./corecallback
func TestGolden(t *testing.T) {
	var got bytes.Buffer
	for _, exchange := range []struct {
		name, method, path, body string
		err                      error
	}{
		{"revoke", "POST", RevokeAuthorizationPath, `{"revokeInfo":{"apiInvokerId":"inv-7f3","aefId":"aef-north-1","apiIds":["api-41c"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"0"}`, nil},
		{"revoke one token (Release 19)", "POST", RevokeAuthorizationPath, `{"revokeInfo":{"apiInvokerId":"inv-7f3","aefId":"aef-north-1","apiIds":["api-41c"],"cause":"AUTHORIZATION_ISSUE","accessToken":"h.c.s"},"supportedFeatures":"1"}`, nil},
		{"revoke without APIs", "POST", RevokeAuthorizationPath, `{"revokeInfo":{"apiInvokerId":"inv-7f3","apiIds":[],"cause":"OTHER_REASON"},"supportedFeatures":"1"}`, nil},
		{"revoke for a foreign AEF", "POST", RevokeAuthorizationPath, `{"revokeInfo":{"apiInvokerId":"inv-7f3","aefId":"aef-south-2","apiIds":["api-41c"],"cause":"OTHER_REASON"},"supportedFeatures":"1"}`, ErrForeignAEF},
		{"revoke while the disk is full", "POST", RevokeAuthorizationPath, goodRevoke, ErrNotDurable},
		{"broken JSON", "POST", RevokeAuthorizationPath, `{"revokeInfo":`, nil},
		{"wrong method", "GET", RevokeAuthorizationPath, ``, nil},
		{"wrong path", "POST", "/aef-security/v1/revoke", goodRevoke, nil},
		{"event", "POST", DefaultEventsPath, ocfOffboarded, nil},
		{"event by PUT", "PUT", DefaultEventsPath, oranOffboarded, nil},
		{"event that is text", "POST", DefaultEventsPath, evolvedText, nil},
		{"test notification", "POST", DefaultEventsPath, testNotification, nil},
		{"check authentication", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-7f3","supportedFeatures":"0"}`, nil},
		{"check authentication (Release 19 features)", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-7f3","supportedFeatures":"3"}`, nil},
		{"check authentication of an unknown API invoker", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-000","supportedFeatures":"0"}`, ErrUnknownInvoker},
		{"check authentication too often", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-7f3","supportedFeatures":"0"}`, &RetryError{Err: ErrRateLimited, After: time.Second}},
		{"check authentication while the core is silent", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-7f3","supportedFeatures":"0"}`, errors.New("dialling failed")},
		{"check authentication without an API invoker", "POST", CheckAuthenticationPath, `{"supportedFeatures":"0"}`, nil},
		{"check authentication without features", "POST", CheckAuthenticationPath, `{"apiInvokerId":"inv-7f3"}`, nil},
		{"check authentication by GET", "GET", CheckAuthenticationPath, ``, nil},
	} {
		asked := &checker{err: exchange.err}
		s := newSetup(t, func(o *Options) { o.CheckAuthentication = asked })
		s.consumer.err = exchange.err
		w := s.direct(exchange.method, exchange.path, exchange.body)
		fmt.Fprintf(&got, "# %s\n> %s %s\n> %s\n< %d\n", exchange.name, exchange.method, exchange.path, exchange.body, w.Code)
		for _, name := range []string{"Allow", "Cache-Control", "Content-Type", "Retry-After"} {
			if value := w.Header().Get(name); value != "" {
				fmt.Fprintf(&got, "< %s: %s\n", name, value)
			}
		}
		if w.Body.Len() > 0 {
			fmt.Fprintf(&got, "< %s", w.Body)
		}
		for _, call := range s.consumer.got() {
			fmt.Fprintf(&got, "= %s\n", call)
		}
		for _, q := range asked.asked {
			fmt.Fprintf(&got, "= asked about %s\n", q.Invoker)
		}
		got.WriteString("\n")
	}
	const file = "testdata/exchanges.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		err := os.WriteFile(file, got.Bytes(), 0o644)
		if err != nil {
			t.Fatalf("writing the golden file failed: %v", err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("reading the golden file failed: %v", err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", got.Bytes(), want)
	}
}
