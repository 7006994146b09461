package corecallback

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRememberedChain: a chain counts without its signatures for as long as all of it
// is valid, for the certificates that were presented, and for an identity of now.
func TestRememberedChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		core := &s.handler.core
		state := func(certs ...*x509.Certificate) *tls.ConnectionState {
			return &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: certs}
		}
		check := func(name string, state *tls.ConnectionState, want string) {
			t.Helper()
			if got := core.check(state); !strings.Contains(got, want) || (got == "") != (want == "") {
				t.Errorf("%s: got %q; want %q", name, got, want)
			}
		}
		middle := newAuthority(t, "intermediate CA", s.ca)
		short := func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
		}
		alone, below := s.ca.issue(t, short).Leaf, middle.issue(t, nil).Leaf
		for _, round := range []string{"first", "remembered"} {
			check(round, state(alone), "")
			check(round+" with an intermediate", state(below, middle.cert), "")
		}
		if got := len(core.chains.valid); got != 2 {
			t.Errorf("got %d chains remembered; want 2", got)
		}
		check("its intermediate is missing", state(below), "does not chain")
		forged := newAuthority(t, "core CA", nil).issue(t, nil).Leaf
		check("forged", state(forged), "does not chain")
		check("forged with the true one beside it", state(forged, alone), "does not chain")
		if got := len(core.chains.valid); got != 2 {
			t.Errorf("got %d chains remembered after refusals; want 2", got)
		}
		time.Sleep(time.Minute + time.Second)
		check("expired", state(alone), "expired")
		check("another that has not", state(below, middle.cert), "")
		core.identities = nil
		check("identity taken away", state(below, middle.cert), "no core identity")
	})
}

// TestRememberedChainEndsWithItsFirstCertificate: an intermediate that expires ends
// the chain as the leaf does, and a chain is not valid before all of it is.
func TestRememberedChainEndsWithItsFirstCertificate(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	cert := func(from, to int) *x509.Certificate { return &x509.Certificate{NotBefore: at(from), NotAfter: at(to)} }
	for name, test := range map[string]struct {
		found    [][]*x509.Certificate
		from, to int
	}{
		"the leaf":              {[][]*x509.Certificate{{cert(2, 4), cert(0, 9)}}, 2, 4},
		"the intermediate":      {[][]*x509.Certificate{{cert(0, 9), cert(2, 4), cert(0, 9)}}, 2, 4},
		"the root":              {[][]*x509.Certificate{{cert(1, 9), cert(0, 9), cert(2, 4)}}, 2, 4},
		"the longest of two":    {[][]*x509.Certificate{{cert(1, 9), cert(1, 3)}, {cert(1, 9), cert(2, 5)}}, 2, 5},
		"the longest, in front": {[][]*x509.Certificate{{cert(1, 9), cert(2, 5)}, {cert(1, 9), cert(1, 3)}}, 2, 5},
	} {
		t.Run(name, func(t *testing.T) {
			var c chains
			c.learn(chainKey{1}, test.found)
			for hour := range 12 {
				if got, want := c.known(chainKey{1}, at(hour)), hour >= test.from && hour <= test.to; got != want {
					t.Errorf("at %d:00: got known %v; want %v", hour, got, want)
				}
				if c.known(chainKey{2}, at(hour)) {
					t.Errorf("at %d:00: got another key known; want it not", hour)
				}
			}
		})
	}
}

func TestRememberedChainsAreBounded(t *testing.T) {
	var c chains
	for i := range 10 * maxChains {
		c.learn(chainKey{byte(i), byte(i >> 8)}, nil)
		if len(c.valid) > maxChains {
			t.Fatalf("got %d chains; want at most %d", len(c.valid), maxChains)
		}
	}
}
