package lincheck

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
)

// Clock orders the begins and ends of operations. The zero value is ready.
type Clock struct{ stamps atomic.Uint64 }

// Now returns the next stamp; no two are equal.
func (c *Clock) Now() uint64 { return c.stamps.Add(1) }

// Change is a deny, or a lift that covers every deny of its pair.
type Change struct {
	Pair       int
	Begin, End uint64
	Lift       bool
	// Failed says that it was answered with an error.
	Failed bool
}

// Call is one decision.
type Call struct {
	Pair       int32
	Passed     bool
	Begin, End uint64
}

// Stream is a call that was let in and stayed in flight.
type Stream struct {
	Pair int32
	// Begin is when it came, In when it was let in.
	Begin, In uint64
	// Ended says that it was ended, and did not end by itself.
	Ended bool
	// Open says that it was still in flight at the end of the history.
	Open bool
}

// CallsOf says what streams mean as calls, for [Check]. rest is a stamp taken when
// no change was in flight and all that changes were to end had been ended. A
// stream passed when it was let in, and again at rest if it is open then: a deny
// must have ended it. One that was ended was refused at some time of its life.
func CallsOf(streams []Stream, rest uint64) []Call {
	calls := make([]Call, 0, 2*len(streams))
	for _, s := range streams {
		calls = append(calls, Call{Pair: s.Pair, Passed: true, Begin: s.Begin, End: s.In})
		switch {
		case s.Ended:
			calls = append(calls, Call{Pair: s.Pair, Begin: s.Begin, End: rest})
		case s.Open:
			calls = append(calls, Call{Pair: s.Pair, Passed: true, Begin: rest, End: rest})
		}
	}
	return calls
}

// Report is what a history shows. Reports add up: see [Report.Add].
type Report struct {
	Calls   int
	Changes int
	// Overlapping calls were in flight together with a change of their pair.
	Overlapping int
	// OverlappingChanges were in flight together with another of their pair.
	OverlappingChanges int
	// FailedLifts were answered with an error.
	FailedLifts int
	// Late and Stuck count the violations, First describes one.
	Late, Stuck int
	First       string
}

// Violations returns how often the promise was broken.
func (r *Report) Violations() int { return r.Late + r.Stuck }

// Add sums up two reports.
func (r *Report) Add(o *Report) {
	r.Calls += o.Calls
	r.Changes += o.Changes
	r.Overlapping += o.Overlapping
	r.OverlappingChanges += o.OverlappingChanges
	r.FailedLifts += o.FailedLifts
	r.Late += o.Late
	r.Stuck += o.Stuck
	r.First = cmp.Or(r.First, o.First)
}

// Check judges a complete history: nothing of it is still in flight, and before
// it nothing was denied.
func Check(changes []Change, calls []Call) Report {
	report := Report{Calls: len(calls), Changes: len(changes)}
	byPair := map[int32][]Change{}
	for _, c := range changes {
		byPair[int32(c.Pair)] = append(byPair[int32(c.Pair)], c)
	}
	pairs := map[int32]*pair{}
	for number, own := range byPair {
		p := newPair(own)
		pairs[number] = p
		report.FailedLifts += p.failedLifts
		report.OverlappingChanges += p.overlapping()
	}
	untouched := newPair(nil)
	for i := range calls {
		c := &calls[i]
		p := pairs[c.Pair]
		if p == nil {
			p = untouched
		}
		if p.all.below(c.End) > c.Begin {
			report.Overlapping++
		}
		switch {
		case c.Passed && p.late(c):
			report.Late++
		case !c.Passed && p.stuck(c):
			report.Stuck++
		default:
			continue
		}
		if report.First == "" {
			report.First = p.describe(c)
		}
	}
	return report
}

// pair holds the changes of one pair in the orders that the questions need.
type pair struct {
	changes     []Change
	failedLifts int
	all         series // every change, by begin
	deniesBegun series // by begin, with the latest end so far
	liftsBegun  series
	deniesEnded series // by end, with the latest begin so far
	liftsEnded  series
}

// series answers "the highest value among those whose key is below a stamp".
type series struct{ keys, highest []uint64 }

type point struct{ key, value uint64 }

func newSeries(points []point) series {
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.key, b.key) })
	s := series{make([]uint64, len(points)), make([]uint64, len(points))}
	highest := uint64(0)
	for i, p := range points {
		highest = max(highest, p.value)
		s.keys[i], s.highest[i] = p.key, highest
	}
	return s
}

// below returns 0 if there is none.
func (s *series) below(stamp uint64) uint64 {
	n := sort.Search(len(s.keys), func(i int) bool { return s.keys[i] >= stamp })
	if n == 0 {
		return 0
	}
	return s.highest[n-1]
}

func newPair(changes []Change) *pair {
	p := &pair{changes: changes}
	var all, deniesBegun, deniesEnded, liftsBegun, liftsEnded []point
	for _, c := range changes {
		all = append(all, point{c.Begin, c.End})
		switch {
		case !c.Lift:
			deniesBegun = append(deniesBegun, point{c.Begin, c.End})
			deniesEnded = append(deniesEnded, point{c.End, c.Begin})
		case c.Failed:
			p.failedLifts++
		default:
			liftsBegun = append(liftsBegun, point{c.Begin, c.End})
			liftsEnded = append(liftsEnded, point{c.End, c.Begin})
		}
	}
	p.all = newSeries(all)
	p.deniesBegun, p.deniesEnded = newSeries(deniesBegun), newSeries(deniesEnded)
	p.liftsBegun, p.liftsEnded = newSeries(liftsBegun), newSeries(liftsEnded)
	return p
}

// late asks about the deny, of those that ended before the call, that began
// last: fewest lifts can stand behind it.
func (p *pair) late(c *Call) bool {
	deny := p.deniesEnded.below(c.Begin)
	return deny > 0 && p.liftsBegun.below(c.End) < deny
}

func (p *pair) stuck(c *Call) bool {
	return p.liftsEnded.below(c.Begin) >= p.deniesBegun.below(c.End)
}

// overlapping counts changes that began before an earlier one had ended.
func (p *pair) overlapping() int {
	n, end := 0, uint64(0)
	slices.SortFunc(p.changes, func(a, b Change) int { return cmp.Compare(a.Begin, b.Begin) })
	for _, c := range p.changes {
		if c.Begin < end {
			n++
		}
		end = max(end, c.End)
	}
	return n
}

// describe shows a call with the changes around it.
func (p *pair) describe(c *Call) string {
	words := fmt.Sprintf("pair %d: call [%d %d] passed %v, after", c.Pair, c.Begin, c.End, c.Passed)
	from := max(len(p.changes), 4) - 4
	for i, change := range p.changes {
		if change.Begin > c.End {
			from = max(i, 4) - 4
			break
		}
	}
	for _, change := range p.changes[from:min(from+4, len(p.changes))] {
		words += fmt.Sprintf(" [%d %d lift %v failed %v]", change.Begin, change.End, change.Lift, change.Failed)
	}
	return words
}
