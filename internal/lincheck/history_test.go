package lincheck

import "testing"

func deny(begin, end uint64) Change { return Change{Begin: begin, End: end} }
func lift(begin, end uint64) Change { return Change{Begin: begin, End: end, Lift: true} }

func failed(c Change) Change {
	c.Failed = true
	return c
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		changes           []Change
		begin, end        uint64
		mayPass, mayBlock bool
	}{
		"nothing ever denied":                   {nil, 5, 6, true, false},
		"a deny acknowledged before":            {[]Change{deny(1, 2)}, 5, 6, false, true},
		"a deny in flight":                      {[]Change{deny(1, 9)}, 5, 6, true, true},
		"a deny that begins during the call":    {[]Change{deny(6, 9)}, 5, 7, true, true},
		"a deny that begins behind the call":    {[]Change{deny(8, 9)}, 5, 7, true, false},
		"lifted before":                         {[]Change{deny(1, 2), lift(3, 4)}, 5, 6, true, false},
		"a lift in flight":                      {[]Change{deny(1, 2), lift(3, 9)}, 5, 6, true, true},
		"a lift that begins during the call":    {[]Change{deny(1, 2), lift(6, 9)}, 5, 7, true, true},
		"a lift that begins behind the call":    {[]Change{deny(1, 2), lift(8, 9)}, 5, 7, false, true},
		"a lift before the deny":                {[]Change{lift(1, 2), deny(3, 4)}, 5, 6, false, true},
		"a lift beside the deny":                {[]Change{lift(1, 3), deny(2, 4)}, 5, 6, true, true},
		"two denies, a lift beside the second":  {[]Change{deny(1, 2), deny(3, 6), lift(4, 5)}, 8, 9, true, true},
		"two denies, a lift between":            {[]Change{deny(1, 2), lift(3, 4), deny(5, 6)}, 8, 9, false, true},
		"two denies, one lift behind both":      {[]Change{deny(1, 3), deny(2, 4), lift(5, 6)}, 8, 9, true, false},
		"a failed lift":                         {[]Change{deny(1, 2), failed(lift(3, 4))}, 5, 6, false, true},
		"a failed lift in flight":               {[]Change{deny(1, 2), failed(lift(3, 9))}, 5, 6, false, true},
		"a failed deny":                         {[]Change{failed(deny(1, 2))}, 5, 6, false, true},
		"a failed deny, lifted":                 {[]Change{failed(deny(1, 2)), lift(3, 4)}, 5, 6, true, false},
		"a failed lift behind a good one":       {[]Change{deny(1, 2), lift(3, 4), failed(lift(5, 6))}, 8, 9, true, false},
		"denied again while the call goes on":   {[]Change{deny(1, 2), lift(3, 4), deny(6, 9)}, 5, 7, true, true},
		"a lift long in flight over two denies": {[]Change{deny(1, 2), lift(3, 20), deny(4, 5)}, 8, 9, true, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			passed := Check(test.changes, []Call{{Begin: test.begin, End: test.end, Passed: true}})
			if got := passed.Late == 0; got != test.mayPass || passed.Stuck != 0 {
				t.Errorf("passed: got %+v; want it accepted: %v", passed, test.mayPass)
			}
			refused := Check(test.changes, []Call{{Begin: test.begin, End: test.end}})
			if got := refused.Stuck == 0; got != test.mayBlock || refused.Late != 0 {
				t.Errorf("refused: got %+v; want it accepted: %v", refused, test.mayBlock)
			}
			if (passed.First == "") != (passed.Violations() == 0) {
				t.Errorf("got the words %q for %d violations", passed.First, passed.Violations())
			}
		})
	}
}

func TestCheckKeepsPairsApartAndCountsOverlap(t *testing.T) {
	got := Check(
		[]Change{{Pair: 1, Begin: 1, End: 10}, {Pair: 1, Begin: 5, End: 6, Lift: true, Failed: true}, {Pair: 2, Begin: 20, End: 21}},
		[]Call{{Pair: 1, Begin: 2, End: 3, Passed: true}, {Pair: 1, Begin: 11, End: 12}, {Pair: 2, Begin: 7, End: 8, Passed: true}, {Pair: 3, Begin: 30, End: 31, Passed: true}},
	)
	want := Report{Calls: 4, Changes: 3, Overlapping: 1, OverlappingChanges: 1, FailedLifts: 1}
	if got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}
