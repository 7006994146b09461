package policy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/enforce"
)

func limited(invoker string, total int64) coreclient.Policy {
	return coreclient.Policy{Invoker: invoker, Total: &total}
}

var (
	errSilent = &coreclient.Error{Op: "read", Err: errors.New("connection refused")}
	errProxy  = &coreclient.Error{Op: "read", Status: 404}
	errNone   = &coreclient.Error{Op: "read", Status: 404, InCoreShape: true}
	errRole   = &coreclient.Error{Op: "read", Status: 403}
	errBody   = &coreclient.Error{Op: "read", Status: 200, Err: errors.New("no list")}
)

// TestReadFromTheCore: at the start, on the timer, and on a hint.
func TestReadFromTheCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, nil)
		defer s.stop()
		s.core.set(nil, limited("i", 5))
		s.apply(nil) // the first read may have come before that
		time.Sleep(2 * time.Second)
		s.wantPasses("i", 10, 5)
		s.wantPasses("not in the list", 10, 10)

		s.core.set(nil, limited("i", 7))
		s.wantPasses("i", 10, 0)
		time.Sleep(DefaultInterval * 12 / 10)
		s.wantPasses("i", 10, 2) // the count goes on

		s.core.set(nil, limited("i", 8))
		s.table.Poke()
		synctest.Wait()
		s.wantPasses("i", 10, 1)

		s.core.set(nil)
		s.table.Poke()
		time.Sleep(2 * gather)
		s.wantPasses("i", 10, 10)

		// An API invoker that has its policy made anew gets no new count.
		s.core.set(nil, limited("i", 8))
		s.table.Poke()
		time.Sleep(2 * gather)
		s.wantPasses("i", 10, 0)
	})
}

// TestHintsAreGathered: many hints are one read in a second, and the last is not
// lost.
func TestHintsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, nil)
		defer s.stop()
		synctest.Wait()
		before := s.core.count()
		for range 1000 {
			s.table.Poke()
			time.Sleep(time.Millisecond)
		}
		s.core.set(nil, limited("i", 0))
		s.table.Poke()
		time.Sleep(2 * gather)
		if got := s.core.count() - before; got < 1 || got > 3 {
			t.Errorf("got %d reads in three seconds; want 1 to 3", got)
		}
		s.want("i", enforce.OverLimit)
	})
}

// TestNeverRead: a call waits for the first read, and then passes unless the
// route requires the policy.
func TestNeverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{}) // no read before the core is silent
		defer s.stop()
		requiring := s.table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}, Required: true})
		required := func(want enforce.Reason) {
			t.Helper()
			if got := admit(requiring, "i", t.Context(), time.Now(), true); got != want {
				t.Errorf("where the policy is required: got %v; want %v", got, want)
			}
		}
		s.core.set(errSilent)
		s.apply(nil)
		s.want("i", enforce.Allowed)
		required(enforce.PolicyUnavailable)
		synctest.Wait() // the alarm comes after the calls are let go
		if got := s.alarms.List(); len(got) != 1 || got[0].Name != "policy_unread" {
			t.Errorf("got alarms %v; want policy_unread", got)
		}
		s.core.set(nil, limited("i", 1))
		time.Sleep(5 * time.Second) // it tries again by itself
		required(enforce.Allowed)
		required(enforce.OverLimit)
		if got := s.alarms.List(); len(got) != 0 {
			t.Errorf("got alarms %v; want none", got)
		}
	})
}

// TestFirstCallWaits: no call slips through because it came before the answer.
func TestFirstCallWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{})
		defer s.stop()
		s.core.set(nil, limited("i", 0))
		s.core.slow = 300 * time.Millisecond
		synctest.Wait() // the round before was this instant
		s.apply(nil)    // from rules of its own to the core's
		before := time.Now()
		s.want("i", enforce.OverLimit)
		if got := time.Since(before); got != 300*time.Millisecond {
			t.Errorf("got %v of waiting; want it to end with the read", got)
		}
		s.core = &core{slow: time.Minute} // another one, of which nothing is known
		s.apply(&Rules{})
		s.apply(nil)
		before = time.Now()
		s.want("i", enforce.Allowed)
		if got := time.Since(before); got != firstWait {
			t.Errorf("got %v of waiting; want %v", got, firstWait)
		}
	})
}

// TestFailedReads: what was read stays in force, and a 404 of a proxy is no word.
func TestFailedReads(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		known bool // there was a policy before
		want  enforce.Reason
		alarm bool
	}{
		{"silent", errSilent, true, enforce.OverLimit, true},
		{"no role", errRole, true, enforce.OverLimit, true},
		{"no list", errBody, true, enforce.OverLimit, true},
		{"404 of a proxy", errProxy, true, enforce.OverLimit, true},
		{"404 of the core", errNone, true, enforce.Allowed, false},
		{"404 of a core without this API", errProxy, false, enforce.Allowed, false},
		{"404 at first", errNone, false, enforce.Allowed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, nil)
				defer s.stop()
				if tt.known {
					s.core.set(nil, limited("i", 0))
					s.apply(nil)
					time.Sleep(2 * gather)
					s.want("i", enforce.OverLimit)
				} else {
					s.core.set(tt.err)
					s.apply(&Rules{})
					s.apply(nil)
				}
				s.core.set(tt.err)
				s.table.Poke()
				time.Sleep(2 * gather)
				requiring := s.table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}, Required: true})
				if got := admit(requiring, "i", t.Context(), time.Now(), true); got != tt.want {
					t.Errorf("got %v; want %v", got, tt.want)
				}
				if got := len(s.alarms.List()) > 0; got != tt.alarm {
					t.Errorf("got an alarm: %v; want %v", got, tt.alarm)
				}
			})
		})
	}
}

// TestConfigurationInForce: what a read brings of a configuration that is no
// longer in force changes nothing.
func TestConfigurationInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{})
		defer s.stop()
		s.core.set(nil, limited("i", 0))
		s.core.slow = time.Second
		s.apply(nil)
		synctest.Wait()
		s.apply(total(3))
		time.Sleep(5 * time.Second)
		s.wantPasses("i", 10, 3)
		s.table.Apply(&Settings{Core: s.core, Logger: quiet}) // no policy at all
		s.wantPasses("i", 10, 10)
	})
}

// TestLaterPolicyCounts: of two for one API invoker.
func TestLaterPolicyCounts(t *testing.T) {
	rules := rulesOf([]coreclient.Policy{limited("i", 1), limited("i", 2)})
	if got := *rules.Single["i"].Total; got != 2 {
		t.Errorf("got %d; want 2", got)
	}
	if rulesOf(nil) != nil {
		t.Error("got rules of an empty list; want none")
	}
}

// TestRejectedReload: settings that come back into force go on with what their
// core said, also while the core cannot be read.
func TestRejectedReload(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rejected *Settings
	}{
		{"to a configured policy", &Settings{Core: &core{}, Logger: quiet, Pairs: map[Pair]Source{api: {Rules: total(50)}}}},
		{"to none", &Settings{Core: &core{}, Logger: quiet}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, nil)
				defer s.stop()
				s.core.set(nil, limited("i", 3))
				synctest.Wait()
				time.Sleep(DefaultInterval * 2)
				s.core.set(errDisk)
				s.table.Apply(tt.rejected)
				s.apply(nil)
				s.wantPasses("i", 10, 3)
				time.Sleep(10 * time.Second)
				s.wantPasses("i", 10, 0)
			})
		})
	}
}
