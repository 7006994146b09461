package caddyplugin

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-capif/aef/internal/adminapi"
)

// pages returns the Markdown files for users by their path in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		all[name] = repositoryFile(t, name)
	}
	docs := filepath.Join("..", "docs")
	err := filepath.WalkDir(docs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		relative, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(relative)] = repositoryFile(t, relative)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// blocks returns the code blocks of a language, without the indent that a list
// gives them.
func blocks(page, language string) []string {
	var found []string
	for _, match := range regexp.MustCompile("(?ms)^( *)```"+language+"\n(.*?)^ *```$").FindAllStringSubmatch(page, -1) {
		found = append(found, strings.ReplaceAll("\n"+match[2], "\n"+match[1], "\n")[1:])
	}
	return found
}

// TestDocsConfigurations: every Caddyfile in the documentation is whole, adapts
// without a warning and is formatted.
func TestDocsConfigurations(t *testing.T) {
	found := 0
	for name, page := range pages(t) {
		for _, text := range blocks(page, "caddyfile") {
			found++
			if formatted := caddyfile.Format([]byte(text)); !bytes.Equal(formatted, []byte(text)) {
				t.Errorf("%s: got a Caddyfile unformatted; want\n%s", name, formatted)
			}
			_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
			if err != nil || len(warnings) != 0 {
				t.Errorf("%s: got %v, %v; want it adapted:\n%s", name, warnings, err, text)
			}
		}
	}
	if found < 8 {
		t.Errorf("got %d Caddyfiles in the documentation; want at least 8: the search is broken", found)
	}
}

// TestDeployedCaddyfiles: those of examples/deploy adapt and are formatted.
func TestDeployedCaddyfiles(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "examples", "deploy", "*", "Caddyfile"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v; want Caddyfiles", files, err)
	}
	for _, file := range files {
		text := []byte(repositoryFile(t, strings.TrimPrefix(file, ".."+string(filepath.Separator))))
		if formatted := caddyfile.Format(text); !bytes.Equal(formatted, text) {
			t.Errorf("%s: got it unformatted; want\n%s", file, formatted)
		}
		_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": "Caddyfile"})
		if err != nil || len(warnings) != 0 {
			t.Errorf("%s: got %v, %v; want it adapted", file, warnings, err)
		}
	}
}

// TestDocsRequests: every body that a page shows for the trigger or a lift is one
// that the admin API takes.
func TestDocsRequests(t *testing.T) {
	found := 0
	for name, page := range pages(t) {
		for _, match := range regexp.MustCompile(`(?s)localhost/capif/(revocations|lifts|reconcile) -d '(.*?)'`).FindAllStringSubmatch(page, -1) {
			found++
			into := map[string]any{
				"revocations": new(adminapi.RevocationRequest), "lifts": new(adminapi.LiftRequest), "reconcile": new(adminapi.ReconcileRequest),
			}[match[1]]
			decoder := json.NewDecoder(strings.NewReader(match[2]))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(into); err != nil {
				t.Errorf("%s: got %v; want a valid request:\n%s", name, err, match[2])
			}
		}
	}
	if found < 4 {
		t.Errorf("got %d requests in the documentation; want at least 4: the search is broken", found)
	}
}

// TestDocsLinks: what a page links to is there, the heading as well.
func TestDocsLinks(t *testing.T) {
	all := pages(t)
	found := 0
	for name, page := range all {
		for _, match := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(page, -1) {
			target, fragment, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "../../") {
				continue
			}
			found++
			path := filepath.ToSlash(filepath.Join(filepath.Dir(name), target))
			if target == "" {
				path = name
			}
			if _, err := os.Stat(filepath.Join("..", path)); err != nil {
				t.Errorf("%s links to %s: %v", name, match[1], err)
				continue
			}
			if fragment != "" && !hasHeading(all[path], fragment) {
				t.Errorf("%s links to %s: got no such heading", name, match[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("got %d links in the documentation; want at least 20: the search is broken", found)
	}
}

func hasHeading(page, fragment string) bool {
	for line := range strings.Lines(page) {
		heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		anchor := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
		if strings.ReplaceAll(anchor, " ", "-") == fragment {
			return true
		}
	}
	return false
}

// TestDocsTroubleshooting: every warning and error that the program logs is
// explained, and no error is that it does not know.
func TestDocsTroubleshooting(t *testing.T) {
	page := repositoryFile(t, "docs", "troubleshooting.md")
	logged := regexp.MustCompile(`(?s)\.(?:Warn|Error)\(\s*"([^"]+)"|WarnLevel, "([^"]+)"`)
	found := 0
	var sources strings.Builder
	for _, root := range []string{"caddyplugin", "corecallback", "internal"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && (entry.Name() == "coretest" || entry.Name() == "testbed" || entry.Name() == "xcaddycheck") {
				return fs.SkipDir
			}
			if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			source := repositoryFile(t, strings.TrimPrefix(path, ".."+string(filepath.Separator)))
			sources.WriteString(source)
			for _, match := range logged.FindAllStringSubmatch(source, -1) {
				found++
				if message := match[1] + match[2]; !strings.Contains(page, "| `"+message+"` |") {
					t.Errorf("docs/troubleshooting.md: got no row for the message of %s; want one: %q", path, message)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("got %d messages; want at least 10: the search is broken", found)
	}
	for _, row := range table(t, page, "error") {
		for part := range strings.SplitSeq(strings.Trim(row[0], "`"), "…") {
			if !strings.Contains(sources.String(), strings.TrimSpace(part)) {
				t.Errorf("docs/troubleshooting.md: got an error with %q; want one that the program knows", part)
			}
		}
	}
}
