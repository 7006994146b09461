package revocation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
)

// FuzzLedgerReplay overwrites a part of a good file. Open must refuse it with
// an error, or serve nothing that was not there before and hide nothing that
// was: only the last transaction may be missing, which is what a torn write of
// a meta page means.
func FuzzLedgerReplay(f *testing.F) {
	good, original, last := replaySeed(f)
	page := uint32(os.Getpagesize())
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(16), []byte{1, 2, 3, 4}) // meta page 0
	f.Add(page+16, []byte{0xff, 0xff})    // meta page 1
	for p := uint32(0); p < uint32(len(good))/page; p++ {
		f.Add(p*page+8, []byte{4, 0, 1, 0})              // another kind of page
		f.Add(p*page+10, []byte{1, 0})                   // fewer elements
		f.Add(p*page+10, []byte{0xff, 0xff})             // more elements
		f.Add(p*page+16, []byte{0xff, 0xff, 0xff, 0x7f}) // the first element
		f.Add(p*page+page/2, []byte("in the middle"))
	}
	f.Add(2*page, make([]byte, page))
	f.Fuzz(func(t *testing.T, offset uint32, junk []byte) {
		bad := bytes.Clone(good)
		offset %= uint32(len(bad))
		copy(bad[offset:], junk)
		path := ledgerPath(t)
		err := os.WriteFile(path, bad, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		l := NewLedger(path)
		err = l.Open(Options{Logger: quiet()})
		if err != nil {
			if l.Stats().DeniedScopes != 0 || l.Ready() {
				t.Errorf("refused with %v, and serves claims", err)
			}
			return
		}
		defer closeLedger(t, l)
		// Lookups: all that was, and no scope more.
		want := map[string]bool{}
		for key := range original {
			scope := key[:len(key)-claimSuffix]
			if l.index.has([]byte(scope)) {
				want[scope] = true
			} else if key != last {
				t.Errorf("hides %q", key)
			}
		}
		if got := l.Stats().DeniedScopes; got != int64(len(want)) {
			t.Errorf("denied scopes: got %d; want %d", got, len(want))
		}
		// Listings: the same, or an error where only the way to a claim is
		// damaged (a key on a branch page).
		listed, _, err := l.Claims(ClaimQuery{})
		if err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("listing: got %v; want %v", err, errDamaged)
		}
		for _, c := range listed {
			if !original[string(claimKey(&c))] {
				t.Errorf("lists %+v; want only what was in the file", c)
			}
		}
	})
}

// replaySeed is a good file, the keys of its claims, and which came last.
func replaySeed(f *testing.F) ([]byte, map[string]bool, string) {
	f.Helper()
	l := openLedger(f, ledgerPath(f), Options{})
	for i := range 30 {
		mustDeny(f, l, Deny{Invoker: fmt.Sprintf("invoker-%02d", i), AEF: "aef", APIs: []string{"1", "2"}})
		mustTrigger(f, l, Trigger{Invoker: fmt.Sprintf("asked-%02d", i), AEF: "aef", Cause: "X", Hold: true})
	}
	mustDeny(f, l, Deny{Invoker: "token", Token: someToken})
	mustLift(f, l, Lift{Invoker: "invoker-03"})
	mustDeny(f, l, Deny{Invoker: "last"})
	original := map[string]bool{}
	for _, c := range claims(f, l, "") {
		original[string(claimKey(&c))] = true
	}
	closeLedger(f, l)
	good, err := os.ReadFile(l.Path())
	if err != nil {
		f.Fatal(err)
	}
	return good, original, string(claimKey(&Claim{Scope: Scope{Invoker: "last"}, Origin: OriginCore}))
}

// FuzzDecodeRecord: no panic, and what decodes is what was encoded.
func FuzzDecodeRecord(f *testing.F) {
	for _, v := range []any{Claim{Scope: Scope{Invoker: "i", Token: someToken}, Origin: OriginAEF}, Revocation{ID: "rv-1"}, counters{Sequence: 7}} {
		record, err := encodeRecord([]byte("key"), 9, v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte("key"), record)
		f.Add([]byte("other"), record)
		f.Add([]byte("key"), record[:len(record)/2])
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, record []byte) {
		var c Claim
		var r Revocation
		_, _ = decodeRecord(key, record, &r)
		_, _ = decodeClaim(key, record)
		sequence, err := decodeRecord(key, record, &c)
		if err != nil || c.Origin.String() == "unknown" {
			return
		}
		again, err := encodeRecord(key, sequence, c)
		if err != nil {
			t.Fatalf("encoding what was decoded: got %v; want no error", err)
		}
		var second Claim
		got, err := decodeRecord(key, again, &second)
		if err != nil || got != sequence {
			t.Errorf("got %d, %v; want %d", got, err, sequence)
		}
	})
}

// FuzzSplitScope: no panic, and every encoding that is accepted is the one
// that the ledger would write.
func FuzzSplitScope(f *testing.F) {
	for _, s := range scopesToEncode {
		f.Add(appendScope(nil, &s))
		f.Add(claimKey(&Claim{Scope: s, Origin: OriginCore}))
	}
	f.Add([]byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n, err := readScope(b)
		if err != nil {
			return
		}
		if got := appendScope(nil, &s); !bytes.Equal(got, b[:n]) {
			t.Errorf("got %x; want %x", got, b[:n])
		}
		c, err := readClaimKey(b)
		if err == nil && !bytes.Equal(claimKey(&c), b) {
			t.Errorf("claim key: got %x; want %x", claimKey(&c), b)
		}
	})
}
