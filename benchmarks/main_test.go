package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-capif/aef/benchmarks/caddyjwx"
	_ "github.com/caddy-capif/aef/caddyplugin"
)

// childEnv makes this binary a Caddy with everything linked, in the place of those
// that a real run builds.
const childEnv = "CAPIF_BENCHMARKS_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

func testPrograms(t *testing.T) map[string]program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self := program{path: path, env: []string{childEnv + "=1"}}
	return map[string]program{"bare": self, "capif": self, "jwx": self}
}

// TestAllParts runs everything once, as short as it goes. What it measures says
// nothing; that it measures, ends and fills both pages does.
func TestAllParts(t *testing.T) {
	docs := t.TempDir()
	for page, sections := range map[string][]string{"performance.md": {"compare", "within", "latency"}, "scale.md": {"scale"}} {
		text := "# Before\n"
		for _, s := range sections {
			text += "<!-- benchmarks:" + s + ":begin -->\n<!-- benchmarks:" + s + ":end -->\n"
		}
		err := os.WriteFile(filepath.Join(docs, page), []byte(text), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := parseFlags([]string{
		"-rounds", "1", "-scale-rounds", "1", "-duration", "50ms", "-paced", "50ms", "-rate", "100", "-connections", "4", "-tokens", "12",
		"-claims", "50", "-revokes", "100", "-latency-calls", "15", "-turns", "2", "-turn", "50ms", "-reads-duration", "500ms", "-algorithm", "ES256", "-docs", docs,
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c.routes, c.decisions = []int{3}, 1000
	err = measureAll(t.Context(), c, t.TempDir(), testPrograms(t), "the command", io.Discard, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for page, wants := range map[string][]string{
		"performance.md": {"# Before", "the command", "### One token", "### 12 tokens in rotation", "50 claims loaded", "A reload every second", bareB, withPlugin, withJWX, "no calls beside, p99", "without the check"},
		"scale.md":       {"# Before", "GOMAXPROCS 1", "3 more routes", "active API invokers", "Not measured"},
	} {
		text, err := os.ReadFile(filepath.Join(docs, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: got no %q", page, want)
			}
		}
		for _, bad := range []string{"NaN", "Inf", "%!"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s: got %q in it", page, bad)
			}
		}
		if t.Failed() {
			t.Logf("%s", text)
		}
	}
	if _, err := os.Stat(filepath.Join(docs, "images", "performance.svg")); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	c, err := parseFlags(nil, io.Discard)
	if err != nil || c.rounds != 15 || c.duration != 1500*time.Millisecond || !c.has("scale") {
		t.Errorf("got %+v, %v; want the defaults", c, err)
	}
	for _, args := range [][]string{
		{"-parts", "nonsense"}, {"-rounds", "0"}, {"-duration", "0s"}, {"-algorithm", "HS256"}, {"-tokens", "-1"}, {"surplus"},
	} {
		_, err := parseFlags(args, io.Discard)
		if err == nil {
			t.Errorf("%v: got no error; want one", args)
		}
	}
}

func TestCommandLineCanBeCalledAgain(t *testing.T) {
	got := commandLine([]string{"-rounds", "3", "-docs", ""})
	if want := `go -C benchmarks run . -rounds 3 -docs ""`; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		mean, bound bool
		want        string
	}{
		{true, true, "met"}, {true, false, "met by the mean, not by the bound"}, {false, false, "missed"},
	} {
		if got := verdict(tt.mean, tt.bound); got != tt.want {
			t.Errorf("%v, %v: got %q; want %q", tt.mean, tt.bound, got, tt.want)
		}
	}
}
