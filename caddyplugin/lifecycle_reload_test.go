package caddyplugin_test

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestReloadWithTheSameConfig reloads ten times: state, keys, verdicts and
// counters are those of before, and nothing of the old configurations is held.
func TestReloadWithTheSameConfig(t *testing.T) {
	l := startLife(t)
	was := l.snapshot()
	for range 10 {
		l.reload(l.aef)
	}
	l.intact(was)
}

// TestReloadWithOtherSettings puts each changed setting in force, and the old
// one again.
func TestReloadWithOtherSettings(t *testing.T) {
	l := startLife(t)
	t.Run("deny_cache", func(t *testing.T) {
		l.sub(t)
		was := l.snapshot()
		changed := *l.aef
		changed.GlobalExtra = "deny_cache 1"
		l.reload(&changed)
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.poll(func() bool {
			l.manyTokens()
			return l.unkept() > was.unkept
		})
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.reload(l.aef)
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	})
	t.Run("trigger_timeout", func(t *testing.T) {
		l.sub(t)
		changed := *l.aef
		changed.GlobalExtra = "trigger_timeout 10ms"
		l.reload(&changed)
		hang := l.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Hang: true})
		defer hang.Clear()
		began := time.Now()
		answer := l.trigger(l.caddy, revokeRequest(l.newInvoker()), http.StatusAccepted)
		if took := time.Since(began); took > 3*time.Second || !answer.Blocked {
			t.Errorf("got %v after %v; want blocked, far sooner than the default of 5s", answer.Blocked, took)
		}
		hang.Clear()
		l.reload(l.aef)
		l.poll(func() bool { return l.status().Outbox == 0 })
	})
	t.Run("core url", func(t *testing.T) {
		l.sub(t)
		changed := *l.aef
		// The same core under another name of its host.
		changed.CoreURL = strings.Replace(l.aef.CoreURL, "127.0.0.1", "localhost", 1)
		changed.TokenKeys = "jwks " + strings.Replace(l.aef.JWKS, "127.0.0.1", "localhost", 1)
		l.reload(&changed)
		if p := l.probe(l.allowed); p.Core != changed.CoreURL || l.status().Core != changed.CoreURL || p.Configs != 1 {
			t.Errorf("got %+v, %s; want core %s and one configuration", p, l.status().Core, changed.CoreURL)
		}
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.want(l.aef, lifePath, l.allowed, http.StatusOK)
		id := l.newInvoker()
		l.revoke(id)
		l.want(l.aef, lifePath, l.tokenOf(id), http.StatusForbidden)
		l.reload(l.aef)
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
	})
}

// TestRejectedReload tries configurations that Caddy rejects at each point of
// their life. All of them also change settings, which must not get in force.
func TestRejectedReload(t *testing.T) {
	l := startLife(t)
	elsewhere, err := coretest.Start(coretest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, e := range elsewhere.Requests(coretest.OpRevoke) {
			t.Errorf("the core of a rejected configuration was asked to revoke: %+v", e)
		}
		err := elsewhere.Close()
		if err != nil {
			t.Error(err)
		}
	})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	ca := filepath.Join(l.aef.Dir, "no-such-ca.pem")
	keys := filepath.Join(l.aef.Dir, "no-such-keys.pem")
	otherLedger := filepath.Join(l.aef.Dir, "elsewhere.db")
	for _, test := range []struct {
		name string
		edit func(*testbed.AEF)
		want []string
		// once says what one of many tries must have met.
		once string
	}{
		{"provision before the acquire: aef", func(a *testbed.AEF) { a.ID = `""` },
			[]string{"aef_id is empty, at Caddyfile:"}, ""},
		{"provision before the acquire: placeholder", func(a *testbed.AEF) { a.ID = "{env.CAPIF_LIFECYCLE_UNSET}" },
			[]string{"aef_id", "env.CAPIF_LIFECYCLE_UNSET"}, ""},
		{"provision before the acquire: core", func(a *testbed.AEF) { a.CoreURL = "ftp://core.example" },
			[]string{"core", "ftp://core.example", "want https://host"}, ""},
		{"provision before the acquire: trusted_ca", func(a *testbed.AEF) { a.CAFile = ca }, []string{ca}, ""},
		{"changed ledger path", func(a *testbed.AEF) { a.Ledger = otherLedger },
			[]string{"ledger " + otherLedger, l.aef.Ledger, "stop, move the file, start"}, ""},
		{"provision after the acquire: route", func(a *testbed.AEF) { a.RouteExtra = "token_keys pem " + keys },
			[]string{"token_keys", keys}, ""},
		{"provision after the acquire: another app", func(a *testbed.AEF) { a.OptionsExtra = "lifecycle_fault provision" },
			[]string{faultProvision}, ""},
		{"start of another app after ours", func(a *testbed.AEF) { a.OptionsExtra = "lifecycle_fault start" },
			[]string{"start: "}, faultAfterCapif},
		{"start of another app before ours", func(a *testbed.AEF) { a.OptionsExtra = "lifecycle_fault start" },
			[]string{"start: "}, faultBeforeCapif},
		{"start: port in use", func(a *testbed.AEF) {
			a.SiteExtra += "\n}\nhttp://" + taken.Addr().String() + " {\n\trespond ok"
		}, []string{taken.Addr().String(), "address already in use"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.sub(t)
			was := l.snapshot()
			changed := *l.aef
			changed.CoreURL = elsewhere.URL()
			changed.GlobalExtra = "deny_cache 1\ntrigger_timeout 1ms"
			test.edit(&changed)
			met := false
			for range 40 {
				err := l.caddy.Reload(l.ctx, l.caddyfile(&changed))
				if err == nil {
					t.Fatal("got accepted; want rejected")
				}
				for _, want := range test.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got %v; want it to say %q", err, want)
					}
				}
				met = strings.Contains(err.Error(), test.once)
				if met {
					break
				}
			}
			if !met {
				t.Errorf("got no %q in 40 tries; want one", test.once)
			}
			if strings.HasPrefix(test.name, "start") {
				was.reread = true
			}
			l.intact(was)
		})
	}
}

// TestAdminAfterARejectedReload asks for each answer of the admin API: the
// admin endpoint then has the routers of the rejected configuration.
func TestAdminAfterARejectedReload(t *testing.T) {
	l := startLife(t)
	changed := *l.aef
	changed.ID, changed.OptionsExtra = "aef-of-the-rejected", "lifecycle_fault provision"
	err := l.caddy.Reload(l.ctx, l.caddyfile(&changed))
	if err == nil {
		t.Fatal("got accepted; want rejected")
	}
	if got := l.status(); got.AEFID != l.aef.ID || len(got.AEFIDs) != 1 || got.Ledger.DeniedScopes == 0 || len(got.Keys) != 1 || !got.Keys[0].Present {
		t.Errorf("status: got %+v; want that of %s, with its keys and what it denies", got, l.aef.ID)
	}
	var claims adminapi.ClaimList
	status, err := l.caddy.Admin(l.ctx, http.MethodGet, adminapi.PathClaims, nil, &claims)
	if err != nil || status != http.StatusOK || len(claims.Claims) == 0 {
		t.Errorf("claims: got %v, %v, %+v; want some", status, err, claims)
	}
	var lifted adminapi.LiftResponse
	status, err = l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathLifts, adminapi.LiftRequest{APIInvokerID: "inv-2", AllAPIs: true}, &lifted)
	if err != nil || status != http.StatusOK || len(lifted.Lifted) == 0 {
		t.Errorf("lift: got %v, %v, %+v; want a claim lifted", status, err, lifted)
	}
	l.revoke(l.newInvoker())
}
