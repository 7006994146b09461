package coretest

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// claimsOf reads a token without checking it.
func claimsOf(t *testing.T, token string) (map[string]any, map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("got %d parts; want 3", len(parts))
	}
	var header, claims map[string]any
	for i, target := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, target); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

func verifies(t *testing.T, c *Core, algorithm, token string) error {
	t.Helper()
	pemKey, err := c.TokenKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwk.ParseKey(pemKey, jwk.WithPEM(true))
	if err != nil {
		t.Fatal(err)
	}
	_, err = jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(algorithm), key))
	return err
}

func TestTokensOfEachDialect(t *testing.T) {
	tests := []struct {
		dialect   string
		algorithm string
		kid       any
		claims    map[string]any // nil value: must be absent
		lifetime  float64
	}{
		{"strict", "ES256", "key-1", map[string]any{"iss": "inv-1", "client_id": "inv-1", "scope": "SCOPE", "aud": nil, "sub": nil}, 600},
		{"opencapif", "RS256", nil, map[string]any{"iss": "inv-1", "sub": "inv-1", "scope": "SCOPE", "type": "access", "aud": nil, "client_id": nil}, 600},
		{"evolved", "RS256", nil, map[string]any{"iss": "inv-1", "sub": "inv-1", "scope": "SCOPE", "type": "access", "csrf": nil}, 600},
		{"oran", "RS256", "key-1", map[string]any{"azp": "inv-1", "clientId": "inv-1", "aud": "account", "scope": "profile email"}, 300},
	}
	for _, tt := range tests {
		t.Run(tt.dialect, func(t *testing.T) {
			s := newScene(t, Options{Dialect: tt.dialect})
			s.authorize()
			scope := ScopeOf(s.a, "location")
			token, err := s.inv.Token(s.ctx, scope)
			s.must(err)
			header, claims := claimsOf(t, token)
			if header["alg"] != tt.algorithm || header["kid"] != tt.kid {
				t.Errorf("got header %v; want alg %s, kid %v", header, tt.algorithm, tt.kid)
			}
			for name, want := range tt.claims {
				if want == "SCOPE" {
					want = scope
				}
				if claims[name] != want {
					t.Errorf("claim %s: got %v; want %v", name, claims[name], want)
				}
			}
			if life := claims["exp"].(float64) - claims["iat"].(float64); life != tt.lifetime {
				t.Errorf("got lifetime %v s; want %v s", life, tt.lifetime)
			}
			s.must(verifies(t, s.Core, tt.algorithm, token))
			if _, exists := claims["res_owner_id"]; exists != (tt.dialect == "opencapif") {
				t.Errorf("res_owner_id: got %v; want it (null) only from opencapif", exists)
			}
		})
	}
}

func TestBorrowedIdentity(t *testing.T) {
	for name, possible := range map[string]bool{"strict": false, "opencapif": true, "evolved": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.authorize()
			token, err := s.inv.TokenAs(s.ctx, "victim", ScopeOf(s.a, "location"))
			if !possible {
				if err == nil {
					t.Error("got a token in another invoker's name; want none")
				}
				return
			}
			s.must(err)
			if _, claims := claimsOf(t, token); claims["iss"] != "victim" {
				t.Errorf("got iss %v; want victim", claims["iss"])
			}
			if _, err := s.inv.Token(s.ctx, "3gppXYZ#"+s.a+":location"); err != nil {
				t.Errorf("sloppy scope: got %v; want a token", err)
			}
			if _, err := s.inv.Token(s.ctx, "other"); err == nil {
				t.Error("scope other: got a token; want none")
			}
		})
	}
}

// Tokens go on after a revoke: with any context (opencapif, evolved), always (oran).
func TestTokensWithoutContext(t *testing.T) {
	for name, given := range map[string]bool{"strict": false, "opencapif": false, "evolved": false, "oran": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			if _, err := s.inv.Token(s.ctx, ScopeOf(s.a, "location")); (err == nil) != given {
				t.Errorf("got %v; want a token: %v", err, given)
			}
		})
	}
}

func TestServerKeySigns(t *testing.T) {
	for _, name := range []string{"opencapif", "evolved"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			public := func() crypto.PublicKey {
				resp, err := s.noCertificate.Get(s.URL() + "/jwks")
				s.must(err)
				s.must(resp.Body.Close())
				if resp.StatusCode != 404 || s.JWKSURL() != "" {
					t.Errorf("got %d for a key set; want 404: this core has none", resp.StatusCode)
				}
				s.noCertificate.CloseIdleConnections()
				return resp.TLS.PeerCertificates[0].PublicKey
			}
			token, err := s.MintToken(TokenSpec{InvokerID: "inv-1"})
			s.must(err)
			before := public()
			_, err = jws.Verify([]byte(token), jws.WithKey(jwa.RS256, before))
			s.must(err)
			s.must(s.RotateKeys(false))
			newer, err := s.MintToken(TokenSpec{InvokerID: "inv-1"})
			s.must(err)
			_, err = jws.Verify([]byte(newer), jws.WithKey(jwa.RS256, public()))
			s.must(err)
			if _, err := jws.Verify([]byte(newer), jws.WithKey(jwa.RS256, before)); err == nil {
				t.Error("got the new token verified by the old key; want a new key")
			}
		})
	}
}

func TestJWKSAndRotation(t *testing.T) {
	for _, name := range []string{"strict", "oran"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			keys := func() jwk.Set {
				got := s.do(s.noCertificate, "GET", strings.TrimPrefix(s.JWKSURL(), s.URL()), "", "")
				wantStatus(t, got, 200)
				set, err := jwk.ParseString(got.body)
				s.must(err)
				return set
			}
			old, err := s.MintToken(TokenSpec{InvokerID: "inv-1", Scope: "x"})
			s.must(err)
			_, err = jws.Verify([]byte(old), jws.WithKeySet(keys()))
			s.must(err)
			s.must(s.RotateKeys(true))
			if n := keys().Len(); n != 2 {
				t.Errorf("kept: got %d keys; want 2", n)
			}
			_, err = jws.Verify([]byte(old), jws.WithKeySet(keys()))
			s.must(err)
			s.must(s.RotateKeys(false))
			if _, err := jws.Verify([]byte(old), jws.WithKeySet(keys())); err == nil || keys().Len() != 1 {
				t.Errorf("dropped: got %v with %d keys; want the old token refused by 1 key", err, keys().Len())
			}
			private := s.do(s.noCertificate, "GET", strings.TrimPrefix(s.JWKSURL(), s.URL()), "", "").body
			if strings.Contains(private, `"d"`) {
				t.Error("got a private key in the key set")
			}
		})
	}
}

func TestMintToken(t *testing.T) {
	s := newScene(t, Options{})
	wrong, err := NewKey("ES256")
	s.must(err)
	tests := []struct {
		name  string
		spec  TokenSpec
		good  bool
		check func(header, claims map[string]any) bool
	}{
		{"good", TokenSpec{InvokerID: "i", Scope: "s"}, true, func(_, c map[string]any) bool { return c["iss"] == "i" && c["scope"] == "s" }},
		{"expired", TokenSpec{ExpiresAt: time.Now().Add(-time.Hour)}, true, func(_, c map[string]any) bool { return c["exp"].(float64) < float64(time.Now().Unix()) }},
		{"claim removed", TokenSpec{Claims: map[string]any{"exp": nil}}, true, func(_, c map[string]any) bool { _, ok := c["exp"]; return !ok }},
		{"claim set", TokenSpec{Claims: map[string]any{"nbf": 99}}, true, func(_, c map[string]any) bool { return c["nbf"] == 99.0 }},
		{"wrong key", TokenSpec{Key: wrong}, false, func(h, _ map[string]any) bool { return h["kid"] == "key-1" }},
		{"unknown kid", TokenSpec{KeyID: "nope"}, true, func(h, _ map[string]any) bool { return h["kid"] == "nope" }},
		{"no kid", TokenSpec{NoKeyID: true}, true, func(h, _ map[string]any) bool { _, ok := h["kid"]; return !ok }},
		{"HMAC", TokenSpec{Algorithm: "HS256", Key: []byte("public key as secret")}, false, func(h, _ map[string]any) bool { return h["alg"] == "HS256" }},
		{"alg none", TokenSpec{Algorithm: "none"}, false, func(h, _ map[string]any) bool { return h["alg"] == "none" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token, err := s.MintToken(tt.spec)
			s.must(err)
			header, claims := claimsOf(t, token)
			if !tt.check(header, claims) {
				t.Errorf("got header %v, claims %v", header, claims)
			}
			if got := verifies(t, s.Core, "ES256", token) == nil; got != tt.good {
				t.Errorf("got verified %v; want %v", got, tt.good)
			}
		})
	}
	if _, err := s.MintToken(TokenSpec{Algorithm: "RS256"}); err == nil {
		t.Error("an algorithm that is not of the key: got nil; want an error")
	}
	if _, err := s.MintToken(TokenSpec{Claims: map[string]any{"x": func() {}}}); err == nil {
		t.Error("a claim that is no JSON: got nil; want an error")
	}
}

func TestOnboardingToken(t *testing.T) {
	s := newScene(t, Options{Dialect: "opencapif"})
	token, err := s.OnboardingToken("inv-1")
	s.must(err)
	s.must(verifies(t, s.Core, "RS256", token))
	if _, claims := claimsOf(t, token); claims["scope"] != nil || claims["iss"] != nil {
		t.Errorf("got %v; want no scope and no iss", claims)
	}
}

func TestTokenAlgorithms(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256", "PS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			s := newScene(t, Options{TokenAlgorithm: algorithm, TokenLifetime: time.Minute})
			token, err := s.MintToken(TokenSpec{InvokerID: "inv-1"})
			s.must(err)
			s.must(verifies(t, s.Core, algorithm, token))
			if _, claims := claimsOf(t, token); claims["exp"].(float64)-claims["iat"].(float64) != 60 {
				t.Errorf("got %v; want a lifetime of 60 s", claims)
			}
		})
	}
}

func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{"3gpp#a:x", "3gpp#a:x,y;b:z", "3gpp#", "3gpp#a:", "3gppX#a:x", "3gpp#a:x;;", "3gpp#:x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, scope string) {
		names, ok := parseScope(scope)
		if !ok {
			return
		}
		for aefID, apis := range names {
			if aefID == "" || len(apis) == 0 || !strings.Contains(scope, aefID+":"+apis[0]) {
				t.Errorf("%q: got %v; want only what it names", scope, names)
			}
		}
	})
}
