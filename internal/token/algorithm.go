package token

import (
	"fmt"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// keyKind is what a key is, found once when it is loaded.
type keyKind uint8

const (
	kindRSA keyKind = iota + 1
	kindP256
	kindP384
	kindP521
	kindEd25519
)

// algorithm is a JWS algorithm (RFC 7518 3.1, RFC 8037) with the kind of key
// that it needs.
type algorithm struct {
	name string
	kind keyKind
	// signatureBytes is the exact length of a signature, 0 where the length
	// follows from the key.
	signatureBytes int
	verifier       jws.Verifier
}

// supported holds every algorithm that can be allowed. There is no symmetric
// one among them: with HMAC a public key would be the secret.
var supported = map[string]algorithm{
	"RS256": {kind: kindRSA}, "RS384": {kind: kindRSA}, "RS512": {kind: kindRSA},
	"PS256": {kind: kindRSA}, "PS384": {kind: kindRSA}, "PS512": {kind: kindRSA},
	"ES256": {kind: kindP256, signatureBytes: 64},
	"ES384": {kind: kindP384, signatureBytes: 96},
	"ES512": {kind: kindP521, signatureBytes: 132},
	"EdDSA": {kind: kindEd25519, signatureBytes: 64},
}

const supportedNames = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"

// newAlgorithm returns the algorithm of that name, ready to verify.
func newAlgorithm(name string) (algorithm, error) {
	a, ok := supported[name]
	if !ok {
		switch {
		case strings.EqualFold(name, "none"):
			return algorithm{}, fmt.Errorf("token algorithm %q means no signature, so anybody could make a token: use one of %s", name, supportedNames)
		case strings.HasPrefix(strings.ToUpper(name), "HS"):
			return algorithm{}, fmt.Errorf("token algorithm %q needs a shared secret, which an AEF must not have: use one of %s", name, supportedNames)
		}
		return algorithm{}, fmt.Errorf("token algorithm %q is not known (names are case-sensitive): use one of %s", name, supportedNames)
	}
	verifier, err := jws.NewVerifier(jwa.SignatureAlgorithm(name))
	if err != nil {
		return algorithm{}, fmt.Errorf("token algorithm %s: %w", name, err)
	}
	a.name, a.verifier = name, verifier
	return a, nil
}

// verifies reports whether signature is good for input under k, where k is a
// key for this algorithm at all.
func (a *algorithm) verifies(k *Key, input, signature []byte) bool {
	if k.kind != a.kind || (k.alg != "" && k.alg != a.name) {
		return false
	}
	if a.signatureBytes != 0 && len(signature) != a.signatureBytes {
		return false
	}
	return a.verifier.Verify(input, signature, k.public) == nil
}
