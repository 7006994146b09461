package caddyplugin

import (
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
)

// TestTriggerWalk has routes that only JSON can say, or that no Caddyfile says in
// both orders.
func TestTriggerWalk(t *testing.T) {
	type handlers = []caddyhttp.MiddlewareHandler
	bound, unbound := &Enforce{target: target{bound: true}}, new(Enforce)
	trigger := new(Trigger)
	answers := &intercept.Intercept{HandleResponse: []caddyhttp.ResponseHandler{{Routes: caddyhttp.RouteList{{Handlers: handlers{trigger}}}}}}
	for _, tt := range []struct {
		name   string
		routes caddyhttp.RouteList
		loads  bool
	}{
		{"answers around what follows in the list", caddyhttp.RouteList{{Handlers: handlers{answers, unbound}}}, false},
		{"answers around what is bound", caddyhttp.RouteList{{Handlers: handlers{answers, bound}}}, true},
		{"answers after a route that is not bound", caddyhttp.RouteList{{Handlers: handlers{unbound}}, {Handlers: handlers{answers}}}, false},
		{"answers in a terminal route", caddyhttp.RouteList{{Handlers: handlers{answers, unbound}, Terminal: true}}, false},
		{"a terminal route before", caddyhttp.RouteList{{Handlers: handlers{unbound}, Terminal: true}, {Handlers: handlers{bound, trigger}}, {Handlers: handlers{trigger}}}, true},
		{"a route before", caddyhttp.RouteList{{Handlers: handlers{unbound}}, {Handlers: handlers{trigger}}}, false},
		{"a group", caddyhttp.RouteList{{Handlers: handlers{unbound}, Group: "a"}, {Handlers: handlers{trigger}, Group: "a"}}, true},
		{"two groups", caddyhttp.RouteList{{Handlers: handlers{unbound}, Group: "a"}, {Handlers: handlers{trigger}, Group: "b"}}, false},
		{"between routes of a group", caddyhttp.RouteList{{Group: "a"}, {Handlers: handlers{unbound}}, {Handlers: handlers{trigger}, Group: "a"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &triggerWalk{walking: map[string]bool{}}
			w.answers(w.routes(tt.routes, nil).open)
			if (w.err == nil) != tt.loads {
				t.Errorf("got %v; want it to load: %v", w.err, tt.loads)
			}
		})
	}
}
