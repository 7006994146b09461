package coretest

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

const revokeQoS = `{"apiInvokerId":"inv-1","aefId":"aef-a","apiIds":["77aa01"],"cause":"OVERLIMIT_USAGE"}`

func TestFaultsOnRequests(t *testing.T) {
	tests := []struct {
		name    string
		fault   Fault
		status  int // 0: no answer
		body    string
		revoked bool
	}{
		{"status in the core's shape", Fault{Status: 503}, 503, `"status":503`, false},
		{"HTML", Fault{Status: 502, Body: HTMLBody}, 502, "<h1>", false},
		{"JSON of another shape", Fault{Status: 500, Body: `{"oops":1}`}, 500, `{"oops":1}`, false},
		{"executed, answered 500", Fault{Status: 500, Execute: true}, 500, `"status":500`, true},
		{"dropped before", Fault{Drop: true}, 0, "", false},
		{"dropped after", Fault{Drop: true, Execute: true}, 0, "", true},
		{"short delay", Fault{Delay: time.Millisecond}, 204, "", true},
		{"another operation", Fault{Operations: []string{OpGetContext}, Status: 500}, 204, "", true},
		{"this operation", Fault{Operations: []string{OpGetContext, OpRevoke}, Status: 500}, 500, "", false},
		{"another invoker", Fault{InvokerID: "inv-2", Status: 500}, 204, "", true},
		{"this invoker", Fault{InvokerID: "inv-1", Status: 429}, 429, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{})
			s.authorize()
			tt.fault.Header = http.Header{"Retry-After": {"7"}}
			s.Inject(tt.fault)
			got := s.revokeJSON(revokeQoS)
			if tt.status == 0 {
				if !isEOF(got.err) {
					t.Errorf("got %+v; want the connection closed", got)
				}
			} else {
				wantStatus(t, got, tt.status)
				if tt.status >= 400 && got.header.Get("Retry-After") != "7" {
					t.Errorf("got Retry-After %q; want 7", got.header.Get("Retry-After"))
				}
			}
			if !strings.Contains(got.body, tt.body) {
				t.Errorf("got body %s; want %s", got.body, tt.body)
			}
			if revoked := !s.Authorized("inv-1", s.a, apiQoS); revoked != tt.revoked {
				t.Errorf("got revoked %v; want %v", revoked, tt.revoked)
			}
			s.quiesce()
			if told := len(s.inv.Notifications()) == 1; told != tt.revoked {
				t.Errorf("got invoker told %v; want %v", told, tt.revoked)
			}
		})
	}
}

func TestFaultTimesAndOrder(t *testing.T) {
	s := newScene(t, Options{})
	s.Inject(Fault{Status: 500})
	twice := s.Inject(Fault{Status: 503, Times: 2})
	for i, want := range []int{503, 503, 500, 500} {
		if got := s.do(s.aefClient, "GET", contexts+"inv-1", "", ""); got.status != want {
			t.Errorf("request %d: got %d; want %d", i, got.status, want)
		}
	}
	if twice.Hits() != 2 {
		t.Errorf("got %d hits; want 2", twice.Hits())
	}
	s.ClearFaults()
	wantStatus(t, s.do(s.aefClient, "GET", contexts+"inv-1", "", ""), 404)
}

func TestHangIsReleased(t *testing.T) {
	tests := []struct {
		name    string
		execute bool
		release func(*scene, *Injected)
	}{
		{"before, by Clear", false, func(_ *scene, in *Injected) { in.Clear() }},
		{"before, by ClearFaults although used up", false, func(s *scene, _ *Injected) { s.ClearFaults() }},
		{"after, by Clear", true, func(_ *scene, in *Injected) { in.Clear() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, Options{})
			s.authorize()
			in := s.Inject(Fault{Operations: []string{OpRevoke}, Hang: true, Execute: tt.execute, Times: 1})
			done := make(chan answer, 1)
			go func() { done <- s.revokeJSON(revokeQoS) }()
			<-in.Reached()
			if tt.execute {
				_, err := s.WaitFor(s.ctx, func(e Event) bool { return e.Phase == PhaseState && e.Operation == OpRevoke })
				s.must(err)
			}
			if got := !s.Authorized("inv-1", s.a, apiQoS); got != tt.execute {
				t.Errorf("while hanging: got revoked %v; want %v", got, tt.execute)
			}
			tt.release(s, in)
			wantStatus(t, <-done, 204)
		})
	}
}

func TestCloseEndsWhatHangs(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	in := s.Inject(Fault{Operations: []string{OpRevoke}, Hang: true})
	out := s.Inject(Fault{Operations: []string{OpNotifyEvent}, Hang: true})
	s.subscribeAll(eventsTo)
	s.SendEvent(EventOffboarded, nil)
	done := make(chan answer, 1)
	go func() { done <- s.revokeJSON(revokeQoS) }()
	<-in.Reached()
	<-out.Reached()
	s.must(s.Close())
	if got := <-done; got.err == nil {
		t.Errorf("got %+v; want the connection closed", got)
	}
	if !s.Authorized("inv-1", s.a, apiQoS) {
		t.Error("got the hanging revoke executed by Close; want it dropped")
	}
	s.must(s.Close()) // again
}

// A core that is slow executes what it was asked, also when nobody waits for the answer any more.
func TestHangingRequestOutlivesItsCaller(t *testing.T) {
	s := newScene(t, Options{})
	s.authorize()
	in := s.Inject(Fault{Operations: []string{OpRevoke}, Hang: true})
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+contexts+"inv-1/delete", strings.NewReader(revokeQoS))
		if err == nil {
			_, err = s.aefClient.Do(req)
		}
		done <- err
	}()
	<-in.Reached()
	cancel()
	if err := <-done; err == nil {
		t.Fatal("got an answer; want none")
	}
	in.Clear()
	_, err := s.WaitFor(s.ctx, func(e Event) bool { return e.Operation == OpRevoke && e.Phase == PhaseAnswer })
	s.must(err)
	if s.Authorized("inv-1", s.a, apiQoS) {
		t.Error("got the entry still there; want the revoke executed")
	}
}

func TestFaultsOnMessages(t *testing.T) {
	t.Run("swallowed", func(t *testing.T) {
		s := newScene(t, Options{})
		s.authorize()
		s.subscribeAll(eventsTo)
		s.SwallowNotifications()
		wantStatus(t, s.revokeJSON(`{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"X"}`), 204)
		s.quiesce()
		if got := len(s.inv.Notifications()) + len(s.aefs["b"].at(callPath)) + len(s.aefs["b"].at(eventPath)); got != 0 {
			t.Errorf("got %d messages; want none", got)
		}
		if s.Authorized("inv-1", s.b, apiLocation) {
			t.Error("got the entry still there; want the state changed")
		}
	})
	t.Run("status in place of the AEF's", func(t *testing.T) {
		s := newScene(t, Options{})
		s.Inject(Fault{Operations: []string{OpCallAEF}, Status: 503})
		got, err := s.CallAEF(s.ctx, s.a, SecurityNotification{APIInvokerID: "inv-1", APIIDs: []string{apiQoS}, Cause: "X"})
		s.must(err)
		if got.Status != 503 || len(s.aefs["a"].at(callPath)) != 0 {
			t.Errorf("got %+v; want 503 and nothing sent", got)
		}
	})
	t.Run("sent, answer lost", func(t *testing.T) {
		s := newScene(t, Options{})
		s.Inject(Fault{Operations: []string{OpCallAEF}, Drop: true, Execute: true})
		got, err := s.CallAEF(s.ctx, s.a, SecurityNotification{APIInvokerID: "inv-1", APIIDs: []string{apiQoS}, Cause: "X"})
		s.must(err)
		if got.Err == nil || len(s.aefs["a"].at(callPath)) != 1 {
			t.Errorf("got %+v; want an error although the AEF was called", got)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		s := newScene(t, Options{})
		s.must(s.AddAEF(AEF{ID: s.a, ProviderID: "prov-1", CallbackURL: deadAddress(t) + "/secret"}))
		got, err := s.CallAEF(s.ctx, s.a, SecurityNotification{APIInvokerID: "inv-1", APIIDs: []string{apiQoS}, Cause: "X"})
		s.must(err)
		if got.Err == nil || strings.Contains(got.Err.Error(), "secret") {
			t.Errorf("got %v; want an error that does not repeat the address", got.Err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		s := newScene(t, Options{NotifyTimeout: time.Nanosecond})
		got, err := s.CallAEF(s.ctx, s.a, SecurityNotification{APIInvokerID: "inv-1", APIIDs: []string{apiQoS}, Cause: "X"})
		s.must(err)
		if got.Err == nil {
			t.Errorf("got %+v; want the deadline to end the call", got)
		}
	})
}

func TestNotFoundForAll(t *testing.T) {
	for _, name := range Dialects() {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, Options{Dialect: name})
			s.authorize()
			truth := s.do(s.aefClient, "GET", contexts+"inv-9", "", "")
			wantStatus(t, truth, 404)
			lie := s.NotFoundForAll()
			got := s.do(s.aefClient, "GET", contexts+"inv-1", "", "")
			wantStatus(t, got, 404)
			if got.header.Get("Content-Type") != truth.header.Get("Content-Type") {
				t.Errorf("got %s; want the shape of the core's own 404, %s", got.header.Get("Content-Type"), truth.header.Get("Content-Type"))
			}
			lie.Clear()
			wantStatus(t, s.do(s.aefClient, "GET", contexts+"inv-1", "", ""), 200)
		})
	}
}

func TestJournal(t *testing.T) {
	var order []string // Observe is never called concurrently
	s := newScene(t, Options{Observe: func(e Event) {
		direction := "in"
		if e.Sent {
			direction = "out"
		}
		order = append(order, direction+" "+e.Operation+" "+string(e.Phase))
	}})
	s.authorize()
	first, err := s.WaitFor(s.ctx, func(e Event) bool { return e.Phase == PhaseAnswer })
	s.must(err)
	if first.Operation != OpPutContext || first.Status != 201 || first.InvokerID != "inv-1" || first.From != "API invoker inv-1" {
		t.Errorf("got %+v; want the put of inv-1", first)
	}
	wantStatus(t, s.revokeJSON(revokeQoS), 204)
	s.quiesce()
	revokes := s.Requests(OpRevoke)
	var body SecurityNotification
	if len(revokes) != 1 || revokes[0].Decode(&body) != nil || body.Cause != CauseOverlimit || revokes[0].From != "AEF aef-a" {
		t.Fatalf("got %+v; want one revoke by aef-a with its body", revokes)
	}
	if e := revokes[0]; e.AEFID != "aef-a" || len(e.APIIDs) != 1 || e.Status != 204 || e.Duration <= 0 || e.Time.IsZero() {
		t.Errorf("got %+v; want the event filled in", e)
	}
	if sent := s.Sent(OpNotifyInvoker); len(sent) != 1 || sent[0].Status != 204 || sent[0].To != "API invoker inv-1" {
		t.Errorf("got %+v; want one notification answered 204", sent)
	}
	s.journal.mu.Lock()
	seen := strings.Join(order, "\n")
	s.journal.mu.Unlock()
	want := strings.Join([]string{
		"in put_context request", "in put_context state", "in put_context answer",
		"in revoke request", "in revoke state", "in revoke answer",
		"out notify_invoker request", "out notify_invoker answer",
	}, "\n")
	if seen != want {
		t.Errorf("got order\n%s\nwant\n%s", seen, want)
	}
	if s.Count(OpRevoke) != 1 {
		t.Errorf("got count %d; want 1", s.Count(OpRevoke))
	}
	s.ResetJournal()
	if s.Count(OpRevoke) != 0 || len(s.Requests()) != 0 {
		t.Error("got a journal after ResetJournal; want none")
	}
	var broken Event
	if broken.Decode(&body) == nil {
		t.Error("decode of nothing: got nil; want an error")
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.WaitFor(ctx, func(Event) bool { return false }); err == nil {
		t.Error("wait with an ended ctx: got nil; want an error")
	}
}

func TestJournalIsBounded(t *testing.T) {
	var j journal
	for range journalSize + 10 {
		j.add(Event{Phase: PhaseAnswer, Operation: OpJWKS})
	}
	if len(j.events) > journalSize || j.counts[OpJWKS] != journalSize+10 {
		t.Errorf("got %d events, count %d; want at most %d events and every one counted", len(j.events), j.counts[OpJWKS], journalSize)
	}
}
