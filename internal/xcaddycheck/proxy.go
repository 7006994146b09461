package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// hideOwnModule puts a module proxy in front of the configured one for the time of the build, which says
// that our own module is not published and sends every other question on.
//
// xcaddy's "go get" looks for modules at every prefix of the plugin's import path before it takes the
// replacement, and it gives up unless each is found or answered 404. A proxy that answers otherwise (403
// for what it may not serve, or no network) would so fail a build that needs nothing of it. The returned
// function ends the proxy.
func hideOwnModule(ctx context.Context) (func(), error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("ask for GOPROXY: %w", err)
	}
	upstream := firstProxy(string(out))
	if upstream == "" {
		return func() {}, nil // direct, off or a folder: nothing to stand in front of
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if err := os.Setenv("GOPROXY", "http://"+ln.Addr().String()); err != nil {
		_ = ln.Close()
		return nil, err
	}
	srv := &http.Server{Handler: proxyHandler(upstream), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	return func() {
		_ = srv.Close()
		<-done
	}, nil
}

// firstProxy is the first entry of a GOPROXY list if that is a server.
func firstProxy(list string) string {
	first := strings.TrimSpace(list)
	if i := strings.IndexAny(first, ",|"); i >= 0 {
		first = first[:i]
	}
	if !strings.HasPrefix(first, "https://") && !strings.HasPrefix(first, "http://") {
		return ""
	}
	return strings.TrimRight(first, "/")
}

func proxyHandler(upstream string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		if path == "/"+pluginModule || strings.HasPrefix(path, "/"+pluginModule+"/") {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, upstream+path, http.StatusTemporaryRedirect)
	})
}
