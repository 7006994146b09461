package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestRunTakesEveryRequestInTurn(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.Header.Get("Authorization")]++
		mu.Unlock()
		_, _ = io.WriteString(w, "served")
	})
	var requests [][]byte
	for _, token := range []string{"a", "b", "c"} {
		requests = append(requests, Request(address, "/", token))
	}
	got, err := Run(t.Context(), Options{Address: address, Connections: 2, Duration: 100 * time.Millisecond, Requests: requests})
	if err != nil {
		t.Fatal(err)
	}
	if got.Served == 0 || got.Failed != 0 || len(got.Latencies) != got.Served || got.Elapsed < 100*time.Millisecond {
		t.Errorf("got %d served, %d failed (%v), %d latencies in %s; want some, none, as many, 100 ms",
			got.Served, got.Failed, got.FirstFailure, len(got.Latencies), got.Elapsed)
	}
	if len(seen) != 3 || seen["Bearer a"] == 0 {
		t.Errorf("got %v; want all three tokens", seen)
	}
}

func TestRunKeepsTheRate(t *testing.T) {
	address := serve(t, func(http.ResponseWriter, *http.Request) {})
	got, err := Run(t.Context(), Options{
		Address: address, Connections: 4, Duration: 200 * time.Millisecond, Rate: 100, Requests: [][]byte{Request(address, "/", "")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := got.Served + got.Failed; n > 20 {
		t.Errorf("got %d calls in 200 ms; want at most the 20 that 100/s allow", n)
	}
}

// TestRunCountsFromWhenACallWasDue has a server that stalls once: the calls it
// held up must show in the latencies.
func TestRunCountsFromWhenACallWasDue(t *testing.T) {
	stall := sync.OnceFunc(func() { <-time.After(150 * time.Millisecond) })
	address := serve(t, func(http.ResponseWriter, *http.Request) { stall() })
	got, err := Run(t.Context(), Options{
		Address: address, Connections: 1, Duration: 300 * time.Millisecond, Rate: 100, Requests: [][]byte{Request(address, "/", "")},
	})
	if err != nil {
		t.Fatal(err)
	}
	late := 0
	for _, l := range got.Latencies {
		if l > 0.05 {
			late++
		}
	}
	if late < 5 {
		t.Errorf("got %d late calls of %d; want at least 5: those that were due during the stall count too", late, got.Served)
	}
}

func TestRunCountsFailures(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	got, err := Run(t.Context(), Options{Address: address, Connections: 1, Duration: 50 * time.Millisecond, Requests: [][]byte{Request(address, "/", "")}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Served != 0 || got.Failed == 0 || !strings.Contains(got.FirstFailure.Error(), "403") {
		t.Errorf("got %d served, %d failed, %v; want only failures with 403", got.Served, got.Failed, got.FirstFailure)
	}
}

func TestRunReconnects(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	got, err := Run(t.Context(), Options{Address: address, Connections: 1, Duration: 50 * time.Millisecond, Requests: [][]byte{Request(address, "/", "")}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Served < 2 || got.Failed != 0 {
		t.Errorf("got %d served, %d failed (%v); want several and none", got.Served, got.Failed, got.FirstFailure)
	}
}
