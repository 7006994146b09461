package coreclient

import (
	"crypto/tls"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestCertificateRotation(t *testing.T) {
	var mu sync.Mutex
	var peers []string
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		peers = append(peers, r.TLS.PeerCertificates[0].Subject.CommonName)
		mu.Unlock()
		reply(200, "application/json", contextBody)(w, r)
	})
	var lines logLines
	s.settings.Logger = lines.logger()
	c := s.core(t)
	read := func(want string) {
		t.Helper()
		if _, err := c.Context(t.Context(), "i"); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if got := peers[len(peers)-1]; got != want {
			t.Errorf("got certificate of %s; want %s", got, want)
		}
	}
	read("aef-1")

	// An installer that writes the certificate first and the key later: the pair does not fit for a while.
	certPEM, keyPEM := s.ca.issue("aef-new")
	writeFile(t, s.settings.CertFile, certPEM)
	read("aef-1")
	read("aef-1")
	if got := lines.count("keeping the last good ones"); got != 1 {
		t.Errorf("got %d lines for one bad pair; want 1", got)
	}
	writeFile(t, s.settings.KeyFile, keyPEM)
	read("aef-new")
	read("aef-new")
	if got := lines.count("read again"); got != 1 {
		t.Errorf("got %d lines for one rotation; want 1", got)
	}

	if err := os.Remove(s.settings.KeyFile); err != nil {
		t.Fatal(err)
	}
	read("aef-new")
	read("aef-new")
	if got := lines.count("keeping the last good ones"); got != 2 {
		t.Errorf("got %d lines after the key went away; want 2", got)
	}
	if lines.count("PRIVATE KEY") != 0 {
		t.Error("got a key in the log; want none")
	}
}

func TestUnknownCA(t *testing.T) {
	s := newSite(t, reply(204, "", ""))
	writeFile(t, s.settings.TrustedCAFiles[0], newAuthority(t, "another CA").pem)
	c := s.core(t)
	revoke := func() error {
		return revokeError(t.Context(), c, RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"})
	}
	e := asError(t, revoke())
	if e.Status != 0 || e.Class() != Unknown || !strings.Contains(e.Error(), "check trusted_ca") {
		t.Errorf("got %v (status %d, %v); want no answer, unknown, a hint at trusted_ca", e, e.Status, e.Class())
	}
	// The operator mends the file: no restart is needed.
	writeFile(t, s.settings.TrustedCAFiles[0], s.ca.pem)
	if err := revoke(); err != nil {
		t.Errorf("got %v after the CA was put right; want nil", err)
	}
}

func TestWithoutClientCertificate(t *testing.T) {
	s := newSite(t, reply(204, "", ""))
	s.settings.CertFile, s.settings.KeyFile = "", ""
	e := asError(t, revokeError(t.Context(), s.core(t), RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"}))
	if e.Status != 0 || e.Class() != Unknown {
		t.Errorf("got %v; want a handshake that fails, unknown", e)
	}
}

func TestCertificateOfAnotherCAIsShown(t *testing.T) {
	// The core names its CAs in the request: a certificate of another one is still shown, so that the
	// refusal is the core's and says so.
	s := newSite(t, reply(204, "", ""))
	certPEM, keyPEM := newAuthority(t, "another CA").issue("stranger")
	writeFile(t, s.settings.CertFile, certPEM)
	writeFile(t, s.settings.KeyFile, keyPEM)
	s.Server.TLS.ClientAuth = tls.RequireAnyClientCert
	var peer string
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer = r.TLS.PeerCertificates[0].Subject.CommonName
		w.WriteHeader(403)
	})
	e := asError(t, revokeError(t.Context(), s.core(t), RevokeRequest{Invoker: "i", AEFID: "a", APIID: "b"}))
	if e.Class() != Refused || peer != "stranger" {
		t.Errorf("got %v, certificate of %q; want a refusal that saw the stranger", e, peer)
	}
}

func TestConcurrentCallsAcrossARotation(t *testing.T) {
	s := newSite(t, reply(200, "application/json", contextBody))
	c := s.core(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if _, err := c.Context(t.Context(), "i"); err != nil {
					t.Errorf("got %v; want every call answered", err)
				}
			}
		})
	}
	for range 5 {
		certPEM, keyPEM := s.ca.issue("aef-next")
		writeFile(t, s.settings.KeyFile, keyPEM)
		writeFile(t, s.settings.CertFile, certPEM)
	}
	wg.Wait()
}
