package revocation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

var (
	// ErrNotReady means that the ledger is not open: nothing can be decided
	// or recorded. Callers answer 503.
	ErrNotReady = errors.New("the ledger is not open")
	// ErrNotDurable means that the disk refused a change. What was to be
	// denied is denied in memory and may not survive a restart; a lift has
	// not happened. Callers answer 503.
	ErrNotDurable = errors.New("outcome unknown: the ledger cannot be written")
	// ErrNotFound means that the ledger holds no such record.
	ErrNotFound = errors.New("not found")
	// ErrUnreadable means that the record of a revocation that was decided or
	// cancelled is damaged. It denies nothing and nothing waits for it, so
	// only this request is refused; the ledger works on.
	ErrUnreadable = errors.New("the record of a revocation that is no longer pending is damaged; no claim depends on it, restore the ledger from a backup to read it again")
)

// Options configure a ledger when it is opened.
type Options struct {
	// MustExist refuses to create a new file, so that a lost ledger stops
	// the start instead of starting empty.
	MustExist bool
	// Logger receives one line for each state change. Required.
	Logger *slog.Logger
	// WrapCommit, if set, is called instead of each commit and calls it: the
	// place where a test makes the disk fail before or after the sync.
	WrapCommit func(commit func() error) error
}

// PendingRef names a revocation that waits for the core.
type PendingRef struct {
	Sequence uint64
	Invoker  string
	Due      time.Time
}

// Queue is told of every revocation that becomes pending. Add is called by the
// writer: it MUST NOT block and MUST NOT call the ledger.
type Queue interface {
	Add(PendingRef)
}

// Watcher is told of every change that could deny calls of an API invoker, once
// lookups show it and the epoch is raised, and before it is durable or
// acknowledged. A lift is none. Changed is called by the writer and by whoever
// reads contexts: it MUST NOT block and MUST NOT call the ledger.
type Watcher interface {
	Changed(invoker string)
}

// Ledger is the durable record of claims and revocations. Its methods are safe
// for concurrent use. The zero value is not usable: see [NewLedger].
type Ledger struct {
	path    string
	index   *index
	epochs  *epochs
	queue   atomic.Pointer[Queue]
	windows *windows
	watch   Watcher    // fixed before Open
	observe func(Step) // fixed before Open
	log     atomic.Pointer[slog.Logger]

	ops chan *op
	// published is the writer's sequence, for those who only read it.
	published atomic.Uint64
	// audits is how many audit records there are; retention bounds it.
	audits    atomic.Int64
	retention atomic.Pointer[Retention]
	changedMu sync.Mutex
	changed   chan struct{} // closed and replaced with each audit record
	ready     atomic.Bool
	failed    atomic.Bool

	// lifecycle guards opening and closing; the fields below it change only
	// there.
	lifecycle sync.Mutex
	stop      chan struct{}
	stopped   chan struct{}
	created   bool

	// dbMu guards the handle, which recovery replaces.
	dbMu sync.RWMutex
	db   *bolt.DB

	// pending holds a channel for each pending revocation, closed when it is
	// no longer pending.
	pendingMu sync.Mutex
	pending   map[uint64]chan struct{}

	// The rest belongs to the writer goroutine alone.
	tag         string // distinguishes this ledger's revocation ids from another's
	sequence    uint64
	batch       uint64
	unsaved     []*op
	unsavedKeys map[string]int // where in unsaved
	undo        []undoStep
	undoOf      uint64 // the batch that undo takes back, 0 for none
	lastTry     time.Time
	company     company
	requestsTo  []byte // how far the last sweep looked at names of triggers
	// contextRecords are the changes of contexts that were recorded since
	// contextsSince, contextsUntold those of this minute that were not.
	contextRecords, contextsUntold int
	contextsSince                  time.Time

	// commit is how a transaction is made durable; tests replace it to fail.
	commit func(*bolt.Tx) error
	now    func() time.Time
}

// NewLedger allocates a ledger for the file at path. It does no I/O.
func NewLedger(path string) *Ledger {
	return &Ledger{
		path:        path,
		index:       newIndex(),
		epochs:      newEpochs(),
		windows:     newWindows(),
		ops:         make(chan *op, 1024),
		pending:     make(map[uint64]chan struct{}),
		unsavedKeys: make(map[string]int),
		changed:     make(chan struct{}),
		commit:      func(tx *bolt.Tx) error { return tx.Commit() },
		now:         time.Now,
	}
}

// Path returns the path of the file.
func (l *Ledger) Path() string { return l.path }

// Ready reports whether the ledger is open, and so whether a lookup that finds
// nothing means that nothing is denied.
func (l *Ledger) Ready() bool { return l.ready.Load() }

// Failing reports whether the disk refused the last change and the file has
// not been reopened since.
func (l *Ledger) Failing() bool { return l.failed.Load() }

// Created reports whether Open made a new file: whatever the core did not
// know of an earlier ledger is lost.
func (l *Ledger) Created() bool {
	l.lifecycle.Lock()
	defer l.lifecycle.Unlock()
	return l.created
}

func (l *Ledger) logger() *slog.Logger { return l.log.Load() }

// SetLogger replaces the logger, for instance when a configuration is replaced.
func (l *Ledger) SetLogger(logger *slog.Logger) { l.log.Store(logger) }

// SetQueue names who is told of pending revocations. Those that are pending
// already are handed over at once.
func (l *Ledger) SetQueue(q Queue) error {
	l.queue.Store(&q)
	if !l.Ready() {
		return nil
	}
	refs, err := l.Pending()
	if err != nil {
		return err
	}
	for _, ref := range refs {
		q.Add(ref)
	}
	return nil
}

// SetWatcher names who is told of changes that could deny. Call it before Open.
func (l *Ledger) SetWatcher(w Watcher) { l.watch = w }

// Changed raises the epoch of an invoker of whom something else than a claim has
// changed, such as its security context, and tells the watcher.
func (l *Ledger) Changed(invoker string) {
	l.epochs.of(invoker).Add(1)
	if l.watch != nil {
		l.watch.Changed(invoker)
	}
}

// Open opens the file, reads every claim into the index and starts the writer.
// It is idempotent: an open ledger stays as it is. Errors name the path and
// what to do.
func (l *Ledger) Open(options Options) error {
	l.lifecycle.Lock()
	defer l.lifecycle.Unlock()
	l.log.Store(options.Logger)
	if l.ready.Load() {
		return nil
	}
	if l.stopped != nil {
		return fmt.Errorf("ledger %s: closed for good", l.path)
	}
	db, created, err := openFile(l.path, options.MustExist)
	if err != nil {
		return err
	}
	err = l.load(db)
	if err == nil {
		err = guard(func() error { return addBuckets(db) })
	}
	if err != nil {
		l.index.clear()
		clear(l.pending)
		return errors.Join(fmt.Errorf("ledger %s: %w", l.path, err), db.Close())
	}
	if options.WrapCommit != nil {
		l.commit = func(tx *bolt.Tx) error { return options.WrapCommit(tx.Commit) }
	}
	l.db = db
	l.created = created
	l.stop = make(chan struct{})
	l.stopped = make(chan struct{})
	l.ready.Store(true)
	go l.write()
	options.Logger.Info("ledger opened",
		"path", l.path, "created", created, "denied_scopes", l.index.size.Load(), "pending_revocations", len(l.pending))
	return nil
}

// load fills the index and the writer's counters. Nothing is served from a
// file of which a single claim cannot be read.
func (l *Ledger) load(db *bolt.DB) error {
	return guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			expected, err := l.loadMeta(tx)
			if err != nil {
				return err
			}
			into := &loader{index: l.index}
			l.index.expect(min(expected, uint64(tx.Size())/recordHeader))
			err = survey(tx, into.add, func(sequence uint64) {
				l.pending[sequence] = make(chan struct{})
			})
			if err != nil {
				return err
			}
			into.flush()
			return l.countAudit(tx)
		})
	})
}

// Close stops the writer, which finishes what it has begun, and releases the
// file. It is idempotent. Lookups go on answering from memory. On a disk that
// still fails it returns an error wrapping [ErrNotDurable].
func (l *Ledger) Close() error {
	l.lifecycle.Lock()
	defer l.lifecycle.Unlock()
	if !l.ready.Swap(false) {
		return nil
	}
	close(l.stop)
	<-l.stopped
	l.dbMu.Lock()
	defer l.dbMu.Unlock()
	if l.db == nil {
		return l.lost()
	}
	err := l.db.Close()
	l.db = nil
	if err != nil {
		return fmt.Errorf("closing ledger %s: %w", l.path, err)
	}
	return l.lost()
}

// lost says, after the end, what a failing disk never took.
func (l *Ledger) lost() error {
	if !l.failed.Load() {
		return nil
	}
	return fmt.Errorf("closing ledger %s: %d denies are not on disk: %w", l.path, len(l.unsaved), ErrNotDurable)
}

// Epoch returns the counter that changes with every change that could alter a
// verdict about invoker. Read it before the lookups, stamp the verdict with
// what was read, and use the verdict only while the counter is still the same.
func (l *Ledger) Epoch(invoker string) *atomic.Uint64 { return l.epochs.of(invoker) }

// RaiseEpochs makes every cached verdict stale, for instance after a key was
// rotated out.
func (l *Ledger) RaiseEpochs() { l.epochs.raiseAll() }

// Covering says whether a claim covers a call of invoker, with token, to a
// route of aef that stands for apis. It reads memory only.
func (l *Ledger) Covering(invoker, aef string, apis []string, token Digest) Cover {
	return l.index.covering(invoker, aef, apis, token)
}

// IsPending reports whether the core has still to decide a revocation.
func (l *Ledger) IsPending(sequence uint64) bool {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	_, ok := l.pending[sequence]
	return ok
}

// WaitDecided returns when none of the revocations is pending any more, or
// with ctx's error when ctx ends first, or with [ErrNotReady] when the ledger is
// closed.
func (l *Ledger) WaitDecided(ctx context.Context, sequences []uint64) error {
	for _, sequence := range sequences {
		l.pendingMu.Lock()
		w, ok := l.pending[sequence]
		l.pendingMu.Unlock()
		if !ok {
			continue
		}
		select {
		case <-w:
		case <-l.stopped:
			return fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func newTag() (string, error) {
	var raw [4]byte
	_, err := rand.Read(raw[:])
	if err != nil {
		return "", fmt.Errorf("drawing a ledger tag: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}
