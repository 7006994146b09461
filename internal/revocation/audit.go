package revocation

import (
	"bytes"
	"context"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Action says what an audit record is about.
type Action string

const (
	// ActionRevoke is a trigger of this AEF.
	ActionRevoke Action = "revoke"
	// ActionLift is a lift by an operator.
	ActionLift Action = "lift"
	// ActionReconcile is an operator's order to read every context again.
	ActionReconcile Action = "reconcile"
	// ActionAccept is an operator's order to let a suspended mass change count.
	ActionAccept Action = "accept"
	// ActionCoreAnswer is the core's decision on a revocation.
	ActionCoreAnswer Action = "core_answer"
	// ActionCoreDeny is a command or event of the core that set claims; one
	// that only repeats what is denied leaves no record.
	ActionCoreDeny Action = "core_deny"
	// ActionCoreLift is a context of the core that lifted its own claims.
	ActionCoreLift Action = "core_lift"
	// ActionCoreContext is a context of the core that newly lists, or no longer
	// lists, what decides calls here. One that is read for the first time leaves
	// no record, nor does what a claim denies anyway. At most 300 in an hour have
	// a record; the others are counted, in one for each minute.
	ActionCoreContext Action = "core_context"
	// ActionExpire is the end of token claims whose tokens expired.
	ActionExpire Action = "expire"
	// ActionUnreadable stands for a record that is damaged.
	ActionUnreadable Action = "unreadable"
)

// Actions returns every action that a record can have.
func Actions() []Action {
	return []Action{ActionRevoke, ActionLift, ActionReconcile, ActionAccept, ActionCoreAnswer, ActionCoreDeny, ActionCoreLift, ActionCoreContext, ActionExpire, ActionUnreadable}
}

// Who is who asked for a change, and why. Reason and Ticket are for people.
type Who struct {
	By     string
	Reason string
	Ticket string
}

func (w *Who) check() error {
	for what, text := range map[string]string{"reason": w.Reason, "ticket": w.Ticket, "requested_by": w.By} {
		err := checkText(what, text)
		if err != nil {
			return err
		}
	}
	return nil
}

// byCore is who changed something where the core did.
const byCore = "core"

// Audit is the record of one change: who, when, what, why, and what came of it.
type Audit struct {
	// Sequence is that of the change: it names the record and orders it.
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
	Action   Action    `json:"action"`
	// By is who: the subject of a client certificate, a remote address, or
	// "core".
	By      string `json:"by,omitempty"`
	Invoker string `json:"api_invoker_id,omitempty"`
	AEF     string `json:"aef_id,omitempty"`
	// APIs are apiIds; AllAPIs stands in their place.
	APIs    []string `json:"api_ids,omitempty"`
	AllAPIs bool     `json:"all_apis,omitempty"`
	Token   Digest   `json:"token_digest,omitzero"`
	Cause   string   `json:"cause,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Ticket  string   `json:"ticket,omitempty"`
	// RequestID is what the trigger was named by, if it was.
	RequestID string `json:"request_id,omitempty"`
	// Revocations are the ids that were made, answered with, decided or
	// cancelled.
	Revocations []string `json:"revocations,omitempty"`
	// Claims is how many claims were set or removed.
	Claims int `json:"claims,omitempty"`
	// Listed and Unlisted are what the context of the API invoker newly lists and
	// no longer lists, at most 20 of each.
	Listed   []ContextEntry `json:"listed,omitempty"`
	Unlisted []ContextEntry `json:"unlisted,omitempty"`
	// Contexts is how many contexts changed: those of a minute that have no record
	// of their own where no API invoker is named.
	Contexts int `json:"contexts,omitempty"`
	// State and Answer are the core's decision and the answer it came with.
	State  State   `json:"state,omitempty"`
	Answer *Answer `json:"answer,omitempty"`
	// Outcome is what an accept was about: `accepted`, a mass change that was
	// suspended, or `nothing_suspended`, as it was found when it was asked for.
	Outcome string `json:"outcome,omitempty"`
}

// Outcomes of an accept.
const (
	OutcomeAccepted         = "accepted"
	OutcomeNothingSuspended = "nothing_suspended"
)

// Retention bounds the audit. Zero fields mean the defaults.
type Retention struct {
	// Records is how many are kept, the newest.
	Records int
	// Age is how long they are kept.
	Age time.Duration
}

const (
	// DefaultAuditRecords is how many audit records are kept by default.
	DefaultAuditRecords = 100_000
	// DefaultAuditAge is how long audit records are kept by default.
	DefaultAuditAge = 365 * 24 * time.Hour
	// maxAuditPrune bounds what one change deletes besides what it adds.
	maxAuditPrune = 1000
)

// SetRetention bounds the audit from the next change on.
func (l *Ledger) SetRetention(r Retention) {
	if r.Records <= 0 {
		r.Records = DefaultAuditRecords
	}
	if r.Age <= 0 {
		r.Age = DefaultAuditAge
	}
	l.retention.Store(&r)
}

func (l *Ledger) kept() Retention {
	if r := l.retention.Load(); r != nil {
		return *r
	}
	return Retention{Records: DefaultAuditRecords, Age: DefaultAuditAge}
}

// audit writes a record in the transaction of the change that it is about.
func (t *txn) audit(a Audit) {
	a.Sequence, a.At = t.op.first, t.at
	t.putRecord(bucketAudit, sequenceKey(a.Sequence), a.Sequence, &a)
	t.audited++
	t.noted = true
}

// pruneAudit keeps the audit within its count. Old records are deleted with what
// pushed them out, and those past their age by the sweep.
func (t *txn) pruneAudit() {
	if t.audited <= 0 || t.broken != nil {
		return
	}
	over := int(t.ledger.audits.Load()) + t.audited - t.ledger.kept().Records
	t.deleteAudit(min(over, t.audited+maxAuditPrune), func(*Audit) bool { return true })
}

// deleteAudit deletes the oldest records, at most so many, while f says so.
func (t *txn) deleteAudit(most int, f func(*Audit) bool) {
	var old [][]byte
	cursor := t.tx.Bucket(bucketAudit).Cursor()
	for key, value := cursor.First(); key != nil && len(old) < most; key, value = cursor.Next() {
		a := readAudit(key, value)
		if !f(&a) {
			break
		}
		old = append(old, bytes.Clone(key))
	}
	for _, key := range old {
		t.delete(bucketAudit, key)
		t.pruned = max(t.pruned, readSequenceKey(key))
		t.audited--
	}
}

func (l *Ledger) tooOld(a *Audit) bool {
	return a.Action == ActionUnreadable || l.now().Sub(a.At) > l.kept().Age
}

// auditDue reports whether the oldest audit record is past its age.
func (l *Ledger) auditDue() bool {
	due := false
	err := l.view(func(tx *bolt.Tx) error {
		key, value := tx.Bucket(bucketAudit).Cursor().First()
		if key != nil {
			a := readAudit(key, value)
			due = l.tooOld(&a)
		}
		return nil
	})
	return err == nil && due
}

// countAudit counts the records anew.
func (l *Ledger) countAudit(tx *bolt.Tx) error {
	b := tx.Bucket(bucketAudit)
	if b == nil { // it is made where it lacks
		return nil
	}
	// Not by Stats of bbolt, which does not end where a page points back.
	var order ascending
	count := int64(0)
	cursor := b.Cursor()
	for key, _ := cursor.First(); key != nil; key, _ = cursor.Next() {
		err := order.next(key)
		if err != nil {
			return damaged("the audit", err)
		}
		count++
	}
	l.audits.Store(count)
	return nil
}

// readAudit decodes a record; a damaged one is shown as one.
func readAudit(key, value []byte) Audit {
	var a Audit
	sequence, err := decodeRecord(key, value, &a)
	if err != nil {
		return Audit{Action: ActionUnreadable, Sequence: readSequenceKey(key)}
	}
	a.Sequence = sequence
	return a
}

// Note records what an operator did that changes nothing in the ledger itself;
// outcome is that of an accept, else "".
// Errors wrap [ErrInvalid], [ErrNotReady] or [ErrNotDurable].
func (l *Ledger) Note(ctx context.Context, action Action, outcome string, who Who) error {
	err := who.check()
	if err != nil {
		return err
	}
	if action != ActionReconcile && action != ActionAccept {
		return fmt.Errorf("%w: %q is no action to note", ErrInvalid, action)
	}
	return l.submit(ctx, &op{width: 1, apply: func(t *txn) error {
		t.audit(Audit{Action: action, By: who.By, Reason: who.Reason, Ticket: who.Ticket, Outcome: outcome})
		return nil
	}})
}

// AuditQuery selects audit records. The zero value selects the newest.
type AuditQuery struct {
	Invoker string
	Action  Action
	// Before continues a listing: only sequences below it; 0 for no bound.
	Before uint64
	// Limit is at most [MaxPage], which is also the default.
	Limit int
}

// Audits returns what q selects, newest first, and the value of Before that
// continues the listing, 0 at its end.
func (l *Ledger) Audits(q AuditQuery) ([]Audit, uint64, error) {
	limit := pageSize(q.Limit)
	found := []Audit{}
	next := uint64(0)
	err := l.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketAudit).Cursor()
		key, value := cursor.Last()
		if q.Before > 0 {
			cursor.Seek(sequenceKey(q.Before))
			key, value = cursor.Prev()
		}
		for ; key != nil; key, value = cursor.Prev() {
			a := readAudit(key, value)
			if (q.Invoker != "" && a.Invoker != q.Invoker) || (q.Action != "" && a.Action != q.Action) {
				continue
			}
			if len(found) == limit {
				next = found[limit-1].Sequence
				return nil
			}
			found = append(found, a)
		}
		return nil
	})
	return found, next, err
}

// LastAudit returns the sequence of the newest record there is or was, 0 if there
// never was one.
func (l *Ledger) LastAudit() (uint64, error) {
	last := uint64(0)
	err := l.view(func(tx *bolt.Tx) error {
		key, _ := tx.Bucket(bucketAudit).Cursor().Last()
		if key != nil {
			last = readSequenceKey(key)
			return nil
		}
		_, c, err := readMeta(tx)
		last = c.Pruned
		return err
	})
	if err != nil {
		return 0, err
	}
	return last, nil
}

// AuditsAfter returns the records after a sequence, oldest first, at most
// [MaxPage], and the sequence of the last record that is no longer kept: if it is
// above the given one, records after that are missing.
func (l *Ledger) AuditsAfter(sequence uint64) ([]Audit, uint64, error) {
	found := []Audit{}
	pruned := uint64(0)
	err := l.view(func(tx *bolt.Tx) error {
		_, c, err := readMeta(tx)
		if err != nil {
			return err
		}
		pruned = c.Pruned
		cursor := tx.Bucket(bucketAudit).Cursor()
		for key, value := cursor.Seek(sequenceKey(sequence + 1)); key != nil && len(found) < MaxPage; key, value = cursor.Next() {
			found = append(found, readAudit(key, value))
		}
		return nil
	})
	return found, pruned, err
}

// AuditChanged returns a channel that is closed at the next change that leaves an
// audit record. Take it before looking for what is new.
func (l *Ledger) AuditChanged() <-chan struct{} {
	l.changedMu.Lock()
	defer l.changedMu.Unlock()
	return l.changed
}

func (l *Ledger) tellChanged() {
	l.changedMu.Lock()
	defer l.changedMu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}
