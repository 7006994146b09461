package subscription

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Some cores refuse a whole subscription for one event that they do not know,
// and do not say which one. The list is then halved: a part that is accepted
// together with what was accepted before stays, a single event that is not is
// refused for good. For n events that takes at most 2n-1 requests, and four for
// the usual case of one event that is too new.

// acceptError says that no subscription could be made.
type acceptError struct{ err error }

// Error returns the cause's text.
func (e *acceptError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *acceptError) Unwrap() error { return e.err }

// accept makes a subscription to every event that the core knows. Those that it
// made on the way are in Stale, to be deleted.
func (k *Keeper) accept(ctx context.Context, s *Settings) (revocation.Subscription, error) {
	a := acceptance{core: s.Core, settings: s}
	err := a.try(ctx, Events())
	if err == nil && a.made.ID == "" {
		err = fmt.Errorf("the core refuses every event: %w", a.refusal)
	}
	if err != nil {
		if a.made.ID != "" { // half of it: not what anyone asked for
			a.stale = append(a.stale, a.made)
		}
		k.current.Stale = append(k.current.Stale, a.stale...)
		k.current.Core = s.CoreURL
		k.saved = k.saved && len(a.stale) == 0
		return revocation.Subscription{}, &acceptError{err}
	}
	return revocation.Subscription{
		SubscriptionRef: a.made, Core: s.CoreURL, Destination: digest(s.Destination),
		Events: a.accepted, Refused: a.refused, Since: time.Now().UTC(), Stale: a.stale,
	}, nil
}

// acceptance is one search for the events that a core knows.
type acceptance struct {
	core     Core
	settings *Settings
	made     revocation.SubscriptionRef // the subscription to accepted
	accepted []string
	refused  []string
	failed   [][]string // lists that were refused
	stale    []revocation.SubscriptionRef
	refusal  error
}

// try adds a group of events to those that are accepted, or the part of it that
// the core knows. Its error is that of a core in trouble.
func (a *acceptance) try(ctx context.Context, group []string) error {
	err := a.subscribe(ctx, slices.Concat(a.accepted, group))
	if err == nil || !refusesList(err) {
		return err
	}
	if len(group) == 1 {
		a.refused = append(a.refused, group[0])
		return nil
	}
	half := len(group) / 2
	err = a.try(ctx, group[:half])
	if err != nil {
		return err
	}
	return a.try(ctx, group[half:])
}

func (a *acceptance) subscribe(ctx context.Context, events []string) error {
	if slices.ContainsFunc(a.failed, func(f []string) bool { return slices.Equal(f, events) }) {
		return a.refusal // asked before
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := a.core.Subscribe(ctx, a.settings.Subscriber, coreclient.Subscription{Events: events, Destination: a.settings.Destination})
	if err != nil {
		if refusesList(err) {
			a.failed, a.refusal = append(a.failed, events), err
		}
		return err
	}
	if a.made.ID != "" {
		a.stale = append(a.stale, a.made)
	}
	a.made = revocation.SubscriptionRef{Subscriber: a.settings.Subscriber, ID: id}
	a.accepted = events
	return nil
}

// refusesList reports whether the core refused what it was asked for, and not
// who asked, nor for want of anything else.
func refusesList(err error) bool {
	var e *coreclient.Error
	return errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity)
}
