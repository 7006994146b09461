package caddyplugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

func repositoryFile(t *testing.T, elements ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{".."}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}

// fenced returns the one code block of the language that holds text.
func fenced(t *testing.T, document, language, text string) string {
	t.Helper()
	var found []string
	for _, block := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(document, -1) {
		if strings.Contains(block[1], text) {
			found = append(found, block[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("got %d code blocks %s with %q; want 1", len(found), language, text)
	}
	return found[0]
}

// table returns the rows of the one table whose header begins with the column.
func table(t *testing.T, document, column string) [][]string {
	t.Helper()
	_, after, ok := strings.Cut(document, "\n| "+column+" |")
	if !ok {
		t.Fatalf("got no table with the column %q; want one", column)
	}
	lines := strings.Split(after, "\n")[2:] // the rest of the header, and the line below it
	var rows [][]string
	for _, line := range lines {
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	return rows
}

func code(s string) string { return "`" + s + "`" }

func codeOrNothing(s string) string {
	if s == "" {
		return ""
	}
	return code(s)
}

func wantEqual[T any](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %v\nwant %v", what, got, want)
	}
}

// wordsOf reads a syntax block: the subdirectives by the path of the block that
// they stand in.
func wordsOf(block string) map[string][]string {
	words := map[string][]string{}
	var path []string
	for line := range strings.Lines(block) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
			continue
		case strings.HasPrefix(fields[0], "}"):
			path = path[:len(path)-1]
			continue
		}
		if len(path) > 0 {
			where := strings.Join(path, " ")
			if !slices.Contains(words[where], fields[0]) {
				words[where] = append(words[where], fields[0])
			}
		}
		if strings.HasSuffix(line, "{\n") {
			path = append(path, fields[0])
		}
	}
	return words
}

// TestReadmeSyntax compares the syntax blocks with what the parsers accept,
// which they say when they meet a word they do not know, and with the comments
// of the parsers.
func TestReadmeSyntax(t *testing.T) {
	readme := repositoryFile(t, "docs", "caddyfile.md")
	sources := repositoryFile(t, "caddyplugin", "caddyfile_app.go") + repositoryFile(t, "caddyplugin", "caddyfile_handlers.go") +
		repositoryFile(t, "caddyplugin", "health.go")
	words := map[string][]string{}
	for _, name := range []string{"capif {", "capif_enforce [", "capif_trigger [", "capif_callback [", "capif_health ["} {
		block := fenced(t, readme, "text", name)
		for where, list := range wordsOf(block) {
			words[where] = list
		}
		var comment strings.Builder
		for line := range strings.Lines(block) {
			comment.WriteString("//\t" + line)
		}
		if !strings.Contains(sources, comment.String()) {
			t.Errorf("syntax of %s: got\n%s\nwant it as in the comment of UnmarshalCaddyfile", name, block)
		}
	}
	accepted := regexp.MustCompile(`unrecognized subdirective "nonsense"; accepted: (.*?)(?:, at |$)`)
	for _, test := range []struct {
		where, input string
		module       caddyfile.Unmarshaler
	}{
		{"capif", "capif {\n nonsense\n}", new(App)},
		{"capif core", "capif {\n core https://core.example {\n nonsense\n}\n}", new(App)},
		{"capif token_keys", "capif {\n token_keys jwks keys.json {\n nonsense\n}\n}", new(App)},
		{"capif ledger", "capif {\n ledger {\n nonsense\n}\n}", new(App)},
		{"capif subscribe", "capif {\n subscribe https://aef.example/capif/events {\n nonsense\n}\n}", new(App)},
		{"capif_callback check_authentication", "capif_callback {\n check_authentication {\n nonsense\n}\n}", new(Callback)},
		{"capif_enforce end_streams", "capif_enforce {\n end_streams {\n nonsense\n}\n}", new(Enforce)},
		{"capif_enforce", "capif_enforce {\n nonsense\n}", new(Enforce)},
		{"capif_trigger", "capif_trigger {\n nonsense\n}", new(Trigger)},
		{"capif_enforce policy", "capif_enforce {\n policy {\n nonsense\n}\n}", new(Enforce)},
		{"capif_enforce policy invoker", "capif_enforce {\n policy {\n invoker i {\n nonsense\n}\n}\n}", new(Enforce)},
		{"capif_callback", "capif_callback {\n nonsense\n}", new(Callback)},
		{"capif_health", "capif_health {\n nonsense\n}", new(Health)},
	} {
		err := test.module.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.input))
		if err == nil {
			t.Errorf("%s: got no error; want the accepted words", test.where)
			continue
		}
		match := accepted.FindStringSubmatch(err.Error())
		if match == nil {
			t.Errorf("%s: got %v; want the accepted words", test.where, err)
			continue
		}
		want := strings.Split(strings.ReplaceAll(match[1], " (with jwks)", ""), ", ")
		wantEqual(t, "syntax of "+test.where, words[test.where], want)
		delete(words, test.where)
	}
	if len(words) != 0 {
		t.Errorf("got blocks %v in the syntax; want only those that the parsers know", words)
	}
}

// TestExampleIsComplete: every subdirective stands in Caddyfile.example, if need
// be as a comment.
func TestExampleIsComplete(t *testing.T) {
	readme, example := repositoryFile(t, "docs", "caddyfile.md"), repositoryFile(t, "Caddyfile.example")
	for _, name := range []string{"capif {", "capif_enforce [", "capif_trigger [", "capif_callback [", "capif_health ["} {
		for where, words := range wordsOf(fenced(t, readme, "text", name)) {
			for _, word := range words {
				if !regexp.MustCompile(`(?m)^\s*(#\s+)?` + word + `( .*)?$`).MatchString(example) {
					t.Errorf("Caddyfile.example: got no line with %s of %s; want one", word, where)
				}
			}
		}
	}
}

// TestReadmeConfigurations: the Caddyfile adapts, it is formatted, and the JSON
// says the same.
func TestReadmeConfigurations(t *testing.T) {
	readme := repositoryFile(t, "README.md")
	short := []byte(fenced(t, readme, "caddyfile", "capif_enforce"))
	if formatted := caddyfile.Format(short); !bytes.Equal(formatted, short) {
		t.Errorf("Caddyfile of README.md: got it unformatted; want\n%s", formatted)
	}
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(short, map[string]any{"filename": "Caddyfile"})
	if err != nil || len(warnings) != 0 {
		t.Fatalf("Caddyfile of README.md: got %v, %v; want it adapted", warnings, err)
	}
	var fromCaddyfile, fromJSON any
	for _, err := range []error{
		json.Unmarshal(adapted, &fromCaddyfile), json.Unmarshal([]byte(fenced(t, repositoryFile(t, "docs", "caddyfile.md"), "json", "capif_enforce")), &fromJSON),
		caddy.StrictUnmarshalJSON([]byte(fenced(t, repositoryFile(t, "docs", "caddyfile.md"), "json", "capif_enforce")), new(caddy.Config)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, handler := range []string{"capif_enforce", "capif_callback"} {
		got, want := handlerIn(fromJSON, handler), handlerIn(fromCaddyfile, handler)
		if want == nil || !reflect.DeepEqual(got, want) {
			t.Errorf("handler %s: got %v in the JSON; want %v as in the Caddyfile", handler, got, want)
		}
	}
	got, want := fromJSON.(map[string]any)["apps"].(map[string]any)["capif"], fromCaddyfile.(map[string]any)["apps"].(map[string]any)["capif"]
	if want == nil || !reflect.DeepEqual(got, want) {
		t.Errorf("app: got %v in the JSON; want %v as in the Caddyfile", got, want)
	}
}

// handlerIn finds a handler in a configuration.
func handlerIn(value any, name string) any {
	switch v := value.(type) {
	case map[string]any:
		if v["handler"] == name {
			return v
		}
		for _, inner := range v {
			if found := handlerIn(inner, name); found != nil {
				return found
			}
		}
	case []any:
		for _, inner := range v {
			if found := handlerIn(inner, name); found != nil {
				return found
			}
		}
	}
	return nil
}

func TestReadmeAnswers(t *testing.T) {
	var want [][]string
	for _, reason := range enforce.Reasons() {
		if reason == enforce.Allowed {
			continue
		}
		p := problems[reason]
		want = append(want, []string{code(reason.String()), strconv.Itoa(p.status), codeOrNothing(p.code), code(p.kind)})
	}
	wantEqual(t, "answers", table(t, repositoryFile(t, "docs", "observe.md"), "reason"), want)
}

func TestReadmeMetrics(t *testing.T) {
	described := make(chan *prometheus.Desc, 100)
	newMetrics(nil).Describe(described)
	close(described)
	parts := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([\w,]*)\}`)
	want := map[string]string{}
	for d := range described {
		match := parts.FindStringSubmatch(d.String())
		if match == nil {
			t.Fatalf("got %v; want a name and labels", d)
		}
		var labels []string
		for label := range strings.SplitSeq(match[2], ",") {
			if label != "" {
				labels = append(labels, code(label))
			}
		}
		want[code(match[1])] = strings.Join(labels, ", ")
	}
	got := map[string]string{}
	for _, row := range table(t, repositoryFile(t, "docs", "observe.md"), "metric") {
		got[row[0]] = row[1]
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("metrics:\ngot  %v\nwant %v", got, want)
	}
}

func TestReadmeAlarms(t *testing.T) {
	var got, want []string
	for _, row := range table(t, repositoryFile(t, "docs", "observe.md"), "alarm") {
		got = append(got, row[0])
	}
	for _, name := range alarm.Names() {
		want = append(want, code(string(name)))
	}
	wantEqual(t, "alarms", got, want)
}

func TestReadmeStates(t *testing.T) {
	var got, want []string
	for _, row := range table(t, repositoryFile(t, "README.md"), "state") {
		got = append(got, row[0])
	}
	for _, state := range []revocation.State{
		revocation.StatePending, revocation.StateRevoked, revocation.StateUnconfirmed,
		revocation.StateNoAuthorizationFound, revocation.StateRejected, revocation.StateCancelled,
	} {
		want = append(want, code(string(state)))
	}
	wantEqual(t, "states", got, want)
}

// TestReadmeVersions compares the version table and the build commands with
// go.mod.
func TestReadmeVersions(t *testing.T) {
	readme, mod := repositoryFile(t, "README.md"), repositoryFile(t, "go.mod")
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(mod)
	caddyVersion := regexp.MustCompile(`(?m)^\s*github.com/caddyserver/caddy/v2 (\S+)`).FindStringSubmatch(mod)
	if goVersion == nil || caddyVersion == nil {
		t.Fatal("go.mod: got no versions of Go and Caddy; want both")
	}
	for _, want := range []string{
		fmt.Sprintf("| %s | %s |", caddyVersion[1], goVersion[1]),
		fmt.Sprintf("Go %s or newer", goVersion[1]),
		fmt.Sprintf("xcaddy build %s --with github.com/caddy-capif/aef/caddyplugin\n", caddyVersion[1]),
		fmt.Sprintf("xcaddy build %s --with github.com/caddy-capif/aef/caddyplugin --replace github.com/caddy-capif/aef=.\n", caddyVersion[1]),
	} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md: got no %q; want it as in go.mod", want)
		}
	}
}
