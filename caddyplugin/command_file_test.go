package caddyplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

func writeCSV(t *testing.T, dir string, lines ...string) string {
	t.Helper()
	path := filepath.Join(dir, "invokers.csv")
	must(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

// TestRevokeFromFile: what a file would hit is shown first, and nothing of a file
// with a bad row is sent.
func TestRevokeFromFile(t *testing.T) {
	b := newAdminBed(t, nil)
	token := b.granted("inv-1")
	for _, test := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"empty", []string{""}, []string{"1: no header line"}},
		{"no rows", []string{"api_invoker_id,api_id"}, []string{"1: there is no row below the header"}},
		{"an unknown column", []string{"api_invoker_id,apiId", "i,x"}, []string{`1: unknown column "apiid"`}},
		{"no api_id", []string{"api_invoker_id", "i"}, []string{"1: column api_id is missing"}},
		{"a column twice", []string{"api_invoker_id,api_id,api_id", "i,x,y"}, []string{"1: column api_id stands there twice"}},
		{"semicolons", []string{"api_invoker_id;api_id", "i;x"}, []string{"1: no CSV file with commas"}},
		{"UTF-16", []string{"\xff\xfea\x00p\x00i\x00"}, []string{"1: no CSV file with commas"}},
		{"no cause", []string{"api_invoker_id,api_id", "i,x"}, []string{"2: cause is empty: give the column or --cause"}},
		{"bad rows among good ones", []string{"api_invoker_id,api_id,aef_id,cause", "inv-1,8f36c0,,X", ",8f36c0,,X", "inv-1,,,X", "inv-1,8f36c0,aef-b,X", "inv-1,8f36c0"},
			[]string{"3: api_invoker_id is empty", "4: api_id is empty", `5: aef_id "aef-b" is not hosted here`, "6: wrong number of fields: 2; the header has 4", "4 problems", "nothing was sent"}},
		{"an open quote", []string{"api_invoker_id,api_id,cause", `"inv-1,8f36c0,X`}, []string{"nothing was sent"}},
	} {
		b.sub(t, test.name, func() {
			before := b.stored()
			wantRan(b.t, b.capif("", "revoke", "--from", writeCSV(b.t, b.t.TempDir(), test.lines...), "--yes"), 6, test.want...)
			if after := b.stored(); after != before {
				b.t.Errorf("got\n%s\nwant as before\n%s", after, before)
			}
		})
	}

	path := writeCSV(t, t.TempDir(), "\ufeffAPI_Invoker_ID, api_id, ticket", "inv-1,8f36c0,T-1", "inv-2,*,", "inv-1,8f36c0,T-1", "inv-3,unknown,")
	args := []string{"revoke", "--from", path, "--cause", "OVERLIMIT_USAGE", "--ticket", "T-0"}
	before := b.stored()
	wantRan(t, b.capif("n\n", args...), 11, "location, mode enforce", "all APIs", "NO ROUTE here", "1 rows repeat an earlier one", "Revoke 3 authorizations of 3 API invokers? [y/N]")
	if after := b.stored(); after != before {
		t.Errorf("got\n%s\nwant as before\n%s", after, before)
	}
	wantRan(t, b.capif("n\n", "revoke", "--from", path, "--cause", "OVERLIMIT"), 11, `cause "OVERLIMIT" is none of the standard's`)
	b.want(b.aef, "/location/1", token, http.StatusOK)
	wantRan(t, b.capif("y\n", append(args, "--wait=20s")...), 0, "3 rows: 3 triggered, 0 there already, 0 refused; 0 wait")
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	wantRan(t, b.capif("", append(args, "--yes")...), 0, "0 triggered, 3 there already")
	wantRan(t, b.capif("", append(args, "--yes", "--reason", "another")...), 12, "3 refused", "line 2: ", "request_id was used for another request")
	wantRan(t, b.capif("", append(args, "--yes", "--batch", "anew")...), 0, "3 triggered", "Batch anew")
	var list adminapi.RevocationList
	b.get(adminapi.PathRevocations+"?api_invoker_id=inv-1", &list)
	if len(list.Revocations) != 2 || list.Revocations[1].Ticket != "T-1" {
		t.Errorf("got %+v; want two, with the row's own ticket", list.Revocations)
	}
}

// TestRevokeFromFileKilled kills the command again and again in the middle of a file,
// once Caddy with it: at the end each row was triggered once, blocks, and stands in
// the audit once.
func TestRevokeFromFileKilled(t *testing.T) {
	rows := 1000
	if os.Getenv("CAPIF_LONG") == "1" {
		rows = 10_000
	}
	b := newAdminBed(t, nil)
	// The core is slow: most rows are pending while all of this happens.
	slow := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext, coretest.OpRevoke}, Status: http.StatusServiceUnavailable})
	lines := []string{"api_invoker_id,api_id,ticket"}
	for i := range rows {
		lines = append(lines, fmt.Sprintf("inv-%d,%s,T-%d", i, []string{testbed.APIID, testbed.OtherAPIID}[i%2], i))
	}
	path := writeCSV(t, t.TempDir(), lines...)
	args := []string{"capif", "revoke", "--from", path, "--cause", "OVERLIMIT_USAGE", "--yes", "--address", b.aef.Admin}

	started := time.Now()
	for round := 1; round <= 4; round++ {
		b.killWhen(append(args, "--concurrency", "4"), round*rows/6, func(process *os.Process) {
			switch round {
			case 1:
				if runtime.GOOS == "windows" {
					must(t, process.Kill()) // there is no Ctrl-C to send
					return
				}
				must(t, process.Signal(os.Interrupt))
			case 2:
				must(t, process.Kill())
			case 3:
				must(t, b.caddy.Kill())
			default:
				must(t, process.Kill())
			}
		})
		if round == 3 { // once the command has given up
			b.caddy = b.start(b.aef)
		}
	}
	got := b.capif("", args[1:len(args)-2]...)
	wantRan(t, got, 0, fmt.Sprintf("%d rows: ", rows), "there already", fmt.Sprintf("%d of %d rows", rows, rows))
	if strings.Contains(got.out, " 0 triggered") || strings.Contains(got.out, " 0 there already") {
		t.Errorf("got %s; want some of both: or nothing was cut off", got.out)
	}
	t.Logf("%d rows, interrupted 4 times, in %s", rows, time.Since(started).Round(time.Millisecond))

	revoked, audited := map[string]int{}, map[string]int{}
	for before := uint64(0); ; {
		var list adminapi.RevocationList
		b.get(fmt.Sprintf("%s?limit=1000&before=%d", adminapi.PathRevocations, before), &list)
		for _, r := range list.Revocations {
			revoked[r.InvokerID+" "+r.APIID+" "+r.Ticket]++
		}
		if before = list.Next; before == 0 {
			break
		}
	}
	for before := uint64(0); ; {
		var list adminapi.AuditList
		b.get(fmt.Sprintf("%s?limit=1000&action=revoke&before=%d", adminapi.PathAudit, before), &list)
		for _, a := range list.Audit {
			if len(a.Revocations) != 1 || a.By == "" || !strings.HasPrefix(a.RequestID, "csv-") {
				t.Fatalf("got %+v; want who asked, for which revocation, by which row", a)
			}
			audited[a.Invoker+" "+a.APIs[0]+" "+a.Ticket]++
		}
		if before = list.Next; before == 0 {
			break
		}
	}
	for i, line := range lines[1:] {
		key := strings.ReplaceAll(line, ",", " ")
		if revoked[key] != 1 || audited[key] != 1 {
			t.Fatalf("row %d %q: got %d revocations, %d audit records; want one of each", i, line, revoked[key], audited[key])
		}
	}
	if len(revoked) != rows || len(audited) != rows {
		t.Errorf("got %d revocations, %d audit records; want %d", len(revoked), len(audited), rows)
	}
	if denied := b.stands().Ledger.DeniedScopes; denied != int64(rows) {
		t.Errorf("got %d denied scopes; want %d", denied, rows)
	}
	slow.Clear()
}

// killWhen starts the command, and does what is given once so many rows are in the
// ledger.
func (b *adminBed) killWhen(args []string, rows int, kill func(*os.Process)) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, commandDeadline)
	defer cancel()
	cmd, err := testbed.Command(ctx, b.aef.Dir, args...)
	must(b.t, err)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	must(b.t, cmd.Start())
	b.poll(func() bool { return b.stands().Ledger.Pending >= rows })
	kill(cmd.Process)
	if err := cmd.Wait(); err == nil {
		b.t.Fatalf("got the command ended\n%s\nwant it cut off at %d rows", output.String(), rows)
	}
	if text := output.String(); strings.Contains(text, "Error:") && !strings.Contains(text, "Run the same command again") {
		b.t.Errorf("got\n%s\nwant it to say how to go on", text)
	}
}

// TestRequestsAreNamed: what a file uses is there for every trigger.
func TestRequestsAreNamed(t *testing.T) {
	b := newAdminBed(t, nil)
	b.granted("inv-1")
	fault := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpGetContext}, InvokerID: "inv-1", Status: http.StatusServiceUnavailable})
	request := withoutWaiting("inv-1")
	request.RequestID = "mine"
	first := b.trigger(b.caddy, request, http.StatusAccepted)
	fault.Clear()
	if first.Existing || !first.Blocked {
		t.Errorf("got %+v; want a new one that blocks", first)
	}
	request.NoWait = false
	again := b.trigger(b.caddy, request, http.StatusOK)
	if !again.Existing || again.Revocations[0].ID != first.Revocations[0].ID || again.Revocations[0].State != revocation.StateRevoked {
		t.Errorf("got %+v; want the first one, decided", again)
	}
	b.refused(http.MethodPost, adminapi.PathRevocations, `{"api_invoker_id":"inv-2","api_ids":["8f36c0"],"cause":"X","request_id":"mine"}`, 400, "request_id was used for another request")
	b.refused(http.MethodPost, adminapi.PathRevocations, `{"api_invoker_id":"inv-2","api_ids":["8f36c0"],"cause":"X","request_id":"`+strings.Repeat("r", 201)+`"}`, 400, "longer than 200 bytes")
}
