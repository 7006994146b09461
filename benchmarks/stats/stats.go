// Package stats says what rounds of paired measurements show. Two subjects that
// are measured in the same round are compared within it, so that what slows the
// whole machine for a while slows both.
package stats

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Estimate is a mean with its 95 % confidence interval, by Student's t. Of a
// single round nothing is known about the interval: it is infinite then.
type Estimate struct {
	Value, Low, High float64
	// Min and Max are the extremes of single rounds: the spread.
	Min, Max float64
	Rounds   int
}

var errRounds = errors.New("as many rounds of one as of the other are needed, and at least one")

// Ratio estimates by what factor xs exceeds ys, round by round: the geometric
// mean of the ratios, its interval computed on their logarithms.
func Ratio(xs, ys []float64) (Estimate, error) {
	if len(xs) != len(ys) || len(xs) == 0 {
		return Estimate{}, fmt.Errorf("comparing %d and %d rounds: %w", len(xs), len(ys), errRounds)
	}
	logs := make([]float64, len(xs))
	for i := range xs {
		if xs[i] <= 0 || ys[i] <= 0 {
			return Estimate{}, fmt.Errorf("comparing %v and %v: a ratio needs positive figures", xs[i], ys[i])
		}
		logs[i] = math.Log(xs[i] / ys[i])
	}
	e := Mean(logs)
	return Estimate{
		Value: math.Exp(e.Value), Low: math.Exp(e.Low), High: math.Exp(e.High),
		Min: math.Exp(e.Min), Max: math.Exp(e.Max), Rounds: e.Rounds,
	}, nil
}

// Difference estimates by how much xs exceeds ys, round by round.
func Difference(xs, ys []float64) (Estimate, error) {
	if len(xs) != len(ys) || len(xs) == 0 {
		return Estimate{}, fmt.Errorf("comparing %d and %d rounds: %w", len(xs), len(ys), errRounds)
	}
	differences := make([]float64, len(xs))
	for i := range xs {
		differences[i] = xs[i] - ys[i]
	}
	return Mean(differences), nil
}

// Mean estimates the mean of xs, which must not be empty.
func Mean(xs []float64) Estimate {
	e := Estimate{Value: stat.Mean(xs, nil), Min: slices.Min(xs), Max: slices.Max(xs), Rounds: len(xs)}
	if len(xs) == 1 {
		e.Low, e.High = math.Inf(-1), math.Inf(1)
		return e
	}
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(len(xs) - 1)}.Quantile(0.975)
	half := t * stat.StdErr(stat.StdDev(xs, nil), float64(len(xs)))
	e.Low, e.High = e.Value-half, e.Value+half
	return e
}

// Average is the mean of two subjects, round by round.
func Average(xs, ys []float64) []float64 {
	out := make([]float64, min(len(xs), len(ys)))
	for i := range out {
		out[i] = (xs[i] + ys[i]) / 2
	}
	return out
}

// Quantile returns the smallest of xs that at least the share p of them does not
// exceed. It sorts xs; of none it is 0.
func Quantile(xs []float64, p float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return stat.Quantile(p, stat.Empirical, xs, nil)
}

// Median of xs, which stay in their order.
func Median(xs []float64) float64 { return Quantile(slices.Clone(xs), 0.5) }
