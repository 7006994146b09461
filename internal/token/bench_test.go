package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
)

// benchClaims are those of a token of OpenCAPIF.
const benchClaims = `{"fresh":false,"iat":1799999000,"jti":"5f0c6c2a-1e55-4a3e-9d7b-0a52a7a4c001","type":"access","sub":"INV8b6c",` +
	`"nbf":1799999000,"csrf":"d1","exp":1800000600,"iss":"INV8b6c","scope":"3gpp#AEFa1:location,qos;AEFb2:x","res_owner_id":null}`

func BenchmarkVerify(b *testing.B) {
	k := keys()
	v := verifier(b, Settings{}, allKeys(b))
	for _, bench := range []struct {
		alg string
		key any
	}{{"RS256", k.rsa}, {"PS256", k.rsa}, {"ES256", k.p256}, {"EdDSA", k.ed}} {
		raw := mintAs(bench.alg, bench.key, benchClaims)
		ctx := b.Context()
		b.Run(bench.alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := v.Verify(ctx, raw, now)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		cut := strings.LastIndexByte(raw, '.')
		input, sig := []byte(raw[:cut]), must(base64.RawURLEncoding.DecodeString(raw[cut+1:]))
		b.Run(bench.alg+"_bare", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !bareVerify(bench.alg, bench.key, input, sig) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}

// bareVerify is the signature check alone, as the standard library does it.
func bareVerify(alg string, key any, input, sig []byte) bool {
	digest := sha256.Sum256(input)
	switch alg {
	case "RS256":
		return rsa.VerifyPKCS1v15(&key.(*rsa.PrivateKey).PublicKey, crypto.SHA256, digest[:], sig) == nil
	case "PS256":
		return rsa.VerifyPSS(&key.(*rsa.PrivateKey).PublicKey, crypto.SHA256, digest[:], sig, nil) == nil
	case "ES256":
		return ecdsa.Verify(&key.(*ecdsa.PrivateKey).PublicKey, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	}
	return ed25519.Verify(key.(ed25519.PrivateKey).Public().(ed25519.PublicKey), input, sig)
}

func BenchmarkVerifyRefused(b *testing.B) {
	k := keys()
	v := verifier(b, Settings{}, allKeys(b))
	ctx := b.Context()
	for name, raw := range map[string]string{
		"malformed": "abc", "alg_none": mintAs("none", nil, benchClaims), "wrong_key": mintAs("RS256", k.otherRSA, benchClaims),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(ctx, raw, now)
			}
		})
	}
}

func BenchmarkCachedChecks(b *testing.B) {
	source := FromFunc("bench", nil, Options{}).(*feed)
	source.current.Store(must(NewKeySet(pub(b, keys().ed.Public(), "", ""))))
	v := verifier(b, Settings{}, source)
	b.Run("KeySetID", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v.KeySetID()
		}
	})
	b.Run("ValidAt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = v.ValidAt(soon, 0, now)
		}
	})
	b.Run("GrantsAPI", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			GrantsAPI("openid 3gpp#AEFa1:location,qos;AEFb2:x", "AEFb2", "x")
		}
	})
}
