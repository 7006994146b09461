package caddyplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// ran is what a command wrote and how it ended.
type ran struct {
	out, err string
	code     int
}

// runCommand runs `caddy capif` in a process of its own.
func runCommand(t *testing.T, dir, input string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandDeadline)
	defer cancel()
	cmd, err := testbed.Command(ctx, dir, append([]string{"capif"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &stderr
	err = cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatalf("caddy capif %v: %v", args, err)
	}
	return ran{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// capif runs a command against the running Caddy of the bed.
func (b *adminBed) capif(input string, args ...string) ran {
	b.t.Helper()
	return runCommand(b.t, b.aef.Dir, input, append(args, "--address", b.aef.Admin)...)
}

// wantRan fails unless the command ended so and said all of these.
func wantRan(t *testing.T, got ran, code int, texts ...string) {
	t.Helper()
	if got.code != code {
		t.Errorf("got exit code %d; want %d\n%s%s", got.code, code, got.out, got.err)
	}
	for _, text := range texts {
		if !strings.Contains(got.out+got.err, text) {
			t.Errorf("got\n%s%s\nwant %q in it", got.out, got.err, text)
		}
	}
}

func decodeOut(t *testing.T, got ran, into any) {
	t.Helper()
	err := json.Unmarshal([]byte(got.out), into)
	if err != nil {
		t.Fatalf("got %v of %q; want JSON\n%s", err, got.out, got.err)
	}
}

// TestCommands runs each command against one running Caddy.
func TestCommands(t *testing.T) {
	b := newAdminBed(t, nil)
	for _, test := range []struct {
		name string
		run  func(*adminBed)
	}{
		{"revoke, show, list, lift", testRevokeToLift},
		{"lift is asked for", testLiftIsAskedFor},
		{"what the core says", testCoreOutcomes},
		{"check", testCheckCommand},
		{"status", testStatusCommand},
		{"reconcile", testReconcileCommand},
		{"audit and export", testAuditAndExport},
		{"wrong use", testWrongUse},
	} {
		b.sub(t, test.name, func() { test.run(b) })
	}
}

func testRevokeToLift(b *adminBed) {
	token := b.granted("inv-cli")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	got := b.capif("", "revoke", "--invoker", "inv-cli", "--api", testbed.APIID, "--cause", "OVERLIMIT_USAGE", "--reason", "too much", "--ticket", "T-1")
	wantRan(b.t, got, 0, "Blocked here", "revoked", "T-1", "cannot be seen from this AEF")
	b.want(b.aef, "/location/1", token, http.StatusForbidden)

	got = b.capif("", "list", "--invoker", "inv-cli", "--json")
	wantRan(b.t, got, 0)
	var list adminapi.RevocationList
	decodeOut(b.t, got, &list)
	if len(list.Revocations) != 1 || list.Revocations[0].Reason != "too much" {
		b.t.Fatalf("got %+v; want the one revocation", list)
	}
	id := list.Revocations[0].ID
	got = b.capif("", "show", id)
	if !strings.HasPrefix(got.out, "id ") {
		b.t.Errorf("show: got %q; want it to begin with the id", got.out)
	}
	wantRan(b.t, got, 0, id, "too much", "revoke 20", "address 127.0.0.1")
	wantRan(b.t, b.capif("", "list", "--claims", "--invoker", "inv-cli"), 0, "inv-cli", testbed.APIID, "aef")
	wantRan(b.t, b.capif("", "list", "--state", "pending", "--invoker", "inv-cli"), 0, "ID")
	got = b.capif("", "revoke", "--invoker", "inv-unknown", "--api", testbed.APIName, "--cause", "OVERLIMIT_USAGE")
	wantRan(b.t, got, 0, "NO ROUTE here stands for API "+testbed.APIName, "the core has no such authorization of inv-unknown", "in its tokens?")
	got = b.capif("", "revoke", "--invoker", "inv-cli", "--api", testbed.APIID, "--cause", "OVERLIMIT")
	wantRan(b.t, got, 0, "the core has no such authorization of inv-cli", "Was it revoked before", `cause "OVERLIMIT" is none of the standard's`)
	wantRan(b.t, b.capif("", "show", "rv-none-1"), 5, "no revocation", "`caddy capif list`")

	// The core does not list it any more, and says so after the lift.
	got = b.capif("", "lift", "--invoker", "inv-cli", "--api", testbed.APIID, "--yes", "--reason", "settled")
	wantRan(b.t, got, 0, "claims lifted", "STILL REFUSED", "does not list API "+testbed.APIID)
	must(b.t, b.scene.Core.Authorize("inv-cli", "", coretest.Entry("aef-a", testbed.APIID)))
	got = b.capif("", "lift", "--invoker", "inv-cli", "--api", testbed.APIID, "--yes")
	wantRan(b.t, got, 0, "0 claims lifted", "Nothing else that is known here denies")
	b.eventually(b.aef, "/location/1", token, http.StatusOK)
}

func testLiftIsAskedFor(b *adminBed) {
	b.granted("inv-asked")
	wantRan(b.t, b.capif("", "revoke", "--invoker", "inv-asked", "--all-apis", "--cause", "OVERLIMIT_USAGE"), 0, "Blocked here", "all APIs")
	for input, code := range map[string]int{"": 11, "n\n": 11, "nonsense\n": 11, "y\n": 0} {
		if input == "y\n" {
			continue // last: it lifts
		}
		wantRan(b.t, b.capif(input, "lift", "--invoker", "inv-asked", "--all-apis"), code, "Lift 1 claims of inv-asked? [y/N]", "nothing was changed", "--yes")
	}
	got := b.capif("", "lift", "--invoker", "inv-asked", "--api", testbed.APIID, "--yes")
	wantRan(b.t, got, 0, "0 claims lifted", "STILL DENY", "all APIs")
	wantRan(b.t, b.capif("y\n", "lift", "--invoker", "inv-asked", "--all-apis"), 0, "1 claims lifted")
}

// testCoreOutcomes: the exit code says what the core made of it.
func testCoreOutcomes(b *adminBed) {
	b.granted("inv-refused")
	core := b.scene.Core
	core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Status: http.StatusBadRequest, Times: 1})
	got := b.capif("", "revoke", "--invoker", "inv-refused", "--api", testbed.APIID, "--cause", "OVERLIMIT_USAGE")
	wantRan(b.t, got, 8, "rejected", "lift the claim if it was wrong")

	down := core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Status: http.StatusServiceUnavailable})
	defer down.Clear()
	got = b.capif("", "revoke", "--invoker", "inv-refused", "--api", testbed.OtherAPIID, "--cause", "OVERLIMIT_USAGE", "--wait=100ms")
	wantRan(b.t, got, 9, "Blocked here", "is asked again", "caddy capif show rv-")

	silent := core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, Status: http.StatusServiceUnavailable})
	defer silent.Clear()
	got = b.capif("", "lift", "--invoker", "inv-never-seen", "--api", testbed.APIID, "--yes")
	wantRan(b.t, got, 0, "whether it lists API "+testbed.APIID+" at aef-a is not known")
	if strings.Contains(got.out, "does not list") {
		b.t.Errorf("got %q; want nothing said of a context that nobody has read", got.out)
	}
}

func testCheckCommand(b *adminBed) {
	token := b.granted("inv-check")
	wantRan(b.t, b.capif("", "check", "--invoker", "inv-check", "--api", testbed.APIID), 0, "would be passed on", "lists this API")
	for _, input := range []string{token, "Bearer " + token + "\n", "Authorization: Bearer " + token + "\n"} {
		got := b.capif(input, "check", "--token-stdin", "--api", testbed.APIID)
		wantRan(b.t, got, 0, "would be passed on", "verified; expires")
		if strings.Contains(got.out+got.err+b.caddy.Log(), token) {
			b.t.Error("got the token in what was written; want it nowhere")
		}
	}
	b.trigger(b.caddy, revokeRequest("inv-check"), http.StatusOK)
	got := b.capif(token, "check", "--token-stdin", "--json")
	wantRan(b.t, got, 10)
	var answer adminapi.CheckResponse
	decodeOut(b.t, got, &answer)
	if len(answer.Checks) != 2 {
		b.t.Fatalf("got %+v; want both routes", answer)
	}
	for _, check := range answer.Checks {
		refused := check.APIIDs[0] == testbed.APIID
		if check.Passed == refused || check.APIInvokerID != "inv-check" || (refused && (check.Reason != "authorization_revoked" || check.Status != 403 || len(check.Claims) == 0)) {
			b.t.Errorf("got %+v; want the revoked API refused, the other passed", check)
		}
		status, _, err := b.aef.Call(b.ctx, "/"+check.APIName+"/1", token)
		if err != nil || (status == http.StatusOK) != check.Passed {
			b.t.Errorf("a call of %s: got %v, %v; want as the check says: %t", check.APIName, status, err, check.Passed)
		}
	}
	wantRan(b.t, b.capif("", "check", "--invoker", "inv-check", "--api", testbed.APIID), 10, "REFUSED with 403", "a claim denies the authorization", "rv-")
	wantRan(b.t, b.capif("nonsense", "check", "--token-stdin", "--api", testbed.APIID), 10, "REFUSED with 401", "token_malformed")
	wantRan(b.t, b.capif("", "check", "--token-stdin"), 6, "no token")
	wantRan(b.t, b.capif("", "check", "--invoker", "inv-check", "--api", "none"), 5, `no route stands for api_id "none"`)
	wantRan(b.t, b.capif("", "check", "--invoker", "nobody", "--api", testbed.APIID), 10, "not_in_context", "does not list this API")
}

func testStatusCommand(b *adminBed) {
	wantRan(b.t, b.capif("", "status"), 0, "aef-a", "reachable, last answer", "profile strict", "mode enforce", "audit records", b.aef.Ledger, "keys", "loaded", "ledger_created")
	var status adminapi.Status
	decodeOut(b.t, b.capif("", "status", "--json"), &status)
	if status.AEFID != "aef-a" || !status.Ledger.Ready || status.Ledger.Bytes == 0 || status.Ledger.AuditRecords == 0 {
		b.t.Errorf("got %+v; want the AEF's", status)
	}
}

func testReconcileCommand(b *adminBed) {
	wantRan(b.t, b.capif("", "reconcile", "--reason", "asked", "--ticket", "T-9"), 0, "are being read again", "Keys: ", "loaded")
	wantRan(b.t, b.capif("", "reconcile", "--accept"), 0, "No mass change was suspended")
	var list adminapi.AuditList
	decodeOut(b.t, b.capif("", "audit", "--json", "--action", "reconcile"), &list)
	if len(list.Audit) != 1 || list.Audit[0].Action != revocation.ActionReconcile || list.Audit[0].Ticket != "T-9" || list.Audit[0].Reason != "asked" {
		b.t.Errorf("got %+v; want the reconcile", list)
	}
	decodeOut(b.t, b.capif("", "audit", "--json", "--action", "accept"), &list)
	if len(list.Audit) != 1 || list.Audit[0].Action != revocation.ActionAccept || list.Audit[0].Outcome != revocation.OutcomeNothingSuspended {
		b.t.Errorf("got %+v; want the accept", list)
	}
	wantRan(b.t, b.capif("", "audit", "--action", "accept"), 0, "nothing suspended")
}

func testAuditAndExport(b *adminBed) {
	wantRan(b.t, b.capif("", "audit", "--invoker", "inv-cli"), 0, "lift", "settled", "revoke", "too much", "core_answer", "revoked", "address 127.0.0.1")
	got := b.capif("", "audit", "--limit", "1")
	wantRan(b.t, got, 0, "go on with --before ")
	wantRan(b.t, b.capif("", "audit", "--limit", "1001"), 6, "limit")

	got = b.capif("", "export")
	wantRan(b.t, got, 0)
	kinds := map[string]int{}
	for line := range strings.Lines(got.out) {
		var record struct {
			Type string
			Data map[string]any
		}
		err := json.Unmarshal([]byte(line), &record)
		if err != nil || len(record.Data) == 0 {
			b.t.Fatalf("got %q, %v; want a record", line, err)
		}
		kinds[record.Type]++
	}
	status := b.stands()
	if kinds["ledger"] != 1 || kinds["claim"] == 0 || kinds["revocation"] == 0 || int64(kinds["audit"]) != status.Ledger.AuditRecords {
		b.t.Errorf("got %v; want all of it, %d audit records", kinds, status.Ledger.AuditRecords)
	}
	if got := b.capif("", "export", "--only", "claims"); strings.Contains(got.out, `"audit"`) || !strings.Contains(got.out, `"claim"`) {
		b.t.Errorf("got %s; want claims alone", got.out)
	}
	wantRan(b.t, b.capif("", "export", "--only", "keys"), 6, "there are claims, revocations, audit")
}

func (b *adminBed) stands() adminapi.Status {
	b.t.Helper()
	var status adminapi.Status
	b.get(adminapi.PathStatus, &status)
	return status
}

func testWrongUse(b *adminBed) {
	wantRan(b.t, b.capif("", "revoke"), 1, "from", "invoker")
	wantRan(b.t, b.capif("", "revoke", "--invoker", "i", "--api", "x"), 6, "nothing was changed", "cause is missing")
	wantRan(b.t, b.capif("", "revoke", "--invoker", "i", "--cause", "OVERLIMIT_USAGE"), 6, "nothing was changed", "--api", "--all-apis")
	for _, flags := range [][]string{{"--batch", "b"}, {"--concurrency", "2"}} {
		args := append([]string{"revoke", "--invoker", "i", "--api", "x", "--cause", "OVERLIMIT_USAGE"}, flags...)
		wantRan(b.t, b.capif("", args...), 6, "nothing was changed", flags[0]+" is about the rows of a file", "--from")
	}
	wantRan(b.t, b.capif("", "revok"), 1, `unknown command "revok"`)
	wantRan(b.t, b.capif("", "list", "--state", "pendign"), 6, `state "pendign"`, "pending, revoked")
	wantRan(b.t, b.capif("", "list", "--claims", "--state", "pending"), 1, "claims state")
	wantRan(b.t, b.capif("", "list", "--after", "x"), 6, "--claims")
	wantRan(b.t, b.capif("", "list", "--limit", "-1"), 6, "give 1 to 1000")
	wantRan(b.t, b.capif("", "audit", "--limit", "0"), 6, "give 1 to 1000")
	wantRan(b.t, b.capif("", "audit", "--action", "lifts"), 6, `action "lifts"`, "lift, reconcile")
	wantRan(b.t, b.capif("", "revoke", "--invoker", "i", "--api", "x", "--cause", "X", "--aef", "aef-b"), 6, "not hosted here; hosted: aef-a")
	wantRan(b.t, b.capif("", "lift", "--invoker", "i"), 1, "api", "all-apis")
	wantRan(b.t, b.capif("", "show"), 1, "arg")
	wantRan(b.t, b.capif("", "list", "--nonsense"), 1, "nonsense")
	wantRan(b.t, b.capif("", "check"), 1, "token-stdin")
}

// TestCommandErrors: each says what to do next.
func TestCommandErrors(t *testing.T) {
	dir := t.TempDir()
	free, err := testbed.FreeAddress()
	must(t, err)
	wantRan(t, runCommand(t, dir, "", "status", "--address", free), 3, "no Caddy answers", "start Caddy", "--address")
	wantRan(t, runCommand(t, dir, "", "status", "--address", "unix/"+dir+"/none.sock"), 3, "no Caddy answers")
	wantRan(t, runCommand(t, dir, "", "watch", "--address", free), 3, "no Caddy answers")
	wantRan(t, runCommand(t, dir, "", "status", "--address", "localhost:1-9"), 2, "is no address of an admin endpoint")
	wantRan(t, runCommand(t, dir, "", "status", "--address", "http://"+free), 2, "is no address of an admin endpoint")
	wantRan(t, runCommand(t, dir, "", "status", "--config", dir+"/none.caddyfile"), 2, "finding the admin endpoint")

	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	wantRan(t, runCommand(t, dir, "", "status", "--address", other.Listener.Addr().String()), 4, "not the admin endpoint of a Caddy with this plugin", "list-modules")
	wantRan(t, runCommand(t, dir, "", "watch", "--address", other.Listener.Addr().String()), 4, "not the admin endpoint")

	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer garbage.Close()
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-nonsense\r\n\r\n"))
			_ = c.Close()
		}
	}()
	wantRan(t, runCommand(t, dir, "", "status", "--address", garbage.Addr().String()), 4, "not the admin endpoint")

	plain, err := testbed.StartCaddy(t.Context(), testbed.CaddyOptions{
		Name: "plain", Dir: dir, AdminAddress: free, Caddyfile: "{\n\tadmin " + free + "\n\tpersist_config off\n}\n",
	})
	must(t, err)
	defer func() { must(t, plain.Stop()) }()
	for _, args := range [][]string{{"status"}, {"list"}, {"watch"}, {"lift", "--invoker", "i", "--all-apis", "--yes"}} {
		wantRan(t, runCommand(t, dir, "", append(args, "--address", free)...), 4, "runs without the capif app", "add the global option capif")
	}
}
