package caddyplugin

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Probe is what a test sees of the shared state.
type Probe struct {
	// State, Cache and Keys name objects: equal as long as the same one serves.
	State, Cache, Keys string
	// OwnLogger says that what is shared logs to the running configuration.
	OwnLogger bool
	// Configs counts configurations that are started and not cleaned up.
	Configs int
	// Core is the core of the settings in force.
	Core string
	// Cached says that the first route's verdict on the token comes from the
	// deny cache.
	Cached bool
}

// ProbeState looks at the running configuration.
func ProbeState(raw string) (Probe, error) {
	app, err := runningApp()
	if err != nil {
		return Probe{}, err
	}
	s := app.state
	s.mu.Lock()
	p := Probe{
		State: fmt.Sprintf("%p", s), Cache: fmt.Sprintf("%p", s.cache), Configs: len(s.applied),
		Core: s.applied[len(s.applied)-1].app.core.URL(),
	}
	s.mu.Unlock()
	p.OwnLogger = true
	for _, source := range app.heldSources() {
		p.OwnLogger = p.OwnLogger && source.log.current.Load() == app.log.slog
		p.Keys += fmt.Sprintf("%p ", source)
	}
	value, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		return Probe{}, err
	}
	for _, server := range value.(*caddyhttp.App).Servers {
		if e := firstEnforce(server.Routes); e != nil {
			p.Cached = e.decider.Decide(context.Background(), raw, time.Now()).Cached
		}
	}
	return p, nil
}

func firstEnforce(routes caddyhttp.RouteList) *Enforce {
	for _, r := range routes {
		for _, h := range r.Handlers {
			switch h := h.(type) {
			case *Enforce:
				return h
			case *caddyhttp.Subroute:
				if e := firstEnforce(h.Routes); e != nil {
					return e
				}
			}
		}
	}
	return nil
}

// Started reports whether the settings of an app are in force.
func Started(a *App) bool {
	a.state.mu.Lock()
	defer a.state.mu.Unlock()
	return len(a.state.applied) > 0 && a.state.applied[len(a.state.applied)-1].app == a
}

// Unused reports whether the pools of this process are empty.
func Unused() bool {
	unused := true
	used := func(_, _ any) bool {
		unused = false
		return false
	}
	states.Range(used)
	sources.Range(used)
	return unused
}
