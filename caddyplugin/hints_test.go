package caddyplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// crowd is many API invokers with contexts at one AEF, put there by Go call.
type crowd struct {
	b      *bed
	a      *testbed.AEF
	ids    []string
	tokens []string
}

func (b *bed) crowd(a *testbed.AEF, n int) *crowd {
	b.t.Helper()
	return b.crowdOf(a, n, testbed.APIID, testbed.OtherAPIID)
}

// crowdOf grants these APIs; the tokens name both.
func (b *bed) crowdOf(a *testbed.AEF, n int, apiIDs ...string) *crowd {
	b.t.Helper()
	c := &crowd{b: b, a: a}
	for i := range n {
		id := fmt.Sprintf("inv-%04d", i)
		must(b.t, b.scene.Core.AddInvoker(id))
		for _, api := range apiIDs {
			must(b.t, b.scene.Core.Authorize(id, "https://127.0.0.1:1/nobody", coretest.Entry(a.ID, api)))
		}
		token, err := b.scene.Core.MintToken(coretest.TokenSpec{
			InvokerID: id, Scope: coretest.ScopeOf(a.ID, testbed.APIName, testbed.OtherAPIName),
		})
		must(b.t, err)
		c.ids, c.tokens = append(c.ids, id), append(c.tokens, token)
	}
	return c
}

// callers is how many calls of a crowd are under way at once.
const callers = 8

// round lets each invoker call once, and returns the statuses and how long each
// call took.
func (c *crowd) round(path string) ([]int, []time.Duration) {
	statuses, took := make([]int, len(c.tokens)), make([]time.Duration, len(c.tokens))
	next := make(chan int)
	var done sync.WaitGroup
	for range callers {
		done.Go(func() {
			for i := range next {
				began := time.Now()
				statuses[i], _, _ = c.a.Call(c.b.ctx, path, c.tokens[i])
				took[i] = time.Since(began)
			}
		})
	}
	for i := range c.tokens {
		next <- i
	}
	close(next)
	done.Wait()
	return statuses, took
}

// want lets each call once and checks that all pass, but those named.
func (c *crowd) want(path string, refused ...int) []time.Duration {
	c.b.t.Helper()
	statuses, took := c.round(path)
	for i, status := range statuses {
		want := http.StatusOK
		if slices.Contains(refused, i) {
			want = http.StatusForbidden
		}
		if status != want {
			c.b.t.Fatalf("call %s of %s: got %v; want %v", path, c.ids[i], status, want)
		}
	}
	return took
}

// refused lets each call once and counts the answers 403; there must be no other
// than 200.
func (c *crowd) refused(path string) int {
	c.b.t.Helper()
	statuses, _ := c.round(path)
	refused := 0
	for i, status := range statuses {
		switch status {
		case http.StatusForbidden:
			refused++
		case http.StatusOK:
		default:
			c.b.t.Errorf("call %s of %s: got %v; want 200 or 403", path, c.ids[i], status)
		}
	}
	return refused
}

func percentile(took []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[(len(sorted)-1)*p/100]
}

func spread(took []time.Duration) string {
	return fmt.Sprintf("p50 %v, p99 %v", percentile(took, 50).Round(10*time.Microsecond), percentile(took, 99).Round(10*time.Microsecond))
}

// send posts a body to the callback of an AEF and returns the status, 0 if none
// came.
func send(ctx context.Context, client *http.Client, a *testbed.AEF, path string, body []byte) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+a.Callback+path, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// TestHintFindsTheRevoked: one of 1,000 active API invokers is revoked, and the
// core tells so without a certificate and without a name.
func TestHintFindsTheRevoked(t *testing.T) {
	b := newBed(t, coretest.Options{Dialect: "opencapif"})
	core := b.scene.Core
	a := b.aef(core.AssignAEFID("north"), testbed.Provider)
	a.Profile, a.TokenKeys, a.CallbackExtra = "opencapif", "core_certificate", "hint_path "+hintPath
	b.publish(a.ID)
	c := b.start(a)
	crowd := b.crowd(a, 1000)
	crowd.want("/location/1")
	cached := crowd.want("/location/1")
	_, err := core.Subscribe(a.ID, coretest.EventSubscription{
		Events:                  []string{coretest.EventRevoked},
		NotificationDestination: "https://" + a.Callback + hintPath, SupportedFeatures: "4",
	})
	must(t, err)

	const revoked = 500
	before := core.Count(coretest.OpGetContext)
	began := time.Now()
	_, err = core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: crowd.ids[revoked], AEFID: a.ID, APIIDs: []string{testbed.APIID}})
	must(t, err)
	must(t, core.Quiesce(b.ctx))
	told := time.Since(began)
	sent := core.Sent(coretest.OpNotifyEvent)
	if len(sent) != 1 || sent[0].Status != http.StatusNoContent || bytes.Contains(sent[0].Body, []byte(crowd.ids[revoked])) {
		t.Fatalf("notifications: got %+v; want one without a name, answered 204", sent)
	}
	b.want(a, "/location/1", crowd.tokens[revoked], http.StatusForbidden)
	due := crowd.want("/location/1", revoked)
	reads := core.Count(coretest.OpGetContext) - before
	b.want(a, "/qos/1", crowd.tokens[revoked], http.StatusOK)
	t.Logf("told in %v; %d reads for 1000 API invokers; a call from the cache %s; the first call of each after the hint %s; added %v and %v",
		told.Round(time.Millisecond), reads, spread(cached), spread(due),
		(percentile(due, 50) - percentile(cached, 50)).Round(10*time.Microsecond), (percentile(due, 99) - percentile(cached, 99)).Round(10*time.Microsecond))
	if reads < 1000 || reads > 1100 { // one for each, and a few where a call came twice
		t.Errorf("reads after the hint: got %d; want one for each of 1000", reads)
	}

	// A hint that nothing can be read after stops nobody.
	must(t, core.Down())
	if got := send(b.ctx, core.Client(nil), a, hintPath, nil); got != http.StatusNoContent {
		t.Fatalf("hint: got %v; want 204", got)
	}
	down := crowd.want("/location/1", revoked)
	t.Logf("with the core unreachable: the first call of each after the hint %s", spread(down))
	if status := b.status(c); status.Contexts.CoreReachable || status.Contexts.Due < 1000 {
		t.Errorf("status: got %+v; want core unreachable, 1000 due", status.Contexts)
	}
	// When it is back, the contexts are still due.
	_, err = core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: crowd.ids[7], AEFID: a.ID, APIIDs: []string{testbed.APIID}})
	must(t, err)
	must(t, core.Up())
	b.want(a, "/location/1", crowd.tokens[7], http.StatusForbidden)
}
