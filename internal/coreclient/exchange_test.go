package coreclient

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

func redirect(status int, to func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if l := to(); l != "" {
			w.Header().Set("Location", l)
		}
		w.WriteHeader(status)
	}
}

func fixed(s string) func() string { return func() string { return s } }

func TestRedirectIsFollowed(t *testing.T) {
	for _, status := range []int{307, 308} {
		var got seen
		s := newSite(t, nil)
		other := serveTLS(t, s.ca, record(&got, reply(204, "", "")))
		target, err := url.Parse(other.URL)
		if err != nil {
			t.Fatal(err)
		}
		target.Path, target.User = "/elsewhere/inv-1/delete", url.UserPassword("a", "b")
		s.Config.Handler = redirect(status, fixed(target.String()))
		s.settings.RedirectHosts = []string{target.Host}
		if _, err := s.core(t).Revoke(t.Context(), RevokeRequest{Invoker: "inv-1", AEFID: "a", APIID: "b"}); err != nil {
			t.Fatal(err)
		}
		if got.method != http.MethodPost || got.uri != "/elsewhere/inv-1/delete" || !strings.Contains(got.body, `"apiIds":["b"]`) {
			t.Errorf("%d: got %s %s %s; want the POST as it was", status, got.method, got.uri, got.body)
		}
		if got.peer != "aef-1" || got.header.Get("Authorization") != "" {
			t.Errorf("%d: got certificate of %q, Authorization %q; want aef-1 and none", status, got.peer, got.header.Get("Authorization"))
		}
	}
}

func TestRedirectWithinTheCore(t *testing.T) {
	var hops atomic.Int32
	s := newSite(t, nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" {
			reply(200, "application/json", contextBody)(w, r)
			return
		}
		to := "/hop" + string('0'+hops.Add(1))
		if hops.Load() == maxRedirects {
			to = "/v2"
		}
		redirect(307, fixed(to))(w, r)
	})
	if _, err := s.core(t).Context(t.Context(), "inv-1"); err != nil {
		t.Fatal(err)
	}
	if got := hops.Load(); got != maxRedirects {
		t.Errorf("got %d hops; want %d", got, maxRedirects)
	}
}

func TestRedirectIsRefused(t *testing.T) {
	var others atomic.Int32
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { others.Add(1) })
	plain := httptest.NewServer(count)
	t.Cleanup(plain.Close)
	hop := 0
	s := newSite(t, nil)
	stranger := serveTLS(t, s.ca, count)
	plainHost := strings.TrimPrefix(plain.URL, "http://")
	tests := []struct {
		name   string
		status int
		to     func() string
		want   string
	}{
		{"another host", 307, fixed(stranger.URL), "neither the core nor one of redirect_hosts"},
		{"another port of the core", 308, fixed("https://127.0.0.1:1/"), "neither the core nor one of redirect_hosts"},
		{"plain http", 307, fixed(plain.URL), "not to https"},
		{"another scheme", 307, fixed("file:///etc/passwd"), "not to https"},
		{"no Location", 307, fixed(""), "no Location"},
		{"Location that is no URL", 307, fixed("https://[::1"), "no URL"},
		{"to itself", 307, func() string { return s.URL + "/capif-security/v1/trustedInvokers/i/delete" }, "circle"},
		{"without end", 307, func() string { hop++; return s.URL + "/" + strings.Repeat("x", hop) }, "one more than the 3"},
		{"302", 302, func() string { return s.URL + "/x" }, "only 307 and 308"},
		{"303", 303, func() string { return s.URL + "/x" }, "only 307 and 308"},
		{"301", 301, func() string { return s.URL + "/x" }, "only 307 and 308"},
	}
	s.settings.RedirectHosts = []string{plainHost} // the host is allowed, http is not
	c := s.core(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.Config.Handler = redirect(tt.status, tt.to)
			e := asError(t, revokeError(t.Context(), c, RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"}))
			if e.Class() != Unknown || e.Status != tt.status || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("got %v (status %d, %v); want status %d, unknown, %q", e, e.Status, e.Class(), tt.status, tt.want)
			}
		})
	}
	if got := others.Load(); got != 0 {
		t.Errorf("got %d requests at other hosts; want none", got)
	}
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c, err := New(Settings{URL: "https://core.example"})
	if err != nil {
		t.Fatal(err)
	}
	if c.files.current().Proxy != nil {
		t.Errorf("got a transport with a proxy; want none")
	}
}
