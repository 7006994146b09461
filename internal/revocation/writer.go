package revocation

import (
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// op is one durable change on its way through the writer.
type op struct {
	// width is how many sequence numbers the change takes, at least 1.
	width int
	// denies are blocked before the disk is touched, the i-th with the
	// i-th number. They stay blocked if the disk fails.
	denies []Scope
	// prompt says that apply may find something to deny: its batch waits for
	// nobody.
	prompt bool
	// apply makes the change. An error wrapping ErrInvalid, ErrNotFound or
	// ErrUnreadable refuses this op alone; it must then have changed nothing.
	apply func(*txn) error
	// key, if set, names a deny that is to be written once the file works
	// again; equal keys are written once.
	key string
	// drop, if set, is called if the op will never be applied.
	drop func()

	first uint64 // set by the writer
	err   error
	done  chan struct{}
}

const sweepInterval = time.Minute

// submit hands a change to the writer and waits until it is durable or
// refused. If ctx ends first, the outcome is unknown.
func (l *Ledger) submit(ctx context.Context, o *op) error {
	if !l.Ready() {
		o.dropped()
		return fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
	}
	o.width = max(o.width, 1)
	o.done = make(chan struct{})
	select {
	case l.ops <- o:
	case <-l.stopped:
		o.dropped()
		return fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
	case <-ctx.Done():
		o.dropped()
		return fmt.Errorf("ledger %s: not begun: %w", l.path, ctx.Err())
	}
	select {
	case <-o.done:
		return o.err
	case <-l.stopped:
		// The writer has ended; it may have finished this op before.
		select {
		case <-o.done:
			return o.err
		default:
			return fmt.Errorf("ledger %s: %w", l.path, ErrNotReady)
		}
	case <-ctx.Done():
		return fmt.Errorf("ledger %s: outcome unknown: %w", l.path, ctx.Err())
	}
}

func (o *op) dropped() {
	if o.drop != nil {
		o.drop()
	}
}

// write is the one writer. It takes whatever has come in while the last batch
// was synced, and what gather waits for.
func (l *Ledger) write() {
	defer close(l.stopped)
	retry := time.NewTicker(recoverInterval)
	defer retry.Stop()
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	l.contextsSince = l.now()
	for {
		select {
		case o := <-l.ops:
			l.commitBatch(l.gather(o))
		case <-retry.C:
			if l.failed.Load() {
				l.recover()
			}
		case <-sweep.C:
			l.tellContexts()
			// All that is due, unless somebody waits or the disk fails.
			for len(l.ops) == 0 && !l.failed.Load() && (l.sweepDue() || l.auditDue()) {
				l.commitBatch([]*op{l.begin(l.sweepOp())})
			}
			for len(l.ops) == 0 && !l.failed.Load() {
				names := l.oldRequests()
				if len(names) == 0 {
					break
				}
				l.commitBatch([]*op{l.begin(forgetOp(names))})
			}
		case <-l.stop:
			for len(l.ops) > 0 {
				l.commitBatch(l.gather(<-l.ops))
			}
			if l.failed.Load() {
				// The last chance for what only memory has, and for taking
				// back what reached the disk and was answered with an error.
				l.lastTry = time.Time{}
				l.recover()
			}
			l.tellContexts()
			return
		}
	}
}

// commitBatch is the order that promise 1 and 2 rest on: what was begun is
// blocked in memory and its epoch raised; sync; then unblock, raise the epoch;
// then acknowledge.
func (l *Ledger) commitBatch(batch []*op) {
	began := time.Now()
	err := l.makeDurable(batch)
	l.company.ended(len(batch)+len(l.ops), began)
	for _, o := range batch {
		if err != nil && o.err == nil {
			o.err = err
		}
		close(o.done)
	}
}

// begin gives a change its place in the order, and blocks what it denies.
func (l *Ledger) begin(o *op) *op {
	o.first = l.sequence + 1
	l.sequence += uint64(o.width)
	l.published.Store(l.sequence)
	for i := range o.denies {
		l.block(&o.denies[i], o.first+uint64(i))
	}
	return o
}

// block puts a scope into the index, makes cached verdicts stale and has calls
// in flight judged again, in this order: a verdict computed in between carries
// the old epoch, and a call that comes too late to be judged sees the new one.
func (l *Ledger) block(s *Scope, sequence uint64) {
	l.index.add(appendScope(nil, s), !s.Token.IsZero(), sequence)
	l.Changed(s.Invoker)
}

func (l *Ledger) makeDurable(batch []*op) error {
	if l.failed.Load() && !l.recover() {
		l.keepDenies(batch)
		return fmt.Errorf("ledger %s: %w", l.path, ErrNotDurable)
	}
	t, err := l.commitTxn(batch)
	if err != nil {
		l.fail(t, batch, err)
		return fmt.Errorf("ledger %s: %w: %w", l.path, ErrNotDurable, err)
	}
	l.settle(t)
	return nil
}

// commitTxn runs every op in one transaction and syncs it.
func (l *Ledger) commitTxn(batch []*op) (*txn, error) {
	t := &txn{ledger: l, at: l.now().UTC()}
	l.batch++
	err := guard(func() error {
		l.dbMu.RLock()
		defer l.dbMu.RUnlock()
		tx, err := l.db.Begin(true)
		if err != nil {
			return err
		}
		defer func() {
			if tx.DB() != nil {
				_ = tx.Rollback()
			}
		}()
		t.tx = tx
		_, c, err := readMeta(tx)
		if err != nil {
			return err
		}
		t.tally, t.pruned = c.tally, c.Pruned
		for _, o := range batch {
			o.err = t.run(o)
			if t.broken != nil {
				return t.broken
			}
		}
		t.pruneAudit()
		t.putMeta()
		if t.broken != nil {
			return t.broken
		}
		return l.commit(tx)
	})
	return t, err
}

// settle brings memory up to what is on disk now.
func (l *Ledger) settle(t *txn) {
	for _, r := range t.removals {
		l.index.lower(appendScope(nil, &r.scope), !r.scope.Token.IsZero(), r.limit, r.remaining)
		l.epochs.of(r.scope.Invoker).Add(1)
	}
	l.audits.Add(int64(t.audited))
	l.contextRecords += t.contexts
	l.contextsUntold += t.untold
	l.tellSteps(t)
	if t.noted {
		defer l.tellChanged()
	}
	queue := l.queue.Load()
	for _, change := range t.pending {
		l.pendingMu.Lock()
		w, known := l.pending[change.ref.Sequence]
		switch {
		case change.pending && !known:
			l.pending[change.ref.Sequence] = make(chan struct{})
		case !change.pending && known:
			delete(l.pending, change.ref.Sequence)
			l.windows.unbind(change.ref.Sequence)
			close(w)
		}
		l.pendingMu.Unlock()
		if change.pending && !known && queue != nil {
			(*queue).Add(change.ref)
		}
	}
}

// txn is one transaction of the writer. Its writes remember what they replace:
// a commit that failed may have reached the disk all the same.
type txn struct {
	ledger   *Ledger
	tx       *bolt.Tx
	at       time.Time
	undo     []undoStep
	tally    tally
	removals []removal
	pending  []pendingChange
	audited  int  // audit records added less those deleted
	noted    bool // an audit record was added
	pruned   uint64
	contexts int // changes of contexts that were recorded
	untold   int // and those that were only counted
	steps    []Step
	broken   error
	op       *op
}

type removal struct {
	scope            Scope
	limit, remaining uint64
}

type pendingChange struct {
	ref     PendingRef
	pending bool
}

// run applies one op. A refusal concerns that op and is returned; anything else
// breaks the transaction, which is then the answer to all of it.
func (t *txn) run(o *op) error {
	t.op = o
	err := o.apply(t)
	refused := errors.Is(err, ErrInvalid) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreadable)
	if err != nil && !refused {
		t.broken = err
		return nil
	}
	return err
}

func (t *txn) put(bucket, key, value []byte) {
	if t.broken != nil {
		return
	}
	if value == nil {
		value = []byte{} // nil would look absent to a Get in the same transaction
	}
	b := t.tx.Bucket(bucket)
	old := b.Get(key)
	t.tally.remove(bucket, key, old)
	t.tally.add(bucket, key, value)
	t.undo = append(t.undo, undoStep{bucket, key, append([]byte(nil), old...), old != nil})
	t.broken = b.Put(key, value)
}

func (t *txn) delete(bucket, key []byte) {
	if t.broken != nil {
		return
	}
	b := t.tx.Bucket(bucket)
	old := b.Get(key)
	if old == nil {
		return
	}
	t.tally.remove(bucket, key, old)
	t.undo = append(t.undo, undoStep{bucket, append([]byte(nil), key...), append([]byte(nil), old...), true})
	t.broken = b.Delete(key)
}

func (t *txn) putRecord(bucket, key []byte, sequence uint64, v any) {
	record, err := encodeRecord(key, sequence, v)
	if err != nil {
		t.broken = err
		return
	}
	t.put(bucket, key, record)
}

func (t *txn) putMeta() {
	t.putRecord(bucketMeta, keyState, 0, counters{Sequence: t.ledger.sequence, Batch: t.ledger.batch, Pruned: t.pruned, tally: t.tally})
}
