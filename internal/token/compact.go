package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// MaxBytes is the longest token that is looked at, in bytes.
const MaxBytes = 16 << 10

// Digest names a token: SHA-256 of its JWS signing input `header.payload` in
// canonical base64url. The third part is left out on purpose: who holds a token
// can often write its signature in another way (ES256 s → n−s), and a revoked
// token must not look new for it. A digest identifies; it authorizes nothing.
type Digest [sha256.Size]byte

// String returns the digest in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// DigestOf returns the digest of a token whose signature is not checked, for a
// revoke that names a token (TS 29.222 9.1, accessToken of Release 19). The
// form of all three parts is checked as in Verify; a *Error of Kind Malformed
// says what is wrong.
func DigestOf(raw string) (Digest, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return Digest{}, err
	}
	return c.digest(), nil
}

// Unverified is what a token says about itself, with nothing checked but its
// form. It is good for bookkeeping about a token that is refused anyway, and
// for nothing else.
type Unverified struct {
	Digest Digest
	// Expires is exp in Unix seconds, 0 if the claims cannot be read: such a token
	// is never accepted. Whoever made the token chose it; it is at most the end
	// of the year 9999.
	Expires int64
	// Invoker is the API invoker that the claims name, "" if none or several.
	Invoker string
}

// Peek reads a token without checking its signature; errors as DigestOf.
// invokerClaims are those of Settings.InvokerClaims; without any, Invoker stays
// empty.
func Peek(raw string, invokerClaims ...string) (Unverified, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return Unverified{}, err
	}
	u := Unverified{Digest: c.digest()}
	claims := claimReader{invokerClaims: invokerClaims, invokers: make([]string, len(invokerClaims))}
	if claims.read(c.payload) != nil {
		return u, nil
	}
	if claims.hasExp {
		u.Expires = claims.exp
	}
	invoker, err := claims.invoker()
	if err == nil {
		u.Invoker = invoker
	}
	return u, nil
}

// compact is a token in its parts. All slices share one buffer.
type compact struct {
	input     []byte // the signing input, as it was sent
	header    []byte // decoded
	payload   []byte // decoded
	signature []byte // decoded
}

// strictBase64 refuses padding and trailing bits. It still skips line breaks,
// which parseCompact refuses itself.
var strictBase64 = base64.RawURLEncoding.Strict()

func parseCompact(raw string) (compact, error) {
	if len(raw) > MaxBytes {
		return compact{}, errTooLong
	}
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if first < 0 || first == last || strings.IndexByte(raw[first+1:last], '.') >= 0 {
		return compact{}, errParts
	}
	if strings.ContainsAny(raw, "\r\n") {
		return compact{}, errEncoding
	}

	// One buffer: the token as it was sent, then its parts decoded.
	buf := make([]byte, len(raw), len(raw)+strictBase64.DecodedLen(len(raw)))
	copy(buf, raw)
	encoded := [3][]byte{buf[:first], buf[first+1 : last], buf[last+1:]}
	var decoded [3][]byte
	for i, part := range encoded {
		start, end := len(buf), len(buf)+strictBase64.DecodedLen(len(part))
		buf = buf[:end]
		decoded[i] = buf[start:end:end]
		_, err := strictBase64.Decode(decoded[i], part)
		if err != nil {
			return compact{}, errEncoding
		}
	}
	return compact{input: buf[:last:last], header: decoded[0], payload: decoded[1], signature: decoded[2]}, nil
}

// digest hashes the signing input as it was sent: what decoded strictly is
// canonical, so joining the parts again would give the same bytes.
func (c compact) digest() Digest { return sha256.Sum256(c.input) }

// header is what a token's header decides.
type header struct {
	alg string
	kid string // "" is none
}

// parseHeader reads the JOSE header. Names are matched in exact case, which
// decoding into a struct would not do, and a repeated name that matters is
// refused: two readers could take different ones.
func parseHeader(data []byte) (header, error) {
	var h header
	var hasAlg, hasKid, critical bool
	err := members(data, func(name string, value []byte) error {
		switch name {
		case "alg":
			if hasAlg {
				return errHeader
			}
			hasAlg = true
			return stringValue(value, &h.alg)
		case "kid":
			if hasKid {
				return errHeader
			}
			hasKid = true
			return stringValue(value, &h.kid)
		case "crit", "b64":
			critical = true
		}
		return nil
	})
	switch {
	case err != nil, !hasAlg:
		return header{}, errHeader
	case critical:
		return header{}, errCritical
	}
	return h, nil
}
