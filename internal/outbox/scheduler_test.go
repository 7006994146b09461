package outbox

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// While the core does not decide: read again before sending again, later and
// later, not all at the same time.
func TestBackOffGrowsWithJitter(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		const invokers, tries = 6, 6
		c.answer(unavailable(0))
		for i := range invokers {
			name := fmt.Sprint("inv-", i)
			c.lists(name, "api-1")
			b.ask(t, name, "api-1")
		}
		pass(10 * time.Minute)
		gaps := map[time.Duration]bool{}
		for i := range invokers {
			var ops []string
			var at []time.Time
			for _, k := range c.asked("") {
				if k.invoker == fmt.Sprint("inv-", i) {
					ops = append(ops, k.op)
					at = append(at, k.at)
				}
			}
			if len(ops) < 2*tries {
				t.Fatalf("got %d calls within 10 min; want at least %d", len(ops), 2*tries)
			}
			for n := range tries {
				if ops[2*n] != "read" || ops[2*n+1] != "revoke" {
					t.Errorf("try %d: got %v; want a read, then a revoke", n, ops[2*n:2*n+2])
				}
				if n == 0 {
					continue
				}
				gap, step := at[2*n].Sub(at[2*n-2]), firstDelay<<(n-1)
				if gap < step/2 || gap > step*3/2 {
					t.Errorf("try %d: got it %v after the one before; want about %v", n, gap, step)
				}
				gaps[gap] = true
			}
		}
		if len(gaps) < invokers*(tries-1)/2 {
			t.Errorf("got %d different gaps; want jitter", len(gaps))
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, op := range []string{"read", "revoke"} {
		t.Run(op, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
				c.lists("inv-1", "api-1")
				c.answer(func(k call) (bool, error) {
					if k.op == op {
						return false, &coreclient.Error{Op: k.op, Status: 429, RetryAfter: 90 * time.Second}
					}
					return true, nil
				})
				r := b.ask(t, "inv-1", "api-1")[0]
				synctest.Wait()
				c.answer(nil)
				n := len(c.asked(""))
				pass(90*time.Second - time.Millisecond)
				if got := len(c.asked("")); got != n {
					t.Errorf("got %d calls before the core was ready; want none", got-n)
				}
				b.want(t, r, revocation.StatePending)
				pass(2 * time.Millisecond)
				b.want(t, r, revocation.StateRevoked)
			})
		})
	}
}

// The back-off, the number of tries and what was sent are durable.
func TestRestartGoesOnWhereItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		c := newSlowCore()
		c.lists("inv-1", "api-1")
		c.answer(unavailable(10 * time.Minute))
		b := startBed(t, path, c, revocation.Options{})
		r := b.ask(t, "inv-1", "api-1")[0]
		synctest.Wait()
		before := b.want(t, r, revocation.StatePending)
		if !before.Listed || !before.Sent || before.Attempts != 1 {
			t.Errorf("got %+v; want it listed, sent, tried once", before)
		}
		b.stop()
		pass(time.Minute)

		b = startBed(t, path, c, revocation.Options{MustExist: true})
		pass(9*time.Minute - time.Second)
		if got := len(c.asked("")); got != 2 {
			t.Errorf("got %d calls before the back-off ended; want the 2 of before", got)
		}
		c.lists("inv-1") // it had been executed
		pass(2 * time.Second)
		after := b.want(t, r, revocation.StateRevoked)
		if got := len(c.asked("revoke")); got != 1 || !after.Listed || !after.Sent {
			t.Errorf("got %d requests, %+v; want the one of before, still listed and sent", got, after)
		}
	})
}

func TestExchangesAtOnceAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		const invokers = 3*Workers + 1
		c.latency = time.Second
		var all []revocation.Revocation
		for i := range invokers {
			name := fmt.Sprint("inv-", i)
			c.lists(name, "api-1")
			all = append(all, b.ask(t, name, "api-1")...)
		}
		pass(time.Minute)
		for _, r := range all {
			b.want(t, r, revocation.StateRevoked)
		}
		if c.mostAt != Workers {
			t.Errorf("got up to %d calls at once; want %d", c.mostAt, Workers)
		}
		if got := b.outbox.Depth(); got != 0 {
			t.Errorf("got depth %d; want 0", got)
		}
	})
}

func TestOneExchangeAtATimeForAnInvoker(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		apis := []string{"api-1", "api-2", "api-3", "api-4", "api-5"}
		c.latency = time.Second
		c.lists("inv-1", apis...)
		c.lists("inv-2", "api-1")
		all := b.ask(t, "inv-1", apis...)
		other := b.ask(t, "inv-2", "api-1")[0]
		pass(3*time.Second + time.Millisecond)
		b.want(t, other, revocation.StateRevoked) // it does not wait for the others
		pass(time.Minute)
		for _, r := range all {
			b.want(t, r, revocation.StateRevoked)
		}
		if c.mostSame != 1 || c.mostAt != 2 {
			t.Errorf("got up to %d calls at once for an invoker and %d in all; want 1 and 2", c.mostSame, c.mostAt)
		}
		// No exchange begins before the one before it has ended.
		ops := ""
		for _, k := range c.asked("") {
			if k.invoker == "inv-1" {
				ops += k.op[:3] + " "
			}
		}
		if want := "rea rev rea rea rev rea rea rev rea rea rev rea rea rev rea "; ops != want {
			t.Errorf("got %q; want %q", ops, want)
		}
	})
}

// One API is in back-off; a trigger for another API of the invoker is sent at once.
func TestSchedule28NoneWaitsBehindABackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.lists("inv-1", "api-1", "api-2")
		c.answer(func(k call) (bool, error) {
			if k.api == "api-1" {
				return false, &coreclient.Error{Op: k.op, Status: 503, RetryAfter: 30 * time.Minute}
			}
			return true, nil
		})
		first := b.ask(t, "inv-1", "api-1")[0]
		pass(time.Minute)
		b.want(t, first, revocation.StatePending)
		begun := time.Now()
		second := b.ask(t, "inv-1", "api-2")[0]
		synctest.Wait()
		b.want(t, second, revocation.StateRevoked)
		if got := time.Since(begun); got != 0 {
			t.Errorf("got it after %v; want at once", got)
		}
		b.want(t, first, revocation.StatePending)
		c.answer(nil)
		pass(30 * time.Minute)
		b.want(t, first, revocation.StateRevoked)
	})
}

func TestStopWithAHangingCore(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.latency = 1000 * time.Hour
		var all []revocation.Revocation
		for i := range 2 * Workers {
			all = append(all, b.ask(t, fmt.Sprint("inv-", i), "api-1")...)
		}
		synctest.Wait()
		if c.now != Workers {
			t.Fatalf("got %d calls hanging; want %d", c.now, Workers)
		}
		begun := time.Now()
		b.outbox.Stop()
		if got := time.Since(begun); got != 0 {
			t.Errorf("got Stop after %v; want at once", got)
		}
		for _, r := range all {
			b.want(t, r, revocation.StatePending)
		}
		b.outbox.Stop() // idempotent
	})
}

// A new configuration may have mended what was wrong.
func TestApplyEndsBackOffs(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.lists("inv-1", "api-1")
		c.answer(unavailable(time.Hour))
		r := b.ask(t, "inv-1", "api-1")[0]
		pass(time.Minute)
		b.want(t, r, revocation.StatePending)
		mended := newSlowCore()
		mended.lists("inv-1", "api-1")
		b.apply(mended)
		synctest.Wait()
		b.want(t, r, revocation.StateRevoked)
		if got, want := len(c.asked("revoke")), 1; got != want {
			t.Errorf("got %d requests to the old core; want %d", got, want)
		}
	})
}

// An exchange in flight ends with the old settings and is then tried at once
// with the new ones: never two of them for an invoker.
func TestApplyHurriesWhatIsInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.lists("inv-1", "api-1")
		c.latency = 10 * time.Second // of a read, then of the request
		c.answer(unavailable(time.Hour))
		r := b.ask(t, "inv-1", "api-1")[0]
		pass(15 * time.Second)
		if got := len(c.asked("revoke")); got != 1 {
			t.Fatalf("got %d requests; want one in flight", got)
		}
		mended := newSlowCore()
		mended.lists("inv-1", "api-1")
		b.apply(mended)
		pass(4 * time.Second)
		if got := len(mended.asked("")); got != 0 {
			t.Errorf("got %d calls while the old exchange is in flight; want none", got)
		}
		pass(2 * time.Second)
		b.want(t, r, revocation.StateRevoked)
		if got := len(mended.asked("revoke")); got != 1 {
			t.Errorf("got %d requests to the new core; want 1", got)
		}
	})
}

// Nothing leaves before `listed, sent` is on disk.
func TestNoRequestOnAFailingDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		c := newSlowCore()
		c.latency = time.Second
		c.lists("inv-1", "api-1")
		b := startBed(t, path, c, revocation.Options{WrapCommit: func(commit func() error) error {
			if broken.Load() {
				return errors.New("input/output error (made up by a test)")
			}
			return commit()
		}})
		r := b.ask(t, "inv-1", "api-1")[0]
		broken.Store(true) // while the first read is in flight
		pass(time.Minute)
		if got := len(c.asked("revoke")); got != 0 || len(c.asked("read")) < 2 {
			t.Errorf("got %d requests and %d reads; want none, and reads again and again", got, len(c.asked("read")))
		}
		broken.Store(false)
		pass(time.Minute)
		b.want(t, r, revocation.StateRevoked)
	})
}

// A lift while in back-off: nothing is asked any more.
func TestLiftInBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.lists("inv-1", "api-1")
		c.answer(unavailable(time.Minute))
		r := b.ask(t, "inv-1", "api-1")[0]
		pass(time.Second)
		_, err := b.ledger.Lift(t.Context(), revocation.Lift{Invoker: "inv-1"})
		if err != nil {
			t.Fatal(err)
		}
		n := len(c.asked(""))
		pass(time.Hour)
		b.want(t, r, revocation.StateCancelled)
		if got := len(c.asked("")); got != n || b.outbox.Depth() != 0 {
			t.Errorf("got %d more calls, depth %d; want none and 0", got-n, b.outbox.Depth())
		}
	})
}

// A lift while the first of several requests is in flight: the second does not begin.
func TestLiftBetweenTwoRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.latency = time.Second
		c.lists("inv-1", "api-1", "api-2")
		r := b.ask(t, "inv-1")[0]
		pass(1500 * time.Millisecond)
		_, err := b.ledger.Lift(t.Context(), revocation.Lift{Invoker: "inv-1"})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		b.want(t, r, revocation.StateCancelled)
		if got := c.asked("revoke"); len(got) != 1 || got[0].api != "api-1" {
			t.Errorf("got %v; want the one request that was in flight", got)
		}
	})
}

// All APIs: one that the core refuses as wrong keeps none of the others from being asked for.
func TestAllAPIsWithOneRejected(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.lists("inv-1", "api-1", "api-2", "api-3")
		c.answer(func(k call) (bool, error) {
			if k.api == "api-1" {
				return false, &coreclient.Error{Op: k.op, Status: 400, Reason: "unknown api"}
			}
			return true, nil
		})
		r := b.ask(t, "inv-1")[0]
		pass(time.Second)
		got := b.want(t, r, revocation.StateRejected)
		if left := c.contexts["inv-1"]; len(left) != 1 || left[0] != "api-1" {
			t.Errorf("got %v left at the core; want the one it would not take", left)
		}
		if len(got.Answers) == 0 || got.Answers[len(got.Answers)-1].Detail != "unknown api" {
			t.Errorf("got answers %+v; want the core's reason", got.Answers)
		}
	})
}

// The alarm that the core refuses us ends with the first decision, whatever it is.
func TestAlarmEndsWithADecision(t *testing.T) {
	for name, test := range map[string]struct {
		status   int
		executed bool
		want     revocation.State
		alarms   int
	}{
		"revoked":     {0, true, revocation.StateRevoked, 0},
		"rejected":    {400, false, revocation.StateRejected, 0},
		"unconfirmed": {0, false, revocation.StateUnconfirmed, 1}, // its own
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
				c.lists("inv-1", "api-1")
				c.answer(func(k call) (bool, error) { return false, &coreclient.Error{Op: k.op, Status: 403} })
				r := b.ask(t, "inv-1", "api-1")[0]
				synctest.Wait()
				if got := b.alarms.List(); len(got) != 1 || got[0].Name != alarm.CoreRefusesUs {
					t.Fatalf("got alarms %+v; want %v", got, alarm.CoreRefusesUs)
				}
				c.answer(func(k call) (bool, error) {
					if k.op == "revoke" && test.status != 0 {
						return false, &coreclient.Error{Op: k.op, Status: test.status}
					}
					return test.executed, nil
				})
				pass(time.Minute)
				b.want(t, r, test.want)
				if got := b.alarms.List(); len(got) != test.alarms {
					t.Errorf("got alarms %+v; want %d", got, test.alarms)
				}
			})
		})
	}
}

// A trigger equal to a pending one, and a second Add, make no second exchange.
func TestQueuedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		c.latency = time.Second
		c.lists("inv-1", "api-1")
		r := b.ask(t, "inv-1", "api-1")[0]
		for range 5 {
			if again := b.ask(t, "inv-1", "api-1")[0]; again.ID != r.ID {
				t.Errorf("got %s; want %s", again.ID, r.ID)
			}
			b.outbox.Add(revocation.PendingRef{Sequence: r.Sequence, Invoker: "inv-1", Due: time.Now()})
		}
		pass(time.Minute)
		b.want(t, r, revocation.StateRevoked)
		if got := len(c.asked("")); got != 3 {
			t.Errorf("got %d calls; want a read, a request, a read", got)
		}
	})
}

// damagedLedger cannot read one record.
type damagedLedger struct {
	*revocation.Ledger
	sequence atomic.Uint64
	reads    atomic.Int64
}

func (l *damagedLedger) RevocationBySequence(sequence uint64) (revocation.Revocation, error) {
	if sequence != l.sequence.Load() {
		return l.Ledger.RevocationBySequence(sequence)
	}
	l.reads.Add(1)
	return revocation.Revocation{}, fmt.Errorf("revocation %d: %w", sequence, revocation.ErrDamaged)
}

// A record that cannot be read is tried less and less often, under one alarm,
// keeps no other waiting, and goes on once it can be read.
func TestDamagedRecordBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		l := &damagedLedger{Ledger: b.ledger}
		b.outbox.Stop()
		b.outbox = New(l, b.alarms)
		var lines lineCounter
		b.outbox.Apply(&Settings{Core: c, Logger: slog.New(slog.NewTextHandler(&lines, nil)), APIs: func(string) []string { return nil }})
		err := b.ledger.SetQueue(nothing{})
		if err != nil {
			t.Fatal(err)
		}
		c.lists("inv-1", "api-1", "api-2")
		bad := b.ask(t, "inv-1", "api-1")[0]
		l.sequence.Store(bad.Sequence)
		b.outbox.Start()
		defer b.outbox.Stop()
		b.outbox.Add(revocation.PendingRef{Sequence: bad.Sequence, Invoker: "inv-1"})
		pass(time.Hour)
		if got := l.reads.Load(); got < 10 || got > 40 {
			t.Errorf("got %d tries within an hour; want 10 to 40", got)
		}
		if a := b.alarms.List(); len(a) != 1 || a[0].Name != alarm.LedgerDamaged || lines.Load() != 1 {
			t.Errorf("got alarms %+v in %d lines; want %v once", a, lines.Load(), alarm.LedgerDamaged)
		}
		other := b.ask(t, "inv-1", "api-2")[0]
		b.outbox.Add(revocation.PendingRef{Sequence: other.Sequence, Invoker: "inv-1"})
		synctest.Wait()
		b.want(t, other, revocation.StateRevoked)
		l.sequence.Store(0)
		pass(10 * time.Minute)
		b.want(t, bad, revocation.StateRevoked)
	})
}

// One that was lifted meanwhile is waited for by nobody.
func TestDamagedRecordThatIsNotPending(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed, c *slowCore) {
		l := &damagedLedger{Ledger: b.ledger}
		r := b.ask(t, "inv-1", "api-1")[0]
		synctest.Wait() // decided
		l.sequence.Store(r.Sequence)
		o := New(l, b.alarms)
		o.Apply(&Settings{Core: c, Logger: slog.New(slog.DiscardHandler), APIs: func(string) []string { return nil }})
		o.Start()
		defer o.Stop()
		o.Add(revocation.PendingRef{Sequence: r.Sequence, Invoker: "inv-1"})
		pass(time.Hour)
		if got := l.reads.Load(); got != 1 || o.Depth() != 0 {
			t.Errorf("got %d tries, depth %d; want one, and nothing left", got, o.Depth())
		}
	})
}

// lineCounter counts what is logged.
type lineCounter struct{ atomic.Int64 }

func (c *lineCounter) Write(p []byte) (int, error) {
	c.Add(1)
	return len(p), nil
}

// nothing queues nothing.
type nothing struct{}

func (nothing) Add(revocation.PendingRef) {}
