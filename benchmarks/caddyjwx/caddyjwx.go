// Package caddyjwx is the handler that the benchmarks compare with: it parses and
// verifies the token of every call with jwx, and keeps nothing between calls, as
// Caddy's JWT plugins do. It is generous to them: one key, one algorithm, no
// lookup of a key set and no search for the token.
package caddyjwx

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

func init() {
	caddy.RegisterModule(Verify{})
	httpcaddyfile.RegisterHandlerDirective("bench_jwx", parse)
	httpcaddyfile.RegisterDirectiveOrder("bench_jwx", httpcaddyfile.After, "basic_auth")
}

// Verify is the `bench_jwx` handler.
type Verify struct {
	// Algorithm is the only one that is accepted, such as RS256.
	Algorithm string `json:"algorithm,omitempty"`
	// Key is a PEM file with the public key.
	Key string `json:"key,omitempty"`

	key jwk.Key
}

// CaddyModule returns the Caddy module information.
func (Verify) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_jwx", New: func() caddy.Module { return new(Verify) }}
}

// Provision reads the key.
func (v *Verify) Provision(caddy.Context) error {
	data, err := os.ReadFile(v.Key)
	if err != nil {
		return fmt.Errorf("bench_jwx: reading the key: %w", err)
	}
	v.key, err = jwk.ParseKey(data, jwk.WithPEM(true))
	if err != nil {
		return fmt.Errorf("bench_jwx: parsing %s: %w", v.Key, err)
	}
	return nil
}

// ServeHTTP passes a call on whose token is signed by the key and in time.
func (v *Verify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return caddyhttp.Error(http.StatusUnauthorized, errors.New("no bearer token"))
	}
	token, err := jwt.ParseString(raw, jwt.WithKey(jwa.SignatureAlgorithm(v.Algorithm), v.key), jwt.WithValidate(true))
	if err != nil {
		return caddyhttp.Error(http.StatusUnauthorized, err)
	}
	if replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Set("http.auth.user.id", token.Issuer())
	}
	return next.ServeHTTP(w, r)
}

// parse reads `bench_jwx <algorithm> <pem_file>`.
func parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	var v Verify
	err := v.UnmarshalCaddyfile(h.Dispenser)
	return &v, err
}

// UnmarshalCaddyfile reads `bench_jwx <algorithm> <pem_file>`.
func (v *Verify) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if !d.Args(&v.Algorithm, &v.Key) || d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

var (
	_ caddy.Provisioner           = (*Verify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Verify)(nil)
	_ caddyfile.Unmarshaler       = (*Verify)(nil)
)
