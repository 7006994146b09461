package coreclient

import (
	"encoding/json"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/coretest"
)

const (
	eventRevoked = "API_INVOKER_AUTHORIZATION_REVOKED"
	eventUpdated = "API_INVOKER_UPDATED"
)

var sub = Subscription{Events: []string{eventRevoked}, Destination: "https://aef.example/capif/hints/0123456789abcdef0123"}

func TestSubscribe(t *testing.T) {
	tests := []struct{ name, location, want, wantErr string }{
		{"the standard's", "https://core.example/capif-events/v1/aef-1/subscriptions/sub-1", "sub-1", ""},
		{"another host, port and path", "http://localhost:8080/x/y/6db9", "6db9", ""},
		{"relative", "subscriptions/sub-1", "sub-1", ""},
		{"escaped", "/s/a%2Fb%20c", "a/b c", ""},
		{"a slash at the end", "/s/sub-1/", "sub-1", ""},
		{"a query", "/s/sub-1?x=/y", "sub-1", ""},
		{"none", "", "", "no Location"},
		{"no segment", "/", "", "is empty"},
		{"no URL", "http://a b/%zz", "", "no URL"},
		{"dots", "/s/..", "", "cannot stand in a path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got seen
			s := newSite(t, record(&got, reply(201, "application/json", `{}`, "Location", tt.location)))
			id, err := s.core(t).Subscribe(t.Context(), "aef/1", sub)
			if id != tt.want {
				t.Errorf("got id %q, %v; want %q", id, err, tt.want)
			}
			if tt.wantErr != "" {
				if e := asError(t, err); e.Class() != Unknown || e.Status != 201 || !strings.Contains(e.Error(), tt.wantErr) {
					t.Errorf("got %v (status %d, %v); want status 201, unknown, %q", e, e.Status, e.Class(), tt.wantErr)
				}
			}
			if want := "/capif-events/v1/aef%2F1/subscriptions"; got.method != http.MethodPost || got.uri != want {
				t.Errorf("got %s %s; want POST %s", got.method, got.uri, want)
			}
			// Golden: TS 29.222 8.3.4.2.2, without filters.
			want := `{"events":["API_INVOKER_AUTHORIZATION_REVOKED"],"notificationDestination":"https://aef.example/capif/hints/0123456789abcdef0123","supportedFeatures":"4"}`
			if got.body != want {
				t.Errorf("got %s; want %s", got.body, want)
			}
		})
	}
}

func TestRenewAndUnsubscribe(t *testing.T) {
	tests := []struct {
		status         int
		renew, delete_ Class
		found, isError bool
	}{
		{200, 0, 0, true, false},
		{204, 0, 0, true, false},
		{404, NotFound, 0, false, false},
		{405, BadRequest, BadRequest, false, true},
		{501, Unknown, Unknown, false, true},
		{403, Refused, Refused, false, true},
	}
	for _, tt := range tests {
		t.Run(http.StatusText(tt.status), func(t *testing.T) {
			var got seen
			c := newSite(t, record(&got, reply(tt.status, "", ""))).core(t)
			err := c.Renew(t.Context(), "aef-1", "a/b", sub)
			if (err == nil) != (tt.status/100 == 2) || err != nil && asError(t, err).Class() != tt.renew {
				t.Errorf("renew: got %v; want class %v", err, tt.renew)
			}
			if want := "/capif-events/v1/aef-1/subscriptions/a%2Fb"; got.method != http.MethodPut || got.uri != want {
				t.Errorf("got %s %s; want PUT %s", got.method, got.uri, want)
			}
			found, err := c.Unsubscribe(t.Context(), "aef-1", "a/b")
			if found != tt.found || (err != nil) != tt.isError || err != nil && asError(t, err).Class() != tt.delete_ {
				t.Errorf("unsubscribe: got %v, %v; want %v, class %v", found, err, tt.found, tt.delete_)
			}
			if got.method != http.MethodDelete || got.body != "" {
				t.Errorf("got %s %q; want DELETE without a body", got.method, got.body)
			}
		})
	}
}

func TestSubscriptionsThatAreNotSent(t *testing.T) {
	c := newSite(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("got %s %s; want nothing sent", r.Method, r.URL)
	}).core(t)
	for name, call := range map[string]func() error{
		"no subscriber": func() error { _, err := c.Subscribe(t.Context(), "", sub); return err },
		"no events": func() error {
			_, err := c.Subscribe(t.Context(), "a", Subscription{Destination: "https://a/b"})
			return err
		},
		"no destination": func() error { return c.Renew(t.Context(), "a", "b", Subscription{Events: sub.Events}) },
		"no id":          func() error { return c.Renew(t.Context(), "a", "", sub) },
		"dots as id":     func() error { _, err := c.Unsubscribe(t.Context(), "a", ".."); return err },
	} {
		if e := asError(t, call()); e.Class() != BadRequest || e.Status != 0 {
			t.Errorf("%s: got %v; want it not sent", name, e)
		}
	}
}

// A core that quotes the destination in its answer must not bring it into logs.
func TestDestinationIsInNoError(t *testing.T) {
	body := `{"title":"Bad Request","detail":"destination https:\/\/aef.example\/capif\/hints\/0123456789abcdef0123 is not reachable"}`
	c := newSite(t, reply(400, "application/problem+json", body)).core(t)
	_, err := c.Subscribe(t.Context(), "aef-1", sub)
	if e := asError(t, err); strings.Contains(e.Error(), "0123456789") || !strings.Contains(e.Error(), "[redacted] is not reachable") {
		t.Errorf("got %v; want the destination redacted", e)
	}
}

// coreOf is a Core that speaks to a core of coretest as one AEF of it.
func coreOf(t *testing.T, real *coretest.Core, profile string) (*Core, string) {
	t.Helper()
	id := real.AssignAEFID("aef-1")
	identity, err := real.IssueAEF(id)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := Settings{URL: real.URL(), Profile: profile, TrustedCAFiles: []string{filepath.Join(dir, "ca.pem")}}
	s.CertFile, s.KeyFile, err = identity.WritePEM(dir, "aef")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.TrustedCAFiles[0], real.CA().PEM())
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, id
}

func TestSubscriptionAtEachDialect(t *testing.T) {
	for _, dialect := range []string{"strict", "opencapif", "oran"} {
		t.Run(dialect, func(t *testing.T) {
			real, err := coretest.Start(coretest.Options{Dialect: dialect})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := real.Close(); err != nil {
					t.Error(err)
				}
			})
			c, subscriber := coreOf(t, real, dialect)
			all := Subscription{Events: []string{eventRevoked, eventUpdated}, Destination: "https://127.0.0.1:1/e"}
			_, err = c.Subscribe(t.Context(), subscriber, all)
			if dialect == "oran" {
				if e := asError(t, err); e.Status != 400 || e.Class() != BadRequest {
					t.Fatalf("got %v; want 400 for an event that it does not know", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			one := all
			one.Events = []string{eventRevoked}
			id, err := c.Subscribe(t.Context(), subscriber, one)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := real.Subscriptions()[id]
			if !ok || !slices.Equal(got.Events, one.Events) || got.SupportedFeatures != "4" {
				t.Fatalf("got %+v under %q of %v; want %+v", got, id, slices.Collect(maps.Keys(real.Subscriptions())), one)
			}
			if err := c.Renew(t.Context(), subscriber, id, one); err != nil {
				t.Errorf("renew: got %v", err)
			}
			for _, want := range []bool{true, false} {
				if found, err := c.Unsubscribe(t.Context(), subscriber, id); found != want || err != nil {
					t.Errorf("unsubscribe: got %v, %v; want %v", found, err, want)
				}
			}
			if e := asError(t, c.Renew(t.Context(), subscriber, id, one)); e.Class() != NotFound || !e.InCoreShape {
				t.Errorf("renew what is gone: got %v; want not found", e)
			}
		})
	}
}

func FuzzLastSegment(f *testing.F) {
	for _, s := range []string{"https://c/capif-events/v1/a/subscriptions/b", "/a%2fb/", "", "..", "http://[::1", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, location string) {
		id, err := lastSegment(location)
		if (err == nil) == (id == "") {
			t.Fatalf("got %q, %v; want one of them", id, err)
		}
		if err != nil {
			return
		}
		if _, err := json.Marshal(id); err != nil || checkID("x", id) != nil {
			t.Errorf("got %q; want an id that can be sent", id)
		}
	})
}
