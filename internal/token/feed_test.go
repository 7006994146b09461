package token

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// script is a load function that a test steers.
type script struct {
	mu    sync.Mutex
	keys  []Key
	err   error
	delay time.Duration
	loads atomic.Int64
}

func (s *script) set(err error, keys ...Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.err = keys, err
}

func (s *script) load(ctx context.Context) ([]Key, error) {
	s.loads.Add(1)
	s.mu.Lock()
	keys, err, delay := s.keys, s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
		return keys, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func edAndRSA(t *testing.T) (Key, Key) {
	k := keys()
	return pub(t, k.ed.Public(), "ed", ""), pub(t, &k.rsa.PublicKey, "rsa", "")
}

func TestFeedLoadsAndRefreshesByTimer(t *testing.T) {
	ed, rsa := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		changes := 0
		source.OnChange(func() { changes++ })
		run(t, source)
		synctest.Wait()
		if source.Keys() == nil || changes != 1 || s.loads.Load() != 1 {
			t.Fatalf("after the start: keys %v, %d changes, %d loads; want keys, 1, 1", source.Keys(), changes, s.loads.Load())
		}
		first := source.LoadedAt()
		if !first.Equal(time.Now()) {
			t.Errorf("LoadedAt %v; want now", first)
		}

		time.Sleep(6 * time.Minute) // of the bubble's clock
		synctest.Wait()
		if changes != 1 || s.loads.Load() != 2 || !source.LoadedAt().After(first) {
			t.Errorf("equal keys: %d changes, %d loads, LoadedAt %v; want 1, 2, later", changes, s.loads.Load(), source.LoadedAt())
		}

		s.set(nil, rsa)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if changes != 2 || source.Keys().keys[0].kid != "rsa" {
			t.Errorf("other keys: %d changes; want 2 and the new key", changes)
		}
	})
}

func TestFeedRetriesUntilFirstKeys(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		log, lines := newLog()
		s := &script{err: errors.New("core down")}
		source := FromFunc("test", s.load, Options{Logger: log})
		run(t, source)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := s.loads.Load(); n < 8 || n > 40 {
			t.Errorf("%d loads in the first minute; want 8 to 40", n)
		}
		if source.Keys() != nil || source.LastError() == nil || !source.LoadedAt().IsZero() {
			t.Errorf("got keys %v, error %v; want none and an error", source.Keys(), source.LastError())
		}
		if n := strings.Count(lines.String(), "token keys not loaded"); n != 1 {
			t.Errorf("%d log lines for one state; want 1:\n%s", n, lines)
		}
		s.set(nil, ed)
		time.Sleep(8 * time.Second)
		synctest.Wait()
		if source.Keys() == nil || source.LastError() != nil {
			t.Errorf("after the core came up: keys %v, error %v; want keys", source.Keys(), source.LastError())
		}
	})
}

func TestFeedKeepsLastGoodKeys(t *testing.T) {
	ed, _ := edAndRSA(t)
	for name, bad := range map[string]*script{
		"error":       {err: errors.New("boom")},
		"no keys":     {},
		"hangs":       {delay: time.Hour},
		"broken keys": {keys: []Key{{}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, lines := newLog()
				s := &script{keys: []Key{ed}}
				source := FromFunc("test", s.load, Options{Logger: log})
				changes := 0
				source.OnChange(func() { changes++ })
				run(t, source)
				synctest.Wait()
				loadedAt := source.LoadedAt()
				s.mu.Lock()
				s.keys, s.err, s.delay = bad.keys, bad.err, bad.delay
				s.mu.Unlock()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if source.Keys() == nil || changes != 1 {
					t.Fatalf("keys %v, %d changes; want the last good ones, 1", source.Keys(), changes)
				}
				if source.LastError() == nil || !source.LoadedAt().Equal(loadedAt) {
					t.Errorf("LastError %v, LoadedAt %v; want an error, %v", source.LastError(), source.LoadedAt(), loadedAt)
				}
				s.mu.Lock()
				s.keys, s.err, s.delay = []Key{ed}, nil, 0
				s.mu.Unlock()
				time.Sleep(time.Minute)
				synctest.Wait()
				if source.LastError() != nil || changes != 1 {
					t.Errorf("recovered: error %v, %d changes; want none, 1", source.LastError(), changes)
				}
				if !strings.Contains(lines.String(), "token keys loaded again") {
					t.Errorf("no line about the recovery:\n%s", lines)
				}
			})
		})
	}
}

func TestRefreshFloor(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		source.Refresh(t.Context()) // nobody runs it: must return
		run(t, source)
		synctest.Wait()
		for range 1000 {
			source.Refresh(t.Context())
		}
		if n := s.loads.Load(); n != 1 {
			t.Errorf("within the floor: %d loads; want 1", n)
		}
		time.Sleep(urlFloor)
		for range 1000 {
			source.Refresh(t.Context())
		}
		if n := s.loads.Load(); n != 2 {
			t.Errorf("after the floor: %d loads; want 2", n)
		}
		synctest.Wait()
	})
}

func TestRefreshIsShared(t *testing.T) {
	ed, rsa := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		run(t, source)
		time.Sleep(urlFloor)
		s.mu.Lock()
		s.keys, s.delay = []Key{rsa}, time.Second
		s.mu.Unlock()

		var group sync.WaitGroup
		var saw atomic.Int64
		for range 100 {
			group.Go(func() {
				source.Refresh(t.Context())
				if source.Keys().keys[0].kid == "rsa" {
					saw.Add(1)
				}
			})
		}
		group.Wait()
		if s.loads.Load() != 2 || saw.Load() != 100 {
			t.Errorf("%d loads, %d callers saw the new key; want 2, 100", s.loads.Load(), saw.Load())
		}
	})
}

func TestRefreshWaitIsBounded(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		run(t, source)
		time.Sleep(urlFloor)
		s.mu.Lock()
		s.delay = time.Hour
		s.mu.Unlock()

		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		source.Refresh(ctx)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("with a deadline of its own: waited %v; want 1s", d)
		}
		source.Refresh(t.Context()) // joins the same load
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("waited %v; want 5s, the deadline of the load", d)
		}
		synctest.Wait()
	})
}

func TestRunEnds(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { source.Run(ctx) })
		time.Sleep(urlFloor)
		s.mu.Lock()
		s.delay = time.Hour
		s.mu.Unlock()
		group.Go(func() { source.Refresh(t.Context()) })
		synctest.Wait() // the load hangs
		begin := time.Now()
		cancel()
		group.Wait()
		if d := time.Since(begin); d != 0 {
			t.Errorf("the end took %v; want none", d)
		}
		if source.LastError() != nil {
			t.Errorf("LastError %v; want none, the end is not a failed load", source.LastError())
		}
		source.Refresh(t.Context())

		// A later owner goes on with the keys that are there.
		s.mu.Lock()
		s.delay = 0
		s.mu.Unlock()
		before := s.loads.Load()
		run(t, source)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if n := s.loads.Load() - before; n != 1 {
			t.Errorf("%d loads by the second Run; want 1", n)
		}
	})
}

func TestSecondRunWaits(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		run(t, source)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			source.Run(ctx)
			close(ended)
		}()
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if n := s.loads.Load(); n != 2 {
			t.Errorf("%d loads with two Runs; want 2, those of one", n)
		}
		cancel()
		<-ended
	})
}

func TestHookRunsAfterSwapAndBeforeWaiters(t *testing.T) {
	ed, rsa := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{})
		run(t, source)
		time.Sleep(urlFloor)
		s.set(nil, rsa)
		var inHook string
		source.OnChange(func() {
			time.Sleep(time.Second)
			inHook = source.Keys().keys[0].kid
		})
		source.Refresh(t.Context())
		if inHook != "rsa" {
			t.Errorf("the hook saw key %q before Refresh returned; want rsa", inHook)
		}
	})
}

// A load that failed is repeated although nothing has changed: the reason may
// have gone without a trace on the file.
func TestFailedLoadIsRepeatedUnchanged(t *testing.T) {
	ed, _ := edAndRSA(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{keys: []Key{ed}}
		source := FromFunc("test", s.load, Options{Every: time.Second, Floor: time.Second}).(*feed)
		source.changed = func() bool { return false }
		run(t, source)
		time.Sleep(time.Minute)
		s.set(errors.New("io"))
		source.Refresh(t.Context())
		if source.LastError() == nil {
			t.Fatal("no error after a failed load")
		}
		s.set(nil, ed)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if source.LastError() != nil {
			t.Errorf("LastError %v; want none", source.LastError())
		}
		if n := s.loads.Load(); n != 3 {
			t.Errorf("%d loads; want 3: the first, the failed one, its repeat", n)
		}
	})
}

func TestRemovedHookIsNotCalled(t *testing.T) {
	ed, rsa := edAndRSA(t)
	s := &script{keys: []Key{ed}}
	source := FromFunc("test", s.load, Options{})
	var calls [2]int
	remove := source.OnChange(func() { calls[0]++ })
	source.OnChange(func() { calls[1]++ })
	if err := source.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	remove()
	remove()
	s.set(nil, rsa)
	if err := source.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := [2]int{1, 2}; calls != want {
		t.Errorf("got %v calls; want %v", calls, want)
	}
}

func TestFixed(t *testing.T) {
	ed, _ := edAndRSA(t)
	source := fixedSource(t, ed)
	run(t, source) // must end with its ctx
	source.OnChange(func() { t.Error("a fixed source changed") })()
	source.Refresh(t.Context())
	if err := source.Load(t.Context()); err != nil || source.LastError() != nil || source.LoadedAt().IsZero() {
		t.Errorf("got %v, %v, %v; want no error and a time", err, source.LastError(), source.LoadedAt())
	}
	if _, err := Fixed(); err == nil {
		t.Error("no keys: got no error")
	}
}
