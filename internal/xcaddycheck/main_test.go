package main

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/xcaddy"
)

func TestRepositoryFile(t *testing.T) {
	if err := run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	tests := []struct{ name, json, want string }{
		{"unknown member", `{"caddy_version":"v2.0.0","plugin":[]}`, `unknown field "plugin"`},
		{"unknown member of a plugin", `{"plugins":[{"path":"x"}]}`, `unknown field "path"`},
		{"two objects", `{} {}`, "something follows"},
		{"no object", ``, "EOF"},
		{"mistyped", `{"caddy_version":2}`, "cannot unmarshal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decode([]byte(tt.json))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestCheckAgainst(t *testing.T) {
	good := xcaddy.Builder{CaddyVersion: "v2.1.0", Plugins: []xcaddy.Dependency{{PackagePath: pluginModule + "/caddyplugin"}}}
	relative := good
	relative.Replacements = []xcaddy.Replace{xcaddy.NewReplace(pluginModule, "./x")}
	tests := []struct {
		name    string
		b       xcaddy.Builder
		version string
		want    string
	}{
		{"equal", good, "v2.1.0", ""},
		{"another Caddy", good, "v2.1.1", "make them equal"},
		{"no plugin", xcaddy.Builder{CaddyVersion: "v2.1.0"}, "v2.1.0", "does not build the plugin"},
		{"relative replacement", relative, "v2.1.0", "relative path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := checkAgainst(tt.b, tt.version)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}

func TestReplacementIsAbsolute(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := fromCheckout(xcaddy.Builder{}, root)
	if len(b.Replacements) != 1 || !filepath.IsAbs(b.Replacements[0].New.String()) {
		t.Errorf("got %v; want one absolute replacement", b.Replacements)
	}
}

func TestOwnModuleIsHidden(t *testing.T) {
	h := proxyHandler("https://proxy.example/a")
	tests := []struct {
		path, location string
		status         int
	}{
		{"/github.com/caddy-capif/aef/@v/list", "", 404},
		{"/github.com/caddy-capif/aef/caddyplugin/@latest", "", 404},
		{"/github.com/caddy-capif/aefx/@v/list", "https://proxy.example/a/github.com/caddy-capif/aefx/@v/list", 307},
		{"/github.com/!burnt!sushi/toml/@v/v1.6.0.zip", "https://proxy.example/a/github.com/!burnt!sushi/toml/@v/v1.6.0.zip", 307},
		{"//evil.example/x", "https://proxy.example/a//evil.example/x", 307},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			rec := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "http://127.0.0.1"+tt.path, nil)
			h.ServeHTTP(rec, req)
			if got := rec.Header().Get("Location"); rec.Code != tt.status || got != tt.location {
				t.Errorf("got %d %q; want %d %q", rec.Code, got, tt.status, tt.location)
			}
		})
	}
}

func TestFirstProxy(t *testing.T) {
	for list, want := range map[string]string{
		"https://proxy.golang.org,direct\n": "https://proxy.golang.org",
		"http://a.example/|https://b":       "http://a.example",
		"direct":                            "", "off": "", "file:///srv/go": "", "": "",
	} {
		if got := firstProxy(list); got != want {
			t.Errorf("%q: got %q; want %q", list, got, want)
		}
	}
}
