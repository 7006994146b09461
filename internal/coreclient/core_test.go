package coreclient

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "core CA")
	certPEM, keyPEM := ca.issue("aef-1")
	_, otherKey := ca.issue("aef-2")
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, data)
		return path
	}
	cert, key := file("aef.crt", certPEM), file("aef.key", keyPEM)
	wrongKey, junk := file("other.key", otherKey), file("junk.pem", []byte("not PEM"))
	brokenCA := file("broken.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	missing := filepath.Join(dir, "missing.pem")
	const u = "https://core.example"

	tests := []struct {
		name string
		s    Settings
		want string
	}{
		{"no url", Settings{}, "url of the core is missing"},
		{"no host", Settings{URL: "https://"}, "want https://host"},
		{"other scheme", Settings{URL: "ftp://core.example"}, "want https://host"},
		{"not a url", Settings{URL: "https://core.example/%zz"}, "want https://host"},
		{"plain http", Settings{URL: "http://core.example"}, "insecure_http"},
		{"credentials", Settings{URL: "https://aef:secret@core.example"}, "user name or password"},
		{"query", Settings{URL: u + "?a=b"}, "query or a fragment"},
		{"fragment", Settings{URL: u + "#a"}, "query or a fragment"},
		{"unknown profile", Settings{URL: u, Profile: "nokia"}, `"nokia": want strict, opencapif or oran`},
		{"negative timeout", Settings{URL: u, Timeout: -1}, "must not be negative"},
		{"redirect host with a path", Settings{URL: u, RedirectHosts: []string{"a.example/x"}}, `"a.example/x": want host`},
		{"redirect host with a scheme", Settings{URL: u, RedirectHosts: []string{"https://a.example"}}, "want host or host:port"},
		{"empty redirect host", Settings{URL: u, RedirectHosts: []string{""}}, "want host or host:port"},
		{"certificate without key", Settings{URL: u, CertFile: cert}, "both a certificate file and a key file"},
		{"key without certificate", Settings{URL: u, KeyFile: key}, "both a certificate file and a key file"},
		{"missing certificate", Settings{URL: u, CertFile: missing, KeyFile: key}, missing},
		{"missing key", Settings{URL: u, CertFile: cert, KeyFile: missing}, missing},
		{"key of another certificate", Settings{URL: u, CertFile: cert, KeyFile: wrongKey}, wrongKey},
		{"certificate that is none", Settings{URL: u, CertFile: junk, KeyFile: key}, junk},
		{"missing CA", Settings{URL: u, TrustedCAFiles: []string{missing}}, missing},
		{"CA that is none", Settings{URL: u, TrustedCAFiles: []string{cert, junk}}, junk},
		{"CA that is broken", Settings{URL: u, TrustedCAFiles: []string{brokenCA}}, brokenCA},
		{"CA that is a key", Settings{URL: u, TrustedCAFiles: []string{key}}, key},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.s)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want an error with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v; want no password in it", err)
			}
		})
	}
}

func TestNewWarnsOfPlainHTTP(t *testing.T) {
	var lines logLines
	c, err := New(Settings{URL: "http://127.0.0.1:1/capif/", InsecureHTTP: true, Logger: lines.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := lines.count("level=WARN"); got != 1 {
		t.Errorf("got %d warnings; want 1", got)
	}
	want := "http://127.0.0.1:1/capif/capif-security/v1/trustedInvokers/a/delete"
	if got := c.resource("a", "delete"); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestEffectiveScope(t *testing.T) {
	yes, no := ptr(true), ptr(false)
	tests := []struct {
		name, profile, aefID string
		allAEFs              *bool
		want                 EffectiveScope
		wantErr              string
	}{
		{"strict says nothing", "strict", "aef-1", nil, ScopeThisAEF, ""},
		{"strict false", "strict", "aef-1", no, ScopeThisAEF, ""},
		{"strict true", "strict", "aef-1", yes, ScopeAllAEFs, ""},
		{"strict true without aefId", "strict", "", yes, ScopeAllAEFs, ""},
		{"strict without aefId", "strict", "", nil, "", "aef_id is missing"},
		{"default is strict", "", "aef-1", nil, ScopeThisAEF, ""},
		{"opencapif says nothing", "opencapif", "aef-1", nil, ScopeAllAEFs, ""},
		{"opencapif true", "opencapif", "aef-1", yes, ScopeAllAEFs, ""},
		{"opencapif false", "opencapif", "aef-1", no, "", "profile opencapif a revoke cannot be kept to one AEF"},
		{"oran says nothing", "oran", "", nil, ScopeAllAEFs, ""},
		{"oran false", "oran", "aef-1", no, "", "profile oran a revoke cannot be kept to one AEF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Settings{URL: "https://core.example", Profile: tt.profile})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.EffectiveScope(tt.aefID, tt.allAEFs)
			if got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
			if (err != nil) != (tt.wantErr != "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("got error %v; want %q", err, tt.wantErr)
			}
		})
	}
}

func TestNewOpensNoConnection(t *testing.T) {
	s := newSite(t, reply(500, "", ""))
	s.Close() // nothing listens any more
	if _, err := New(s.settings); err != nil {
		t.Fatalf("got %v; want a core that is down not to matter", err)
	}
	if _, err := os.Stat(s.settings.CertFile); err != nil {
		t.Fatal(err)
	}
}
