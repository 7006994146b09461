package caddyplugin_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

const (
	killRounds    = 4
	killTriggers  = 4
	killCallbacks = 2
	killAfter     = 60 // acknowledgements in a round
)

// TestKillUnderTriggers kills a Caddy, as kill -9 does, while operators and the
// core revoke, and starts it again: whatever was acknowledged is there, and every
// trigger that was accepted comes to an end at the core.
func TestKillUnderTriggers(t *testing.T) {
	l := newLife(t)
	l.aef.GlobalExtra = "trigger_timeout 1ms" // an acknowledgement is enough
	l.caddy = l.start(l.aef)
	triggered, told := map[string]bool{}, map[string]bool{}
	var mu sync.Mutex
	for round := range killRounds {
		enough := make(chan struct{})
		count := 0
		acknowledge := func(of map[string]bool, id string) {
			mu.Lock()
			defer mu.Unlock()
			of[id] = true
			count++
			if count == killAfter {
				close(enough)
			}
		}
		var running sync.WaitGroup
		for g := range killTriggers {
			running.Go(func() {
				for n := 0; ; n++ {
					id := fmt.Sprintf("triggered-%d-%d-%d", round, g, n)
					var answer adminapi.RevocationResponse
					status, err := l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), &answer)
					if err != nil {
						return // killed
					}
					if status/100 != 2 || !answer.Blocked {
						t.Errorf("trigger: got %d, %+v; want 2xx and blocked", status, answer)
						return
					}
					acknowledge(triggered, id)
				}
			})
		}
		for g := range killCallbacks {
			running.Go(func() {
				for n := 0; ; n++ {
					id := fmt.Sprintf("told-%d-%d-%d", round, g, n)
					answer, err := l.scene.Core.CallAEF(l.ctx, l.aef.ID, coretest.SecurityNotification{
						APIInvokerID: id, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
					})
					if err != nil || answer.Err != nil || answer.Status == 0 {
						return // killed
					}
					if answer.Status/100 != 2 {
						t.Errorf("callback: got %d %s; want 2xx", answer.Status, answer.Body)
						return
					}
					acknowledge(told, id)
				}
			})
		}
		timer := time.NewTimer(20 * time.Second)
		select {
		case <-enough:
		case <-timer.C:
			t.Errorf("round %d: got %d acknowledgements in 20 s; want %d", round, count, killAfter)
		}
		timer.Stop()
		err := l.caddy.Kill()
		if err != nil {
			t.Fatal(err)
		}
		running.Wait()
		l.caddy = l.start(l.aef)
		l.wantAllThere(round, triggered, revocation.OriginAEF)
		l.wantAllThere(round, told, revocation.OriginCore)
	}
	if len(triggered) == 0 || len(told) == 0 {
		t.Fatalf("got %d triggers and %d callbacks acknowledged; want some of each", len(triggered), len(told))
	}
	l.poll(func() bool { return l.status().Outbox == 0 })
	for id := range triggered {
		if got := l.revocationOf(id).State; got == revocation.StatePending {
			t.Errorf("%s: got %s; want decided", id, got)
		}
	}
	t.Logf("%d triggers and %d messages of the core acknowledged in %d rounds", len(triggered), len(told), killRounds)
}

// wantAllThere fails unless a claim of the origin denies each API invoker.
func (l *life) wantAllThere(round int, want map[string]bool, origin revocation.Origin) {
	l.t.Helper()
	claims := l.allClaims()
	for id := range want {
		if !slices.ContainsFunc(claims[id], func(c revocation.Claim) bool { return c.Origin == origin }) {
			l.t.Errorf("round %d: %s, acknowledged: got claims %+v after the restart; want one of origin %s", round, id, claims[id], origin)
		}
	}
}

func (l *life) allClaims() map[string][]revocation.Claim {
	l.t.Helper()
	claims := map[string][]revocation.Claim{}
	for after := ""; ; {
		var page adminapi.ClaimList
		status, err := l.caddy.Admin(l.ctx, http.MethodGet, fmt.Sprintf("%s?limit=%d&after=%s", adminapi.PathClaims, revocation.MaxPage, after), nil, &page)
		if err != nil || status != http.StatusOK {
			l.t.Fatalf("claims: got %v, %v; want 200", status, err)
		}
		for _, c := range page.Claims {
			claims[c.Invoker] = append(claims[c.Invoker], c)
		}
		if page.Next == "" {
			return claims
		}
		after = page.Next
	}
}
