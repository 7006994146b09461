package enforce

import (
	"crypto/elliptic"
	"encoding/base64"
	"math/big"
	"strings"
)

func withSignature(raw string, signature []byte) string {
	return raw[:strings.LastIndexByte(raw, '.')+1] + b64(signature)
}

func signatureOf(raw string) []byte {
	return must(base64.RawURLEncoding.DecodeString(raw[strings.LastIndexByte(raw, '.')+1:]))
}

// otherS returns an ES256 token with n−s in place of s: the signature is as good.
func otherS(raw string) string {
	sig := signatureOf(raw)
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	return withSignature(raw, joinRS(r, s.Sub(elliptic.P256().Params().N, s)))
}

// trailingBit changes a bit of the last character that decodes to nothing: 64
// bytes leave four of its bits unused.
func trailingBit(raw string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, raw[len(raw)-1])
	other := raw[:len(raw)-1] + string(alphabet[last^1])
	if string(signatureOf(other)) != string(signatureOf(raw)) {
		panic("the bit is not a trailing one")
	}
	return other
}

// flipped changes one bit of the signature.
func flipped(raw string) string {
	sig := signatureOf(raw)
	sig[5] ^= 1
	return withSignature(raw, sig)
}
