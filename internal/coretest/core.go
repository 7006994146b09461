package coretest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options of a core. The zero value is a strict core.
type Options struct {
	// Dialect is "strict" (default), "opencapif", "oran" or "evolved".
	Dialect string
	// Logger takes one line for each state change and failed notification; nil discards them.
	Logger *slog.Logger
	// TokenAlgorithm is ES256, RS256, PS256 or EdDSA. Default: ES256 for strict, RS256 for the others.
	TokenAlgorithm string
	// TokenLifetime of tokens. Default: 600 s, for oran 300 s.
	TokenLifetime time.Duration
	// NotifyTimeout is the deadline of each outgoing message. Default: 5 s.
	NotifyTimeout time.Duration
	// KnownEvents, if set, are the only events a subscription may name; others refuse it with 400.
	// Default: any, for oran the events of Release 15.
	KnownEvents []string
	// Observe is called for each thing that happens, in its order and never concurrently. It must not
	// call the core and must not block for long: requests wait for it.
	Observe func(Event)
}

// Core is a running CAPIF core function. Its methods may be called concurrently.
type Core struct {
	opts     Options
	dialect  *dialect
	log      *slog.Logger
	ca       *CA
	identity *Identity

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	requests tracker // running handlers
	messages tracker // outgoing messages, from the answer that caused them on
	url      string
	plainURL string

	serversMu sync.Mutex // guards what follows
	endpoints []endpoint
	servers   []*http.Server // none while down
	serving   sync.WaitGroup

	mutual    *http.Client // presents the core's identity
	anonymous *http.Client // presents nothing
	clientsMu sync.Mutex
	clients   []*http.Client // handed out by Client

	journal journal
	faults  faults

	mu         sync.Mutex // guards what follows; never held while sending
	reg        registry
	main       *store // state behind URL
	plain      *store // state behind PlainURL; nil unless the dialect has that listener
	keys       keyring
	serverCert *Identity
	serial     int // numbers tokens and subscriptions
}

// Start makes the certificates and keys and listens on 127.0.0.1.
func Start(opts Options) (*Core, error) {
	d, err := dialectFor(opts.Dialect)
	if err != nil {
		return nil, fmt.Errorf("start core: %w", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.TokenAlgorithm == "" {
		opts.TokenAlgorithm = d.algorithm
	}
	if opts.TokenLifetime <= 0 {
		opts.TokenLifetime = d.tokenLifetime
	}
	if opts.NotifyTimeout <= 0 {
		opts.NotifyTimeout = 5 * time.Second
	}
	if opts.KnownEvents == nil {
		opts.KnownEvents = d.knownEvents
	}
	c := &Core{opts: opts, dialect: d, log: opts.Logger, reg: newRegistry(), main: newStore()}
	c.journal.observe = opts.Observe
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.makeIdentities(); err != nil {
		c.cancel()
		return nil, fmt.Errorf("start core: %w", err)
	}
	if err := c.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("start core: %w", err), c.Close())
	}
	return c, nil
}

func (c *Core) makeIdentities() error {
	ca, err := NewCA("CAPIF core CA", c.dialect.intermediateCA)
	if err != nil {
		return err
	}
	c.ca = ca
	c.identity, err = ca.Issue(CertSpec{
		CommonName: CoreCommonName, Role: RoleCore, SANs: []string{CoreDNSName}, ClientAuth: true,
	})
	if err != nil {
		return err
	}
	c.mutual = newClient(c.identity.ClientTLS(ca))
	c.anonymous = newClient((*Identity)(nil).ClientTLS(ca))
	return c.newKeys(false)
}

func newClient(cfg *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: cfg, Proxy: nil, MaxIdleConnsPerHost: 16},
		// A notification that is redirected is an answer to be seen, not to be followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// endpoint is one address, kept over Down and Up.
type endpoint struct {
	address string
	secure  bool
	st      *store
}

func (c *Core) listen() error {
	c.endpoints = []endpoint{{"127.0.0.1:0", true, c.main}}
	if c.dialect.plainListener {
		c.plain = newStore()
		c.endpoints = append(c.endpoints, endpoint{"127.0.0.1:0", false, c.plain})
	}
	if err := c.Up(); err != nil {
		return err
	}
	c.url = "https://" + c.endpoints[0].address
	if c.plain != nil {
		c.plainURL = "http://" + c.endpoints[1].address
	}
	return nil
}

// Up listens again at the same addresses after Down, with the state as it was.
func (c *Core) Up() error {
	c.serversMu.Lock()
	defer c.serversMu.Unlock()
	if len(c.servers) > 0 || c.ctx.Err() != nil {
		return fmt.Errorf("core up: it is up already, or closed")
	}
	for i, e := range c.endpoints {
		ln, err := net.Listen("tcp", e.address)
		if err != nil {
			return errors.Join(fmt.Errorf("core up: %w", err), c.stopServers())
		}
		c.endpoints[i].address = ln.Addr().String()
		if e.secure {
			ln = tls.NewListener(ln, c.serverTLS())
		}
		c.serve(ln, e.st)
	}
	return nil
}

// Down closes the listeners and all connections: calls are refused until Up. The state stays, and
// messages on their way are still sent.
func (c *Core) Down() error {
	c.serversMu.Lock()
	defer c.serversMu.Unlock()
	return c.stopServers()
}

// stopServers needs serversMu.
func (c *Core) stopServers() error {
	var errs []error
	for _, srv := range c.servers {
		errs = append(errs, srv.Close())
	}
	c.servers = nil
	c.serving.Wait()
	return errors.Join(errs...)
}

func (c *Core) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // a dropped connection is then an EOF, as on the cores modelled
		// The JWKS needs no certificate: each operation checks for itself.
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  c.ca.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return &c.serverCert.TLS, nil
		},
	}
}

// serve needs serversMu.
func (c *Core) serve(ln net.Listener, st *store) {
	srv := &http.Server{
		Handler:           c.handler(st),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return c.ctx },
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	c.servers = append(c.servers, srv)
	c.serving.Go(func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("core stopped serving", "error", err)
		}
	})
}

// Close ends the listeners, hanging requests and outgoing messages, and waits for all of them. It may be
// called more than once.
func (c *Core) Close() error {
	c.cancel()
	errs := []error{c.Down()}
	c.requests.close()
	c.messages.close()
	// The handlers and messages have their ctx cancelled: no deadline is needed here.
	errs = append(errs, c.requests.wait(context.Background()), c.messages.wait(context.Background()))
	c.mutual.CloseIdleConnections()
	c.anonymous.CloseIdleConnections()
	c.clientsMu.Lock()
	defer c.clientsMu.Unlock()
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close core: %w", err)
	}
	return nil
}

// URL is the apiRoot over HTTPS.
func (c *Core) URL() string { return c.url }

// PlainURL is the apiRoot over plain HTTP, empty unless the dialect is oran. Its contexts and
// subscriptions are apart from those behind URL.
func (c *Core) PlainURL() string { return c.plainURL }

// Dialect is the name of the dialect spoken.
func (c *Core) Dialect() string { return c.dialect.name }

// CA is the authority that the core trusts and issues from.
func (c *Core) CA() *CA { return c.ca }

// Identity is the certificate with which the core calls AEFs.
func (c *Core) Identity() *Identity { return c.identity }

// Quiesce waits until every outgoing message caused so far has been answered or has failed.
func (c *Core) Quiesce(ctx context.Context) error { return c.messages.wait(ctx) }

// Client is an HTTP client that presents id (nil: no certificate) and trusts the core's CA. Close ends
// its idle connections.
func (c *Core) Client(id *Identity) *http.Client {
	client := newClient(id.ClientTLS(c.ca))
	client.Timeout = 30 * time.Second
	c.clientsMu.Lock()
	defer c.clientsMu.Unlock()
	c.clients = append(c.clients, client)
	return client
}

// AssignAEFID is the aefId that this dialect's core would give to an AEF called name: the name itself,
// or for opencapif AEF and its letters and digits, for evolved a name that begins with "aef".
func (c *Core) AssignAEFID(name string) string { return c.dialect.assignAEFID(name) }

// IssueAEF makes the certificate of an AEF, for both directions. Default SANs: 127.0.0.1 and localhost.
func (c *Core) IssueAEF(aefID string, sans ...string) (*Identity, error) {
	if want := c.dialect.assignAEFID(aefID); want != aefID {
		return nil, fmt.Errorf("issue AEF certificate: dialect %s gives out no aefId %q: use AssignAEFID, for example %q", c.dialect.name, aefID, want)
	}
	if len(sans) == 0 {
		sans = []string{"127.0.0.1", "localhost"}
	}
	return c.ca.Issue(CertSpec{CommonName: aefID, Role: RoleAEF, SANs: sans, ClientAuth: true, ServerAuth: true})
}

// IssueInvoker makes the certificate of an API invoker; its common name is the apiInvokerId.
func (c *Core) IssueInvoker(invokerID string) (*Identity, error) {
	return c.ca.Issue(CertSpec{
		CommonName: invokerID, Role: RoleInvoker, SANs: []string{"127.0.0.1", "localhost"},
		ClientAuth: true, ServerAuth: true, // server: for its notification endpoint
	})
}

// tracker counts running work, so that an end can be waited for with a deadline.
type tracker struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when n falls to 0; nil while nobody waits
}

// begin is false after close: the work must not start.
func (t *tracker) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.n++
	return true
}

func (t *tracker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

func (t *tracker) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

func (t *tracker) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for running work: %w", ctx.Err())
	}
}
