package coreclient

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestObserve(t *testing.T) {
	date := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	dated := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", date.Format(http.TimeFormat))
			reply(status, "application/json", body)(w, r)
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		outcome string
		dated   bool
	}{
		{"success", dated(200, contextBody), "2xx", true},
		{"refused", dated(403, "{}"), "4xx", true},
		{"broken", dated(502, "<html>"), "5xx", true},
		{"a redirect that is not followed", redirect(307, fixed("https://elsewhere.example/")), "3xx", false},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, noAnswer, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, nil)
			s.Config.Handler = test.handler
			var got []Observation
			s.settings.Observe = func(o Observation) { got = append(got, o) }
			_, _ = s.core(t).Context(t.Context(), "inv-1")
			if len(got) != 1 || got[0].Operation != "read_context" || got[0].Outcome != test.outcome || got[0].Took <= 0 {
				t.Fatalf("got %+v; want one read_context, %s", got, test.outcome)
			}
			if test.dated != got[0].Date.Equal(date) {
				t.Errorf("got the date %v; want that of the core: %v", got[0].Date, test.dated)
			}
			if !slices.Contains(Operations(), got[0].Operation) || !slices.Contains(Outcomes, got[0].Outcome) {
				t.Errorf("got %+v; want names of the closed sets", got[0])
			}
		})
	}
}

func TestObserveEveryOperation(t *testing.T) {
	s := newSite(t, nil)
	s.Config.Handler = reply(500, "", "")
	var got []string
	s.settings.Observe = func(o Observation) { got = append(got, o.Operation) }
	c := s.core(t)
	_, _ = c.Context(t.Context(), "inv-1")
	_, _ = c.Revoke(t.Context(), RevokeRequest{Invoker: "inv-1", AEFID: "a", APIID: "b"})
	_, _ = c.Subscribe(t.Context(), "a", Subscription{Events: []string{"X"}, Destination: "https://a.example/"})
	_ = c.Renew(t.Context(), "a", "b", Subscription{Events: []string{"X"}, Destination: "https://a.example/"})
	_, _ = c.Unsubscribe(t.Context(), "a", "b")
	for _, name := range got {
		if name == otherOperation {
			t.Errorf("got an operation without a name in %v", got)
		}
	}
	if len(got) != 5 {
		t.Errorf("got %v; want 5 operations", got)
	}
}
