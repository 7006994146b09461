package caddyplugin_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// callsBed is one Caddy with a route for each way in which calls are decided, in
// front of a service API that remembers what reached it.
type callsBed struct {
	*bed
	aef   *testbed.AEF
	caddy *testbed.Caddy
	// rsa signs for the route /rsa, camara for /camara; rsaPEM is what the
	// route has of the first.
	rsa, camara crypto.Signer
	rsaPEM      []byte

	mu      sync.Mutex
	reached []*http.Request
	tokens  []string // everything that was sent as a token
}

// callsRoutes are routes beside /location and /qos.
const callsRoutes = `log
	handle /rsa/* {
		capif_enforce {
			api_id     8f36c0
			api_name   location
			token_keys pem %[2]s
		}
		reverse_proxy %[1]s
	}
	handle /camara/* {
		capif_enforce {
			api_id        8f36c0
			scope         location-retrieval:read
			invoker_claim client_id
			token_keys    pem %[3]s
		}
		reverse_proxy %[1]s
	}
	handle /preflight/* {
		capif_enforce {
			api_id    8f36c0
			api_name  location
			preflight pass
		}
		reverse_proxy %[1]s
	}
	handle /passed/* {
		capif_enforce {
			api_id   8f36c0
			api_name location
			pass_errors
		}
		reverse_proxy %[1]s
	}
	handle /user/* {
		capif_enforce {
			api_id   8f36c0
			api_name location
		}
		reverse_proxy %[1]s {
			header_up X-Api-Invoker {http.auth.user.id}
		}
	}
	handle_errors {
		header Content-Type text/plain
		respond "refused: {http.capif.reason}"
	}`

func newCallsBed(t *testing.T) *callsBed {
	t.Helper()
	b := &callsBed{bed: newBed(t, coretest.Options{})}
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.reached = append(b.reached, r)
	}))
	t.Cleanup(backend.Close)
	b.aef = b.bed.aef("aef-a", testbed.Provider)
	b.aef.BackendAddress = backend.Listener.Addr().String()
	b.rsa, b.rsaPEM = newSigner(t, filepath.Join(b.aef.Dir, "rsa.pem"), "RS256")
	b.camara, _ = newSigner(t, filepath.Join(b.aef.Dir, "camara.pem"), "ES256")
	b.aef.SiteExtra = fmt.Sprintf(callsRoutes, b.aef.BackendAddress, filepath.Join(b.aef.Dir, "rsa.pem"), filepath.Join(b.aef.Dir, "camara.pem"))
	b.aef.OptionsExtra = "debug"
	b.publish(b.aef.ID)
	b.caddy = b.start(b.aef)
	b.bed.invoker("inv-1", b.aef.ID)
	return b
}

// newSigner makes a key and writes its public half as PEM.
func newSigner(t *testing.T, file, algorithm string) (crypto.Signer, []byte) {
	t.Helper()
	key, err := coretest.NewKey(algorithm)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	writeFile(t, file, public)
	return key, public
}

// mint makes a token; what spec leaves open makes it a good one of inv-1.
func (b *callsBed) mint(spec coretest.TokenSpec) string {
	b.t.Helper()
	if spec.InvokerID == "" {
		spec.InvokerID = "inv-1"
	}
	if spec.Scope == "" {
		spec.Scope = "3gpp#aef-a:location,qos"
	}
	token, err := b.scene.Core.MintToken(spec)
	must(b.t, err)
	return token
}

func (b *callsBed) camaraToken(claims map[string]any) string {
	b.t.Helper()
	all := map[string]any{"client_id": "inv-1", "iss": "https://issuer.example", "scope": "openid location-retrieval:read"}
	for name, value := range claims {
		all[name] = value
	}
	return b.mint(coretest.TokenSpec{Key: b.camara, NoKeyID: true, Claims: all})
}

type callAnswer struct {
	status int
	header http.Header
	body   string
	// reached is the call as the service API saw it, nil if it did not.
	reached *http.Request
}

// call sends one call with these Authorization headers.
func (b *callsBed) call(method, path string, authorization []string, header http.Header) callAnswer {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.ctx, method, "http://"+b.aef.API+path, nil)
	must(b.t, err)
	for name, values := range header {
		request.Header[name] = values
	}
	if authorization != nil {
		request.Header["Authorization"] = authorization
	}
	b.mu.Lock()
	for _, value := range authorization {
		_, token, ok := strings.Cut(value, " ")
		if ok && len(token) >= logWindow {
			b.tokens = append(b.tokens, token)
		}
	}
	before := len(b.reached)
	b.mu.Unlock()
	response, err := b.scene.Core.Client(nil).Do(request)
	must(b.t, err)
	body, err := io.ReadAll(response.Body)
	must(b.t, err)
	must(b.t, response.Body.Close())
	answer := callAnswer{status: response.StatusCode, header: response.Header, body: string(body)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.reached) > before {
		answer.reached = b.reached[len(b.reached)-1]
	}
	return answer
}

func (b *callsBed) passes(path, token string) *http.Request {
	b.t.Helper()
	got := b.call(http.MethodGet, path, []string{"Bearer " + token}, nil)
	if got.status != http.StatusOK || got.reached == nil {
		b.t.Fatalf("call %s: got %v %s, reached the service API: %v; want 200 from it", path, got.status, got.body, got.reached != nil)
	}
	return got.reached
}

// refusedAs is how a refusal looks on the wire.
type refusedAs struct {
	status    int
	kind      string // fragment of the problem type
	challenge string
}

func (b *callsBed) wantRefused(got callAnswer, want refusedAs) {
	b.t.Helper()
	if got.reached != nil {
		b.t.Errorf("got the call at the service API; want it refused")
	}
	var document struct {
		Type, Title, Detail string
		Status              int
	}
	err := json.Unmarshal([]byte(got.body), &document)
	if err != nil || got.status != want.status || document.Status != want.status || document.Title == "" || document.Detail == "" {
		b.t.Errorf("got %v, %s, %v; want %v with a problem document", got.status, got.body, err, want.status)
	}
	if _, kind, _ := strings.Cut(document.Type, "problems.md#"); kind != want.kind {
		b.t.Errorf("problem type: got %q; want %q", document.Type, want.kind)
	}
	for name, value := range map[string]string{
		"Www-Authenticate": want.challenge, "Content-Type": "application/problem+json", "Cache-Control": "no-store",
	} {
		if values := got.header[name]; len(values) != 1 || values[0] != value {
			b.t.Errorf("%s: got %q; want %q", name, values, value)
		}
	}
}

// challenge is a WWW-Authenticate with an error.
func challenge(code, description string) string {
	return fmt.Sprintf(`Bearer realm="aef-a", error=%q, error_description=%q`, code, description)
}

const bareChallenge = `Bearer realm="aef-a"`

func badToken(kind, description string) refusedAs {
	return refusedAs{http.StatusUnauthorized, kind, challenge("invalid_token", description)}
}

var (
	noToken         = refusedAs{http.StatusUnauthorized, "no-token", bareChallenge}
	malformed       = refusedAs{http.StatusBadRequest, "malformed-request", challenge("invalid_request", "send exactly one Authorization header with exactly one bearer token")}
	notInScope      = refusedAs{http.StatusForbidden, "insufficient-scope", challenge("insufficient_scope", "the access token does not cover this API")}
	badSignature    = badToken("token-bad-signature", "the token signature does not verify with any key of the core")
	badAlgorithm    = badToken("token-bad-signature", "the signature algorithm of the token is not allowed")
	badEncoding     = badToken("token-malformed", "a part of the token is not canonical base64url")
	notCompact      = badToken("token-malformed", "the token is not a compact JWS of three parts")
	tooLong         = badToken("token-malformed", "the token is longer than 16 KiB")
	revokedToken    = badToken("token-revoked", "this access token was revoked")
	revokedInvoker  = refusedAs{http.StatusForbidden, "authorization-revoked", bareChallenge}
	unlistedInvoker = refusedAs{http.StatusForbidden, "not-in-context", bareChallenge}
)

// TestCalls sends good and bad calls to one real Caddy: each gets its own answer,
// no bad one reaches the service API, and no token reaches a log line.
func TestCalls(t *testing.T) {
	b := newCallsBed(t)
	for _, part := range []struct {
		name string
		run  func(*callsBed)
	}{
		{"refused", testRefusedCalls},
		{"preflight", testPreflight},
		{"pass_errors", testPassErrors},
		{"the API invoker for the service API", testUserForwarded},
		{"plain scope", testPlainScope},
		{"a signature written in another way", testMalleableSignature},
		{"log", testLogsHoldNoToken},
	} {
		t.Run(part.name, func(t *testing.T) { b.with(t, part.run) })
	}
}

func (b *callsBed) with(t *testing.T, run func(*callsBed)) {
	parent := b.t
	b.t = t
	defer func() { b.t = parent }()
	run(b)
}

func testRefusedCalls(b *callsBed) {
	good := b.mint(coretest.TokenSpec{})
	b.passes("/location/1", good)
	head, signature := good[:strings.LastIndexByte(good, '.')], good[strings.LastIndexByte(good, '.')+1:]
	claims := strings.Split(good, ".")[1]
	other, err := coretest.NewKey("ES256")
	must(b.t, err)
	otherRSA, err := coretest.NewKey("RS256")
	must(b.t, err)
	hour := time.Hour
	mint := b.mint
	scope := func(s string) string { return mint(coretest.TokenSpec{Scope: s}) }
	one := func(token string) []string { return []string{"Bearer " + token} }
	for _, tt := range []struct {
		name          string
		path          string // default: /location/1
		authorization []string
		want          refusedAs
	}{
		{"no token", "", nil, noToken},
		{"another scheme", "", []string{"Basic aW52LTE6c2VjcmV0LW9mLWludi0x"}, noToken},
		{"the token under another scheme", "", []string{"DPoP " + good}, noToken},
		{"an empty bearer", "", []string{"Bearer"}, malformed},
		{"two Authorization headers", "", []string{"Bearer " + good, "Bearer " + good}, malformed},
		{"two Authorization headers, one of another scheme", "", []string{"Basic aW52LTE6c2VjcmV0LW9mLWludi0x", "Bearer " + good}, malformed},
		{"two tokens in one header", "", []string{"Bearer " + good + ", Bearer " + good}, malformed},
		{"no token at all", "", one("not-a-token-but-a-word"), notCompact},
		{"four parts", "", one(good + ".AAAA"), notCompact},
		{"a header that is no JSON", "", one("bm90IGpzb24." + claims + "." + signature),
			badToken("token-malformed", "the token header is not a JSON object with one alg of type string")},
		{"no expiry", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"exp": nil}})),
			badToken("token-malformed", "the token has no single exp claim that is a number of seconds since 1970")},
		{"alg none", "", one(mint(coretest.TokenSpec{Algorithm: "none"})), badAlgorithm},
		{"alg none, with a signature", "", one(mint(coretest.TokenSpec{Algorithm: "none"}) + signature), badAlgorithm},
		{"HMAC with the RSA public key as secret", "/rsa/1", one(mint(coretest.TokenSpec{Algorithm: "HS256", Key: b.rsaPEM, NoKeyID: true})), badAlgorithm},
		{"another RSA key", "/rsa/1", one(mint(coretest.TokenSpec{Algorithm: "RS256", Key: otherRSA, NoKeyID: true})), badSignature},
		{"expired", "", one(mint(coretest.TokenSpec{ExpiresAt: time.Now().Add(-hour)})), badToken("token-expired", "the token has expired")},
		{"not yet valid", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"nbf": time.Now().Add(hour / 2).Unix()}})),
			badToken("token-not-yet-valid", "the token is not valid yet")},
		{"a wrong key under a known kid", "", one(mint(coretest.TokenSpec{Key: other})), badSignature},
		{"a wrong key without kid", "", one(mint(coretest.TokenSpec{Key: other, NoKeyID: true})), badSignature},
		{"an unknown kid", "", one(mint(coretest.TokenSpec{Key: other, KeyID: "unknown"})), badSignature},
		{"names no API invoker", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"iss": nil, "client_id": nil}})),
			badToken("token-no-invoker", "the token does not name an API invoker")},
		{"names two API invokers", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"iss": "inv-1", "client_id": "inv-2"}})),
			badToken("token-no-invoker", "the claims of the token that name the API invoker differ")},
		{"the scope of another API", "", one(scope("3gpp#aef-a:qos")), notInScope},
		{"the scope of another AEF", "", one(scope("3gpp#aef-b:location")), notInScope},
		{"a name that begins alike", "", one(scope("3gpp#aef-a:location2")), notInScope},
		{"a name that is the beginning", "", one(scope("3gpp#aef-a:locatio")), notInScope},
		{"a name in another case", "", one(scope("3gpp#aef-a:Location")), notInScope},
		{"an aefId that begins alike", "", one(scope("3gpp#aef-a2:location")), notInScope},
		{"an aefId that is the beginning", "", one(scope("3gpp#aef-:location")), notInScope},
		{"a prefix that begins alike", "", one(scope("3gppXYZ#aef-a:location")), notInScope},
		{"no scope", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"scope": nil}})), notInScope},
		{"trailing bits", "", one(head + "." + trailingBits(b.t, signature)), badEncoding},
		{"padding", "", one(good + "=="), badEncoding},
		{"the alphabet of base64", "", one(head + "." + strings.Repeat("+", len(signature))), badEncoding},
		{"a forged signature on a cached token", "", one(head + "." + strings.Repeat("A", len(signature))), badSignature},
		{"another token's signature on a cached token", "", one(head + mint(coretest.TokenSpec{})[len(head):]), badSignature},
		{"no signature on a cached token", "", one(head + "."), badSignature},
		{"a token of 64 KiB", "", one(mint(coretest.TokenSpec{Claims: map[string]any{"pad": strings.Repeat("capif", 64<<10/5)}})), tooLong},
		{"not in the security context", "", one(mint(coretest.TokenSpec{InvokerID: "inv-2"})), unlistedInvoker},
	} {
		b.t.Run(tt.name, func(t *testing.T) {
			b.with(t, func(b *callsBed) {
				// The good token is in the cache whenever a bad one comes.
				b.passes("/location/1", good)
				path := tt.path
				if path == "" {
					path = "/location/1"
				}
				b.wantRefused(b.call(http.MethodGet, path, tt.authorization, nil), tt.want)
				b.passes("/location/1", good)
			})
		})
	}
	b.passes("/rsa/1", mint(coretest.TokenSpec{Algorithm: "RS256", Key: b.rsa, NoKeyID: true}))
}

// trailingBits changes the unused bits at the end of a base64url text.
func trailingBits(t *testing.T, s string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	changed := s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])+1])
	was, err := base64.RawURLEncoding.DecodeString(s)
	must(t, err)
	is, err := base64.RawURLEncoding.DecodeString(changed)
	must(t, err)
	if !bytes.Equal(was, is) {
		t.Fatal("got other bytes; want the same in another spelling")
	}
	return changed
}

// testPreflight: a preflight carries no token and is passed on only where the
// route says so.
func testPreflight(b *callsBed) {
	origin := http.Header{"Origin": {"https://app.example"}}
	full := http.Header{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"GET"}}
	b.wantRefused(b.call(http.MethodOptions, "/location/1", nil, full), noToken)
	if got := b.call(http.MethodOptions, "/preflight/1", nil, full); got.status != http.StatusOK || got.reached == nil {
		b.t.Errorf("preflight: got %v, reached %v; want 200 from the service API", got.status, got.reached != nil)
	}
	for name, call := range map[string]struct {
		method string
		header http.Header
	}{
		"OPTIONS that is no preflight": {http.MethodOptions, nil},
		"without the requested method": {http.MethodOptions, origin},
		"GET dressed as a preflight":   {http.MethodGet, full},
		"a call from a browser":        {http.MethodGet, origin},
	} {
		b.t.Run(name, func(t *testing.T) {
			b.with(t, func(b *callsBed) {
				b.wantRefused(b.call(call.method, "/preflight/1", nil, call.header), noToken)
			})
		})
	}
}

// testPassErrors: handle_errors writes the body; what RFC 6750 asks for stays.
func testPassErrors(b *callsBed) {
	for reason, tt := range map[string]struct {
		authorization []string
		want          refusedAs
	}{
		"no_token":           {nil, noToken},
		"malformed_request":  {[]string{"Bearer"}, malformed},
		"token_malformed":    {[]string{"Bearer not-a-token-but-a-word"}, notCompact},
		"insufficient_scope": {[]string{"Bearer " + b.mint(coretest.TokenSpec{Scope: "3gpp#aef-a:qos"})}, notInScope},
	} {
		got := b.call(http.MethodGet, "/passed/1", tt.authorization, nil)
		if got.status != tt.want.status || got.body != "refused: "+reason || got.reached != nil {
			b.t.Errorf("%s: got %v %q, reached %v; want %v %q", reason, got.status, got.body, got.reached != nil, tt.want.status, "refused: "+reason)
		}
		if challenge, cache := got.header.Get("Www-Authenticate"), got.header.Get("Cache-Control"); challenge != tt.want.challenge || cache != "no-store" {
			b.t.Errorf("%s: got %q, %q; want %q, no-store", reason, challenge, cache, tt.want.challenge)
		}
		if got := got.header.Get("Content-Type"); got != "text/plain" {
			b.t.Errorf("%s: content type: got %q; want that of handle_errors", reason, got)
		}
	}
	b.passes("/passed/1", b.mint(coretest.TokenSpec{}))
}

// testUserForwarded: the service API learns the API invoker from Caddy, whatever
// the caller says.
func testUserForwarded(b *callsBed) {
	for range 2 { // decided, and from the cache
		got := b.call(http.MethodGet, "/user/1", []string{"Bearer " + b.mint(coretest.TokenSpec{})}, http.Header{"X-Api-Invoker": {"inv-2"}})
		if got.reached == nil || len(got.reached.Header["X-Api-Invoker"]) != 1 || got.reached.Header.Get("X-Api-Invoker") != "inv-1" {
			b.t.Fatalf("got %v, %+v; want a call with X-Api-Invoker: inv-1", got.status, got.reached)
		}
	}
}

// testPlainScope: tokens of another issuer, with another key, claim and scope.
func testPlainScope(b *callsBed) {
	good := b.camaraToken(nil)
	b.passes("/camara/1", good)
	b.passes("/camara/1", b.camaraToken(map[string]any{"scope": []string{"openid", "location-retrieval:read"}}))
	for name, tt := range map[string]struct {
		path, token string
		want        refusedAs
	}{
		"a scope that begins alike":    {"/camara/1", b.camaraToken(map[string]any{"scope": "location-retrieval:read2"}), notInScope},
		"a scope that is the end":      {"/camara/1", b.camaraToken(map[string]any{"scope": "my-location-retrieval:read"}), notInScope},
		"a scope of the core":          {"/camara/1", b.camaraToken(map[string]any{"scope": "3gpp#aef-a:location"}), notInScope},
		"no client_id":                 {"/camara/1", b.camaraToken(map[string]any{"client_id": nil}), badToken("token-no-invoker", "the token does not name an API invoker")},
		"a token of the core":          {"/camara/1", b.mint(coretest.TokenSpec{Claims: map[string]any{"scope": "location-retrieval:read"}}), badSignature},
		"the other issuer's elsewhere": {"/location/1", b.camaraToken(map[string]any{"iss": "inv-1", "scope": "3gpp#aef-a:location"}), badSignature},
	} {
		b.t.Run(name, func(t *testing.T) {
			b.with(t, func(b *callsBed) {
				b.wantRefused(b.call(http.MethodGet, tt.path, []string{"Bearer " + tt.token}, nil), tt.want)
			})
		})
	}
	// A trigger names the apiId, whatever the route's tokens look like.
	b.trigger(b.caddy, adminapi.RevocationRequest{APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected}, http.StatusOK)
	b.wantRefused(b.call(http.MethodGet, "/camara/1", []string{"Bearer " + good}, nil), revokedInvoker)
	b.wantRefused(b.call(http.MethodGet, "/location/1", []string{"Bearer " + b.mint(coretest.TokenSpec{})}, nil), revokedInvoker)
}

// testMalleableSignature: whoever holds an ES256 token can write its signature in
// a second way. It stays the same token: what was revoked is revoked in both.
func testMalleableSignature(b *callsBed) {
	token := b.mint(coretest.TokenSpec{})
	twin := mirrored(b.t, token)
	b.passes("/qos/1", token)
	b.passes("/qos/1", twin) // both are in the cache now
	answer, err := b.scene.Core.CallAEF(b.ctx, b.aef.ID, coretest.SecurityNotification{
		APIInvokerID: "inv-1", AEFID: b.aef.ID, APIIDs: []string{testbed.OtherAPIID}, AccessToken: token, Cause: coretest.CauseUnexpected,
	})
	if err != nil || answer.Status != http.StatusOK {
		b.t.Fatalf("revoking the token: got %+v, %v; want 200", answer, err)
	}
	fresh := mirrored(b.t, b.mint(coretest.TokenSpec{}))
	for range 2 {
		b.wantRefused(b.call(http.MethodGet, "/qos/1", []string{"Bearer " + token}, nil), revokedToken)
		b.wantRefused(b.call(http.MethodGet, "/qos/1", []string{"Bearer " + twin}, nil), revokedToken)
		b.passes("/qos/1", fresh)
	}
}

// mirrored returns the token with s replaced by n − s, which verifies as well.
func mirrored(t *testing.T, token string) string {
	t.Helper()
	cut := strings.LastIndexByte(token, '.') + 1
	signature, err := base64.RawURLEncoding.DecodeString(token[cut:])
	must(t, err)
	order := elliptic.P256().Params().N
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(order, s).FillBytes(signature[32:])
	return token[:cut] + base64.RawURLEncoding.EncodeToString(signature)
}

// logWindow is how much of a token a log line would have to hold to be found.
const logWindow = 20

// testLogsHoldNoToken runs last: Caddy logs at level debug, with an access log.
func testLogsHoldNoToken(b *callsBed) {
	b.call(http.MethodGet, "/location/the-last-call", nil, nil)
	b.poll(func() bool { return strings.Contains(b.caddy.Log(), "/location/the-last-call") })
	log := b.caddy.Log()
	for _, want := range []string{`"call refused"`, `"reason":"`, `"handled request"`, "/location/1"} {
		if !strings.Contains(log, want) {
			b.t.Errorf("log: got no %s; want it, or this test sees nothing", want)
		}
	}
	if len(b.tokens) < 50 {
		b.t.Errorf("got %d tokens sent; want at least 50", len(b.tokens))
	}
	for _, token := range b.tokens {
		// Every piece of two windows holds one of these whole.
		for at := 0; at+logWindow <= len(token); at += logWindow {
			if strings.Contains(log, token[at:at+logWindow]) {
				b.t.Errorf("log: got %d bytes of a token at its byte %d; want none", logWindow, at)
				break
			}
		}
	}
}
