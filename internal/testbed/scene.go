package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
)

// Names in a scene.
const (
	Provider = "provider-1"
	APIID    = "8f36c0"
	APIName  = "location"
	// OtherAPIID and OtherAPIName are a second API of the same AEFs.
	OtherAPIID   = "91b2d4"
	OtherAPIName = "qos"
)

// Scene is a core with AEFs in front of one service API, on 127.0.0.1.
type Scene struct {
	Core *coretest.Core
	// Backend is the service API that the AEFs protect.
	Backend *httptest.Server
	// Dir holds all files of the scene.
	Dir string
}

// NewScene starts a core and a service API; backend nil answers 200 with a
// short text. dir must exist; nothing outside it is written.
func NewScene(dir string, options coretest.Options, backend http.Handler) (*Scene, error) {
	core, err := coretest.Start(options)
	if err != nil {
		return nil, err
	}
	core.AddProvider(Provider)
	err = os.WriteFile(filepath.Join(dir, "core-ca.pem"), core.CA().PEM(), 0o600)
	if err != nil {
		return nil, errors.Join(err, core.Close())
	}
	if backend == nil {
		backend = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "served %s\n", r.URL.Path)
		})
	}
	return &Scene{Core: core, Backend: httptest.NewServer(backend), Dir: dir}, nil
}

// Close ends the service API and the core. Stop the Caddys first.
func (s *Scene) Close() error {
	s.Backend.Close()
	return s.Core.Close()
}

// AEF is one API exposing function of a scene: its addresses, its files, and
// the Caddyfile made of them.
type AEF struct {
	ID       string
	Dir      string
	Admin    string // host:port of the admin endpoint
	API      string // host:port of the service API, plain HTTP
	Callback string // host:port of the callback, TLS
	// Ledger is the path of the ledger.
	Ledger string
	// Fields of the template that tests change.
	CoreURL     string
	GlobalExtra string // lines in the block of the global option capif
	RouteExtra  string // lines in the block of capif_enforce
	// OtherRouteExtra are further lines in that of the second API.
	OtherRouteExtra string
	SiteExtra       string // lines in the site of the service API
	OptionsExtra    string // lines among the global options of Caddy
	CoreExtra       string // lines in the block of the core
	// CallbackExtra are lines in the block of capif_callback, such as a
	// hint_path.
	CallbackExtra string
	// TokenKeys is what follows token_keys. Default: the core's JWK set if
	// there is one.
	TokenKeys string
	// APIID and OtherAPIID are the apiIds of the two routes.
	APIID, OtherAPIID string
	// MutualTLS serves the service API over TLS and requires a certificate
	// of the core's authority from callers.
	MutualTLS bool

	CertFile, KeyFile, CAFile string
	JWKS, BackendAddress      string
	Profile                   string
}

// AddAEF onboards an AEF at the core, with both APIs, and prepares its files.
func (s *Scene) AddAEF(id, provider string) (*AEF, error) {
	dir := filepath.Join(s.Dir, id)
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		return nil, err
	}
	a := &AEF{
		ID: id, Dir: dir, Ledger: filepath.Join(dir, "ledger.db"), CoreURL: s.Core.URL(),
		CAFile: filepath.Join(s.Dir, "core-ca.pem"), JWKS: s.Core.JWKSURL(),
		BackendAddress: s.Backend.Listener.Addr().String(), Profile: "strict",
		APIID: APIID, OtherAPIID: OtherAPIID,
	}
	if a.JWKS != "" {
		a.TokenKeys = "jwks " + a.JWKS
	}
	for _, address := range []*string{&a.Admin, &a.API, &a.Callback} {
		*address, err = FreeAddress()
		if err != nil {
			return nil, err
		}
	}
	s.Core.AddProvider(provider)
	err = s.Core.AddAEF(coretest.AEF{ID: id, ProviderID: provider, CallbackURL: "https://" + a.Callback})
	if err != nil {
		return nil, err
	}
	identity, err := s.Core.CA().Issue(coretest.CertSpec{
		CommonName: id, Role: coretest.RoleAEF, SANs: []string{"127.0.0.1", "localhost"}, ClientAuth: true, ServerAuth: true,
	})
	if err != nil {
		return nil, err
	}
	a.CertFile, a.KeyFile, err = identity.WritePEM(dir, "aef")
	if err != nil {
		return nil, err
	}
	return a, nil
}

var caddyfileTemplate = template.Must(template.New("Caddyfile").Parse(`{
	admin {{.Admin}}
	auto_https off
	skip_install_trust
	persist_config off
	default_bind 127.0.0.1
	servers {
		# The core calls 127.0.0.1, and no SNI is sent for an address: the
		# callback's site has no host name either, or its client_auth would
		# not be reached.
		strict_sni_host insecure_off
		# Caddy's own limit would answer for the handler.
		max_header_size 128KiB
		protocols h1 h2
	}
	{{.OptionsExtra}}
	capif {
		aef_id {{.ID}}
		core {{.CoreURL}} {
			profile     {{.Profile}}
			client_cert {{.CertFile}} {{.KeyFile}}
			trusted_ca  {{.CAFile}}
			{{.CoreExtra}}
		}
		{{if .TokenKeys}}token_keys {{.TokenKeys}}{{end}}
		ledger {{.Ledger}}
		{{.GlobalExtra}}
	}
}

{{if .MutualTLS}}https://:{{.APIPort}} {
	tls {{.CertFile}} {{.KeyFile}} {
		client_auth {
			mode require_and_verify
			trust_pool file {{.CAFile}}
		}
	}
{{else}}http://{{.API}} {
{{end}}	{{.SiteExtra}}
	handle /location/* {
		capif_enforce {
			api_id   {{.APIID}}
			api_name ` + APIName + `
			{{.RouteExtra}}
		}
		reverse_proxy {{.BackendAddress}}
	}
	handle /qos/* {
		capif_enforce {
			api_id   {{.OtherAPIID}}
			api_name ` + OtherAPIName + `
			{{.RouteExtra}}
			{{.OtherRouteExtra}}
		}
		reverse_proxy {{.BackendAddress}}
	}
}

https://:{{.CallbackPort}} {
	tls {{.CertFile}} {{.KeyFile}} {
		client_auth {
			mode request
		}
	}
	capif_callback {
		core_identity san ` + coretest.CoreDNSName + `
		{{.CallbackExtra}}
	}
}
`))

// Caddyfile returns the configuration of the AEF.
func (a *AEF) Caddyfile() (string, error) {
	var b bytes.Buffer
	err := caddyfileTemplate.Execute(&b, a)
	if err != nil {
		return "", fmt.Errorf("writing the Caddyfile: %w", err)
	}
	return b.String(), nil
}

// CallbackPort returns the port of the callback.
func (a *AEF) CallbackPort() string { return portOf(a.Callback) }

// APIPort returns the port of the service API.
func (a *AEF) APIPort() string { return portOf(a.API) }

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return port
}

// Start starts a Caddy for the AEF.
func (a *AEF) Start(ctx context.Context) (*Caddy, error) {
	caddyfile, err := a.Caddyfile()
	if err != nil {
		return nil, err
	}
	return StartCaddy(ctx, CaddyOptions{Name: a.ID, Dir: a.Dir, Caddyfile: caddyfile, AdminAddress: a.Admin})
}

// Attach writes the configuration of the AEF and waits for a Caddy that somebody
// else starts with it.
func (a *AEF) Attach(ctx context.Context) (*Caddy, error) {
	caddyfile, err := a.Caddyfile()
	if err != nil {
		return nil, err
	}
	return AttachCaddy(ctx, CaddyOptions{Name: a.ID, Dir: a.Dir, Caddyfile: caddyfile, AdminAddress: a.Admin})
}

// Call sends a call with a token to the service API of the AEF and returns the
// status and the body.
func (a *AEF) Call(ctx context.Context, path, token string) (int, []byte, error) {
	response, err := a.Open(ctx, path, token)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(http.MaxBytesReader(nil, response.Body, 1<<20))
	return response.StatusCode, body.Bytes(), err
}

// Open is like [AEF.Call], but leaves the body to the caller, who reads it within 30
// seconds and closes it: that of an event stream, say.
func (a *AEF) Open(ctx context.Context, path, token string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.API+path, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return callers.Do(request)
}

// callers is how API invokers reach service APIs.
var callers = &http.Client{
	Timeout: 30 * time.Second,
	Transport: &http.Transport{
		Proxy:               nil,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64,
	},
}

// CloseIdleConnections ends the connections that calls left open.
func CloseIdleConnections() { callers.CloseIdleConnections() }
