package caddyplugin

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/enforce"
)

// TestProblemsAreExplained compares docs/problems.md with the answers: one
// section for each problem type, that says the same status and error code.
func TestProblemsAreExplained(t *testing.T) {
	document := repositoryFile(t, "docs", "problems.md")
	if !strings.HasSuffix(problemBase, "/docs/problems.md#") {
		t.Fatalf("problem types begin with %q; want the page", problemBase)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(document, "\n## ")[1:] {
		anchor, text, _ := strings.Cut(section, "\n")
		sections[anchor] = strings.TrimSpace(text)
	}
	known := map[string]bool{}
	for reason, p := range problems {
		known[p.kind] = true
		text, ok := sections[p.kind]
		if !ok {
			t.Errorf("reason %v: got no section %q; want one", reason, p.kind)
			continue
		}
		begins := fmt.Sprintf("%d, no error code.", p.status)
		switch {
		case p.code != "":
			begins = fmt.Sprintf("%d `%s`.", p.status, p.code)
		case p.status == http.StatusServiceUnavailable:
			begins = "503 with `Retry-After`."
		case p.status == http.StatusTooManyRequests:
			begins = "429 with `Retry-After`."
		}
		if !strings.HasPrefix(text, begins) {
			t.Errorf("section %q: got %q; want it to begin with %q", p.kind, text[:min(len(text), 40)], begins)
		}
		if !strings.Contains(text, "\n*Do:* ") {
			t.Errorf("section %q: got no advice; want a line that begins with *Do:*", p.kind)
		}
	}
	for anchor := range sections {
		if !known[anchor] {
			t.Errorf("got a section %q; want only problem types", anchor)
		}
		if !regexp.MustCompile(`^[a-z-]+$`).MatchString(anchor) {
			t.Errorf("section %q: got a heading that is not its own anchor; want one", anchor)
		}
	}
}

// TestEveryReasonHasAnAnswer: a refusal is never without one.
func TestEveryReasonHasAnAnswer(t *testing.T) {
	for _, reason := range enforce.Reasons() {
		if _, ok := problems[reason]; ok == (reason == enforce.Allowed) {
			t.Errorf("reason %v: got an answer: %v; want one for each refusal", reason, ok)
		}
	}
	if !slices.Contains(enforce.Reasons(), enforce.AuthorizationRevoked) {
		t.Error("reasons: got none for a revoked authorization; want it")
	}
}
