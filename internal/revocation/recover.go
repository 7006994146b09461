package revocation

import (
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// recoverInterval is the least time between two tries to reopen the file.
const recoverInterval = time.Second

// undoStep is what one write of a failed transaction replaced.
type undoStep struct {
	bucket, key, old []byte
	existed          bool
}

// fail notes that a commit did not return success. Whether it reached the disk
// is unknown: the operating system may write the pages later, or never.
func (l *Ledger) fail(t *txn, batch []*op, err error) {
	l.undo, l.undoOf = t.undo, l.batch
	l.failed.Store(true)
	l.lastTry = l.now()
	l.keepDenies(batch)
	l.logger().Error("ledger cannot be written; what was revoked stays blocked, nothing is acknowledged until the disk works again",
		"path", l.path, "error", err)
}

// keepDenies remembers what only memory has. Lifts are not kept: they were
// answered with an error and have not happened. Of equal denies the last one
// is kept: a repeat renews the sequence.
func (l *Ledger) keepDenies(batch []*op) {
	for _, o := range batch {
		if o.key == "" {
			continue
		}
		i, known := l.unsavedKeys[o.key]
		if known {
			old := l.unsaved[i]
			for n := range old.width {
				l.windows.unbind(old.first + uint64(n)) // its revocations will never be
			}
			old.dropped()
			l.unsaved[i] = o
			continue
		}
		l.unsavedKeys[o.key] = len(l.unsaved)
		l.unsaved = append(l.unsaved, o)
	}
}

// recover reopens and checks the file, takes back a failed transaction that
// reached it after all, and writes what only memory had. Only then is anything
// acknowledged again.
func (l *Ledger) recover() bool {
	now := l.now()
	if now.Sub(l.lastTry) < recoverInterval/2 {
		return false
	}
	l.lastTry = now
	err := l.reopen()
	if err != nil {
		l.logger().Debug("ledger still cannot be written", "path", l.path, "error", err)
		return false
	}
	t, err := l.commitTxn(append([]*op{l.undoOp()}, l.unsavedOps()...))
	if err != nil {
		l.logger().Debug("ledger still cannot be written", "path", l.path, "error", err)
		return false
	}
	l.settle(t)
	_ = l.view(l.countAudit) // what was undone was never counted; the file was verified above
	saved := len(l.unsaved)
	l.unsaved, l.undo, l.undoOf = nil, nil, 0
	clear(l.unsavedKeys)
	l.failed.Store(false)
	l.logger().Info("ledger works again", "path", l.path, "denies_saved", saved)
	return true
}

// unsavedOps are the kept denies as ops of their own: nobody waits for them
// any more, and whoever waited may still be reading the old ones.
func (l *Ledger) unsavedOps() []*op {
	ops := make([]*op, len(l.unsaved))
	for i, o := range l.unsaved {
		ops[i] = &op{width: o.width, first: o.first, apply: o.apply}
	}
	return ops
}

// undoOp takes the failed transaction back if the file holds it.
func (l *Ledger) undoOp() *op {
	return &op{apply: func(t *txn) error {
		if l.undoOf == 0 {
			return nil
		}
		_, c, err := readMeta(t.tx)
		if err != nil {
			return err
		}
		if c.Batch != l.undoOf {
			return nil
		}
		for i := len(l.undo) - 1; i >= 0; i-- {
			step := &l.undo[i]
			if step.existed {
				t.put(step.bucket, step.key, step.old)
			} else {
				t.delete(step.bucket, step.key)
			}
		}
		if t.broken != nil {
			return nil
		}
		_, c, err = readMeta(t.tx)
		t.pruned = c.Pruned // what it deleted from the audit is back
		return err
	}}
}

func (l *Ledger) reopen() error {
	l.dbMu.Lock()
	defer l.dbMu.Unlock()
	if l.db != nil {
		err := guard(l.db.Close)
		l.db = nil
		if err != nil {
			return fmt.Errorf("closing: %w", err)
		}
	}
	db, file, err := openBolt(l.path, 0)
	if err != nil {
		return explainOpen(l.path, err)
	}
	err = guard(func() error { return verify(db, file, l.tag) })
	if err != nil {
		return errors.Join(err, db.Close())
	}
	l.db = db
	return nil
}

// verify checks the whole file, page by page and record by record.
func verify(db *bolt.DB, file *os.File, tag string) error {
	return db.View(func(tx *bolt.Tx) error {
		err := checkPages(tx, file)
		if err != nil {
			return err
		}
		id, _, err := readMeta(tx)
		if err != nil {
			return err
		}
		if id.Tag != tag {
			return fmt.Errorf("%w: another ledger stands in its place", errDamaged)
		}
		// First our own walk: a fault in it is caught, one in the checker's
		// goroutine would end the process.
		err = survey(tx, func([]byte, bool, uint64) {}, func(uint64) {})
		if err != nil {
			return err
		}
		for _, name := range buckets {
			var order ascending
			err := tx.Bucket(name).ForEach(func(key, _ []byte) error { return order.next(key) })
			if err != nil {
				return err
			}
		}
		var problem error
		for err := range tx.Check() { // drained: the checker runs until read
			if problem == nil {
				problem = err
			}
		}
		return problem
	})
}
