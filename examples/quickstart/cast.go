package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// The names in the story.
const (
	aefA      = "aef-a"
	aefB      = "aef-b"
	invokerID = "inv-1"
	// scope of the access tokens: two APIs at two AEFs.
	scope = "3gpp#" + aefA + ":" + testbed.APIName + "," + testbed.OtherAPIName + ";" +
		aefB + ":" + testbed.APIName + "," + testbed.OtherAPIName
)

// stayTokenLifetime lets a token of -stay last for an afternoon.
const stayTokenLifetime = 8 * time.Hour

type castOptions struct {
	stay    bool
	observe func(coretest.Event)
}

// cast is everyone who takes part. All of it ends with stop.
type cast struct {
	dir     string
	scene   *testbed.Scene
	a, b    *exposer
	invoker *coretest.Invoker
}

// exposer is an AEF: its configuration and the Caddy that runs it.
type exposer struct {
	*testbed.AEF
	caddy *testbed.Caddy
}

// startCast starts everyone. If that fails, or ctx ends, nothing is left.
func startCast(ctx context.Context, o castOptions, out *printer) (*cast, error) {
	dir, err := os.MkdirTemp("", "capif-quickstart-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	c := &cast{dir: dir}
	err = c.start(ctx, o, out)
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *cast) start(ctx context.Context, o castOptions, out *printer) error {
	out.heading("Starting a CAPIF core function, a service API, an API invoker and two Caddys as AEFs")
	core := coretest.Options{Observe: o.observe}
	if o.stay {
		core.TokenLifetime = stayTokenLifetime
	}
	var err error
	c.scene, err = testbed.NewScene(c.dir, core, nil)
	if err != nil {
		return err
	}
	out.fact("folder", c.dir)
	out.fact("core function", c.scene.Core.URL())
	out.fact("service API", c.scene.Backend.URL)
	err = c.onboard()
	if err != nil {
		return err
	}
	out.fact("API invoker", invokerID+", told of revokes at "+c.invoker.NotificationURL())
	group, starting := errgroup.WithContext(ctx)
	for _, e := range []*exposer{c.a, c.b} {
		group.Go(func() error {
			var err error
			e.caddy, err = e.Start(starting)
			return err
		})
	}
	err = group.Wait()
	if err != nil {
		return err
	}
	for _, e := range []*exposer{c.a, c.b} {
		out.fact("AEF "+e.ID, fmt.Sprintf("http://%s, Caddy in process %d", e.API, e.caddy.PID()))
	}
	return nil
}

// onboard makes the AEFs, the APIs that both expose, and the API invoker that
// discovered them known to the core.
func (c *cast) onboard() error {
	a, err := c.scene.AddAEF(aefA, testbed.Provider)
	if err != nil {
		return err
	}
	b, err := c.scene.AddAEF(aefB, testbed.Provider)
	if err != nil {
		return err
	}
	c.a, c.b = &exposer{AEF: a}, &exposer{AEF: b}
	core := c.scene.Core
	apis := []coretest.API{
		{ID: testbed.APIID, Name: testbed.APIName, AEFIDs: []string{aefA, aefB}},
		{ID: testbed.OtherAPIID, Name: testbed.OtherAPIName, AEFIDs: []string{aefA, aefB}},
	}
	for _, api := range apis {
		err = core.PublishAPI(api)
		if err != nil {
			return err
		}
	}
	c.invoker, err = core.NewInvoker(invokerID)
	if err != nil {
		return err
	}
	for _, api := range apis {
		err = core.Discover(invokerID, api.ID, api.AEFIDs...)
		if err != nil {
			return err
		}
	}
	return nil
}

// entries of the security context: both APIs at both AEFs.
func entries() []coretest.SecurityInformation {
	return []coretest.SecurityInformation{
		coretest.Entry(aefA, testbed.APIID), coretest.Entry(aefA, testbed.OtherAPIID),
		coretest.Entry(aefB, testbed.APIID), coretest.Entry(aefB, testbed.OtherAPIID),
	}
}

// authorize has the API invoker put its security context.
func (c *cast) authorize(ctx context.Context) error { return c.invoker.PutContext(ctx, entries()...) }

// stop ends every process and removes the folder, whatever had been started.
func (c *cast) stop() error {
	var mu sync.Mutex
	var errs []error
	var stopping sync.WaitGroup
	for _, e := range []*exposer{c.a, c.b} {
		if e == nil || e.caddy == nil {
			continue
		}
		stopping.Go(func() {
			err := e.caddy.Stop()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	stopping.Wait()
	testbed.CloseIdleConnections()
	if c.invoker != nil {
		errs = append(errs, c.invoker.Close())
	}
	if c.scene != nil {
		errs = append(errs, c.scene.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// logLines is how much of a Caddy's log a failure shows.
const logLines = 15

// logs returns the ends of the Caddys' logs as an error, for a walk that failed.
func (c *cast) logs() error {
	var errs []error
	for _, e := range []*exposer{c.a, c.b} {
		lines := strings.Split(strings.TrimSpace(e.caddy.Log()), "\n")
		lines = lines[max(0, len(lines)-logLines):]
		errs = append(errs, fmt.Errorf("the log of %s ends with:\n%s", e.ID, strings.Join(lines, "\n")))
	}
	return errors.Join(errs...)
}
