package revocation

import (
	"encoding/binary"
	"fmt"
)

var errBadKey = fmt.Errorf("%w: bad key", errDamaged)

// A scope is encoded as three length-prefixed strings and a token flag, so
// that no two scopes share an encoding and all claims of one invoker, and all
// claims of one scope, stand together in the file.

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendInvoker(b []byte, invoker string) []byte { return appendString(b, invoker) }

func appendScope(b []byte, s *Scope) []byte {
	b = appendString(b, s.Invoker)
	b = appendString(b, s.AEF)
	b = appendString(b, s.API)
	if s.Token.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	return append(b, s.Token[:]...)
}

// claimKey is the scope, the origin and, for an aef claim, the sequence of the
// revocation it belongs to (0 otherwise).
func claimKey(c *Claim) []byte {
	b := appendScope(make([]byte, 0, 64), &c.Scope)
	b = append(b, byte(c.Origin))
	return binary.BigEndian.AppendUint64(b, c.revocationSeq)
}

const claimSuffix = 1 + 8

// splitScope cuts an encoded scope into its parts without copying them; n is
// how many bytes of b it takes, token is empty for a scope of every token.
func splitScope(b []byte) (parts [3][]byte, token []byte, n int, err error) { //nolint:nonamedreturns // four results want names
	for i := range parts {
		size, used := binary.Uvarint(b[n:])
		if used <= 0 || size > MaxIDBytes || uint64(len(b)-n-used) < size || (used > 1 && size < 0x80) || used > 2 {
			return parts, nil, 0, errBadKey
		}
		n += used
		parts[i] = b[n : n+int(size)]
		n += int(size)
	}
	if len(b) <= n || b[n] > 1 {
		return parts, nil, 0, errBadKey
	}
	if b[n] == 0 {
		return parts, nil, n + 1, nil
	}
	n++
	if len(b) < n+len(Digest{}) || Digest(b[n:n+len(Digest{})]).IsZero() {
		return parts, nil, 0, errBadKey
	}
	return parts, b[n : n+len(Digest{})], n + len(Digest{}), nil
}

func readScope(b []byte) (Scope, int, error) {
	parts, token, n, err := splitScope(b)
	if err != nil {
		return Scope{}, 0, err
	}
	s := Scope{Invoker: string(parts[0]), AEF: string(parts[1]), API: string(parts[2])}
	copy(s.Token[:], token)
	return s, n, nil
}

func readClaimKey(key []byte) (Claim, error) {
	s, n, err := readScope(key)
	if err != nil {
		return Claim{}, err
	}
	if len(key) != n+claimSuffix {
		return Claim{}, errBadKey
	}
	return Claim{
		Scope:         s,
		Origin:        Origin(key[n]),
		revocationSeq: binary.BigEndian.Uint64(key[n+1:]),
	}, nil
}

func readSequenceKey(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

func sequenceKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, sequence)
}
