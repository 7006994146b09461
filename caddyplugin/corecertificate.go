package caddyplugin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/token"
)

// coreCertificate is the source of the key in the core's TLS server certificate,
// for cores that sign tokens with it and publish no JWK set. Each load makes one
// TLS handshake and nothing more; the certificate must chain to the core's
// trusted_ca and carry its host name.
func coreCertificate(core coreclient.Settings, o token.Options) (token.Source, error) {
	u, err := url.Parse(core.URL)
	if err != nil || u.Scheme != "https" {
		return nil, errors.New("core_certificate needs an https url of the core")
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "443")
	}
	load := func(ctx context.Context) ([]token.Key, error) {
		settings := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if len(core.TrustedCAFiles) > 0 {
			pool, err := readCertPool(core.TrustedCAFiles)
			if err != nil {
				return nil, err
			}
			settings.RootCAs = pool
		}
		if core.CertFile != "" {
			pair, err := tls.LoadX509KeyPair(core.CertFile, core.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("client certificate: %w", err)
			}
			settings.Certificates = []tls.Certificate{pair}
		}
		conn, err := (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("certificate of the core: %w", err)
		}
		defer func() { _ = conn.Close() }()
		leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		key, err := token.NewKey(leaf.PublicKey, "", "")
		if err != nil {
			return nil, fmt.Errorf("certificate of the core: %w", err)
		}
		return []token.Key{key}, nil
	}
	return token.FromFunc("certificate of the core "+u.Host, load, o), nil
}
