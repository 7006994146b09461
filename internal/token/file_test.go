package token

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func certificate(t *testing.T, name string, isCA bool, public any, parent *x509.Certificate, parentKey any) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestParsePEM(t *testing.T) {
	k := keys()
	rsaPEM, p256PEM := publicPEM(&k.rsa.PublicKey), publicPEM(&k.p256.PublicKey)
	ca := certificate(t, "ca", true, &k.p384.PublicKey, nil, k.p384)
	leaf := certificate(t, "core", false, &k.rsa.PublicKey, ca, k.p384)
	caPEM, leafPEM := pemOf("CERTIFICATE", ca.Raw), pemOf("CERTIFICATE", leaf.Raw)
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(k.rsa))

	tests := []struct {
		name string
		data []byte
		keys int // 0: refused
		text string
	}{
		{"PKIX", rsaPEM, 1, ""},
		{"PKCS1", pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey)), 1, ""},
		{"Ed25519", publicPEM(k.ed.Public()), 1, ""},
		{"several blocks with text between", join([]byte("key one\n"), rsaPEM, []byte("key two\n"), p256PEM), 2, ""},
		{"certificate", leafPEM, 1, ""},
		{"self-signed certificate", caPEM, 1, ""},
		{"chain: the CA's key is not taken", join(leafPEM, caPEM), 1, "CA certificate"},
		{"key and certificate", join(p256PEM, leafPEM), 2, ""},

		{"empty", nil, 0, "no PEM block"},
		{"DER", must(x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)), 0, "no PEM block"},
		{"private key PKCS8", pemOf("PRIVATE KEY", pkcs8), 0, "private key"},
		{"private key PKCS1", pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k.rsa)), 0, "private key"},
		{"private key EC", pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(k.p256))), 0, "private key"},
		{"private key encrypted", pemOf("ENCRYPTED PRIVATE KEY", pkcs8), 0, "private key"},
		{"private key behind a public one", join(rsaPEM, pemOf("PRIVATE KEY", pkcs8)), 0, "private key"},
		{"unknown block", pemOf("DH PARAMETERS", []byte{1}), 0, "neither"},
		{"damaged content", pemOf("PUBLIC KEY", []byte("junk")), 0, "block 1"},
		{"damaged PKCS1", pemOf("RSA PUBLIC KEY", []byte("junk")), 0, "block 1"},
		{"damaged certificate", join(rsaPEM, pemOf("CERTIFICATE", leaf.Raw[:100])), 0, "block 2"},
		{"cut off", rsaPEM[:len(rsaPEM)-30], 0, "cut off"},
		{"second block cut off", join(rsaPEM, p256PEM[:60]), 0, "cut off"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parsePEM(tt.data)
			text := strings.Join(got.notes, "\n")
			if tt.keys == 0 {
				if err == nil {
					t.Fatalf("got %d keys; want an error", len(got.keys))
				}
				text = err.Error()
			} else if err != nil || len(got.keys) != tt.keys {
				t.Fatalf("got %d keys, %v; want %d", len(got.keys), err, tt.keys)
			}
			if !strings.Contains(text, tt.text) || (tt.text == "" && text != "") {
				t.Errorf("got text %q; want %q in it", text, tt.text)
			}
		})
	}
	got, err := parsePEM(join(leafPEM, caPEM))
	if err != nil || got.keys[0].kind != kindRSA {
		t.Errorf("chain: got kind %v, %v; want the RSA key of the server", got.keys, err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	// Written aside and renamed: no reader sees half a file.
	err := os.WriteFile(path+".new", data, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	err = os.Rename(path+".new", path)
	if err != nil {
		t.Fatal(err)
	}
}

func TestPEMFilesReload(t *testing.T) {
	k := keys()
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a.pem"), filepath.Join(dir, "b.pem")
	write(t, first, publicPEM(&k.rsa.PublicKey))
	write(t, second, publicPEM(&k.p256.PublicKey))
	oldToken := mint("RS256", k.rsa, `{"alg":"RS256","kid":"any"}`, goodClaims(""))
	newToken := mintAs("RS256", k.otherRSA, goodClaims(""))

	synctest.Test(t, func(t *testing.T) {
		log, lines := newLog()
		source, err := PEMFiles(Options{Logger: log}, first, second)
		if err != nil {
			t.Fatal(err)
		}
		if err := source.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		v := verifier(t, Settings{}, source)
		run(t, source)
		for _, raw := range []string{oldToken, mintAs("ES256", k.p256, goodClaims(""))} {
			if _, err := v.Verify(t.Context(), raw, now); err != nil {
				t.Error(err)
			}
		}

		// A damaged file changes nothing but LastError.
		write(t, first, []byte("-----BEGIN PUBLIC KEY-----\n"))
		time.Sleep(2 * fileEvery)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), oldToken, now); err != nil || source.LastError() == nil {
			t.Errorf("damaged file: verify %v, LastError %v; want none and an error", err, source.LastError())
		}
		// So does a missing one, also of several.
		if err := os.Remove(second); err != nil {
			t.Fatal(err)
		}
		write(t, first, publicPEM(&k.otherRSA.PublicKey))
		time.Sleep(2 * fileEvery)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), oldToken, now); err != nil || source.LastError() == nil {
			t.Errorf("missing file: verify %v, LastError %v; want none and an error", err, source.LastError())
		}

		write(t, second, publicPEM(&k.p256.PublicKey))
		time.Sleep(2 * fileEvery)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), newToken, now); err != nil {
			t.Errorf("new key: %v", err)
		}
		_, err = v.Verify(t.Context(), oldToken, now)
		wantKind(t, err, BadSignature)
		if source.LastError() != nil {
			t.Errorf("LastError %v; want none", source.LastError())
		}
		if n := strings.Count(lines.String(), "token keys changed"); n != 2 {
			t.Errorf("%d lines about changed keys; want 2:\n%s", n, lines)
		}
	})
}

// A token of the new key does not have to wait for the timer.
func TestFileIsReadAgainForUnknownKey(t *testing.T) {
	k := keys()
	path := filepath.Join(t.TempDir(), "jwks.json")
	write(t, path, jwks(jwkOf(&k.rsa.PublicKey, map[string]any{"kid": "1"})))
	synctest.Test(t, func(t *testing.T) {
		source, err := JWKSFile(Options{Every: time.Hour}, path)
		if err != nil {
			t.Fatal(err)
		}
		v := verifier(t, Settings{}, source)
		run(t, source)
		time.Sleep(fileFloor)
		synctest.Wait()
		write(t, path, jwks(jwkOf(k.ed.Public(), map[string]any{"kid": "2"})))
		if _, err := v.Verify(t.Context(), mint("EdDSA", k.ed, `{"alg":"EdDSA","kid":"2"}`, goodClaims("")), now); err != nil {
			t.Error(err)
		}
	})
}

func TestUnchangedFileIsNotReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pem")
	write(t, path, publicPEM(keys().ed.Public()))
	synctest.Test(t, func(t *testing.T) {
		source := must(PEMFiles(Options{}, path))
		run(t, source)
		synctest.Wait()
		first := source.LoadedAt()
		time.Sleep(time.Hour)
		synctest.Wait()
		if !source.LoadedAt().Equal(first) {
			t.Errorf("read again at %v without a change", source.LoadedAt())
		}
	})
}

func TestFilesRefused(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.pem")
	write(t, huge, make([]byte, maxSourceBytes+1))
	for path, want := range map[string]string{
		dir:                               "not a regular file",
		filepath.Join(dir, "missing.pem"): "missing.pem",
		huge:                              "1 MiB",
	} {
		err := must(PEMFiles(Options{}, path)).Load(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want an error with %q", path, err, want)
		}
	}
	if _, err := PEMFiles(Options{}); err == nil {
		t.Error("no files: got no error")
	}
	if _, err := JWKSFile(Options{}, ""); err == nil {
		t.Error("empty path: got no error")
	}
}
