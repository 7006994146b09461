package outbox

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// core answers reads and revokes from a script; the last answer repeats.
type core struct {
	mu      sync.Mutex
	reads   []any // coreclient.Context or error
	revokes []error
	read    int
	sent    []coreclient.RevokeRequest
	entered chan struct{} // if set, told when a revoke begins
	release chan struct{} // if set, awaited by a revoke
}

func (c *core) Context(context.Context, string) (coreclient.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.reads[min(c.read, len(c.reads)-1)]
	c.read++
	if err, ok := answer.(error); ok {
		return coreclient.Context{}, err
	}
	return answer.(coreclient.Context), nil
}

func (c *core) Revoke(ctx context.Context, r coreclient.RevokeRequest) (int, error) {
	c.mu.Lock()
	n := len(c.sent)
	c.sent = append(c.sent, r)
	c.mu.Unlock()
	if c.entered != nil {
		c.entered <- struct{}{}
		select {
		case <-c.release:
		case <-ctx.Done():
			return 0, &coreclient.Error{Op: "revoke", Err: ctx.Err()}
		}
	}
	if len(c.revokes) == 0 {
		return http.StatusAccepted, nil
	}
	err := c.revokes[min(n, len(c.revokes)-1)]
	if err != nil {
		return 0, err
	}
	return http.StatusAccepted, nil
}

func (c *core) requests() []coreclient.RevokeRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]coreclient.RevokeRequest(nil), c.sent...)
}

type bed struct {
	ledger *revocation.Ledger
	outbox *Outbox
	alarms *alarm.Set
}

func newBed(t *testing.T, path string, c Core) *bed {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	b := &bed{ledger: revocation.NewLedger(path), alarms: new(alarm.Set)}
	err := b.ledger.Open(revocation.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	b.outbox = New(b.ledger, b.alarms)
	b.outbox.Apply(&Settings{Core: c, Logger: log, APIs: func(string) []string { return []string{"api-1", "api-2"} }})
	err = b.ledger.SetQueue(b.outbox)
	if err != nil {
		t.Fatal(err)
	}
	b.outbox.Start()
	t.Cleanup(b.stop)
	return b
}

func (b *bed) stop() {
	b.outbox.Stop()
	_ = b.ledger.Close()
}

func (b *bed) trigger(t *testing.T, trigger revocation.Trigger) revocation.Revocation {
	t.Helper()
	trigger.Invoker, trigger.AEF, trigger.Cause = "inv-1", "aef-1", "C"
	made, err := b.ledger.Trigger(t.Context(), trigger)
	if err != nil {
		t.Fatal(err)
	}
	return made[0]
}

// until polls the record of a revocation.
func (b *bed) until(t *testing.T, r revocation.Revocation, ok func(revocation.Revocation) bool) revocation.Revocation {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := b.ledger.RevocationBySequence(r.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		if ok(now) {
			return now
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("got %+v for 20 s", now)
		}
	}
}

func listed(apis ...string) coreclient.Context {
	var c coreclient.Context
	for _, api := range apis {
		c.Entries = append(c.Entries, coreclient.Entry{AEFID: "aef-1", APIID: api})
	}
	return c
}

func status(code int, shape bool) error {
	return &coreclient.Error{Op: "test", Status: code, InCoreShape: shape, Reason: "reason"}
}

// TestStates is the table of what the core answers and what that means.
func TestStates(t *testing.T) {
	pending := revocation.StatePending
	for _, test := range []struct {
		name    string
		reads   []any
		revokes []error
		state   revocation.State
		sent    int
		alarm   alarm.Name
	}{
		{"absent", []any{listed()}, nil, revocation.StateNoAuthorizationFound, 0, ""},
		{"404 in the core's words", []any{status(404, true)}, nil, revocation.StateNoAuthorizationFound, 0, ""},
		{"404 of a proxy", []any{status(404, false)}, nil, pending, 0, ""},
		{"2xx and gone", []any{listed("api-1"), listed()}, nil, revocation.StateRevoked, 1, ""},
		{"2xx and the context gone", []any{listed("api-1"), status(404, true)}, nil, revocation.StateRevoked, 1, ""},
		{"2xx and listed once more", []any{listed("api-1"), listed("api-1"), listed()}, nil, revocation.StateRevoked, 2, ""},
		{"2xx and still listed", []any{listed("api-1")}, nil, revocation.StateUnconfirmed, 2, alarm.RevocationUnconfirmed},
		{"404 to the revoke", []any{listed("api-1"), listed()}, []error{status(404, true)}, revocation.StateRevoked, 1, ""},
		{"404 of a proxy to the revoke", []any{listed("api-1")}, []error{status(404, false)}, pending, 1, ""},
		{"400", []any{listed("api-1")}, []error{status(400, true)}, revocation.StateRejected, 1, ""},
		{"401", []any{listed("api-1")}, []error{status(401, true)}, pending, 1, alarm.CoreRefusesUs},
		{"403 to the read", []any{status(403, false)}, nil, pending, 0, alarm.CoreRefusesUs},
		{"429", []any{listed("api-1")}, []error{status(429, true)}, pending, 1, ""},
		{"no answer", []any{listed("api-1")}, []error{errors.New("eof")}, pending, 1, ""},
		{"500 after executing", []any{listed("api-1"), listed()}, []error{status(500, true)}, revocation.StateRevoked, 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &core{reads: test.reads, revokes: test.revokes}
			b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
			r := b.trigger(t, revocation.Trigger{APIs: []string{"api-1"}, Hold: true})
			got := b.until(t, r, func(r revocation.Revocation) bool {
				return r.State == test.state && (test.state != pending || r.Attempts > 0)
			})
			if n := len(c.requests()); n != test.sent {
				t.Errorf("got %d requests; want %d", n, test.sent)
			}
			if test.state == pending && !got.NextAttempt.After(got.CreatedAt) {
				t.Errorf("got next attempt %v; want one after %v", got.NextAttempt, got.CreatedAt)
			}
			if b.ledger.Covering("inv-1", "aef-1", []string{"api-1"}, revocation.Digest{}) != revocation.CoverAuthorization {
				t.Error("the claim does not stand")
			}
			if test.alarm != "" { // it is raised once the record is durable
				b.until(t, r, func(revocation.Revocation) bool { return len(b.alarms.List()) > 0 })
			}
			if test.alarm != "" && (len(b.alarms.List()) != 1 || b.alarms.List()[0].Name != test.alarm) {
				t.Errorf("got alarms %+v; want %v", b.alarms.List(), test.alarm)
			}
		})
	}
}

// What is recorded is what the core said, to the request and to each read-back.
func TestAnswersAreTheCores(t *testing.T) {
	for _, test := range []struct {
		name    string
		reads   []any
		revokes []error
		all     bool
		want    []int
	}{
		{"2xx", []any{listed("api-1"), listed()}, nil, false, []int{202, 200}},
		{"404 to the revoke", []any{listed("api-1"), listed()}, []error{status(404, true)}, false, []int{404, 200}},
		{"404 to both", []any{listed("api-1"), status(404, true)}, []error{status(404, true)}, false, []int{404, 404}},
		{"404 to one of two", []any{listed("api-1", "api-2"), listed()}, []error{status(404, true), nil}, true, []int{404, 202, 200}},
		{"never listed", []any{listed()}, nil, false, []int{200}},
		{"400", []any{listed("api-1")}, []error{status(400, true)}, false, []int{400}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), &core{reads: test.reads, revokes: test.revokes})
			trigger := revocation.Trigger{APIs: []string{"api-1"}, Hold: true}
			if test.all {
				trigger.APIs = nil
			}
			r := b.until(t, b.trigger(t, trigger), func(r revocation.Revocation) bool { return r.State != revocation.StatePending })
			var got []int
			for _, a := range r.Answers {
				got = append(got, a.Status)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %+v; want the statuses %v", r.Answers, test.want)
			}
		})
	}
}

// TestAllAPIs: one request for each entry of our aefId, and where an entry names
// no API, for those served here.
func TestAllAPIs(t *testing.T) {
	foreign := coreclient.Entry{AEFID: "aef-2", APIID: "api-9"}
	for _, test := range []struct {
		name string
		read coreclient.Context
	}{
		{"named", coreclient.Context{Entries: append(listed("api-1", "api-2").Entries, foreign)}},
		{"an entry without apiId", coreclient.Context{Entries: []coreclient.Entry{{AEFID: "aef-1"}, foreign}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &core{reads: []any{test.read, coreclient.Context{Entries: []coreclient.Entry{foreign}}}}
			b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
			r := b.trigger(t, revocation.Trigger{Hold: true})
			b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateRevoked })
			got := c.requests()
			if len(got) != 2 || got[0].APIID != "api-1" || got[1].APIID != "api-2" {
				t.Errorf("got %+v; want one request for each of api-1 and api-2", got)
			}
		})
	}
}

// An entry without apiId of an aefId that no route has: it is still listed, so
// the revocation waits, with an alarm, for a route or for the core.
func TestAllAPIsWithoutAnyRoute(t *testing.T) {
	every := coreclient.Entry{AEFID: "aef-1"}
	for _, test := range []struct {
		name string
		read coreclient.Context
		sent []string // before there is a route
	}{
		{"only that entry", coreclient.Context{Entries: []coreclient.Entry{every}}, nil},
		{"beside one that names an API", coreclient.Context{Entries: append(listed("api-3").Entries, every)}, []string{"api-3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			rest := coreclient.Context{Entries: []coreclient.Entry{every}}
			c := &core{reads: []any{test.read, rest}}
			b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
			b.outbox.Apply(&Settings{Core: c, Logger: slog.New(slog.DiscardHandler), APIs: func(string) []string { return nil }})
			r := b.trigger(t, revocation.Trigger{Hold: true})
			got := b.until(t, r, func(r revocation.Revocation) bool { return r.Attempts > 0 || r.State != revocation.StatePending })
			last := got.Answers[len(got.Answers)-1]
			if got.State != revocation.StatePending || !strings.Contains(last.Detail, "no route names an apiId") {
				t.Errorf("got %+v; want it pending, with why", got)
			}
			if a := b.alarms.List(); len(a) != 1 || a[0].Name != alarm.UnmappedAPI {
				t.Errorf("got alarms %+v; want %v", a, alarm.UnmappedAPI)
			}
			if sent := apisOf(c.requests()); !slices.Equal(sent, test.sent) {
				t.Errorf("got requests for %v; want %v", sent, test.sent)
			}
			// A route comes.
			mended := &core{reads: []any{rest, listed()}}
			b.outbox.Apply(&Settings{Core: mended, Logger: slog.New(slog.DiscardHandler), APIs: func(string) []string { return []string{"api-1"} }})
			b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateRevoked })
			if sent := apisOf(mended.requests()); !slices.Equal(sent, []string{"api-1"}) {
				t.Errorf("got requests for %v; want api-1", sent)
			}
		})
	}
	t.Run("an entry without any id covers nothing", func(t *testing.T) {
		c := &core{reads: []any{coreclient.Context{Entries: []coreclient.Entry{{}}}}}
		b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
		r := b.trigger(t, revocation.Trigger{Hold: true})
		b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateNoAuthorizationFound })
	})
}

func apisOf(requests []coreclient.RevokeRequest) []string {
	var apis []string
	for _, r := range requests {
		apis = append(apis, r.APIID)
	}
	return apis
}

// TestSchedule15LiftWhileInFlight: no second request, and nothing is set.
func TestSchedule15LiftWhileInFlight(t *testing.T) {
	c := &core{reads: []any{listed("api-1")}, revokes: []error{errors.New("timeout")}, entered: make(chan struct{}), release: make(chan struct{})}
	b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
	r := b.trigger(t, revocation.Trigger{APIs: []string{"api-1"}, Hold: true})
	<-c.entered
	before, err := b.ledger.RevocationBySequence(r.Sequence)
	if err != nil || !before.Listed || !before.Sent {
		t.Fatalf("got %+v, %v; want listed and sent durable before the request", before, err)
	}
	_, err = b.ledger.Lift(t.Context(), revocation.Lift{Invoker: "inv-1"})
	if err != nil {
		t.Fatal(err)
	}
	close(c.release)
	b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateCancelled && len(r.Answers) == 1 })
	if n := len(c.requests()); n != 1 || b.outbox.Depth() > 1 {
		t.Errorf("got %d requests, depth %d; want 1", n, b.outbox.Depth())
	}
	if got := b.ledger.Covering("inv-1", "aef-1", []string{"api-1"}, revocation.Digest{}); got != revocation.CoverNone {
		t.Errorf("got %v; want nothing set", got)
	}
}

// TestSchedule16LateWordAfterLift: without hold, a lift, then the late "revoked".
func TestSchedule16LateWordAfterLift(t *testing.T) {
	c := &core{reads: []any{listed("api-1"), listed()}, entered: make(chan struct{}), release: make(chan struct{})}
	b := newBed(t, filepath.Join(t.TempDir(), "ledger.db"), c)
	r := b.trigger(t, revocation.Trigger{APIs: []string{"api-1"}})
	<-c.entered
	_, err := b.ledger.Lift(t.Context(), revocation.Lift{Invoker: "inv-1"})
	if err != nil {
		t.Fatal(err)
	}
	close(c.release)
	b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateCancelled && len(r.Answers) == 1 })
	if got := b.ledger.Covering("inv-1", "aef-1", []string{"api-1"}, revocation.Digest{}); got != revocation.CoverNone {
		t.Errorf("got %v; want no claim", got)
	}
}

// TestSchedule17Restart: stopped while the request was in flight; after the
// restart the entry is gone: revoked, and nothing is sent again.
func TestSchedule17Restart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	c := &core{reads: []any{listed("api-1")}, entered: make(chan struct{}), release: make(chan struct{})}
	b := newBed(t, path, c)
	r := b.trigger(t, revocation.Trigger{APIs: []string{"api-1"}, Hold: true})
	<-c.entered
	b.stop() // with the core hanging
	after := &core{reads: []any{listed()}}
	b = newBed(t, path, after)
	b.until(t, r, func(r revocation.Revocation) bool { return r.State == revocation.StateRevoked })
	if n := len(after.requests()); n != 0 {
		t.Errorf("got %d requests; want none", n)
	}
}

func TestBackoffDelay(t *testing.T) {
	for attempts, want := range map[int]time.Duration{0: firstDelay, 3: 8 * firstDelay, 50: maxDelay} {
		if got := backoffDelay(attempts, 0); got < want/2 || got > want*3/2 {
			t.Errorf("%d attempts: got %v; want about %v", attempts, got, want)
		}
	}
	if got := backoffDelay(0, time.Minute); got != time.Minute {
		t.Errorf("got %v; want what the core asked for", got)
	}
	if got := backoffDelay(0, 24*time.Hour); got != maxRetryAfter {
		t.Errorf("got %v; want at most %v", got, maxRetryAfter)
	}
}
