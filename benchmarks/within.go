package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/caddy-capif/aef/benchmarks/report"
	"github.com/caddy-capif/aef/benchmarks/stats"
)

// Two processes of one program differ by more than a cached verdict costs, so the
// part within compares two ways through the same process: one with the check of
// the token and one without it, in turns of a fraction of a second.

// openPath takes the way without the check through a Caddy with the plugin. It is
// as long as the path of the calls that are checked.
const openPath = "/openpath/1"

// pair is a process with both ways.
type pair struct {
	what           string
	tokens         int
	beside         background
	plain, checked *way
}

// way leads through a process that another way shares.
type way struct {
	gateway  *gateway
	requests [][]byte
	samples  []sample
}

// within measures every pair so often as the flags say, in an order of chance.
func (w *world) within(ctx context.Context) ([]*pair, error) {
	core := w.newCoreCaller()
	defer core.close()
	pairs, err := w.startPairs(ctx, core)
	if err != nil {
		return nil, err
	}
	defer w.stopGateways()
	order := rand.New(rand.NewPCG(5, 6)) //nolint:gosec // an order of chance that a second run repeats
	for turn := range w.config.turns {
		if turn%100 == 0 {
			w.log("within, turn %d of %d", turn+1, w.config.turns)
		}
		for _, i := range order.Perm(len(pairs)) {
			err := w.turn(ctx, pairs[i], order.IntN(2) == 0)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", pairs[i].what, err)
			}
		}
	}
	return pairs, nil
}

func (w *world) startPairs(ctx context.Context, core *coreCaller) ([]*pair, error) {
	w.log("starting Caddy and HAProxy with both ways")
	open := fmt.Sprintf("handle %s* {\nreverse_proxy %s\n}\n", strings.TrimSuffix(openPath, "1"), w.scene.Backend.Listener.Addr())
	caddy, err := w.startCapif(ctx, "capif-within", variant{extra: open})
	if err != nil {
		return nil, err
	}
	processes := []*gateway{caddy}
	if w.haproxy != "" {
		haproxy, err := w.startHAProxy(ctx, "haproxy-within", true, 0)
		if err != nil {
			return nil, err
		}
		processes = append(processes, haproxy)
	}
	var pairs []*pair
	for _, g := range processes {
		err := w.warm(ctx, g, w.requests(w.config.tokens, "/location/1"))
		if err != nil {
			return nil, err
		}
		what, plain, path := withPlugin, *g, openPath
		if g.plain != "" {
			what, plain.address, path = haproxyJWT, g.plain, "/location/1"
		}
		add := func(what string, tokens int, beside background) {
			plain, checked := plain, *g // each goes on where it was with its tokens
			pairs = append(pairs, &pair{
				what: what, tokens: tokens, beside: beside,
				plain:   &way{gateway: &plain, requests: w.requests(tokens, path)},
				checked: &way{gateway: &checked, requests: w.requests(tokens, "/location/1")},
			})
		}
		add(what, 1, nil)
		add(what, w.config.tokens, nil)
		if g.callback != "" {
			// Their own CPU is in the figures of both ways.
			add(fmt.Sprintf("%s, %s revokes a second arriving", what, thousands(int(w.config.revokes))), w.config.tokens, w.revokesFrom(core))
		}
	}
	return pairs, nil
}

// turn measures both ways of a pair once.
func (w *world) turn(ctx context.Context, p *pair, plainFirst bool) error {
	ways := []*way{p.checked, p.plain}
	if plainFirst {
		slices.Reverse(ways)
	}
	for _, one := range ways {
		end := p.beside.begin(ctx, one.gateway)
		got, err := w.saturate(ctx, one.gateway, one.requests, w.config.turn)
		meanwhile := end()
		switch {
		case err != nil:
			return err
		case meanwhile.refused > 0:
			return fmt.Errorf("%d revokes were refused: %w", meanwhile.refused, meanwhile.first)
		}
		one.samples = append(one.samples, got)
	}
	return nil
}

// withinPage is the section of docs/performance.md.
func (w *world) withinPage(pairs []*pair, head string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", head)
	fmt.Fprintf(&b, "Two processes of one program differ by more than a cached verdict costs, so here both ways lead through the "+
		"same process: one with the check of the token, one without it, in %d turns of %s each, in an order of chance, with "+
		"saturating load over %d connections, the same tokens on both ways. Tokens: %s. CPU is user and system time of the process over its calls; the bounds are "+
		"those of the 95 %% confidence interval of the mean over the turns. Where revokes arrive, they go through the real callback, "+
		"over TLS with client certificates, and are durable before they are acknowledged; what that takes is in the figures of both ways.\n\n", w.config.turns, w.config.turn, w.config.connections, w.config.algorithm)
	var rows [][]string
	added := map[string]stats.Estimate{}
	for _, p := range pairs {
		plain, checked := column(p.plain.samples, cpu.of), column(p.checked.samples, cpu.of)
		e, err := stats.Difference(checked, plain)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.what, err)
		}
		added[fmt.Sprint(p.what, p.tokens)] = e
		share, err := stats.Ratio(checked, plain)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.what, err)
		}
		three, tenth := "", ""
		if p.what != haproxyJWT {
			three = ": " + verdict(share.Value <= mostOfBare, share.High <= mostOfBare)
		}
		if theirs, ok := added[fmt.Sprint(haproxyJWT, p.tokens)]; ok {
			ours := added[fmt.Sprint(withPlugin, p.tokens)]
			tenth = fmt.Sprintf("the plugin adds %.3f of it: %s", ours.Value/theirs.Value, verdict(ours.Value <= theirs.Value/10, ours.High <= theirs.Low/10))
		}
		rows = append(rows, []string{
			p.what, thousands(p.tokens), fmt.Sprintf("%.1f µs", stats.Mean(plain).Value), fmt.Sprintf("%.1f µs", stats.Mean(checked).Value), bounded(e),
			ratio(share) + three, tenth,
		})
	}
	b.WriteString(report.Table([]string{"process", "tokens", "without the check", "with it", "added", "ratio; aim of Caddy: at most 1.03x", "aim: at most a tenth"}, rows))
	if w.haproxy == "" {
		b.WriteString("\nHAProxy was not installed on this machine: not measured.\n")
	}
	return b.String(), nil
}

// withinPart measures the part within.
func (w *world) withinPart(ctx context.Context, head string) (string, error) {
	found, err := w.within(ctx)
	if err != nil {
		return "", err
	}
	return w.withinPage(found, head)
}
