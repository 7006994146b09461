package denycache

import (
	"fmt"
	"testing"
	"time"
)

// held counts the entries in front that ristretto no longer has.
func held(c *Cache) int {
	n := 0
	for i := range c.front.slots {
		e := c.front.slots[i].Load()
		if e == nil {
			continue
		}
		if got, _ := c.store.Get(keyOf(c.seed, e.Token, &e.Route)); got != e {
			n++
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
	if c.front.slot(key).Load() != nil {
		t.Error("got the entry still in front; want it gone: ristretto does not have it")
	}
}
