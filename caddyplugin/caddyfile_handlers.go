package caddyplugin

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func parseEnforce(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	e := new(Enforce)
	return e, e.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	capif_enforce [<matcher>] {
//		api_id        <ids...>
//		api_name      <name>
//		aef_id        <id>
//		scope         <value>
//		token_keys    jwks <url|file> | pem <files...>
//		algorithms    <names...>
//		leeway        <duration>
//		invoker_claim <names...>
//		require_context on|off
//		max_staleness <duration>
//		mode          enforce|monitor
//		on_error      deny|allow
//		bind          client_certificate
//		pass_errors
//		preflight     pass
//		policy        [core] {
//			total            <calls>
//			per_second       <calls>
//			time_range       <start> <stop>
//			invoker          <id> {
//				total      <calls>
//				per_second <calls>
//				time_range <start> <stop>
//			}
//			required
//			over_limit       revoke|refuse
//			unbound_triggers
//		}
//		end_streams [{
//			grace <duration>
//		}]
//	}
func (e *Enforce) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	once := onlyOnce{}
	for d.NextBlock(0) {
		word := d.Val()
		var err error
		if word != "api_id" { // several lines are allowed
			err = once.check(d, word)
		}
		if err != nil {
			return err
		}
		switch word {
		case "api_id":
			var ids []string
			err = several(d, &ids)
			e.APIIDs = append(e.APIIDs, ids...)
		case "api_name":
			err = one(d, &e.APIName)
		case "aef_id":
			err = one(d, &e.AEFID)
		case "scope":
			err = one(d, &e.Scope)
		case "token_keys", "algorithms", "leeway", "invoker_claim":
			err = unmarshalToken(d, &e.Token)
		case "pass_errors":
			e.PassErrors = true
			err = none(d)
		case "preflight":
			var pass string
			err = word1(d, &pass, "pass")
			e.PassPreflight = true
		case "require_context":
			err = word1(d, &e.RequireContext, wordOn, wordOff)
		case "max_staleness":
			err = duration(d, &e.MaxStaleness)
		case "mode":
			err = word1(d, &e.Mode, modeEnforce, modeMonitor)
		case "on_error":
			err = word1(d, &e.OnError, onErrorDeny, onErrorAllow)
		case "policy":
			e.Policy = new(Policy)
			err = e.Policy.unmarshal(d)
		case "bind":
			err = word1(d, &e.Bind, bindClientCertificate)
		case "end_streams":
			e.EndStreams = new(EndStreams)
			err = e.EndStreams.unmarshal(d)
		default:
			err = unrecognized(d, "api_id", "api_name", "aef_id", "scope", "token_keys", "algorithms", "leeway", "invoker_claim", "require_context", "max_staleness", "mode", "on_error", "bind", "pass_errors", "preflight", "policy", "end_streams")
		}
		if err != nil {
			return err
		}
	}
	switch {
	case len(e.APIIDs) == 0:
		return d.Err("capif_enforce needs api_id: the id under which the core knows this API")
	case e.APIName == "" && e.Scope == "":
		return d.Err("capif_enforce needs api_name (as it stands in token scopes) or scope (a plain scope value)")
	case e.APIName != "" && e.Scope != "":
		return d.Err("capif_enforce takes api_name or scope, not both: a token is matched by one of them")
	}
	return nil
}

func parseTrigger(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	t := new(Trigger)
	return t, t.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	capif_trigger [<matcher>] {
//		cause   <cause>
//		reason  <text>
//		name    <name>
//		api     this|all
//		respond <status>
//		wait
//		dry_run
//		unbound_triggers
//	}
func (t *Trigger) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	once := onlyOnce{}
	for d.NextBlock(0) {
		word := d.Val()
		err := once.check(d, word)
		if err != nil {
			return err
		}
		switch word {
		case "cause":
			err = one(d, &t.Cause)
		case "reason":
			err = one(d, &t.Reason)
		case "name":
			err = one(d, &t.Name)
		case "api":
			err = word1(d, &t.API, apiThis, apiAll)
		case "respond":
			err = errorStatus(d, &t.Respond)
		case "wait":
			t.Wait = true
			err = none(d)
		case "dry_run":
			t.DryRun = true
			err = none(d)
		case "unbound_triggers":
			t.UnboundTriggers = true
			err = none(d)
		default:
			err = unrecognized(d, "cause", "reason", "name", "api", "respond", "wait", "dry_run", "unbound_triggers")
		}
		if err != nil {
			return err
		}
	}
	if t.Cause == "" {
		return d.Err("capif_trigger: " + causeMissing)
	}
	return nil
}

// errorStatus reads a status with which a call is refused.
func errorStatus(d *caddyfile.Dispenser, out *int) error {
	name := d.Val()
	var text string
	err := one(d, &text)
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(text)
	if err != nil || status < 400 || status > 599 {
		return d.Errf("%s %q is not a status of 400 to 599", name, text)
	}
	*out = status
	return nil
}

func parseCallback(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	c := new(Callback)
	return c, c.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	capif_callback [<matcher>] {
//		core_identity san|cn|spki <value>
//		core_ca       <pem_files...>
//		events_path   <path>
//		hint_path     <path> [<previous_path>]
//		max_body      <bytes>
//		check_authentication [{
//			rate  <per_second>
//			burst <requests>
//		}]
//	}
func (c *Callback) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	once := onlyOnce{}
	for d.NextBlock(0) {
		word := d.Val()
		var err error
		if word != "core_identity" { // any of several suffices
			err = once.check(d, word)
		}
		if err != nil {
			return err
		}
		switch word {
		case "core_identity":
			args := d.RemainingArgs()
			if len(args) != 2 {
				return d.Errf("core_identity takes a kind (san, cn or spki) and a value, got %d arguments", len(args))
			}
			c.CoreIdentities = append(c.CoreIdentities, CoreIdentity{Kind: args[0], Value: args[1]})
		case "core_ca":
			err = several(d, &c.CoreCA)
		case "events_path":
			err = one(d, &c.EventsPath)
		case "hint_path":
			args := d.RemainingArgs()
			switch len(args) {
			case 2:
				c.PreviousHintPath = args[1]
				fallthrough
			case 1:
				c.HintPath = args[0]
			default:
				err = d.Errf("hint_path takes a path, and while it is rotated the previous one, got %d arguments", len(args))
			}
		case "max_body":
			err = number(d, &c.MaxBody)
		case "check_authentication":
			c.CheckAuthentication = new(CheckAuthentication)
			err = c.CheckAuthentication.unmarshal(d)
		default:
			err = unrecognized(d, "core_identity", "core_ca", "events_path", "hint_path", "max_body", "check_authentication")
		}
		if err != nil {
			return err
		}
	}
	if len(c.CoreIdentities) == 0 && c.HintPath == "" {
		return d.Err("capif_callback needs core_identity, or for a core that cannot authenticate hint_path")
	}
	return nil
}

// onlyOnce refuses a subdirective that stands twice.
type onlyOnce map[string]bool

func (o onlyOnce) check(d *caddyfile.Dispenser, word string) error {
	if o[word] {
		return d.Errf("%s is already specified", word)
	}
	o[word] = true
	return nil
}

// one reads the one argument that a subdirective takes.
func one(d *caddyfile.Dispenser, out *string) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("%s takes one argument, got %d", name, len(args))
	}
	if args[0] == "" {
		return d.Errf("%s is empty", name)
	}
	*out = args[0]
	return nil
}

// several reads one argument or more.
func several(d *caddyfile.Dispenser, out *[]string) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s takes at least one argument", name)
	}
	*out = args
	return nil
}

// word1 reads one of a few words; a placeholder is checked when it is resolved.
func word1(d *caddyfile.Dispenser, out *string, accepted ...string) error {
	name := d.Val()
	err := one(d, out)
	if err != nil {
		return err
	}
	if !slices.Contains(accepted, *out) && !hasPlaceholder(*out) {
		return d.Errf("unknown %s %q; accepted: %s", name, *out, strings.Join(accepted, ", "))
	}
	return nil
}

// none refuses arguments.
func none(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument %q", d.Val())
	}
	return nil
}

func unrecognized(d *caddyfile.Dispenser, accepted ...string) error {
	return d.Errf("unrecognized subdirective %q; accepted: %s", d.Val(), strings.Join(accepted, ", "))
}

func hasPlaceholder(s string) bool { return strings.Contains(s, "{") }

var (
	_ caddyfile.Unmarshaler = (*Enforce)(nil)
	_ caddyfile.Unmarshaler = (*Trigger)(nil)
	_ caddyfile.Unmarshaler = (*Callback)(nil)
)
