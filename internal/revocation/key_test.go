package revocation

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
)

var someToken = Digest(sha256.Sum256([]byte("some token")))

var scopesToEncode = []Scope{
	{Invoker: "a"},
	{Invoker: "a", AEF: "b"},
	{Invoker: "a", API: "b"},
	{Invoker: "ab"},
	{Invoker: "a", AEF: "b", API: "c"},
	{Invoker: "a", AEF: "bc"},
	{Invoker: "a", API: "bc"},
	{Invoker: "a", Token: someToken},
	{Invoker: "a", AEF: "b", API: "c", Token: someToken},
	{Invoker: "a", AEF: "b", API: "c", Token: Digest{31: 1}},
	{Invoker: "größer|\u2028", AEF: "b|c", API: "\"<d>"},
	{Invoker: strings.Repeat("x", 127)},
	{Invoker: strings.Repeat("x", 128)},
	{Invoker: strings.Repeat("x", MaxIDBytes), AEF: strings.Repeat("y", MaxIDBytes), API: strings.Repeat("z", MaxIDBytes), Token: someToken},
}

func TestScopeEncodingRoundTripsAndIsUnique(t *testing.T) {
	seen := map[string]Scope{}
	for _, s := range scopesToEncode {
		b := appendScope(nil, &s)
		got, n, err := readScope(append(bytes.Clone(b), "rest"...))
		if err != nil || got != s || n != len(b) {
			t.Errorf("got %+v, %d, %v; want %+v, %d", got, n, err, s, len(b))
		}
		other, known := seen[string(b)]
		if known {
			t.Errorf("%+v and %+v share an encoding", s, other)
		}
		seen[string(b)] = s
		for other := range seen {
			if other != string(b) && (strings.HasPrefix(other, string(b)) || strings.HasPrefix(string(b), other)) {
				t.Errorf("the encoding of %+v is a prefix of that of %+v, or the reverse", s, seen[other])
			}
		}
	}
}

func TestClaimKeyRoundTripsAndIsUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scopesToEncode {
		for _, c := range []Claim{
			{Scope: s, Origin: OriginCore},
			{Scope: s, Origin: OriginAEF},
			{Scope: s, Origin: OriginAEF, revocationSeq: 1},
			{Scope: s, Origin: OriginAEF, revocationSeq: 1 << 63},
		} {
			key := claimKey(&c)
			got, err := readClaimKey(key)
			if err != nil || got != c {
				t.Errorf("got %+v, %v; want %+v", got, err, c)
			}
			if seen[string(key)] {
				t.Errorf("%+v shares its key with another", c)
			}
			seen[string(key)] = true
		}
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	good := appendScope(nil, &Scope{Invoker: "a", AEF: "b", API: "c", Token: someToken})
	tests := map[string][]byte{
		"empty":                nil,
		"length beyond end":    {5, 'a'},
		"length beyond limit":  {0x81, 0x08},
		"length in long form":  append([]byte{0x81, 0x00}, good[1:]...),
		"length without end":   bytes.Repeat([]byte{0xff}, 20),
		"no flag":              {1, 'a', 0, 0},
		"unknown flag":         {1, 'a', 0, 0, 2},
		"short token":          good[:len(good)-1],
		"a token of all zeros": append([]byte{1, 'a', 0, 0, 1}, make([]byte, sha256.Size)...),
	}
	for name, key := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := readScope(key)
			if !errors.Is(err, errDamaged) {
				t.Errorf("scope: got %v; want %v", err, errDamaged)
			}
			_, err = readClaimKey(key)
			if !errors.Is(err, errDamaged) {
				t.Errorf("claim key: got %v; want %v", err, errDamaged)
			}
			_, _, err = readPendingKey(key)
			if !errors.Is(err, errDamaged) {
				t.Errorf("pending key: got %v; want %v", err, errDamaged)
			}
		})
	}
	for _, cut := range []int{0, 8, 10} {
		_, err := readClaimKey(append(bytes.Clone(good), make([]byte, cut)...))
		if !errors.Is(err, errDamaged) {
			t.Errorf("%d bytes after the scope: got %v; want %v", cut, err, errDamaged)
		}
	}
}

func TestRecordChecksumSeesEveryBit(t *testing.T) {
	key := []byte("key")
	record, err := encodeRecord(key, 42, Claim{Scope: Scope{Invoker: "a"}, Origin: OriginCore})
	if err != nil {
		t.Fatal(err)
	}
	var c Claim
	sequence, err := decodeRecord(key, record, &c)
	if err != nil || sequence != 42 || c.Invoker != "a" || c.Origin != OriginCore {
		t.Fatalf("got %d, %+v, %v; want 42 and what was written", sequence, c, err)
	}
	for bit := range len(record) * 8 {
		bad := bytes.Clone(record)
		bad[bit/8] ^= 1 << (bit % 8)
		_, err := checkRecord(key, bad)
		if !errors.Is(err, errDamaged) {
			t.Errorf("bit %d flipped: got %v; want %v", bit, err, errDamaged)
		}
	}
	for n := range record {
		_, err := checkRecord(key, record[:n])
		if !errors.Is(err, errDamaged) {
			t.Errorf("cut to %d bytes: got %v; want %v", n, err, errDamaged)
		}
	}
	_, err = checkRecord([]byte("other key"), record)
	if !errors.Is(err, errDamaged) {
		t.Errorf("under another key: got %v; want %v", err, errDamaged)
	}
}

func TestTheKeySaysWhatAClaimCovers(t *testing.T) {
	key := claimKey(&Claim{Scope: Scope{Invoker: "by key", Token: someToken}, Origin: OriginCore})
	record, err := encodeRecord(key, 7, Claim{Scope: Scope{Invoker: "by body"}, Origin: OriginCore, Sequence: 8})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeClaim(key, record)
	if err != nil || got.Invoker != "by key" || got.Token != someToken || got.Sequence != 7 {
		t.Errorf("got %+v, %v; want the scope of the key and the sequence of the header", got, err)
	}
}
