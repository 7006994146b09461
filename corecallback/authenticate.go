package corecallback

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxIntermediates bounds the search for a chain: what a caller sends beside
// its certificate is its choice.
const maxIntermediates = 8

// authenticator recognises the core by its client certificate.
type authenticator struct {
	identities []Identity
	roots      *x509.CertPool
	chains     chains
}

// check returns a reason, fit for a log line, if state does not show the core.
// Cheap checks go first: most forgeries do not even have the name, and building
// a chain costs signatures.
func (a *authenticator) check(state *tls.ConnectionState) string {
	if len(a.identities) == 0 {
		return "no core identity is configured"
	}
	if state == nil {
		return "the connection is not TLS"
	}
	if len(state.PeerCertificates) == 0 {
		return "no client certificate"
	}
	leaf := state.PeerCertificates[0]
	isCore := func(id Identity) bool { return id.matches(leaf) }
	if !slices.ContainsFunc(a.identities, isCore) {
		return "the certificate is of another identity"
	}
	if len(state.PeerCertificates)-1 > maxIntermediates {
		return fmt.Sprintf("the certificate comes with more than %d others", maxIntermediates)
	}
	key := keyOf(state.PeerCertificates)
	if a.chains.known(key, time.Now()) {
		return ""
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	found, err := leaf.Verify(x509.VerifyOptions{
		Roots:         a.roots,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return chainReason(err)
	}
	a.chains.learn(key, found)
	return ""
}

// chainReason says why no chain was found. The text of err itself can hold
// names that the caller chose.
func chainReason(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "a certificate of the chain has expired or is not yet valid"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the certificate is not meant for client authentication"
	case errors.As(err, &unknown):
		return "the certificate does not chain to the CA of the core"
	}
	return "the certificate chain is not valid"
}

// authenticate answers the request and returns false unless it is the core's.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request) bool {
	reason := h.core.check(r.TLS)
	if reason != "" {
		h.count(OutcomeUnauthenticated)
		skipped, due := h.strangers.due()
		if due {
			h.logger.Warn("core not authenticated", slog.String("reason", reason),
				slog.String("certificate_subject", peerSubject(r.TLS)), slog.Int("not_logged_since", skipped))
		}
		refusal(http.StatusForbidden, "a client certificate that identifies the CAPIF core function is required").write(w)
		return false
	}
	if !r.TLS.HandshakeComplete {
		// TLS early data can be replayed: an old revocation could come back
		// after an operator lifted it. RFC 8470 5.2
		h.count(OutcomeUnauthenticated)
		refusal(http.StatusTooEarly, "send this again after the TLS handshake").write(w)
		return false
	}
	return true
}

const maxSubject = 200 // bytes of a subject in a log line

func peerSubject(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	subject := state.PeerCertificates[0].Subject.String()
	return subject[:min(len(subject), maxSubject)]
}

// oncePerSecond lets a log line through at most once a second, so that a flood
// of messages does not become a flood of lines.
type oncePerSecond struct {
	mu      sync.Mutex
	next    time.Time
	skipped int
}

// due reports whether a line may be written now, and how many were not since
// the last one.
func (l *oncePerSecond) due() (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.next) {
		l.skipped++
		return 0, false
	}
	skipped := l.skipped
	l.skipped = 0
	l.next = now.Add(time.Second)
	return skipped, true
}
