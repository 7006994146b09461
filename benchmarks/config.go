package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	parts         []string
	scenarios     []string
	rounds        int
	scaleRounds   int
	duration      time.Duration
	paced         time.Duration
	rate          float64
	connections   int
	tokens        int
	claims        int
	revokes       float64
	latencyCalls  int
	readsDuration time.Duration
	algorithm     string
	docs          string
	long          bool
	turns         int
	turn          time.Duration
	// The test makes these smaller.
	routes    []int
	decisions int
}

var (
	allParts     = []string{"compare", "within", "scale", "latency"}
	allScenarios = []string{"fixed", "rotation", "claims", "revokes", "reload"}
)

func parseFlags(args []string, output io.Writer) (config, error) {
	c := config{routes: []int{100, 1000}, decisions: 200_000}
	var parts, scenarios string
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&parts, "parts", strings.Join(allParts, ","), "what to measure")
	flags.StringVar(&scenarios, "scenarios", strings.Join(allScenarios, ","), "what the part compare measures")
	flags.IntVar(&c.rounds, "rounds", 15, "rounds of the comparison; each measures every subject once, in random order")
	flags.IntVar(&c.scaleRounds, "scale-rounds", 5, "rounds of the part scale")
	flags.DurationVar(&c.duration, "duration", 1500*time.Millisecond, "saturating load of one measurement")
	flags.DurationVar(&c.paced, "paced", 600*time.Millisecond, "load at a fixed rate of one measurement, for the latencies")
	flags.Float64Var(&c.rate, "rate", 1500, "calls a second of the load at a fixed rate")
	flags.IntVar(&c.connections, "connections", 32, "keep-alive connections of the load")
	flags.IntVar(&c.tokens, "tokens", 10_000, "tokens in rotation, each of an API invoker of its own")
	flags.IntVar(&c.claims, "claims", 1_000_000, "claims that are loaded")
	flags.Float64Var(&c.revokes, "revokes", 1000, "revokes a second that arrive")
	flags.IntVar(&c.latencyCalls, "latency-calls", 6000, "revokes of the part latency, one after the other")
	flags.DurationVar(&c.readsDuration, "reads-duration", 16*time.Second, "how long reads towards the core are counted in the part scale")
	flags.IntVar(&c.turns, "turns", 400, "turns of the part within; each measures every pair once")
	flags.DurationVar(&c.turn, "turn", 200*time.Millisecond, "saturating load on each way in a turn of the part within")
	flags.StringVar(&c.algorithm, "algorithm", "RS256", "signature of the tokens: RS256 or ES256")
	flags.StringVar(&c.docs, "docs", "../docs", "folder whose performance.md and scale.md are rewritten; empty: print only")
	flags.BoolVar(&c.long, "long", false, "the part scale goes to 10 million claims (about 2 minutes and 4 GB of disk more)")
	err := flags.Parse(args)
	if err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	c.parts, c.scenarios = strings.Split(parts, ","), strings.Split(scenarios, ",")
	return c, c.check()
}

func (c *config) check() error {
	for _, part := range c.parts {
		if !slices.Contains(allParts, part) {
			return fmt.Errorf("unknown part %q: give some of %s", part, strings.Join(allParts, ","))
		}
	}
	for _, scenario := range c.scenarios {
		if !slices.Contains(allScenarios, scenario) {
			return fmt.Errorf("unknown scenario %q: give some of %s", scenario, strings.Join(allScenarios, ","))
		}
	}
	if c.algorithm != "RS256" && c.algorithm != "ES256" {
		return fmt.Errorf("algorithm %q: give RS256 or ES256", c.algorithm)
	}
	if min(c.rounds, c.scaleRounds, c.connections, c.tokens, c.claims, c.latencyCalls, c.turns) < 1 || min(c.rate, c.revokes) <= 0 ||
		min(c.duration, c.paced, c.readsDuration, c.turn) <= 0 {
		return errors.New("rounds, durations, rates and counts must be positive")
	}
	return nil
}

func (c *config) has(part string) bool { return slices.Contains(c.parts, part) }
