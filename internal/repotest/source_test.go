package repotest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// walk calls f for every file of the repository, nested modules included, by its slashed relative path.
func walk(t *testing.T, f func(rel, path string)) {
	t.Helper()
	dir := root(t)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" || d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// goFiles parses every Go file but those of this package, which name what they forbid.
func goFiles(t *testing.T, f func(rel string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	n := 0
	walk(t, func(rel, path string) {
		if !strings.HasSuffix(rel, ".go") || strings.Contains("/"+rel, "/testdata/") || strings.HasPrefix(rel, "internal/repotest/") {
			return
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		n++
		f(rel, fset, file)
	})
	if n < 20 {
		t.Errorf("got %d Go files; want the whole repository", n)
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	goFiles(t, func(rel string, _ *token.FileSet, file *ast.File) {
		if strings.HasSuffix(rel, "_test.go") {
			return
		}
		dir := filepath.ToSlash(filepath.Dir(rel))
		if _, ok := comments[dir]; !ok {
			comments[dir] = nil
		}
		if file.Doc == nil {
			return
		}
		comments[dir] = append(comments[dir], rel)
		want := "Package " + file.Name.Name + " "
		if file.Name.Name == "main" {
			want = "Command " // and for an example or a generator its name
		}
		if !strings.HasPrefix(file.Doc.Text(), want) {
			t.Errorf("%s: package comment begins %.30q; want %q", rel, file.Doc.Text(), want)
		}
	})
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("%s: got package comments in %v; want exactly one", dir, files)
		}
	}
}

// TestNoSleepInTests allows a sleep only inside a call of synctest.Test, where it moves the bubble's clock
// and takes no time.
func TestNoSleepInTests(t *testing.T) {
	goFiles(t, func(rel string, fset *token.FileSet, file *ast.File) {
		if !strings.HasSuffix(rel, "_test.go") {
			return
		}
		for _, pos := range realSleeps(file) {
			t.Errorf("%s:%d: got a sleep; want testing/synctest, or a poll with a deadline", rel, fset.Position(pos).Line)
		}
	})
}

func realSleeps(file *ast.File) []token.Pos {
	var found []token.Pos
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			return !isSelector(n.Fun, "synctest", "Test")
		case *ast.SelectorExpr:
			if isSelector(n, "time", "Sleep") {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg
}

func TestSleepsAreSeen(t *testing.T) {
	const src = `package p
func a() { time.Sleep(1) }
func b() { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }
func c() { f := time.Sleep; f(1) }
func d() { other.Sleep(1) }`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(realSleeps(file)); got != 2 {
		t.Errorf("got %d sleeps; want 2", got)
	}
}

// Words for an API invoker or a deny that mislead. Only unambiguous ones: an HTTP client is a client.
var (
	wrongInText = regexp.MustCompile(`(?i)\b(black|white)[- _]?list|\bban(s|ned|ning|list)?\b|\bapi[ _-](client|consumer)s?\b`)
	wrongInName = regexp.MustCompile(`(?i)(black|white)_?list|api_?(client|consumer)([^a-z]|$)`)
	wrongWord   = regexp.MustCompile(`(^|[a-z0-9_])(Ban|Bans|Banned|Banning)([^a-z]|$)|^(ban|bans|banned|banning)([^a-z]|$)`)
)

func wrongName(name string) bool { return wrongInName.MatchString(name) || wrongWord.MatchString(name) }

func TestWords(t *testing.T) {
	goFiles(t, func(rel string, fset *token.FileSet, file *ast.File) {
		for _, group := range file.Comments {
			if m := wrongInText.FindString(group.Text()); m != "" {
				t.Errorf("%s:%d: got %q in a comment; want the words of the model (API invoker, deny, claim)", rel, fset.Position(group.Pos()).Line, m)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && wrongName(id.Name) {
				t.Errorf("%s:%d: got the name %s; want the words of the model (API invoker, deny, claim)", rel, fset.Position(id.Pos()).Line, id.Name)
			}
			return true
		})
	})
}

func TestWordsCanFail(t *testing.T) {
	for _, text := range []string{"a blacklist", "White-listed", "ban the invoker", "banned", "the API client", "api consumers"} {
		if !wrongInText.MatchString(text) {
			t.Errorf("got %q accepted; want it refused", text)
		}
	}
	for _, text := range []string{"the band", "urban", "an HTTP client", "client certificate", "banner", "the APIs of the client"} {
		if wrongInText.MatchString(text) {
			t.Errorf("got %q refused; want it accepted", text)
		}
	}
	for name, want := range map[string]bool{
		"blackList": true, "Whitelist": true, "isBanned": true, "banInvoker": true, "apiClient": true, "APIConsumer": true,
		"bandwidth": false, "urbanAPI": false, "httpClient": false, "adminapiclients": false, "turban": false, "Banner": false,
	} {
		if got := wrongName(name); got != want {
			t.Errorf("%s: got %v; want %v", name, got, want)
		}
	}
}

func TestNoMachinePaths(t *testing.T) {
	// In pieces, so that this file does not find itself.
	needles := [][]byte{[]byte("/wo" + "rk/"), []byte("../sha" + "red"), []byte("/ro" + "ot/"), []byte("/far" + "m/")}
	walk(t, func(rel, path string) {
		info, err := os.Stat(path)
		if err != nil || info.Size() > 1<<20 {
			return // built binaries and data
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		if bytes.IndexByte(data[:min(len(data), 8<<10)], 0) >= 0 {
			return
		}
		for i, line := range bytes.Split(data, []byte("\n")) {
			for _, needle := range needles {
				if bytes.Contains(line, needle) {
					t.Errorf("%s:%d: got %q; want no path of one machine", rel, i+1, needle)
				}
			}
		}
	})
}
