package caddyplugin

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

var update = flag.Bool("update", false, "write docs/reference.md anew")

const referenceHead = `# Configuration reference

Caddy's native form of every setting, from the comments of the code. The Caddyfile words are in the
[configuration](caddyfile.md), with an example of each in [Caddyfile.example](../Caddyfile.example). This page is
written by ` + "`go test ./caddyplugin -run TestReference -update`" + ` and compared by the same test.

Durations are strings such as ` + "`\"5m\"`" + ` or numbers of nanoseconds.
`

// TestReference: docs/reference.md says what the comments of the fields say.
func TestReference(t *testing.T) {
	r := &reference{t: t, docs: typeDocs(t)}
	r.WriteString(referenceHead)
	ids := caddy.Modules()
	slices.SortFunc(ids, func(a, b string) int { // the app first, then what needs it
		return cmp.Or(cmp.Compare(strings.Count(a, "."), strings.Count(b, ".")), cmp.Compare(a, b))
	})
	found := 0
	for _, id := range ids {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		module := reflect.TypeOf(info.New())
		if module.Kind() != reflect.Pointer {
			continue
		}
		module = module.Elem()
		if module.PkgPath() != reflect.TypeFor[App]().PkgPath() || strings.HasPrefix(id, "admin.") {
			continue
		}
		found++
		fmt.Fprintf(r, "\n## %s\n\n%s", id, r.text(module.Name()))
		r.fields(module, "")
	}
	if found < 4 {
		t.Fatalf("got %d modules with settings; want at least 4", found)
	}
	if *update {
		err := os.WriteFile(filepath.Join("..", "docs", "reference.md"), []byte(r.String()), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := repositoryFile(t, "docs", "reference.md"); got != r.String() {
		t.Errorf("docs/reference.md is not what the comments say: run go test ./caddyplugin -run TestReference -update")
	}
}

// reference writes the page.
type reference struct {
	strings.Builder
	t    *testing.T
	docs map[string]*typeDoc
}

// typeDoc is what is written about a type and its fields.
type typeDoc struct {
	text   string
	fields map[string]string
}

// fields writes the settings of a struct, those of structs inside it behind them.
func (r *reference) fields(s reflect.Type, prefix string) {
	for i := range s.NumField() {
		field := s.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		text := r.docs[s.Name()].fields[field.Name]
		if rest, ok := strings.CutPrefix(text, field.Name+" "); ok {
			text = code(name) + " " + rest
		}
		if strings.TrimSpace(text) == "" {
			r.t.Errorf("%s.%s has no comment; want one for users", s.Name(), field.Name)
		}
		inner := field.Type
		list := ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				list = "[]"
			}
			inner = inner.Elem()
		}
		fmt.Fprintf(r, "\n### `%s%s`\n\n%s.\n\n%s", prefix, name, kindOf(inner, list), text)
		if inner.Kind() == reflect.Struct {
			r.fields(inner, prefix+name+list+".")
		}
	}
}

func kindOf(t reflect.Type, list string) string {
	what := map[reflect.Kind]string{
		reflect.String: "Text", reflect.Bool: "`true` or `false`", reflect.Int: "Whole number", reflect.Int64: "Whole number",
		reflect.Uint64: "Whole number", reflect.Float64: "Number", reflect.Struct: "Object", reflect.Map: "Object",
	}[t.Kind()]
	if t == reflect.TypeFor[caddy.Duration]() {
		what = "Duration"
	}
	if what == "" {
		what = t.String()
	}
	if list != "" {
		return "List of: " + strings.ToLower(what[:1]) + what[1:]
	}
	return what
}

func (r *reference) text(typeName string) string {
	d := r.docs[typeName]
	if d == nil || d.text == "" {
		r.t.Errorf("%s has no comment; want one for users", typeName)
		return ""
	}
	return d.text
}

// reflow joins the lines of each paragraph: the comments are Markdown, as Caddy's
// site takes them.
func reflow(text string) string {
	var out strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if paragraph != "" && paragraph[0] != '\t' && !strings.HasPrefix(paragraph, "  ") {
			paragraph = strings.Join(strings.Fields(paragraph), " ")
		}
		out.WriteString(paragraph + "\n\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// typeDocs reads the comments of this package.
func typeDocs(t *testing.T) map[string]*typeDoc {
	t.Helper()
	set := token.NewFileSet()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	pkg, err := doc.NewFromFiles(set, files, reflect.TypeFor[App]().PkgPath(), doc.AllDecls)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]*typeDoc{}
	for _, typ := range pkg.Types {
		d := &typeDoc{text: reflow(typ.Doc), fields: map[string]string{}}
		docs[typ.Name] = d
		for _, spec := range typ.Decl.Specs {
			structure, ok := spec.(*ast.TypeSpec).Type.(*ast.StructType)
			if !ok || spec.(*ast.TypeSpec).Name.Name != typ.Name {
				continue
			}
			for _, field := range structure.Fields.List {
				for _, name := range field.Names {
					d.fields[name.Name] = reflow(field.Doc.Text())
				}
			}
		}
	}
	return docs
}
