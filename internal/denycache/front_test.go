package denycache

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"testing"
	"time"
	"unsafe"
)

// held counts the entries in front that ristretto no longer has.
func held(c *Cache) int {
	n := 0
	for i := range c.front.sets {
		for j := range c.front.sets[i].entries {
			e := c.front.sets[i].entries[j].Load()
			if e == nil {
				continue
			}
			if got, _ := c.store.Get(keyOf(c.seed, e.Token, &e.Route)); got != e {
				n++
			}
		}
	}
	return n
}

func TestWhatLeavesRistrettoLeavesTheFront(t *testing.T) {
	c := newCache(t, 16)
	for i := range 1000 {
		e := entry(fmt.Sprintf("token %028d", i), 1, 1)
		c.Put(e, time.Hour)
		c.store.Wait()
		get(c, e)
	}
	c.store.Wait()
	if n := held(c); n != 0 {
		t.Errorf("got %d entries in front that ristretto gave up; want none", n)
	}
}

func TestFrontGivesOutNoEntryOfAnotherKeySet(t *testing.T) {
	c := newCache(t, 16)
	e := entry("token", 1, 1)
	put(t, c, e)
	for range 100 {
		if got := c.Get(e.Token, &e.Route, ID{2}); got != nil {
			t.Fatalf("got %v; want nil: the key set is another", got)
		}
		if got := get(c, e); got != e {
			t.Fatalf("got %v; want the entry", got)
		}
	}
}

// TestHitsStillAskRistretto has an entry in front that left ristretto while it was
// put in. Were no hit to ask ristretto, the entry would stay for good, and ristretto
// would take tokens in use for cold ones.
func TestHitsStillAskRistretto(t *testing.T) {
	c := newCache(t, 16)
	e := entry("token", 1, 1)
	key := keyOf(c.seed, e.Token, &e.Route)
	c.front.keep(key, e)
	hits := 0
	for get(c, e) == e {
		hits++
		if hits > 1000*oneIn {
			t.Fatalf("got %d hits; want ristretto asked long before, one time in %d", hits, oneIn)
		}
	}
	if c.front.get(key) != nil {
		t.Error("got the entry still in front; want it gone: ristretto does not have it")
	}
}

// keyIn returns the n-th key of a set.
func keyIn(f *front, set, n int) uint64 { return uint64(set) + uint64(n+1)*uint64(len(f.sets)) }

func TestFront(t *testing.T) {
	a, b := entry("a", 1, 1), entry("b", 1, 1)
	for _, tt := range []struct {
		name string
		do   func(f *front, key uint64)
		want *Entry
	}{
		{"nothing", func(*front, uint64) {}, nil},
		{"kept", func(f *front, key uint64) { f.keep(key, a) }, a},
		{"kept twice", func(f *front, key uint64) { f.keep(key, a); f.keep(key, a) }, a},
		{"replaced by another of the same key", func(f *front, key uint64) { f.keep(key, a); f.keep(key, b) }, b},
		{"forgotten", func(f *front, key uint64) { f.keep(key, a); f.forget(key, a) }, nil},
		{"another is forgotten", func(f *front, key uint64) { f.keep(key, a); f.forget(key, b) }, a},
		{"forgotten in both places", func(f *front, key uint64) {
			f.keep(key, a)
			s := f.set(key) // as two that put it in at once leave it
			s.keys[1].Store(key)
			s.entries[1].Store(a)
			s.keys[0].Store(key)
			s.entries[0].Store(a)
			f.forget(key, a)
		}, nil},
		{"as many as there are ways", func(f *front, key uint64) {
			f.keep(key, a)
			for n := 1; n < ways; n++ {
				f.keep(keyIn(f, 3, n), b)
			}
		}, a},
		{"a place that got free is taken first", func(f *front, key uint64) {
			f.keep(key, a)
			for n := 1; n < ways; n++ {
				f.keep(keyIn(f, 3, n), b)
			}
			for n := ways; n < 10*ways; n++ {
				f.forget(keyIn(f, 3, n-1), b)
				f.keep(keyIn(f, 3, n), b)
			}
		}, a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFront(64)
			key := keyIn(f, 3, 0)
			tt.do(f, key)
			if got := f.get(key); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
			places, want := 0, 0
			for i := range f.set(key).entries {
				if f.set(key).entries[i].Load() == a {
					places++
				}
			}
			if tt.want == a {
				want = 1
			}
			if places != want {
				t.Errorf("got the entry in %d places; want it in %d", places, want)
			}
		})
	}
}

// TestFrontTakesALine holds that a look at the table reads one line of the
// processor's cache, and that the table is as large as its doc says.
func TestFrontTakesALine(t *testing.T) {
	if got := unsafe.Sizeof(set{}); strconv.IntSize == 64 && got != 64 {
		t.Errorf("got a set of %d bytes; want 64", got)
	}
	for _, tt := range []struct{ tokens, places int64 }{{1, ways}, {3, ways}, {5, 8}, {100_000, 1 << 17}, {1 << 20, 1 << 20}, {1 << 40, 1 << 20}} {
		f := newFront(tt.tokens)
		if got := int64(len(f.sets)) * ways; got != tt.places {
			t.Errorf("%d tokens: got %d places; want %d", tt.tokens, got, tt.places)
		}
	}
}

// TestFullCacheIsMostlyFoundInFront fills the table as a full cache does: few of the
// tokens may find no place.
func TestFullCacheIsMostlyFoundInFront(t *testing.T) {
	const tokens = 100_000
	f := newFront(tokens)
	seed := maphash.MakeSeed()
	keys := make([]uint64, tokens)
	for i := range keys {
		e := entry(fmt.Sprintf("token %028d", i), 1, 1)
		keys[i] = keyOf(seed, e.Token, &e.Route)
		f.keep(keys[i], e)
	}
	missed := 0
	for _, key := range keys {
		if f.get(key) == nil {
			missed++
		}
	}
	if missed > tokens/7 {
		t.Errorf("got %d of %d tokens without a place; want at most a seventh", missed, tokens)
	}
}
