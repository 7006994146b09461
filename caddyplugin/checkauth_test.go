package caddyplugin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// anyone is a caller that proves nothing and checks nothing.
func anyone(b *bed) *http.Client {
	client := &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			Proxy: nil, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 16,
		},
	}
	b.t.Cleanup(client.CloseIdleConnections)
	return client
}

// get2 reads a URL as anyone.
func get2(b *bed, url string) (int, string, error) {
	return exchange2(b.ctx, anyone(b), http.MethodGet, url, "")
}

func exchange2(ctx context.Context, client *http.Client, method, url, body string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(data), err
}

// asks returns how a check-authentication for an invoker ends.
func (b *bed) asks(client *http.Client, a *testbed.AEF, invoker string) int {
	b.t.Helper()
	status, _, err := exchange2(b.ctx, client, http.MethodPost, "https://"+a.Callback+corecallback.CheckAuthenticationPath,
		fmt.Sprintf(`{"apiInvokerId":%q,"supportedFeatures":"0"}`, invoker))
	must(b.t, err)
	return status
}

func TestCheckAuthentication(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	other := b.aef("aef-b", testbed.Provider)
	a.CallbackExtra = "check_authentication {\nrate 1000\nburst 1000\n}"
	b.publish(a.ID, other.ID)
	c := b.start(a)
	inv := b.invoker("inv-1", a.ID)
	b.invoker("inv-2", other.ID)
	client := anyone(b)
	for _, tt := range []struct {
		name, invoker string
		want          int
	}{
		{"a context with an API of this AEF", "inv-1", http.StatusOK},
		{"a context at another AEF only", "inv-2", http.StatusForbidden},
		{"no context", "inv-3", http.StatusForbidden},
	} {
		if got := b.asks(client, a, tt.invoker); got != tt.want {
			t.Errorf("%s: got %d; want %d", tt.name, got, tt.want)
		}
	}
	if n := b.status(c).Contexts.Invokers; n != 0 {
		t.Errorf("got %d contexts kept; want none of names that nothing proves", n)
	}

	b.want(a, "/location/1", b.token(inv, "3gpp#aef-a:location"), http.StatusOK)
	must(t, b.scene.Core.Down())
	if got := b.asks(client, a, "inv-1"); got != http.StatusOK {
		t.Errorf("core down, invoker known: got %d; want 200", got)
	}
	if got := b.asks(client, a, "inv-2"); got != http.StatusServiceUnavailable {
		t.Errorf("core down, invoker not known: got %d; want 503", got)
	}
	must(t, b.scene.Core.Up())
}

func TestCheckAuthenticationIsOffByDefault(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	b.start(a)
	if got := b.asks(anyone(b), a, "inv-1"); got != http.StatusNotFound {
		t.Errorf("got %d; want 404", got)
	}
}

// TestCheckAuthenticationFlood: names without end cost the core no more than the
// rate, leave nothing behind, and disturb no call.
func TestCheckAuthenticationFlood(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.CallbackExtra = "check_authentication {\nrate 8\nburst 12\n}"
	b.publish(a.ID)
	c := b.start(a)
	inv := b.invoker("inv-1", a.ID)
	token := b.token(inv, "3gpp#aef-a:location")
	b.want(a, "/location/1", token, http.StatusOK)
	client := anyone(b)
	before := len(b.scene.Core.Requests(coretest.OpGetContext))

	began := time.Now()
	var mu sync.Mutex
	answers := map[int]int{}
	var done sync.WaitGroup
	const askers, each = 8, 100
	for asker := range askers {
		done.Go(func() {
			for i := range each {
				status := b.asks(client, a, fmt.Sprintf("stranger-%d-%d", asker, i))
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	done.Wait()
	took := time.Since(began)
	reads := len(b.scene.Core.Requests(coretest.OpGetContext)) - before
	// One address has a quarter: 2 a second and 3 at once.
	if most := 3 + int(2*took.Seconds()) + 1; reads > most || reads == 0 {
		t.Errorf("got %d reads in %s; want 1 to %d", reads, took, most)
	}
	if answers[http.StatusTooManyRequests] < askers*each-reads || answers[http.StatusForbidden] != reads {
		t.Errorf("got answers %v, %d reads; want 429 for all that were not read", answers, reads)
	}
	if n := b.status(c).Contexts.Invokers; n != 1 {
		t.Errorf("got %d contexts kept; want the one of the API invoker that calls", n)
	}
	b.want(a, "/location/1", token, http.StatusOK)
	var claims adminapi.ClaimList
	status, err := c.Admin(b.ctx, http.MethodGet, adminapi.PathClaims, nil, &claims)
	if err != nil || status != http.StatusOK || len(claims.Claims) != 0 {
		t.Errorf("got %v, %v, %v; want no claim", status, err, claims)
	}
	if strings.Contains(c.Log(), "stranger-") {
		t.Error("got strangers' names in the log; want none")
	}
}
