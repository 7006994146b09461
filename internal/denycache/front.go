package denycache

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// front holds what ristretto gave out, so that most hits reach their entry in one
// step. In ristretto it takes eight, one after the other: shard, lock, map,
// directory, table, group, control word, slot. Between two calls Caddy's own work
// has pushed all of them out of the processor's caches (ADR 0005).
//
// It decides nothing: who takes an entry from it compares it as one from ristretto.
// An entry that leaves ristretto leaves here. One that leaves while it is being put
// in can stay, until its place is taken or ristretto is asked for it.
type front struct {
	sets []set
}

// ways is how many tokens whose keys end alike have a place side by side.
const ways = 4

// set is one line of the processor's cache. An entry belongs to the key beside it,
// or, for a moment in which two are put in at once, to another: then it is not equal
// to the token asked for.
type set struct {
	keys    [ways]atomic.Uint64
	entries [ways]atomic.Pointer[Entry]
}

// newFront has at least a place for each token (of which there is one or more), and
// at most 1<<20 (16 MiB): of tokens beyond, and of those that find no place among
// ways, some are found in ristretto.
func newFront(tokens int64) *front {
	n := uint64(1) << bits.Len64(uint64(min(tokens, 1<<20)-1))
	return &front{sets: make([]set, max(1, n/ways))}
}

func (f *front) set(key uint64) *set {
	return &f.sets[key&uint64(len(f.sets)-1)]
}

// get returns the entry that was put in by the key, or nil. It may be about another
// token.
func (f *front) get(key uint64) *Entry {
	s := f.set(key)
	for i := range s.keys {
		if s.keys[i].Load() == key {
			return s.entries[i].Load()
		}
	}
	return nil
}

// keep puts in an entry that ristretto has just given out.
func (f *front) keep(key uint64, e *Entry) {
	s := f.set(key)
	i := s.place(key)
	if s.keys[i].Load() != key { // so that cores do not fight for the line
		s.keys[i].Store(key)
	}
	if s.entries[i].Load() != e {
		s.entries[i].Store(e)
	}
}

// place is the key's own, or a free one, or that of any other.
func (s *set) place(key uint64) int {
	place := int(rand.Uint32() % ways) //nolint:gosec // any will do
	for i := range s.keys {
		switch {
		case s.keys[i].Load() == key:
			return i
		case s.entries[i].Load() == nil:
			place = i
		}
	}
	return place
}

// forget takes out an entry wherever it is: two that put it in at once can have
// taken two places.
func (f *front) forget(key uint64, e *Entry) {
	s := f.set(key)
	for i := range s.entries {
		s.entries[i].CompareAndSwap(e, nil)
	}
}

// oneIn is of how many hits ristretto sees one. Which token it gives up for another
// rests on how often it was asked for each, so it must be asked for some.
const oneIn = 16

// askAll says whether this hit goes to ristretto as well.
func askAll() bool { return rand.Uint32()%oneIn == 0 } //nolint:gosec // a sample, no secret
