package corecallback

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

func send(t *testing.T, c *http.Client, method, url, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatalf("making a request failed: %v", err)
	}
	r.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		r.Header[name] = values
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s failed: %v", method, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer failed: %v", err)
	}
	return res, string(answer)
}

// TestOnlyTheCore asks a real TLS server that names its CA and takes any
// certificate: the client is made to present one that does not fit.
func TestOnlyTheCore(t *testing.T) {
	tests := []struct {
		name   string
		cert   func(t *testing.T, s *setup) *tls.Certificate
		ids    func(s *setup, leaf *x509.Certificate) [][2]string // default: san coreName
		header http.Header
		status int
		seen   int
		reason string
	}{
		{name: "the core", cert: func(t *testing.T, s *setup) *tls.Certificate { return s.core }, status: 200, seen: 1},
		{name: "no certificate", cert: func(t *testing.T, s *setup) *tls.Certificate { return nil }, status: 403, seen: 0, reason: "no client certificate"},
		{name: "no certificate but a header that claims one",
			cert: func(t *testing.T, s *setup) *tls.Certificate { return nil },
			header: http.Header{
				"X-Forwarded-Client-Cert": {"Subject=\"CN=capifcore\";DNS=" + coreName},
				"X-Ssl-Client-S-Dn":       {"CN=capifcore"},
				"Client-Cert":             {":MIIB:"},
			},
			status: 403, seen: 0, reason: "no client certificate"},
		{name: "another CA, same identity", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return newAuthority(t, "other CA", nil).issue(t, nil)
		}, status: 403, seen: 1, reason: "does not chain"},
		{name: "another CA of the same name", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return newAuthority(t, "core CA", nil).issue(t, nil)
		}, status: 403, seen: 1, reason: "does not chain"},
		{name: "right CA, another identity", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{"invoker.example"} })
		}, status: 403, seen: 1, reason: "another identity"},
		{name: "right CA, wildcard name", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} })
		}, status: 403, seen: 1, reason: "another identity"},
		{name: "right CA, the name only as common name", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = coreName })
		}, status: 403, seen: 1, reason: "another identity"},
		{name: "for servers only", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}, status: 403, seen: 1, reason: "not meant for client authentication"},
		{name: "expired", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			})
		}, status: 403, seen: 1, reason: "expired"},
		{name: "not yet valid", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
			})
		}, status: 403, seen: 1, reason: "not yet valid"},
		{name: "intermediate sent", cert: func(t *testing.T, s *setup) *tls.Certificate {
			middle := newAuthority(t, "intermediate CA", s.ca)
			cert := middle.issue(t, nil)
			cert.Certificate = append(cert.Certificate, middle.cert.Raw)
			return cert
		}, status: 200, seen: 2},
		{name: "intermediate missing", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return newAuthority(t, "intermediate CA", s.ca).issue(t, nil)
		}, status: 403, seen: 1, reason: "does not chain"},
		{name: "signed by the core's own certificate, which is no CA", cert: func(t *testing.T, s *setup) *tls.Certificate {
			key := newKey(t)
			leaf := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{coreName},
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, s.ca.cert, key, s.ca.key)
			child := (&authority{cert: leaf, key: key}).issue(t, nil)
			child.Certificate = append(child.Certificate, leaf.Raw)
			return child
		}, status: 403, seen: 2, reason: "certificate"},
		{name: "nine more certificates", cert: func(t *testing.T, s *setup) *tls.Certificate {
			cert := s.ca.issue(t, nil)
			for range maxIntermediates + 1 {
				cert.Certificate = append(cert.Certificate, newAuthority(t, "filler", nil).cert.Raw)
			}
			return cert
		}, status: 403, seen: 10, reason: "comes with more than 8 others"},
		{name: "common name", cert: func(t *testing.T, s *setup) *tls.Certificate { return s.core },
			ids: func(*setup, *x509.Certificate) [][2]string { return [][2]string{{"cn", "capifcore"}} }, status: 200, seen: 1},
		{name: "common name, second of two", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return s.ca.issue(t, func(c *x509.Certificate) {
				c.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
					{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "invoker"},
					{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "capifcore"},
				}}
			})
		}, ids: func(*setup, *x509.Certificate) [][2]string { return [][2]string{{"cn", "capifcore"}} },
			status: 403, seen: 1, reason: "another identity"},
		{name: "pinned key", cert: func(t *testing.T, s *setup) *tls.Certificate { return s.core },
			ids:    func(_ *setup, leaf *x509.Certificate) [][2]string { return [][2]string{{"spki", pin(leaf)}} },
			status: 200, seen: 1},
		{name: "another key than the pinned one", cert: func(t *testing.T, s *setup) *tls.Certificate { return s.ca.issue(t, nil) },
			ids:    func(s *setup, _ *x509.Certificate) [][2]string { return [][2]string{{"spki", pin(s.core.Leaf)}} },
			status: 403, seen: 1, reason: "another identity"},
		{name: "pinned key of another CA", cert: func(t *testing.T, s *setup) *tls.Certificate {
			return newAuthority(t, "other CA", nil).issue(t, nil)
		}, ids: func(_ *setup, leaf *x509.Certificate) [][2]string { return [][2]string{{"spki", pin(leaf)}} },
			status: 403, seen: 1, reason: "does not chain"},
		{name: "second identity of two", cert: func(t *testing.T, s *setup) *tls.Certificate { return s.core },
			ids: func(*setup, *x509.Certificate) [][2]string {
				return [][2]string{{"san", "old.example"}, {"cn", "capifcore"}}
			}, status: 200, seen: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSetup(t, nil)
			cert := test.cert(t, s)
			if test.ids != nil {
				s.handler.core.identities = nil
				for _, id := range test.ids(s, cert.Leaf) {
					identity, err := ParseIdentity(id[0], id[1])
					if err != nil {
						t.Fatalf("parsing the identity failed: %v", err)
					}
					s.handler.core.identities = append(s.handler.core.identities, identity)
				}
			}
			s.start(t, tls.RequestClientCert, s.ca.pool())
			res, answer := send(t, s.client(t, cert), "POST", s.server.URL+RevokeAuthorizationPath, goodRevoke, test.header)
			if res.StatusCode != test.status {
				t.Errorf("status: got %d; want %d (%s)", res.StatusCode, test.status, answer)
			}
			if s.seen != test.seen {
				t.Errorf("certificates that the handler saw: got %d; want %d", s.seen, test.seen)
			}
			if test.status == http.StatusOK {
				checkCalls(t, s.consumer, `deny [inv-1] aef="" apis=[api-1] token="" cause="OVERLIMIT_USAGE" event=""`)
				return
			}
			checkCalls(t, s.consumer)
			if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type: got %q; want application/problem+json", got)
			}
			if logs := s.logs.String(); strings.Count(logs, "\n") != 1 || !strings.Contains(logs, test.reason) {
				t.Errorf("log: got %q; want one line with %q", logs, test.reason)
			}
			if got := s.count(OutcomeUnauthenticated); got != 1 {
				t.Errorf("unauthenticated: got %d; want 1", got)
			}
		})
	}
}

// TestSitePolicyIsNotTrusted lets the TLS server verify the certificate with a
// CA of its own: that makes nobody the core.
func TestSitePolicyIsNotTrusted(t *testing.T) {
	s := newSetup(t, nil)
	other := newAuthority(t, "CA of the site", nil)
	s.start(t, tls.RequireAndVerifyClientCert, other.pool())
	c := s.client(t, other.issue(t, nil))
	for _, path := range []string{RevokeAuthorizationPath, DefaultEventsPath} {
		res, _ := send(t, c, "POST", s.server.URL+path, goodRevoke, nil)
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %d; want 403", path, res.StatusCode)
		}
	}
	checkCalls(t, s.consumer)
}

// TestResumedSession verifies again when TLS does not.
func TestResumedSession(t *testing.T) {
	s := newSetup(t, nil)
	s.start(t, tls.RequestClientCert, nil)
	c := s.client(t, s.core)
	post := func() int {
		res, _ := send(t, c, "POST", s.server.URL+RevokeAuthorizationPath, goodRevoke, nil)
		c.CloseIdleConnections()
		return res.StatusCode
	}
	if got := post(); got != http.StatusOK {
		t.Fatalf("first: got %d; want 200", got)
	}
	if got := post(); got != http.StatusOK || !s.resumed {
		t.Fatalf("second: got %d, resumed %v; want 200, resumed", got, s.resumed)
	}
	s.handler.core = authenticator{identities: s.handler.core.identities, roots: newAuthority(t, "new CA", nil).pool()}
	if got := post(); got != http.StatusForbidden || !s.resumed {
		t.Errorf("after the CA changed: got %d, resumed %v; want 403, resumed", got, s.resumed)
	}
}

func TestPlainHTTPAndEarlyData(t *testing.T) {
	s := newSetup(t, nil)
	r := httptest.NewRequest("POST", RevokeAuthorizationPath, strings.NewReader(goodRevoke))
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("plain HTTP: got %d; want 403", w.Code)
	}
	r = httptest.NewRequest("POST", RevokeAuthorizationPath, strings.NewReader(goodRevoke))
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{s.core.Leaf}}
	w = httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusTooEarly {
		t.Errorf("early data: got %d; want 425", w.Code)
	}
	checkCalls(t, s.consumer)
}

// TestRefusedBodyIsNotRead: a stranger's body is none of our business.
func TestRefusedBodyIsNotRead(t *testing.T) {
	s := newSetup(t, nil)
	body := bytes.NewReader(make([]byte, 100))
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("POST", RevokeAuthorizationPath, body))
	if w.Code != http.StatusForbidden || body.Len() != 100 {
		t.Errorf("got %d with %d bytes left; want 403 with 100", w.Code, body.Len())
	}
}

func TestFloodIsLoggedOncePerSecond(t *testing.T) {
	s := newSetup(t, nil)
	synctest.Test(t, func(t *testing.T) {
		flood := func() {
			for range 1000 {
				s.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", RevokeAuthorizationPath, nil))
			}
		}
		flood()
		<-time.After(time.Second)
		flood()
	})
	logs := s.logs.String()
	if got := strings.Count(logs, "\n"); got != 2 || !strings.Contains(logs, `"not_logged_since":999`) {
		t.Errorf("got %d lines: %s; want 2, the second with not_logged_since 999", got, logs)
	}
}

func TestParseIdentity(t *testing.T) {
	goodPin := pin(newAuthority(t, "any", nil).cert)
	tests := []struct{ name, kind, value, want string }{
		{"san", "san", coreName, ""},
		{"cn", "cn", "capif core", ""},
		{"spki", "spki", goodPin, ""},
		{"no value", "san", "", "has no value"},
		{"unknown kind", "dn", "x", "use san, cn or spki"},
		{"pattern", "san", "*.example", "patterns are not supported"},
		{"pin without algorithm", "spki", strings.TrimPrefix(goodPin, "sha256/"), "sha256/"},
		{"pin too short", "spki", "sha256/AAAA", "32 bytes"},
		{"pin not base64", "spki", "sha256/" + strings.Repeat("!", 44), "32 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id, err := ParseIdentity(test.kind, test.value)
			if test.want == "" {
				if err != nil || id.String() != test.kind+" "+test.value {
					t.Errorf("got %q, %v; want it accepted", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v; want %q in it", err, test.want)
			}
		})
	}
}

func TestIdentityKindsOfNames(t *testing.T) {
	uri, err := url.Parse("urn:capif:core")
	if err != nil {
		t.Fatalf("parsing the URI failed: %v", err)
	}
	cert := newAuthority(t, "CA", nil).issue(t, func(c *x509.Certificate) {
		c.DNSNames = []string{"Core.Example"}
		c.URIs = []*url.URL{uri}
		c.EmailAddresses = []string{"core@example"}
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}
	}).Leaf
	for value, want := range map[string]bool{
		"core.example": true, "urn:capif:core": true, "core@example": true, "192.0.2.1": true, "2001:db8:0::1": true,
		"core.example.org": false, "sub.core.example": false, "urn:capif:core2": false, "Core@example": false, "192.0.2.2": false,
	} {
		id, err := ParseIdentity("san", value)
		if err != nil {
			t.Fatalf("parsing %q failed: %v", value, err)
		}
		if got := id.matches(cert); got != want {
			t.Errorf("%s: got %v; want %v", value, got, want)
		}
	}
	if (Identity{}).matches(cert) {
		t.Error("the zero Identity matches; want it to match nothing")
	}
}

// BenchmarkRefused measures what a forged request costs.
func BenchmarkRefused(b *testing.B) {
	s := newSetup(b, nil)
	forger := newAuthority(b, "core CA", nil)
	for name, cert := range map[string]*x509.Certificate{
		"wrong name": s.ca.issue(b, func(c *x509.Certificate) { c.DNSNames = nil }).Leaf,
		"forged":     forger.issue(b, nil).Leaf,
		"the core":   s.core.Leaf,
	} {
		b.Run(fmt.Sprint(name), func(b *testing.B) {
			state := &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert}}
			for b.Loop() {
				s.handler.core.check(state)
			}
		})
	}
}
