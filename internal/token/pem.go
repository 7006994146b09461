package token

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// parsePEM reads every block of a PEM file. The keys have no kid.
//
// A file may be the chain that a TLS server uses. Then only the certificate of
// the server is meant: a certificate that issued another one in the file is
// passed over, since the key of a CA must not sign tokens.
func parsePEM(data []byte) (loaded, error) {
	var publics []crypto.PublicKey
	var certs []*x509.Certificate
	begins := bytes.Count(data, []byte("-----BEGIN "))
	blocks := 0
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		blocks++
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return loaded{}, errors.New("the file holds a private key, which an AEF does not need and must not have: give the public key or the certificate")
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return loaded{}, fmt.Errorf("block %d: %w", blocks, err)
			}
			certs = append(certs, cert)
		case "PUBLIC KEY":
			public, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return loaded{}, fmt.Errorf("block %d: %w", blocks, err)
			}
			publics = append(publics, public)
		case "RSA PUBLIC KEY":
			public, err := x509.ParsePKCS1PublicKey(block.Bytes)
			if err != nil {
				return loaded{}, fmt.Errorf("block %d: %w", blocks, err)
			}
			publics = append(publics, public)
		default:
			return loaded{}, fmt.Errorf("block %d is neither a public key nor a certificate", blocks)
		}
	}
	switch {
	case blocks != begins:
		return loaded{}, errors.New("a PEM block is damaged or cut off")
	case blocks == 0:
		return loaded{}, errors.New("there is no PEM block: give a public key or a certificate in PEM form")
	}

	var got loaded
	for _, cert := range certs {
		if issuedOther(cert, certs) {
			got.notes = append(got.notes, "the key of a CA certificate is not used: only the certificates it issued are")
			continue
		}
		if time.Now().After(cert.NotAfter) {
			got.notes = append(got.notes, "a certificate has expired; its key is used as long as it is configured")
		}
		publics = append(publics, cert.PublicKey)
	}
	for _, public := range publics {
		key, err := NewKey(public, "", "")
		if err != nil {
			return loaded{}, err
		}
		got.keys = append(got.keys, key)
	}
	return got, nil
}

func issuedOther(ca *x509.Certificate, certs []*x509.Certificate) bool {
	for _, cert := range certs {
		if !cert.Equal(ca) && bytes.Equal(cert.RawIssuer, ca.RawSubject) && cert.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}
