package token

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// loaded is what one load brought.
type loaded struct {
	keys []Key
	// notes tell the operator what was passed over and why.
	notes []string
}

// feed is the Source behind files and URLs: it decides when to load and what
// becomes of the result; load does the rest.
type feed struct {
	name string
	o    Options
	load func(ctx context.Context) (loaded, error)
	// changed reports whether a load by timer is worth while; nil is always. Only
	// the goroutine that holds loading calls it.
	changed func() bool
	// ended is called when Run ends; nil is nothing.
	ended func()

	current atomic.Pointer[KeySet]

	running chan struct{} // held by Run
	loading chan struct{} // held while loading
	wake    chan struct{} // one token: Refresh asked for a load

	mu       sync.Mutex
	live     bool          // Run is there to answer a wake
	flight   chan struct{} // closed at the end of the load asked for or under way; nil is none
	begun    time.Time     // of the last load
	loadedAt time.Time
	lastErr  error
	notes    []string // of the last good load
	hooks    []*func()
}

func newFeed(name string, o Options, load func(ctx context.Context) (loaded, error)) *feed {
	return &feed{
		name:    name,
		o:       o,
		load:    load,
		running: make(chan struct{}, 1),
		loading: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
	}
}

func (f *feed) Keys() *KeySet { return f.current.Load() }

func (f *feed) LoadedAt() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loadedAt
}

func (f *feed) LastError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastErr
}

func (f *feed) OnChange(hook func()) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := &hook // a func cannot be compared, its place can
	f.hooks = append(f.hooks, entry)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hooks = slices.DeleteFunc(f.hooks, func(h *func()) bool { return h == entry })
	}
}

func (f *feed) Refresh(ctx context.Context) {
	flight := f.join()
	if flight == nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, f.o.Timeout)
	defer cancel()
	select {
	case <-flight:
	case <-wait.Done():
	}
}

// join returns the load under way, or one that it asks Run for; nil if there is
// none to wait for.
func (f *feed) join() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flight != nil {
		return f.flight
	}
	if !f.live || time.Since(f.begun) < f.o.Floor {
		return nil
	}
	f.flight = make(chan struct{})
	select {
	case f.wake <- struct{}{}:
	default: // a token that is left over serves as well
	}
	return f.flight
}

// asked reports whether a Refresh still waits for a load to begin.
func (f *feed) asked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flight != nil
}

func (f *feed) Run(ctx context.Context) {
	select {
	case f.running <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-f.running }()
	f.setLive(true)
	defer f.setLive(false)
	if f.ended != nil {
		defer f.ended()
	}

	early := backoff.NewExponentialBackOff()
	early.InitialInterval = 500 * time.Millisecond
	early.MaxInterval = 5 * time.Second

	first := f.o.Every
	if f.Keys() == nil {
		first = 0
	}
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		byTimer := false
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			if !f.asked() {
				continue
			}
		case <-timer.C:
			byTimer = true
		}
		err := f.attempt(ctx, byTimer)
		switch {
		case f.Keys() == nil:
			timer.Reset(early.NextBackOff())
		case err != nil:
			timer.Reset(min(f.o.Every, f.o.Floor))
		case f.changed != nil:
			timer.Reset(f.o.Every)
		default:
			timer.Reset(jitter(f.o.Every))
		}
	}
}

// jitter returns d, up to 10 % shorter or longer.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // jitter, no secret
}

func (f *feed) setLive(live bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = live
	if !live {
		f.land()
	}
}

// land ends the flight. The caller holds mu.
func (f *feed) land() {
	if f.flight != nil {
		close(f.flight)
		f.flight = nil
	}
}

func (f *feed) Load(ctx context.Context) error { return f.attempt(ctx, false) }

// attempt does one load, unless onlyIfChanged finds nothing new after a good
// one.
func (f *feed) attempt(ctx context.Context, onlyIfChanged bool) error {
	select {
	case f.loading <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("load token keys: %w", ctx.Err())
	}
	defer func() { <-f.loading }()

	if onlyIfChanged && f.changed != nil && f.settled() && !f.changed() {
		return nil
	}

	f.mu.Lock()
	f.begun = time.Now()
	if f.flight == nil {
		f.flight = make(chan struct{})
	}
	f.mu.Unlock()

	deadline, cancel := context.WithTimeout(ctx, f.o.Timeout)
	got, err := f.load(deadline)
	cancel()
	var set *KeySet
	if err == nil {
		set, err = NewKeySet(got.keys...)
	}
	if err != nil {
		err = fmt.Errorf("load token keys from %s: %w", f.name, err)
	}
	if ctx.Err() == nil { // the end of the owner is no news about the keys
		f.settle(set, got.notes, err)
	}

	f.mu.Lock()
	f.land()
	f.mu.Unlock()
	return err
}

// settled reports whether the last load was good.
func (f *feed) settled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastErr == nil && !f.loadedAt.IsZero()
}

// settle takes in the result of a load: keys first, then the hooks, and only
// then, by its return, those who wait in Refresh.
func (f *feed) settle(set *KeySet, notes []string, err error) {
	f.mu.Lock()
	before := f.lastErr
	f.lastErr = err
	hooks := slices.Clone(f.hooks)
	newNotes := err == nil && !slices.Equal(f.notes, notes)
	if err == nil {
		f.loadedAt, f.notes = time.Now(), notes
	}
	f.mu.Unlock()

	log := f.o.Logger.With(slog.String("source", f.name))
	if err != nil {
		if before == nil || before.Error() != err.Error() {
			log.Warn("token keys not loaded", slog.Any("error", err), slog.Bool("older_keys_in_use", f.Keys() != nil))
		}
		return
	}
	if newNotes {
		for _, note := range notes {
			log.Warn("token key source needs attention", slog.String("detail", note))
		}
	}
	old := f.current.Load()
	if old != nil && old.id == set.id {
		if before != nil {
			log.Info("token keys loaded again")
		}
		return
	}
	f.current.Store(set)
	log.Info("token keys changed", slog.Int("keys", set.Len()), slog.String("key_set", set.id.String()))
	for _, hook := range hooks {
		(*hook)()
	}
}

var _ Source = (*feed)(nil)
