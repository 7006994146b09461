//go:build unix

package caddyplugin_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/testbed"
)

// exampleLine is a command of an example, as the help and the page of the commands
// show it.
var exampleLine = regexp.MustCompile(`(?m)^caddy capif .*$`)

const watchExample = "caddy capif watch"

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// shell runs a line as an operator does, in sh, with this very Caddy on the path
// and the admin endpoint in CADDY_ADMIN. What would go on for ever is ended with
// Ctrl-C once it has said something.
func (b *adminBed) shell(dir, line, input string) ran {
	b.t.Helper()
	executable, err := os.Executable()
	must(b.t, err)
	script := "#!/bin/sh\nCAPIF_TESTBED_COMMAND=\"$(printf '%s\\n' \"$@\")\" exec '" + executable + "'\n"
	must(b.t, os.WriteFile(filepath.Join(dir, "caddy"), []byte(script), 0o700))
	ctx, cancel := context.WithTimeout(b.ctx, commandDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "exec "+line)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "CADDY_ADMIN="+b.aef.Admin, "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &stderr
	if line == watchExample {
		cmd.Stderr = writerFunc(func(p []byte) (int, error) { cancel(); return stderr.Write(p) })
	}
	_ = cmd.Run() // the exit code tells
	return ran{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// TestExamplesOfCommands runs every example of docs/commands.md, which are those of
// the help, in the order of the page but for those that lift.
func TestExamplesOfCommands(t *testing.T) {
	b := newAdminBed(t, nil)
	token := b.granted("inv-1")
	b.granted("inv-2")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "invokers.csv"), []byte("api_invoker_id,api_id\ninv-3,8f36c0\ninv-4,*\n"), 0o600))
	data, err := os.ReadFile(filepath.Join("..", "docs", "commands.md"))
	must(t, err)
	_, page, _ := strings.Cut(string(data), "## Flags of every command")
	var examples []string
	for block := range strings.SplitSeq(page, "```sh\n") {
		lines, _, _ := strings.Cut(block, "```")
		examples = append(examples, exampleLine.FindAllString(lines, -1)...)
	}
	if len(examples) < 15 {
		t.Fatalf("got %d examples %q; want those of ten commands", len(examples), examples)
	}
	run := map[string]bool{}
	// The calls that are checked pass before the revokes; what is watched has happened.
	for _, word := range []string{"check", "revoke", "", "watch", "lift"} {
		for _, line := range examples {
			name := strings.Fields(line)[2]
			if run[line] || (word != "" && name != word) || (word == "" && (name == "lift" || name == "watch")) {
				continue
			}
			run[line] = true
			code := 0
			if line == watchExample {
				code = 130
			}
			actual := line
			if name == "show" {
				var list adminapi.RevocationList
				b.get(adminapi.PathRevocations+"?limit=1", &list)
				actual = "caddy capif show " + list.Revocations[0].ID
			}
			b.sub(t, line, func() { wantRan(b.t, b.shell(dir, actual, "y\n"), code) })
		}
	}
	exportedTo, err := os.ReadFile(filepath.Join(dir, "ledger.jsonl"))
	if err != nil || !strings.Contains(string(exportedTo), `"type":"revocation"`) {
		t.Errorf("ledger.jsonl: got %v, %.200s; want the export", err, exportedTo)
	}
}

// TestCommandOverUnixSocket: the admin endpoint is a unix socket with a mode, named
// by --address and by --config.
func TestCommandOverUnixSocket(t *testing.T) {
	b := newAdminBed(t, nil)
	dir, err := os.MkdirTemp("", "capif") // a socket's path is short
	must(t, err)
	defer os.RemoveAll(dir)
	address := "unix/" + dir + "/admin.sock|0200"
	caddyfile, err := b.aef.Caddyfile()
	must(t, err)
	must(t, b.caddy.Stop())
	file := filepath.Join(dir, "Caddyfile")
	must(t, os.WriteFile(file, []byte(strings.Replace(caddyfile, "admin "+b.aef.Admin, "admin "+address, 1)), 0o600))
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	cmd, err := testbed.Command(ctx, dir, "run", "--config", file, "--adapter", "caddyfile")
	must(t, err)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	b.poll(func() bool { return runCommand(t, dir, "", "status", "--address", address).code == 0 })
	wantRan(t, runCommand(t, dir, "", "status", "--config", file, "--adapter", "caddyfile"), 0, "aef-a")
	wantRan(t, runCommand(t, dir, "", "revoke", "--invoker", "inv-1", "--api", testbed.APIID, "--cause", "OVERLIMIT_USAGE", "--address", "unix/"+dir+"/admin.sock"), 0, "Blocked here")
	wantRan(t, runCommand(t, dir, "", "audit", "--address", address), 0, "unix socket", "inv-1")
	wantRan(t, runCommand(t, dir, "", "watch", "--after", "0-0", "--count", "1", "--address", address), 0, "revoke")
	must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("caddy: got exit code %d; want 0\n%s", code, log.String())
	}
}

// TestWatchEndsWithCtrlC ends with a code of its own.
func TestWatchEndsWithCtrlC(t *testing.T) {
	b := newAdminBed(t, nil)
	w := b.watch()
	w.next(b.bed, adminapi.EventStart)
	must(t, w.cmd.Process.Signal(os.Interrupt))
	for range w.events {
	}
	_ = w.cmd.Wait()
	if code := w.cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("got exit code %d; want 130", code)
	}
}
