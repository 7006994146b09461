package revocation

import (
	"context"
	"slices"
)

// Lift asks to allow again.
type Lift struct {
	Invoker string
	// AEF narrows the lift to claims that name this aefId; "" covers every
	// claim, also those of the core that name none.
	AEF string
	// APIs are apiIds; empty lifts everything of the invoker.
	APIs []string
	// Who stands in the audit.
	Who Who
}

// Lifted is what a lift did and what it left.
type Lifted struct {
	// Claims are those that were removed.
	Claims []Claim
	// Cancelled are revocations that were still pending: nothing is sent for
	// them any more.
	Cancelled []Revocation
	// StillDenying are claims that the lift does not cover and that deny
	// calls it was about.
	StillDenying []Claim
	// Counts are those of calls that begin anew: the lift covers them, and
	// calls were refused because the total was used up.
	Counts []CountRef
}

// Covers says whether the lift is about claims and revocations of this scope.
func (lift *Lift) Covers(s *Scope) bool {
	if lift.AEF != "" && s.AEF != lift.AEF {
		return false
	}
	return len(lift.APIs) == 0 || slices.Contains(lift.APIs, s.API)
}

// touches says whether a claim that the lift does not cover denies calls that
// the lift was about.
func (lift *Lift) touches(s *Scope) bool {
	if lift.AEF != "" && s.AEF != "" && s.AEF != lift.AEF {
		return false
	}
	return len(lift.APIs) == 0 || s.API == "" || slices.Contains(lift.APIs, s.API)
}

// Lift removes, in one transaction, the claims it covers, whoever set them,
// and cancels their pending revocations. On an error nothing was lifted.
// Errors wrap [ErrInvalid], [ErrNotReady] or [ErrNotDurable].
func (l *Ledger) Lift(ctx context.Context, lift Lift) (Lifted, error) {
	_, err := checkAPIs(lift.APIs)
	if err != nil {
		return Lifted{}, err
	}
	err = Scope{Invoker: lift.Invoker, AEF: lift.AEF}.check()
	if err != nil {
		return Lifted{}, err
	}
	err = lift.Who.check()
	if err != nil {
		return Lifted{}, err
	}
	o := &op{width: 1}
	var done Lifted
	o.apply = func(t *txn) error {
		result, err := t.lift(&lift, o.first)
		if err != nil {
			return err
		}
		done = result
		return nil
	}
	err = l.submit(ctx, o)
	if err != nil {
		return Lifted{}, err
	}
	return done, nil
}

func (t *txn) lift(lift *Lift, sequence uint64) (Lifted, error) {
	var done Lifted
	prefix := appendInvoker(nil, lift.Invoker)
	for key, value := range scan(t.tx.Bucket(bucketClaims).Cursor(), prefix) {
		c, err := decodeClaim(key, value)
		if err != nil {
			return Lifted{}, err
		}
		switch {
		case lift.Covers(&c.Scope):
			done.Claims = append(done.Claims, c)
		case lift.touches(&c.Scope):
			done.StillDenying = append(done.StillDenying, c)
		}
	}
	for key := range scan(t.tx.Bucket(bucketPending).Cursor(), prefix) {
		number, _, err := readPendingKey(key)
		if err != nil {
			return Lifted{}, err
		}
		r, err := t.revocation(number)
		if err != nil {
			return Lifted{}, listedButGone(err)
		}
		s := r.scope()
		if lift.Covers(&s) {
			done.Cancelled = append(done.Cancelled, r)
		}
	}
	for i := range done.Claims {
		t.removeClaim(&done.Claims[i], sequence)
	}
	for i := range done.Cancelled {
		t.end(&done.Cancelled[i], StateCancelled)
		t.putRevocation(&done.Cancelled[i])
	}
	sortBySequence(done.Cancelled)
	done.Counts = t.resetCounts(lift, sequence)
	record := Audit{
		Action: ActionLift, By: lift.Who.By, Reason: lift.Who.Reason, Ticket: lift.Who.Ticket,
		Invoker: lift.Invoker, AEF: lift.AEF, APIs: lift.APIs, AllAPIs: len(lift.APIs) == 0, Claims: len(done.Claims),
	}
	for i := range done.Cancelled {
		record.Revocations = append(record.Revocations, done.Cancelled[i].ID)
	}
	t.audit(record)
	return done, nil
}
