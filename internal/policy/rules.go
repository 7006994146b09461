package policy

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Rule is what one API invoker may do at one API. Nil and empty limit nothing.
type Rule struct {
	// Total is how many calls may pass in all, PerSecond how many in a second.
	Total, PerSecond *int64
	// Ranges are when; any of them suffices.
	Ranges []Range
}

// Range is the time from Start on and before Stop; a zero end is open.
type Range struct{ Start, Stop time.Time }

func (r *Rule) equal(o *Rule) bool {
	if r == nil || o == nil {
		return r == o
	}
	return equalNumbers(r.Total, o.Total) && equalNumbers(r.PerSecond, o.PerSecond) &&
		slices.EqualFunc(r.Ranges, o.Ranges, func(a, b Range) bool { return a.Start.Equal(b.Start) && a.Stop.Equal(b.Stop) })
}

func equalNumbers(a, b *int64) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// Rules are the policy of one API at one AEF.
type Rules struct {
	// All is for every API invoker that Single does not name; nil limits none.
	All *Rule
	// Single are for one API invoker each, in the place of All.
	Single map[string]*Rule
}

// Equal reports whether two policies say the same.
func (r *Rules) Equal(o *Rules) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.All.equal(o.All) && maps.EqualFunc(r.Single, o.Single, func(a, b *Rule) bool { return a.equal(b) })
}

// Block is how many calls of a total are reserved ahead, and so how many a crash
// loses at most: a twentieth, 1 to 10,000. Half a block of the largest lasts longer
// than a sync of the disk, however fast one API invoker calls.
func Block(total int64) int64 { return min(max(total/20, 1), 10_000) }

// noTotal stands for a policy that does not limit the total.
const noTotal = math.MaxInt64

// terms are a rule made ready for the hot path. They never change, and all whom
// the rule is for share them, so that they are near whoever calls.
type terms struct {
	rule      *Rule
	total     int64 // noTotal for none
	block     int64
	perSecond int    // noRate for none
	spans     []span // nil for any time
}

// noRate stands for a policy that does not limit the rate.
const noRate = -1

// span is a range in Unix nanoseconds.
type span struct{ start, stop int64 }

// newTerms makes terms of a rule, nil of one that limits nothing.
func newTerms(rule *Rule) *terms {
	if rule == nil || (rule.Total == nil && rule.PerSecond == nil && len(rule.Ranges) == 0) {
		return nil
	}
	t := &terms{rule: rule, total: noTotal, perSecond: noRate}
	if rule.Total != nil {
		t.total, t.block = *rule.Total, Block(*rule.Total)
	}
	if rule.PerSecond != nil {
		t.perSecond = int(min(*rule.PerSecond, math.MaxInt32))
	}
	for _, r := range rule.Ranges {
		t.spans = append(t.spans, span{nanoseconds(r.Start, math.MinInt64), nanoseconds(r.Stop, math.MaxInt64)})
	}
	return t
}

// ruleset is a policy with its terms.
type ruleset struct {
	rules  *Rules
	all    *terms
	single map[string]*terms
}

func newRuleset(rules *Rules) *ruleset {
	if rules == nil {
		return &ruleset{}
	}
	r := &ruleset{rules: rules, all: newTerms(rules.All), single: make(map[string]*terms, len(rules.Single))}
	for invoker, rule := range rules.Single {
		r.single[invoker] = newTerms(rule)
	}
	return r
}

func (r *ruleset) of(invoker string) *terms {
	if t, ok := r.single[invoker]; ok {
		return t
	}
	return r.all
}

// nanoseconds is open for a zero time, and for one that int64 cannot hold, which
// is centuries away.
func nanoseconds(t time.Time, open int64) int64 {
	switch year := t.Year(); {
	case t.IsZero():
		return open
	case year < 1700:
		return math.MinInt64
	case year > 2200:
		return math.MaxInt64
	default:
		return t.UnixNano()
	}
}

func (t *terms) inTime(now int64) bool {
	for i := range t.spans {
		if t.spans[i].start <= now && now < t.spans[i].stop {
			return true
		}
	}
	return false
}
