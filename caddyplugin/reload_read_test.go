package caddyplugin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestSchedule29ReloadWhileAContextIsRead: a read of a context has sampled
// "listed" at the core and hangs. The core takes the API away and hints, the
// configuration is replaced, and the read ends: the next call is refused.
func TestSchedule29ReloadWhileAContextIsRead(t *testing.T) {
	for _, to := range []struct {
		name   string
		change func(*testbed.AEF)
	}{
		{"equal settings", func(*testbed.AEF) {}},
		{"other settings", func(a *testbed.AEF) { a.GlobalExtra = "reconcile 1m" }},
		{"another connection", func(a *testbed.AEF) {
			// The same core under another name of its host.
			a.CoreURL = strings.Replace(a.CoreURL, "127.0.0.1", "localhost", 1)
			a.TokenKeys = "jwks " + strings.Replace(a.JWKS, "127.0.0.1", "localhost", 1)
		}},
	} {
		t.Run(to.name, func(t *testing.T) {
			l := newLife(t)
			l.aef.CallbackExtra = "hint_path " + hintPath
			l.begin()
			changed := *l.aef
			to.change(&changed)
			l.reloadWhileRead(&changed, true) // schedules 3 and 5
			l.reload(l.aef)
			l.reloadWhileRead(&changed, false) // first sight: schedule 8
		})
	}
}

func (l *life) reloadWhileRead(to *testbed.AEF, known bool) {
	l.t.Helper()
	core := l.scene.Core
	id := l.newInvoker()
	token := l.tokenOf(id)
	if known {
		l.want(l.aef, lifePath, token, http.StatusOK)
	}
	held := core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, InvokerID: id, Times: 1, Execute: true, Hang: true})
	defer held.Clear()
	first := make(chan struct{})
	if known {
		close(first)
		l.hintAnswered() // the background reads
	} else {
		go func() {
			defer close(first)
			_, _, _ = l.aef.Call(l.ctx, lifePath, token) // its wait may end before the read
		}()
	}
	<-held.Reached()
	silence := core.SwallowNotifications() // only the hint is to tell of it
	_, err := core.RevokeByCore(l.ctx, coretest.CoreRevoke{InvokerID: id, AEFID: l.aef.ID, APIIDs: []string{testbed.APIID}})
	silence.Clear()
	must(l.t, err)
	l.hintAnswered()
	l.reload(to)
	held.Clear()
	l.want(l.aef, lifePath, token, http.StatusForbidden)
	<-first
	l.want(l.aef, lifePath, token, http.StatusForbidden)
	l.want(l.aef, lifeOther, token, http.StatusOK)
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
}

// hintAnswered sends a hint without a name, again where a reload closed the
// connection.
func (l *life) hintAnswered() {
	l.t.Helper()
	client := l.scene.Core.Client(nil)
	l.poll(func() bool {
		got := send(l.ctx, client, l.aef, hintPath, nil)
		if got != 0 && got != http.StatusNoContent {
			l.t.Fatalf("hint: got %v; want 204", got)
		}
		return got == http.StatusNoContent
	})
}
