package revocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Trigger asks for a revocation at the core, and by default for a block here
// at once (TS 23.222 8.23.3 step 1).
type Trigger struct {
	Invoker string
	AEF     string
	// APIs are apiIds, one revocation each; empty means one revocation of
	// all APIs.
	APIs []string
	// AllAEFs is the indication of step 7; nil leaves it to the profile.
	AllAEFs *bool
	Cause   string
	Reason  string
	Ticket  string
	// RequestedBy is who asked.
	RequestedBy string
	// Source is what asked; "" means [SourceOperator].
	Source Source
	// Hold blocks the invoker here while the core's word is awaited.
	Hold bool
	// RequestID, if set, names this trigger: a later one with the same name
	// changes nothing and answers with what the first one made. It is known for
	// [RequestAge] at least.
	RequestID string
}

// MaxRequestIDBytes bounds the name of a trigger.
const MaxRequestIDBytes = 200

// Trigger records a revocation for each API and, with hold, an aef claim each.
// One that is equal to a revocation still pending answers with that one. When
// Trigger returns nil, all of it is durable and, with hold, no call that starts
// afterwards passes. Errors wrap [ErrInvalid], [ErrNotReady] or
// [ErrNotDurable].
func (l *Ledger) Trigger(ctx context.Context, t Trigger) ([]Revocation, error) {
	apis, err := checkAPIs(t.APIs)
	if err != nil {
		return nil, err
	}
	err = checkID("aef_id", t.AEF)
	if err != nil {
		return nil, err
	}
	for what, text := range map[string]string{"cause": t.Cause, "reason": t.Reason, "ticket": t.Ticket, "requested_by": t.RequestedBy} {
		err := checkText(what, text)
		if err != nil {
			return nil, err
		}
	}
	if t.RequestID != "" {
		err := checkID("request_id", t.RequestID)
		if err != nil {
			return nil, err
		}
		if len(t.RequestID) > MaxRequestIDBytes {
			return nil, fmt.Errorf("%w: request_id is longer than %d bytes", ErrInvalid, MaxRequestIDBytes)
		}
	}
	o := &op{width: len(apis)}
	scopes := make([]Scope, len(apis))
	for i, api := range apis {
		scopes[i] = Scope{Invoker: t.Invoker, AEF: t.AEF, API: api}
		err := scopes[i].check()
		if err != nil {
			return nil, err
		}
		o.key += string(appendScope(nil, &scopes[i]))
	}
	o.key = fmt.Sprintf("trigger|%s|%t|%v|%q|%q|%q", o.key, t.Hold, boolWord(t.AllAEFs), t.Cause, t.Reason, t.Ticket)
	if t.RequestID != "" {
		// A repeat is found before anything is blocked: what it once blocked
		// may have been lifted. The writer looks again.
		known, err := l.knownRequest(&t, apis)
		if err != nil || known != nil {
			return known, err
		}
		o.key += "|" + t.RequestID
	}
	if t.Hold {
		o.denies = scopes
	}
	// From here on calls are counted. Opened, then the epoch: see windows.
	opened := l.windows.add(scopes)
	o.drop = func() { l.windows.drop(opened) }
	l.epochs.of(t.Invoker).Add(1)
	var made []Revocation
	o.apply = func(tx *txn) error {
		defer o.drop() // all that no pending revocation keeps; counts stay readable
		made = make([]Revocation, 0, len(scopes))
		known, err := tx.requested(&t, apis)
		if err != nil {
			tx.unblock(o.denies, tx.op.first)
			return err
		}
		if known != nil {
			made = known
			tx.unblock(o.denies, tx.op.first)
			return nil
		}
		for i := range scopes {
			r, err := tx.trigger(&t, &scopes[i], tx.op.first+uint64(i), opened[i])
			if err != nil {
				return err
			}
			made = append(made, r)
		}
		tx.noteTrigger(&t, made)
		return nil
	}
	err = l.submit(ctx, o)
	if err != nil {
		return nil, err // made belongs to the writer: a kept deny runs again
	}
	return made, nil
}

func boolWord(b *bool) string {
	if b == nil {
		return "-"
	}
	return strconv.FormatBool(*b)
}

func (t *txn) trigger(asked *Trigger, s *Scope, sequence uint64, w *window) (Revocation, error) {
	pending, err := t.pendingOf(s)
	if err != nil {
		return Revocation{}, err
	}
	for _, r := range pending {
		if !r.sameRequest(asked) {
			continue
		}
		if asked.Hold && !r.Hold {
			r.Hold = true
			t.expose(&r)
			t.putRevocation(&r)
			t.putAEFClaim(&r, sequence)
		}
		// Known in memory already, unless a failed recovery reached the disk.
		t.notePending(&r)
		return r, nil
	}
	r := Revocation{
		ID: t.ledger.revocationID(sequence), Sequence: sequence,
		InvokerID: s.Invoker, AEFID: s.AEF, APIID: s.API, AllAPIs: s.API == "",
		AllAEFs: asked.AllAEFs, Cause: asked.Cause, Reason: asked.Reason, Ticket: asked.Ticket,
		RequestedBy: asked.RequestedBy, Source: cmp.Or(asked.Source, SourceOperator), Hold: asked.Hold,
		State: StatePending, CreatedAt: t.at,
	}
	if asked.Hold { // it is blocked already
		r.Exposure = w.snapshot(t.at)
	} else {
		t.ledger.windows.bind(sequence, w)
	}
	t.putRevocation(&r)
	t.put(bucketPending, pendingKey(s, sequence), nil)
	t.notePending(&r)
	t.step(&r)
	if asked.Hold {
		t.putAEFClaim(&r, sequence)
	}
	return r, nil
}

func (t *txn) notePending(r *Revocation) {
	t.pending = append(t.pending, pendingChange{
		ref: PendingRef{Sequence: r.Sequence, Invoker: r.InvokerID, Due: t.at}, pending: true,
	})
}

func (t *txn) putAEFClaim(r *Revocation, sequence uint64) {
	t.putClaim(&Claim{
		Scope: r.scope(), Origin: OriginAEF, Revocation: r.ID, revocationSeq: r.Sequence,
		Cause: r.Cause, SetAt: t.at,
	}, sequence)
}

// pendingOf returns the pending revocations of exactly this scope.
func (t *txn) pendingOf(s *Scope) ([]Revocation, error) {
	var found []Revocation
	prefix := appendScope(nil, s)
	for key := range scan(t.tx.Bucket(bucketPending).Cursor(), prefix) {
		sequence, _, err := readPendingKey(key)
		if err != nil {
			return nil, err
		}
		r, err := t.revocation(sequence)
		if err != nil {
			return nil, listedButGone(err)
		}
		found = append(found, r)
	}
	return found, nil
}

// listedButGone: a pending revocation without its record is damage, not a
// question about something unknown.
func listedButGone(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: a pending revocation is missing", errDamaged)
	}
	return err
}

// end takes a revocation off the pending list.
func (t *txn) end(r *Revocation, state State) {
	r.State, r.DecidedAt, r.NextAttempt = state, t.at, time.Time{}
	t.expose(r)
	t.step(r)
	s := r.scope()
	t.delete(bucketPending, pendingKey(&s, r.Sequence))
	t.pending = append(t.pending, pendingChange{ref: PendingRef{Sequence: r.Sequence, Invoker: r.InvokerID}})
}

// expose notes what passed until now, if it was counted from the trigger on.
func (t *txn) expose(r *Revocation) {
	if w := t.ledger.windows.bound(r.Sequence); w != nil {
		r.Exposure = w.snapshot(t.ledger.now().UTC())
	}
}

func (t *txn) putRevocation(r *Revocation) {
	t.putRecord(bucketRevocations, sequenceKey(r.Sequence), r.Sequence, r)
}

func (t *txn) revocation(sequence uint64) (Revocation, error) {
	return readRevocation(t.tx, sequence)
}

// Progress is what an exchange with the core brought.
type Progress struct {
	// Answer, if set, is recorded whatever the state.
	Answer *Answer
	// ListedSent marks, before a request leaves, that the core listed the
	// authorization and that the request may reach it.
	ListedSent bool
	// Confirmed says that the core answered a request as one that leaves
	// nothing to revoke: 2xx, or 404 in its own words.
	Confirmed bool
	// NextAttempt, if set, ends the exchange without a decision.
	NextAttempt time.Time
	// State, if set, is the decision.
	State State
}

func (p *Progress) decided() bool { return p.State != "" && p.State != StatePending }

// denies tells of a decision that leaves the invoker denied, held or not.
func (p *Progress) denies() bool { return p.decided() && p.State != StateRejected }

// Record notes the progress of a revocation. One that is no longer pending
// takes the answer and nothing else; the returned record tells. Without hold,
// a decision other than rejected sets the claim, blocking before it is durable.
// Errors wrap [ErrNotFound], [ErrUnreadable], [ErrInvalid], [ErrNotReady] or
// [ErrNotDurable].
func (l *Ledger) Record(ctx context.Context, sequence uint64, p Progress) (Revocation, error) {
	switch p.State {
	case "", StatePending, StateRevoked, StateUnconfirmed, StateNoAuthorizationFound, StateRejected:
	default:
		return Revocation{}, fmt.Errorf("%w: %q is no decision of the core", ErrInvalid, p.State)
	}
	o := &op{width: 1, prompt: p.denies()}
	var after Revocation
	o.apply = func(t *txn) error {
		r, err := t.revocation(sequence)
		if errors.Is(err, errDamaged) && !l.IsPending(sequence) {
			// A pending one is damage to what the file must hold; this is not.
			return fmt.Errorf("ledger %s: %w: %w", l.path, ErrUnreadable, err)
		}
		if err != nil {
			return err
		}
		if p.Answer != nil {
			r.Answers = append(r.Answers, *p.Answer)
			r.Answers = r.Answers[max(0, len(r.Answers)-maxAnswers):]
		}
		if r.State == StatePending {
			t.progress(&r, &p, o.first)
		}
		t.putRevocation(&r)
		after = r
		return nil
	}
	err := l.submit(ctx, o)
	if err != nil {
		return Revocation{}, err
	}
	return after, nil
}

func (t *txn) progress(r *Revocation, p *Progress, sequence uint64) {
	if p.ListedSent {
		r.Listed, r.Sent = true, true
	}
	if p.Confirmed {
		r.Confirmed++
	}
	if !p.NextAttempt.IsZero() {
		r.Attempts++
		r.NextAttempt = p.NextAttempt.UTC()
	}
	if !p.decided() {
		return
	}
	if !r.Hold && p.denies() {
		s := r.scope()
		t.ledger.block(&s, sequence)
		t.putAEFClaim(r, sequence)
	}
	t.end(r, p.State)
	t.audit(Audit{
		Action: ActionCoreAnswer, By: byCore, Invoker: r.InvokerID, AEF: r.AEFID, APIs: apisOf(r), AllAPIs: r.AllAPIs,
		Revocations: []string{r.ID}, State: r.State, Answer: lastAnswer(r),
	})
}

func apisOf(r *Revocation) []string {
	if r.AllAPIs {
		return nil
	}
	return []string{r.APIID}
}

func lastAnswer(r *Revocation) *Answer {
	if len(r.Answers) == 0 {
		return nil
	}
	return &r.Answers[len(r.Answers)-1]
}

// revocationID names a revocation so that it is unique over ledgers: a lost
// ledger's ids are not given out again.
func (l *Ledger) revocationID(sequence uint64) string {
	return fmt.Sprintf("rv-%s-%d", l.tag, sequence)
}

func (l *Ledger) parseRevocationID(id string) (uint64, error) {
	rest, ok := strings.CutPrefix(id, "rv-"+l.tag+"-")
	if !ok {
		return 0, fmt.Errorf("%w: no revocation %q", ErrNotFound, id)
	}
	sequence, err := strconv.ParseUint(rest, 10, 64)
	if err != nil || strconv.FormatUint(sequence, 10) != rest {
		return 0, fmt.Errorf("%w: no revocation %q", ErrNotFound, id)
	}
	return sequence, nil
}

// sortBySequence orders revocations as they were asked for.
func sortBySequence(list []Revocation) {
	slices.SortFunc(list, func(a, b Revocation) int {
		switch {
		case a.Sequence < b.Sequence:
			return -1
		case a.Sequence > b.Sequence:
			return 1
		default:
			return 0
		}
	})
}
