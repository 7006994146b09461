package corecallback

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxChains bounds what is remembered. A core has one certificate, or some.
const maxChains = 64

// chains remembers which certificates led to the roots, and until when, so that the
// messages of a core cost no signatures each. Remembered is only what did: the CA of
// the core decides who gets in. The identity is compared for each message, and the
// roots of an authenticator never change. The zero value is ready.
type chains struct {
	mu    sync.Mutex
	valid map[chainKey]validity
}

// chainKey is a digest of all certificates that were presented, in their order.
type chainKey [sha256.Size]byte

// validity is when every certificate of a chain is valid, both ends included.
type validity struct{ from, to time.Time }

func keyOf(presented []*x509.Certificate) chainKey {
	hash := sha256.New()
	for _, cert := range presented {
		hash.Write(cert.Raw) // DER says where it ends, so no two lists read alike
	}
	return chainKey(hash.Sum(nil))
}

func (c *chains) known(key chainKey, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.valid[key]
	return ok && !now.Before(v.from) && !now.After(v.to)
}

// learn takes in what x509 has found for the key.
func (c *chains) learn(key chainKey, found [][]*x509.Certificate) {
	var longest validity
	for _, chain := range found {
		v := validity{from: chain[0].NotBefore, to: chain[0].NotAfter}
		for _, cert := range chain[1:] {
			if cert.NotBefore.After(v.from) {
				v.from = cert.NotBefore
			}
			if cert.NotAfter.Before(v.to) {
				v.to = cert.NotAfter
			}
		}
		if v.to.After(longest.to) {
			longest = v
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.valid == nil || len(c.valid) >= maxChains {
		c.valid = make(map[chainKey]validity)
	}
	c.valid[key] = longest
}
