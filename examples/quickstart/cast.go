package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// The names in the story. Some cores give AEFs other names than they ask for.
const (
	aefA      = "aef-a"
	aefB      = "aef-b"
	invokerID = "inv-1"
	limitedID = "inv-2"
)

// allowedCalls is how often the second API invoker may call in all.
const allowedCalls = 20

// stayTokenLifetime lets a token of -stay last for an afternoon.
const stayTokenLifetime = 8 * time.Hour

type castOptions struct {
	stay    bool
	kind    kind
	observe func(coretest.Event)
	// external is the folder that others start the Caddys from; "" starts them
	// here.
	external string
}

// cast is everyone who takes part. All of it ends with stop.
type cast struct {
	kind    kind
	dir     string
	scene   *testbed.Scene
	a, b    *exposer
	invoker *coretest.Invoker
	// limited is the API invoker of the second act.
	limited *coretest.Invoker
}

// exposer is an AEF: its configuration and the Caddy that runs it.
type exposer struct {
	*testbed.AEF
	caddy *testbed.Caddy
}

// startCast starts everyone. If that fails, or ctx ends, nothing is left.
func startCast(ctx context.Context, o castOptions, out *printer) (*cast, error) {
	dir, err := folder(o.external)
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	c := &cast{kind: o.kind, dir: dir}
	err = c.start(ctx, o, out)
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// folder makes the folder of a walk, which is removed at its end: a temporary one,
// or one in external whose name others know.
func folder(external string) (string, error) {
	if external == "" {
		return os.MkdirTemp("", "capif-quickstart-")
	}
	dir := filepath.Join(external, "capif-quickstart")
	err := os.RemoveAll(dir) // of a walk that was killed
	if err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o700)
}

func (c *cast) start(ctx context.Context, o castOptions, out *printer) error {
	out.heading("Starting a CAPIF core function, a service API, two API invokers and two Caddys as AEFs")
	core := coretest.Options{Dialect: o.kind.name, Observe: o.observe}
	if o.stay {
		core.TokenLifetime = stayTokenLifetime
	}
	var err error
	c.scene, err = testbed.NewScene(c.dir, core, http.HandlerFunc(serveAPI))
	if err != nil {
		return err
	}
	out.fact("folder", c.dir)
	out.fact("core function", c.scene.Core.URL()+" ("+c.kind.name+")")
	out.fact("service API", c.scene.Backend.URL)
	err = c.onboard()
	if err != nil {
		return err
	}
	told := "told of revokes at "
	if !c.kind.tellsInvoker {
		told = "never told of revokes, though it asks to be, at "
	}
	out.fact("API invoker", invokerID+", "+told+c.invoker.NotificationURL())
	out.fact("API invoker", fmt.Sprintf("%s, which may call %s at %s %d times in all", limitedID, testbed.OtherAPIName, c.a.ID, allowedCalls))
	group, starting := errgroup.WithContext(ctx)
	for _, e := range []*exposer{c.a, c.b} {
		group.Go(func() error {
			var err error
			if o.external != "" {
				e.caddy, err = e.Attach(starting)
			} else {
				e.caddy, err = e.Start(starting)
			}
			return err
		})
	}
	err = group.Wait()
	if err != nil {
		return err
	}
	for _, e := range []*exposer{c.a, c.b} {
		where := "started by others"
		if pid := e.caddy.PID(); pid > 0 {
			where = fmt.Sprintf("Caddy in process %d", pid)
		}
		out.fact("AEF "+e.ID, fmt.Sprintf("http://%s, %s", e.API, where))
	}
	if !c.kind.hints {
		return nil
	}
	return c.subscribed(ctx)
}

// subscribed waits until both AEFs hear of events.
func (c *cast) subscribed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, e := range []*exposer{c.a, c.b} {
		_, err := c.scene.Core.WaitFor(ctx, func(event coretest.Event) bool {
			return event.Operation == coretest.OpSubscribe && event.Status == http.StatusCreated && short(event.From) == e.ID
		})
		if err != nil {
			return fmt.Errorf("waiting for the subscription of %s: %w", e.ID, err)
		}
	}
	return nil
}

// onboard makes the AEFs, the APIs that both expose, and the API invoker that
// discovered them known to the core.
func (c *cast) onboard() error {
	core := c.scene.Core
	a, err := c.scene.AddAEF(core.AssignAEFID(aefA), testbed.Provider)
	if err != nil {
		return err
	}
	b, err := c.scene.AddAEF(core.AssignAEFID(aefB), testbed.Provider)
	if err != nil {
		return err
	}
	c.kind.configure(a, false)
	c.kind.configure(b, true)
	c.a, c.b = &exposer{AEF: a}, &exposer{AEF: b}
	apis := c.apis()
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
	return c.onboardLimited()
}

// onboardLimited makes the API invoker of the second act known to the core, and its
// limit, if the core has any.
func (c *cast) onboardLimited() error {
	core := c.scene.Core
	var err error
	c.limited, err = core.NewInvoker(limitedID)
	if err != nil {
		return err
	}
	for _, api := range []string{c.a.APIID, c.a.OtherAPIID} {
		err = core.Discover(limitedID, api, c.a.ID)
		if err != nil {
			return err
		}
	}
	if !c.kind.policies {
		return nil
	}
	return core.SetPolicies(c.a.ID, c.a.OtherAPIID, coretest.APIInvokerPolicy{
		APIInvokerID: limitedID, AllowedTotalInvocations: allowedCalls,
	})
}

// apis are the two APIs, or each AEF's own two.
func (c *cast) apis() []coretest.API {
	var apis []coretest.API
	for _, e := range []*exposer{c.a, c.b} {
		at := []string{e.ID}
		if !c.kind.apart {
			at = []string{c.a.ID, c.b.ID}
		}
		apis = append(apis,
			coretest.API{ID: e.APIID, Name: testbed.APIName, AEFIDs: at},
			coretest.API{ID: e.OtherAPIID, Name: testbed.OtherAPIName, AEFIDs: at})
		if !c.kind.apart {
			break
		}
	}
	return apis
}

// entries of the security context: both APIs at both AEFs.
func (c *cast) entries() []coretest.SecurityInformation {
	var entries []coretest.SecurityInformation
	for _, e := range []*exposer{c.a, c.b} {
		entries = append(entries, coretest.Entry(e.ID, e.APIID), coretest.Entry(e.ID, e.OtherAPIID))
	}
	return entries
}

// scope of the access tokens: two APIs at two AEFs.
func (c *cast) scope() string {
	a := coretest.ScopeOf(c.a.ID, testbed.APIName, testbed.OtherAPIName)
	b := coretest.ScopeOf(c.b.ID, testbed.APIName, testbed.OtherAPIName)
	return a + ";" + strings.TrimPrefix(b, "3gpp#")
}

// authorize has the API invoker put its security context, and waits until those
// whom the core tells of it have heard.
func (c *cast) authorize(ctx context.Context) error {
	err := c.invoker.PutContext(ctx, c.entries()...)
	if err != nil {
		return err
	}
	return c.scene.Core.Quiesce(ctx)
}

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
	for _, invoker := range []*coretest.Invoker{c.invoker, c.limited} {
		if invoker != nil {
			errs = append(errs, invoker.Close())
		}
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
