package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// coreWords turns what the authenticated core says into claims.
type coreWords struct {
	app   *App
	state *state
}

// Deny sets core claims. An aefId that is not hosted here is refused and
// nothing stored: a success would let the core believe in a block that does not
// exist. An apiId that no route stands for is stored and alarmed: a route may
// come later.
func (c *coreWords) Deny(ctx context.Context, d corecallback.Deny) error {
	defer since(c.state.metrics.timings.message, time.Now())
	return c.deny(ctx, d)
}

func (c *coreWords) deny(ctx context.Context, d corecallback.Deny) error {
	if d.AEFID != "" && !slices.Contains(c.app.hosted(), d.AEFID) {
		return corecallback.ErrForeignAEF
	}
	deny := revocation.Deny{AEF: d.AEFID, APIs: d.APIIDs, Cause: d.Cause}
	if !d.Token.IsZero() {
		err := c.narrow(&deny, d.Token.Reveal(), d.Invokers)
		if err != nil {
			return err
		}
	}
	for _, invoker := range d.Invokers {
		deny.Invoker = invoker
		err := c.state.ledger.Deny(ctx, deny)
		if err != nil {
			return callbackError(err)
		}
		c.app.log.slog.Info("authorization revoked by the core", "api_invoker_id", invoker, "aef_id", d.AEFID,
			"api_ids", d.APIIDs, "cause", d.Cause, "event", d.Event, "token_digest", deny.Token.String())
	}
	c.alarmUnmapped(d.AEFID, d.APIIDs)
	return c.state.context.Hint(ctx, d.Invokers)
}

// narrow keeps a deny to one token (Release 19). A token that has no readable
// form is refused: denying more or less than the core meant would both be wrong.
// So is one of another API invoker, by the claims of any route.
func (c *coreWords) narrow(deny *revocation.Deny, raw string, invokers []string) error {
	refuse := func(reason string) error {
		return corecallback.InvalidParam{Param: corecallback.ParamAccessToken, Reason: reason}
	}
	named, fits := false, false
	for _, claims := range c.app.invokerClaims() {
		t, err := token.Peek(raw, claims...)
		if err != nil {
			return refuse(err.Error())
		}
		deny.Token = revocation.Digest(t.Digest)
		if t.Expires > 0 {
			deny.TokenExpires = time.Unix(t.Expires, 0)
		}
		named = named || t.Invoker != ""
		fits = fits || slices.Contains(invokers, t.Invoker)
	}
	if named && !fits {
		return refuse("the token belongs to another API invoker")
	}
	return nil
}

func (c *coreWords) alarmUnmapped(aefID string, apiIDs []string) {
	known := c.app.apisOf(aefID)
	var unmapped []string
	for _, id := range apiIDs {
		if !slices.Contains(known, id) {
			unmapped = append(unmapped, id)
		}
	}
	if len(unmapped) == 0 {
		return
	}
	c.state.alarms.Raise(c.app.log.slog, alarm.UnmappedAPI,
		fmt.Sprintf("the core revoked apiId %s, which no capif_enforce stands for: the claim is kept; if the API is served here, add its id as api_id",
			strings.Join(unmapped[:min(len(unmapped), 5)], ", ")))
}

// Gone denies all APIs of offboarded API invokers.
func (c *coreWords) Gone(ctx context.Context, invokers []string) error {
	defer since(c.state.metrics.timings.message, time.Now())
	err := c.deny(ctx, corecallback.Deny{Invokers: invokers, Event: corecallback.EventInvokerOffboarded})
	if err != nil {
		return err
	}
	err = c.state.context.Gone(ctx, invokers)
	if err != nil {
		return callbackError(err)
	}
	return nil
}

// Hint makes contexts due: the next call of each waits for a new read.
func (c *coreWords) Hint(ctx context.Context, h corecallback.Hint) error {
	defer since(c.state.metrics.timings.message, time.Now())
	if !h.Authenticated && slices.Contains(policyHints, h.Event) {
		c.state.policy.Poke()
	}
	return c.state.context.HintGathered(ctx, h.Invokers)
}

// PolicyChanged has the policies read again, with a list in the event or without:
// that list need not be whole, and can be older than what was read.
func (c *coreWords) PolicyChanged(context.Context, corecallback.Policy) error {
	c.state.policy.Poke()
	return nil
}

// policyHints are the events after which a hint, which anybody can send, has the
// policies read again; what cannot be decoded may be one.
var policyHints = []string{corecallback.EventPolicyUpdate, corecallback.EventPolicyUnavailable, ""}

// ServiceUnavailable notes nothing: routes are served as configured.
func (c *coreWords) ServiceUnavailable(context.Context, []string) error { return nil }

// callbackError is what the ledger's errors mean to the core.
func callbackError(err error) error {
	switch {
	case errors.Is(err, revocation.ErrInvalid):
		return corecallback.InvalidParam{Param: "/revokeInfo", Reason: err.Error()}
	case errors.Is(err, revocation.ErrNotDurable):
		return fmt.Errorf("%w: %w", corecallback.ErrNotDurable, err)
	default:
		return err
	}
}

var _ corecallback.Consumer = (*coreWords)(nil)
