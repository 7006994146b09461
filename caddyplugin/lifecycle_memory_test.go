package caddyplugin_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestMemoryOfRoutes: a route more costs little memory, so that one Caddy can
// have very many.
func TestMemoryOfRoutes(t *testing.T) {
	const few, many, limit = 10, 210, 64 << 10
	l := newLife(t)
	t.Cleanup(func() { must(t, caddy.Stop()) })
	heap := func(routes int) int64 {
		t.Helper()
		var handles strings.Builder
		for i := range routes {
			fmt.Fprintf(&handles, "handle /api-%d/* {\ncapif_enforce {\napi_id %d\napi_name name-%d\nmode monitor\n}\nrespond ok\n}\n", i, i, i)
		}
		l.aef.SiteExtra = handles.String()
		out, err := adapt(l.caddyfile(l.aef))
		must(t, err)
		var config map[string]any
		must(t, json.Unmarshal(out, &config))
		config["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}}
		out, err = json.Marshal(config)
		must(t, err)
		must(t, caddy.Load(out, true))
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	heap(few) // what is made once
	small := heap(few)
	each := (heap(many) - small) / (many - few)
	t.Logf("%d bytes for each route", each)
	if each > limit {
		t.Errorf("got %d bytes for each route; want at most %d", each, limit)
	}
}
