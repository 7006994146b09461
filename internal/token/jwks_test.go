package token

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestParseJWKS(t *testing.T) {
	k := keys()
	rsaJWK := func(extra map[string]any) map[string]any { return jwkOf(&k.rsa.PublicKey, extra) }
	good := rsaJWK(map[string]any{"kid": "good"})
	secret := map[string]any{"kty": "oct", "k": b64([]byte("secret-secret-secret")), "alg": "HS256"}
	private := rsaJWK(map[string]any{"d": b64(k.rsa.D.Bytes()), "p": b64(k.rsa.Primes[0].Bytes()), "q": b64(k.rsa.Primes[1].Bytes())})
	privateEd := jwkOf(k.ed.Public(), map[string]any{"d": b64(k.ed.Seed())})
	small := &must(rsa.GenerateKey(rand.Reader, 1024)).PublicKey

	tests := []struct {
		name  string
		data  []byte
		keys  int // 0: refused
		notes string
	}{
		{"RSA", jwks(good), 1, ""},
		{"all types", jwks(good, jwkOf(&k.p256.PublicKey, nil), jwkOf(&k.p384.PublicKey, nil), jwkOf(&k.p521.PublicKey, nil), jwkOf(k.ed.Public(), nil)), 5, ""},
		{"as Keycloak writes it", jwks(rsaJWK(map[string]any{"kid": "s", "use": "sig", "alg": "RS256", "x5t": "abc"}), rsaJWK(map[string]any{"kid": "e", "use": "enc", "alg": "RSA-OAEP"})), 1, ""},
		{"key_ops verify", jwks(rsaJWK(map[string]any{"key_ops": []string{"verify"}})), 1, ""},
		{"key_ops encrypt", jwks(good, rsaJWK(map[string]any{"key_ops": []string{"encrypt"}})), 1, ""},
		{"symmetric beside good", jwks(good, secret), 1, "shared secret"},
		{"private beside good", jwks(good, private), 1, "private part"},
		{"private Ed25519 beside good", jwks(good, privateEd), 1, "private part"},
		{"unknown type beside good", jwks(good, map[string]any{"kty": "AKP", "pub": "x"}), 1, "not known"},
		{"damaged beside good", jwks(good, map[string]any{"kty": "RSA", "n": "!", "e": "AQAB"}), 1, "damaged"},
		{"point off the curve beside good", jwks(good, map[string]any{"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}), 1, "not"},
		{"short RSA beside good", jwks(good, jwkOf(small, nil)), 1, "bits"},
		{"X25519 beside good", jwks(good, map[string]any{"kty": "OKP", "crv": "X25519", "x": b64(make([]byte, 32))}), 1, "not"},
		{"huge exponent beside good", jwks(good, rsaJWK(map[string]any{"e": b64(bytes.Repeat([]byte{1}, 9))})), 1, "exponent"},
		{"alg for encryption without use", jwks(good, rsaJWK(map[string]any{"alg": "RSA-OAEP"})), 1, "alg"},
		{"null beside good", []byte(`{"keys":[null,` + string(must(json.Marshal(good))) + `]}`), 1, "not known"},

		{"symmetric only", jwks(secret), 0, "shared secret"},
		{"private only", jwks(private), 0, "private part"},
		{"for encryption only", jwks(rsaJWK(map[string]any{"use": "enc"})), 0, "no key"},
		{"no keys", jwks(), 0, "not a JWK set"},
		{"empty list", []byte(`{"keys":[]}`), 0, "no key"},
		{"one key without a set", must(json.Marshal(good)), 0, "not a JWK set"},
		{"keys is no list", []byte(`{"keys":{}}`), 0, "not a JWK set"},
		{"HTML", []byte(`<html>login</html>`), 0, "not a JWK set"},
		{"empty", nil, 0, "not a JWK set"},
		{"cut off", jwks(good)[:50], 0, "not a JWK set"},
		{"too many", []byte(`{"keys":[` + strings.Repeat("{},", maxKeys) + `{}]}`), 0, "65 keys"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseJWKS(tt.data)
			text := strings.Join(got.notes, "\n")
			if tt.keys == 0 {
				if err == nil {
					t.Fatalf("got %d keys; want an error", len(got.keys))
				}
				text = err.Error()
			} else if err != nil || len(got.keys) != tt.keys {
				t.Fatalf("got %d keys, %v; want %d", len(got.keys), err, tt.keys)
			}
			if !strings.Contains(text, tt.notes) || (tt.notes == "" && text != "") {
				t.Errorf("got text %q; want %q in it", text, tt.notes)
			}
			if strings.Contains(text, b64([]byte("secret-secret-secret"))) {
				t.Errorf("text %q repeats a key", text)
			}
		})
	}
}

func TestParsedJWKVerifies(t *testing.T) {
	k := keys()
	set := jwks(jwkOf(&k.rsa.PublicKey, map[string]any{"kid": "1"}), jwkOf(&k.p256.PublicKey, map[string]any{"kid": "2"}), jwkOf(k.ed.Public(), map[string]any{"kid": "3"}))
	got, err := parseJWKS(set)
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, Settings{}, fixedSource(t, got.keys...))
	for alg, signer := range map[string]struct {
		key any
		kid string
	}{"RS256": {k.rsa, "1"}, "PS256": {k.rsa, "1"}, "ES256": {k.p256, "2"}, "EdDSA": {k.ed, "3"}} {
		raw := mint(alg, signer.key, fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, signer.kid), goodClaims(""))
		if _, err := v.Verify(t.Context(), raw, now); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestJWKSURLRefuses(t *testing.T) {
	for address, want := range map[string]string{
		"http://core.example/jwks":         "https",
		"ftp://core.example/jwks":          "scheme",
		"/jwks":                            "no host",
		"":                                 "no host",
		"https://user:secret@core.example": "password",
		"https://user:secret@core :1/%zz":  "not a URL",
	} {
		_, err := JWKSURL(address, JWKSOptions{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v; want an error with %q", address, err, want)
		}
	}
}

// jwksServer answers what its handler says; the source fetches over TLS.
func jwksServer(t *testing.T, o Options, handler http.HandlerFunc) Source {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	source, err := JWKSURL(server.URL+"/jwks?secret=1", JWKSOptions{Options: o, Client: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func TestJWKSURLGood(t *testing.T) {
	set := jwks(jwkOf(keys().ed.Public(), nil))
	source := jwksServer(t, Options{Timeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/jwks" || r.Header.Get("Authorization") != "" {
			t.Errorf("got %s %s; want a plain GET /jwks", r.Method, r.URL.Path)
		}
		w.Write(set)
	})
	changed := make(chan struct{}, 1)
	source.OnChange(func() { changed <- struct{}{} })
	run(t, source)
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("no keys within a minute")
	}
	v := verifier(t, Settings{}, source)
	if _, err := v.Verify(t.Context(), mintAs("EdDSA", keys().ed, goodClaims("")), now); err != nil {
		t.Error(err)
	}
}

func TestJWKSURLFaults(t *testing.T) {
	good := jwks(jwkOf(keys().ed.Public(), nil))
	release := make(chan struct{})
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); w.Write(good) }, "status 500"},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "status 204"},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>please log in</html>")) }, "not a JWK set"},
		{"huge", func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"keys":[],"pad":"`))
			for range 40 {
				w.Write(bytes.Repeat([]byte("x"), 64<<10))
			}
		}, "1 MiB"},
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}, "deadline"},
		{"slow body", func(w http.ResponseWriter, r *http.Request) {
			w.Write(good[:10])
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}, "deadline"},
		{"connection dropped", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		{"redirect to http", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/jwks", http.StatusFound)
		}, "away from https"},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/jwks", http.StatusFound) }, "redirects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			timeout := time.Minute // a busy machine must not turn another fault into this one
			if tt.want == "deadline" {
				timeout = 300 * time.Millisecond
			}
			source := jwksServer(t, Options{Timeout: timeout}, tt.handler)
			err := source.Load(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want an error with %q", err, tt.want)
			}
			for _, bad := range []string{"secret", "log in"} {
				if strings.Contains(err.Error(), bad) {
					t.Errorf("error %q holds %q", err, bad)
				}
			}
			if source.Keys() != nil || source.LastError() == nil {
				t.Errorf("got keys %v, LastError %v; want none and an error", source.Keys(), source.LastError())
			}
		})
	}
	close(release)
}

func TestJWKSURLDown(t *testing.T) {
	server := httptest.NewServer(nil)
	address := server.URL
	server.Close()
	source, err := JWKSURL(address, JWKSOptions{AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	err = source.Load(context.Background())
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v; want connection refused", err)
	}
}
