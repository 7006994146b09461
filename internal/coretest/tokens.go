package coretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// keyring holds the key that signs tokens and those still published beside it.
type keyring struct {
	current crypto.Signer
	id      string
	set     jwk.Set
	rounds  int
}

// TokenSpec describes a token to mint; with zero values it is what the token endpoint would give out.
type TokenSpec struct {
	InvokerID string
	Scope     string    // oran puts none into a token: set Claims["scope"] there
	ExpiresAt time.Time // zero: now and the lifetime of Options

	// Claims are set over those of the dialect; a nil value removes one.
	Claims map[string]any
	// Algorithm of header and signature, such as HS256 (Key must be []byte) or none. Default: the core's.
	Algorithm string
	// Key signs instead of the core's. A crypto.Signer, or []byte for HMAC.
	Key any
	// KeyID is put into the header instead of the core's; NoKeyID leaves it out.
	KeyID   string
	NoKeyID bool
}

// NewKey makes a private key for an algorithm: ES256, RS256, PS256 or EdDSA.
func NewKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256", "PS256":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("make key: unknown algorithm %q: use ES256, RS256, PS256 or EdDSA", algorithm)
}

// MintToken signs a token directly, good or bad.
func (c *Core) MintToken(spec TokenSpec) (string, error) {
	c.mu.Lock()
	key, kid := any(c.keys.current), c.keys.id
	c.serial++
	serial := c.serial
	c.mu.Unlock()

	expires := spec.ExpiresAt
	if expires.IsZero() {
		expires = time.Now().Add(c.opts.TokenLifetime)
	}
	claims := c.dialect.claims(c.url, spec.InvokerID, spec.Scope, serial)
	now := time.Now().Unix()
	claims["iat"] = now
	claims["exp"] = expires.Unix()
	maps.Copy(claims, spec.Claims)
	maps.DeleteFunc(claims, func(name string, v any) bool {
		given, ok := spec.Claims[name]
		return ok && given == nil && v == nil
	})
	if spec.Key != nil {
		key = spec.Key
	}
	if spec.KeyID != "" {
		kid = spec.KeyID
	}
	if spec.NoKeyID || (!c.dialect.keyIDs && spec.KeyID == "") {
		kid = ""
	}
	algorithm := spec.Algorithm
	if algorithm == "" {
		algorithm = c.opts.TokenAlgorithm
	}
	return sign(algorithm, key, kid, claims)
}

// OnboardingToken is the JWT that an invoker of EVOLVED or OpenCAPIF got while it was onboarded: signed by
// the key of the access tokens, without scope. It must not open an API.
func (c *Core) OnboardingToken(invokerID string) (string, error) {
	return c.MintToken(TokenSpec{InvokerID: invokerID, Claims: map[string]any{
		"scope": nil, "iss": nil, "client_id": nil, "sub": "API invoker " + invokerID, "type": "access",
	}})
}

func sign(algorithm string, key any, kid string, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("mint token: encode claims: %w", err)
	}
	header := jws.NewHeaders()
	fields := map[string]any{jws.TypeKey: "JWT"}
	if kid != "" {
		fields[jws.KeyIDKey] = kid
	}
	for name, v := range fields {
		if err := header.Set(name, v); err != nil {
			return "", fmt.Errorf("mint token: set header %s: %w", name, err)
		}
	}
	var with jws.SignOption = jws.WithKey(jwa.SignatureAlgorithm(algorithm), key, jws.WithProtectedHeaders(header))
	if algorithm == "none" {
		with = jws.WithInsecureNoSignature(jws.WithProtectedHeaders(header))
	}
	signed, err := jws.Sign(payload, with)
	if err != nil {
		return "", fmt.Errorf("mint token: sign with %s: %w", algorithm, err)
	}
	return string(signed), nil
}

// RotateKeys makes a new signing key. With keepOld the key set goes on publishing the old ones. Where the
// dialect signs with the key of the core's TLS certificate, the server has a new certificate from now on.
func (c *Core) RotateKeys(keepOld bool) error { return c.newKeys(keepOld) }

func (c *Core) newKeys(keepOld bool) error {
	key, err := NewKey(c.opts.TokenAlgorithm)
	if err != nil {
		return err
	}
	spec := CertSpec{CommonName: CoreCommonName, Role: RoleCore, SANs: []string{"127.0.0.1", "localhost", CoreDNSName}, ServerAuth: true}
	if c.dialect.signsWithServerKey {
		spec.Key = key
	}
	cert, err := c.ca.Issue(spec)
	if err != nil {
		return err
	}
	public, err := jwk.FromRaw(key.Public())
	if err != nil {
		return fmt.Errorf("publish signing key: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys.rounds++
	id := fmt.Sprintf("key-%d", c.keys.rounds)
	for name, v := range map[string]any{
		jwk.KeyIDKey: id, jwk.AlgorithmKey: jwa.SignatureAlgorithm(c.opts.TokenAlgorithm), jwk.KeyUsageKey: "sig",
	} {
		if err := public.Set(name, v); err != nil {
			return fmt.Errorf("publish signing key: set %s: %w", name, err)
		}
	}
	set := jwk.NewSet()
	if keepOld && c.keys.set != nil {
		for i := range c.keys.set.Len() {
			if old, ok := c.keys.set.Key(i); ok {
				if err := set.AddKey(old); err != nil {
					return fmt.Errorf("publish old key: %w", err)
				}
			}
		}
	}
	if err := set.AddKey(public); err != nil {
		return fmt.Errorf("publish signing key: %w", err)
	}
	c.keys.current, c.keys.id, c.keys.set = key, id, set
	if c.serverCert == nil || c.dialect.signsWithServerKey {
		c.serverCert = cert
	}
	return nil
}

// TokenKeyPEM is the public key that verifies tokens minted now.
func (c *Core) TokenKeyPEM() ([]byte, error) {
	c.mu.Lock()
	public := c.keys.current.Public()
	c.mu.Unlock()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode token key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ServerCertPEM is the chain of the core's TLS server certificate.
func (c *Core) ServerCertPEM() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serverCert.CertPEM
}

// JWKSURL is where the key set is served, without client certificate; empty if the dialect has none.
func (c *Core) JWKSURL() string {
	if c.dialect.jwksPath == "" {
		return ""
	}
	return c.url + c.dialect.jwksPath
}
