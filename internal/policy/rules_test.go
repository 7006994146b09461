package policy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/enforce"
)

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestTimeRanges: from the start on, before the stop, whatever the zone is called
// and whether its clocks change.
func TestTimeRanges(t *testing.T) {
	type bounds [2]string
	tests := []struct {
		name   string
		ranges []bounds
		at     string
		want   enforce.Reason
	}{
		{"one nanosecond before", []bounds{{"2026-03-01T08:00:00Z", "2026-03-01T17:00:00Z"}}, "2026-03-01T07:59:59.999999999Z", enforce.OutsideTimeRange},
		{"at the start", []bounds{{"2026-03-01T08:00:00Z", "2026-03-01T17:00:00Z"}}, "2026-03-01T08:00:00Z", enforce.Allowed},
		{"one nanosecond before the end", []bounds{{"2026-03-01T08:00:00Z", "2026-03-01T17:00:00Z"}}, "2026-03-01T16:59:59.999999999Z", enforce.Allowed},
		{"at the end", []bounds{{"2026-03-01T08:00:00Z", "2026-03-01T17:00:00Z"}}, "2026-03-01T17:00:00Z", enforce.OutsideTimeRange},
		{"start in another zone", []bounds{{"2026-03-01T10:00:00+02:00", ""}}, "2026-03-01T08:00:00Z", enforce.Allowed},
		{"before a start in another zone", []bounds{{"2026-03-01T10:00:00+02:00", ""}}, "2026-03-01T07:59:59Z", enforce.OutsideTimeRange},
		{"call in another zone", []bounds{{"", "2026-03-01T08:00:00Z"}}, "2026-03-01T09:59:59+02:00", enforce.Allowed},
		{"no start", []bounds{{"", "2026-03-01T08:00:00Z"}}, "1990-01-01T00:00:00Z", enforce.Allowed},
		{"no stop", []bounds{{"2026-03-01T08:00:00Z", ""}}, "2199-01-01T00:00:00Z", enforce.Allowed},
		{"the second of two", []bounds{{"2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"}, {"2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"}}, "2026-03-01T12:00:00Z", enforce.Allowed},
		{"between two", []bounds{{"2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"}, {"2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"}}, "2026-02-01T12:00:00Z", enforce.OutsideTimeRange},
		{"ends before it begins", []bounds{{"2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"}}, "2026-03-01T12:00:00Z", enforce.OutsideTimeRange},
		{"centuries away", []bounds{{"0001-01-02T00:00:00Z", "9999-12-31T23:59:59Z"}}, "2026-03-01T12:00:00Z", enforce.Allowed},
		{"centuries away and over", []bounds{{"", "0001-01-02T00:00:00Z"}}, "2026-03-01T12:00:00Z", enforce.OutsideTimeRange},
		// In Berlin clocks go from 02:00 to 03:00 at 01:00Z, and in autumn 02:30 comes twice.
		{"in the hour that is left out", []bounds{{"2026-03-29T01:59:59+01:00", "2026-03-29T03:00:01+02:00"}}, "2026-03-29T01:00:00Z", enforce.Allowed},
		{"that hour lasts two seconds", []bounds{{"2026-03-29T01:59:59+01:00", "2026-03-29T03:00:01+02:00"}}, "2026-03-29T01:00:01Z", enforce.OutsideTimeRange},
		{"the first 02:30", []bounds{{"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"}}, "2026-10-25T00:30:00Z", enforce.Allowed},
		{"the second 02:30", []bounds{{"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"}}, "2026-10-25T01:30:00Z", enforce.OutsideTimeRange},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rule := &Rule{}
			for _, b := range tt.ranges {
				rule.Ranges = append(rule.Ranges, Range{instant(t, b[0]), instant(t, b[1])})
			}
			if got := newAccount(nil, "i", newTerms(rule)).admit(newTerms(rule), instant(t, tt.at)); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// TestRangeEndsWhileCalling follows the clock over both edges, and that a call
// outside is neither counted nor costs of the rate.
func TestRangeEndsWhileCalling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().Add(time.Second)
		s := newScene(t, &Rules{All: &Rule{Total: number(2), Ranges: []Range{{begin, begin.Add(time.Second)}}}})
		defer s.stop()
		s.wantPasses("i", 10, 0)
		time.Sleep(time.Second - 1)
		s.want("i", enforce.OutsideTimeRange)
		time.Sleep(time.Nanosecond)
		s.want("i", enforce.Allowed)
		time.Sleep(time.Second - 1)
		s.want("i", enforce.Allowed)
		time.Sleep(time.Nanosecond)
		s.want("i", enforce.OutsideTimeRange)
	})
}

func TestBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{All: &Rule{PerSecond: number(10)}})
		defer s.stop()
		s.wantPasses("i", 25, 10) // the bucket is full at first
		s.want("i", enforce.OverRate)
		time.Sleep(100*time.Millisecond - time.Microsecond) // the bucket counts to some nanoseconds
		s.want("i", enforce.OverRate)
		time.Sleep(time.Microsecond)
		s.wantPasses("i", 5, 1) // one token in a tenth of a second
		time.Sleep(time.Hour)
		s.wantPasses("i", 25, 10) // and never more than a second's worth
		s.wantPasses("another", 25, 10)
		if got := s.store.stored(); len(got) != 0 {
			t.Errorf("got %v in the store; want nothing where there is no total", got)
		}
	})
}

func TestZeroAllowsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{All: &Rule{}, Single: map[string]*Rule{
			"no rate": {PerSecond: number(0)}, "no total": {Total: number(0)},
		}})
		defer s.stop()
		s.want("no rate", enforce.OverRate)
		time.Sleep(time.Hour)
		s.want("no rate", enforce.OverRate)
		s.want("no total", enforce.OverLimit)
		s.wantPasses("any other", 100, 100)
	})
}

func TestSingleTakesThePlaceOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, &Rules{All: &Rule{Total: number(1), PerSecond: number(1)}, Single: map[string]*Rule{"i": {Total: number(3)}}})
		defer s.stop()
		s.wantPasses("i", 10, 3)
		s.wantPasses("j", 10, 1)
	})
}

func TestRulesEqual(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rules := func() *Rules {
		return &Rules{All: &Rule{Total: number(1)}, Single: map[string]*Rule{"i": {PerSecond: number(2), Ranges: []Range{{Start: at}}}}}
	}
	if !rules().Equal(rules()) || !(*Rules)(nil).Equal(nil) {
		t.Error("got equal rules unequal; want them equal")
	}
	zone := rules()
	zone.Single["i"].Ranges[0].Start = at.In(time.FixedZone("", 3600))
	if !rules().Equal(zone) {
		t.Error("got one instant in two zones unequal; want it equal")
	}
	for name, change := range map[string]func(*Rules){
		"total":     func(r *Rules) { r.All.Total = number(2) },
		"no total":  func(r *Rules) { r.All.Total = nil },
		"all":       func(r *Rules) { r.All = nil },
		"rate":      func(r *Rules) { r.Single["i"].PerSecond = number(3) },
		"range":     func(r *Rules) { r.Single["i"].Ranges[0].Stop = at },
		"no range":  func(r *Rules) { r.Single["i"].Ranges = nil },
		"a name":    func(r *Rules) { r.Single["j"] = r.Single["i"] },
		"name gone": func(r *Rules) { delete(r.Single, "i") },
	} {
		other := rules()
		change(other)
		if rules().Equal(other) {
			t.Errorf("%s: got equal; want it to differ", name)
		}
	}
}
