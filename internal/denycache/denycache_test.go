package denycache

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	err := goneGoroutines()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// goneGoroutines collects garbage until no goroutine of a cache is left.
func goneGoroutines(options ...goleak.Option) error {
	var err error
	for range 10 {
		runtime.GC()
		err = goleak.Find(options...)
		if err == nil {
			return nil
		}
	}
	return err
}

func newCache(tb testing.TB, tokens int64) *Cache {
	tb.Helper()
	c, err := New(tokens)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func entry(token string, route, keySet byte) *Entry {
	e := &Entry{Token: token, Route: ID{route}, KeySet: ID{keySet}}
	e.Track(new(atomic.Uint64))
	return e
}

func get(c *Cache, e *Entry) *Entry { return c.Get(e.Token, &e.Route, e.KeySet) }

// put offers an entry until it is in.
func put(tb testing.TB, c *Cache, e *Entry) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); get(c, e) != e; {
		c.Put(e, time.Hour)
		c.store.Wait()
		if time.Now().After(deadline) {
			tb.Fatalf("%.20s: got no entry within 10 s; want it in", e.Token)
		}
	}
}

func TestIsMatchesAllThree(t *testing.T) {
	long := strings.Repeat("a", 4000)
	e := entry(long, 1, 2)
	for name, test := range map[string]struct {
		token         string
		route, keySet ID
		want          bool
	}{
		"the same":             {long, ID{1}, ID{2}, true},
		"one byte less":        {long[:3999], ID{1}, ID{2}, false},
		"the last byte":        {long[:3999] + "b", ID{1}, ID{2}, false},
		"the first byte":       {"b" + long[1:], ID{1}, ID{2}, false},
		"empty":                {"", ID{1}, ID{2}, false},
		"another route":        {long, ID{2}, ID{2}, false},
		"the route's last bit": {long, ID{1, 15: 1}, ID{2}, false},
		"another key set":      {long, ID{1}, ID{3}, false},
		"the key's last bit":   {long, ID{1}, ID{2, 15: 1}, false},
		"route and key swap":   {long, ID{2}, ID{1}, false},
	} {
		if got := e.Is(test.token, &test.route, &test.keySet); got != test.want {
			t.Errorf("%s: got %v; want %v", name, got, test.want)
		}
	}
}

// An entry under the same 64-bit key as another one is not taken for it.
func TestGetTakesNoOtherEntryForIt(t *testing.T) {
	c := newCache(t, 10)
	e := entry("token", 1, 2)
	put(t, c, e)
	for name, other := range map[string]*Entry{
		"route with the same first half": {Token: "token", Route: ID{1, 8: 1}, KeySet: ID{2}}, // the same key in ristretto
		"another key set":                {Token: "token", Route: ID{1}, KeySet: ID{3}},
		"another token":                  {Token: "Token", Route: ID{1}, KeySet: ID{2}},
	} {
		if got := get(c, other); got != nil {
			t.Errorf("%s: got %+v; want nothing", name, got)
		}
	}
	// A token in the slot of another: as if the hashes were equal.
	stranger := entry("stranger", 1, 2)
	if !c.store.Set(keyOf(c.seed, e.Token, &e.Route), stranger, 1) {
		t.Fatal("got the update refused; want it in")
	}
	if got := get(c, e); got != nil {
		t.Errorf("got %+v for a token that only shares its key; want nothing", got)
	}
}

// Epoch and verdict stand in one word. The verdict is written as a function of
// the epoch; a current verdict that does not fit it has been torn.
func TestVerdictNeverTears(t *testing.T) {
	for name, torn := range map[string]bool{"in one word": false, "in two words": true} {
		t.Run(name, func(t *testing.T) {
			var epoch atomic.Uint64
			epoch.Store(1)
			e := &Entry{}
			e.Track(&epoch)
			two := struct{ epoch, verdict atomic.Uint64 }{}
			stamp := func(at uint64) {
				e.Stamp(at, Verdict(at%251))
				two.epoch.Store(at)
				if torn {
					runtime.Gosched()
				}
				two.verdict.Store(at % 251)
			}
			read := func() (uint64, Verdict, bool) {
				before := epoch.Load()
				verdict, current := e.Verdict()
				if torn {
					current = two.epoch.Load() == epoch.Load()
					verdict = Verdict(two.verdict.Load())
				}
				return before, verdict, current && epoch.Load() == before
			}
			var stop atomic.Bool
			var bad, seen atomic.Int64
			var group sync.WaitGroup
			for range 2 { // who refreshes the verdict
				group.Go(func() {
					for !stop.Load() {
						stamp(epoch.Load())
						runtime.Gosched()
					}
				})
			}
			group.Go(func() {
				for range 100_000 {
					epoch.Add(1)
					runtime.Gosched()
				}
				stop.Store(true)
			})
			for range 2 {
				group.Go(func() {
					for i := 0; !stop.Load(); i++ {
						if i%16 == 0 {
							runtime.Gosched() // else a busy machine gives a turn every 10 ms
						}
						at, verdict, current := read()
						if !current {
							continue
						}
						seen.Add(1)
						if verdict != Verdict(at%251) {
							bad.Add(1)
						}
					}
				})
			}
			group.Wait()
			if got := bad.Load() > 0; got != torn || seen.Load() == 0 {
				t.Errorf("got %d torn verdicts of %d current ones; want some: %v", bad.Load(), seen.Load(), torn)
			}
		})
	}
}

func TestVerdictIsCurrentUntilTheEpochMoves(t *testing.T) {
	var epoch atomic.Uint64
	epoch.Store(1)
	e := &Entry{}
	e.Track(&epoch)
	if _, current := e.Verdict(); current {
		t.Error("got a current verdict before any stamp; want none")
	}
	e.Stamp(e.Epoch(), 7)
	if v, current := e.Verdict(); v != 7 || !current {
		t.Errorf("got %v, %v; want 7, current", v, current)
	}
	old := e.Epoch()
	epoch.Add(1)
	if _, current := e.Verdict(); current {
		t.Error("got a current verdict behind a raised epoch; want none")
	}
	e.Stamp(old, 7) // computed before, stored after
	if _, current := e.Verdict(); current {
		t.Error("got a current verdict with an old epoch; want none")
	}
	e.Stamp(e.Epoch(), 255)
	if v, current := e.Verdict(); v != 255 || !current {
		t.Errorf("got %v, %v; want 255, current", v, current)
	}
}

func TestResize(t *testing.T) {
	c := newCache(t, 10)
	in := func() int {
		n := 0
		for i := range 200 {
			if get(c, entry(fmt.Sprint("token ", i), 1, 1)) != nil {
				n++
			}
		}
		return n
	}
	fill := func() {
		for i := range 200 {
			c.Put(entry(fmt.Sprint("token ", i), 1, 1), time.Hour)
			c.store.Wait()
		}
	}
	fill()
	if got := in(); got == 0 || got > 10 {
		t.Errorf("got %d entries in; want 1 to 10", got)
	}
	c.Resize(500)
	fill()
	if got := in(); got != 200 {
		t.Errorf("got %d entries in after the cache grew; want 200", got)
	}
	c.Resize(20)
	put(t, c, entry("makes room", 1, 1))
	if got := in(); got > 20 {
		t.Errorf("got %d entries in after the cache shrank; want at most 20", got)
	}
	c.Resize(0)
	if got := c.store.MaxCost(); got != DefaultTokens {
		t.Errorf("got room for %d; want %d", got, DefaultTokens)
	}
}

func TestNew(t *testing.T) {
	c := newCache(t, 0)
	if got := c.store.MaxCost(); got != DefaultTokens {
		t.Errorf("got room for %d; want %d", got, DefaultTokens)
	}
	if _, err := New(-1); err == nil || !strings.Contains(err.Error(), "at least 1") {
		t.Errorf("got %v; want an error that says how many", err)
	}
	c.Put(entry("dead", 1, 1), 0) // its time is over
	c.Put(entry("dead", 1, 1), -time.Second)
	c.store.Wait()
	if got := get(c, entry("dead", 1, 1)); got != nil {
		t.Errorf("got %+v; want nothing that is past its time", got)
	}
}

func TestPutAfterEviction(t *testing.T) {
	c := newCache(t, 4)
	e := entry("comes back", 1, 1)
	put(t, c, e)
	deadline := time.Now().Add(10 * time.Second)
	for i := 0; get(c, e) != nil; i++ {
		other := entry(fmt.Sprint("pushes ", i%8), 1, 1)
		for range 20 {
			get(c, other) // more asked for
		}
		c.Put(other, time.Hour)
		c.store.Wait()
		if time.Now().After(deadline) {
			t.Fatal("got the entry never evicted; want it evicted")
		}
	}
	if c.Stats().Evicted == 0 {
		t.Errorf("got %+v; want an eviction counted", c.Stats())
	}
	put(t, c, e)
	newer := entry("comes back", 1, 2) // verified again under other keys
	put(t, c, newer)
	if got := get(c, e); got != nil {
		t.Errorf("got %+v under the old keys; want nothing", got)
	}
}

func TestStatsCountWhatIsLost(t *testing.T) {
	c := newCache(t, 10)
	for i := range 100_000 {
		c.Put(entry(fmt.Sprint("token ", i), 1, 1), time.Hour)
	}
	c.store.Wait()
	s := c.Stats()
	if got := s.Dropped + s.Rejected + s.Evicted; got < 100_000-1000 {
		t.Errorf("got %+v; want nearly all of 100,000 counted as lost", s)
	}
}

// Whoever holds a cache may use it; its goroutines end when nobody does.
func TestGoroutinesEndWithTheCache(t *testing.T) {
	others := goleak.IgnoreCurrent()
	c := newCache(t, 10)
	put(t, c, entry("token", 1, 1))
	if goleak.Find(others, goleak.IgnoreCurrent()) != nil {
		t.Error("got goroutines that nobody started; want none")
	}
	if err := goleak.Find(others); err == nil {
		t.Error("got no goroutine of a cache in use; want some, or nothing is shown")
	}
	runtime.GC()
	if got := get(c, entry("token", 1, 1)); got == nil {
		t.Error("got the cache emptied while it is held; want its entry")
	}
	c = nil
	_ = c
	if err := goneGoroutines(others); err != nil {
		t.Errorf("got %v; want no goroutine of a cache that nobody holds", err)
	}
}

// The last use of a cache and its end must not meet: ristretto panics if an
// entry comes in while it closes.
func TestUseWhileOthersLetGo(t *testing.T) {
	var stop atomic.Bool
	var collector sync.WaitGroup
	collector.Go(func() {
		for !stop.Load() {
			runtime.GC()
		}
	})
	for range 300 {
		c := newCache(t, 4)
		var users sync.WaitGroup
		for user := range 3 {
			users.Go(func() {
				for i := range 20 {
					e := entry(fmt.Sprint(user, i), 1, 1)
					c.Put(e, time.Hour)
					get(c, e)
					c.Resize(int64(4 + i))
				}
			})
		}
		if c.Stats().Evicted > 1000 {
			t.Error("got more evictions than entries")
		}
		// This goroutine has let go; the last user's last call is the last use.
		users.Wait()
	}
	stop.Store(true)
	collector.Wait()
}

// TestHitReadsTwoLines holds the layout that the doc of Entry speaks of: what a hit
// reads lies in the first two lines of the processor's cache, and an entry begins with
// a line, as objects of this size class do.
func TestHitReadsTwoLines(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("laid out for 64 bits")
	}
	var e Entry
	const line = 64
	if got := unsafe.Sizeof(e); got != 3*line {
		t.Errorf("got %d bytes; want %d", got, 3*line)
	}
	if got := unsafe.Offsetof(e.User) + unsafe.Sizeof(e.User); got > 2*line {
		t.Errorf("got what a hit reads in %d bytes; want at most %d", got, 2*line)
	}
	for range 100 {
		e := &Entry{Invoker: "a"}
		kept = append(kept, e)
		if at := uintptr(unsafe.Pointer(e)); at%line != 0 {
			t.Fatalf("got an entry at %#x; want it to begin with a line", at)
		}
	}
}

// kept has the entries of a test made where those of the cache are.
var kept []*Entry
