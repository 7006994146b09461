//go:build unix

package main

import (
	"os"
	"regexp"
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
