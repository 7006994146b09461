package caddyplugin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

// watcher is a `caddy capif watch --json` that runs.
type watcher struct {
	t      *testing.T
	cmd    *exec.Cmd
	events chan adminapi.Event
}

func (b *adminBed) watch(args ...string) *watcher {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	cmd, err := testbed.Command(ctx, b.aef.Dir, append([]string{"capif", "watch", "--json", "--address", b.aef.Admin}, args...)...)
	must(b.t, err)
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	w := &watcher{t: b.t, cmd: cmd, events: make(chan adminapi.Event, 10_000)}
	must(b.t, cmd.Start())
	go func() {
		defer close(w.events)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			var e adminapi.Event
			if err != nil || json.Unmarshal(line, &e) != nil {
				return
			}
			w.events <- e
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	return w
}

// next returns the next event of this name.
func (w *watcher) next(b *bed, name string) adminapi.Event {
	w.t.Helper()
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				w.t.Fatalf("the watch ended; want an event %s", name)
			}
			if e.Name == name {
				return e
			}
		case <-b.ctx.Done():
			w.t.Fatalf("got no event %s in time", name)
		}
	}
}

func (w *watcher) change(b *bed) revocation.Audit {
	w.t.Helper()
	var a revocation.Audit
	must(w.t, json.Unmarshal(w.next(b, adminapi.EventChange).Data, &a))
	return a
}

// TestWatch: a watch shows what comes, goes on over reloads and a restart, and shows
// each change exactly once, in order.
func TestWatch(t *testing.T) {
	b := newAdminBed(t, nil)
	w := b.watch()
	var start adminapi.WatchStart
	must(t, json.Unmarshal(w.next(b.bed, adminapi.EventStart).Data, &start))
	if len(start.Alarms) != 1 || start.Alarms[0].Name != alarm.LedgerCreated {
		t.Errorf("got alarms %+v; want the new ledger's", start.Alarms)
	}
	b.granted("inv-w")
	b.trigger(b.caddy, revokeRequest("inv-w"), http.StatusOK)
	for _, want := range []revocation.Action{revocation.ActionRevoke, revocation.ActionCoreAnswer} {
		if got := w.change(b.bed); got.Action != want || got.Invoker != "inv-w" {
			t.Errorf("got %+v; want %s of inv-w", got, want)
		}
	}
	asked := &callbackBed{adminBed: b, core: b.scene.Core.Client(b.scene.Core.Identity())}
	answer := asked.ask(asked.core, callbackRequest{body: revokeBody(map[string]any{"apiInvokerId": "inv-w", "apiIds": []string{testbed.OtherAPIID}})})
	if answer.status != http.StatusOK {
		t.Fatalf("the core's command: got %d %s; want 200", answer.status, answer.body)
	}
	if got := w.change(b.bed); got.Action != revocation.ActionCoreDeny || got.By != "core" || got.Claims != 1 {
		t.Errorf("got %+v; want the core's deny", got)
	}

	caddyfile, err := b.aef.Caddyfile()
	must(t, err)
	// A reload ends the stream, which would hold the old admin endpoint.
	must(t, b.caddy.Reload(b.ctx, caddyfile))
	w.next(b.bed, adminapi.EventStart)
	var before []uint64
	for i := range 10 { // changes before, between and while streams end
		must(t, b.caddy.Reload(b.ctx, caddyfile))
		before = append(before, b.liftNobody(), b.liftNobody())
		if i == 5 {
			must(t, b.caddy.Stop())
			b.caddy = b.start(b.aef)
			before = append(before, b.liftNobody())
		}
	}
	for i, want := range before {
		if got := w.change(b.bed); got.Sequence != want || got.Action != revocation.ActionLift {
			t.Fatalf("change %d of %d: got %+v; want the lift %d", i, len(before), got, want)
		}
	}
}

// liftNobody makes a change, and returns its sequence.
func (b *adminBed) liftNobody() uint64 {
	b.t.Helper()
	b.lift(adminapi.LiftRequest{APIInvokerID: "nobody", AllAPIs: true})
	var list adminapi.AuditList
	b.get(adminapi.PathAudit+"?limit=1", &list)
	return list.Audit[0].Sequence
}

// TestWatchOfAlarms: raised and cleared are shown, also to one that comes back.
func TestWatchOfAlarms(t *testing.T) {
	b := newAdminBed(t, func(b *adminBed) { b.aef.GlobalExtra = "trigger_timeout 200ms" })
	w := b.watch()
	start := w.next(b.bed, adminapi.EventStart)
	b.granted("inv-a")
	refuses := b.scene.Core.Inject(coretest.Fault{Operations: []string{coretest.OpRevoke}, Status: http.StatusForbidden})
	b.trigger(b.caddy, revokeRequest("inv-a"), http.StatusAccepted)
	var change alarm.Change
	must(t, json.Unmarshal(w.next(b.bed, adminapi.EventAlarm).Data, &change))
	if !change.Raised || change.Name != alarm.CoreRefusesUs {
		t.Errorf("got %+v; want %s raised", change, alarm.CoreRefusesUs)
	}
	refuses.Clear()
	must(t, json.Unmarshal(w.next(b.bed, adminapi.EventAlarm).Data, &change))
	if change.Raised || change.Name != alarm.CoreRefusesUs {
		t.Errorf("got %+v; want %s cleared", change, alarm.CoreRefusesUs)
	}
	back := b.watch("--after", start.ID)
	for _, raised := range []bool{true, false} {
		must(t, json.Unmarshal(back.next(b.bed, adminapi.EventAlarm).Data, &change))
		if change.Raised != raised {
			t.Errorf("got %+v; want raised %t once more", change, raised)
		}
	}
}

// TestWatchSaysWhatIsMissing: one that comes back after more changes than the audit
// holds is told so, once; one that misses nothing is not.
func TestWatchSaysWhatIsMissing(t *testing.T) {
	b := newAdminBed(t, func(b *adminBed) { b.aef.Ledger += " {\n\t\t\taudit_records 3\n\t\t}" })
	seen := b.liftNobody()
	w := b.watch()
	start := w.next(b.bed, adminapi.EventStart)
	var made []uint64
	for range 8 {
		made = append(made, b.liftNobody())
	}
	back := b.watch("--after", start.ID)
	back.next(b.bed, adminapi.EventStart)
	told := back.next(b.bed, adminapi.EventGap)
	var gap adminapi.WatchGap
	must(t, json.Unmarshal(told.Data, &gap))
	if want := (adminapi.WatchGap{After: seen, To: made[4], First: made[5]}); gap != want {
		t.Errorf("got %+v; want %+v", gap, want)
	}
	for _, want := range made[5:] {
		if got := back.change(b.bed); got.Sequence != want {
			t.Errorf("after the gap: got %d; want %d", got.Sequence, want)
		}
	}
	again := b.capif("", "watch", "--after", told.ID, "--count", "1")
	if wantRan(t, again, 0, "lift"); strings.Contains(again.out, "gap") {
		t.Errorf("one that knows of the gap: got %s; want no word of it", again.out)
	}
	wantRan(t, b.capif("", "watch", "--after", start.ID, "--count", "1"), 0,
		fmt.Sprintf("gap: changes after %d, up to %d, are no longer in the audit", gap.After, gap.To), "lift")
}

// TestWatchEnds: after so many events.
func TestWatchEnds(t *testing.T) {
	b := newAdminBed(t, nil)
	for range 3 {
		b.liftNobody()
	}
	got := b.capif("", "watch", "--after", "0-0", "--count", "2")
	if strings.Contains(got.err, "broke off") {
		b.t.Errorf("got %q; want no word of a break: it was enough", got.err)
	}
	wantRan(t, got, 0, "lift", "nobody")
	if lines := strings.Count(got.out, "\n"); lines != 2 {
		t.Errorf("got %d lines\n%s; want 2", lines, got.out)
	}
	wantRan(t, b.capif("", "watch", "--after", "nonsense"), 6, `Last-Event-ID "nonsense" is none of this watch`)
}

// TestWatchShowsASilentRevoke: a core that says nothing to the AEF, whose context no
// longer lists a pair, blocks calls without a claim; the watch and the audit say so.
func TestWatchShowsASilentRevoke(t *testing.T) {
	b := newAdminBed(t, nil)
	token := b.granted("inv-s")
	b.want(b.aef, "/location/1", token, http.StatusOK)
	w := b.watch()
	w.next(b.bed, adminapi.EventStart)
	b.scene.Core.SwallowNotifications()
	_, err := b.scene.Core.RevokeByCore(b.ctx, coretest.CoreRevoke{InvokerID: "inv-s", AEFID: b.aef.ID, APIIDs: []string{testbed.APIID}})
	must(t, err)
	wantRan(t, b.capif("", "reconcile"), 0)
	got := w.change(b.bed)
	for got.Action != revocation.ActionCoreContext {
		got = w.change(b.bed)
	}
	pair := revocation.ContextEntry{AEF: b.aef.ID, API: testbed.APIID}
	if got.Invoker != "inv-s" || !slices.Contains(got.Unlisted, pair) || len(got.Listed) > 0 {
		t.Errorf("got %+v; want %v no longer listed for inv-s", got, pair)
	}
	b.want(b.aef, "/location/1", token, http.StatusForbidden)
	wantRan(t, b.capif("", "audit", "--action", "core_context"), 0, "inv-s", "no longer lists", pair.AEF+"/"+pair.API)
}
