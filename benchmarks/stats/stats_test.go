package stats

import (
	"math"
	"testing"
)

func near(got, want float64) bool { return math.Abs(got-want) < 1e-3 || got == want }

func TestMean(t *testing.T) {
	for _, tt := range []struct {
		name string
		xs   []float64
		want Estimate
	}{
		// t of 4 degrees of freedom is 2.776, the standard error sqrt(2.5/5).
		{"five", []float64{1, 2, 3, 4, 5}, Estimate{Value: 3, Low: 1.0368, High: 4.9632, Min: 1, Max: 5, Rounds: 5}},
		{"equal", []float64{2, 2, 2}, Estimate{Value: 2, Low: 2, High: 2, Min: 2, Max: 2, Rounds: 3}},
		{"one", []float64{7}, Estimate{Value: 7, Low: math.Inf(-1), High: math.Inf(1), Min: 7, Max: 7, Rounds: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Mean(tt.xs)
			if !near(got.Value, tt.want.Value) || !near(got.Low, tt.want.Low) || !near(got.High, tt.want.High) ||
				got.Min != tt.want.Min || got.Max != tt.want.Max || got.Rounds != tt.want.Rounds {
				t.Errorf("got %+v; want %+v", got, tt.want)
			}
		})
	}
}

// TestRatioIsPaired gives rounds that differ by a factor of ten: what both share
// must not widen the interval.
func TestRatioIsPaired(t *testing.T) {
	got, err := Ratio([]float64{11, 110, 1100}, []float64{10, 100, 1000})
	if err != nil {
		t.Fatal(err)
	}
	if !near(got.Value, 1.1) || !near(got.Low, 1.1) || !near(got.High, 1.1) {
		t.Errorf("got %+v; want 1.1 throughout", got)
	}
	got, err = Ratio([]float64{2, 1}, []float64{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if !near(got.Value, 1) || got.Min != 0.5 || got.Max != 2 {
		t.Errorf("got %+v; want the geometric mean 1, from 0.5 to 2", got)
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		xs, ys []float64
	}{
		{"none", nil, nil},
		{"unequal", []float64{1, 2}, []float64{1}},
		{"zero", []float64{0}, []float64{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Ratio(tt.xs, tt.ys)
			if err == nil {
				t.Error("got no error; want one")
			}
		})
	}
}

func TestDifference(t *testing.T) {
	got, err := Difference([]float64{3, 4, 5}, []float64{1, 2, 3})
	if err != nil || got.Value != 2 || got.Low != 2 {
		t.Errorf("got %+v, %v; want 2", got, err)
	}
}

func TestQuantile(t *testing.T) {
	xs := make([]float64, 100)
	for i := range xs {
		xs[i] = float64(100 - i)
	}
	if got := Median(xs); got != 50 || xs[0] != 100 {
		t.Errorf("got %v, first %v; want 50 and the order kept", got, xs[0])
	}
	if got := Quantile(xs, 0.99); got != 99 {
		t.Errorf("got %v; want 99", got)
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("got %v; want 0", got)
	}
}
