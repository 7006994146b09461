package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultLeeway is what exp and nbf are stretched by where nothing is said.
	DefaultLeeway = 5 * time.Second
	// MaxLeeway is the most that TS 33.122 C.2.2 allows.
	MaxLeeway = 30 * time.Second
	// NoLeeway, as Settings.Leeway, asks for none at all.
	NoLeeway time.Duration = -1
)

// Settings say what a Verifier accepts. The zero value is usable.
type Settings struct {
	// Algorithms are the JWS algorithms allowed, by their names in RFC 7518.
	// Default: RS256, PS256, ES256, EdDSA. Only asymmetric ones can be named.
	Algorithms []string
	// Leeway is for clocks that differ: a token is taken that much after exp and
	// before nbf. 0 means DefaultLeeway, NoLeeway means none, at most MaxLeeway.
	Leeway time.Duration
	// InvokerClaims name the claims that hold the API invoker id. Default: iss
	// (TS 29.222 8.5.4.2.8) and client_id (TS 33.122 C.2.2). At least one must be
	// in the token, and all that are must be equal, non-empty strings.
	InvokerClaims []string
	// ScopeClaim names the claim that holds the scope. Default: scope.
	ScopeClaim string
}

// Verifier verifies access tokens. It is immutable and safe for concurrent use.
type Verifier struct {
	algorithms    []algorithm
	leeway        time.Duration
	invokerClaims []string
	scopeClaim    string
	fingerprint   [16]byte
	source        Source
}

// NewVerifier makes a Verifier that takes its keys from keys. It does not start
// the source. An error says which setting to change.
func NewVerifier(s Settings, keys Source) (*Verifier, error) {
	if keys == nil {
		return nil, errors.New("token verifier: no key source")
	}
	v := &Verifier{source: keys, leeway: s.Leeway, scopeClaim: s.ScopeClaim}
	switch {
	case s.Leeway == 0:
		v.leeway = DefaultLeeway
	case s.Leeway == NoLeeway:
		v.leeway = 0
	case s.Leeway < 0:
		return nil, fmt.Errorf("token leeway %v is negative", s.Leeway)
	case s.Leeway > MaxLeeway:
		return nil, fmt.Errorf("token leeway %v is more than %v, the most that TS 33.122 C.2.2 allows", s.Leeway, MaxLeeway)
	}
	if v.scopeClaim == "" {
		v.scopeClaim = "scope"
	}

	names, err := distinct(s.Algorithms, "token algorithm", "RS256", "PS256", "ES256", "EdDSA")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		a, err := newAlgorithm(name)
		if err != nil {
			return nil, err
		}
		v.algorithms = append(v.algorithms, a)
	}
	v.invokerClaims, err = distinct(s.InvokerClaims, "invoker claim", "iss", "client_id")
	if err != nil {
		return nil, err
	}
	for _, reserved := range []string{"exp", "nbf", v.scopeClaim} {
		if slices.Contains(v.invokerClaims, reserved) {
			return nil, fmt.Errorf("the claim %q cannot name the API invoker", reserved)
		}
	}
	if v.scopeClaim == "exp" || v.scopeClaim == "nbf" {
		return nil, fmt.Errorf("the claim %q cannot hold the scope", v.scopeClaim)
	}
	v.fingerprint = v.computeFingerprint()
	return v, nil
}

// distinct returns a copy of values, or of defaults if there are none.
func distinct(values []string, what string, defaults ...string) ([]string, error) {
	if len(values) == 0 {
		return defaults, nil
	}
	for i, s := range values {
		if s == "" {
			return nil, fmt.Errorf("%s %d is empty", what, i+1)
		}
		if slices.Contains(values[:i], s) {
			return nil, fmt.Errorf("%s %q is named twice", what, s)
		}
	}
	return slices.Clone(values), nil
}

// computeFingerprint hashes the settings as sets: their order decides nothing.
func (v *Verifier) computeFingerprint() [16]byte {
	names := make([]string, len(v.algorithms))
	for i, a := range v.algorithms {
		names[i] = a.name
	}
	slices.Sort(names)
	sum := sha256.New()
	writeField(sum, strings.Join(names, " "))
	writeField(sum, v.leeway.String())
	writeField(sum, v.scopeClaim)
	for _, claim := range slices.Sorted(slices.Values(v.invokerClaims)) {
		writeField(sum, claim)
	}
	return [16]byte(sum.Sum(nil)[:16])
}

// InvokerClaims returns the names of the claims that hold the API invoker id.
func (v *Verifier) InvokerClaims() []string { return slices.Clone(v.invokerClaims) }

// Fingerprint identifies the settings that decide a verification, not the keys:
// equal for verifiers that judge every token alike under equal keys.
func (v *Verifier) Fingerprint() [16]byte { return v.fingerprint }

// KeySetID returns the identity of the key set now in force; ok is false when
// there is none. It costs an atomic load and allocates nothing.
func (v *Verifier) KeySetID() (KeySetID, bool) {
	keys := v.source.Keys()
	if keys == nil {
		return KeySetID{}, false
	}
	return keys.id, true
}

// Token is what a verified token says.
type Token struct {
	// Invoker is the API invoker id, never empty.
	Invoker string
	// Expires is exp in Unix seconds, rounded down, without leeway.
	Expires int64
	// NotBefore is nbf in Unix seconds, rounded up, without leeway; 0 is none.
	NotBefore int64
	// Scope is the scope claim, "" if there is none. A list of strings comes
	// joined with spaces.
	Scope string
	// Digest names the token.
	Digest Digest
	// KeySetID is the key set that verified it, read before that began.
	KeySetID KeySetID
}

// Verify checks raw, the token without "Bearer ", at the time now. Every error
// is a *Error. It waits only where a key refresh is due, bounded by ctx and by
// the source.
func (v *Verifier) Verify(ctx context.Context, raw string, now time.Time) (Token, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return Token{}, err
	}
	h, err := parseHeader(c.header)
	if err != nil {
		return Token{}, err
	}
	i := slices.IndexFunc(v.algorithms, func(a algorithm) bool { return a.name == h.alg })
	if i < 0 {
		return Token{}, errAlgorithm
	}
	id, err := v.verifySignature(ctx, &v.algorithms[i], h.kid, c)
	if err != nil {
		return Token{}, err
	}

	claims := claimReader{
		invokerClaims: v.invokerClaims,
		scopeClaim:    v.scopeClaim,
		invokers:      make([]string, len(v.invokerClaims)),
	}
	err = claims.read(c.payload)
	if err != nil {
		return Token{}, err
	}
	if !claims.hasExp {
		return Token{}, errExpType
	}
	err = v.ValidAt(claims.exp, claims.nbf, now)
	if err != nil {
		return Token{}, err
	}
	invoker, err := claims.invoker()
	if err != nil {
		return Token{}, err
	}
	return Token{
		Invoker:   invoker,
		Expires:   claims.exp,
		NotBefore: claims.nbf,
		Scope:     claims.scope,
		Digest:    c.digest(),
		KeySetID:  id,
	}, nil
}

// verifySignature returns the id of the key set that verified the token.
func (v *Verifier) verifySignature(ctx context.Context, a *algorithm, kid string, c compact) (KeySetID, error) {
	keys := v.source.Keys()
	if keys == nil {
		return KeySetID{}, errKeysMissing
	}
	if keys.verifies(a, kid, c.input, c.signature) {
		return keys.id, nil
	}
	// The core may have a new key that is not known here yet.
	v.source.Refresh(ctx)
	newer := v.source.Keys()
	if newer == nil || newer.id == keys.id {
		return KeySetID{}, errSignature
	}
	if newer.verifies(a, kid, c.input, c.signature) {
		return newer.id, nil
	}
	return KeySetID{}, errSignature
}

// ValidAt is the check of exp and nbf alone, both in Unix seconds, for a token
// that was verified before; notBefore 0 is none. It returns the same errors as
// Verify and allocates nothing.
func (v *Verifier) ValidAt(expires, notBefore int64, now time.Time) error {
	// In whole seconds and the rest, which costs a third of what two time.Add do.
	seconds, rest := now.Unix(), time.Duration(now.Nanosecond())
	whole, part := int64(v.leeway/time.Second), v.leeway%time.Second
	earliest, latest := seconds-whole, seconds+whole
	if rest < part {
		earliest--
	}
	if rest+part >= time.Second {
		latest++
	}
	if earliest >= expires { // RFC 7519 4.1.4: on or after
		return errExpired
	}
	if latest < notBefore {
		return errNotYetValid
	}
	return nil
}
