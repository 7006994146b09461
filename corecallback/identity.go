package corecallback

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
)

// Identity is one way to recognise the core function by its certificate. It is
// no trust by itself: the certificate must chain to Options.CoreCA as well.
type Identity struct {
	kind  string
	value string
	pin   [sha256.Size]byte
}

// ParseIdentity returns an identity of one of these kinds:
//
//	san   a subject alternative name, equal to value: DNS name (in any case),
//	      URI, email address or IP address; no patterns
//	cn    the one common name of the subject, equal to value
//	spki  "sha256/" and the base64 SHA-256 of the public key (SubjectPublicKeyInfo)
func ParseIdentity(kind, value string) (Identity, error) {
	id := Identity{kind: kind, value: value}
	if value == "" {
		return Identity{}, fmt.Errorf("core identity %q has no value", kind)
	}
	switch kind {
	case "san":
		if strings.Contains(value, "*") {
			return Identity{}, fmt.Errorf("core identity san %q: patterns are not supported; give the name as it stands in the certificate", value)
		}
	case "cn":
	case "spki":
		encoded, isSHA256 := strings.CutPrefix(value, "sha256/")
		digest, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if !isSHA256 || err != nil || len(digest) != sha256.Size {
			return Identity{}, fmt.Errorf(`core identity spki %q: expected "sha256/" and the base64 of 32 bytes`, value)
		}
		id.pin = [sha256.Size]byte(digest)
	default:
		return Identity{}, fmt.Errorf("core identity kind %q is not known; use san, cn or spki", kind)
	}
	return id, nil
}

// String returns kind and value.
func (id Identity) String() string { return id.kind + " " + id.value }

// matches reports whether cert carries the identity. It verifies nothing.
func (id Identity) matches(cert *x509.Certificate) bool {
	switch id.kind {
	case "san":
		return id.matchesSAN(cert)
	case "cn":
		return countCommonNames(cert) == 1 && cert.Subject.CommonName == id.value
	case "spki":
		got := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		return subtle.ConstantTimeCompare(got[:], id.pin[:]) == 1
	}
	return false
}

func (id Identity) matchesSAN(cert *x509.Certificate) bool {
	for _, name := range cert.DNSNames {
		if strings.EqualFold(name, id.value) {
			return true
		}
	}
	for _, uri := range cert.URIs {
		if uri.String() == id.value {
			return true
		}
	}
	for _, address := range cert.EmailAddresses {
		if address == id.value {
			return true
		}
	}
	ip := net.ParseIP(id.value)
	if ip == nil {
		return false
	}
	for _, address := range cert.IPAddresses {
		if address.Equal(ip) {
			return true
		}
	}
	return false
}

// countCommonNames matters because crypto/x509 keeps the last common name only:
// of several, a CA may have checked another one.
func countCommonNames(cert *x509.Certificate) int {
	count := 0
	for _, name := range cert.Subject.Names {
		if name.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			count++
		}
	}
	return count
}
