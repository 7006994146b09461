package coretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The roles that a certificate of the core states in its organizational unit.
const (
	RoleCore    = "CAPIF core function"
	RoleAEF     = "AEF"
	RoleInvoker = "API invoker"
)

// The names in the certificate with which the core calls AEFs.
const (
	CoreCommonName = "capifcore"
	CoreDNSName    = "capifcore.example"
)

// certLife bounds every certificate: long enough for a day of play with the quickstart.
const certLife = 24 * time.Hour

// CA is a certificate authority with ECDSA P-256 keys. Tests make a second one for forged identities.
type CA struct {
	root         *x509.Certificate
	issuer       *x509.Certificate // the root, or an intermediate below it
	issuerKey    crypto.Signer
	intermediate bool
}

// CertSpec describes a certificate to issue.
type CertSpec struct {
	CommonName string
	Role       string        // organizational unit; may be empty
	SANs       []string      // IP addresses and DNS names
	ClientAuth bool          // extended key usage
	ServerAuth bool          // extended key usage
	Key        crypto.Signer // nil: a new ECDSA P-256 key
	NotAfter   time.Time     // zero: 24 h from now
}

// Identity is a certificate with its chain and private key.
type Identity struct {
	CertPEM []byte // the certificate, then an intermediate if there is one
	KeyPEM  []byte // PKCS #8
	TLS     tls.Certificate
}

// NewCA makes an authority. With intermediate it signs by a second certificate below its root.
func NewCA(name string, intermediate bool) (*CA, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of CA %s: %w", name, err)
	}
	root, err := signCA(name, nil, rootKey, rootKey)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	ca := &CA{root: root, issuer: root, issuerKey: rootKey, intermediate: intermediate}
	if !intermediate {
		return ca, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of intermediate of %s: %w", name, err)
	}
	ca.issuer, err = signCA(name+" intermediate", root, key, rootKey)
	if err != nil {
		return nil, fmt.Errorf("make intermediate of %s: %w", name, err)
	}
	ca.issuerKey = key
	return ca, nil
}

func signCA(name string, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	template, err := certTemplate(pkix.Name{CommonName: name, Organization: []string{"coretest"}}, time.Time{})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func certTemplate(subject pkix.Name, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	notBefore := time.Now().Add(-time.Hour)
	if notAfter.IsZero() {
		notAfter = time.Now().Add(certLife)
	}
	if notAfter.Before(notBefore) {
		notBefore = notAfter.Add(-time.Hour) // a certificate that is expired on purpose
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    notBefore,
		NotAfter:     notAfter,
	}, nil
}

// Issue signs a certificate.
func (ca *CA) Issue(spec CertSpec) (*Identity, error) {
	key := spec.Key
	if key == nil {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make key for %s: %w", spec.CommonName, err)
		}
		key = made
	}
	subject := pkix.Name{CommonName: spec.CommonName, Organization: []string{"coretest"}}
	if spec.Role != "" {
		subject.OrganizationalUnit = []string{spec.Role}
	}
	template, err := certTemplate(subject, spec.NotAfter)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", spec.CommonName, err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if spec.ClientAuth {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if spec.ServerAuth {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, san := range spec.SANs {
		if ip := net.ParseIP(san); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, san)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.issuer, key.Public(), ca.issuerKey)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", spec.CommonName, err)
	}
	return newIdentity(ca, der, key)
}

func newIdentity(ca *CA, der []byte, key crypto.Signer) (*Identity, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read issued certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	chain := [][]byte{der}
	if ca.intermediate {
		chain = append(chain, ca.issuer.Raw)
	}
	id := &Identity{
		KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		TLS:    tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf},
	}
	for _, raw := range chain {
		id.CertPEM = append(id.CertPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	return id, nil
}

// PEM is the root certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// WritePEM writes the root certificate to name.pem in dir and returns the path.
func (ca *CA) WritePEM(dir, name string) (string, error) {
	file := filepath.Join(dir, name+".pem")
	if err := os.WriteFile(file, ca.PEM(), 0o644); err != nil {
		return "", fmt.Errorf("write CA certificate %s: %w", name, err)
	}
	return file, nil
}

// Pool trusts the root and nothing else.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// WritePEM writes name.crt and name.key into dir, the key readable by its owner only.
func (id *Identity) WritePEM(dir, name string) (string, string, error) {
	certFile := filepath.Join(dir, name+".crt")
	keyFile := filepath.Join(dir, name+".key")
	err := errors.Join(
		os.WriteFile(certFile, id.CertPEM, 0o644),
		os.WriteFile(keyFile, id.KeyPEM, 0o600),
	)
	if err != nil {
		return "", "", fmt.Errorf("write certificate %s: %w", name, err)
	}
	return certFile, keyFile, nil
}

// ClientTLS presents the identity to every server, even to one that names other authorities in its
// request (where Go's own choice would withhold it), and trusts ca. A nil identity presents nothing.
func (id *Identity) ClientTLS(ca *CA) *tls.Config {
	cfg := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
	if id != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &id.TLS, nil
		}
	}
	return cfg
}
