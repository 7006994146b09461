package caddyplugin

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseGlobalOption adapts the global option capif. A second block is an error:
// one app serves one core.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next() // the error names the place
		return nil, d.Err("capif is already configured: one Caddy serves one CAPIF core function; merge the two blocks")
	}
	a := new(App)
	err := a.UnmarshalCaddyfile(d)
	if err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "capif", Value: caddyconfig.JSON(a, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	capif {
//		aef_id          <id>
//		core            <url> {
//			profile        strict|opencapif|oran
//			client_cert    <cert_file> <key_file>
//			trusted_ca     <pem_files...>
//			timeout        <duration>
//			redirect_hosts <hosts...>
//			insecure_http
//		}
//		token_keys      jwks <url|file> [{
//			trusted_ca     <pem_files...>
//		}]
//		token_keys      pem <files...>
//		token_keys      core_certificate
//		algorithms      <names...>
//		leeway          <duration>
//		invoker_claim   <names...>
//		ledger          [<path>] [{
//			must_exist
//			audit_records  <count>
//			audit_age      <duration>
//		}]
//		deny_cache      <tokens>
//		trigger_timeout <duration>
//		reconcile       <duration>
//		core_lift       operator|context
//		automatic_triggers <per_minute>|off
//		subscribe       <destination_url> [{
//			subscriber_id  <id>
//		}]
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume option name
	if d.NextArg() {
		return d.ArgErr()
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "aef_id":
			return one(d, &a.AEFID)
		case "core":
			a.Core = new(Core)
			return a.Core.unmarshal(d)
		case "token_keys", "algorithms", "leeway", "invoker_claim":
			return unmarshalToken(d, &a.Token)
		case "ledger":
			a.Ledger = new(Ledger)
			return a.Ledger.unmarshal(d)
		case "deny_cache":
			return number(d, &a.DenyCache)
		case "trigger_timeout":
			return duration(d, &a.TriggerTimeout)
		case "reconcile":
			return duration(d, &a.Reconcile)
		case "core_lift":
			return word1(d, &a.CoreLift, liftOperator, liftContext)
		case "automatic_triggers":
			return numberOrOff(d, &a.AutomaticTriggers)
		case "subscribe":
			a.Subscribe = new(Subscribe)
			return a.Subscribe.unmarshal(d)
		default:
			return unrecognized(d, "aef_id", "core", "token_keys", "algorithms", "leeway", "invoker_claim", "ledger", "deny_cache", "trigger_timeout", "reconcile", "core_lift", "automatic_triggers", "subscribe")
		}
	})
}

func (c *Core) unmarshal(d *caddyfile.Dispenser) error {
	err := one(d, &c.URL)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "profile":
			return word1(d, &c.Profile, "strict", "opencapif", "oran")
		case "client_cert":
			args := d.RemainingArgs()
			if len(args) != 2 {
				return d.Errf("client_cert takes a certificate file and a key file, got %d arguments", len(args))
			}
			c.ClientCertificate, c.ClientKey = args[0], args[1]
			return nil
		case "trusted_ca":
			return several(d, &c.TrustedCA)
		case "timeout":
			return duration(d, &c.Timeout)
		case "redirect_hosts":
			return several(d, &c.RedirectHosts)
		case "insecure_http":
			c.InsecureHTTP = true
			return none(d)
		default:
			return unrecognized(d, "profile", "client_cert", "trusted_ca", "timeout", "redirect_hosts", "insecure_http")
		}
	})
}

func (l *Ledger) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		l.Path = d.Val()
	}
	err := none(d)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "must_exist":
			l.MustExist = true
			return none(d)
		case "audit_records":
			return number(d, &l.AuditRecords)
		case "audit_age":
			return duration(d, &l.AuditAge)
		default:
			return unrecognized(d, "must_exist", "audit_records", "audit_age")
		}
	})
}

// unmarshalToken reads one of the subdirectives about tokens, which the global
// option and capif_enforce share.
func unmarshalToken(d *caddyfile.Dispenser, t **Token) error {
	if *t == nil {
		*t = new(Token)
	}
	switch d.Val() {
	case "token_keys":
		(*t).Keys = new(Keys)
		return (*t).Keys.unmarshal(d)
	case "algorithms":
		return several(d, &(*t).Algorithms)
	case "leeway":
		err := duration(d, &(*t).Leeway)
		if err == nil && (*t).Leeway == 0 {
			(*t).Leeway = -1 // said in as many words: none
		}
		return err
	default:
		return several(d, &(*t).InvokerClaims)
	}
}

func (k *Keys) unmarshal(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("token_keys needs to know where from; accepted: jwks, pem, core_certificate")
	}
	switch d.Val() {
	case "jwks":
		err := one(d, &k.JWKS)
		if err != nil {
			return err
		}
	case "pem":
		err := several(d, &k.PEM)
		if err != nil {
			return err
		}
	case "core_certificate":
		k.CoreCertificate = true
		err := none(d)
		if err != nil {
			return err
		}
	default:
		return d.Errf("unknown kind of token_keys %q; accepted: jwks, pem, core_certificate", d.Val())
	}
	return eachWord(d, func(word string) error {
		if word != "trusted_ca" || k.JWKS == "" {
			return unrecognized(d, "trusted_ca (with jwks)")
		}
		return several(d, &k.TrustedCA)
	})
}

func number(d *caddyfile.Dispenser, out *int64) error {
	name := d.Val()
	var text string
	err := one(d, &text)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return d.Errf("%s %q is not a whole number of at least 1", name, text)
	}
	*out = n
	return nil
}

// numberOrOff reads a number of at least 1, or off, which is -1.
func numberOrOff(d *caddyfile.Dispenser, out *int64) error {
	if next := d.NextArg(); next && d.Val() == wordOff {
		*out = triggersOff
		return none(d)
	} else if next {
		d.Prev()
	}
	return number(d, out)
}

func duration(d *caddyfile.Dispenser, out *caddy.Duration) error {
	name := d.Val()
	var text string
	err := one(d, &text)
	if err != nil {
		return err
	}
	value, err := caddy.ParseDuration(text)
	if err != nil || value < 0 {
		return d.Errf("%s %q is not a duration such as 5s", name, text)
	}
	*out = caddy.Duration(value)
	return nil
}

var _ caddyfile.Unmarshaler = (*App)(nil)
