package caddyplugin_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-capif/aef/caddyplugin"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestNothingIsLeftAfterUnload loads, reloads and unloads a configuration in this
// very process. Afterwards no state is held and no goroutine of ours is left, nor
// of the deny cache, whose goroutines end once nobody holds it.
func TestNothingIsLeftAfterUnload(t *testing.T) {
	l := newLife(t)
	l.poll(func() bool { // what other tests have left to the garbage collector
		runtime.GC()
		return ourGoroutines() == ""
	})
	adapter := caddyconfig.GetAdapter("caddyfile")
	config := func() []byte {
		t.Helper()
		out, _, err := adapter.Adapt([]byte(l.caddyfile(l.aef)), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			t.Fatal(err)
		}
		// Logs would go to the output of the tests.
		var object map[string]any
		err = json.Unmarshal(out, &object)
		if err != nil {
			t.Fatal(err)
		}
		object["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}}
		out, err = json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = caddy.Stop()
		}
	})
	id := l.newInvoker()
	token := l.tokenOf(id)
	for range 3 { // a start, and two reloads
		err := caddy.Load(config(), true)
		if err != nil {
			t.Fatal(err)
		}
		l.want(l.aef, lifePath, token, http.StatusOK)
	}
	l.aef.OptionsExtra = "lifecycle_fault start"
	err := caddy.Load(config(), true)
	if err == nil {
		t.Fatal("got accepted; want rejected")
	}
	l.want(l.aef, lifePath, token, http.StatusOK)
	if ourGoroutines() == "" || caddyplugin.Unused() {
		t.Fatal("got nothing of ours at work; want the ledger's writer, the outbox and more")
	}
	// Caddy keeps the routers of its last admin endpoint, and with them the
	// metrics, and the last tls app until there are others.
	const quiet = `,"apps":{"tls":{}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}}}`
	for _, config := range []string{
		`{"admin":{"listen":"` + l.aef.Admin + `","config":{"persist":false}}` + quiet,
		`{"admin":{"disabled":true,"config":{"persist":false}}` + quiet,
	} {
		err = caddy.Load([]byte(config), true)
		if err != nil {
			t.Fatal(err)
		}
	}
	stopped = true
	err = caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if !caddyplugin.Unused() {
		t.Error("pools: got a state or a key source held; want none")
	}
	defer func() {
		if left := ourGoroutines(); left != "" {
			t.Errorf("after the end: got\n%s\nwant no goroutine of ours; all that run:\n%s", left, allGoroutines())
		}
	}()
	l.poll(func() bool {
		// The idle connections of reverse_proxy hold its configuration, those
		// of the callers that of the server; one that was still being dialed
		// becomes idle later.
		l.scene.Backend.CloseClientConnections()
		testbed.CloseIdleConnections()
		runtime.GC()
		return ourGoroutines() == ""
	})
}

// oursInStack finds functions of the library and of the deny cache; the core of
// the tests and the tests themselves are not meant.
var oursInStack = regexp.MustCompile(`caddy-capif/aef/(caddyplugin\.|corecallback\.|internal/(coreclient|denycache|enforce|outbox|reconcile|revocation|token)\.)|dgraph-io/ristretto`)

func allGoroutines() string {
	stacks := make([]byte, 4<<20)
	return string(stacks[:runtime.Stack(stacks, true)])
}

func ourGoroutines() string {
	var ours []string
	for stack := range strings.SplitSeq(allGoroutines(), "\n\n") {
		// The stack of the test itself begins with this function.
		if oursInStack.MatchString(stack) && !strings.Contains(stack, "ourGoroutines") {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}
