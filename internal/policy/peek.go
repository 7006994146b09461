package policy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

// Peek says what [Gate.Admit] would answer to a call of invoker at the time now,
// and why, and counts nothing: no call, no rate, no account, no trigger. As a call
// does, it may wait up to a second for the first read of a policy. What it cannot
// know is whether the ledger would take the next reservation.
func (g *Gate) Peek(ctx context.Context, invoker string, now time.Time) (enforce.Reason, string) {
	peeks := make([]peek, len(g.pairs))
	for i, p := range g.pairs {
		peeks[i] = peek{pair: p, account: p.find(invoker), invoker: invoker, named: len(g.pairs) > 1}
		reason, outcome := peeks[i].consent(ctx, now, g.options.Required)
		if reason != enforce.Allowed {
			return reason, outcome
		}
	}
	var outcomes []string
	for i := range peeks {
		reason, outcome := peeks[i].take()
		if reason != enforce.Allowed {
			return reason, outcome
		}
		outcomes = append(outcomes, outcome)
	}
	return enforce.Allowed, strings.Join(outcomes, "; ")
}

// peek looks at one API invoker at one API. It has no account before its first
// call.
type peek struct {
	pair    *pair
	account *account
	invoker string
	terms   *terms
	named   bool // there are others: say which
}

func (p *peek) load() *terms {
	if p.account == nil {
		return p.pair.rules.Load().of(p.invoker)
	}
	return p.account.terms.Load()
}

func (p *peek) say(format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	if p.named {
		return "apiId " + p.pair.id.API + ": " + text
	}
	return text
}

// consent is Gate.consent.
func (p *peek) consent(ctx context.Context, now time.Time, required bool) (enforce.Reason, string) {
	p.terms = p.load()
	if p.terms == nil {
		if !p.pair.known.Load() && !p.pair.await(ctx) && required {
			return enforce.PolicyUnavailable, p.say("the policy that the route requires was never read from the core")
		}
		p.terms = p.load()
	}
	t, a := p.terms, p.account
	switch {
	case t == nil:
	case t.spans != nil && !t.inTime(now.UnixNano()):
		return enforce.OutsideTimeRange, p.say("it allows calls at other times")
	case t.perSecond != noRate && !p.inRate(now):
		return enforce.OverRate, p.say("more than %d calls in a second", t.perSecond)
	case t.total != noTotal && a != nil && a.usedUp(t):
		return enforce.OverLimit, p.say("all %d calls in total are used", t.total)
	}
	return enforce.Allowed, ""
}

// inRate is rate.Limiter.AllowN for one call, without taking it.
func (p *peek) inRate(now time.Time) bool {
	if p.account == nil {
		return p.terms.perSecond >= 1 // the bucket is full
	}
	tokens := p.account.limiter.TokensAt(now)
	limit := float64(p.account.limiter.Limit())
	switch {
	case p.account.limiter.Burst() < 1:
		return false
	case tokens >= 1 || limit <= 0:
		return tokens >= 1
	}
	// What is missing is waited for in whole nanoseconds; for none of them a call
	// passes.
	return int64((1-tokens)/limit*float64(time.Second)) <= 0
}

// take is Gate.take.
func (p *peek) take() (enforce.Reason, string) {
	t := p.terms
	switch {
	case t == nil:
		return enforce.Allowed, p.say("nothing is limited")
	case t.total == noTotal:
		return enforce.Allowed, p.say("%s", t.within())
	}
	used, err := p.used()
	switch {
	case err != nil:
		return enforce.PolicyUnavailable, p.say("the count of calls cannot be read")
	case used == frozen:
		return enforce.PolicyUnavailable, p.say("the count of calls is closed")
	case used >= t.total:
		return enforce.OverLimit, p.say("all %d calls in total are used", t.total)
	}
	return enforce.Allowed, p.say("%s, %d of %d calls in total used", t.within(), used, t.total)
}

// used is how many calls are counted. Before the first call since the start, that
// is what the ledger has as reserved.
func (p *peek) used() (int64, error) {
	if a := p.account; a != nil {
		used := a.used.Load()
		if used == frozen || a.loaded.Load() {
			return used, nil
		}
	}
	c, err := p.pair.table.store.Count(revocation.CountRef{Invoker: p.invoker, AEF: p.pair.id.AEF, API: p.pair.id.API})
	return c.Reserved, err
}

// within says which limits a call is within that are no total.
func (t *terms) within() string {
	text := "at any time"
	if t.spans != nil {
		text = "in its time"
	}
	if t.perSecond != noRate {
		text += fmt.Sprintf(", within %d calls in a second", t.perSecond)
	}
	return text
}
