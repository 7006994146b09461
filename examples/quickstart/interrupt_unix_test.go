//go:build unix

package main

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterrupt ends a quickstart at several moments. Nothing may be left.
func TestInterrupt(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		line   string // the moment
		signal os.Signal
	}{
		{"before the Caddys", nil, "folder", syscall.SIGINT},
		{"while the Caddys start", nil, "told of revokes", syscall.SIGINT},
		{"when the Caddys run", nil, "Caddy in process", syscall.SIGTERM},
		{"in the middle", nil, "step 2", syscall.SIGINT},
		{"while it stays", []string{"-stay"}, "until Ctrl-C", syscall.SIGINT},
		{"terminal closed", []string{"-stay"}, "until Ctrl-C", syscall.SIGHUP},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := startQuickstart(t, test.args...)
			q.until(test.line)
			err := q.cmd.Process.Signal(test.signal)
			if err != nil {
				t.Fatal(err)
			}
			output := q.rest()
			if got := q.status(); got != exitInterrupted {
				t.Errorf("exit status: got %v; want %v\n%s%s", got, exitInterrupted, output, q.stderr.String())
			}
			q.wantNothingLeft()
		})
	}
}

// TestReaderGone ends a quickstart whose output nobody reads any more, as head
// does.
func TestReaderGone(t *testing.T) {
	q := startQuickstart(t)
	q.until("folder")
	err := q.closer.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := q.status(); got != exitFailed {
		t.Errorf("exit status: got %v; want %v\n%s", got, exitFailed, q.stderr.String())
	}
	q.wantNothingLeft()
}

// TestKilled: even kill -9 leaves no process.
func TestKilled(t *testing.T) {
	q := startQuickstart(t, "-stay")
	q.until("until Ctrl-C")
	if got := len(q.processes()); got != 3 && got != 0 { // 0 where there is no /proc
		t.Errorf("processes: got %v; want the quickstart and two Caddys", got)
	}
	err := q.cmd.Process.Kill()
	if err != nil {
		t.Fatal(err)
	}
	q.status()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(q.processes()) > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("got %v after %v; want no process left", q.processes(), limit)
		}
	}
}

// TestStaySecrets: what -stay prints names files, and none of those that hold a
// secret can be read by others.
func TestStaySecrets(t *testing.T) {
	q := startQuickstart(t, "-stay")
	q.until("until Ctrl-C")
	output := q.stdout.String()
	if regexp.MustCompile(`eyJ[\w-]{10}`).MatchString(output) {
		t.Error("output: got a token; want none")
	}
	named := regexp.MustCompile(`/\S+/(?:authorization|inv-1\.key|core\.key)`).FindAllString(output, -1)
	if len(named) < 3 {
		t.Fatalf("got %v; want the files with the token and the keys\n%s", named, output)
	}
	for _, file := range named {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s: got %v; want 0600", file, info.Mode().Perm())
		}
	}
}

// TestStayCommands runs what -stay prints, as it is printed, in an order that a
// reader may well choose: each works, and the API invoker is refused and let in
// again.
func TestStayCommands(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { testStayCommands(t, k) })
	}
}

func testStayCommands(t *testing.T, k kind) {
	q := startQuickstart(t, "-stay", "-core", k.name)
	q.until("until Ctrl-C")
	commands := stayCommands(q.stdout.String())
	run := func(comment string) string {
		t.Helper()
		for said, command := range commands {
			if regexp.MustCompile("^(" + comment + ")").MatchString(said) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				output, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
				// check says in its exit code that a call would be refused.
				if err != nil && comment != "would a call pass" {
					t.Errorf("%s: %v\n%s", command, err, output)
				}
				delete(commands, said)
				return string(output)
			}
		}
		t.Fatalf("got %q; want a command with comment %q", slices.Sorted(maps.Keys(commands)), comment)
		return ""
	}
	want := func(output, text string) {
		t.Helper()
		if !strings.Contains(output, text) {
			t.Errorf("got %q; want %q in it", output, text)
		}
	}
	// By itself it does not end.
	watch := "all of it as it happens"
	for said, command := range commands {
		if strings.HasPrefix(said, watch) {
			commands[said] = command + " --after 0-1 --count 2"
		}
	}
	call, check := commands["call as the API invoker; the token is in the file"], commands["would a call pass, and why"]
	want(run("call as"), "200 OK")
	want(run("would a call pass"), "would be passed on")
	want(run("revoke at .*a(, at every|, whose)"), "Blocked here")
	commands["call as"], commands["would a call pass"] = call, check
	want(run("call as"), "403 Forbidden")
	want(run("would a call pass"), "REFUSED")
	want(run("the same through"), `"blocked":true`)
	want(run("what denies"), "OVERLIMIT_USAGE")
	want(run("authorize"), "securityInfo")
	want(run("revoke at .*b as "), "supportedFeatures")
	if k.hints {
		want(run("tell .*b as "), "204")
	}
	want(run("lift at .*a$"), "claims lifted")
	want(run("lift at .*b$"), "claims lifted")
	run("a new token")
	commands["call as"] = call
	want(run("call as"), "HTTP/1.1")
	status := run("status and alarms")
	want(status, "ledger_created")
	want(status, "OVERLIMIT_USAGE")
	want(status, "capif_alarm")
	want(run(watch), "revoke")
	want(run("the configurations"), "capif_enforce")
	if len(commands) > 0 {
		t.Errorf("not tried: %q", slices.Sorted(maps.Keys(commands)))
	}
}

// stayCommands returns the commands by the comment above each.
func stayCommands(output string) map[string]string {
	commands := map[string]string{}
	for _, found := range regexp.MustCompile(`(?m)^  # (.+)\n  (.+)$`).FindAllStringSubmatch(output, -1) {
		commands[found[1]] = found[2]
	}
	return commands
}
