package denycache

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndsAreTakenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ends{since: time.Now()}
		const limit = 100
		for _, key := range []uint64{5, 3, 9, 1, 7, 2, 8, 4, 6} {
			if got := e.note(key, time.Duration(key)*time.Second, limit); got != [atOnce]uint64{} {
				t.Errorf("got %v over; want none before its time", got)
			}
		}
		time.Sleep(2 * time.Second) // of the bubble
		if got, want := e.note(10, 10*time.Second, limit), [atOnce]uint64{1, 2}; got != want {
			t.Errorf("got %v; want %v", got, want)
		}
		time.Sleep(20 * time.Second)
		for _, want := range [][atOnce]uint64{{3, 4, 5, 6}, {7, 8, 9, 10}, {}} {
			if got := e.note(99, time.Hour, limit); got != want {
				t.Errorf("got %v; want %v", got, want)
			}
		}
	})
}

func TestEndsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ends{since: time.Now()}
		for key := range uint64(50) {
			e.note(key+1, time.Minute, 20)
		}
		if got := len(e.heap); got != 20 {
			t.Errorf("got %d noted; want 20", got)
		}
		time.Sleep(time.Minute)
		for range 5 {
			e.note(99, time.Minute, 20)
		}
		if got := len(e.heap); got != 5 {
			t.Errorf("got %d noted after their time; want the 5 new ones", got)
		}
	})
}

// What is of no use any more leaves as new entries come, in a cache that has room
// for all of them.
func TestPutTakesOutWhatIsOver(t *testing.T) {
	c := newCache(t, 10_000)
	for i := range 200 {
		c.Put(entry(fmt.Sprint("short ", i), 1, 1), time.Nanosecond)
		c.store.Wait()
	}
	for i := range 200 {
		c.Put(entry(fmt.Sprint("long ", i), 1, 1), time.Hour)
		c.store.Wait()
	}
	left := map[string]int{}
	for i := range 200 {
		for _, kind := range []string{"short", "long"} {
			if get(c, entry(fmt.Sprint(kind, " ", i), 1, 1)) != nil {
				left[kind]++
			}
		}
	}
	if left["short"] != 0 || left["long"] != 200 {
		t.Errorf("got %v; want all of the long ones and no short one", left)
	}
}

// Tokens that differ only in front of what is hashed share a key, as nobody but
// the core could make them. They are never taken for one another.
func TestTokensThatEndAlike(t *testing.T) {
	c := newCache(t, 10)
	const end = ".0123456789012345678901234567890123456789"
	good, forged := entry("header.payload"+end, 1, 1), entry("header.another"+end, 1, 1)
	if keyOf(c.seed, good.Token, &good.Route) != keyOf(c.seed, forged.Token, &forged.Route) {
		t.Fatal("got two keys; want one, or nothing is shown")
	}
	put(t, c, good)
	for range 1000 {
		if got := get(c, forged); got != nil {
			t.Fatalf("got %+v for a token that only ends alike; want nothing", got)
		}
	}
	if got := get(c, good); got != good {
		t.Errorf("got %+v; want the good one, which looks for another do not push out", got)
	}
}
