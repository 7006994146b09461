package token

import (
	"context"
	"log/slog"
	"time"
)

// Source holds the keys of the core and keeps them fresh. All methods are safe
// for concurrent use.
type Source interface {
	// Keys returns the current set, nil before the first good load. It is an
	// atomic load: it is called for each request.
	Keys() *KeySet
	// Load loads once, in the caller's goroutine, and returns the error of that
	// attempt. Run loads by itself; an owner calls Load before it where a bad file
	// should refuse a configuration.
	Load(ctx context.Context) error
	// Refresh is called for a token that no key verifies. If the floor between
	// loads has passed, Run loads at once and Refresh waits for it, no longer than
	// one load may take and than ctx lasts; concurrent callers share that load.
	// Otherwise, and while Run is not running, it returns at once.
	Refresh(ctx context.Context)
	// Run does the first load and every later one, and returns when ctx ends. A
	// second Run waits for the first to end.
	Run(ctx context.Context)
	// OnChange adds a hook that is called after a different key set was swapped
	// in, also the first one. It runs in the goroutine that loads, which waits for
	// it, and must not call Load. remove takes the hook out again, for an owner
	// that ends before the source does; a call under way is not waited for.
	OnChange(hook func()) func()
	// LoadedAt is the time of the last good load, whether or not it changed
	// anything; zero if there was none.
	LoadedAt() time.Time
	// LastError is the error of the last load, nil if it was good. Its text is for
	// the operator, not for callers.
	LastError() error
}

// Options of a source. The zero value is usable.
type Options struct {
	// Logger gets one line for each change of state. Default: none.
	Logger *slog.Logger
	// Every is the time between loads by timer. For a URL: 5 min by default, each
	// 10 % shorter or longer by chance so that many AEFs do not ask at once. For
	// files: how often they are looked at for a change, 2 s by default.
	Every time.Duration
	// Floor is the least time from the begin of one load to the begin of one that
	// a token causes. Default: 30 s for a URL, 1 s for files. Until the first good
	// load the source tries again after 0.5 s and then less and less often, up to
	// every 5 s, whatever the floor.
	Floor time.Duration
	// Timeout is the deadline of one load. Default: 5 s.
	Timeout time.Duration
}

func (o Options) withDefaults(every, floor time.Duration) Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = every
	}
	if o.Floor <= 0 {
		o.Floor = floor
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	return o
}

const (
	urlEvery  = 5 * time.Minute
	urlFloor  = 30 * time.Second
	fileEvery = 2 * time.Second
	fileFloor = time.Second
)

// FromFunc makes a source of keys that come from elsewhere, such as the
// certificate that the core shows on a TLS connection. load must end with its
// ctx. name stands in logs and errors; defaults are those of a URL.
func FromFunc(name string, load func(ctx context.Context) ([]Key, error), o Options) Source {
	return newFeed(name, o.withDefaults(urlEvery, urlFloor), func(ctx context.Context) (loaded, error) {
		keys, err := load(ctx)
		return loaded{keys: keys}, err
	})
}

// Fixed makes a source whose keys never change.
func Fixed(keys ...Key) (Source, error) {
	set, err := NewKeySet(keys...)
	if err != nil {
		return nil, err
	}
	return &fixed{keys: set, since: time.Now()}, nil
}

type fixed struct {
	keys  *KeySet
	since time.Time
}

func (f *fixed) Keys() *KeySet              { return f.keys }
func (f *fixed) Load(context.Context) error { return nil }
func (f *fixed) Refresh(context.Context)    {}
func (f *fixed) Run(ctx context.Context)    { <-ctx.Done() }
func (f *fixed) OnChange(func()) func()     { return func() {} }
func (f *fixed) LoadedAt() time.Time        { return f.since }
func (f *fixed) LastError() error           { return nil }

var _ Source = (*fixed)(nil)
