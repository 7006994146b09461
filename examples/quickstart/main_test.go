package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-capif/aef/internal/testbed"
)

// asMain lets a test start this binary again as the quickstart.
const asMain = "CAPIF_QUICKSTART_AS_MAIN"

func TestMain(m *testing.M) {
	asCaddy()
	testbed.RunChild(caddycmd.Main)
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// quickstart is one that runs.
type quickstart struct {
	t      *testing.T
	cmd    *exec.Cmd
	tmp    string // its temporary folder; the name is in the environment of all its processes
	reader *bufio.Reader
	closer io.Closer
	stdout strings.Builder
	stderr bytes.Buffer
	ended  chan error
	once   sync.Once
	err    error
}

// limit ends a quickstart that hangs. With -stay it waits for many commands.
const limit = 2 * time.Minute

func startQuickstart(t *testing.T, args ...string) *quickstart {
	t.Helper()
	q := &quickstart{t: t, tmp: t.TempDir(), ended: make(chan error, 1)}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	q.cmd = exec.Command(executable, args...)
	q.cmd.Env = append(os.Environ(), asMain+"=1", "TMPDIR="+q.tmp, "TEMP="+q.tmp, "TMP="+q.tmp)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	q.reader, q.closer = bufio.NewReader(read), read
	q.cmd.Stdout, q.cmd.Stderr = write, &q.stderr
	err = q.cmd.Start()
	_ = write.Close()
	if err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(limit, func() { _ = q.cmd.Process.Kill() })
	go func() { q.ended <- q.cmd.Wait() }()
	t.Cleanup(func() {
		_ = q.cmd.Process.Kill()
		_ = read.Close()
		q.wait()
		killer.Stop()
	})
	return q
}

// until reads the output to the first line that holds text.
func (q *quickstart) until(text string) {
	q.t.Helper()
	for {
		line, err := q.reader.ReadString('\n')
		q.stdout.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			q.wait() // it writes its errors last
			q.t.Fatalf("output: got %q, %v, %s; want a line with %q", q.stdout.String(), err, q.stderr.String(), text)
		}
	}
}

// rest reads the output to its end.
func (q *quickstart) rest() string {
	q.t.Helper()
	rest, err := io.ReadAll(q.reader)
	q.stdout.Write(rest)
	if err != nil {
		q.t.Fatal(err)
	}
	return q.stdout.String()
}

func (q *quickstart) wait() error {
	q.once.Do(func() { q.err = <-q.ended })
	return q.err
}

// status waits for the end and returns the exit status.
func (q *quickstart) status() int {
	q.t.Helper()
	err := q.wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		q.t.Fatal(err)
	}
	return q.cmd.ProcessState.ExitCode()
}

// wantNothingLeft fails if the folder or a process of this quickstart remains.
func (q *quickstart) wantNothingLeft() {
	q.t.Helper()
	entries, err := os.ReadDir(q.tmp)
	if err != nil || len(entries) != 0 {
		q.t.Errorf("temporary folder: got %v, %v; want it empty", entries, err)
	}
	if left := q.processes(); len(left) != 0 {
		q.t.Errorf("processes left: got %v; want none", left)
	}
}

// TestWalk walks with each kind of core.
func TestWalk(t *testing.T) {
	opencapif := [][]string{
		{`opencapif`, `AEFaefa -> core +subscribes to events: 201`, `inv-1 -> AEFaefa +GET /location/1: 200`, `inv-1 -> AEFaefb +GET /location/1: 200`,
			`step 1 `, `step 3 .* core +revoked 2 of 4`, `step 4 .* core -> AEFaefa +204`,
			`AEFaefa -> operator .*state revoked`, `trigger until AEFaefa refuses +\d`, `trigger until AEFaefb refuses +\d`,
			`inv-1 -> AEFaefa +GET /location/1: 403`, `inv-1 -> AEFaefb +GET /location/1: 403`, `inv-1 -> AEFaefb +GET /qos/1: 200`,
			`inv-1 -> AEFaefb +GET /location/1, \d.* after the context: 200`, `inv-1 -> AEFaefa +GET /location/1: 403`,
			`operator -> AEFaefa +POST /capif/lifts`, `inv-1 -> AEFaefa +GET /location/1: 200`, `Every step came out as it must`},
		{`step 4 `, `step 6 .* inv-1 -> core +204`, `Measured`},
		{`reads the access control policy: 200`, `second act`, `access control policy .allowedTotalInvocations`, `step 6 .* core -> inv-2 .*OVERLIMIT_USAGE`, `Measured`},
		{`step 4 `, `core -> AEFaefb +POST of the event API_INVOKER_AUTHORIZATION_REVOKED`, `AEFaefb +refuses .*an event`, `Measured`},
	}
	oran := [][]string{
		{`oran`, `never told of revokes`, `inv-1 -> aef-b +GET /location/1: 200`, `step 1 `, `step 3 .* core +revoked 1 of 4`, `step 4 `,
			`step 7 .* does not happen`, `aef-b +passes calls on: .*nobody revoked`, `the core revoked 1 of 3`, `aef-b +refuses .*its timer`,
			`step 6 .* does not happen`, `the core's change until aef-b refuses +\d.*5m by default`,
			`inv-1 -> aef-a +GET /location/1: 403`, `inv-1 -> aef-b +GET /location/1: 403`, `inv-1 -> aef-b +GET /qos/1: 200`,
			`inv-1 -> aef-b +GET /location/1, \d.* after the context: 200`, `operator -> aef-a +POST /capif/lifts`,
			`inv-1 -> aef-a +GET /location/1: 200`, `Every step came out as it must`},
		{`step 1 `, `step 5 .* aef-a +refuses`, `Measured`},
		{`second act`, `route itself .*has no access control policies`},
	}
	for _, test := range []struct {
		name string
		args []string
		want [][]string
	}{
		{"strict", nil, strictWalk},
		{"opencapif", []string{"-core", "opencapif"}, opencapif},
		{"oran", []string{"-core", "oran"}, oran},
	} {
		t.Run(test.name, func(t *testing.T) { testWalk(t, test.args, append(test.want, secondAct...)) })
	}
}

// The lines that must come, in an order that holds although steps 5, 6 and 7 run
// beside each other.
var strictWalk = [][]string{
	{`inv-1 -> aef-a +GET /location/1: 200`, `inv-1 -> aef-b +GET /location/1: 200`,
		`step 1 .* operator -> aef-a`, `step 2 .* aef-a -> core .*/capif-security/v1/trustedInvokers/inv-1/delete`,
		`step 3 .* core +revoked 2 of 4`, `step 4 .* core -> aef-a +204`,
		`trigger until aef-a refuses +\d`, `trigger until the core's answer +\d`, `trigger until aef-b refuses +\d`,
		`inv-1 -> aef-a +GET /location/1: 403`, `inv-1 -> aef-b +GET /location/1: 403`,
		`inv-1 -> aef-a +GET /qos/1: 200`, `puts its security context: 201`,
		`operator -> aef-a +POST /capif/lifts`, `operator -> aef-b +POST /capif/lifts`,
		`inv-1 -> aef-a +GET /location/1: 200`, `inv-1 -> aef-b +GET /location/1: 200`, `Every step came out as it must`},
	{`step 1 `, `step 5 .* aef-a +refuses`, `Measured`},
	{`step 4 `, `step 6 .* core -> inv-1`, `step 6 .* inv-1 -> core +204`, `Measured`},
	{`step 4 `, `step 7 .* core -> aef-b .*/aef-security/v1/revoke-authorization`, `step 7 .* aef-b -> core +200`, `Measured`},
	{`step 7 `, `aef-b +refuses`, `Measured`},
	{`reads the access control policy: 200`, `second act`, `access control policy .allowedTotalInvocations`, `step 6 .* core -> inv-2 .*OVERLIMIT_USAGE`, `Measured`},
}

// secondAct comes with every core.
var secondAct = [][]string{
	{`second act`, `unbound_triggers`, `inv-2 -> \S+ +GET /qos/events, .*: 200`, `inv-1 -> \S+ +GET /qos/events, .*: 200`,
		`inv-2 -> \S+ +GET /qos/1, 19 times; with the stream 20 of 20 calls: 200`, `revokes by itself`, `step 1 .* inv-2 -> \S+ +GET /qos/1, call 21 of 20`,
		`step 2 .*/trustedInvokers/inv-2/delete apiIds 91b2d4, cause OVERLIMIT_USAGE`, `step 3 .* revoked 1 of 2 entries of inv-2`, `step 4 .* 204`,
		`operator -> \S+ +GET /capif/revocations: 1 of inv-2, OVERLIMIT_USAGE, requested by policy, state revoked`, `goes on with the event stream of inv-1: 10 more`,
		`Measured`, `call 21 until its refusal +\d`, `call 21 until the core's answer +\d`, `call 21 until inv-2's stream ended +\d`,
		`inv-2 -> \S+ +GET /qos/1: 403`, `inv-2 -> \S+ +GET /location/1: 200`, `inv-1 -> \S+ +GET /qos/1: 200`, `Every step came out as it must`},
	{`call 21 of 20`, `403, all calls used`, `Measured`},
	{`call 21 of 20`, `ends the event stream of inv-2, after \d`, `Measured`},
}

func testWalk(t *testing.T, args []string, want [][]string) {
	began := time.Now()
	q := startQuickstart(t, args...)
	output := q.rest()
	if got := q.status(); got != exitOK {
		t.Fatalf("exit status: got %v; want %v\n%s%s", got, exitOK, output, q.stderr.String())
	}
	if took := time.Since(began); took > longest {
		t.Errorf("took %v; want at most %v", took, longest)
	}
	if strings.Contains(output, "\x1b") {
		t.Error("output: got escapes; want plain text where it is no terminal")
	}
	if regexp.MustCompile(`eyJ[\w-]{10}`).MatchString(output) {
		t.Error("output: got a token; want none")
	}
	for _, lines := range want {
		rest := output
		for _, line := range lines {
			found := regexp.MustCompile(line).FindStringIndex(rest)
			if found == nil {
				t.Errorf("output: got no line %q after those before it; want %q\n%s", line, lines, output)
				break
			}
			rest = rest[found[1]:]
		}
	}
	q.wantNothingLeft()
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want int
		text string
	}{
		{"help", []string{"-h"}, exitOK, "-stay"},
		{"unknown flag", []string{"-nonsense"}, exitUsage, "-nonsense"},
		{"unknown core", []string{"-core", "nonsense"}, exitUsage, `unknown core "nonsense": want one of strict, opencapif, oran`},
		{"argument", []string{"nonsense"}, exitUsage, `unexpected argument "nonsense"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := run(test.args, &stdout, &stderr); got != test.want || !strings.Contains(stderr.String(), test.text) {
				t.Errorf("got %v, %q; want %v and %q", got, stderr.String(), test.want, test.text)
			}
		})
	}
}

func TestColour(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, test := range []struct {
		name          string
		out           io.Writer
		noColor, term string
		want          bool
	}{
		{"terminal", null, "", "xterm", true},
		{"NO_COLOR", null, "1", "xterm", false},
		{"dumb terminal", null, "", "dumb", false},
		{"file", file, "", "xterm", false},
		{"no file", io.Discard, "", "xterm", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", test.noColor)
			t.Setenv("TERM", test.term)
			t.Setenv("WT_SESSION", "1")
			if got := wantsColour(test.out); got != test.want {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}
