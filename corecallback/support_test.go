package corecallback

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	coreName     = "capifcore.example"
	testHintPath = "/capif/hints/0123456789abcdefSECRET"
)

// consumer records each call as one line of text and answers err.
type consumer struct {
	mu    sync.Mutex
	calls []string
	ctxs  []context.Context
	err   error
}

func (c *consumer) record(ctx context.Context, format string, args ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
	c.ctxs = append(c.ctxs, ctx)
	return c.err
}

func (c *consumer) Deny(ctx context.Context, d Deny) error {
	return c.record(ctx, "deny %v aef=%q apis=%v token=%q cause=%q event=%q",
		d.Invokers, d.AEFID, d.APIIDs, d.Token.Reveal(), d.Cause, d.Event)
}

func (c *consumer) Gone(ctx context.Context, invokers []string) error {
	return c.record(ctx, "gone %v", invokers)
}

func (c *consumer) Hint(ctx context.Context, h Hint) error {
	return c.record(ctx, "hint %v authenticated=%v event=%q", h.Invokers, h.Authenticated, h.Event)
}

func (c *consumer) PolicyChanged(ctx context.Context, p Policy) error {
	list := "none"
	if p.List != nil {
		list = fmt.Sprintf("%s:%d", p.List.APIID, len(p.List.Policies))
	}
	return c.record(ctx, "policy %s apis=%v invokers=%v list=%s", p.Event, p.APIIDs, p.Invokers, list)
}

func (c *consumer) ServiceUnavailable(ctx context.Context, apiIDs []string) error {
	return c.record(ctx, "unavailable %v", apiIDs)
}

func (c *consumer) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// authority is a CA that lives as long as a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generating a key failed: %v", err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatalf("making a serial number failed: %v", err)
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatalf("signing a certificate failed: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parsing a certificate failed: %v", err)
	}
	return cert
}

// newAuthority makes a CA, below parent if there is one.
func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	return &authority{cert: sign(t, template, signer, key, signerKey), key: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a client certificate for coreName, as change alters it.
func (a *authority) issue(t testing.TB, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "capifcore"},
		DNSNames:    []string{coreName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	key := newKey(t)
	cert := sign(t, template, a.cert, key, a.key)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// setup is a handler behind a real TLS server, and the core that talks to it.
type setup struct {
	handler  *Handler
	consumer *consumer
	ca       *authority
	core     *tls.Certificate
	server   *httptest.Server
	logs     *lockedBuffer

	mu       sync.Mutex
	outcomes map[Outcome]int
	seen     int // client certificates in the last request
	resumed  bool
	after    error // of the request's context, when the handler had answered
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSetup(t testing.TB, change func(*Options)) *setup {
	t.Helper()
	s := &setup{consumer: &consumer{}, logs: &lockedBuffer{}, outcomes: map[Outcome]int{}}
	s.ca = newAuthority(t, "core CA", nil)
	s.core = s.ca.issue(t, nil)
	san, err := ParseIdentity("san", coreName)
	if err != nil {
		t.Fatalf("parsing the identity failed: %v", err)
	}
	o := Options{
		Identities: []Identity{san},
		CoreCA:     s.ca.pool(),
		HintPath:   testHintPath,
		Consumer:   s.consumer,
		Logger:     slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Count: func(o Outcome) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.outcomes[o]++
		},
	}
	if change != nil {
		change(&o)
	}
	s.handler, err = New(o)
	if err != nil {
		t.Fatalf("New failed: %v", err)
	}
	return s
}

// start serves with clientAuth, and names no CA unless clientCAs is set.
func (s *setup) start(t testing.TB, clientAuth tls.ClientAuthType, clientCAs *x509.CertPool) {
	t.Helper()
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen, s.resumed = len(r.TLS.PeerCertificates), r.TLS.DidResume
		s.mu.Unlock()
		s.handler.ServeHTTP(w, r)
		s.mu.Lock()
		s.after = r.Context().Err()
		s.mu.Unlock()
	}))
	s.server.TLS = &tls.Config{ClientAuth: clientAuth, ClientCAs: clientCAs}
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
}

// client presents cert whatever CAs the server names; nil for none.
func (s *setup) client(t testing.TB, cert *tls.Certificate) *http.Client {
	t.Helper()
	transport := s.server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert == nil {
			return &tls.Certificate{}, nil
		}
		return cert, nil
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// direct serves a request of the authenticated core without a network.
func (s *setup) direct(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{s.core.Leaf}}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func (s *setup) count(o Outcome) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcomes[o]
}

func checkCalls(t *testing.T, c *consumer, want ...string) {
	t.Helper()
	if got := c.got(); !slices.Equal(got, want) {
		t.Errorf("calls of the Consumer:\ngot  %q\nwant %q", got, want)
	}
}

const goodRevoke = `{"revokeInfo":{"apiInvokerId":"inv-1","apiIds":["api-1"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`

var _ Consumer = (*consumer)(nil)
