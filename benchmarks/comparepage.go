package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddy-capif/aef/benchmarks/report"
	"github.com/caddy-capif/aef/benchmarks/stats"
)

// figure is one column of the tables.
type figure struct {
	name, format string
	of           func(sample) float64
}

var (
	perSecond = figure{"calls/s", "%.0f", func(s sample) float64 { return s.PerSecond }}
	p50       = figure{"p50 ms", "%.2f", func(s sample) float64 { return s.P50 }}
	p99       = figure{"p99 ms", "%.2f", func(s sample) float64 { return s.P99 }}
	cpu       = figure{"CPU µs each", "%.1f", func(s sample) float64 { return s.CPU }}
	rss       = figure{"RSS MB", "%.0f", func(s sample) float64 { return s.RSS }}
	figures   = []figure{perSecond, p50, p99, cpu, rss}
)

// mostOfBare is the aim for the CPU of a call with the plugin, as a ratio to one without.
const mostOfBare = 1.03

// ofAllRequests is the CPU of each request where those that arrive beside the calls
// are counted as well.
func ofAllRequests(s sample) float64 {
	return s.CPU * s.PerSecond / (s.PerSecond + float64(s.Meanwhile.done)/s.Seconds)
}

// column returns a figure of every round.
func column(samples []sample, of func(sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = of(s)
	}
	return out
}

// againstBare is the ratio of a subject to bare Caddy, whose two measurements in
// each round are averaged; for the second bare Caddy it is that to the first,
// whose spread says what the machine's own noise is.
func (s *scenario) againstBare(name string, f figure) (stats.Estimate, error) {
	bare := column(s.samples[bareA], f.of)
	if name != bareB {
		bare = stats.Average(bare, column(s.samples[bareB], f.of))
	}
	return stats.Ratio(column(s.samples[name], f.of), bare)
}

func (s *scenario) table() (string, error) {
	header := []string{""}
	for _, f := range figures {
		header = append(header, f.name)
	}
	var rows [][]string
	for _, subject := range s.subjects {
		row := []string{subject.name}
		for _, f := range figures {
			cell := fmt.Sprintf(f.format, stats.Median(column(s.samples[subject.name], f.of)))
			if subject.name != bareA {
				e, err := s.againstBare(subject.name, f)
				if err != nil {
					return "", fmt.Errorf("%s, %s, %s: %w", s.title, subject.name, f.name, err)
				}
				cell += "; " + ratio(e)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	spread, err := s.againstBare(bareB, cpu)
	if err != nil {
		return "", err
	}
	text := report.Table(header, rows) + fmt.Sprintf("\nBare against bare, CPU: single rounds from %.3fx to %.3fx.%s\n",
		spread.Min, spread.Max, s.happened())
	if s.note != "" {
		text += "\n" + s.note + "\n"
	}
	return text, nil
}

// happened tells of failures, reconnects and of what went on beside the load.
func (s *scenario) happened() string {
	var b strings.Builder
	for _, subject := range s.subjects {
		events, refused, failed, reconnects, seconds := 0, 0, 0, 0, 0.0
		var failure error
		var took []float64
		for _, one := range s.samples[subject.name] {
			events, refused, failed, reconnects, seconds = events+one.Meanwhile.done, refused+one.Meanwhile.refused, failed+one.Failed, reconnects+one.Reconnects, seconds+one.Seconds
			failure = cmp.Or(failure, one.Failure)
			took = append(took, one.Meanwhile.took...)
		}
		if failed > 0 || reconnects > 0 {
			fmt.Fprintf(&b, " %s: %d calls failed, %d found their connection closed.", upper(subject.name), failed, reconnects)
			if failure != nil {
				fmt.Fprintf(&b, " The first that failed: %.200q.", failure)
			}
		}
		if events > 0 {
			fmt.Fprintf(&b, " %s: %d %ss, %.1f a second, and %d refused.", upper(subject.name), events, strings.TrimSuffix(s.key, "s"), float64(events)/seconds, refused)
		}
		if (subject.name == withPlugin || subject.name == bareAsked) && events > 0 && s.key == "revokes" {
			fmt.Fprintf(&b, " What it takes more than bare Caddy is %.0f µs of CPU for each revoke.", s.added(subject.name)*seconds/float64(events))
		}
		if len(took) > 0 {
			fmt.Fprintf(&b, " From the last byte of a revoke to the first of its 2xx: p50 %.1f ms, p99 %.1f ms.", stats.Quantile(took, 0.5), stats.Quantile(took, 0.99))
		}
	}
	return b.String()
}

// added is how much CPU a subject takes in a second beyond what bare Caddy takes for
// as many calls, in µs: the mean of the rounds.
func (s *scenario) added(name string) float64 {
	bare := stats.Average(column(s.samples[bareA], cpu.of), column(s.samples[bareB], cpu.of))
	total := 0.0
	for i, one := range s.samples[name] {
		total += (one.CPU - bare[i]) * one.PerSecond
	}
	return total / float64(len(s.samples[name]))
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// ratio prints an estimate as 1.02x (0.99-1.05).
func ratio(e stats.Estimate) string {
	if e.Rounds < 2 {
		return fmt.Sprintf("%.3fx (no bound: one round)", e.Value)
	}
	return fmt.Sprintf("%.3fx (%.3f-%.3f)", e.Value, e.Low, e.High)
}

// verdict tells a figure that meets its aim with its bound from one that meets it
// as a mean only.
func verdict(mean, bound bool) string {
	switch {
	case mean && bound:
		return "met"
	case mean:
		return "met by the mean, not by the bound"
	default:
		return "missed"
	}
}

// aims holds the figures against what was asked for.
func aims(scenarios []*scenario) (string, error) {
	var rows [][]string
	row := func(what, got, aim, verdict string) { rows = append(rows, []string{what, got, aim, verdict}) }
	for _, s := range scenarios {
		e, err := s.againstBare(withPlugin, cpu)
		if err != nil {
			return "", err
		}
		spread, err := s.againstBare(bareB, cpu)
		if err != nil {
			return "", err
		}
		what := "CPU of each call against bare Caddy: " + s.title
		if s.key == "revokes" {
			what += " (their CPU is in the figure)"
		}
		row(what, ratio(e),
			fmt.Sprintf("upper bound at most 1.03x, or within the spread of bare against bare, %.3f-%.3fx", spread.Min, spread.Max),
			verdict(e.High <= mostOfBare || (spread.Rounds > 1 && e.Value <= spread.Max), true))
		if len(s.samples[bareAsked]) > 0 {
			e, err := stats.Ratio(column(s.samples[withPlugin], ofAllRequests), column(s.samples[bareAsked], ofAllRequests))
			if err != nil {
				return "", err
			}
			row("The same, against bare Caddy with the same requests, and over calls and revokes together", ratio(e), "", "")
		}
		if len(s.samples[withJWX]) > 0 {
			e, err := stats.Ratio(column(s.samples[withPlugin], cpu.of), column(s.samples[withJWX], cpu.of))
			if err != nil {
				return "", err
			}
			row("CPU of each call against jwx on every call: "+s.title, ratio(e), "at most 0.6x", verdict(e.Value <= 0.6, e.High <= 0.6))
		}
		if len(s.samples[haproxyBare]) > 0 {
			text, met, err := s.againstHAProxy()
			if err != nil {
				return "", err
			}
			row("CPU added to a call, against what jwt_verify adds to HAProxy: "+s.title, text, "at most a tenth", met)
		}
	}
	return report.Table([]string{"what", "measured", "aim", ""}, rows), nil
}

func (s *scenario) againstHAProxy() (string, string, error) {
	bare := stats.Average(column(s.samples[bareA], cpu.of), column(s.samples[bareB], cpu.of))
	ours, err := stats.Difference(column(s.samples[withPlugin], cpu.of), bare)
	if err != nil {
		return "", "", err
	}
	theirs, err := stats.Difference(column(s.samples[haproxyJWT], cpu.of), column(s.samples[haproxyBare], cpu.of))
	if err != nil {
		return "", "", err
	}
	text := bounded(ours) + " against " + bounded(theirs)
	return text, verdict(ours.Value <= theirs.Value/10, ours.High <= theirs.Low/10), nil
}

// bounded prints an estimate as 1.2 µs (1.0 to 1.4).
func bounded(e stats.Estimate) string {
	if e.Rounds < 2 {
		return fmt.Sprintf("%.1f µs (no bound: one round)", e.Value)
	}
	return fmt.Sprintf("%.1f µs (%.1f to %.1f)", e.Value, e.Low, e.High)
}

// comparePage is the section of docs/performance.md.
func (w *world) comparePage(scenarios []*scenario, head string) (string, error) {
	var b strings.Builder
	c := &w.config
	fmt.Fprintf(&b, "%s\n\n", head)
	fmt.Fprintf(&b, "Tokens: %s. %d rounds; in each of them every row is measured once, in an order of chance: %s of saturating load over "+
		"%d keep-alive connections (calls/s, CPU), then %s at %.0f calls a second (p50, p99). Load, service API, core and "+
		"gateway share the machine, so calls/s says more of the machine than of the gateway. CPU is user and system time of "+
		"the gateway's process over its calls. A call that is late counts from when it was due. Figures are medians over the rounds. "+
		"Behind each stands its ratio to bare Caddy in the same round (the mean of its two measurements), with the bounds of "+
		"the 95 %% confidence interval of the geometric mean (Student's t on logarithms).\n\n",
		c.algorithm, c.rounds, c.duration, c.connections, c.paced, c.rate)
	b.WriteString("The second bare Caddy is another process of the same program: its ratio to the first is the noise. \"jwx on every " +
		"call\" is `benchmarks/caddyjwx`: it parses and verifies each token anew, as Caddy's JWT plugins do. The plugin requires " +
		"security contexts, as by default; its ledger is on the disk of the temporary folder.\n\n")
	if w.haproxy == "" {
		b.WriteString("HAProxy was not installed on this machine: not measured.\n\n")
	} else {
		fmt.Fprintf(&b, "%s, with as many threads as cores, checks signature, expiry and a map of denied API invokers; it knows "+
			"no scopes and no contexts.\n\n", report.VersionOf(w.haproxy, "-v"))
	}
	text, err := aims(scenarios)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "%s\n![CPU of each call](images/performance.svg)\n", text)
	for _, s := range scenarios {
		text, err := s.table()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s", s.title, text)
	}
	return b.String(), nil
}

// drawCompare draws the CPU of each call.
func drawCompare(scenarios []*scenario, docs string) error {
	chart := report.BarChart{Title: "CPU of each call, with its 95 % bound", Unit: "µs, user and system"}
	for _, name := range []string{bareA, bareB, withPlugin, withJWX, haproxyBare, haproxyJWT} {
		series := report.Series{Name: name}
		seen := false
		for _, s := range scenarios {
			var bar report.Bar
			if samples := s.samples[name]; len(samples) > 0 {
				e := stats.Mean(column(samples, cpu.of))
				bar, seen = report.Bar{Value: e.Value, Low: e.Low, High: e.High}, true
			}
			series.Values = append(series.Values, bar)
		}
		if seen {
			chart.Series = append(chart.Series, series)
		}
	}
	for _, s := range scenarios {
		chart.Groups = append(chart.Groups, s.key)
	}
	return chart.Save(filepath.Join(docs, "images", "performance.svg"))
}

// comparePart measures and draws the part compare.
func (w *world) comparePart(ctx context.Context, head string) (string, error) {
	scenarios, err := w.compare(ctx)
	if err != nil {
		return "", err
	}
	text, err := w.comparePage(scenarios, head)
	if err != nil || w.config.docs == "" {
		return text, err
	}
	return text, drawCompare(scenarios, w.config.docs)
}
