package token

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// Limits of a key and of a key set. A token may be tried with every key of the
// set, so both bound what a forged token can cost.
const (
	minRSABits = 2048 // RFC 7518 3.3
	maxRSABits = 8192
	maxKeys    = 64
)

// Key is one public key that may verify tokens, checked when it was made.
type Key struct {
	kid    string // "" is none
	alg    string // "" is any that fits kind
	kind   keyKind
	public crypto.PublicKey
	der    []byte // PKIX form, for identity
}

// NewKey makes a Key of an *rsa.PublicKey of 2048 to 8192 bits, an
// *ecdsa.PublicKey on P-256, P-384 or P-521, or an ed25519.PublicKey. kid may
// be empty. alg may be empty; else the key is used with that algorithm only.
func NewKey(public crypto.PublicKey, kid, alg string) (Key, error) {
	kind, err := checkKey(public)
	if err != nil {
		return Key{}, err
	}
	if alg != "" && supported[alg].kind != kind {
		return Key{}, errors.New("its alg is no signature algorithm for its type")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("encode public key: %w", err)
	}
	// A copy of our own, which no caller can change.
	public, err = x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, fmt.Errorf("decode public key: %w", err)
	}
	return Key{kid: kid, alg: alg, kind: kind, public: public, der: der}, nil
}

func checkKey(public crypto.PublicKey) (keyKind, error) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if p == nil || p.N == nil {
			return 0, errors.New("the RSA key is empty")
		}
		if bits := p.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return 0, fmt.Errorf("the RSA key has %d bits: use one of %d to %d", bits, minRSABits, maxRSABits)
		}
		if p.E < 3 || p.E%2 == 0 || p.N.Bit(0) == 0 {
			return 0, errors.New("the RSA key has an even modulus or a bad exponent: use 65537")
		}
		return kindRSA, nil
	case *ecdsa.PublicKey:
		return checkECKey(p)
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return 0, fmt.Errorf("the Ed25519 key has %d bytes; want %d", len(p), ed25519.PublicKeySize)
		}
		return kindEd25519, nil
	}
	return 0, fmt.Errorf("a key of type %T cannot verify tokens: use RSA, EC on P-256, P-384 or P-521, or Ed25519", public)
}

func checkECKey(p *ecdsa.PublicKey) (keyKind, error) {
	if p == nil || p.Curve == nil || p.X == nil || p.Y == nil { //nolint:staticcheck // nil is all that is looked at: Bytes panics on it
		return 0, errors.New("the EC key is empty")
	}
	var kind keyKind
	switch p.Curve {
	case elliptic.P256():
		kind = kindP256
	case elliptic.P384():
		kind = kindP384
	case elliptic.P521():
		kind = kindP521
	default:
		return 0, fmt.Errorf("the EC key is on curve %s: use P-256, P-384 or P-521", p.Curve.Params().Name)
	}
	_, err := p.ECDH() // checks that the point is on the curve
	if err != nil {
		return 0, fmt.Errorf("the EC key is not valid: %w", err)
	}
	return kind, nil
}

// KeySetID is the identity of the content of a key set: equal for equal sets,
// in whatever order and however often they were loaded.
type KeySetID [16]byte

// String returns the id in lower-case hexadecimal.
func (id KeySetID) String() string { return hex.EncodeToString(id[:]) }

// KeySet is an immutable set of keys.
type KeySet struct {
	id   KeySetID
	keys []Key // sorted, without duplicates
}

// NewKeySet makes a set of 1 to 64 keys; the same key twice counts once.
func NewKeySet(keys ...Key) (*KeySet, error) {
	sorted := slices.SortedFunc(slices.Values(keys), compareKeys)
	sorted = slices.CompactFunc(sorted, func(a, b Key) bool { return compareKeys(a, b) == 0 })
	switch {
	case len(sorted) == 0:
		return nil, errors.New("there is no key that can verify tokens")
	case len(sorted) > maxKeys:
		return nil, fmt.Errorf("there are %d keys; the most is %d", len(sorted), maxKeys)
	}
	sum := sha256.New()
	for _, k := range sorted {
		if k.public == nil {
			return nil, errors.New("a key was not made by NewKey")
		}
		writeField(sum, k.kid)
		writeField(sum, k.alg)
		writeField(sum, string(k.der))
	}
	return &KeySet{id: KeySetID(sum.Sum(nil)[:16]), keys: sorted}, nil
}

// ID returns the identity of the set.
func (s *KeySet) ID() KeySetID { return s.id }

// Len returns the number of keys.
func (s *KeySet) Len() int { return len(s.keys) }

// verifies tries the keys that the kid of a token leaves (see the package
// comment) and reports whether one of them verifies the signature.
func (s *KeySet) verifies(a *algorithm, kid string, input, signature []byte) bool {
	known := kid != "" && slices.ContainsFunc(s.keys, func(k Key) bool { return k.kid == kid })
	for i := range s.keys {
		k := &s.keys[i]
		if known && k.kid != kid {
			continue
		}
		if !known && kid != "" && k.kid != "" {
			continue
		}
		if a.verifies(k, input, signature) {
			return true
		}
	}
	return false
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.alg, b.alg), bytes.Compare(a.der, b.der))
}

// writeField hashes s with its length before it, so that no two lists of fields
// hash alike.
func writeField(h hash.Hash, s string) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(s)))
	h.Write(length[:])
	h.Write([]byte(s))
}
