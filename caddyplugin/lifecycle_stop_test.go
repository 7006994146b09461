package caddyplugin_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
)

// stopWithin is how long a process may take to end, whatever the core does.
const stopWithin = 5 * time.Second

// TestStopWithoutTheCore ends the process while a revocation waits for a core
// that is down, or that takes requests and never answers. The trigger gets its
// answer, the process ends in time, and after a restart the block stands and the
// revocation goes on.
func TestStopWithoutTheCore(t *testing.T) {
	for _, test := range []struct {
		name string
		// fail makes the core fail and returns what mends it.
		fail func(*life) func()
	}{
		{"core down", func(l *life) func() {
			err := l.scene.Core.Down()
			if err != nil {
				l.t.Fatal(err)
			}
			return func() {
				err := l.scene.Core.Up()
				if err != nil {
					l.t.Fatal(err)
				}
			}
		}},
		{"core hangs at the read", func(l *life) func() {
			return l.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Hang: true}).Clear
		}},
		{"core hangs at the revoke", func(l *life) func() {
			return l.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Hang: true}).Clear
		}},
		{"core executes the revoke and hangs", func(l *life) func() {
			return l.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Execute: true, Hang: true}).Clear
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLife(t)
			// Longer than the process may take to end.
			l.aef.GlobalExtra = "trigger_timeout 60s"
			l.aef.CoreExtra = "timeout 60s"
			l.begin()
			id := l.newInvoker()
			token := l.tokenOf(id)
			l.want(l.aef, lifePath, token, http.StatusOK)
			mend := test.fail(l)
			type result struct {
				status int
				answer adminapi.RevocationResponse
				err    error
			}
			answered := make(chan result, 1)
			first := l.caddy
			go func() {
				var r result
				r.status, r.err = first.Admin(l.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), &r.answer)
				answered <- r
			}()
			l.poll(func() bool { return l.status().Outbox == 1 })
			began := time.Now()
			err := l.caddy.Stop()
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > stopWithin {
				t.Errorf("stop: got %s; want at most %s", took, stopWithin)
			}
			got := <-answered
			if got.err != nil || got.status != http.StatusAccepted || !got.answer.Blocked {
				t.Errorf("trigger: got %v, %+v, %v; want 202 and blocked", got.status, got.answer, got.err)
			}
			mend()
			l.caddy = l.start(l.aef)
			l.want(l.aef, lifePath, token, http.StatusForbidden)
			l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
			l.want(l.aef, lifePath, l.allowed, http.StatusOK)
			l.poll(func() bool { return l.revocationOf(id).State == revocation.StateRevoked })
			if l.scene.Core.Authorized(id, l.aef.ID, "8f36c0") {
				t.Error("the core still authorizes it; want revoked")
			}
		})
	}
}

// revocationOf returns the only revocation of an API invoker.
func (l *life) revocationOf(id string) revocation.Revocation {
	l.t.Helper()
	var list adminapi.RevocationList
	status, err := l.caddy.Admin(l.ctx, http.MethodGet, adminapi.PathRevocations+"?api_invoker_id="+id, nil, &list)
	if err != nil || status != http.StatusOK || len(list.Revocations) != 1 {
		l.t.Fatalf("revocations of %s: got %v, %v, %+v; want one", id, status, err, list)
	}
	return list.Revocations[0]
}
