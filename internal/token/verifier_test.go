package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestVerifyAlgorithms(t *testing.T) {
	k := keys()
	v := verifier(t, Settings{Algorithms: strings.Split(supportedNames, ", ")}, allKeys(t))
	signers := map[string]any{
		"RS256": k.rsa, "RS384": k.rsa, "RS512": k.rsa, "PS256": k.rsa, "PS384": k.rsa, "PS512": k.rsa,
		"ES256": k.p256, "ES384": k.p384, "ES512": k.p521, "EdDSA": k.ed,
	}
	for alg, key := range signers {
		t.Run(alg, func(t *testing.T) {
			raw := mintAs(alg, key, goodClaims(`"nbf":1799999999,`))
			got, err := v.Verify(t.Context(), raw, now)
			if err != nil {
				t.Fatal(err)
			}
			id, _ := v.KeySetID()
			want := Token{
				Invoker: "inv-1", Expires: soon, NotBefore: 1799999999, Scope: "3gpp#aef-1:location,qos",
				Digest: must(DigestOf(raw)), KeySetID: id,
			}
			if got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	k := keys()
	good := mintAs("RS256", k.rsa, goodClaims(""))
	parts := strings.Split(good, ".")
	withHeader := func(header string) string { return mint("RS256", k.rsa, header, goodClaims("")) }
	publicDER := must(x509.MarshalPKIXPublicKey(&k.rsa.PublicKey))
	embedded := string(must(json.Marshal(map[string]any{"alg": "RS256", "jwk": jwkOf(&k.otherRSA.PublicKey, nil)})))

	tests := []struct {
		name, raw string
		want      Kind
	}{
		{"empty", "", Malformed},
		{"one part", "abc", Malformed},
		{"two parts", parts[0] + "." + parts[1], Malformed},
		{"four parts", good + ".x", Malformed},
		{"five parts of a JWE", "a.b.c.d.e", Malformed},
		{"dots only", "..", Malformed},
		{"no header", "." + parts[1] + "." + parts[2], Malformed},
		{"no payload", mint("RS256", k.rsa, `{"alg":"RS256"}`, ""), Malformed},
		{"JSON form", `{"payload":"x"}`, Malformed},
		{"leading space", " " + good, Malformed},
		{"trailing newline", good + "\n", Malformed},
		{"newline in signature", good[:len(good)-4] + "\r\n" + good[len(good)-4:], Malformed},
		{"newline in header", parts[0][:4] + "\n" + good[4:], Malformed},
		{"padding", good + "==", Malformed},
		{"standard alphabet", parts[0] + "." + parts[1] + ".+/" + parts[2][2:], Malformed},
		{"not base64", parts[0] + "." + parts[1] + ".!!!!", Malformed},
		{"impossible length", parts[0] + "." + parts[1] + ".AAAAA", Malformed},
		{"64 KiB", mintAs("RS256", k.rsa, goodClaims(`"pad":"`+strings.Repeat("x", 48<<10)+`",`)), Malformed},
		{"64 KiB of dots", strings.Repeat(".", 64<<10), Malformed},

		{"header is no JSON", withHeader(`alg`), Malformed},
		{"header is a list", withHeader(`["alg","RS256"]`), Malformed},
		{"header has trailing data", withHeader(`{"alg":"RS256"}{}`), Malformed},
		{"header is not UTF-8", withHeader("{\"alg\":\"RS256\",\"x\":\"\xff\"}"), Malformed},
		{"no alg", withHeader(`{"typ":"JWT"}`), Malformed},
		{"alg in another case", withHeader(`{"Alg":"RS256"}`), Malformed},
		{"alg twice", withHeader(`{"alg":"RS256","alg":"RS256"}`), Malformed},
		{"alg twice, one escaped", withHeader(`{"alg":"RS256","\u0061lg":"none"}`), Malformed},
		{"alg null", withHeader(`{"alg":null}`), Malformed},
		{"alg list", withHeader(`{"alg":["RS256"]}`), Malformed},
		{"kid number", withHeader(`{"alg":"RS256","kid":1}`), Malformed},
		{"kid twice", withHeader(`{"alg":"RS256","kid":"a","kid":"b"}`), Malformed},
		{"crit", withHeader(`{"alg":"RS256","crit":["exp"]}`), Malformed},
		{"empty crit", withHeader(`{"alg":"RS256","crit":[]}`), Malformed},
		{"b64", withHeader(`{"alg":"RS256","b64":true}`), Malformed},

		{"alg none", mintAs("none", nil, goodClaims("")), BadSignature},
		{"alg None", mint("none", nil, `{"alg":"None"}`, goodClaims("")), BadSignature},
		{"alg empty", mint("none", nil, `{"alg":""}`, goodClaims("")), BadSignature},
		{"alg none with good signature", parts[0] + "." + parts[1] + ".", BadSignature},
		{"HMAC with the public key in DER", mintAs("HS256", publicDER, goodClaims("")), BadSignature},
		{"HMAC with the public key in PEM", mintAs("HS256", publicPEM(&k.rsa.PublicKey), goodClaims("")), BadSignature},
		{"HMAC called RS256", mint("HS256", publicDER, `{"alg":"RS256"}`, goodClaims("")), BadSignature},
		{"alg not on the list", mintAs("RS384", k.rsa, goodClaims("")), BadSignature},
		{"alg in lower case", mint("RS256", k.rsa, `{"alg":"rs256"}`, goodClaims("")), BadSignature},
		{"wrong key", mintAs("RS256", k.otherRSA, goodClaims("")), BadSignature},
		{"RS256 called PS256", mint("RS256", k.rsa, `{"alg":"PS256"}`, goodClaims("")), BadSignature},
		{"ES256 by a P-384 key", mint("ES256", k.p384, `{"alg":"ES256"}`, goodClaims("")), BadSignature},
		{"ES256 called EdDSA", mint("ES256", k.p256, `{"alg":"EdDSA"}`, goodClaims("")), BadSignature},
		{"ES256 signature of zeros", parts256(k.p256) + "." + b64(make([]byte, 64)), BadSignature},
		{"ES256 signature in DER", derSigned(k.p256), BadSignature},
		{"ES256 signature with a byte more", parts256(k.p256) + "." + b64(make([]byte, 65)), BadSignature},
		{"key in the token", mint("RS256", k.otherRSA, embedded, goodClaims("")), BadSignature},
		{"payload of another token", parts[0] + "." + b64([]byte(goodClaims(`"x":1,`))) + "." + parts[2], BadSignature},
		{"forged signature", parts[0] + "." + parts[1] + "." + b64(make([]byte, 256)), BadSignature},
	}
	v := verifier(t, Settings{}, allKeys(t))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), tt.raw, now)
			wantKind(t, err, tt.want)
			if got != (Token{}) {
				t.Errorf("got %+v beside an error; want nothing", got)
			}
		})
	}
}

func parts256(key *ecdsa.PrivateKey) string {
	raw := mintAs("ES256", key, goodClaims(""))
	return raw[:strings.LastIndexByte(raw, '.')]
}

func derSigned(key *ecdsa.PrivateKey) string {
	input := parts256(key)
	sig := signature("ES256", key, input)
	return input + "." + b64(append([]byte{0x30, 0x44, 2, 32}, sig...))
}

func TestVerifyClaims(t *testing.T) {
	const scope = `,"scope":"s"`
	exp := fmt.Sprintf(`"exp":%d`, soon)
	tests := []struct {
		name, claims string
		want         Kind // 0: accepted
	}{
		{"iss alone", `{"iss":"inv-1",` + exp + `}`, 0},
		{"client_id alone", `{"client_id":"inv-1",` + exp + `}`, 0},
		{"both agree", `{"iss":"inv-1","client_id":"inv-1",` + exp + `}`, 0},
		{"unknown and nested claims", `{"iss":"inv-1",` + exp + `,"res_owner_id":null,"a":{"exp":1,"b":[[{}]]},"aud":["x"],"Iss":"z","EXP":1}`, 0},
		{"core of OpenCAPIF", `{"fresh":false,"iat":1799999000,"jti":"j","type":"access","sub":"inv-1","nbf":1799999000,"csrf":"c",` + exp + `,"iss":"inv-1"` + scope + `}`, 0},
		{"fractional exp", `{"iss":"inv-1","exp":1800000600.9}`, 0},
		{"exp with exponent", `{"iss":"inv-1","exp":1.8000006e9}`, 0},
		{"escaped name", `{"\u0069ss":"inv-1",` + exp + `}`, 0},
		{"list of scopes", `{"iss":"inv-1",` + exp + `,"scope":["a","b"]}`, 0},

		{"both differ", `{"iss":"inv-1","client_id":"inv-2",` + exp + `}`, NoInvoker},
		{"none", `{` + exp + `}`, NoInvoker},
		{"other case", `{"Iss":"inv-1",` + exp + `}`, NoInvoker},
		{"empty", `{"iss":"",` + exp + `}`, NoInvoker},
		{"empty beside good", `{"iss":"inv-1","client_id":"",` + exp + `}`, NoInvoker},
		{"longer than a claim can name", `{"iss":"` + strings.Repeat("i", 1025) + `",` + exp + `}`, Malformed},
		{"number", `{"iss":7,` + exp + `}`, Malformed},
		{"null", `{"iss":null,` + exp + `}`, Malformed},
		{"list", `{"iss":["inv-1"],` + exp + `}`, Malformed},
		{"twice", `{"iss":"inv-1","iss":"inv-1",` + exp + `}`, Malformed},
		{"null beside good", `{"iss":"inv-1","client_id":null,` + exp + `}`, Malformed},
		{"control character", `{"iss":"inv-1\n",` + exp + `}`, Malformed},
		{"lone surrogate", `{"iss":"inv-1\ud800",` + exp + `}`, Malformed},
		{"not UTF-8", "{\"iss\":\"inv-1\xff\"," + exp + "}", Malformed},

		{"no exp", `{"iss":"inv-1"}`, Malformed},
		{"exp string", `{"iss":"inv-1","exp":"1800000600"}`, Malformed},
		{"exp null", `{"iss":"inv-1","exp":null}`, Malformed},
		{"exp true", `{"iss":"inv-1","exp":true}`, Malformed},
		{"exp list", `{"iss":"inv-1","exp":[1800000600]}`, Malformed},
		{"exp twice", `{"iss":"inv-1","exp":1,` + exp + `}`, Malformed},
		{"exp 1e300", `{"iss":"inv-1","exp":1e300}`, Malformed},
		{"exp 1e999", `{"iss":"inv-1","exp":1e999}`, Malformed},
		{"exp over int64", `{"iss":"inv-1","exp":9223372036854775808}`, Malformed},
		{"exp at int64", `{"iss":"inv-1","exp":9223372036854775807}`, Malformed},
		{"exp after the year 9999", `{"iss":"inv-1","exp":253402300800}`, Malformed},
		{"exp negative", `{"iss":"inv-1","exp":-1}`, Malformed},
		{"exp negative fraction", `{"iss":"inv-1","exp":-0.5}`, Malformed},
		{"exp with plus", `{"iss":"inv-1","exp":+1800000600}`, Malformed},
		{"exp in hex", `{"iss":"inv-1","exp":0x7000000000}`, Malformed},
		{"exp NaN", `{"iss":"inv-1","exp":NaN}`, Malformed},
		{"exp is a duration", `{"iss":"inv-1","exp":3600}`, Expired},
		{"exp zero", `{"iss":"inv-1","exp":0}`, Expired},
		{"expired", `{"iss":"inv-1","exp":1799999995}`, Expired},
		{"not yet valid", `{"iss":"inv-1",` + exp + `,"nbf":1800000006}`, NotYetValid},
		{"nbf is rounded up", `{"iss":"inv-1",` + exp + `,"nbf":1800000005.5}`, NotYetValid},
		{"fractional nbf reached", `{"iss":"inv-1",` + exp + `,"nbf":1800000004.5}`, 0},
		{"nbf string", `{"iss":"inv-1",` + exp + `,"nbf":"1"}`, Malformed},
		{"nbf null", `{"iss":"inv-1",` + exp + `,"nbf":null}`, Malformed},
		{"nbf 1e300", `{"iss":"inv-1",` + exp + `,"nbf":1e300}`, Malformed},
		{"nbf twice", `{"iss":"inv-1",` + exp + `,"nbf":1,"nbf":1}`, Malformed},

		{"scope number", `{"iss":"inv-1",` + exp + `,"scope":1}`, Malformed},
		{"scope object", `{"iss":"inv-1",` + exp + `,"scope":{}}`, Malformed},
		{"scope null", `{"iss":"inv-1",` + exp + `,"scope":null}`, Malformed},
		{"scope list with number", `{"iss":"inv-1",` + exp + `,"scope":["a",1]}`, Malformed},
		{"scope list with null", `{"iss":"inv-1",` + exp + `,"scope":["a",null]}`, Malformed},
		{"scope twice", `{"iss":"inv-1",` + exp + `,"scope":"","scope":"a"}`, Malformed},

		{"list", `[]`, Malformed},
		{"null", `null`, Malformed},
		{"trailing data", `{"iss":"inv-1",` + exp + `} x`, Malformed},
		{"cut off", `{"iss":"inv-1",` + exp, Malformed},
		{"deep", `{"a":` + strings.Repeat("[", 11000) + `}`, Malformed},
	}
	v := verifier(t, Settings{}, allKeys(t))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), mintAs("EdDSA", keys().ed, tt.claims), now)
			wantKind(t, err, tt.want)
			if tt.want == 0 && (got.Invoker != "inv-1" || got.Expires != soon) {
				t.Errorf("got invoker %q, exp %d; want inv-1, %d", got.Invoker, got.Expires, soon)
			}
			if err != nil && strings.Contains(err.Error(), "inv-") {
				t.Errorf("error text %q repeats the token", err)
			}
		})
	}
}

func TestClaimSettings(t *testing.T) {
	v := verifier(t, Settings{InvokerClaims: []string{"azp", "clientId"}, ScopeClaim: "scp"}, allKeys(t))
	raw := mintAs("EdDSA", keys().ed, fmt.Sprintf(`{"iss":"https://realm","azp":"inv-1","scope":5,"scp":["x","location:read"],"exp":%d}`, soon))
	got, err := v.Verify(t.Context(), raw, now)
	if err != nil {
		t.Fatal(err)
	}
	if got.Invoker != "inv-1" || got.Scope != "x location:read" {
		t.Errorf("got invoker %q, scope %q; want inv-1, x location:read", got.Invoker, got.Scope)
	}
}

func TestValidAt(t *testing.T) {
	at := func(seconds int64, nanos int64) time.Time { return time.Unix(seconds, nanos) }
	tests := []struct {
		name   string
		leeway time.Duration
		now    time.Time
		want   Kind
	}{
		{"inside", NoLeeway, at(150, 0), 0},
		{"last moment", NoLeeway, at(199, 999_999_999), 0},
		{"at exp", NoLeeway, at(200, 0), Expired},
		{"at nbf", NoLeeway, at(100, 0), 0},
		{"just before nbf", NoLeeway, at(99, 999_999_999), NotYetValid},
		{"default leeway, last moment", 0, at(204, 999_999_999), 0},
		{"default leeway, over", 0, at(205, 0), Expired},
		{"default leeway, nbf", 0, at(95, 0), 0},
		{"default leeway, before nbf", 0, at(94, 999_999_999), NotYetValid},
		{"most leeway", MaxLeeway, at(229, 0), 0},
		{"most leeway, over", MaxLeeway, at(230, 0), Expired},
		{"part of a second", 500 * time.Millisecond, at(200, 499_999_999), 0},
		{"part of a second, over", 500 * time.Millisecond, at(200, 500_000_000), Expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := verifier(t, Settings{Leeway: tt.leeway}, allKeys(t))
			wantKind(t, v.ValidAt(200, 100, tt.now), tt.want)
		})
	}
	v := verifier(t, Settings{}, allKeys(t))
	if err := v.ValidAt(200, 0, at(1, 0)); err != nil {
		t.Errorf("without nbf: got %v; want none", err)
	}
}

// A malleated signature may verify or not: what counts is that it does not make
// the token another one.
func TestDigestIgnoresSignature(t *testing.T) {
	raw := mintAs("ES256", keys().p256, goodClaims(""))
	cut := strings.LastIndexByte(raw, '.')
	sig := must(base64.RawURLEncoding.DecodeString(raw[cut+1:]))
	curve := keys().p256.Curve
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(curve.Params().N, s)
	malleated := raw[:cut+1] + b64(joinRS(curve, new(big.Int).SetBytes(sig[:32]), s))
	if malleated == raw {
		t.Fatal("the signature was not changed")
	}
	if a, b := must(DigestOf(raw)), must(DigestOf(malleated)); a != b {
		t.Errorf("got digests %v and %v; want the same", a, b)
	}
	if a, b := must(DigestOf(raw)), must(DigestOf(mintAs("ES256", keys().p256, goodClaims(`"x":1,`)))); a == b {
		t.Error("two tokens have the same digest")
	}
	v := verifier(t, Settings{}, allKeys(t))
	if got, err := v.Verify(t.Context(), malleated, now); err == nil && got.Digest != must(DigestOf(raw)) {
		t.Errorf("the malleated token verifies with digest %v; want that of the original", got.Digest)
	}
}

// Every spelling of the last character that decodes to the same bytes but the
// canonical one is refused, in each part.
func TestTrailingBitsRefused(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	k := keys()
	v := verifier(t, Settings{}, allKeys(t))
	// Parts of a length that leaves bits over: 64 and 256 bytes do.
	raw := mint("EdDSA", k.ed, `{"alg":"EdDSA" }`, strings.Replace(goodClaims(""), "inv-1", "inv-1", 1))
	if _, err := v.Verify(t.Context(), raw, now); err != nil {
		t.Fatal(err)
	}
	tried := 0
	parts := strings.Split(raw, ".")
	for i, part := range parts {
		want := must(base64.RawURLEncoding.DecodeString(part))
		for _, c := range alphabet {
			other := part[:len(part)-1] + string(c)
			decoded, err := base64.RawURLEncoding.DecodeString(other)
			if other == part || err != nil || string(decoded) != string(want) {
				continue
			}
			tried++
			changed := append([]string{}, parts...)
			changed[i] = other
			_, err = v.Verify(t.Context(), strings.Join(changed, "."), now)
			wantKind(t, err, Malformed)
			_, err = DigestOf(strings.Join(changed, "."))
			wantKind(t, err, Malformed)
		}
	}
	if tried < 15 {
		t.Errorf("tried %d spellings; want at least those of the signature, 15", tried)
	}
}

func TestPeek(t *testing.T) {
	raw := mintAs("none", nil, goodClaims(""))
	got, err := Peek(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Unverified{Digest: must(DigestOf(raw)), Expires: soon}); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	got, err = Peek(mintAs("none", nil, `{"exp":"x"}`))
	if err != nil || got.Expires != 0 {
		t.Errorf("unreadable exp: got %+v, %v; want exp 0", got, err)
	}
	for _, bad := range []string{"", "a.b", raw + "\n", raw + "=", raw + ".x", strings.Repeat("A", MaxBytes+1)} {
		_, err := Peek(bad)
		wantKind(t, err, Malformed)
		_, err = DigestOf(bad)
		wantKind(t, err, Malformed)
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	source := allKeys(t)
	tests := []struct {
		name     string
		settings Settings
		want     string
	}{
		{"none", Settings{Algorithms: []string{"none"}}, "no signature"},
		{"HMAC", Settings{Algorithms: []string{"RS256", "HS256"}}, "shared secret"},
		{"unknown", Settings{Algorithms: []string{"ES256K"}}, "not known"},
		{"lower case", Settings{Algorithms: []string{"rs256"}}, "case-sensitive"},
		{"empty algorithm", Settings{Algorithms: []string{""}}, "empty"},
		{"algorithm twice", Settings{Algorithms: []string{"RS256", "RS256"}}, "twice"},
		{"leeway", Settings{Leeway: 30*time.Second + 1}, "33.122"},
		{"negative leeway", Settings{Leeway: -time.Second}, "negative"},
		{"empty claim", Settings{InvokerClaims: []string{""}}, "empty"},
		{"claim twice", Settings{InvokerClaims: []string{"iss", "iss"}}, "twice"},
		{"invoker in exp", Settings{InvokerClaims: []string{"exp"}}, "cannot name"},
		{"invoker in scope", Settings{InvokerClaims: []string{"scp"}, ScopeClaim: "scp"}, "cannot name"},
		{"scope in exp", Settings{ScopeClaim: "exp"}, "cannot hold"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewVerifier(tt.settings, source)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := NewVerifier(Settings{}, nil); err == nil {
		t.Error("no source: got no error")
	}
}

func TestFingerprint(t *testing.T) {
	source := allKeys(t)
	base := verifier(t, Settings{}, source).Fingerprint()
	same := []Settings{
		{Leeway: DefaultLeeway},
		{Algorithms: []string{"EdDSA", "ES256", "RS256", "PS256"}},
		{InvokerClaims: []string{"client_id", "iss"}, ScopeClaim: "scope"},
	}
	for _, s := range same {
		if verifier(t, s, source).Fingerprint() != base {
			t.Errorf("%+v: another fingerprint; want that of the defaults", s)
		}
	}
	seen := map[[16]byte]Settings{base: {}}
	for _, s := range []Settings{
		{Leeway: NoLeeway}, {Leeway: MaxLeeway}, {Algorithms: []string{"RS256"}},
		{InvokerClaims: []string{"iss"}}, {InvokerClaims: []string{"client_id"}}, {ScopeClaim: "scp"},
	} {
		f := verifier(t, s, source).Fingerprint()
		if other, ok := seen[f]; ok {
			t.Errorf("%+v and %+v have the same fingerprint", s, other)
		}
		seen[f] = s
	}
}

func TestKeysMissing(t *testing.T) {
	source := FromFunc("test", func(context.Context) ([]Key, error) { return nil, errors.New("down") }, Options{})
	v := verifier(t, Settings{}, source)
	_, err := v.Verify(t.Context(), mintAs("EdDSA", keys().ed, goodClaims("")), now)
	wantKind(t, err, KeysMissing)
	if _, ok := v.KeySetID(); ok {
		t.Error("KeySetID is there without keys")
	}
	// What cannot be a token is the caller's mistake also without keys.
	_, err = v.Verify(t.Context(), "x", now)
	wantKind(t, err, Malformed)
}

func TestErrors(t *testing.T) {
	v := verifier(t, Settings{}, allKeys(t))
	_, err := v.Verify(t.Context(), "secret", now)
	var e *Error
	if !errors.As(fmt.Errorf("check: %w", err), &e) || e.Kind != Malformed {
		t.Errorf("errors.As found %v; want Malformed", e)
	}
	if got := KindOf(errors.New("x")); got != 0 {
		t.Errorf("kind of a foreign error: got %v; want 0", got)
	}
	for k := Malformed; k <= KeysMissing; k++ {
		if k.String() == "" || k.String() == "unknown" {
			t.Errorf("kind %d has no name", k)
		}
	}
	if got := Kind(99).String(); got != "unknown" {
		t.Errorf("got %q; want unknown", got)
	}
}

func TestAllocations(t *testing.T) {
	v := verifier(t, Settings{}, allKeys(t))
	k := keys()
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_ = v.ValidAt(soon, 0, now)
		_ = v.ValidAt(1, 0, now)
		v.KeySetID()
	}); n != 0 {
		t.Errorf("checks of a cached token: %v allocations; want 0", n)
	}
	for alg, key := range map[string]any{"RS256": k.rsa, "ES256": k.p256, "EdDSA": k.ed} {
		raw := mintAs(alg, key, benchClaims)
		if n := testing.AllocsPerRun(20, func() { _, _ = v.Verify(ctx, raw, now) }); n > 80 {
			t.Errorf("Verify %s: %v allocations; want at most 80", alg, n)
		}
	}
}
