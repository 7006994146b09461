package caddyplugin_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

const (
	failureTimeout = 500 * time.Millisecond
	// failureSlack is what a trigger may take beyond its timeout on a busy
	// machine. It is less than any other timeout in play.
	failureSlack = 2 * time.Second
)

// coreFailure is one way in which a core does not decide, for one API invoker.
type coreFailure struct {
	name  string
	fault coretest.Fault
	// answered is the last answer that is recorded at once; 0: none yet.
	answered int
	// executed: the core has revoked all the same.
	executed bool
	invoker  string
	token    string
	injected *coretest.Injected
}

func failuresOfTheCore() []*coreFailure {
	revoke, both := []string{coretest.OpRevoke}, []string{coretest.OpGetContext, coretest.OpRevoke}
	status := func(status int, operations []string) coretest.Fault {
		return coretest.Fault{Operations: operations, Status: status}
	}
	return []*coreFailure{
		{name: "hangs at the read", fault: coretest.Fault{Operations: both, Hang: true}},
		{name: "hangs at the revoke", fault: coretest.Fault{Operations: revoke, Hang: true}},
		{name: "slow", fault: coretest.Fault{Operations: both, Delay: 30 * time.Second}},
		{name: "500 at the read", fault: status(500, both), answered: 500},
		{name: "500 at the revoke", fault: status(500, revoke), answered: 500},
		{name: "500 after executing", fault: coretest.Fault{Operations: revoke, Execute: true, Status: 500}, answered: 500, executed: true},
		{name: "connection dropped", fault: coretest.Fault{Operations: both, Drop: true}},
		{name: "connection dropped after executing", fault: coretest.Fault{Operations: revoke, Execute: true, Drop: true}, executed: true},
		{name: "401", fault: status(401, both), answered: 401},
		{name: "403 at the revoke", fault: status(403, revoke), answered: 403},
		{name: "404 in HTML", fault: coretest.Fault{Operations: both, Status: 404, Body: coretest.HTMLBody}, answered: 404},
		{name: "429", fault: coretest.Fault{Operations: both, Status: 429, Header: http.Header{"Retry-After": {"40"}}}, answered: 429},
		{name: "503 in HTML", fault: coretest.Fault{Operations: revoke, Status: 503, Body: coretest.HTMLBody}, answered: 503},
	}
}

// TestCoreFailures triggers while the core fails in every way at once, each for an
// API invoker of its own. Each trigger is answered in time with what stands and
// what comes next, and blocks; a stop, a kill and a core that is down for long
// forget nothing; and when the core is back all is decided without a second
// trigger.
func TestCoreFailures(t *testing.T) {
	b := newAdminBed(t, func(b *adminBed) {
		keys, err := b.scene.Core.TokenKeyPEM()
		must(t, err)
		file := filepath.Join(b.aef.Dir, "core-keys.pem")
		writeFile(t, file, keys)
		// Keys that are there while the core is not.
		b.aef.TokenKeys = "pem " + file
		b.aef.GlobalExtra = "trigger_timeout " + failureTimeout.String()
	})
	failures := failuresOfTheCore()
	for i, f := range failures {
		b.sub(t, f.name, func() {
			f.invoker = fmt.Sprintf("inv-%d", i)
			b.triggerWhileFailing(f)
		})
	}
	if !b.alarmed(b.caddy, alarm.CoreRefusesUs) {
		t.Errorf("got %+v; want core_refuses_us", b.status(b.caddy).Alarms)
	}
	b.sub(t, "400", func() { testCoreRejects(b) })

	for _, f := range failures {
		if !f.executed {
			continue
		}
		// The read before the next try tells: nothing is sent blindly again.
		b.poll(func() bool { return b.revocationsOf(f.invoker)[0].State == revocation.StateRevoked })
		if n := f.injected.Hits(); n != 1 {
			t.Errorf("%s: got %d requests to revoke; want 1", f.name, n)
		}
	}
	down := &coreFailure{name: "down", invoker: "inv-down"}
	b.sub(t, "down", func() { b.triggerWhileFailing(down) })
	failures = append(failures, down)
	b.wantKept(failures)
	must(t, b.caddy.Stop())
	b.caddy = b.start(b.aef)
	b.wantKept(failures)
	must(t, b.caddy.Kill())
	b.caddy = b.start(b.aef)
	b.wantKept(failures)

	core := b.scene.Core
	core.ClearFaults()
	must(t, core.Up())
	// A reload tries at once what is in back-off, also after Retry-After.
	text, err := b.aef.Caddyfile()
	must(t, err)
	must(t, b.caddy.Reload(b.ctx, text))
	for _, f := range failures {
		b.poll(func() bool { return b.revocationsOf(f.invoker)[0].State != revocation.StatePending })
		if got := b.revocationsOf(f.invoker); len(got) != 1 || got[0].State != revocation.StateRevoked || core.Authorized(f.invoker, "aef-a", testbed.APIID) {
			t.Errorf("%s, the core is back: got %+v; want one revocation, revoked", f.name, got)
		}
		if !core.Authorized(f.invoker, "aef-a", testbed.OtherAPIID) {
			t.Errorf("%s: got another API revoked as well; want it left alone", f.name)
		}
		b.want(b.aef, "/location/1", f.token, http.StatusForbidden)
	}
	b.poll(func() bool { return b.status(b.caddy).Outbox == 0 })
	if b.alarmed(b.caddy, alarm.CoreRefusesUs) {
		t.Error("the core is back: got core_refuses_us; want it cleared")
	}
}

// triggerWhileFailing triggers for one API invoker under its fault. Without a
// fault it takes the core down.
func (b *adminBed) triggerWhileFailing(f *coreFailure) {
	b.t.Helper()
	f.token = b.granted(f.invoker)
	b.want(b.aef, "/location/1", f.token, http.StatusOK)
	b.want(b.aef, "/qos/1", f.token, http.StatusOK)
	if f.fault.Operations == nil {
		must(b.t, b.scene.Core.Down())
	} else {
		f.fault.InvokerID = f.invoker
		f.injected = b.scene.Core.Inject(f.fault)
	}
	began := time.Now()
	answer := b.trigger(b.caddy, revokeRequest(f.invoker), http.StatusAccepted)
	took := time.Since(began)
	if took < failureTimeout || took > failureTimeout+failureSlack {
		b.t.Errorf("answered after %v; want about %v", took, failureTimeout)
	}
	r := answer.Revocations[0]
	if !answer.Blocked || len(answer.Revocations) != 1 || r.State != revocation.StatePending || !r.DecidedAt.IsZero() {
		b.t.Errorf("got %+v; want blocked and pending", answer)
	}
	if want := "sent again until the core has decided or a lift ends it"; !strings.Contains(answer.Note, want) {
		b.t.Errorf("note: got %q; want %q in it", answer.Note, want)
	}
	b.want(b.aef, "/location/1", f.token, http.StatusForbidden)
	if f.answered == 0 {
		return
	}
	// What happens next: the answer and the time of the next try.
	if len(r.Answers) == 0 || r.Answers[len(r.Answers)-1].Status != f.answered || r.Attempts == 0 || r.NextAttempt.Before(began) {
		b.t.Errorf("got %+v; want the core's %d and when it is tried again", r, f.answered)
	}
	wait := f.fault.Header.Get("Retry-After")
	if wait != "" && r.NextAttempt.Before(began.Add(30*time.Second)) {
		b.t.Errorf("got the next try at %v; want it after the core's %s s", r.NextAttempt, wait)
	}
}

// testCoreRejects: a 400 is an answer. The block stays until it is lifted, and
// the core is not asked again.
func testCoreRejects(b *adminBed) {
	const invoker = "inv-rejected"
	token := b.granted(invoker)
	b.want(b.aef, "/location/1", token, http.StatusOK)
	core := b.scene.Core
	fault := core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, InvokerID: invoker, Status: 400})
	var answer adminapi.RevocationResponse
	_, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(invoker), &answer)
	must(b.t, err)
	if !answer.Blocked {
		b.t.Errorf("got %+v; want blocked", answer)
	}
	b.poll(func() bool { return b.revocationsOf(invoker)[0].State != revocation.StatePending })
	if r := b.revocationsOf(invoker)[0]; r.State != revocation.StateRejected || len(r.Answers) == 0 || r.Answers[len(r.Answers)-1].Status != 400 {
		b.t.Errorf("got %+v; want rejected with the core's 400", r)
	}
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	if n := fault.Hits(); n != 1 {
		b.t.Errorf("got %d requests; want 1", n)
	}
	if lifted := b.lift(adminapi.LiftRequest{APIInvokerID: invoker, APIIDs: []string{testbed.APIID}}); len(lifted.Lifted) != 1 || len(lifted.Cancelled) != 0 {
		b.t.Errorf("lift: got %+v; want the claim lifted, nothing to cancel", lifted)
	}
	b.want(b.aef, "/location/1", token, http.StatusOK)
}

// wantKept fails unless every revocation and its block are there.
func (b *adminBed) wantKept(failures []*coreFailure) {
	b.t.Helper()
	for _, f := range failures {
		list := b.revocationsOf(f.invoker)
		state := revocation.StatePending
		if f.executed {
			state = revocation.StateRevoked
		}
		if len(list) != 1 || list[0].State != state {
			b.t.Errorf("%s: got %+v; want one revocation, %s", f.name, list, state)
		}
		b.want(b.aef, "/location/1", f.token, http.StatusForbidden)
		b.want(b.aef, "/qos/1", f.token, http.StatusOK)
	}
}
