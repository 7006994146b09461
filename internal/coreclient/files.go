package coreclient

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
)

// material is what a TLS connection to the core needs, as read from the files at one time.
type material struct {
	cert  *tls.Certificate // nil: none configured
	roots *x509.CertPool   // nil: the system's
}

func (m material) tlsConfig() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.roots}
	if m.cert != nil {
		// Unlike Certificates, this shows the certificate also to a core that names other CAs in its
		// request: the core's refusal then says more than "no certificate".
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.cert, nil }
	}
	return cfg
}

// files keeps the certificate, key and CA files, and a connection pool made from their last good content. A
// change makes a new pool, so that no request goes out on a connection that shows the old certificate.
type files struct {
	certFile, keyFile string
	caFiles           []string
	log               *slog.Logger

	mu     sync.Mutex
	stamps []fs.FileInfo // of paths(), as of the last attempt to read them; nil entry: not there
	pool   *http.Transport
}

func openFiles(certFile, keyFile string, caFiles []string, log *slog.Logger) (*files, error) {
	if (certFile == "") != (keyFile == "") {
		return nil, errors.New("client certificate of the core needs both a certificate file and a key file")
	}
	f := &files{certFile: certFile, keyFile: keyFile, caFiles: caFiles, log: log}
	f.stamps = f.stat()
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	f.pool = newTransport(m)
	return f, nil
}

func (f *files) paths() []string {
	var paths []string
	if f.certFile != "" {
		paths = append(paths, f.certFile, f.keyFile)
	}
	return append(paths, f.caFiles...)
}

// current returns the pool to use for one call; it looks at the files first.
func (f *files) current() *http.Transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.stat() // before reading: a file that changes while it is read is then read again
	if same(f.stamps, now) {
		return f.pool
	}
	f.stamps = now
	m, err := f.read()
	if err != nil {
		f.log.Error("certificate files of the core changed and cannot be used, keeping the last good ones", "error", err)
		return f.pool
	}
	old := f.pool
	f.pool = newTransport(m)
	old.CloseIdleConnections() // and those in use close when they become idle
	f.log.Info("certificate files of the core read again")
	return f.pool
}

func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pool.CloseIdleConnections()
}

func (f *files) stat() []fs.FileInfo {
	paths := f.paths()
	stamps := make([]fs.FileInfo, len(paths))
	for i, p := range paths {
		if info, err := os.Stat(p); err == nil {
			stamps[i] = info
		}
	}
	return stamps
}

func same(a, b []fs.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] == nil {
			continue
		}
		if !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() || !os.SameFile(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (f *files) read() (material, error) {
	var m material
	if f.certFile != "" {
		cert, err := readPair(f.certFile, f.keyFile)
		if err != nil {
			return material{}, err
		}
		m.cert = cert
	}
	if len(f.caFiles) > 0 {
		m.roots = x509.NewCertPool()
	}
	for _, path := range f.caFiles {
		if err := addRoots(m.roots, path); err != nil {
			return material{}, err
		}
	}
	return m, nil
}

func readPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("client certificate of the core: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("client key of the core: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}

func addRoots(pool *x509.CertPool, path string) error {
	rest, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("trusted CA of the core: %w", err)
	}
	found := false
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("trusted CA of the core: %s: %w", path, err)
		}
		pool.AddCert(cert)
		found = true
	}
	if !found {
		return fmt.Errorf("trusted CA of the core: %s holds no PEM certificate", path)
	}
	return nil
}
