package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/benchmarks/load"
	"github.com/caddy-capif/aef/benchmarks/proc"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

const (
	aefID         = "aef-bench"
	tokenLifetime = 12 * time.Hour // longer than any run
	startLimit    = 2 * time.Minute
)

// program is a Caddy that was built, and what its environment needs.
type program struct {
	path string
	env  []string
}

// world is what all measurements share: the service API, the core, the tokens,
// and the programs. It lives in a temporary folder and on 127.0.0.1.
type world struct {
	config   config
	dir      string
	scene    *testbed.Scene
	aef      *testbed.AEF // copied for each Caddy with the plugin
	keyFile  string
	programs map[string]program
	haproxy  string // empty where it is not installed
	tokens   []string
	gateways []*gateway
	ledgers  map[int]string // prepared files, by their claims
	revoked  atomic.Int64   // numbers the invokers that are revoked
	log      func(format string, args ...any)
}

// buildPrograms builds the Caddys that are compared.
func buildPrograms(ctx context.Context, dir string) (map[string]program, error) {
	programs := map[string]program{}
	for _, name := range []string{"bare", "capif", "jwx"} {
		path := filepath.Join(dir, "caddy-"+name)
		err := proc.Build(ctx, "./cmd/"+name, path)
		if err != nil {
			return nil, err
		}
		programs[name] = program{path: path}
	}
	return programs, nil
}

// newWorld starts the core and the service API and mints the tokens.
func newWorld(dir string, c config, programs map[string]program, log func(string, ...any)) (*world, error) {
	body := []byte("served by the service API\n")
	scene, err := testbed.NewScene(dir, coretest.Options{TokenAlgorithm: c.algorithm}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	if err != nil {
		return nil, err
	}
	w := &world{config: c, dir: dir, scene: scene, programs: programs, ledgers: map[int]string{}, log: log}
	err = w.prepare()
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) prepare() error {
	aef, err := w.scene.AddAEF(aefID, testbed.Provider)
	if err != nil {
		return err
	}
	w.aef = aef
	err = w.scene.Core.PublishAPI(coretest.API{ID: testbed.APIID, Name: testbed.APIName, AEFIDs: []string{aefID}})
	if err != nil {
		return err
	}
	pem, err := w.scene.Core.TokenKeyPEM()
	if err != nil {
		return err
	}
	w.keyFile = filepath.Join(w.dir, "token-key.pem")
	err = os.WriteFile(w.keyFile, pem, 0o600)
	if err != nil {
		return err
	}
	w.haproxy, err = exec.LookPath("haproxy")
	if err != nil {
		w.haproxy = ""
	}
	return w.mint()
}

// mint authorizes API invokers at the core and makes a token for each.
func (w *world) mint() error {
	w.log("minting %d tokens", w.config.tokens)
	w.tokens = make([]string, w.config.tokens)
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i := range w.tokens {
		group.Go(func() error {
			id := fmt.Sprintf("invoker-%06d", i)
			err := w.scene.Core.AddInvoker(id)
			if err != nil {
				return err
			}
			err = w.scene.Core.Authorize(id, "https://127.0.0.1:1/", coretest.Entry(aefID, testbed.APIID))
			if err != nil {
				return err
			}
			w.tokens[i], err = w.scene.Core.MintToken(coretest.TokenSpec{
				InvokerID: id, Scope: coretest.ScopeOf(aefID, testbed.APIName), ExpiresAt: time.Now().Add(tokenLifetime),
			})
			return err
		})
	}
	return group.Wait()
}

// close ends everything.
func (w *world) close() error {
	w.stopGateways()
	return w.scene.Close()
}

func (w *world) stopGateways() {
	for _, g := range w.gateways {
		g.process.Stop()
	}
	w.gateways = nil
}

// requests makes calls with the first n tokens.
func (w *world) requests(n int, path string) [][]byte {
	requests := make([][]byte, min(n, len(w.tokens)))
	for i := range requests {
		requests[i] = load.Request("127.0.0.1", path, w.tokens[i])
	}
	return requests
}

// ledgerOf returns a ledger's file with so many claims, on API invokers that
// make no calls. It is prepared through the ledger itself, and only once.
func (w *world) ledgerOf(ctx context.Context, claims int) (string, error) {
	if path, ok := w.ledgers[claims]; ok {
		return path, nil
	}
	w.log("preparing a ledger of %d claims", claims)
	path := filepath.Join(w.dir, fmt.Sprintf("claims-%d.db", claims))
	l := revocation.NewLedger(path)
	err := l.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	const callers = 1000 // they share the syncs
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range callers {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(claims); i = next.Add(1) - 1 {
				err := l.Deny(ctx, revocation.Deny{
					Invoker: claimed(int(i)), AEF: aefID, APIs: []string{testbed.APIID}, Cause: "OVERLIMIT_USAGE",
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = errors.Join(group.Wait(), l.Close())
	if err != nil {
		return "", fmt.Errorf("preparing a ledger of %d claims: %w", claims, err)
	}
	w.ledgers[claims] = path
	return path, nil
}

// claimed names an API invoker on which a prepared claim is.
func claimed(i int) string { return fmt.Sprintf("INV%032x", i) }
