package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"strings"

	"github.com/caddy-capif/aef/benchmarks/report"
	"github.com/caddy-capif/aef/benchmarks/stats"
)

// What is to be sized.
const (
	wantCalls    = 100_000.0
	wantInvokers = 10_000_000.0
	// utilisation is how busy the cores of a machine in production may be.
	utilisation = 0.6
	// tokenLife is how long a token lives, in seconds, as in TS 29.222's
	// example and in the test core.
	tokenLife = 600.0
	// backgroundReads is the budget of internal/reconcile for reads that
	// nobody waits for, in a second, and intervalSeconds its default interval.
	backgroundReads = 50.0
	intervalSeconds = 300.0
	// maxInvokers is how many contexts internal/reconcile remembers.
	maxInvokers = 100_000.0
)

func (w *world) scalePage(s *scaled, head string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", head)
	processes, err := w.processTable(s)
	if err != nil {
		return "", err
	}
	b.WriteString("## The process\n\n")
	fmt.Fprintf(&b, "Caddy with this plugin as a whole: %s tokens unless said, %d rounds, %s of saturating load each, over plain HTTP. "+
		"The ratio is to bare Caddy with the same GOMAXPROCS and the same routes in the same round, with its 95 %% bounds.\n\n%s\n",
		thousands(w.config.tokens), w.config.scaleRounds, w.config.duration, processes)
	b.WriteString("## The decision\n\n")
	fmt.Fprintf(&b, "The same decision without HTTP, in the process that measures: what is cached, from the token to the verdict. "+
		"Medians of %d times %s calls. Parallel is the time for each call with one caller on every core. "+
		"The index is the heap that claims take, the cache that of the verdicts; an empty cache has its counters already.\n\n%s\n",
		decisionRepeats, thousands(w.config.decisions), decisionTable(s.decisions))
	fmt.Fprintf(&b, "A token that is seen for the first time takes %.0f µs (%s), once for each token and Caddy.\n\n", s.firstUS, w.config.algorithm)
	b.WriteString("## Reads towards the core\n\n")
	fmt.Fprintf(&b, "Contexts are read again once in each `reconcile` interval for every API invoker that was seen in it, at most "+
		"%.0f a second in the background. With an interval of %s, counted by the core for %s:\n\n%s\n",
		backgroundReads, s.reads[0].interval, w.config.readsDuration, readsTable(s.reads))
	b.WriteString("## Sizing\n\n")
	text, err := w.sizing(s)
	if err != nil {
		return "", err
	}
	b.WriteString(text)
	return b.String(), nil
}

func (w *world) processTable(s *scaled) (string, error) {
	var rows [][]string
	for _, r := range s.rows {
		line := []string{
			r.what, fmt.Sprintf("%.0f", stats.Median(column(r.samples, perSecond.of))),
			fmt.Sprintf("%.1f µs", stats.Median(column(r.samples, cpu.of))), "", fmt.Sprintf("%.0f MB", stats.Median(column(r.samples, rss.of))),
		}
		if r.against != "" {
			e, err := stats.Ratio(column(r.samples, cpu.of), column(s.row(r.against).samples, cpu.of))
			if err != nil {
				return "", err
			}
			line[3] = ratio(e)
		}
		rows = append(rows, line)
	}
	return report.Table([]string{"", "calls/s", "CPU each", "against bare", "RSS"}, rows), nil
}

func decisionTable(list []decision) string {
	var rows [][]string
	for _, d := range list {
		rows = append(rows, []string{
			thousands(d.claims), thousands(d.tokens), fmt.Sprintf("%.0f ns", d.Serial), fmt.Sprintf("%.0f ns", d.Parallel),
			fmt.Sprintf("%.1f MB", d.IndexMB), fmt.Sprintf("%.1f MB", d.CacheMB),
		})
	}
	return report.Table([]string{"claims", "tokens", "decision", "parallel", "index", "cache"}, rows)
}

func readsTable(list []readsRow) string {
	var rows [][]string
	for _, r := range list {
		expected := min(backgroundReads, float64(r.invokers)/r.interval.Seconds())
		rows = append(rows, []string{
			thousands(r.invokers), thousands(r.calls), fmt.Sprintf("%.1f", r.PerSecond), fmt.Sprintf("%.1f", expected),
		})
	}
	return report.Table([]string{"active API invokers", "calls", "reads a second", "invokers / interval, at most 50"}, rows)
}

// sizing shows the arithmetic from the measured figures.
func (w *world) sizing(s *scaled) (string, error) {
	most := s.decisions[len(s.decisions)-1]
	claims := w.config.claimCounts()
	loaded := s.row(fmt.Sprint("claims-", claims[len(claims)-1]))
	if loaded == nil || len(s.rows) == 0 {
		return "", fmt.Errorf("no Caddy with %d claims was measured", claims[len(claims)-1])
	}
	each := stats.Median(column(loaded.samples, cpu.of))
	bare := stats.Median(column(s.row("bare").samples, cpu.of))
	machine := stats.Median(column(loaded.samples, perSecond.of))
	perClaim := (most.IndexMB - s.decisions[0].IndexMB) * 1e6 / float64(max(1, most.claims-s.decisions[0].claims))
	one, many := s.decisions[0], s.decisions[len(tokenCounts(len(w.tokens)))-1]
	perToken := (many.CacheMB - one.CacheMB) * 1e6 / float64(max(1, many.tokens-one.tokens))
	busy := wantCalls * each / 1e6
	firsts := wantInvokers / tokenLife
	var b strings.Builder
	fmt.Fprintf(&b, "**One machine like this**, which also ran the load, the service API and the core: %s calls a second through the "+
		"plugin with %s claims. The gateway's own share is %.0f µs of CPU for each call, so the cores of a machine that "+
		"did nothing else would end at %d / %.0f µs = %s calls a second: computed, not measured.\n\n",
		thousands(int(machine)), thousands(most.claims), each, runtime.NumCPU(), each, thousands(int(1e6*float64(runtime.NumCPU())/each)))
	fmt.Fprintf(&b, "**%s calls a second**\n\n", thousands(int(wantCalls)))
	fmt.Fprintf(&b, "- CPU: %s x %.0f µs = %.1f cores that do nothing else; at %.0f %% busy, %.0f cores. Bare Caddy: %.1f and %.0f. "+
		"The decision itself, at %.0f ns, is %.3f cores of that. TLS is not in these figures.\n",
		thousands(int(wantCalls)), each, busy, 100*utilisation, math.Ceil(busy/utilisation),
		wantCalls*bare/1e6, math.Ceil(wantCalls*bare/1e6/utilisation), most.Serial, wantCalls*most.Serial/1e9)
	fmt.Fprintf(&b, "- Spread over several Caddys: each has a ledger of its own and is an AEF of its own towards the core. "+
		"Nothing is shared between them yet.\n\n")
	fmt.Fprintf(&b, "**%s API invokers**, all active, tokens of %.0f s\n\n", thousands(int(wantInvokers)), tokenLife)
	fmt.Fprintf(&b, "- First sight of tokens: %s / %.0f s = %s a second x %.0f µs = %.1f cores.\n",
		thousands(int(wantInvokers)), tokenLife, thousands(int(firsts)), s.firstUS, firsts*s.firstUS/1e6)
	fmt.Fprintf(&b, "- Claims, if every API invoker had one: %s x %.0f bytes = %.2f GB of index.%s\n",
		thousands(int(wantInvokers)), perClaim, wantInvokers*perClaim/1e9, w.extrapolated(most))
	fmt.Fprintf(&b, "- Verdicts, if all tokens are to stay cached (`deny_cache %d`): %s x %.0f bytes = %.1f GB, beside the counters. "+
		"With fewer, a token that fell out costs a first sight again.\n",
		int(wantInvokers), thousands(int(wantInvokers)), perToken, wantInvokers*perToken/1e9)
	fmt.Fprintf(&b, "- Reads towards the core: within the default interval of %.0f s one Caddy reads %.0f x %.0f = %s contexts again in the "+
		"background, and remembers %s. All %s in one interval need %s reads a second, or %s Caddys of %s active API "+
		"invokers each. This bound, not the CPU, decides how many Caddys so many active API invokers need; a longer "+
		"`reconcile` moves it in proportion, where the core's commands and events are trusted to arrive.\n\n",
		intervalSeconds, intervalSeconds, backgroundReads, thousands(int(intervalSeconds*backgroundReads)), thousands(int(maxInvokers)),
		thousands(int(wantInvokers)), thousands(int(math.Ceil(wantInvokers/intervalSeconds))),
		thousands(int(math.Ceil(wantInvokers/(intervalSeconds*backgroundReads)))), thousands(int(intervalSeconds*backgroundReads)))
	b.WriteString("Not measured: TLS to callers; more than two cores, so whether the cores scale; several Caddys beside each other; " +
		"ten million tokens or contexts in one process; reads at a core that is far away." + w.notLong() + "\n")
	return b.String(), nil
}

func (w *world) extrapolated(most decision) string {
	if float64(most.claims) >= wantInvokers {
		return ""
	}
	return fmt.Sprintf(" That is in proportion from %s claims; `-long` measures ten million.", thousands(most.claims))
}

func (w *world) notLong() string {
	if w.config.long {
		return ""
	}
	return " Ten million claims: only with `-long`."
}

// scalePart measures the part scale.
func (w *world) scalePart(ctx context.Context, head string) (string, error) {
	found, err := w.scale(ctx)
	if err != nil {
		return "", err
	}
	return w.scalePage(found, head)
}
