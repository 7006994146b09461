package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddy-capif/aef/benchmarks/load"
	"github.com/caddy-capif/aef/benchmarks/proc"
	"github.com/caddy-capif/aef/internal/testbed"
)

// gateway is a running process that proxies calls to the service API.
type gateway struct {
	name    string
	process *proc.Process
	address string
	// next is the token that the next load begins with.
	next int

	// Of a Caddy.
	admin, caddyfile string
	// callback is where the core calls a Caddy with the plugin.
	callback string

	// Of an HAProxy with a deny map.
	socket, denyMap string
	// plain is where an HAProxy that verifies proxies without that.
	plain string
}

// variant says how a Caddy differs from the plain one.
type variant struct {
	// ledger, if set, is copied for the Caddy.
	ledger string
	// routes is how many further routes stand before the one that is called.
	routes int
	// procs is its GOMAXPROCS, 0 for the machine's.
	procs int
	// reconcile is how often contexts are read again. Default: 1h, so that no
	// such read falls into a measurement.
	reconcile string
	// extra are further lines of the site with the service API.
	extra string
	// callback has a Caddy without the plugin take the core's requests too.
	callback bool
}

// bareTemplate has what the scene's Caddyfile has, without the plugin.
const bareTemplate = `{
	admin %[1]s
	auto_https off
	skip_install_trust
	persist_config off
	default_bind 127.0.0.1
	servers {
		strict_sni_host insecure_off
		max_header_size 128KiB
		protocols h1 h2
	}
}
http://%[2]s {
	%[5]s
	handle /location/* {
		%[3]s
		reverse_proxy %[4]s
	}
	handle /qos/* {
		%[3]s
		reverse_proxy %[4]s
	}
}
`

// bareCallback answers the core's requests, and does no more with them than
// Caddy itself does: TLS with client certificates, and HTTP.
const bareCallback = `
https://:%[1]s {
	tls %[2]s %[3]s {
		client_auth {
			mode request
		}
	}
	header Content-Type application/json
	respond "{\"supportedFeatures\":\"0\"}" 200
}
`

// startBare starts a Caddy without the plugin; handler, if not empty, stands
// before the proxy.
func (w *world) startBare(ctx context.Context, name, kind, handler string, v variant) (*gateway, error) {
	admin, err := testbed.FreeAddress()
	if err != nil {
		return nil, err
	}
	api, err := testbed.FreeAddress()
	if err != nil {
		return nil, err
	}
	backend := w.scene.Backend.Listener.Addr().String()
	g := &gateway{name: name, address: api, admin: admin}
	g.caddyfile = fmt.Sprintf(bareTemplate, admin, api, handler, backend, moreRoutes(v.routes, "", backend))
	if v.callback {
		a := *w.aef
		a.Callback, err = testbed.FreeAddress()
		if err != nil {
			return nil, err
		}
		g.callback = "https://" + a.Callback
		g.caddyfile += fmt.Sprintf(bareCallback, a.CallbackPort(), a.CertFile, a.KeyFile)
	}
	return g, w.startCaddy(ctx, g, kind, v)
}

// startCapif starts a Caddy with the plugin. Everything is as an operator would
// have it: contexts are required, keys come from the core, claims are durable.
func (w *world) startCapif(ctx context.Context, name string, v variant) (*gateway, error) {
	a := *w.aef
	a.Dir = filepath.Join(w.dir, name)
	a.Ledger = filepath.Join(a.Dir, "ledger.db")
	for _, address := range []*string{&a.Admin, &a.API, &a.Callback} {
		var err error
		*address, err = testbed.FreeAddress()
		if err != nil {
			return nil, err
		}
	}
	err := os.MkdirAll(a.Dir, 0o700)
	if err != nil {
		return nil, err
	}
	if v.ledger != "" {
		err = copyFile(a.Ledger, v.ledger)
		if err != nil {
			return nil, err
		}
	}
	if v.reconcile == "" {
		v.reconcile = "1h"
	}
	a.GlobalExtra = "reconcile " + v.reconcile
	const enforce = "capif_enforce {\napi_id more%[1]d\napi_name more%[1]d\n}\n"
	a.SiteExtra = v.extra + moreRoutes(v.routes, enforce, a.BackendAddress)
	g := &gateway{name: name, address: a.API, admin: a.Admin, callback: "https://" + a.Callback}
	g.caddyfile, err = a.Caddyfile()
	if err != nil {
		return nil, err
	}
	return g, w.startCaddy(ctx, g, "capif", v)
}

// moreRoutes are n routes that no call takes; handler may use %[1]d.
func moreRoutes(n int, handler, backend string) string {
	var b strings.Builder
	for i := range n {
		h := handler
		if h != "" {
			h = fmt.Sprintf(handler, i)
		}
		fmt.Fprintf(&b, "handle /more/%d/* {\n%sreverse_proxy %s\n}\n", i, h, backend)
	}
	return b.String()
}

func (w *world) startCaddy(ctx context.Context, g *gateway, kind string, v variant) error {
	dir := filepath.Join(w.dir, g.name)
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "Caddyfile")
	err = os.WriteFile(file, []byte(g.caddyfile), 0o600)
	if err != nil {
		return err
	}
	env := append(slices.Clone(w.programs[kind].env), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if v.procs > 0 {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", v.procs))
	}
	return w.start(ctx, g, proc.Command{
		Name: g.name, Path: w.programs[kind].path, Dir: dir, Env: env,
		Args: []string{"run", "--config", file, "--adapter", "caddyfile"},
	})
}

// start runs the gateway until it serves a call.
func (w *world) start(ctx context.Context, g *gateway, c proc.Command) error {
	var err error
	g.process, err = proc.Start(ctx, c)
	if err != nil {
		return err
	}
	w.gateways = append(w.gateways, g)
	request := w.requests(1, "/location/1")
	return g.process.Wait(ctx, startLimit, func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", g.address)
		if err != nil {
			return err
		}
		_ = conn.Close() // only whether it listens matters
		r, err := load.Run(ctx, load.Options{Address: g.address, Connections: 1, Duration: 20 * time.Millisecond, Requests: request})
		if err == nil && r.Served == 0 {
			err = fmt.Errorf("no call was served: %w", r.FirstFailure)
		}
		return err
	})
}

// warm calls with every token until all are served and, with the plugin, their
// verdicts are cached.
func (w *world) warm(ctx context.Context, g *gateway, requests [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for served := 0; served < 2*len(requests); {
		r, err := load.Run(ctx, load.Options{
			Address: g.address, Connections: w.config.connections, Duration: min(300*time.Millisecond, w.config.duration), Requests: requests, First: served,
		})
		if err != nil {
			return err
		}
		if r.Failed > 0 {
			return fmt.Errorf("%s: %d calls failed before the measurement: %w", g.name, r.Failed, r.FirstFailure)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %d of %d calls served before the measurement: %w", g.name, served, 2*len(requests), ctx.Err())
		}
		served += r.Served
	}
	return nil
}

// reload has Caddy provision and start its configuration anew.
func (g *gateway) reload(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.admin+"/load", strings.NewReader(g.caddyfile))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("reloading %s: %w", g.name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // it is only for the error's text
		return fmt.Errorf("reloading %s: %d %s", g.name, response.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	if err == nil {
		err = target.Sync()
	}
	closed := target.Close()
	if err != nil {
		return err
	}
	return closed
}
