package caddyplugin_test

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// interval is the reconcile interval of the tests that wait for it.
const interval = time.Second

// TestLostNotifications: no message of the core arrives, and the timer finds a
// revoke that was made elsewhere within one interval.
func TestLostNotifications(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.GlobalExtra = "reconcile " + interval.String()
	b.publish("aef-a")
	b.start(a)
	crowd := b.crowd(a, 20)
	crowd.want("/location/1")
	_, err := b.scene.Core.Subscribe("aef-a", coretest.EventSubscription{
		Events: []string{coretest.EventRevoked}, NotificationDestination: "https://" + a.Callback + "/capif/events", SupportedFeatures: "4",
	})
	must(t, err)
	lost := b.scene.Core.SwallowNotifications()

	h := hammerAt(t, a, crowd.tokens[3], "/location/1")
	h.until(t, http.StatusOK)
	began := time.Now()
	answers, err := b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: crowd.ids[3], AEFID: "aef-a", APIIDs: []string{testbed.APIID}})
	must(t, err)
	must(t, b.scene.Core.Quiesce(b.ctx))
	if len(answers) != 1 || answers[0].Status != 0 || lost.Hits() == 0 {
		t.Fatalf("got %+v, %d messages swallowed; want no answer", answers, lost.Hits())
	}
	blocked := h.until(t, http.StatusForbidden)
	h.more(t, 50)
	h.nonePassed(t, blocked)
	crowd.want("/location/1", 3)
	took := blocked.Sub(began)
	t.Logf("enforced %v after the revoke, with an interval of %v", took.Round(time.Millisecond), interval)
	// A tenth is the jitter; the rest is for 20 reads on a busy machine.
	if limit := interval*11/10 + 2*time.Second; took > limit {
		t.Errorf("enforced after %v; want within %v", took, limit)
	}
}

// TestCoreAnswersErrors: what a core says instead of a context denies nobody new.
func TestCoreAnswersErrors(t *testing.T) {
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	a.GlobalExtra = "reconcile " + interval.String()
	b.publish("aef-a")
	c := b.start(a)
	crowd := b.crowd(a, 20)
	crowd.want("/location/1")
	tests := []struct {
		name  string
		fault coretest.Fault
	}{
		{"500", coretest.Fault{Status: http.StatusInternalServerError}},
		{"401", coretest.Fault{Status: http.StatusUnauthorized}},
		{"403", coretest.Fault{Status: http.StatusForbidden}},
		{"404 in HTML", coretest.Fault{Status: http.StatusNotFound, Body: coretest.HTMLBody}},
		{"200 in HTML", coretest.Fault{Status: http.StatusOK, Body: coretest.HTMLBody}},
		{"200 of something else", coretest.Fault{Status: http.StatusOK, Body: `{"status":"ok"}`}},
		{"connection dropped", coretest.Fault{Drop: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Operations = []string{coretest.OpGetContext}
			fault := b.scene.Core.Inject(tt.fault)
			status, err := c.Admin(b.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, nil)
			if err != nil || status != http.StatusOK {
				t.Fatalf("reconcile: got %v, %v; want 200", status, err)
			}
			crowd.want("/location/1") // each asks for itself, and is decided by what is known
			if fault.Hits() < len(crowd.ids) {
				t.Errorf("reads answered so: got %d; want at least %d", fault.Hits(), len(crowd.ids))
			}
			if b.alarmed(c, alarm.MassChangeSuspended) {
				t.Error("alarm mass_change_suspended; want none: nothing was said about anybody")
			}
			fault.Clear()
			crowd.want("/location/1")
		})
	}
}

// TestMassChange: a core that would newly refuse many at once is not followed
// until an operator has looked.
func TestMassChange(t *testing.T) {
	tests := []struct {
		name    string
		dialect string
		size    int
		lose    func(*massBed)
		// lost is the path that is refused once the change was accepted.
		lost, kept string
	}{
		{name: "emptied", size: 20, lost: "/location/1", lose: func(m *massBed) { m.scene.Core.Empty() }},
		{name: "emptied, with few API invokers", size: 2, lost: "/location/1", lose: func(m *massBed) { m.scene.Core.Empty() }},
		{
			name: "restored from an older backup", size: 20, lost: "/qos/1", kept: "/location/1",
			lose: func(m *massBed) { m.scene.Core.Restore(m.backup) },
		},
		{
			name: "404 for all", size: 20, lost: "/location/1",
			lose: func(m *massBed) { m.scene.Core.NotFoundForAll() },
		},
		{
			name: "read on its other listener", dialect: "oran", size: 20, lost: "/location/1",
			lose: func(m *massBed) {
				m.a.CoreURL, m.a.CoreExtra = m.scene.Core.PlainURL(), "insecure_http"
				caddyfile, err := m.a.Caddyfile()
				must(m.t, err)
				must(m.t, m.caddy.Reload(m.ctx, caddyfile))
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMassBed(t, tt.dialect, tt.size)
			tt.lose(m)
			m.poll(func() bool { return m.alarmed(m.caddy, alarm.MassChangeSuspended) })
			for range 3 {
				// What a 200 says counts until it is too much; an unsupported 404 never does.
				refused, allowed := m.crowd.refused(tt.lost), 0
				if tt.kept != "" {
					m.crowd.want(tt.kept)
					allowed = 5
				}
				if refused > allowed {
					t.Errorf("calls of %s refused while the change is withheld: got %d; want at most %d", tt.lost, refused, allowed)
				}
			}
			status := m.status(m.caddy)
			if !status.Contexts.Suspended {
				t.Errorf("status: got %+v; want suspended", status.Contexts)
			}
			for _, raised := range status.Alarms {
				t.Logf("alarm %s: %s", raised.Name, raised.Detail)
			}
			var answer adminapi.ReconcileResponse
			code, err := m.caddy.Admin(m.ctx, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{Accept: true}, &answer)
			if err != nil || code != http.StatusOK || !answer.Accepted {
				t.Fatalf("accept: got %v, %v, %+v; want 200, accepted", code, err, answer)
			}
			if refused := m.crowd.refused(tt.lost); refused != tt.size {
				t.Errorf("calls of %s refused after the change was accepted: got %d; want all %d", tt.lost, refused, tt.size)
			}
			if tt.kept != "" {
				m.crowd.want(tt.kept)
			}
			if m.alarmed(m.caddy, alarm.MassChangeSuspended) {
				t.Error("the alarm stands after the change was accepted")
			}
		})
	}
}

// TestMassChangePasses: a core that has its data again ends the stop by itself.
func TestMassChangePasses(t *testing.T) {
	m := newMassBed(t, "", 20)
	backup := m.scene.Core.Snapshot()
	m.scene.Core.Empty()
	m.poll(func() bool { return m.alarmed(m.caddy, alarm.MassChangeSuspended) })
	m.crowd.want("/location/1")
	m.scene.Core.Restore(backup)
	m.poll(func() bool { return !m.alarmed(m.caddy, alarm.MassChangeSuspended) })
	m.crowd.want("/location/1")
}

// massBed is an AEF with a crowd that has called both APIs.
type massBed struct {
	*bed
	a      *testbed.AEF
	caddy  *testbed.Caddy
	crowd  *crowd
	backup *coretest.Snapshot // from before the second API was granted
}

func newMassBed(t *testing.T, dialect string, size int) *massBed {
	t.Helper()
	m := &massBed{bed: newBed(t, coretest.Options{Dialect: dialect})}
	m.a = m.aef("aef-a", testbed.Provider)
	m.a.GlobalExtra = "reconcile " + interval.String()
	if dialect != "" {
		m.a.Profile = dialect
		m.a.GlobalExtra += "\ninvoker_claim azp clientId"
		// The core is not always spoken to at the host of its key set.
		m.a.TokenKeys += " {\ntrusted_ca " + m.a.CAFile + "\n}"
	}
	m.publish("aef-a")
	m.crowd = m.bed.crowdOf(m.a, size, testbed.APIID)
	m.backup = m.scene.Core.Snapshot()
	for _, id := range m.crowd.ids {
		must(t, m.scene.Core.Authorize(id, "https://127.0.0.1:1/nobody", coretest.Entry("aef-a", testbed.OtherAPIID)))
	}
	m.caddy = m.start(m.a)
	m.crowd.want("/location/1")
	m.crowd.want("/qos/1")
	return m
}

// TestLedgerDeleted: the ledger is lost between two starts. Whom the core
// revoked, through whichever way, gets no call through, from the first moment,
// also where the core is slow.
func TestLedgerDeleted(t *testing.T) {
	for name, delay := range map[string]time.Duration{"core at once": 0, "core slow": 1500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, coretest.Options{})
			core := b.scene.Core
			a := b.aef("aef-a", testbed.Provider)
			b.publish("aef-a")
			crowd := b.crowd(a, 8)
			first, err := a.Start(b.ctx)
			must(t, err)
			crowd.want("/location/1")
			revoke := func(i int) {
				_, err := core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: crowd.ids[i], AEFID: "aef-a", APIIDs: []string{testbed.APIID}})
				must(t, err)
			}
			revoke(0)
			b.trigger(first, adminapi.RevocationRequest{
				APIInvokerID: crowd.ids[1], APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
			}, http.StatusOK)
			crowd.want("/location/1", 0, 1)
			must(t, first.Stop())
			revoke(2) // while nobody listens
			must(t, os.Remove(a.Ledger))
			if delay > 0 {
				core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Delay: delay})
			}

			var hammers []*hammer
			for i := range 3 {
				hammers = append(hammers, hammerAt(t, a, crowd.tokens[i], "/location/1"))
			}
			c := b.start(a)
			for i, h := range hammers {
				h.until(t, http.StatusForbidden)
				h.more(t, 20)
				seen := map[int]int{}
				for _, call := range h.list() {
					seen[call.status]++ // 0: nothing listened yet
				}
				if seen[http.StatusOK] > 0 {
					t.Errorf("calls of %s that passed: got %d; want 0", crowd.ids[i], seen[http.StatusOK])
				}
				t.Logf("%s: calls by status %v", crowd.ids[i], seen)
			}
			var done sync.WaitGroup
			for i := 3; i < len(crowd.ids); i++ {
				done.Go(func() { b.eventually(a, "/location/1", crowd.tokens[i], http.StatusOK) })
			}
			done.Wait()
			if !b.alarmed(c, alarm.LedgerCreated) {
				t.Error("no alarm ledger_created")
			}
			if !strings.Contains(c.Log(), "ledger_created") {
				t.Error("the log does not say that a new ledger was made")
			}
		})
	}
}
