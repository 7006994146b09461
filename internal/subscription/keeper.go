package subscription

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Core is the part of the CAPIF core function that subscriptions need;
// *coreclient.Core is one. Every call MUST end with its context.
type Core interface {
	Subscribe(ctx context.Context, subscriberID string, s coreclient.Subscription) (string, error)
	Renew(ctx context.Context, subscriberID, id string, s coreclient.Subscription) error
	Unsubscribe(ctx context.Context, subscriberID, id string) (bool, error)
}

// Store is where the subscription is durable; *revocation.Ledger is one.
type Store interface {
	Subscription() (revocation.Subscription, bool, error)
	SaveSubscription(ctx context.Context, s revocation.Subscription) error
}

// Events returns what an AEF that enforces revocations has to hear of. The
// events that old cores do not know come last.
func Events() []string {
	return []string{
		"API_INVOKER_AUTHORIZATION_REVOKED",
		"API_INVOKER_OFFBOARDED",
		"ACCESS_CONTROL_POLICY_UPDATE",
		"ACCESS_CONTROL_POLICY_UNAVAILABLE",
		"SERVICE_API_UNAVAILABLE",
		"API_INVOKER_UPDATED",
	}
}

const (
	interval     = 10 * time.Minute
	leastGap     = time.Second
	firstDelay   = time.Second
	maxDelay     = 5 * time.Minute
	maxPutOff    = time.Hour // how long the core can put us off
	callTimeout  = 30 * time.Second
	storeTimeout = 10 * time.Second
)

// Settings belong to one configuration and are replaced with it.
type Settings struct {
	Core Core
	// CoreURL names the core: an id of another core is not used.
	CoreURL string
	// Subscriber is the subscriberId.
	Subscriber string
	// Destination is the URL that receives the notifications. Empty: nothing
	// is subscribed to, and what was is deleted.
	Destination string
	// Gap is called when a subscription stands after a time in which perhaps
	// none did. Required. It is called without any lock, and may block.
	Gap    func(context.Context)
	Logger *slog.Logger
}

// sameAs reports whether a subscription made for one serves the other.
func (s *Settings) sameAs(o *Settings) bool {
	return s.CoreURL == o.CoreURL && s.Subscriber == o.Subscriber && s.Destination == o.Destination
}

// Keeper keeps the subscription. Make one with [New].
type Keeper struct {
	store    Store
	alarms   *alarm.Set
	settings atomic.Pointer[Settings]
	wake     chan struct{}

	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	status Status

	// The rest belongs to the goroutine of run.
	loaded  bool
	saved   bool // current is what the store holds
	current revocation.Subscription
	retried bool // events that were refused before the start were asked for once more
	silent  bool // the failure was logged
}

// Status is what an operator sees.
type Status struct {
	// Configured says that there should be a subscription.
	Configured bool
	// Subscribed says that the core had it when it was asked last.
	Subscribed bool
	ID         string
	Events     []string
	Refused    []string
	Since      time.Time
	// Checked is when the core last confirmed it.
	Checked time.Time
	// Error is why the last round failed; empty if it did not.
	Error string
}

// New makes a keeper that does nothing until [Keeper.Start].
func New(store Store, alarms *alarm.Set) *Keeper {
	return &Keeper{store: store, alarms: alarms, wake: make(chan struct{}, 1)}
}

// Apply replaces the settings. Those that mean the same subscription cause no
// exchange, unless the last one failed: a new configuration may have mended
// what was wrong.
func (k *Keeper) Apply(s *Settings) {
	old := k.settings.Swap(s)
	k.mu.Lock()
	k.status.Configured = s.Destination != ""
	failing := k.status.Error != ""
	k.mu.Unlock()
	if old == nil || failing || !old.sameAs(s) {
		k.Poke()
	}
}

// Poke asks for a round soon. It never blocks.
func (k *Keeper) Poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Start begins to work, in the background: a core that is down delays nothing.
// It may be called once, after Apply.
func (k *Keeper) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	k.done.Go(func() { k.run(ctx) })
}

// Stop ends the exchange in flight and waits for it.
func (k *Keeper) Stop() {
	if k.cancel == nil {
		return
	}
	k.cancel()
	k.done.Wait()
}

// Status returns the state of affairs.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.status
	st.Events, st.Refused = slices.Clone(st.Events), slices.Clone(st.Refused)
	return st
}

func (k *Keeper) run(ctx context.Context) {
	delays := newBackoff()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-k.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := k.round(ctx, k.settings.Load())
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			delays.Reset()
			timer.Reset(interval*9/10 + rand.N(interval/5)) //nolint:gosec // jitter, no secret
		} else {
			timer.Reset(max(delays.NextBackOff(), putOff(err)))
		}
		// Whoever says Poke all the time causes a round a second.
		rest := time.NewTimer(leastGap)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return
		}
	}
}

func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = firstDelay, maxDelay, 2
	b.Reset()
	return b
}

var (
	_ Core  = (*coreclient.Core)(nil)
	_ Store = (*revocation.Ledger)(nil)
)
