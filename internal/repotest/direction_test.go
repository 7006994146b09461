package repotest

import (
	"encoding/json"
	"errors"
	"go/version"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caddy-capif/aef"

// listed is what is used of go list's answer.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string // of the package itself, through everything
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	return out
}

func packages(t *testing.T) []listed {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(goList(t, "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./..."))))
	var all []listed
	for {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within tells whether path is one of the prefixes or below one.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

// Frameworks that only the adapter knows.
var frameworks = []string{
	"github.com/caddyserver/caddy", "go.uber.org/zap", "github.com/prometheus", "github.com/spf13/cobra",
}

// rule is one line of the layout: what the packages below of must not reach, through any number of imports.
type rule struct {
	of      []string
	exempt  []string
	mustNot []string
	direct  bool // only what they import themselves, tests included
	why     string
}

// testbed starts real Caddy processes for tests; it is part of the adapter's tests, not of the libraries.
var testOnly = []string{module + "/internal/testbed"}

var rules = []rule{
	{
		of: []string{module + "/internal", module + "/corecallback"}, exempt: testOnly, mustNot: frameworks,
		why: "the libraries stand without Caddy",
	},
	{
		of: []string{module}, mustNot: frameworks, direct: true,
		exempt: append([]string{module + "/caddyplugin", module + "/examples"}, testOnly...),
		why:    "only caddyplugin (and an example, which is a Caddy) imports Caddy",
	},
	{
		of: []string{module + "/corecallback"}, mustNot: []string{module},
		why: "corecallback is public and stands alone",
	},
	{
		of: []string{module + "/internal/enforce"},
		mustNot: []string{
			module + "/caddyplugin", module + "/corecallback", module + "/internal/adminapi", module + "/internal/coreclient",
			module + "/internal/coretest", module + "/internal/outbox", module + "/internal/reconcile",
		},
		why: "a decision does no input or output",
	},
	{
		of: []string{module + "/internal/coreclient"}, mustNot: []string{module},
		why: "the core's APIs are known without anything of ours",
	},
	{
		of: []string{module + "/internal", module + "/corecallback"}, mustNot: []string{module + "/caddyplugin"},
		exempt: testOnly, why: "the adapter is at the outer end",
	},
}

func breaches(r rule, all []listed) []string {
	var found []string
	for _, p := range all {
		if !within(p.ImportPath, r.of...) || within(p.ImportPath, r.exempt...) {
			continue
		}
		reached := p.Deps
		if r.direct {
			reached = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		}
		for _, dep := range reached {
			if within(dep, r.mustNot...) && !within(dep, p.ImportPath) {
				found = append(found, p.ImportPath+" reaches "+dep)
			}
		}
	}
	return found
}

func TestDependencyDirection(t *testing.T) {
	all := packages(t)
	for _, r := range rules {
		for _, of := range r.of {
			if !slices.ContainsFunc(all, func(p listed) bool { return within(p.ImportPath, of) }) {
				t.Errorf("no package is below %s: a rule that guards nothing", of)
			}
		}
		for _, b := range breaches(r, all) {
			t.Errorf("%s; want not: %s", b, r.why)
		}
	}
}

func TestDirectionRulesCanFail(t *testing.T) {
	all := []listed{
		{ImportPath: module + "/internal/a", Deps: []string{"fmt", "github.com/caddyserver/caddy/v2"}},
		{ImportPath: module + "/internal/enforce", Deps: []string{module + "/internal/coreclient"}},
		{ImportPath: module + "/corecallback", Deps: []string{module + "/internal/token", module + "/corecallback/sub"}},
		{ImportPath: module + "/other", TestImports: []string{"go.uber.org/zap"}},
		{ImportPath: module + "/caddyplugin", Imports: []string{"go.uber.org/zap"}},
		{ImportPath: module + "/internal/b", Deps: []string{"github.com/caddyserver/caddyless"}},
	}
	var got int
	for _, r := range rules {
		got += len(breaches(r, all))
	}
	if got != 4 {
		t.Errorf("got %d breaches; want 4", got)
	}
}

func TestGoDirectiveIsNotNewerThanCaddys(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(data)
	if m == nil {
		t.Fatal("go.mod has no go directive")
	}
	ours := string(m[1])
	caddys := strings.TrimSpace(string(goList(t, "-m", "-f", "{{.GoVersion}}", "github.com/caddyserver/caddy/v2")))
	if version.Compare("go"+ours, "go"+caddys) > 0 {
		t.Errorf("got go %s; want at most Caddy's %s, or builds with Caddy's toolchain break", ours, caddys)
	}
}
