package caddyplugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// checkTriggers refuses a configuration in which a capif_trigger can act on the
// calls of a capif_enforce that does not bind them to the client certificate,
// unless it says unbound_triggers. It sees through the containers that come with
// Caddy; what a third-party handler keeps within it is not seen, and there the
// guard refuses each call.
func (a *App) checkTriggers() error {
	if !a.hasTriggers.Load() {
		return nil
	}
	value, err := a.httpApp()
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("capif: %w", err)
	}
	servers := value.(*caddyhttp.App).Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		s := servers[name]
		w := &triggerWalk{named: s.NamedRoutes, walking: map[string]bool{}}
		p := w.routes(s.Routes, nil)
		if s.Errors != nil {
			// An error can come from anywhere in the routes.
			p.join(w.routes(s.Errors.Routes, p.met))
		}
		w.answers(p.open)
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// enforces is a set of capif_enforce handlers.
type enforces []*Enforce

func (s enforces) with(more enforces) enforces {
	all := slices.Clone(s)
	for _, e := range more {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

func (s enforces) without(others enforces) enforces {
	return slices.DeleteFunc(slices.Clone(s), func(e *Enforce) bool { return slices.Contains(others, e) })
}

// passage is what a part of the routes does to a call that goes through it.
type passage struct {
	after enforces // that can have let the call in when it leaves
	met   enforces // all that stand in it
	open  []*response
}

// response are the routes for an answer, which run when all handlers that come
// after them have run.
type response struct {
	routes caddyhttp.RouteList
	before enforces
}

func (p *passage) join(inner passage) {
	p.met = p.met.with(inner.met)
	for _, r := range p.open {
		r.before = r.before.with(inner.met)
	}
	p.open = append(p.open, inner.open...)
}

// triggerWalk goes through routes in the order in which calls do.
type triggerWalk struct {
	named   map[string]*caddyhttp.Route
	walking map[string]bool // named routes
	err     error
}

// routes walks a list; before are the capif_enforce that can have let a call in
// when it comes. Where two routes cannot both run, for they are of one group or
// the first is terminal, the first is not before the second.
func (w *triggerWalk) routes(list caddyhttp.RouteList, before enforces) passage {
	all := passage{after: before}
	groups := map[string]*passage{} // what the routes of a group brought
	var ended []*response           // of terminal routes
	for i := range list {
		group := groups[list[i].Group]
		if group == nil || list[i].Group == "" {
			group = new(passage)
			groups[list[i].Group] = group
		}
		inner := w.handlers(list[i].Handlers, all.after.without(group.after.without(before)))
		all.met = all.met.with(inner.met)
		for _, r := range all.open {
			if !slices.Contains(group.open, r) {
				r.before = r.before.with(inner.met)
			}
		}
		group.after = group.after.with(inner.after)
		group.open = append(group.open, inner.open...)
		if list[i].Terminal {
			ended = append(ended, inner.open...)
			continue
		}
		all.after = all.after.with(inner.after)
		all.open = append(all.open, inner.open...)
	}
	w.answers(ended)
	return all
}

func (w *triggerWalk) handlers(list []caddyhttp.MiddlewareHandler, before enforces) passage {
	all := passage{after: before}
	for _, handler := range list {
		switch h := handler.(type) {
		case *Enforce:
			all.join(passage{met: enforces{h}})
			all.after = enforces{h} // the last one is the one that counts
		case *Trigger:
			w.trigger(h, all.after)
		case *caddyhttp.Subroute:
			inner := w.routes(h.Routes, all.after)
			if h.Errors != nil {
				inner.join(w.routes(h.Errors.Routes, all.after.with(inner.met)))
			}
			all.join(inner)
			all.after = inner.after
		case *caddyhttp.Invoke:
			if route := w.named[h.Name]; route != nil && !w.walking[h.Name] {
				w.walking[h.Name] = true
				inner := w.handlers(route.Handlers, all.after)
				delete(w.walking, h.Name)
				all.join(inner)
				all.after = inner.after
			}
		case *reverseproxy.Handler:
			for i := range h.HandleResponse {
				all.join(w.routes(h.HandleResponse[i].Routes, all.after))
			}
		case *intercept.Intercept:
			for i := range h.HandleResponse {
				all.open = append(all.open, &response{h.HandleResponse[i].Routes, all.after})
			}
		}
	}
	return all
}

func (w *triggerWalk) answers(open []*response) {
	for _, r := range open {
		w.answers(w.routes(r.routes, r.before).open)
	}
}

func (w *triggerWalk) trigger(t *Trigger, before enforces) {
	if t.UnboundTriggers || w.err != nil {
		return
	}
	for _, e := range before {
		if !e.target.bound {
			w.err = fmt.Errorf("capif_trigger with cause %s: the capif_enforce of API %s before it has no `bind client_certificate`: on real cores an API invoker can get a token in another's name, and could have that one revoked; bind it, or say `unbound_triggers` in capif_trigger", t.Cause, e.target.name)
			return
		}
	}
}
