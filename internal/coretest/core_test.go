package coretest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestStartRefuses(t *testing.T) {
	tests := []struct {
		name string
		opts Options
		says string
	}{
		{"dialect", Options{Dialect: "3gpp"}, "use strict, opencapif, oran or evolved"},
		{"algorithm", Options{TokenAlgorithm: "HS256"}, "use ES256, RS256, PS256 or EdDSA"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			core, err := Start(tt.opts)
			if err == nil || core != nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v; want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	s := newScene(t, Options{Dialect: "oran"})
	if !strings.HasPrefix(s.URL(), "https://127.0.0.1:") || !strings.HasPrefix(s.PlainURL(), "http://127.0.0.1:") {
		t.Errorf("got %s and %s; want both on 127.0.0.1", s.URL(), s.PlainURL())
	}
}

func TestDownAndUp(t *testing.T) {
	for _, name := range []string{"strict", "oran"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.authorize()
			s.must(s.Down())
			if got := s.do(s.aefClient, "GET", contexts+"inv-1", "", ""); got.err == nil {
				t.Errorf("while down: got %+v; want the call refused", got)
			}
			s.must(s.Up())
			wantStatus(t, s.do(s.aefClient, "GET", contexts+"inv-1", "", ""), 200)
			if err := s.Up(); err == nil {
				t.Error("up twice: got nil; want an error")
			}
			s.must(s.Close())
			if err := s.Up(); err == nil {
				t.Error("up after close: got nil; want an error")
			}
		})
	}
}

func TestForeignCertificateIsRefused(t *testing.T) {
	s := newScene(t, Options{})
	ca, err := NewCA("another", false)
	s.must(err)
	forged, err := ca.Issue(CertSpec{CommonName: "aef-a", Role: RoleAEF, ClientAuth: true})
	s.must(err)
	if got := s.do(s.Client(forged), "GET", contexts+"inv-1", "", ""); got.err == nil {
		t.Errorf("certificate of another CA: got %+v; want the handshake to fail", got)
	}
	expired, err := s.CA().Issue(CertSpec{CommonName: "aef-a", Role: RoleAEF, ClientAuth: true, NotAfter: time.Now().Add(-48 * time.Hour)})
	s.must(err)
	if got := s.do(s.Client(expired), "GET", contexts+"inv-1", "", ""); got.err == nil {
		t.Errorf("expired certificate: got %+v; want the handshake to fail", got)
	}
	serverOnly, err := s.CA().Issue(CertSpec{CommonName: "aef-a", Role: RoleAEF, ServerAuth: true})
	s.must(err)
	if got := s.do(s.Client(serverOnly), "GET", contexts+"inv-1", "", ""); got.err == nil {
		t.Errorf("certificate without clientAuth: got %+v; want the handshake to fail", got)
	}
}

// Go's client keeps its certificate back where a server names other authorities; ClientTLS does not.
func TestClientTLSInsists(t *testing.T) {
	s := newScene(t, Options{})
	other, err := NewCA("another", false)
	s.must(err)
	shown := make(chan int, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown <- len(r.TLS.PeerCertificates) }))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{s.aefs["a"].identity.TLS}, ClientAuth: tls.RequestClientCert, ClientCAs: other.Pool()}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	resp, err := s.Client(s.Identity()).Get(srv.URL)
	s.must(err)
	s.must(resp.Body.Close())
	if n := <-shown; n != 1 {
		t.Errorf("got %d certificates shown; want 1", n)
	}
}

func TestCertificates(t *testing.T) {
	for _, name := range []string{"strict", "opencapif"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			dir := t.TempDir()
			id, err := s.IssueAEF(s.a, "api.example", "127.0.0.1")
			s.must(err)
			certFile, keyFile, err := id.WritePEM(dir, "aef")
			s.must(err)
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			s.must(err)
			if want := map[string]int{"strict": 1, "opencapif": 2}[name]; len(pair.Certificate) != want {
				t.Errorf("got a chain of %d; want %d", len(pair.Certificate), want)
			}
			if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
			}
			leaf := pair.Leaf
			if !slices.Equal(leaf.DNSNames, []string{"api.example"}) || len(leaf.IPAddresses) != 1 || leaf.Subject.CommonName != s.a {
				t.Errorf("got names %v %v %s; want those asked for", leaf.DNSNames, leaf.IPAddresses, leaf.Subject.CommonName)
			}
			core := s.Identity().TLS.Leaf
			if core.Subject.CommonName != "capifcore" || !slices.Equal(core.DNSNames, []string{"capifcore.example"}) ||
				!slices.Equal(core.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
				t.Errorf("got core identity %s %v %v; want capifcore, capifcore.example, clientAuth", core.Subject.CommonName, core.DNSNames, core.ExtKeyUsage)
			}
			caFile, err := s.CA().WritePEM(dir, "core-ca")
			s.must(err)
			caPEM, err := os.ReadFile(caFile)
			s.must(err)
			if !x509.NewCertPool().AppendCertsFromPEM(caPEM) {
				t.Errorf("got %s; want a certificate", caPEM)
			}
			if _, err := s.CA().WritePEM(dir+"/none", "ca"); err == nil {
				t.Error("write the CA into a folder that is not there: got nil; want an error")
			}
			block := s.ServerCertPEM()
			if !bytes.Contains(block, []byte("BEGIN CERTIFICATE")) {
				t.Errorf("got %s; want the server's certificate", block)
			}
			if _, _, err := id.WritePEM(dir+"/none", "aef"); err == nil {
				t.Error("write into a folder that is not there: got nil; want an error")
			}
		})
	}
	s := newScene(t, Options{Dialect: "opencapif"})
	if _, err := s.IssueAEF("north-1"); err == nil || !strings.Contains(err.Error(), "AEFnorth1") {
		t.Errorf("got %v; want an error that proposes AEFnorth1", err)
	}
}

func TestInvoker(t *testing.T) {
	s := newScene(t, Options{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization"))
	}))
	t.Cleanup(srv.Close)
	status, body, err := s.inv.Call(s.ctx, nil, srv.URL, "abc")
	if status != 200 || body != "Bearer abc" || err != nil {
		t.Errorf("got %d %q %v; want 200 with the token", status, body, err)
	}
	if _, _, err := s.inv.Call(s.ctx, s.noCertificate, deadAddress(t), ""); err == nil {
		t.Error("call of a dead service: got nil; want an error")
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.inv.WaitNotification(ctx, 1); err == nil {
		t.Error("wait with an ended ctx: got nil; want an error")
	}
	s.authorize()
	wantStatus(t, s.revokeJSON(revokeQoS), 204)
	got, err := s.inv.WaitNotification(s.ctx, 1)
	s.must(err)
	if got.APIInvokerID != "inv-1" || got.AEFID != "aef-a" || got.Cause != CauseOverlimit {
		t.Errorf("got %+v; want the revocation", got)
	}
	resp, err := s.Client(nil).Post(s.inv.NotificationURL(), "application/json", strings.NewReader("{"))
	s.must(err)
	s.must(resp.Body.Close())
	if resp.StatusCode != 400 || len(s.inv.Notifications()) != 1 {
		t.Errorf("broken notification: got %d; want 400 and nothing recorded", resp.StatusCode)
	}
}

func TestLogHasNoSecrets(t *testing.T) {
	var out bytes.Buffer
	s := newScene(t, Options{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	s.authorize()
	token, err := s.inv.Token(s.ctx, "")
	s.must(err)
	_, err = s.Subscribe(s.a, EventSubscription{Events: []string{EventOffboarded}, NotificationDestination: deadAddress(t) + "/hints/unguessable"})
	s.must(err)
	_, err = s.RevokeByCore(s.ctx, CoreRevoke{InvokerID: "inv-1", APIIDs: []string{apiQoS}, AccessToken: token})
	s.must(err)
	s.must(s.Offboard("inv-1"))
	s.quiesce()
	s.must(s.inv.Close())
	s.must(s.Close())
	log := out.String()
	if strings.Contains(log, token) || strings.Contains(log, "unguessable") || !strings.Contains(log, "core notification failed") {
		t.Errorf("got log %s; want the failure without token and path", log)
	}
}

// Bodies that are anything get an answer below 500, or the crash that this dialect has.
func FuzzRequestBodies(f *testing.F) {
	for _, seed := range []string{revokeQoS, `{"apiIds":[""]}`, `{"securityInfo":[{}],"notificationDestination":"x"}`, `{"events":[""]}`, "null", "[", ""} {
		f.Add(seed)
	}
	core, err := Start(Options{Dialect: "oran"}) // the dialect without authentication
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = core.Close() })
	handler := core.handler(core.main)
	f.Fuzz(func(t *testing.T, body string) {
		if err := core.AddInvoker("inv-1"); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{"PUT " + contexts + "inv-1", "POST " + contexts + "inv-1/update", "POST " + contexts + "inv-1/delete", "POST /capif-events/v1/a/subscriptions"} {
			method, path, _ := strings.Cut(target, " ")
			w := httptest.NewRecorder()
			func() {
				defer func() {
					if r := recover(); r != nil && r != any(http.ErrAbortHandler) {
						t.Errorf("%s with %q: got panic %v; want none", target, body, r)
					}
				}()
				handler.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			}()
			if w.Code >= 500 {
				t.Errorf("%s with %q: got %d; want an answer below 500", target, body, w.Code)
			}
		}
		core.Empty()
	})
}
