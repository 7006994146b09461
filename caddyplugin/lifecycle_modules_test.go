package caddyplugin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-capif/aef/caddyplugin"
)

// The Caddys of these tests, which are this binary, have four modules more: an
// app that fails where it is told to, a look inside on the admin endpoint, and two
// handlers of events.
func init() {
	caddy.RegisterModule(faultApp{})
	caddy.RegisterModule(lifecycleAdmin{})
	caddy.RegisterModule(new(eventFile))
	caddy.RegisterModule(new(eventExec))
	httpcaddyfile.RegisterGlobalOption("lifecycle_fault", func(d *caddyfile.Dispenser, _ any) (any, error) {
		d.Next()
		app := new(faultApp)
		if !d.Args(&app.At) {
			return nil, d.ArgErr()
		}
		return httpcaddyfile.App{Name: "lifecycle_fault", Value: caddyconfig.JSON(app, nil)}, nil
	})
}

// faultApp makes Caddy reject its configuration: at "provision" once the capif
// app is provisioned, at "start" before or after the capif app has started, as
// it comes, for Caddy starts apps in any order. The error says which.
type faultApp struct {
	At    string `json:"at"`
	capif *caddyplugin.App
}

const (
	faultAfterCapif  = "fault after capif was started"
	faultBeforeCapif = "fault before capif was started"
	faultProvision   = "fault after capif was provisioned"
)

func (faultApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "lifecycle_fault", New: func() caddy.Module { return new(faultApp) }}
}

func (f *faultApp) Provision(ctx caddy.Context) error {
	app, err := ctx.App("capif")
	if err != nil {
		return err
	}
	f.capif = app.(*caddyplugin.App)
	if f.At == "provision" {
		return errors.New(faultProvision)
	}
	return nil
}

func (f *faultApp) Start() error {
	if caddyplugin.Started(f.capif) {
		return errors.New(faultAfterCapif)
	}
	return errors.New(faultBeforeCapif)
}

func (f *faultApp) Stop() error { return nil }

// lifecycleAdmin serves /lifecycle/ on the admin endpoint.
type lifecycleAdmin struct{}

func (lifecycleAdmin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.lifecycle", New: func() caddy.Module { return new(lifecycleAdmin) }}
}

// limitFileSize lets no file of this process grow beyond so many bytes, as a
// full disk does; it is set where the system can.
var limitFileSize = func(uint64) error { return errors.New("no file size limit on this system") }

func (*lifecycleAdmin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/lifecycle/probe", Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			p, err := caddyplugin.ProbeState(r.URL.Query().Get("token"))
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(p)
		})},
		{Pattern: "/lifecycle/file-size", Handler: caddy.AdminHandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			limit, err := strconv.ParseUint(r.URL.Query().Get("limit"), 10, 64)
			if err != nil {
				return fmt.Errorf("limit: %w", err)
			}
			return limitFileSize(limit)
		})},
	}
}

var (
	_ caddy.App         = (*faultApp)(nil)
	_ caddy.Provisioner = (*faultApp)(nil)
	_ caddy.AdminRouter = (*lifecycleAdmin)(nil)
)
