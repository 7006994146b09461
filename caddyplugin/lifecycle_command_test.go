package caddyplugin_test

import (
	"context"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/testbed"
)

const commandDeadline = 30 * time.Second

// TestValidateWhileRunning runs `caddy validate` on the configuration of a
// running server, with its ledger: it succeeds, says nothing is wrong, and the
// server goes on.
func TestValidateWhileRunning(t *testing.T) {
	l := startLife(t)
	was := l.snapshot()
	ctx, cancel := context.WithTimeout(l.ctx, commandDeadline)
	defer cancel()
	output, err := testbed.RunCommand(ctx, l.aef.Dir, "validate", "--adapter", "caddyfile", "--config", filepath.Join(l.aef.Dir, "Caddyfile"))
	if err != nil || !strings.Contains(output, "Valid configuration") {
		t.Errorf("validate: got %v, %s; want a valid configuration", err, output)
	}
	if wrong := regexp.MustCompile(`(?im)^.*("level":"error"|\berror\b|panic).*$`).FindString(output); wrong != "" {
		t.Errorf("validate: got %q; want no error", wrong)
	}
	l.intact(was)
}

// TestValidateOpensNoLedger runs `caddy validate` where there is no ledger: none
// is made.
func TestValidateOpensNoLedger(t *testing.T) {
	l := newLife(t)
	file := filepath.Join(l.aef.Dir, "Caddyfile")
	writeFile(t, file, []byte(l.caddyfile(l.aef)))
	ctx, cancel := context.WithTimeout(l.ctx, commandDeadline)
	defer cancel()
	output, err := testbed.RunCommand(ctx, l.aef.Dir, "validate", "--adapter", "caddyfile", "--config", file)
	if err != nil {
		t.Errorf("validate: got %v, %s; want valid", err, output)
	}
	if exists(l.aef.Ledger) {
		t.Errorf("ledger %s: got made by validate; want none", l.aef.Ledger)
	}
	if n := len(l.scene.Core.Requests()); n > 0 {
		t.Errorf("requests to the core: got %d; want none", n)
	}
}

func TestListModules(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), commandDeadline)
	defer cancel()
	output, err := testbed.RunCommand(ctx, t.TempDir(), "list-modules")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(output) {
		if strings.Contains(line, "capif") {
			ours = append(ours, strings.TrimSpace(line))
		}
	}
	slices.Sort(ours)
	want := []string{"admin.api.capif", "capif", "http.handlers.capif_callback", "http.handlers.capif_enforce", "http.handlers.capif_health", "http.handlers.capif_trigger"}
	if !slices.Equal(ours, want) {
		t.Errorf("got %v; want %v", ours, want)
	}
}

// TestTwoProcessesOnOneLedger starts a second Caddy on the ledger of a running
// one: it ends with a sentence, and the first goes on.
func TestTwoProcessesOnOneLedger(t *testing.T) {
	l := startLife(t)
	was := l.snapshot()
	second := l.bed.aef("aef-b", testbed.Provider)
	second.Ledger = l.aef.Ledger
	l.wantNoStart(second, l.aef.Ledger, "held by another process; one ledger serves one running Caddy: stop the other one, or give this one its own path")
	l.intact(was)
	second.Ledger = filepath.Join(second.Dir, "ledger.db")
	l.start(second)
	l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
}

// wantNoStart fails if the AEF starts, or does not say what is wanted.
func (l *life) wantNoStart(a *testbed.AEF, want ...string) {
	l.t.Helper()
	c, err := a.Start(l.ctx)
	if err == nil {
		_ = c.Stop()
		l.t.Fatalf("start of %s: got started; want refused", a.ID)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			l.t.Errorf("start of %s: got %v; want it to say %q", a.ID, err, w)
		}
	}
}
