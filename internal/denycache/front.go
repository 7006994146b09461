package denycache

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// front holds what ristretto gave out, one entry for each slot, so that most hits
// reach their entry in one step. In ristretto it takes eight, one after the other:
// shard, lock, map, directory, table, group, control word, slot. Between two calls
// Caddy's own work has pushed all of them out of the processor's caches (ADR 0005).
//
// It decides nothing: who takes an entry from it compares it as one from ristretto.
// An entry that leaves ristretto leaves here. One that leaves while it is being put
// in can stay, until its slot is taken or ristretto is asked for it.
type front struct {
	slots []atomic.Pointer[Entry]
}

// newFront has at least a slot for each token (of which there is one or more), and at most 1<<20 (8 MiB): tokens
// beyond share slots, and are found in ristretto more often.
func newFront(tokens int64) *front {
	n := uint64(1) << bits.Len64(uint64(min(tokens, 1<<20)-1))
	return &front{slots: make([]atomic.Pointer[Entry], n)}
}

func (f *front) slot(key uint64) *atomic.Pointer[Entry] {
	return &f.slots[key&uint64(len(f.slots)-1)]
}

// keep puts in an entry that ristretto has just given out.
func (f *front) keep(key uint64, e *Entry) {
	slot := f.slot(key)
	if slot.Load() != e { // so that cores do not fight for the line
		slot.Store(e)
	}
}

// forget takes out an entry if it is there.
func (f *front) forget(key uint64, e *Entry) { f.slot(key).CompareAndSwap(e, nil) }

// oneIn is of how many hits ristretto sees one. Which token it gives up for another
// rests on how often it was asked for each, so it must be asked for some.
const oneIn = 16

// askAll says whether this hit goes to ristretto as well.
func askAll() bool { return rand.Uint32()%oneIn == 0 } //nolint:gosec // a sample, no secret
