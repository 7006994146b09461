package revocation

import "time"

// Changes of contexts by which no claim is lifted get at most so many audit records
// an hour: a core that changes very many, even for days, must not push out of the
// audit what people did. The others are counted, in one record for each minute.
const (
	maxContextRecords = 300
	contextPeriod     = time.Hour
	// maxAuditEntries bounds the entries of each kind in one record.
	maxAuditEntries = 20
)

// noteContext writes the one record of what a context changed, and of the claims
// that it lifted.
func (t *txn) noteContext(c *Context, lifted int) {
	record := Audit{Action: ActionCoreLift, By: byCore, Invoker: c.Invoker, Claims: lifted}
	if c.Change != nil {
		record.Listed = c.Change.Listed[:min(len(c.Change.Listed), maxAuditEntries)]
		record.Unlisted = c.Change.Unlisted[:min(len(c.Change.Unlisted), maxAuditEntries)]
		record.Contexts = 1
	}
	if lifted > 0 {
		t.audit(record)
		return
	}
	if c.Change == nil {
		return
	}
	if t.ledger.contextRecords+t.contexts >= maxContextRecords {
		t.untold++
		return
	}
	t.contexts++
	record.Action = ActionCoreContext
	t.audit(record)
}

// tellContexts ends a minute: it records how many changes of contexts have no record
// of their own.
func (l *Ledger) tellContexts() {
	if l.now().Sub(l.contextsSince) >= contextPeriod {
		l.contextRecords, l.contextsSince = 0, l.now()
	}
	if l.contextsUntold == 0 || l.failed.Load() {
		return
	}
	l.commitBatch([]*op{l.begin(&op{width: 1, done: make(chan struct{}), apply: func(t *txn) error {
		t.audit(Audit{Action: ActionCoreContext, By: byCore, Contexts: l.contextsUntold})
		t.untold = -l.contextsUntold
		return nil
	}})})
}
