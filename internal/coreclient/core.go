package coreclient

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// defaultTimeout bounds one call, redirects included.
	defaultTimeout = 5 * time.Second
	// maxConns is above what the callers have in flight together: 32 reads that somebody waits for,
	// 10 in the background, and the outbox.
	maxConns        = 64
	maxIdleConns    = 16
	idleConnTimeout = 90 * time.Second
)

// Settings say which core is spoken to, and as whom. URL is required; every other zero value works.
type Settings struct {
	// URL of the core: https://host[:port][/prefix]. The paths of the APIs (capif-security/v1/…) are
	// appended. Plain http is an error unless InsecureHTTP is true.
	URL string
	// Profile is "strict" (default), "opencapif" or "oran": what the core does with aefId, and which
	// causes it knows. See EffectiveScope.
	Profile string
	// CertFile and KeyFile are PEM: the AEF's client certificate followed by its chain, and its key.
	// Both or none. They are read again when they change.
	CertFile, KeyFile string
	// TrustedCAFiles are PEM files with the roots for the core's server certificate. Empty: the
	// system's roots. They are read again when they change.
	TrustedCAFiles []string
	// Timeout of one call, redirects included. Default 5 s.
	Timeout time.Duration
	// RedirectHosts are the hosts besides the core's own host and port to which a 307 or 308 may lead:
	// "host:port", or "host" for port 443.
	RedirectHosts []string
	// InsecureHTTP allows an http URL: nobody is authenticated then, on neither side.
	InsecureHTTP bool
	// Observe is told how each call went. It must be quick and safe for concurrent use. nil for none.
	Observe func(Observation)
	// Logger takes one line each time the files were read again, or could not be. nil discards them.
	Logger *slog.Logger
}

// Core is the core function as this AEF calls it. Its methods may be called concurrently.
type Core struct {
	base    *url.URL
	profile profile
	timeout time.Duration
	hosts   map[string]bool // host:port to which the certificate may be shown
	files   *files
	observe func(Observation)
}

// New checks the settings and reads the files. It sends nothing. An error names the setting or the file
// that is wrong.
func New(s Settings) (*Core, error) {
	log := s.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	base, err := parseBase(s.URL, s.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	p, err := profileFor(s.Profile)
	if err != nil {
		return nil, err
	}
	if s.Timeout < 0 {
		return nil, fmt.Errorf("timeout of the core is %s: it must not be negative", s.Timeout)
	}
	if s.Timeout == 0 {
		s.Timeout = defaultTimeout
	}
	hosts := map[string]bool{hostPort(base): true}
	for _, h := range s.RedirectHosts {
		target, err := url.Parse("https://" + h)
		if err != nil || target.Hostname() == "" || target.Host != h {
			return nil, fmt.Errorf("redirect host %q: want host or host:port", h)
		}
		hosts[hostPort(target)] = true
	}
	f, err := openFiles(s.CertFile, s.KeyFile, s.TrustedCAFiles, log)
	if err != nil {
		return nil, err
	}
	if base.Scheme == "http" {
		log.Warn("core is spoken to in plain http: no certificate is shown or checked", "core", base.Host)
	}
	c := &Core{base: base, profile: p, timeout: s.Timeout, hosts: hosts, files: f, observe: s.Observe}
	if c.observe == nil {
		c.observe = func(Observation) {}
	}
	return c, nil
}

// Close closes idle connections. Calls that are under way end as they would have.
func (c *Core) Close() { c.files.close() }

func parseBase(raw string, insecureHTTP bool) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("url of the core is missing: want https://host[:port][/prefix]")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// A *url.Error repeats the whole text, which may hold a password.
		return nil, fmt.Errorf("url of the core: want https://host[:port][/prefix]: %w", errors.Unwrap(err))
	}
	if u.User != nil {
		return nil, errors.New("url of the core holds a user name or password: the AEF is known by its client certificate")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return nil, fmt.Errorf("url of the core is %q: want https://host[:port][/prefix]", raw)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("url of the core is %q: it must not have a query or a fragment", raw)
	}
	if u.Scheme == "http" && !insecureHTTP {
		return nil, fmt.Errorf("url of the core is %q: plain http must be allowed in so many words (insecure_http), or use https", raw)
	}
	return u, nil
}

// hostPort is how hosts are compared: lower case, and always with a port.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// newTransport makes a connection pool. It is used without an http.Client, which would follow redirects,
// or fail on their Location, before exchange.go can judge them.
func newTransport(m material) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // see the package comment
		TLSClientConfig:        m.tlsConfig(),
		ForceAttemptHTTP2:      true, // TS 29.222 7.3 recommends it
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		MaxConnsPerHost:        maxConns,
		MaxIdleConnsPerHost:    maxIdleConns,
		IdleConnTimeout:        idleConnTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // answers are small, and their bound is then the bound on the wire
	}
}
