package reconcile

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/revocation"
)

// record is what is known about one API invoker.
type record struct {
	invoker string
	// seen is when a call of the invoker was decided last, in Unix seconds;
	// readAt is when the last applied read began. Both are also read on the
	// hot path, without the mutex.
	seen   atomic.Int64
	readAt atomic.Int64

	mu      sync.Mutex
	known   bool // the core's word has been had, now or before the last restart
	context revocation.Context
	begun   uint64 // the clock when the last applied read began; 0 before the first
	named   uint64 // the clock at the last hint that named this invoker
	flight  *flight
	// free lets the next read change anything: an operator accepted it.
	free bool
	// pending is the change that the last read showed and that was withheld.
	pending change
	heldAt  time.Time // when that read began
	warned  bool      // a likely wrong api_id was reported
}

// flight is a read under way.
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
	at := r.readAt.Load()
	if at == 0 {
		return time.Duration(1<<63 - 1)
	}
	return now.Sub(time.Unix(0, at))
}

// records holds them all.
type records struct {
	mu sync.RWMutex
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

func (rs *records) remove(invokers []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, invoker := range invokers {
		delete(rs.m, invoker)
	}
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
		sa, sb := a.seen.Load(), b.seen.Load()
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
