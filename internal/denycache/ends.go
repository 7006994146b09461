package denycache

import (
	"container/heap"
	"sync"
	"time"
)

// ends notes when the entries of a cache end, the first to end on top. It works
// only when an entry is put in: never on a hit.
type ends struct {
	since time.Time // what at counts from, on the monotonic clock

	mu   sync.Mutex
	heap endHeap
}

// end says after what time the entry under key is of no use.
type end struct {
	at  time.Duration
	key uint64
}

// atOnce is how many entries one Put takes out at most: more than the one that
// it puts in, so that a backlog shrinks, and few enough not to be felt.
const atOnce = 4

// note adds an entry and returns the keys of some whose time is over; 0 is
// none. Beyond limit nothing is noted: such an entry leaves by ristretto's
// policy alone.
func (e *ends) note(key uint64, ttl time.Duration, limit int64) [atOnce]uint64 {
	now := time.Since(e.since)
	var over [atOnce]uint64
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range over {
		if len(e.heap) == 0 || e.heap[0].at > now {
			break
		}
		over[i] = e.heap[0].key
		e.heap[0] = e.heap[len(e.heap)-1]
		e.heap = e.heap[:len(e.heap)-1]
		if len(e.heap) > 0 {
			heap.Fix(&e.heap, 0)
		}
	}
	if int64(len(e.heap)) < limit {
		e.heap = append(e.heap, end{at: now + ttl, key: key})
		heap.Fix(&e.heap, len(e.heap)-1)
	}
	return over
}

type endHeap []end

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h endHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are not used: they would box each end.

func (h *endHeap) Push(any) { panic("not used") }
func (h *endHeap) Pop() any { panic("not used") }

var _ heap.Interface = (*endHeap)(nil)
