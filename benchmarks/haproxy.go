package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/caddy-capif/aef/benchmarks/proc"
	"github.com/caddy-capif/aef/internal/testbed"
)

// haproxyTemplate proxies; what checks the token stands between the frontend and
// its backend.
const haproxyTemplate = `global
	nbthread %[1]d
	maxconn 4096
	stats socket %[2]s mode 600 level admin
	stats timeout 1h
	stats maxconn 100
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 60s
	http-reuse always
frontend api
	bind %[3]s
%[4]s	default_backend service
frontend plain
	bind %[6]s
	default_backend service
backend service
	server api %[5]s
`

// haproxyVerify is what HAProxy has for tokens: signature, expiry, and a map of
// the API invokers that are denied. It knows neither scopes nor contexts.
const haproxyVerify = `	http-request set-var(txn.bearer) http_auth_bearer
	http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
	http-request set-var(txn.sub) var(txn.bearer),jwt_payload_query('$.iss')
	http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
	http-request set-var(txn.now) date()
	http-request deny deny_status 401 unless { var(txn.alg) -m str %[1]s }
	http-request deny deny_status 401 unless { var(txn.bearer),jwt_verify(txn.alg,"%[2]s") 1 }
	http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int lt 0 }
	http-request deny deny_status 403 if { var(txn.sub),map_str(%[3]s) -m found }
`

// startHAProxy starts an HAProxy; with verify it checks tokens, and its deny map
// begins with so many API invokers.
func (w *world) startHAProxy(ctx context.Context, name string, verify bool, denied int) (*gateway, error) {
	address, err := testbed.FreeAddress()
	if err != nil {
		return nil, err
	}
	plain, err := testbed.FreeAddress()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.dir, name)
	err = os.MkdirAll(dir, 0o700)
	if err != nil {
		return nil, err
	}
	g := &gateway{name: name, address: address, plain: plain, socket: filepath.Join(dir, "socket"), denyMap: filepath.Join(dir, "deny.map")}
	rules := ""
	if verify {
		rules = fmt.Sprintf(haproxyVerify, w.config.algorithm, w.keyFile, g.denyMap)
	}
	var entries strings.Builder
	for i := range denied {
		fmt.Fprintf(&entries, "%s deny\n", claimed(i))
	}
	err = os.WriteFile(g.denyMap, []byte(entries.String()), 0o600)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(haproxyTemplate, runtime.GOMAXPROCS(0), g.socket, address, rules, w.scene.Backend.Listener.Addr(), plain)
	err = os.WriteFile(file, []byte(text), 0o600)
	if err != nil {
		return nil, err
	}
	return g, w.start(ctx, g, proc.Command{Name: name, Path: w.haproxy, Args: []string{"-db", "-f", file}, Dir: dir})
}

// denyAtHAProxy adds to the deny map. It is in memory only.
func (g *gateway) denyAtHAProxy(ctx context.Context, invoker string) error {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", g.socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the answer was read
	err = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "add map %s %s deny\n", g.denyMap, invoker)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<10))
	if err == nil && len(strings.TrimSpace(string(answer))) > 0 {
		err = fmt.Errorf("add map: %s", answer)
	}
	return err
}
