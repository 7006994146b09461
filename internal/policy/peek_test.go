package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// TestPeekIsTheNextAdmit: over random policies, times, lifts, restarts and a store
// that fails to read, what Peek says is what the next call gets, however often it
// is asked, and asking changes nothing.
func TestPeekIsTheNextAdmit(t *testing.T) { synctest.Test(t, peekIsAdmit) }

func peekIsAdmit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	store := &memory{counts: make(map[revocation.CountRef]revocation.Count)}
	other := Pair{AEF: api.AEF, API: "other"}
	began := time.Now()
	seen := map[enforce.Reason]int{}
	rule := func() *Rule {
		r := &Rule{}
		if random.IntN(2) == 0 {
			r.Total = number(random.Int64N(60))
		}
		if random.IntN(2) == 0 {
			r.PerSecond = number(random.Int64N(4))
		}
		for range random.IntN(3) {
			start := time.Duration(random.IntN(200)) * time.Second
			r.Ranges = append(r.Ranges, Range{Start: time.Now().Add(-start), Stop: time.Now().Add(start + time.Second)})
		}
		return r
	}
	source := func() Source {
		return Source{Rules: &Rules{All: rule(), Single: map[string]*Rule{"inv 1": rule(), "inv 2": nil}}}
	}
	var table *Table
	settings := func() *Settings {
		s := &Settings{Core: &core{err: errors.New("down")}, Interval: time.Hour, Logger: quiet, Pairs: map[Pair]Source{api: source(), other: source()}}
		if random.IntN(8) == 0 {
			s.Pairs[other] = Source{} // the core's, which is down
		}
		return s
	}
	var gates []*Gate
	start := func() {
		table = New(store, new(alarm.Set))
		table.Apply(settings())
		table.Start()
		gates = []*Gate{
			table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}}),
			table.Gate(GateOptions{AEF: api.AEF, APIs: []string{other.API, api.API}}),
			table.Gate(GateOptions{AEF: api.AEF, APIs: []string{other.API}, Required: true}),
		}
	}
	start()
	t.Cleanup(func() { _ = table.Stop(context.Background()) }) // says what a failing store refused
	for range 20_000 {
		invoker := fmt.Sprint("inv ", random.IntN(4))
		switch random.IntN(40) {
		case 0:
			table.Apply(settings())
		case 1:
			refs := []revocation.CountRef{{Invoker: invoker, AEF: api.AEF, API: api.API}, {Invoker: invoker, AEF: api.AEF, API: other.API}}
			table.Lifted(store.lift(refs...))
		case 2:
			_ = table.Stop(t.Context()) // says what a failing store refused
			start()
		case 3:
			store.fail(errors.New("disk"))
		case 4, 5, 6, 7, 8, 9:
			<-time.After(time.Duration(random.IntN(700)) * time.Millisecond) // no real time passes
		}
		if random.IntN(3) == 0 {
			store.fail(nil)
		}
		synctest.Wait()
		gate := gates[random.IntN(len(gates))]
		accounts := table.Stats().Accounts
		now := time.Now() // once: both may wait for the core
		got, why := gate.Peek(t.Context(), invoker, now)
		for range random.IntN(3) {
			again, _ := gate.Peek(t.Context(), invoker, now)
			if again != got {
				t.Fatalf("asked again: got %v; want %v", again, got)
			}
		}
		if after := table.Stats().Accounts; after != accounts || why == "" {
			t.Fatalf("got %d accounts and %q; want %d as before, and a reason", after, why, accounts)
		}
		want := gate.Admit(t.Context(), gate.Grant(invoker), now, true)
		synctest.Wait()
		if store.failing() && want == enforce.PolicyUnavailable {
			continue // what it cannot know
		}
		if got != want {
			t.Fatalf("%s after %s: got %v (%s); want %v", invoker, time.Since(began), got, why, want)
		}
		seen[got]++
	}
	for _, reason := range []enforce.Reason{enforce.Allowed, enforce.OutsideTimeRange, enforce.OverRate, enforce.OverLimit, enforce.PolicyUnavailable} {
		if seen[reason] < 20 {
			t.Errorf("got %d of %v; want each reason often (%v)", seen[reason], reason, seen)
		}
	}
}
