package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/testbed"
)

// TestExternal starts the Caddys apart from the quickstart, as containers do.
func TestExternal(t *testing.T) {
	shared := t.TempDir()
	q := startQuickstart(t, "-external", shared)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, id := range []string{aefA, aefB} {
		file := filepath.Join(shared, "capif-quickstart", id, "Caddyfile")
		text := waitForFile(ctx, t, file)
		admin := regexp.MustCompile(`admin (\S+)`).FindStringSubmatch(text)
		if admin == nil {
			t.Fatalf("got no admin address in\n%s", text)
		}
		c, err := testbed.StartCaddy(ctx, testbed.CaddyOptions{Name: id, Dir: t.TempDir(), Caddyfile: text, AdminAddress: admin[1]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := c.Stop()
			if err != nil {
				t.Error(err)
			}
		})
	}
	output := q.rest()
	if got := q.status(); got != exitOK {
		t.Errorf("exit status: got %v; want %v\n%s%s", got, exitOK, output, q.stderr.String())
	}
	if _, err := os.Stat(filepath.Join(shared, "capif-quickstart")); !os.IsNotExist(err) {
		t.Errorf("the folder: got %v; want it removed", err)
	}
}

func waitForFile(ctx context.Context, t *testing.T, file string) string {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		data, err := os.ReadFile(file)
		if err == nil {
			return string(data)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", file, err)
		case <-ticker.C:
		}
	}
}
