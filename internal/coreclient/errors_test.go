package coreclient

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestReadProblem(t *testing.T) {
	tests := []struct {
		name, contentType, body string
		status                  int
		reason                  string
		coreShape               bool
	}{
		{"problem+json", "application/problem+json", `{"title":"Not Found","detail":"no context","cause":"c","status":404}`, 404, "no context", true},
		{"O-RAN", "application/json", `{"cause":"the invoker is not register as a trusted invoker","status":404}`, 404, "the invoker is not register as a trusted invoker", true},
		{"title only", "application/problem+json; charset=utf-8", `{"title":"Not Found"}`, 404, "Not Found", true},
		{"text/plain holding JSON", "text/plain", `{"title":"Unauthorized"}`, 401, "Unauthorized", false},
		{"no content type", "", `{"title":"Not Found"}`, 404, "Not Found", false},
		{"a gateway's JSON", "application/json", `{"message":"no Route matched with those values"}`, 404, `{"message":"no Route matched with those values"}`, false},
		{"a framework's JSON", "application/json", `{"timestamp":1,"status":404,"error":"Not Found","path":"/x"}`, 404, `{"timestamp":1,"status":404,"error":"Not Found","path":"/x"}`, false},
		{"status of another answer", "application/json", `{"title":"oops","status":500}`, 404, "oops", false},
		{"members of other types", "application/json", `{"title":"oops","status":"404","detail":{}}`, 404, "oops", false},
		{"something after it", "application/json", `{"title":"a"} {}`, 404, `{"title":"a"} {}`, false},
		{"only invalid parameters", "application/json", `{"invalidParams":[{"param":"p","reason":"r"}]}`, 400, "[p: r]", false},
		{"invalid parameters", "application/problem+json", `{"title":"Bad Request","invalidParams":[{"param":"/apiIds","reason":"empty"}]}`, 400, "Bad Request [/apiIds: empty]", true},
		{"HTML", "text/html", "<html><head><TITLE>400 No required SSL\n certificate was sent</TITLE>", 403, "HTML page: 400 No required SSL certificate was sent", false},
		{"HTML without title", "text/html", "<h1>x</h1>", 404, "HTML page: no title", false},
		{"HTML called JSON", "application/json", "<title>t</title>", 404, "HTML page: t", false},
		{"text", "text/plain", " not\tfound\x1b[31m\r\n", 404, "not found[31m", false},
		{"empty object", "application/json", "{}", 404, "{}", false},
		{"list", "application/json", "[]", 404, "[]", false},
		{"nothing", "application/json", "", 404, "", false},
		{"broken UTF-8", "text/plain", "a\xffb\u202ec", 500, "abc", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := readProblem(tt.contentType, tt.status, []byte(tt.body))
			if want := (problem{tt.reason, tt.coreShape}); got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
		})
	}
}

func TestErrorFromAnswer(t *testing.T) {
	s := newSite(t, reply(404, "application/problem+json", `{"detail":"`+strings.Repeat("é", 400)+`"}`, "Retry-After", "7"))
	_, err := s.core(t).Context(t.Context(), "i")
	e := asError(t, err)
	if len(e.Reason) != maxReason || !utf8.ValidString(e.Reason) {
		t.Errorf("got a reason of %d bytes; want %d, valid", len(e.Reason), maxReason)
	}
	if !e.InCoreShape || e.RetryAfter != 7*time.Second || e.Op == "" {
		t.Errorf("got %+v; want the core's shape, 7 s and an operation", e)
	}
}

func TestErrorTellsWhatToChange(t *testing.T) {
	s := newSite(t, reply(403, "", ""))
	c := s.core(t)
	_, err := c.Context(t.Context(), "i")
	if want := "core answered 403; the core refuses this AEF, not the API invoker: check client_cert"; !strings.Contains(err.Error(), want) {
		t.Errorf("got %v; want %q", err, want)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
	}{
		{"", 0},
		{"0", 0},
		{" 120 ", 2 * time.Minute},
		{"-5", 0},
		{"1.5", 0},
		{"soon", 0},
		{"99999999", maxRetryAfter},
		{strconv.FormatUint(math.MaxUint64, 10) + "0", maxRetryAfter},
		{"Wed, 25 Nov 2026 12:00:30 GMT", 30 * time.Second},
		{"Wed, 25 Nov 2026 11:00:00 GMT", 0},
		{"Wed, 25 Nov 2099 12:00:00 GMT", maxRetryAfter},
	}
	for _, tt := range tests {
		t.Run(tt.value, func(t *testing.T) {
			if got := retryAfter(tt.value, now); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

func FuzzReadProblem(f *testing.F) {
	f.Add("application/problem+json", 404, []byte(`{"title":"Not Found","status":404,"invalidParams":[{"param":"p"}]}`))
	f.Add("text/html", 403, []byte("<html><title>\u0130</title>"))
	f.Add("text/plain", 500, []byte("a\xff\x00b"))
	f.Add("application/json", 400, []byte(`{"cause":7}`))
	f.Fuzz(func(t *testing.T, contentType string, status int, body []byte) {
		p := readProblem(contentType, status, body)
		if len(p.reason) > maxReason || !utf8.ValidString(p.reason) {
			t.Errorf("got a reason of %d bytes; want at most %d, valid", len(p.reason), maxReason)
		}
		for _, r := range p.reason {
			if !unicode.IsPrint(r) {
				t.Errorf("got %q in a reason; want it printable", r)
			}
		}
		if p.coreShape && p.reason == "" {
			t.Error("got the core's shape without a reason")
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Wed, 25 Nov 2026 12:00:30 GMT")
	f.Fuzz(func(t *testing.T, value string) {
		if got := retryAfter(value, time.Unix(0, 0)); got < 0 || got > maxRetryAfter {
			t.Errorf("got %v; want 0 to %v", got, maxRetryAfter)
		}
	})
}
