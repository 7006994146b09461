package caddyplugin

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// unmarshal reads the block of policy in capif_enforce.
func (p *Policy) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		if d.Val() != "core" {
			return d.Errf("unknown source of policy %q; accepted: core, or a block with limits", d.Val())
		}
		p.FromCore = true
	}
	err := none(d)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "total", "per_second", "time_range":
			return unmarshalLimit(d, &p.Total, &p.PerSecond, &p.TimeRanges)
		case "invoker":
			p.Invokers = append(p.Invokers, PolicyInvoker{})
			return p.Invokers[len(p.Invokers)-1].unmarshal(d)
		case "required":
			p.Required = true
			return none(d)
		case "over_limit":
			return word1(d, &p.OverLimit, overLimitRevoke, overLimitRefuse)
		case "unbound_triggers":
			p.UnboundTriggers = true
			return none(d)
		default:
			return unrecognized(d, "total", "per_second", "time_range", "invoker", "required", "over_limit", "unbound_triggers")
		}
	}, "time_range", "invoker")
}

func (p *PolicyInvoker) unmarshal(d *caddyfile.Dispenser) error {
	err := one(d, &p.ID)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "total", "per_second", "time_range":
			return unmarshalLimit(d, &p.Total, &p.PerSecond, &p.TimeRanges)
		default:
			return unrecognized(d, "total", "per_second", "time_range")
		}
	}, "time_range")
}

// unmarshalLimit reads one of the words that say how often or when.
func unmarshalLimit(d *caddyfile.Dispenser, total, perSecond **int64, times *[]PolicyTime) error {
	switch d.Val() {
	case "total":
		return calls(d, total)
	case "per_second":
		return calls(d, perSecond)
	default:
		args := d.RemainingArgs()
		if len(args) != 2 {
			return d.Errf("time_range takes a start and a stop as in RFC 3339, - for an open end, got %d arguments", len(args))
		}
		var t PolicyTime
		if args[0] != openEnd {
			t.Start = args[0]
		}
		if args[1] != openEnd {
			t.Stop = args[1]
		}
		*times = append(*times, t)
		return nil
	}
}

// calls reads a number of calls; 0 allows none.
func calls(d *caddyfile.Dispenser, out **int64) error {
	name := d.Val()
	var text string
	err := one(d, &text)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return d.Errf("%s %q is not a whole number of calls", name, text)
	}
	*out = &n
	return nil
}
