package token

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// FuzzVerify accepts nothing but what the test signed itself.
func FuzzVerify(f *testing.F) {
	k := keys()
	v := verifier(f, Settings{}, allKeys(f))
	signed := map[Digest]bool{}
	for alg, key := range map[string]any{"RS256": k.rsa, "PS256": k.rsa, "ES256": k.p256, "EdDSA": k.ed} {
		raw := mintAs(alg, key, benchClaims)
		signed[must(DigestOf(raw))] = true
		f.Add(raw)
	}
	f.Add(mintAs("none", nil, benchClaims))
	f.Add(mintAs("HS256", publicPEM(&k.rsa.PublicKey), benchClaims))
	f.Add(mintAs("RS256", k.otherRSA, benchClaims))
	f.Add("..")
	f.Add("e30.e30.")
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := v.Verify(t.Context(), raw, now)
		digest, formErr := DigestOf(raw)
		if err != nil {
			if KindOf(err) == 0 || got != (Token{}) {
				t.Errorf("got %+v, %v; want nothing and a *Error", got, err)
			}
			return
		}
		if formErr != nil || got.Digest != digest || !signed[digest] {
			t.Errorf("accepted %q, which was not signed here", raw)
		}
	})
}

// FuzzClaims: whatever the claims are, what is accepted has a name and a time.
func FuzzClaims(f *testing.F) {
	f.Add(benchClaims)
	f.Add(`{"iss":"a","client_id":"a","exp":1.8000006e9,"scope":["x"]}`)
	f.Add(`{"iss":"a","exp":1e300}`)
	f.Add(`{"\u0069ss":"\ud800","exp":-0}`)
	f.Add(`{"a":{"b":[1,"}\"]",{}]},"iss":"x" , "exp" : 1 }`)
	f.Fuzz(func(t *testing.T, claims string) {
		r := claimReader{invokerClaims: []string{"iss", "client_id"}, scopeClaim: "scope", invokers: make([]string, 2)}
		err := r.read([]byte(claims))
		if err != nil {
			if KindOf(err) == 0 {
				t.Errorf("got %v; want a *Error", err)
			}
			return
		}
		if r.exp < 0 || r.exp > maxNumericDate || r.nbf < 0 || r.nbf > maxNumericDate {
			t.Errorf("got exp %d, nbf %d; want 0 to %d", r.exp, r.nbf, maxNumericDate)
		}
		invoker, err := r.invoker()
		if (err == nil) != (invoker != "") {
			t.Errorf("got invoker %q, %v", invoker, err)
		}
	})
}

// FuzzMembers compares with encoding/json: the last of repeated members is what
// a map holds.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(benchClaims))
	f.Add([]byte(` { "a" : [ "]" , {"}":"\\"} ] , "a":-1.5e3 ,"\"":null,"":""} `))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"a":1}{"b":2}`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]any{}
		err := members(data, func(name string, value []byte) error {
			var v any
			if json.Unmarshal(value, &v) != nil {
				// A number too large for a float is JSON all the same.
				v = string(value)
			}
			got[name] = v
			return nil
		})
		var raw map[string]json.RawMessage
		wantErr := json.Unmarshal(data, &raw)
		if err != nil {
			if wantErr == nil && raw != nil && !errors.Is(err, errNotObject) {
				t.Errorf("got %v for %q", err, data)
			}
			return
		}
		if wantErr != nil {
			t.Fatalf("members took %q, encoding/json says %v", data, wantErr)
		}
		want := map[string]any{}
		for name, value := range raw {
			var v any
			if json.Unmarshal(value, &v) != nil {
				v = string(value)
			}
			want[name] = v
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v; want %v", got, want)
		}
	})
}

// FuzzParseKeys: whatever a key file or a JWKS server says, what is taken is a
// public key that can be used.
func FuzzParseKeys(f *testing.F) {
	k := keys()
	f.Add(publicPEM(&k.rsa.PublicKey))
	f.Add(publicPEM(k.ed.Public()))
	f.Add(pemOf("RSA PRIVATE KEY", []byte{1}))
	f.Add(jwks(jwkOf(&k.rsa.PublicKey, map[string]any{"kid": "a", "alg": "RS256", "use": "sig"})))
	f.Add(jwks(jwkOf(&k.p256.PublicKey, map[string]any{"key_ops": []string{"verify"}}), jwkOf(k.ed.Public(), nil)))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-256"},null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, parse := range map[string]func([]byte) (loaded, error){"pem": parsePEM, "jwks": parseJWKS} {
			got, err := parse(data)
			if err != nil {
				if len(got.keys) != 0 {
					t.Errorf("%s: %d keys beside error %v", name, len(got.keys), err)
				}
				continue
			}
			if len(got.keys) == 0 {
				t.Errorf("%s: neither keys nor an error", name)
			}
			for _, key := range got.keys {
				if _, err := checkKey(key.public); err != nil {
					t.Errorf("%s: took a key that cannot be used: %v", name, err)
				}
			}
		}
	})
}
