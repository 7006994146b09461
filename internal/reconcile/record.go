package reconcile

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
)

// record is what is known about one API invoker.
type record struct {
	invoker string
	// times are when a call of the invoker was decided last, and when the last
	// applied read began. Both are also read on the hot path, without the mutex.
	times denycache.Times

	mu      sync.Mutex
	known   bool // the core's word has been had, now or before the last restart
	context revocation.Context
	begun   uint64 // the clock when the last applied read began; 0 before the first
	named   uint64 // the clock at the last hint that named this invoker
	flight  *flight
	// removed says that this record is no longer in the map: nothing may be
	// read or decided by it any more.
	removed bool
	// asleep says that the timer no longer reads this one, so the next call
	// waits for a read, however young the last one is.
	asleep bool
	// free, if not 0, lets reads change anything, the last of them the first
	// one begun at that clock: an operator accepted it.
	free uint64
	// pending is the change that the last read showed and that was withheld.
	pending change
	heldAt  time.Time // when that read began
	warned  bool      // a likely wrong api_id was reported
	// failedAt is when the last read failed, in Unix nanoseconds, 0 if it did
	// not; alone counts how often it failed again although the core had
	// answered about others in between.
	failedAt int64
	alone    int
	// unsaved are the words that are still to be made durable, in their order.
	unsaved []unsaved
	saving  bool
}

// unsaved is a word on its way to the ledger.
type unsaved struct {
	word revocation.Context
	// changed says that the ledger holds another word.
	changed bool
	// judged says that the word counts for claims.
	judged bool
}

// flight is a read under way. Only the goroutine that runs it looks at begun and
// at before done is closed.
type flight struct {
	begun uint64 // the clock when it began
	at    time.Time
	done  chan struct{}
	err   error // valid once done is closed
}

// answer says whether the context lists any of the APIs. Without require, only
// what was listed and no longer is counts as not listed.
func (r *record) answer(aef string, apis []string, require bool) bool {
	lists := slices.ContainsFunc(apis, func(api string) bool { return r.context.Lists(aef, api) })
	if lists || require {
		return lists
	}
	return !slices.ContainsFunc(r.context.Gone, func(e revocation.ContextEntry) bool {
		return slices.ContainsFunc(apis, func(api string) bool { return e.Covers(aef, api) })
	})
}

// age is how long ago the last applied read began.
func (r *record) age(now time.Time) time.Duration {
	at := r.times.ReadAt.Load()
	if at == 0 {
		return time.Duration(1<<63 - 1)
	}
	return now.Sub(time.Unix(0, at))
}

// records holds them all.
type records struct {
	mu sync.RWMutex // locked before a record's
	m  map[string]*record
}

func (rs *records) get(invoker string) *record {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.m[invoker]
}

// obtain returns the record of an invoker, making it if there is none, and how
// many there are.
func (rs *records) obtain(invoker string) (*record, int) {
	if r := rs.get(invoker); r != nil {
		return r, 0
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r, ok := rs.m[invoker]
	if !ok {
		r = &record{invoker: invoker}
		rs.m[invoker] = r
	}
	return r, len(rs.m)
}

// remove takes records out, unless keep says otherwise, and returns whose they
// were. Reads under way for them come to nothing.
func (rs *records) remove(invokers []string, keep func(*record) bool) []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var removed []string
	for _, invoker := range invokers {
		rec := rs.m[invoker]
		if rec == nil {
			continue
		}
		rec.mu.Lock()
		if keep == nil || !keep(rec) {
			rec.removed = true
			delete(rs.m, invoker)
			removed = append(removed, invoker)
		}
		rec.mu.Unlock()
	}
	return removed
}

// all returns the records, those seen last first.
func (rs *records) all() []*record {
	rs.mu.RLock()
	list := make([]*record, 0, len(rs.m))
	for _, r := range rs.m {
		list = append(list, r)
	}
	rs.mu.RUnlock()
	slices.SortFunc(list, func(a, b *record) int {
		sa, sb := a.times.Seen.Load(), b.times.Seen.Load()
		switch {
		case sa > sb:
			return -1
		case sa < sb:
			return 1
		default:
			return 0
		}
	})
	return list
}

func (rs *records) len() int {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return len(rs.m)
}
