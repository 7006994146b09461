package subscription

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
)

func TestSubscribesAndKeepsTheID(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.wantCalls("start", "POST")
		st := b.keeper.Status()
		if !st.Subscribed || st.ID != "aef-1-1" || !slices.Equal(st.Events, Events()) || st.Error != "" {
			b.Errorf("got %+v; want a subscription to all events", st)
		}
		if b.gaps.Load() != 1 {
			b.Errorf("got %d gaps; want 1: nobody was subscribed before", b.gaps.Load())
		}
		b.after(11 * time.Minute)
		b.wantCalls("the timer", "PUT aef-1-1")

		b.keeper.Apply(b.settings(destination))
		b.after(time.Minute)
		b.wantCalls("a reload with the same settings")

		b.stop()
		b.wantIDs("stopped", "aef-1-1")
		b.start(destination)
		b.wantCalls("a restart", "PUT aef-1-1")
		if st := b.keeper.Status(); !st.Subscribed || st.ID != "aef-1-1" || b.gaps.Load() != 1 {
			b.Errorf("got %+v, %d gaps; want the same subscription, no other gap", st, b.gaps.Load())
		}
	})
}

func TestForgottenAtTheCore(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.core.set(func() { clear(b.core.subs) })
		b.core.take()
		b.after(2 * time.Second)
		b.keeper.Poke()
		b.after(0)
		b.wantCalls("forgotten", "PUT aef-1-1", "POST", "DELETE aef-1-1")
		b.wantIDs("forgotten", "aef-1-2")
		if b.gaps.Load() != 2 {
			b.Errorf("got %d gaps; want 2: what was announced meanwhile is lost", b.gaps.Load())
		}
	})
}

func TestCoreWithoutPut(t *testing.T) {
	for _, status := range []int{404, 405, 400, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			run(t, func(b *bench) {
				b.core.noPut = status
				b.start(destination)
				b.core.take()
				b.after(11 * time.Minute)
				b.wantCalls("the timer", "PUT aef-1-1", "POST", "DELETE aef-1-1")
				b.wantIDs("the timer", "aef-1-2")
				if b.gaps.Load() != 1 {
					b.Errorf("got %d gaps; want 1: the old one stood until the new one did", b.gaps.Load())
				}
			})
		})
	}
}

func TestChangedDestination(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.after(2 * time.Second)
		b.core.take()
		b.keeper.Apply(b.settings("https://aef.example/capif/events"))
		b.after(0)
		b.wantCalls("a reload", "POST", "DELETE aef-1-1")
		b.stop()
		b.start(destination)
		b.wantCalls("a restart", "POST", "DELETE aef-1-2")
		b.wantIDs("at last", "aef-1-3")
		if got := b.core.sub("aef-1-3").Destination; got != destination {
			b.Errorf("got %s; want the new destination", got)
		}
	})
}

func TestGivenUp(t *testing.T) {
	run(t, func(b *bench) {
		b.start("")
		b.after(time.Hour)
		b.wantCalls("nothing configured")
		b.keeper.Apply(b.settings(destination))
		b.after(2 * time.Second)
		b.wantIDs("configured", "aef-1-1")
		b.keeper.Apply(b.settings(""))
		b.after(2 * time.Second)
		b.wantIDs("given up")
		if st := b.keeper.Status(); st.Configured || st.Subscribed || st.ID != "" {
			b.Errorf("got %+v; want none", st)
		}
	})
}

func TestAnotherCore(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.after(2 * time.Second)
		b.core.take()
		s := b.settings(destination)
		s.CoreURL = "https://other.example"
		b.keeper.Apply(s)
		b.after(0)
		b.wantCalls("another core", "POST") // and the id of the first is not used there
	})
}

func TestStaleIsDeletedLater(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.stop()
		b.store.saved.Destination = "of an earlier configuration"
		b.core.posts = 1 // it takes the new one, and is then in trouble
		b.start(destination)
		b.wantIDs("in trouble", "aef-1-1", "aef-1-2")
		b.stop()
		b.core.set(func() { b.core.down = nil })
		b.start(destination)
		b.wantIDs("after a restart", "aef-1-2")
		if len(b.store.last().Stale) != 0 {
			b.Errorf("got %v; want nothing left to be deleted", b.store.last().Stale)
		}
	})
}

func TestRefusedEvents(t *testing.T) {
	events := Events()
	tests := map[string]struct {
		refused []string
		most    int // POSTs
	}{
		"the one that old cores lack": {events[5:], 4},
		"the first":                   {events[:1], 5},
		"one in the middle":           {events[2:3], 7},
		"two":                         {[]string{events[1], events[4]}, 9},
		"all but one":                 {events[1:], 11},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.core.unknown = tt.refused
				b.start(destination)
				b.after(0)
				posts := 0
				for _, call := range b.core.take() {
					if call == "POST" {
						posts++
					}
				}
				st := b.keeper.Status()
				if !slices.Equal(st.Refused, tt.refused) || len(st.Events)+len(st.Refused) != len(events) || !st.Subscribed {
					b.Errorf("got %+v; want %v refused", st, tt.refused)
				}
				if posts > tt.most {
					b.Errorf("got %d requests; want at most %d", posts, tt.most)
				}
				b.wantIDs("the search leaves nothing behind", st.ID)
				if got := b.core.sub(st.ID).Events; !slices.Equal(got, st.Events) {
					b.Errorf("got %v at the core; want %v", got, st.Events)
				}
				b.wantAlarm("a part is subscribed", false)
				b.after(time.Hour)
				if got := b.log.count("refuses some events"); got != 1 {
					b.Errorf("got %d lines about it; want 1", got)
				}
				b.wantIDs("an hour later", st.ID)

				b.stop()
				b.core.take()
				b.start(destination)
				b.wantCalls("a restart asks once for all", "PUT "+st.ID, "PUT "+st.ID)
				b.stop()
				b.core.set(func() { b.core.unknown = nil })
				b.start(destination)
				b.wantCalls("a newer core", "PUT "+st.ID)
				if st := b.keeper.Status(); len(st.Refused) != 0 || len(st.Events) != len(events) {
					b.Errorf("got %+v; want all events", st)
				}
			})
		})
	}
}

func TestEveryEventRefused(t *testing.T) {
	run(t, func(b *bench) {
		b.core.unknown = Events()
		b.start(destination)
		b.wantAlarm("nothing is accepted", true)
		if st := b.keeper.Status(); st.Subscribed || !strings.Contains(st.Error, "refuses every event") {
			b.Errorf("got %+v; want an error", st)
		}
		b.core.set(func() { b.core.unknown = nil })
		b.after(10 * time.Minute)
		b.wantAlarm("later", false)
	})
}

// A core that gets into trouble in the middle of the search leaves what it made,
// and nothing of it for ever.
func TestTroubleDuringTheSearch(t *testing.T) {
	run(t, func(b *bench) {
		b.core.unknown = Events()[5:]
		b.core.posts = 2
		b.start(destination)
		b.wantIDs("half of it", "aef-1-1")
		b.wantAlarm("no subscription", true)
		b.core.set(func() { b.core.down = nil })
		b.after(10 * time.Minute)
		b.wantIDs("all of it", b.keeper.Status().ID)
		b.wantAlarm("subscribed", false)
	})
}

func TestCoreInTrouble(t *testing.T) {
	for name, err := range map[string]error{"no answer": &coreclient.Error{Err: errors.New("eof")}, "503": answered(503), "401": answered(401)} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.core.down = err
				b.start(destination)
				b.wantAlarm("at the start", true)
				b.after(time.Hour)
				if n := len(b.core.take()); n < 5 || n > 60 {
					b.Errorf("got %d requests in an hour; want back-off up to 5 min", n)
				}
				if got := b.log.count("not confirmed"); got != 1 {
					b.Errorf("got %d lines; want 1", got)
				}
				b.core.set(func() { b.core.down = nil })
				b.keeper.Poke() // the core answers reads again
				b.after(2 * time.Second)
				b.wantAlarm("reachable again", false)
				id := b.keeper.Status().ID

				b.core.set(func() { b.core.down = err })
				b.after(time.Hour)
				b.wantAlarm("it had confirmed before", false)
				if st := b.keeper.Status(); !st.Subscribed || st.ID != id || st.Error == "" {
					b.Errorf("got %+v; want the subscription to stand, and the error", st)
				}
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	run(t, func(b *bench) {
		b.core.down = &coreclient.Error{Status: 503, RetryAfter: 30 * time.Minute}
		b.start(destination)
		b.core.take()
		b.after(29 * time.Minute)
		b.wantCalls("before it")
		b.after(2 * time.Minute)
		b.wantCalls("after it", "POST")
	})
}

func TestPokesAreGathered(t *testing.T) {
	run(t, func(b *bench) {
		b.start(destination)
		b.core.take()
		for range 1000 {
			b.keeper.Poke()
			b.after(10 * time.Millisecond)
		}
		if n := len(b.core.take()); n < 5 || n > 11 {
			b.Errorf("got %d requests in 10 s; want one a second", n)
		}
	})
}

func TestLedgerFails(t *testing.T) {
	run(t, func(b *bench) {
		b.store.fail(errors.New("disk"))
		b.start(destination)
		b.wantIDs("subscribed all the same", "aef-1-1")
		b.store.fail(nil)
		b.after(11 * time.Minute)
		if b.store.last().ID != "aef-1-1" {
			b.Errorf("got %+v; want it saved once the disk works", b.store.last())
		}
		b.wantIDs("one subscription", "aef-1-1")
	})
}
