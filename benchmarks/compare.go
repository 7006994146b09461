package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
)

// Subjects, as the tables name them.
const (
	bareA       = "bare Caddy"
	bareB       = "bare Caddy again"
	bareAsked   = "bare Caddy, same requests"
	withPlugin  = "Caddy with capif_enforce"
	withJWX     = "Caddy, jwx on every call"
	haproxyBare = "bare HAProxy"
	haproxyJWT  = "HAProxy, jwt_verify and map"
)

// scenario is one table: gateways under the same conditions.
type scenario struct {
	key, title, note string
	// tokens in rotation.
	tokens int
	// subjects in the order of the table; beside names what goes on.
	subjects []subject
	samples  map[string][]sample
}

type subject struct {
	name    string
	gateway *gateway
	beside  background
}

// startScenarios starts every gateway. All of them run throughout; those that
// are not measured get no calls.
func (w *world) startScenarios(ctx context.Context, core *coreCaller) ([]*scenario, error) {
	gateways := map[string]*gateway{}
	start := func(name string, begin func() (*gateway, error)) error {
		w.log("starting %s", name)
		g, err := begin()
		if err == nil {
			err = w.warm(ctx, g, w.requests(w.config.tokens, "/location/1"))
		}
		gateways[name] = g
		return err
	}
	ledger, err := w.ledgerOf(ctx, w.config.claims)
	if err != nil {
		return nil, err
	}
	jwx := fmt.Sprintf("bench_jwx %s %s", w.config.algorithm, w.keyFile)
	steps := []struct {
		name  string
		begin func() (*gateway, error)
	}{
		{"bare-a", func() (*gateway, error) { return w.startBare(ctx, "bare-a", "bare", "", variant{}) }},
		{"bare-b", func() (*gateway, error) { return w.startBare(ctx, "bare-b", "bare", "", variant{}) }},
		{"bare-asked", func() (*gateway, error) { return w.startBare(ctx, "bare-asked", "bare", "", variant{callback: true}) }},
		{"jwx", func() (*gateway, error) { return w.startBare(ctx, "jwx", "jwx", jwx, variant{}) }},
		{"capif", func() (*gateway, error) { return w.startCapif(ctx, "capif", variant{}) }},
		{"capif-claims", func() (*gateway, error) { return w.startCapif(ctx, "capif-claims", variant{ledger: ledger}) }},
		{"capif-revokes", func() (*gateway, error) { return w.startCapif(ctx, "capif-revokes", variant{}) }},
	}
	if w.haproxy != "" {
		for _, h := range []struct {
			name   string
			verify bool
			denied int
		}{{"haproxy", false, 0}, {"haproxy-jwt", true, 0}, {"haproxy-claims", true, w.config.claims}} {
			steps = append(steps, struct {
				name  string
				begin func() (*gateway, error)
			}{h.name, func() (*gateway, error) { return w.startHAProxy(ctx, h.name, h.verify, h.denied) }})
		}
	}
	for _, step := range steps {
		err := start(step.name, step.begin)
		if err != nil {
			return nil, err
		}
	}
	return w.arrange(gateways, core), nil
}

// arrange says who is measured where.
func (w *world) arrange(g map[string]*gateway, core *coreCaller) []*scenario {
	revokes := w.revokesFrom(core)
	bare := func(beside background) []subject {
		return []subject{{bareA, g["bare-a"], beside}, {bareB, g["bare-b"], beside}}
	}
	all := append(bare(nil), subject{withPlugin, g["capif"], nil}, subject{withJWX, g["jwx"], nil})
	if w.haproxy != "" {
		all = append(all, subject{haproxyBare, g["haproxy"], nil}, subject{haproxyJWT, g["haproxy-jwt"], nil})
	}
	claims := append(bare(nil), subject{withPlugin, g["capif-claims"], nil})
	arriving := append(bare(nil), subject{bareAsked, g["bare-asked"], revokes}, subject{withPlugin, g["capif-revokes"], revokes})
	if w.haproxy != "" {
		claims = append(claims, subject{haproxyJWT, g["haproxy-claims"], nil})
		arriving = append(arriving, subject{haproxyJWT, g["haproxy-jwt"], revokes})
	}
	reloaded := append(bare(reloads), subject{withPlugin, g["capif"], reloads}, subject{withJWX, g["jwx"], reloads})
	list := []*scenario{
		{key: "fixed", title: "One token", tokens: 1, subjects: all},
		{key: "rotation", title: fmt.Sprintf("%s tokens in rotation", thousands(w.config.tokens)), tokens: w.config.tokens, subjects: all},
		{key: "claims", title: fmt.Sprintf("%s claims loaded, %s tokens in rotation", thousands(w.config.claims), thousands(w.config.tokens)),
			note:   "The verify-every-call handler knows no claims. HAProxy's map holds as many API invokers, in memory.",
			tokens: w.config.tokens, subjects: claims},
		{key: "revokes", title: fmt.Sprintf("%s revokes a second arriving, %s tokens in rotation", thousands(int(w.config.revokes)), thousands(w.config.tokens)),
			note: "The core revokes API invokers that make no calls, through the real callback: TLS with client certificates, " +
				"and durable before it is acknowledged. The CPU of that is in the figure for each request. HAProxy's map is " +
				"changed through its socket, in memory. Nothing arrives at the first two; the third gets the same requests over the " +
				"same TLS and answers them with a fixed text.",
			tokens: w.config.tokens, subjects: arriving},
		{key: "reload", title: fmt.Sprintf("A reload every second, %s tokens in rotation", thousands(w.config.tokens)),
			note: "Through Caddy's admin endpoint, the first after 250 ms; bare Caddy is reloaded as well. HAProxy replaces " +
				"its process to reload, so its CPU could not be read in the same way: not measured.",
			tokens: w.config.tokens, subjects: reloaded},
	}
	list = slices.DeleteFunc(list, func(s *scenario) bool { return !slices.Contains(w.config.scenarios, s.key) })
	for _, s := range list {
		s.samples = map[string][]sample{}
	}
	return list
}

// compare measures every subject of every scenario once in each round, in an
// order of chance, so that neither drift nor a neighbour favours one of them.
func (w *world) compare(ctx context.Context) ([]*scenario, error) {
	core := w.newCoreCaller()
	defer core.close()
	scenarios, err := w.startScenarios(ctx, core)
	if err != nil {
		return nil, err
	}
	defer w.stopGateways()
	order := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // an order of chance that a second run repeats
	for round := range w.config.rounds {
		w.log("round %d of %d", round+1, w.config.rounds)
		for _, s := range scenarios {
			requests := w.requests(s.tokens, "/location/1")
			for _, i := range order.Perm(len(s.subjects)) {
				subject := s.subjects[i]
				got, err := w.measure(ctx, subject.gateway, requests, subject.beside)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", s.title, subject.name, err)
				}
				s.samples[subject.name] = append(s.samples[subject.name], got)
			}
		}
	}
	return scenarios, nil
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
