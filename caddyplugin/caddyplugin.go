// Package caddyplugin makes Caddy the enforcement point of a 3GPP CAPIF API
// exposing function (AEF).
//
// It registers these modules:
//
//	capif                         app: identity, core, ledger (global option)
//	http.handlers.capif_enforce   decides each call
//	http.handlers.capif_trigger   revokes, where a route says so
//	http.handlers.capif_callback  takes what the core says
//	http.handlers.capif_health    answers readiness probes
//	admin.api.capif               the trigger and all that operators do
//
// and the command `caddy capif`, which speaks to the admin API.
//
// State lives in [state], which is shared by the old and the new configuration
// over a reload; everything else belongs to one configuration. It is the only
// package of the project that imports Caddy.
package caddyplugin

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Enforce{})
	caddy.RegisterModule(Trigger{})
	caddy.RegisterModule(Callback{})
	caddy.RegisterModule(new(Health))
	caddy.RegisterModule(adminAPI{})

	caddycmd.RegisterCommand(capifCommand())

	httpcaddyfile.RegisterGlobalOption("capif", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("capif_enforce", parseEnforce)
	httpcaddyfile.RegisterHandlerDirective("capif_trigger", parseTrigger)
	httpcaddyfile.RegisterHandlerDirective("capif_callback", parseCallback)
	httpcaddyfile.RegisterHandlerDirective("capif_health", parseHealth)

	// All places in one spot: a plugin can order itself only beside standard
	// directives. Enforcement comes after basic_auth, so cheap rate limits go
	// before it and everything that forwards goes after it. A trigger comes
	// after enforcement, which tells it whose call it is. The callback and the
	// probe answer everything they are given, so they stand where respond does.
	httpcaddyfile.RegisterDirectiveOrder("capif_enforce", httpcaddyfile.After, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("capif_trigger", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("capif_callback", httpcaddyfile.Before, "respond")
	httpcaddyfile.RegisterDirectiveOrder("capif_health", httpcaddyfile.Before, "respond")
}
