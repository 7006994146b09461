package caddyplugin_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// fileSizeEnv limits the file size of a Caddy from its start on. The kernel then
// refuses writes as a full disk does, with EFBIG instead of ENOSPC.
const fileSizeEnv = "CAPIF_LIFECYCLE_FILE_SIZE"

func init() {
	limitFileSize = func(limit uint64) error {
		var l syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l)
		if err != nil {
			return err
		}
		l.Cur = min(limit, l.Max)
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
	}
	text := os.Getenv(fileSizeEnv)
	if text == "" {
		return
	}
	limit, err := strconv.ParseUint(text, 10, 64)
	if err == nil {
		err = limitFileSize(limit)
	}
	if err != nil {
		panic(err)
	}
}

const (
	diskFull  = uint64(0)
	diskSpace = uint64(1) << 40
)

func (l *life) limitDisk(limit uint64) {
	l.t.Helper()
	status, err := l.caddy.Admin(l.ctx, http.MethodPost, fmt.Sprint("/lifecycle/file-size?limit=", limit), nil, nil)
	if err != nil || status != http.StatusOK {
		l.t.Fatalf("limiting the file size: got %v, %v; want 200", status, err)
	}
}

// startOnFullDisk starts a Caddy whose disk is full from the start.
func (l *life) startOnFullDisk() (*testbed.Caddy, error) {
	l.t.Helper()
	// The folders that Caddy itself needs are there already.
	return testbed.StartCaddy(l.ctx, testbed.CaddyOptions{
		Name: l.aef.ID, Dir: l.aef.Dir, Caddyfile: l.caddyfile(l.aef), AdminAddress: l.aef.Admin,
		Env: []string{fmt.Sprint(fileSizeEnv, "=", diskFull)},
	})
}

// TestStartOnAFullDisk cannot make a ledger and says so; with the ledger of an
// earlier start it starts, and what was denied is denied.
func TestStartOnAFullDisk(t *testing.T) {
	l := newLife(t)
	c, err := l.startOnFullDisk()
	if err == nil {
		_ = c.Stop()
		t.Fatal("start without a ledger on a full disk: got started; want refused")
	}
	for _, want := range []string{"ledger " + l.aef.Ledger, "check that the disk is writable and not full", "file too large"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want it to say %q", err, want)
		}
	}
	l.begin() // what the refused start left does not hinder one with space
	err = l.caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	l.caddy, err = l.startOnFullDisk()
	if err != nil {
		t.Fatalf("start with a ledger on a full disk: got %v; want started", err)
	}
	t.Cleanup(func() { _ = l.caddy.Stop() })
	l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
	l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	id := l.newInvoker()
	l.wantDiskFull(id)
	l.want(l.aef, lifePath, l.tokenOf(id), http.StatusForbidden)
	l.limitDisk(diskSpace)
	l.poll(func() bool { return l.tries(id) == http.StatusOK })
}

// wantDiskFull triggers and fails unless the answer is 503 and says why.
func (l *life) wantDiskFull(id string) {
	l.t.Helper()
	var problem struct {
		Error string `json:"error"`
	}
	status, err := l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), &problem)
	if err != nil || status != http.StatusServiceUnavailable {
		l.t.Fatalf("trigger on a full disk: got %v, %v; want 503", status, err)
	}
	for _, want := range []string{"ledger " + l.aef.Ledger, "cannot be written", "outcome is unknown", "see to the disk and repeat the request"} {
		if !strings.Contains(problem.Error, want) {
			l.t.Errorf("trigger on a full disk: got %q; want it to say %q", problem.Error, want)
		}
	}
}

// tries triggers and returns the status.
func (l *life) tries(id string) int {
	l.t.Helper()
	status, err := l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return status
}

// TestFullDiskAtRunTime fills the disk under a running Caddy: triggers and the
// core are answered 503 with the reason, whom they name is blocked all the same,
// whoever was denied stays denied, also over a reload, and with space again it
// goes on without a restart. A kill then loses nothing of it.
func TestFullDiskAtRunTime(t *testing.T) {
	l := startLife(t)
	byTrigger, byCore, lifted := l.newInvoker(), l.newInvoker(), l.newInvoker()
	l.revoke(lifted)
	blocked := map[string]string{}
	for _, id := range []string{byTrigger, byCore} {
		blocked[id] = l.tokenOf(id)
		l.want(l.aef, lifePath, blocked[id], http.StatusOK)
	}
	l.limitDisk(diskFull)
	for range 2 { // the second finds a ledger that fails already
		l.wantDiskFull(byTrigger)
		answer, err := l.scene.Core.CallAEF(l.ctx, l.aef.ID, coretest.SecurityNotification{
			APIInvokerID: byCore, APIIDs: []string{testbed.APIID}, Cause: coretest.CauseUnexpected,
		})
		if err != nil || answer.Status != http.StatusServiceUnavailable || !strings.Contains(string(answer.Body), "cannot write to its disk") {
			t.Errorf("callback on a full disk: got %v, %d %s; want 503, cannot write to its disk", err, answer.Status, answer.Body)
		}
	}
	lift := adminapi.LiftRequest{APIInvokerID: lifted, AllAPIs: true}
	status, err := l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathLifts, lift, nil)
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("lift on a full disk: got %v, %v; want 503", status, err)
	}
	refused := func() {
		t.Helper()
		l.want(l.aef, lifePath, l.denied, http.StatusForbidden)
		l.want(l.aef, lifePath, l.tokenOf(lifted), http.StatusForbidden)
		for _, token := range blocked {
			l.want(l.aef, lifePath, token, http.StatusForbidden)
		}
		l.want(l.aef, lifePath, l.allowed, http.StatusOK)
	}
	refused()
	failing := func(want bool) {
		t.Helper()
		if got := l.status().Ledger.Failing; got != want {
			t.Errorf("status: got failing %v; want %v", got, want)
		}
		if got := l.metric(seriesFailing) == 1; got != want {
			t.Errorf("%s: got %v; want %v", seriesFailing, got, want)
		}
	}
	failing(true)
	l.reload(l.aef)
	failing(true)
	refused()

	l.limitDisk(diskSpace)
	l.poll(func() bool { return !l.status().Ledger.Failing })
	failing(false)
	refused()
	l.revoke(l.newInvoker())
	err = l.caddy.Kill()
	if err != nil {
		t.Fatal(err)
	}
	l.caddy = l.start(l.aef)
	refused()
	l.poll(func() bool { return l.revocationOf(byTrigger).State == revocation.StateRevoked })
	status, err = l.caddy.Admin(l.ctx, http.MethodPost, adminapi.PathLifts, lift, nil)
	if err != nil || status != http.StatusOK {
		t.Errorf("lift with space again: got %v, %v; want 200", status, err)
	}
}

// TestStartOnAReadOnlyFileSystem has a ledger, and none, on a file system that
// is mounted read-only. Where no mount is allowed, a directory of the kernel that
// takes no files has to do.
func TestStartOnAReadOnlyFileSystem(t *testing.T) {
	l := newLife(t)
	dir := t.TempDir()
	err := syscall.Mount("none", dir, "tmpfs", syscall.MS_RDONLY, "")
	if err != nil {
		t.Logf("no mount allowed here (%v): /proc takes its place", err)
		dir = "/proc"
	} else {
		t.Cleanup(func() {
			err := syscall.Unmount(dir, syscall.MNT_DETACH)
			if err != nil {
				t.Error(err)
			}
		})
	}
	a := *l.aef
	a.Ledger = filepath.Join(dir, "ledger.db")
	l.wantNoStart(&a, "ledger "+a.Ledger, "cannot be opened; check that the disk is writable and not full")
	if dir == "/proc" {
		return
	}
	err = syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, a.Ledger, nil)
	err = syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	if err != nil {
		t.Fatal(err)
	}
	l.wantNoStart(&a, "ledger "+a.Ledger, "check that the disk is writable", "read-only file system")
	a.Ledger = filepath.Join(dir, "capif", "ledger.db")
	l.wantNoStart(&a, "ledger "+a.Ledger, "its directory cannot be made; make it or name another path", "read-only file system")
}
