package caddyplugin_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// calls is an AEF with one cached good token, and a service API that counts.
type calls struct {
	*bed
	aef    *testbed.AEF
	caddy  *testbed.Caddy
	good   string
	served atomic.Int64
	secret []string // parts of tokens that must not be logged
}

func newCalls(t *testing.T, algorithm string, change func(*calls)) *calls {
	t.Helper()
	c := &calls{}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	scene, err := testbed.NewScene(t.TempDir(), coretest.Options{TokenAlgorithm: algorithm}, http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			c.served.Add(1)
			_, _ = io.WriteString(w, "user="+r.Header.Get("X-User"))
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testbed.CloseIdleConnections()
		err := scene.Close()
		if err != nil {
			t.Error(err)
		}
	})
	c.bed = &bed{t: t, ctx: ctx, scene: scene}
	c.aef = c.bed.aef("aef-a", testbed.Provider)
	c.publish("aef-a")
	if change != nil {
		change(c)
	}
	c.caddy = c.start(c.aef)
	c.good = c.token(c.invoker("inv-1", "aef-a"), "3gpp#aef-a:location,qos")
	c.want(c.aef, "/location/1", c.good, http.StatusOK)
	c.served.Store(0)
	return c
}

func (c *calls) mint(spec coretest.TokenSpec) string {
	c.t.Helper()
	if spec.InvokerID == "" {
		spec.InvokerID = "inv-1"
	}
	if spec.Scope == "" {
		spec.Scope = "3gpp#aef-a:location,qos"
	}
	raw, err := c.scene.Core.MintToken(spec)
	if err != nil {
		c.t.Fatal(err)
	}
	return raw
}

// call sends a request with these Authorization headers.
func (c *calls) call(method, path string, headers http.Header) (*http.Response, []byte) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.ctx, method, "http://"+c.aef.API+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header = headers
	for _, value := range headers["Authorization"] {
		if _, raw, ok := strings.Cut(value, " "); ok && len(raw) > 16 {
			c.secret = append(c.secret, strings.Split(raw, ".")...)
		}
	}
	response, err := (&http.Client{Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response, body
}

// noSecrets fails if the log of the AEF holds a part of a token.
func (c *calls) noSecrets() {
	c.t.Helper()
	log := c.caddy.Log()
	for _, part := range c.secret {
		if len(part) > 16 && strings.Contains(log, part) {
			c.t.Errorf("the log holds a part of a token: %.20s…", part)
		}
	}
}

// problemOf decodes a problem document and returns the fragment of its type.
func problemOf(t *testing.T, body []byte) string {
	t.Helper()
	var p struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	err := json.Unmarshal(body, &p)
	if err != nil || p.Title == "" || p.Detail == "" || p.Status == 0 {
		t.Errorf("got %s, %v; want a problem document", body, err)
	}
	_, fragment, _ := strings.Cut(p.Type, "#")
	return fragment
}

func bearer(raw string) http.Header { return http.Header{"Authorization": {"Bearer " + raw}} }

func rsaPublicPEM(t *testing.T, c *calls) []byte {
	t.Helper()
	data, err := c.scene.Core.TokenKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// malleate turns the signature (r, s) of an ES256 token into (r, n-s), which
// verifies as well.
func malleate(t *testing.T, raw string) string {
	t.Helper()
	cut := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[cut+1:])
	if err != nil || len(signature) != 64 {
		t.Fatalf("got %d bytes, %v; want an ES256 signature", len(signature), err)
	}
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(order, s).FillBytes(signature[32:])
	return raw[:cut+1] + base64.RawURLEncoding.EncodeToString(signature)
}

// TestBadCalls sends every kind of bad call to a real Caddy. None reaches the
// service API, each gets its answer, and no part of a token is logged.
func TestBadCalls(t *testing.T) {
	c := newCalls(t, "RS256", func(c *calls) { c.aef.OptionsExtra = "debug\n" })
	otherKey, err := coretest.NewKey("RS256")
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.LastIndexByte(c.good, '.')
	flipped := []byte(c.good)
	flipped[cut+10] ^= 1
	parts := strings.Split(c.good, ".")
	invalid := func(detail string) string {
		return `Bearer realm="aef-a", error="invalid_token", error_description="` + detail + `"`
	}
	const noKey = "the token signature does not verify with any key of the core"
	for _, test := range []struct {
		name      string
		header    http.Header
		status    int
		problem   string
		challenge string
	}{
		{"no token", http.Header{}, 401, "no-token", `Bearer realm="aef-a"`},
		{"another scheme", http.Header{"Authorization": {"Basic aW52Om5v"}}, 401, "no-token", `Bearer realm="aef-a"`},
		{"a scheme that begins alike", http.Header{"Authorization": {"Bearerx " + c.good}}, 401, "no-token", `Bearer realm="aef-a"`},
		{"empty bearer", http.Header{"Authorization": {"Bearer "}}, 400, "malformed-request",
			`Bearer realm="aef-a", error="invalid_request", error_description="send exactly one Authorization header with exactly one bearer token"`},
		{"two Authorization headers", http.Header{"Authorization": {"Bearer " + c.good, "Bearer " + c.good}}, 400, "malformed-request",
			`Bearer realm="aef-a", error="invalid_request", error_description="send exactly one Authorization header with exactly one bearer token"`},
		{"malformed token", bearer("x.y"), 401, "token-malformed", invalid("the token is not a compact JWS of three parts")},
		{"alg none", bearer(c.mint(coretest.TokenSpec{Algorithm: "none"})), 401, "token-bad-signature",
			invalid("the signature algorithm of the token is not allowed")},
		{"HMAC with the public key as secret", bearer(c.mint(coretest.TokenSpec{Algorithm: "HS256", Key: rsaPublicPEM(t, c)})), 401, "token-bad-signature",
			invalid("the signature algorithm of the token is not allowed")},
		{"expired", bearer(c.mint(coretest.TokenSpec{ExpiresAt: time.Now().Add(-time.Minute)})), 401, "token-expired", invalid("the token has expired")},
		{"not yet valid", bearer(c.mint(coretest.TokenSpec{Claims: map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}})), 401, "token-not-yet-valid",
			invalid("the token is not valid yet")},
		{"wrong key", bearer(c.mint(coretest.TokenSpec{Key: otherKey})), 401, "token-bad-signature", invalid(noKey)},
		{"unknown kid", bearer(c.mint(coretest.TokenSpec{Key: otherKey, KeyID: "nobody"})), 401, "token-bad-signature", invalid(noKey)},
		{"forged signature on a cached token", bearer(string(flipped)), 401, "token-bad-signature", invalid(noKey)},
		{"no invoker", bearer(c.mint(coretest.TokenSpec{Claims: map[string]any{"iss": nil, "client_id": nil}})), 401, "token-no-invoker",
			invalid("the token does not name an API invoker")},
		{"padded base64url", bearer(c.good + "="), 401, "token-malformed", invalid("a part of the token is not canonical base64url")},
		{"trailing bits", bearer(parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-1] + nextChar(parts[2])), 401, "token-malformed",
			invalid("a part of the token is not canonical base64url")},
		{"64 KiB", bearer(c.good + strings.Repeat("A", 64<<10)), 401, "token-malformed", invalid("the token is longer than 16 KiB")},
		{"wrong scope", bearer(c.mint(coretest.TokenSpec{Scope: "3gpp#aef-a:other"})), 403, "insufficient-scope",
			`Bearer realm="aef-a", error="insufficient_scope", error_description="the access token does not cover this API"`},
		{"apiName that begins alike", bearer(c.mint(coretest.TokenSpec{Scope: "3gpp#aef-a:location2,locatio"})), 403, "insufficient-scope",
			`Bearer realm="aef-a", error="insufficient_scope", error_description="the access token does not cover this API"`},
		{"aefId that begins alike", bearer(c.mint(coretest.TokenSpec{Scope: "3gpp#aef-ab:location;aef:location"})), 403, "insufficient-scope",
			`Bearer realm="aef-a", error="insufficient_scope", error_description="the access token does not cover this API"`},
		{"prefix that begins alike", bearer(c.mint(coretest.TokenSpec{Scope: "3gppXYZ#aef-a:location"})), 403, "insufficient-scope",
			`Bearer realm="aef-a", error="insufficient_scope", error_description="the access token does not cover this API"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := c.call(http.MethodGet, "/location/1", test.header)
			if response.StatusCode != test.status {
				t.Errorf("got status %v, %s; want %v", response.StatusCode, body, test.status)
			}
			if got := problemOf(t, body); got != test.problem {
				t.Errorf("got problem %v; want %v", got, test.problem)
			}
			if got := response.Header.Get("WWW-Authenticate"); got != test.challenge {
				t.Errorf("got challenge %v; want %v", got, test.challenge)
			}
			if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("got content type %v", got)
			}
			if got := response.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("got cache control %v", got)
			}
		})
	}
	if got := c.served.Load(); got != 0 {
		t.Errorf("got %v bad calls at the service API; want none", got)
	}
	c.want(c.aef, "/location/1", c.good, http.StatusOK)
	c.noSecrets()
	if !strings.Contains(c.caddy.Log(), "call refused") {
		t.Error("the log has no debug line about refused calls: the test of secrets saw nothing")
	}
}

// nextChar returns the base64url character whose value is one above that of the
// last one: for a signature of 256 bytes, the same bytes with a stray bit.
func nextChar(part string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, part[len(part)-1])^1])
}

// TestMalleableSignature: a revoked token does not look new with the other
// signature that verifies, nor does that one make it pass.
func TestMalleableSignature(t *testing.T) {
	c := newCalls(t, "ES256", nil)
	other := malleate(t, c.good)
	if bytes.Equal([]byte(other), []byte(c.good)) {
		t.Fatal("the signature did not change")
	}
	answers, err := c.scene.Core.RevokeByCore(c.ctx, coretest.CoreRevoke{
		InvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: "AUTHORIZATION_ISSUE", AccessToken: c.good,
	})
	if err != nil || len(answers) != 1 || answers[0].Status != http.StatusOK {
		t.Fatalf("revoking one token: got %+v, %v; want one 200", answers, err)
	}
	for name, raw := range map[string]string{"the token": c.good, "its other signature": other} {
		response, body := c.call(http.MethodGet, "/location/1", bearer(raw))
		if got := problemOf(t, body); response.StatusCode != http.StatusUnauthorized || got != "token-revoked" {
			t.Errorf("%s: got %v, %v; want 401 token-revoked", name, response.StatusCode, got)
		}
	}
	c.want(c.aef, "/qos/1", c.good, http.StatusOK) // another API of the same token
	c.want(c.aef, "/location/1", c.mint(coretest.TokenSpec{}), http.StatusOK)
}

func TestPreflight(t *testing.T) {
	for _, test := range []struct {
		name   string
		extra  string
		header http.Header
		status int
	}{
		{"refused by default", "", http.Header{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"GET"}}, http.StatusUnauthorized},
		{"passed where told so", "preflight pass", http.Header{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"GET"}}, http.StatusOK},
		{"only a real preflight", "preflight pass", http.Header{"Origin": {"https://app.example"}}, http.StatusUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCalls(t, "ES256", func(c *calls) { c.aef.RouteExtra = test.extra })
			response, body := c.call(http.MethodOptions, "/location/1", test.header)
			if response.StatusCode != test.status {
				t.Errorf("got %v, %s; want %v", response.StatusCode, body, test.status)
			}
		})
	}
}

// TestPlaceholders: the invoker is the user of a call that is passed on, and
// handle_errors can say why one was not.
func TestPlaceholders(t *testing.T) {
	c := newCalls(t, "ES256", func(c *calls) {
		c.aef.RouteExtra = "pass_errors"
		c.aef.SiteExtra = "request_header X-User {http.auth.user.id}\n" +
			"\thandle_errors {\n\t\trespond \"refused: {http.capif.reason} {err.status_code}\" {err.status_code}\n\t}"
	})
	response, body := c.call(http.MethodGet, "/location/1", bearer("x.y"))
	if got := string(body); response.StatusCode != http.StatusUnauthorized || got != "refused: token_malformed 401" {
		t.Errorf("got %v, %s; want what handle_errors says", response.StatusCode, got)
	}
	if got := response.Header.Get("WWW-Authenticate"); !strings.Contains(got, `error="invalid_token"`) {
		t.Errorf("got challenge %q; want it also with pass_errors", got)
	}
}

// TestOtherIssuer: a route for tokens of another issuer names the claim, the
// plain scope value and the keys.
func TestOtherIssuer(t *testing.T) {
	key, err := coretest.NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var file string
	c := newCalls(t, "ES256", func(c *calls) {
		file = filepath.Join(c.aef.Dir, "issuer.pem")
		err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		c.aef.SiteExtra = "handle /camara/* {\n\t\tcapif_enforce {\n\t\t\tapi_id camara-1\n\t\t\tscope location-verification:verify\n" +
			"\t\t\tinvoker_claim client_id\n\t\t\ttoken_keys pem " + file + "\n\t\t\trequire_context off\n\t\t}\n\t\treverse_proxy " + c.aef.BackendAddress + "\n\t}"
	})
	camara := func(scope string, signer any) string {
		return c.mint(coretest.TokenSpec{
			Key: signer, NoKeyID: true,
			Claims: map[string]any{"iss": "https://issuer.example", "client_id": "app-7", "scope": scope},
		})
	}
	c.want(c.aef, "/camara/1", camara("openid location-verification:verify", key), http.StatusOK)
	c.want(c.aef, "/camara/1", camara("location-verification:verify2", key), http.StatusForbidden)
	c.want(c.aef, "/camara/1", camara("location-verification:verify", nil), http.StatusUnauthorized) // the core's key
	c.want(c.aef, "/camara/1", c.good, http.StatusUnauthorized)
	c.want(c.aef, "/location/1", camara("3gpp#aef-a:location", key), http.StatusUnauthorized)
}
