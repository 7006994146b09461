package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"
)

func TestNewKeyRefuses(t *testing.T) {
	k := keys()
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	tests := []struct {
		name   string
		public any
		alg    string
	}{
		{"nil", nil, ""},
		{"RSA of 1024 bits", &small.PublicKey, ""},
		{"RSA exponent 1", &rsa.PublicKey{N: k.rsa.N, E: 1}, ""},
		{"RSA exponent even", &rsa.PublicKey{N: k.rsa.N, E: 65536}, ""},
		{"RSA modulus even", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537}, ""},
		{"RSA of 8200 bits", &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8199), big.NewInt(1)), E: 65537}, ""},
		{"RSA empty", &rsa.PublicKey{}, ""},
		{"RSA nil", (*rsa.PublicKey)(nil), ""},
		{"EC on P-224", &p224.PublicKey, ""},
		{"EC off the curve", &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}, ""}, //nolint:staticcheck // a bad key is the point
		{"EC empty", &ecdsa.PublicKey{}, ""},
		{"Ed25519 short", ed25519.PublicKey("short"), ""},
		{"secret", []byte("secret"), ""},
		{"private key", k.rsa, ""},
		{"alg of another type", &k.rsa.PublicKey, "ES256"},
		{"alg of another curve", &k.p256.PublicKey, "ES384"},
		{"alg HMAC", &k.rsa.PublicKey, "HS256"},
		{"alg for encryption", &k.rsa.PublicKey, "RSA-OAEP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewKey(tt.public, "", tt.alg); err == nil {
				t.Error("got no error")
			}
		})
	}
}

func TestKeySetID(t *testing.T) {
	k := keys()
	a, b := pub(t, &k.rsa.PublicKey, "a", ""), pub(t, &k.p256.PublicKey, "b", "")
	id := func(keys ...Key) KeySetID { return must(NewKeySet(keys...)).ID() }
	if id(a, b) != id(b, a) || id(a, b) != id(a, b, a) {
		t.Error("order or repeats change the id")
	}
	seen := map[KeySetID]string{}
	for name, other := range map[string]KeySetID{
		"a":         id(a),
		"b":         id(b),
		"a, b":      id(a, b),
		"other kid": id(pub(t, &k.rsa.PublicKey, "c", "")),
		"no kid":    id(pub(t, &k.rsa.PublicKey, "", "")),
		"with alg":  id(pub(t, &k.rsa.PublicKey, "a", "RS256")),
		"other key": id(pub(t, &k.otherRSA.PublicKey, "a", "")),
	} {
		if before, ok := seen[other]; ok {
			t.Errorf("%q and %q have the same id", name, before)
		}
		seen[other] = name
	}
}

func TestNewKeySetLimits(t *testing.T) {
	if _, err := NewKeySet(); err == nil {
		t.Error("no keys: got no error")
	}
	if _, err := NewKeySet(Key{}); err == nil {
		t.Error("zero key: got no error")
	}
	var many []Key
	for range maxKeys + 1 {
		public, _, _ := ed25519.GenerateKey(rand.Reader)
		many = append(many, pub(t, public, "", ""))
	}
	if _, err := NewKeySet(many...); err == nil {
		t.Errorf("%d keys: got no error", len(many))
	}
	if set, err := NewKeySet(many[1:]...); err != nil || set.Len() != maxKeys {
		t.Errorf("%d keys: got %v", maxKeys, err)
	}
}

func TestKeyIsCopied(t *testing.T) {
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	public := append(ed25519.PublicKey{}, private.Public().(ed25519.PublicKey)...)
	v := verifier(t, Settings{}, fixedSource(t, pub(t, public, "", "")))
	clear(public)
	if _, err := v.Verify(t.Context(), mintAs("EdDSA", private, goodClaims("")), now); err != nil {
		t.Errorf("after the caller changed its key: %v", err)
	}
}

func TestKeySelection(t *testing.T) {
	k := keys()
	rsaA, rsaB := &k.rsa.PublicKey, &k.otherRSA.PublicKey
	header := func(kid string) string { return `{"alg":"RS256","kid":"` + kid + `"}` }
	const noKid = `{"alg":"RS256"}`
	tests := []struct {
		name   string
		set    []Key
		header string
		signer *rsa.PrivateKey
		want   Kind
	}{
		{"kid selects", []Key{pub(t, rsaA, "a", ""), pub(t, rsaB, "b", "")}, header("b"), k.otherRSA, 0},
		{"kid of another key", []Key{pub(t, rsaA, "a", ""), pub(t, rsaB, "b", "")}, header("a"), k.otherRSA, BadSignature},
		{"kid twice in the set", []Key{pub(t, rsaA, "a", ""), pub(t, rsaB, "a", "")}, header("a"), k.otherRSA, 0},
		{"kid of a key of another type", []Key{pub(t, &k.p256.PublicKey, "a", ""), pub(t, rsaA, "b", "")}, header("a"), k.rsa, BadSignature},
		{"kid known, key without kid not tried", []Key{pub(t, rsaA, "a", ""), pub(t, rsaB, "", "")}, header("a"), k.otherRSA, BadSignature},
		{"unknown kid, named keys only", []Key{pub(t, rsaA, "a", "")}, header("x"), k.rsa, BadSignature},
		{"unknown kid, key without kid", []Key{pub(t, rsaA, "", ""), pub(t, rsaB, "b", "")}, header("x"), k.rsa, 0},
		{"kid in another case", []Key{pub(t, rsaA, "a", "")}, header("A"), k.rsa, BadSignature},
		{"no kid, named keys", []Key{pub(t, rsaA, "a", ""), pub(t, rsaB, "b", "")}, noKid, k.otherRSA, 0},
		{"no kid, key without kid", []Key{pub(t, rsaA, "", "")}, noKid, k.rsa, 0},
		{"empty kid is none", []Key{pub(t, rsaA, "a", "")}, header(""), k.rsa, 0},
		{"alg of the key", []Key{pub(t, rsaA, "a", "RS256")}, header("a"), k.rsa, 0},
		{"another alg of the key", []Key{pub(t, rsaA, "a", "PS256")}, header("a"), k.rsa, BadSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := verifier(t, Settings{}, fixedSource(t, tt.set...))
			_, err := v.Verify(t.Context(), mint("RS256", tt.signer, tt.header, goodClaims("")), now)
			wantKind(t, err, tt.want)
		})
	}
}
