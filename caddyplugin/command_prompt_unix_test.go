//go:build unix

package caddyplugin_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestInterruptedQuestion: Ctrl-C ends a command that waits for an answer, and
// nothing was changed.
func TestInterruptedQuestion(t *testing.T) {
	b := newAdminBed(t, nil)
	b.granted("inv-1")
	file := writeCSV(t, t.TempDir(), "api_invoker_id,api_id", "inv-1,8f36c0")
	for _, test := range []struct {
		name string
		args []string
	}{
		{"lift", []string{"lift", "--invoker", "inv-1", "--all-apis"}},
		{"revoke from a file", []string{"revoke", "--from", file, "--cause", "OVERLIMIT_USAGE"}},
	} {
		b.sub(t, test.name, func() {
			before := b.stored()
			ctx, cancel := context.WithTimeout(b.ctx, commandDeadline)
			defer cancel()
			cmd, err := testbed.Command(ctx, b.aef.Dir, append([]string{"capif", "--address", b.aef.Admin}, test.args...)...)
			must(b.t, err)
			input, err := cmd.StdinPipe() // nobody answers
			must(b.t, err)
			defer input.Close()
			stderr, err := cmd.StderrPipe()
			must(b.t, err)
			must(b.t, cmd.Start())
			said := bufio.NewReader(stderr)
			var asked bytes.Buffer
			for !strings.HasSuffix(asked.String(), "[y/N] ") {
				c, err := said.ReadByte()
				if err != nil {
					b.t.Fatalf("got %q, %v; want a question", asked.String(), err)
				}
				asked.WriteByte(c)
			}
			must(b.t, cmd.Process.Signal(os.Interrupt))
			rest, err := said.ReadString('.')
			must(b.t, err)
			var status *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &status) || status.ExitCode() != 130 || !strings.Contains(rest, "Interrupted") {
				b.t.Errorf("got %v, %q; want exit code 130 and to be told", err, rest)
			}
			if after := b.stored(); after != before {
				b.t.Errorf("got\n%s\nwant as before\n%s", after, before)
			}
		})
	}
	var list adminapi.RevocationList
	b.get(adminapi.PathRevocations, &list)
	if len(list.Revocations) != 0 {
		t.Errorf("got %+v; want none", list.Revocations)
	}
}
