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
	err := eachWord(d, func(word string) error {
		switch word {
		case "api_id":
			var ids []string
			err := several(d, &ids)
			e.APIIDs = append(e.APIIDs, ids...)
			return err
		case "api_name":
			return one(d, &e.APIName)
		case "aef_id":
			return one(d, &e.AEFID)
		case "scope":
			return one(d, &e.Scope)
		case "token_keys", "algorithms", "leeway", "invoker_claim":
			return unmarshalToken(d, &e.Token)
		case "pass_errors":
			e.PassErrors = true
			return none(d)
		case "preflight":
			var pass string
			err := word1(d, &pass, "pass")
			e.PassPreflight = true
			return err
		case "require_context":
			return word1(d, &e.RequireContext, wordOn, wordOff)
		case "max_staleness":
			return duration(d, &e.MaxStaleness)
		case "mode":
			return word1(d, &e.Mode, modeEnforce, modeMonitor)
		case "on_error":
			return word1(d, &e.OnError, onErrorDeny, onErrorAllow)
		case "policy":
			e.Policy = new(Policy)
			return e.Policy.unmarshal(d)
		case "bind":
			return word1(d, &e.Bind, bindClientCertificate)
		case "end_streams":
			e.EndStreams = new(EndStreams)
			return e.EndStreams.unmarshal(d)
		default:
			return unrecognized(d, "api_id", "api_name", "aef_id", "scope", "token_keys", "algorithms", "leeway", "invoker_claim", "require_context", "max_staleness", "mode", "on_error", "bind", "pass_errors", "preflight", "policy", "end_streams")
		}
	}, "api_id")
	if err != nil {
		return err
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
	err := eachWord(d, func(word string) error {
		switch word {
		case "cause":
			return one(d, &t.Cause)
		case "reason":
			return one(d, &t.Reason)
		case "name":
			return one(d, &t.Name)
		case "api":
			return word1(d, &t.API, apiThis, apiAll)
		case "respond":
			return errorStatus(d, &t.Respond)
		case "wait":
			t.Wait = true
			return none(d)
		case "dry_run":
			t.DryRun = true
			return none(d)
		case "unbound_triggers":
			t.UnboundTriggers = true
			return none(d)
		default:
			return unrecognized(d, "cause", "reason", "name", "api", "respond", "wait", "dry_run", "unbound_triggers")
		}
	})
	if err != nil {
		return err
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
	err := eachWord(d, func(word string) error {
		switch word {
		case "core_identity":
			args := d.RemainingArgs()
			if len(args) != 2 {
				return d.Errf("core_identity takes a kind (san, cn or spki) and a value, got %d arguments", len(args))
			}
			c.CoreIdentities = append(c.CoreIdentities, CoreIdentity{Kind: args[0], Value: args[1]})
			return nil
		case "core_ca":
			return several(d, &c.CoreCA)
		case "events_path":
			return one(d, &c.EventsPath)
		case "hint_path":
			args := d.RemainingArgs()
			switch len(args) {
			case 2:
				c.PreviousHintPath = args[1]
				fallthrough
			case 1:
				c.HintPath = args[0]
				return nil
			default:
				return d.Errf("hint_path takes a path, and while it is rotated the previous one, got %d arguments", len(args))
			}
		case "max_body":
			return number(d, &c.MaxBody)
		case "check_authentication":
			c.CheckAuthentication = new(CheckAuthentication)
			return c.CheckAuthentication.unmarshal(d)
		default:
			return unrecognized(d, "core_identity", "core_ca", "events_path", "hint_path", "max_body", "check_authentication")
		}
	}, "core_identity")
	if err != nil {
		return err
	}
	if len(c.CoreIdentities) == 0 && c.HintPath == "" {
		return d.Err("capif_callback needs core_identity, or for a core that cannot authenticate hint_path")
	}
	return nil
}

// eachWord reads the subdirectives of a block, each of which may stand once unless
// it is one of repeated. read takes one, by its name.
func eachWord(d *caddyfile.Dispenser, read func(word string) error, repeated ...string) error {
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if seen[word] && !slices.Contains(repeated, word) {
			return d.Errf("%s is already specified", word)
		}
		seen[word] = true
		err := read(word)
		if err != nil {
			return err
		}
	}
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
