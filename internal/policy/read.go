package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
)

const (
	readTimeout = 10 * time.Second
	// gather is the least time between two rounds that hints cause: anybody who
	// knows the hint path can cause one.
	gather   = time.Second
	maxRetry = time.Minute
)

// run reads the core's policies: at the start, after a hint, in each interval,
// and after a failure with growing pauses.
func (t *Table) run() {
	retry := time.Duration(0)
	var last time.Time
	for {
		wait := t.interval()
		if retry > 0 {
			wait = min(wait, retry)
		}
		timer := time.NewTimer(wait)
		select {
		case <-t.ctx.Done():
			timer.Stop()
			return
		case <-t.wake:
			timer.Stop()
			// Only hints are gathered: calls wait for what new settings need.
			if !t.applied.Load() && !t.pause(gather-time.Since(last)) {
				return
			}
		case <-timer.C:
		}
		// What comes from here on is newer than this round may be.
		select {
		case <-t.wake:
		default:
		}
		t.applied.Store(false)
		last = time.Now()
		if t.readAll() {
			retry = 0
		} else {
			retry = min(max(2*retry, time.Second), maxRetry)
		}
	}
}

func (t *Table) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// interval is the reconcile interval with jitter.
func (t *Table) interval() time.Duration {
	s := t.settings.Load()
	if s == nil {
		return DefaultInterval
	}
	return s.Interval*9/10 + rand.N(s.Interval/5+1) //nolint:gosec // jitter, no secret
}

// readAll reads every policy that comes from the core, one after the other, and
// reports whether all could be read.
func (t *Table) readAll() bool {
	s := t.settings.Load()
	if s == nil {
		return true
	}
	var failure error
	for id, source := range s.Pairs {
		if source.Rules != nil {
			continue
		}
		err := t.read(s, t.pair(id))
		if err != nil {
			failure = err
		}
	}
	switch {
	case t.settings.Load() != s || t.ctx.Err() != nil:
		return true // it is done again, or never
	case failure != nil:
		t.alarms.Raise(t.log(), alarm.PolicyUnread, fmt.Sprintf("%v; what was read last stays in force, and until the first read routes without require pass calls on without limit", failure))
		return false
	default:
		t.alarms.Clear(t.log(), alarm.PolicyUnread)
		return true
	}
}

func (t *Table) read(s *Settings, p *pair) error {
	ctx, cancel := context.WithTimeout(t.ctx, readTimeout)
	defer cancel()
	t.stats.reads.Add(1)
	list, err := s.Core.Policies(ctx, p.id.AEF, p.id.API)
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.settings.Load() != s || !p.fetched {
		return nil // of a configuration that is no longer in force
	}
	defer p.triedLocked()
	if err != nil && !p.noneLocked(err) {
		t.stats.failed.Add(1)
		if !p.failing {
			t.log().Warn("access control policy cannot be read", "aef_id", p.id.AEF, "api_id", p.id.API, "known", p.known.Load(), "error", err)
		}
		p.failing = true
		return fmt.Errorf("aefId %s, apiId %s: %w", p.id.AEF, p.id.API, err)
	}
	rules := rulesOf(list)
	if !p.known.Load() || p.failing || !rules.Equal(p.rules.Load().rules) {
		t.log().Info("access control policy read", "aef_id", p.id.AEF, "api_id", p.id.API, "api_invokers", len(list))
	}
	p.failing = false
	p.read = word{core: s.Core, rules: rules}
	p.setLocked(rules)
	p.known.Store(true)
	return nil
}

// noneLocked says whether an error is the core's word that there is no policy.
// Some cores do not have this API and answer as a proxy does; from one that has
// had a policy, that is no word.
func (p *pair) noneLocked(err error) bool {
	var e *coreclient.Error
	if !errors.As(err, &e) || e.Class() != coreclient.NotFound {
		return false
	}
	return e.InCoreShape || p.rules.Load().rules == nil
}

// rulesOf makes rules of the core's list; nil if it is empty. Of two policies for
// one API invoker the later one counts.
func rulesOf(list []coreclient.Policy) *Rules {
	if len(list) == 0 {
		return nil
	}
	rules := &Rules{Single: make(map[string]*Rule, len(list))}
	for i := range list {
		rule := &Rule{Total: list[i].Total, PerSecond: list[i].PerSecond}
		for _, r := range list[i].Ranges {
			rule.Ranges = append(rule.Ranges, Range(r))
		}
		rules.Single[list[i].Invoker] = rule
	}
	return rules
}

var _ Core = (*coreclient.Core)(nil)
