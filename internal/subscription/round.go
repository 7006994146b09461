package subscription

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// round brings the core and the store to what the settings say.
func (k *Keeper) round(ctx context.Context, s *Settings) error {
	if s == nil {
		return nil
	}
	k.load(s)
	if k.current.Core != s.CoreURL && k.current.Core != "" {
		// It cannot be deleted at a core that is no longer configured.
		s.Logger.Info("subscription left at another core", "core", k.current.Core, "subscription_id", k.current.ID)
		k.current, k.saved = revocation.Subscription{}, false
	}
	var err error
	if s.Destination == "" {
		k.end(ctx, s)
	} else {
		err = k.keep(ctx, s)
	}
	k.deleteStale(ctx, s)
	k.save(ctx, s)
	k.report(s, err)
	return err
}

// load reads, once, what an earlier process had.
func (k *Keeper) load(s *Settings) {
	if k.loaded {
		return
	}
	current, _, err := k.store.Subscription()
	if err != nil {
		s.Logger.Warn("subscription of an earlier run cannot be read; a new one is made", "error", err)
	}
	k.current, k.loaded, k.saved = current, true, err == nil
}

// end gives up the subscription of an earlier configuration.
func (k *Keeper) end(ctx context.Context, s *Settings) {
	if k.current.ID == "" {
		return
	}
	k.replace(revocation.Subscription{Core: s.CoreURL})
	s.Logger.Info("subscription is given up: none is configured")
}

// replace puts next in the place of the current subscription, which becomes
// one to be deleted.
func (k *Keeper) replace(next revocation.Subscription) {
	next.Stale = append(next.Stale, k.current.Stale...)
	if k.current.ID != "" {
		next.Stale = append(next.Stale, k.current.SubscriptionRef)
	}
	next.Stale = next.Stale[max(0, len(next.Stale)-revocation.MaxStale):]
	k.current, k.saved = next, false
}

// keep renews the subscription, or makes one.
func (k *Keeper) keep(ctx context.Context, s *Settings) error {
	same := k.serves(s)
	if same {
		err := k.renew(ctx, s)
		if err == nil || !replaceable(err) {
			return err
		}
	}
	old := k.current.SubscriptionRef
	next, err := k.accept(ctx, s)
	if err != nil {
		return err
	}
	logRefused := !slices.Equal(next.Refused, k.current.Refused)
	k.replace(next)
	k.save(ctx, s)
	stood := false
	if old.ID != "" {
		stood = k.deleteStale(ctx, s)[old]
	}
	s.Logger.Info("subscribed to events of the core", "subscription_id", next.ID, "events", next.Events)
	if logRefused && len(next.Refused) > 0 {
		s.Logger.Warn("core refuses some events; what they would have said is found by re-reading contexts", "refused_events", next.Refused)
	}
	if !same || !stood {
		s.Gap(ctx)
	}
	return nil
}

// serves reports whether the subscription is the one that the settings mean.
func (k *Keeper) serves(s *Settings) bool {
	known := slices.Concat(k.current.Events, k.current.Refused)
	slices.Sort(known)
	wanted := Events()
	slices.Sort(wanted)
	return k.current.ID != "" && k.current.Core == s.CoreURL && k.current.Subscriber == s.Subscriber &&
		k.current.Destination == digest(s.Destination) && slices.Equal(known, wanted)
}

// renew asks the core for the subscription by its id; after a start also for
// what was refused: the core may be a newer one now.
func (k *Keeper) renew(ctx context.Context, s *Settings) error {
	put := func(events []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return s.Core.Renew(ctx, k.current.Subscriber, k.current.ID, coreclient.Subscription{Events: events, Destination: s.Destination})
	}
	if len(k.current.Refused) > 0 && !k.retried {
		err := put(Events())
		if err == nil {
			s.Logger.Info("core no longer refuses any event", "accepted_events", k.current.Refused)
			k.current.Events, k.current.Refused, k.saved = Events(), nil, false
			return nil
		}
		if !refusesList(err) {
			return err
		}
		k.retried = true
	}
	return put(k.current.Events)
}

// replaceable tells a core that has forgotten the subscription, or knows no
// PUT, or does not like what it once accepted, from one that is in trouble.
func replaceable(err error) bool {
	var e *coreclient.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Class() == coreclient.NotFound || e.Class() == coreclient.BadRequest || e.Status == http.StatusNotImplemented
}

// deleteStale deletes what is left to be deleted, and reports which of them the
// core still had. What the core does not let us delete is forgotten; what was
// not answered is tried again in the next round.
func (k *Keeper) deleteStale(ctx context.Context, s *Settings) map[revocation.SubscriptionRef]bool {
	stood := make(map[revocation.SubscriptionRef]bool)
	var left []revocation.SubscriptionRef
	for _, ref := range k.current.Stale {
		if ref == k.current.SubscriptionRef {
			continue // the core gave the same id again
		}
		found, err := k.unsubscribe(ctx, s, ref)
		stood[ref] = found
		var e *coreclient.Error
		if err == nil || errors.As(err, &e) && e.Class() == coreclient.BadRequest {
			continue
		}
		left = append(left, ref)
	}
	if len(left) != len(k.current.Stale) {
		k.current.Stale, k.saved = left, false
	}
	return stood
}

func (k *Keeper) unsubscribe(ctx context.Context, s *Settings, ref revocation.SubscriptionRef) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.Core.Unsubscribe(ctx, ref.Subscriber, ref.ID)
}

// save makes the current subscription durable. If the disk fails it is tried
// again in the next round: until then a restart would subscribe anew.
func (k *Keeper) save(ctx context.Context, s *Settings) {
	if k.saved {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := k.store.SaveSubscription(ctx, k.current)
	if err != nil {
		s.Logger.Warn("subscription not saved", "error", err)
		return
	}
	k.saved = true
}

// report tells operators what came of a round.
func (k *Keeper) report(s *Settings, err error) {
	k.mu.Lock()
	st := &k.status
	st.Configured = s.Destination != ""
	st.ID, st.Events, st.Refused, st.Since = k.current.ID, k.current.Events, k.current.Refused, k.current.Since
	switch {
	case !st.Configured:
		st.Subscribed, st.Error = false, ""
	case err == nil:
		st.Subscribed, st.Error, st.Checked = true, "", time.Now().UTC()
	default:
		// A core that is in trouble still has what it had; one that answered
		// that it has it no longer, and makes no other, has not.
		st.Subscribed = st.Subscribed && k.serves(s) && !k.lost(err)
		st.Error = err.Error()
	}
	subscribed := st.Subscribed
	k.mu.Unlock()

	if err == nil {
		k.silent = false
		k.alarms.Clear(s.Logger, alarm.SubscriptionFailed)
		return
	}
	if !k.silent {
		k.silent = true
		s.Logger.Warn("subscription not confirmed by the core", "error", err)
	}
	if !subscribed {
		k.alarms.Raise(s.Logger, alarm.SubscriptionFailed, fmt.Sprintf(
			"the core has confirmed no subscription to its events; what it announces is found by re-reading contexts only: %v", err))
	}
}

func (k *Keeper) lost(err error) bool {
	var failed *acceptError
	return errors.As(err, &failed)
}

// putOff is how long the core asked us to wait.
func putOff(err error) time.Duration {
	var e *coreclient.Error
	if !errors.As(err, &e) {
		return 0
	}
	return min(e.RetryAfter, maxPutOff)
}

func digest(destination string) string {
	sum := sha256.Sum256([]byte(destination))
	return hex.EncodeToString(sum[:])
}
