package caddyplugin_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// wantEnded waits for the end of a stream.
func (b *streamBed) wantEnded(s *stream) {
	b.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		b.t.Fatal("got the stream open; want it ended")
	}
}

// wantOpen waits for two more events.
func (b *streamBed) wantOpen(s *stream) {
	b.t.Helper()
	seen := s.events.Load()
	b.poll(func() bool { return s.events.Load() >= seen+2 || s.isOver() })
	if s.isOver() {
		b.t.Fatalf("got the stream ended: %v; want it open", s.err)
	}
}

func (b *streamBed) lift(invoker string) {
	b.t.Helper()
	status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{APIInvokerID: invoker, AllAPIs: true}, nil)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("lift: got %v, %v; want 200", status, err)
	}
}

// TestStreamsEndOnEveryDeny denies in each way that is not a trigger.
func TestStreamsEndOnEveryDeny(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams", func(a *testbed.AEF) {
		a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
	})
	b.subscribed(b.caddy)
	core := b.scene.Core
	bystander := b.over(b.h2, "/location/sse", b.bed.token(b.invoker("inv-other", b.aef.ID), coretest.ScopeOf(b.aef.ID, testbed.APIName)))
	for _, test := range []struct {
		name string
		deny func(b *streamBed, invoker, token string) error
		// all APIs are denied, not one.
		all bool
		// fresh is what another token of the API invoker is answered.
		fresh int
	}{
		{name: "the core revokes", fresh: http.StatusForbidden, deny: func(b *streamBed, invoker, _ string) error {
			_, err := core.CallAEF(b.ctx, b.aef.ID, coretest.SecurityNotification{
				APIInvokerID: invoker, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected})
			return err
		}},
		{name: "the core revokes one token", fresh: http.StatusOK, deny: func(b *streamBed, invoker, token string) error {
			_, err := core.CallAEF(b.ctx, b.aef.ID, coretest.SecurityNotification{
				APIInvokerID: invoker, AEFID: b.aef.ID, APIIDs: []string{testbed.APIID}, AccessToken: token, Cause: coretest.CauseUnexpected})
			return err
		}},
		{name: "the context no longer lists it", fresh: http.StatusForbidden, deny: func(b *streamBed, invoker, _ string) error {
			swallowed := core.SwallowNotifications()
			defer swallowed.Clear()
			_, err := core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: invoker, AEFID: b.aef.ID, APIIDs: []string{testbed.APIID}})
			b.reconcileNow(b.caddy)
			return err
		}},
		{name: "offboarding", all: true, fresh: http.StatusForbidden, deny: func(_ *streamBed, invoker, _ string) error { return core.Offboard(invoker) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := *b
			own := *b.bed
			own.t, b.bed = t, &own
			inv := b.invoker("inv "+strings.ReplaceAll(test.name, " ", "-")[4:], b.aef.ID)
			scope := coretest.ScopeOf(b.aef.ID, testbed.APIName, testbed.OtherAPIName)
			token, fresh := b.bed.token(inv, scope), b.bed.token(inv, scope)
			other := b.over(b.h2, "/qos/sse", token)
			mine := b.over(b.h2, "/location/sse", token)
			unrelated := b.over(b.h2, "/location/sse", b.bed.token(b.invoker("too-"+inv.ID, b.aef.ID), scope))
			must(t, test.deny(&b, inv.ID, token))
			b.wantEnded(mine)
			if test.all {
				b.wantEnded(other)
			} else {
				b.wantOpen(other)
			}
			b.wantOpen(unrelated)
			b.wantOpen(bystander)
			if test.fresh != http.StatusOK {
				b.want(b.aef, "/location/events-of-a-new-call", token, test.fresh)
				return
			}
			b.wantOpen(b.over(b.h2, "/location/sse", fresh))
		})
	}
}

// TestStreamsGrace: within the grace a stream goes on, and a lift keeps it.
func TestStreamsGrace(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams {\n\tgrace 3s\n}")
	ending, token := b.minted()
	s := b.over(b.h2, "/location/sse", token)
	lifted, token := b.minted()
	stays := b.over(b.h2, "/location/sse", token)
	b.revoke(lifted) // first: its grace, if it went on, would be over before that of the other
	b.lift(lifted)
	begun := time.Now()
	b.revoke(ending)
	b.wantEnded(s)
	if got := s.at.Sub(begun); got < 3*time.Second {
		t.Errorf("got the stream ended after %v; want it ended after its grace of 3s", got)
	}
	b.wantOpen(stays)
	b.wantOpen(stays)
	b.settled(1)
	b.wantMetric(b.aef, "capif_streams_ended_total{reason=\"authorization_revoked\"} 1\n")
}

// TestStreamsOverReloads: a stream that was opened under an old configuration is
// ended, whatever the new one says.
func TestStreamsOverReloads(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams")
	id, token := b.minted()
	_, other := b.minted()
	s, stays := b.over(b.h2, "/location/sse", token), b.over(http.DefaultClient, "/location/sse", other)
	changed := *b.aef
	changed.RouteExtra = "require_context off"
	changed.GlobalExtra = "deny_cache 5000"
	for _, a := range []*testbed.AEF{b.aef, &changed} {
		caddyfile, err := a.Caddyfile()
		must(t, err)
		must(t, b.caddy.Reload(b.ctx, caddyfile))
	}
	b.wantOpen(s)
	withoutIt := b.over(http.DefaultClient, "/location/sse", token)
	b.revoke(id)
	b.wantEnded(s)
	b.wantOpen(stays)
	b.wantOpen(withoutIt) // without end_streams a call goes on
}

// TestStreamsEndBlockedWrites: a caller that does not read leaves the handler in a
// write, which no context ends.
func TestStreamsEndBlockedWrites(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams")
	id, token := b.minted()
	conn, err := net.Dial("tcp", b.aef.API)
	must(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /location/flood HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", b.aef.API, token)
	must(t, err)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v; want 200", response, err)
	}
	over2, err := b.h2.Do(b.request(b.ctx, "/location/flood", token)) // its flow control window fills up
	must(t, err)
	defer over2.Body.Close()
	b.poll(func() bool { return b.backend.open.Load() == 2 })
	b.revoke(id)
	b.poll(func() bool { return b.backend.open.Load() == 0 })
	for name, body := range map[string]io.Reader{"HTTP/1.1": response.Body, "HTTP/2": over2.Body} {
		n, err := io.Copy(io.Discard, body)
		if err == nil {
			t.Errorf("%s: got a complete body of %d bytes; want an error", name, n)
		}
	}
}
