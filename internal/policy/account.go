package policy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

const (
	// reserveWait is how long a call waits for a block to be reserved.
	reserveWait = 2 * time.Second
	// storeTimeout bounds one change of the ledger.
	storeTimeout = 10 * time.Second
	// offerAgain is how long a trigger that was not taken is left alone.
	offerAgain = time.Minute
	// frozen stands for used when no call may pass any more.
	frozen = noTotal
)

// account is what one API invoker has used at one API.
//
// What every call needs stands first, close together: with many API invokers the
// cost of a call is waiting for memory.
type account struct {
	grant Grant // of a gate with one API
	terms atomic.Pointer[terms]

	// Of the total: a call passes by raising used by one, up to reserved, which
	// the ledger has. A crash counts all that is reserved as used.
	used, reserved atomic.Int64
	loaded         atomic.Bool // used and reserved come from the ledger
	ahead          atomic.Bool // a block is being reserved in the background
	noted          atomic.Bool // the ledger knows that the total is used up
	asked          atomic.Bool // a revocation was asked for
	limiter        rate.Limiter

	pair    *pair
	invoker string
	offered atomic.Int64
	looked  atomic.Int64 // when the ledger was last asked whether the count still stands
	rated   bool         // limiter is in use; guarded by the pair's shard

	mu         sync.Mutex
	flight     *flight       // the one change of the ledger on its way
	next       func(*flight) // comes after it, nil for nothing
	generation uint64        // of the count in the ledger
	resets     uint64        // lifts since the start: a flight begun before one is void
	frozen     bool

	// To 256 bytes: Go aligns objects of this size to cache lines.
	_ [accountPadding]byte
}

const accountPadding = 24

// flight is one change of the ledger that calls may wait for.
type flight struct {
	done   chan struct{}
	err    error
	resets uint64
}

var (
	errStopped = errors.New("the policy is stopped")
	// errBegunAnew ends a flight that began before a lift: its calls try again.
	errBegunAnew = errors.New("the count of calls was begun anew")
)

// newAccount makes one under the terms t.
func newAccount(p *pair, invoker string, t *terms) *account {
	a := &account{pair: p, invoker: invoker}
	a.grant.one = a
	a.set(t)
	return a
}

// set puts other terms in force. The bucket of the rate goes on, so that replacing
// a policy does not fill it.
func (a *account) set(t *terms) {
	if t != nil && t.perSecond != noRate {
		var at time.Time // a bucket that has not been used since then is full
		if a.rated {
			at = time.Now()
		}
		a.rated = true
		a.limiter.SetLimitAt(at, rate.Limit(t.perSecond))
		a.limiter.SetBurstAt(at, t.perSecond)
	}
	a.terms.Store(t)
}

// admit is all but the total: nothing here can wait.
func (a *account) admit(t *terms, now time.Time) enforce.Reason {
	if t.spans != nil && !t.inTime(now.UnixNano()) {
		return enforce.OutsideTimeRange
	}
	if t.perSecond != noRate && !a.limiter.AllowN(now, 1) {
		return enforce.OverRate
	}
	return enforce.Allowed
}

// usedUp says whether no call can pass any more, as far as memory knows.
func (a *account) usedUp(t *terms) bool {
	used := a.used.Load()
	return used >= t.total && used != frozen && a.loaded.Load()
}

// count takes one call of what is reserved; false if nothing is left of it.
func (a *account) count(t *terms) bool {
	for {
		used, reserved := a.used.Load(), a.reserved.Load()
		if used >= min(reserved, t.total) {
			return false
		}
		if !a.used.CompareAndSwap(used, used+1) {
			continue
		}
		if reserved-used-1 <= t.block/2 && reserved < t.total && !a.ahead.Load() && !a.ahead.Swap(true) {
			a.begin(func(f *flight) { a.reserve(f, t) })
		}
		return true
	}
}

// countWaiting is count where the block is used up: it waits until the ledger
// has the next one.
func (a *account) countWaiting(ctx context.Context, t *terms) enforce.Reason {
	var timeout <-chan time.Time
	for {
		if a.usedUp(t) {
			return enforce.OverLimit
		}
		f := a.begin(func(f *flight) { a.reserve(f, t) })
		if timeout == nil {
			timer := time.NewTimer(reserveWait)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return enforce.PolicyUnavailable
		case <-timeout:
			return enforce.PolicyUnavailable
		}
		if f.err != nil && !errors.Is(f.err, errBegunAnew) {
			return enforce.PolicyUnavailable
		}
		if a.count(t) {
			return enforce.Allowed
		}
	}
}

// begin starts a change of the ledger, or returns the one on its way.
func (a *account) begin(change func(*flight)) *flight {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flight != nil {
		return a.flight
	}
	return a.beginLocked(change)
}

// queue starts a change of the ledger, after the one on its way.
func (a *account) queue(change func(*flight)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flight != nil {
		a.next = change
		return
	}
	a.beginLocked(change)
}

func (a *account) beginLocked(change func(*flight)) *flight {
	f := &flight{done: make(chan struct{}), resets: a.resets}
	if a.frozen || !a.pair.table.work(func() {
		change(f)
		a.mu.Lock()
		defer a.mu.Unlock()
		close(f.done)
		a.flight = nil
		a.ahead.Store(false)
		if next := a.next; next != nil {
			a.next = nil
			a.beginLocked(next)
		}
	}) {
		f.err = errStopped
		close(f.done)
		return f
	}
	a.flight = f
	return f
}

// reserve makes the next block durable.
func (a *account) reserve(f *flight, t *terms) {
	f.err = a.load(f)
	if f.err != nil {
		return
	}
	used, reserved := a.used.Load(), a.reserved.Load()
	want := min(used+t.block, t.total)
	if used >= t.total || want <= reserved {
		return // used up, or reserved already
	}
	f.err = a.save(f, revocation.Count{Reserved: want})
	if f.err == nil {
		a.setNoted(false) // the total was raised if it was used up before
		a.asked.Store(false)
	}
}

// load takes over what the ledger has. Whatever was reserved before a crash
// counts as used.
func (a *account) load(f *flight) error {
	if a.loaded.Load() {
		return nil
	}
	c, err := a.pair.table.store.Count(a.ref())
	if err != nil {
		a.pair.table.warn(a, err)
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.resets != f.resets {
		return errBegunAnew
	}
	a.generation = c.Generation
	a.used.Store(c.Reserved)
	a.reserved.Store(c.Reserved)
	a.setNoted(c.Exhausted)
	a.loaded.Store(true)
	return nil
}

// save makes c durable in the place of what the ledger has, and lets calls pass
// on it. It fails if the count began anew meanwhile.
func (a *account) save(f *flight, c revocation.Count) error {
	a.mu.Lock()
	c.Generation = a.generation
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	stored, err := a.pair.table.store.Reserve(ctx, a.ref(), c)
	if err != nil {
		a.pair.table.warn(a, err)
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if stored != c && a.resets == f.resets {
		a.resetLocked() // a lift that this table is only about to hear of
	}
	if a.resets != f.resets {
		return errBegunAnew
	}
	a.reserved.Store(c.Reserved)
	return nil
}

// exceeded notes that a call was refused because the total is used up, and asks
// for a revocation, once until a lift or a higher total. A later call tries
// again what failed.
func (a *account) exceeded(now time.Time, o offer) {
	if a.noted.Load() && !a.offers(now, o) && now.UnixNano()-a.looked.Load() < int64(offerAgain) {
		return
	}
	a.queue(func(f *flight) { a.note(f, now, o) })
}

// offers says whether it is time to ask for a revocation.
func (a *account) offers(now time.Time, o offer) bool {
	return o.trigger != nil && !a.asked.Load() && now.UnixNano()-a.offered.Load() >= int64(offerAgain)
}

func (a *account) note(f *flight, now time.Time, o offer) {
	t := a.terms.Load()
	if t == nil || !a.usedUp(t) {
		return // lifted meanwhile, or the total was raised
	}
	a.looked.Store(now.UnixNano())
	if a.noted.Load() {
		if !a.stands() {
			return
		}
	} else {
		f.err = a.save(f, revocation.Count{Reserved: a.reserved.Load(), Exhausted: true})
		if f.err != nil {
			return
		}
		a.setNoted(true)
		a.pair.table.log().Info("total of calls used up", "api_invoker_id", a.invoker, "aef_id", a.pair.id.AEF, "api_id", a.pair.id.API, "total", t.total)
	}
	if !a.offers(now, o) {
		return
	}
	a.offered.Store(now.UnixNano())
	taken := o.trigger.TriggerOverlimit(a.pair.table.ctx, Overlimit{
		Invoker: a.invoker, AEF: a.pair.id.AEF, API: a.pair.id.API, Total: t.total, Bound: o.bound,
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.resets == f.resets {
		a.asked.Store(taken)
	}
}

// stands says whether the count is still the one of the ledger. If a lift has begun
// it anew and nobody has told this table, it is loaded again: else the API invoker
// would be refused until a restart, or revoked again for what was lifted.
func (a *account) stands() bool {
	c, err := a.pair.table.store.Count(a.ref())
	if err != nil {
		a.pair.table.warn(a, err)
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Generation == a.generation {
		return true
	}
	a.resetLocked()
	return false
}

// reset begins the count anew, after the ledger has.
func (a *account) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resetLocked()
}

func (a *account) resetLocked() {
	a.resets++
	a.loaded.Store(false)
	a.reserved.Store(0) // until it is loaded again
	a.setNoted(false)
	a.asked.Store(false)
	a.offered.Store(0)
}

// freeze lets no call pass any more and gives back to the ledger what was
// reserved and not used.
func (a *account) freeze(ctx context.Context) error {
	a.mu.Lock()
	a.frozen = true
	used := a.used.Swap(frozen) // a call that has read the old value fails to take it
	reserved, generation, loaded := a.reserved.Load(), a.generation, a.loaded.Load()
	a.mu.Unlock()
	if !loaded || used >= reserved {
		return nil
	}
	_, err := a.pair.table.store.Reserve(ctx, a.ref(), revocation.Count{Reserved: used, Generation: generation, Exhausted: a.noted.Load()})
	return err
}

func (a *account) ref() revocation.CountRef {
	return revocation.CountRef{Invoker: a.invoker, AEF: a.pair.id.AEF, API: a.pair.id.API}
}

func (a *account) setNoted(noted bool) {
	if a.noted.Swap(noted) == noted {
		return
	}
	if noted {
		a.pair.table.stats.exhausted.Add(1)
	} else {
		a.pair.table.stats.exhausted.Add(-1)
	}
}
