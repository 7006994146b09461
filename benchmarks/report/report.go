// Package report writes what was measured into Markdown pages, between markers,
// so that the text around it stays.
package report

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The lines between which a page is rewritten.
const (
	Begin = "<!-- benchmarks:%s:begin -->"
	End   = "<!-- benchmarks:%s:end -->"
)

// ErrMarkers means that a page has no place for what is to be written.
var ErrMarkers = errors.New("the page needs one begin and one end marker, each on a line of its own, in this order")

// Replace returns page with text between the markers of the section.
func Replace(page []byte, section, text string) ([]byte, error) {
	begin, end := fmt.Sprintf(Begin, section)+"\n", fmt.Sprintf(End, section)
	if bytes.Count(page, []byte(begin)) != 1 || bytes.Count(page, []byte(end)) != 1 {
		return nil, fmt.Errorf("section %s: %w", section, ErrMarkers)
	}
	head, rest, _ := bytes.Cut(page, []byte(begin))
	_, tail, ok := bytes.Cut(rest, []byte(end))
	if !ok {
		return nil, fmt.Errorf("section %s: %w", section, ErrMarkers)
	}
	return bytes.Join([][]byte{head, []byte(begin), []byte("\n" + strings.TrimSpace(text) + "\n\n"), []byte(end), tail}, nil), nil
}

// Rewrite replaces a section of the page at path.
func Rewrite(path, section, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err = Replace(page, section, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	temporary := filepath.Join(filepath.Dir(path), ".benchmarks.tmp")
	err = os.WriteFile(temporary, page, 0o644) //nolint:gosec // a page of the repository
	if err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Table lays out a Markdown table.
func Table(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(header)
	b.WriteString("|" + strings.Repeat("---|", len(header)) + "\n")
	for _, row := range rows {
		line(row)
	}
	return b.String()
}
