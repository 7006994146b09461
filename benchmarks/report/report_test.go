package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	for _, tt := range []struct {
		name, page, want string
		err              error
	}{
		{"empty", "a\n<!-- benchmarks:x:begin -->\n<!-- benchmarks:x:end -->\nb\n", "a\n<!-- benchmarks:x:begin -->\n\nnew\n\n<!-- benchmarks:x:end -->\nb\n", nil},
		{"filled", "<!-- benchmarks:x:begin -->\nold\n<!-- benchmarks:x:end -->\n", "<!-- benchmarks:x:begin -->\n\nnew\n\n<!-- benchmarks:x:end -->\n", nil},
		{"another section", "<!-- benchmarks:y:begin -->\n<!-- benchmarks:y:end -->\n", "", ErrMarkers},
		{"twice", "<!-- benchmarks:x:begin -->\n<!-- benchmarks:x:begin -->\n<!-- benchmarks:x:end -->\n", "", ErrMarkers},
		{"wrong order", "<!-- benchmarks:x:end -->\n<!-- benchmarks:x:begin -->\n", "", ErrMarkers},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Replace([]byte(tt.page), "x", "new")
			if !errors.Is(err, tt.err) || string(got) != tt.want {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestRewriteKeepsAPageThatHasNoMarkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	err := os.WriteFile(path, []byte("text\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := Rewrite(path, "x", "new"); !errors.Is(err, ErrMarkers) {
		t.Errorf("got %v; want %v", err, ErrMarkers)
	}
	if got, _ := os.ReadFile(path); string(got) != "text\n" {
		t.Errorf("got %q; want the page as it was", got)
	}
}

func TestTable(t *testing.T) {
	got := Table([]string{"a", "b"}, [][]string{{"1", "2"}})
	if want := "| a | b |\n|---|---|\n| 1 | 2 |\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestChartIsXML(t *testing.T) {
	path := filepath.Join(t.TempDir(), "images", "chart.svg")
	err := BarChart{
		Title: "t", Unit: "µs", Groups: []string{"one", "two"},
		Series: []Series{{Name: "a", Values: []Bar{{1, 0.5, 1.5}, {2, 1, 3}}}, {Name: "b", Values: []Bar{{Value: 3, Low: 3, High: 3}}}},
	}.Save(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	elements := 0
	for decoder := xml.NewDecoder(file); ; elements++ {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if elements < 20 {
		t.Errorf("got %d tokens; want a drawing", elements)
	}
}
