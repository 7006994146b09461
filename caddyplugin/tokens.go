package caddyplugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/token"
)

// Token says how access tokens are verified.
type Token struct {
	// Keys are the keys that sign tokens.
	Keys *Keys `json:"keys,omitempty"`

	// Algorithms are the JWS algorithms allowed. Only asymmetric ones can be
	// named. Default: RS256, PS256, ES256, EdDSA.
	Algorithms []string `json:"algorithms,omitempty"`

	// Leeway is for clocks that differ: a token is taken that much after exp
	// and before nbf. At most 30s (TS 33.122 C.2.2); a negative value means
	// none. Default: 5s.
	Leeway caddy.Duration `json:"leeway,omitempty"`

	// InvokerClaims name the claims that hold the API invoker's id. All that
	// are in a token must agree. Default: iss and client_id.
	InvokerClaims []string `json:"invoker_claims,omitempty"`
}

// Keys are the keys that sign tokens: a JWK set, PEM files, or the key of the
// core's certificate; one of them.
type Keys struct {
	// JWKS is the URL of a JWK set, or the path of a file that holds one. A
	// URL is read again every 5 minutes and, at most every 30 seconds, when a
	// token carries an unknown key. The last good keys are kept.
	JWKS string `json:"jwks,omitempty"`

	// TrustedCA are PEM files with the roots for the JWKS URL. Default: those
	// of the core where the host is the core's, else the system's.
	TrustedCA []string `json:"trusted_ca,omitempty"`

	// PEM are files with public keys or certificates. They are read again
	// when they change.
	PEM []string `json:"pem,omitempty"`

	// CoreCertificate takes the key of the core's TLS server certificate,
	// checked against trusted_ca of the core: OpenCAPIF signs tokens with it.
	CoreCertificate bool `json:"core_certificate,omitempty"`
}

// tokenSettings are resolved settings; a route's take the place of the app's
// one by one.
type tokenSettings struct {
	verifier token.Settings
	keys     *Keys // resolved
	core     coreclient.Settings
}

func newTokenSettings(t *Token, core coreclient.Settings) (tokenSettings, error) {
	return tokenSettings{core: core}.with(t)
}

// with returns the settings with those of t in their place.
func (s tokenSettings) with(t *Token) (tokenSettings, error) {
	if t == nil {
		return s, nil
	}
	re := newResolver()
	if len(t.Algorithms) > 0 {
		s.verifier.Algorithms = re.texts("algorithms", t.Algorithms)
	}
	if len(t.InvokerClaims) > 0 {
		s.verifier.InvokerClaims = re.texts("invoker_claim", t.InvokerClaims)
	}
	switch {
	case t.Leeway < 0:
		s.verifier.Leeway = token.NoLeeway
	case t.Leeway > 0:
		s.verifier.Leeway = time.Duration(t.Leeway)
	}
	if t.Keys != nil {
		s.keys = &Keys{
			JWKS:      re.text("token_keys jwks", t.Keys.JWKS),
			TrustedCA: re.texts("token_keys trusted_ca", t.Keys.TrustedCA),
			PEM:       re.texts("token_keys pem", t.Keys.PEM),

			CoreCertificate: t.Keys.CoreCertificate,
		}
		given := 0
		for _, is := range []bool{s.keys.JWKS != "", len(s.keys.PEM) > 0, s.keys.CoreCertificate} {
			if is {
				given++
			}
		}
		if given != 1 {
			return s, errors.New("token_keys: give one of jwks, pem and core_certificate")
		}
	}
	return s, re.err
}

// sources holds the key sources in use. Like the state they outlive a reload:
// a new configuration does not begin without keys.
var sources = caddy.NewUsagePool()

// keySource is one place that keys come from, shared by all that name it.
type keySource struct {
	token.Source
	name string
	log  *logRelay

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

// acquireSource takes a reference to the source of these keys. Files are read
// at once, so that a wrong path refuses the configuration; a URL is not.
func acquireSource(s *tokenSettings, l loggers) (*keySource, error) {
	if s.keys == nil {
		return nil, errors.New("token_keys is missing: say where the keys that sign access tokens come from, in the global option capif or here")
	}
	name := s.keyName()
	value, _, err := sources.LoadOrNew(name, func() (caddy.Destructor, error) {
		relay := new(logRelay)
		source, err := newSource(s, slog.New(relay))
		if err != nil {
			return nil, err
		}
		return &keySource{Source: source, name: name, log: relay}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("token_keys: %w", err)
	}
	source := value.(*keySource)
	source.log.setFirst(l.slog)
	if s.keys.CoreCertificate || isURL(s.keys.JWKS) {
		return source, nil
	}
	err = source.Load(context.Background())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("token_keys: %w", err), source.release())
	}
	return source, nil
}

func (s *tokenSettings) keyName() string {
	if s.keys.CoreCertificate {
		return "core_certificate " + s.core.URL + " trusting " + strings.Join(s.core.TrustedCAFiles, " ")
	}
	if s.keys.JWKS == "" {
		return "pem " + strings.Join(s.keys.PEM, " ")
	}
	name := "jwks " + s.keys.JWKS
	if ca := s.keyCA(); isURL(s.keys.JWKS) && len(ca) > 0 {
		name += " trusting " + strings.Join(ca, " ")
	}
	return name
}

// keyCA returns the files with the roots for the JWKS URL.
func (s *tokenSettings) keyCA() []string {
	if len(s.keys.TrustedCA) > 0 {
		return s.keys.TrustedCA
	}
	keys, err := url.Parse(s.keys.JWKS)
	if err != nil {
		return nil
	}
	core, err := url.Parse(s.core.URL)
	if err != nil || !strings.EqualFold(keys.Host, core.Host) {
		return nil
	}
	return s.core.TrustedCAFiles
}

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

func newSource(s *tokenSettings, log *slog.Logger) (token.Source, error) {
	options := token.Options{Logger: log}
	switch {
	case s.keys.CoreCertificate:
		return coreCertificate(s.core, options)
	case s.keys.JWKS == "":
		return token.PEMFiles(options, s.keys.PEM...)
	case !isURL(s.keys.JWKS):
		return token.JWKSFile(options, s.keys.JWKS)
	}
	jwks := token.JWKSOptions{Options: options, AllowHTTP: s.core.InsecureHTTP}
	if files := s.keyCA(); len(files) > 0 {
		pool, err := readCertPool(files)
		if err != nil {
			return nil, err
		}
		jwks.Client = &http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
			IdleConnTimeout:   time.Minute,
		}}
	}
	return token.JWKSURL(s.keys.JWKS, jwks)
}

func readCertPool(files []string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("certificate authority %s: no PEM certificate in it", file)
		}
	}
	return pool, nil
}

// firstLoad is how long a start waits for keys that no earlier configuration
// had loaded. Without keys calls are answered 503, so a start does not fail.
const firstLoad = 2 * time.Second

// start runs the source unless it is running, and waits a little for its keys.
func (k *keySource) start(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		return
	}
	if k.Keys() == nil {
		first, cancel := context.WithTimeout(ctx, firstLoad)
		_ = k.Load(first) // Run tries again, and says so in the log
		cancel()
	}
	running, cancel := context.WithCancel(context.Background())
	k.cancel, k.done = cancel, make(chan struct{})
	go func() {
		defer close(k.done)
		k.Run(running)
	}()
}

func (k *keySource) release() error {
	_, err := sources.Delete(k.name)
	return err
}

// Destruct ends the source when nobody uses it any more.
func (k *keySource) Destruct() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		k.cancel()
		<-k.done
	}
	return nil
}

func (a *App) addSource(s *keySource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sources = append(a.sources, s)
}

// heldSources are the references: a source that several routes name is in it as
// often.
func (a *App) heldSources() []*keySource {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sources)
}

// keySources are the sources of the routes, each once.
func (a *App) keySources() []*keySource {
	return slices.Compact(slices.SortedFunc(slices.Values(a.heldSources()),
		func(a, b *keySource) int { return strings.Compare(a.name, b.name) }))
}

var _ caddy.Destructor = (*keySource)(nil)
