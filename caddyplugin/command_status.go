package caddyplugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows how the AEF stands: core, ledger, keys, routes, alarms",
		Long: `
Shows who this AEF is, whether the core answers, how old the oldest context of an
active API invoker is (the worst exposure to a revoke that the core announced to
nobody), the keys and their age, the ledger, and the alarms that are raised.`,
		Example: "  caddy capif status\n  caddy capif status --json",
		Args:    cobra.NoArgs,
	}
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		status, err := c.client.Status(ctx)
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(status)
		}
		c.status(status)
		return nil
	})
}

func (c *console) status(s *adminapi.Status) {
	rows := [][]string{
		{"AEF", fmt.Sprintf("%s; hosted: %s", s.AEFID, strings.Join(s.AEFIDs, ", "))},
		{"core", fmt.Sprintf("%s, profile %s, %s, last answer %s", s.Core, s.Profile, reachable(&s.Contexts), ago(s.Contexts.LastAnswer))},
		{"contexts", contextsText(&s.Contexts)},
		{"subscription", subscriptionText(&s.Subscription)},
		{"ledger", fmt.Sprintf("%s, %s, %d bytes, %d scopes denied, %d audit records", s.Ledger.Path, ledgerText(&s.Ledger), s.Ledger.Bytes, s.Ledger.DeniedScopes, s.Ledger.AuditRecords)},
		{"outbox", fmt.Sprintf("%d wait for the core; %d revocations pending", s.Outbox, s.Ledger.Pending)},
		{"deny cache", fmt.Sprintf("%d dropped, %d rejected, %d evicted", s.Cache.Dropped, s.Cache.Rejected, s.Cache.Evicted)},
	}
	for _, k := range s.Keys {
		rows = append(rows, []string{"keys", keysText(&k)})
	}
	for _, r := range s.Routes {
		rows = append(rows, []string{"route", routeText(&r)})
	}
	if len(s.Alarms) == 0 {
		rows = append(rows, []string{"alarms", "none"})
	}
	for _, a := range s.Alarms {
		rows = append(rows, []string{"ALARM", fmt.Sprintf("%s since %s, %d times: %s", a.Name, at(a.Since), a.Count, a.Detail)})
	}
	for _, row := range rows {
		c.sayf("%-13s %s\n", row[0], printable(row[1]))
	}
}

func keysText(k *adminapi.Keys) string {
	text := k.Source + ", loaded " + ago(k.LoadedAt)
	if !k.Present {
		text = k.Source + ", none loaded: every call is refused"
	}
	if k.Error != "" {
		text += "; last error: " + k.Error
	}
	return text
}

func reachable(x *adminapi.Contexts) string {
	switch {
	case !x.CoreReachable:
		return "NOT reachable"
	case x.LastAnswer.IsZero():
		return "no context read yet"
	default:
		return "reachable"
	}
}

func ledgerText(l *adminapi.Ledger) string {
	switch {
	case !l.Ready:
		return "NOT open"
	case l.Failing:
		return "CANNOT be written"
	default:
		return "open"
	}
}

func contextsText(x *adminapi.Contexts) string {
	text := fmt.Sprintf("%d kept, %d due; the oldest of an active API invoker was read %s ago", x.Invokers, x.Due,
		time.Duration(x.OldestSeconds*float64(time.Second)).Round(time.Second))
	if x.Suspended {
		text += fmt.Sprintf("; a mass change is SUSPENDED, %d withheld: look at the core, then `caddy capif reconcile --accept`", x.Withheld)
	}
	return text
}

func subscriptionText(s *adminapi.Subscription) string {
	switch {
	case !s.Configured:
		return "not configured"
	case !s.Subscribed:
		return "NOT subscribed: " + s.Error
	default:
		return fmt.Sprintf("%s, confirmed %s", strings.Join(s.Events, ", "), ago(s.Checked))
	}
}

func routeText(r *adminapi.Route) string {
	text := fmt.Sprintf("%s at %s, apiIds %s, mode %s", r.APIName, r.AEFID, strings.Join(r.APIIDs, " "), r.Mode)
	if r.OnError == onErrorAllow {
		text += ", FAILS OPEN"
	}
	if !r.RequireContext {
		text += ", no context required"
	}
	return text
}

func reconcileCommand() *cobra.Command {
	var asked adminapi.ReconcileRequest
	cmd := &cobra.Command{
		Use:   "reconcile [--accept] [--reason <text>] [--ticket <id>]",
		Short: "Has every security context and the token keys read again; --accept lets a suspended mass change count",
		Long: `
Has the security context of every known API invoker read again from the core, the
token keys loaded again, and the event subscription confirmed. With --accept a mass change that was suspended
counts: the core is right. Look at the core before that.`,
		Example: "  caddy capif reconcile\n  caddy capif reconcile --accept --reason \"core restored\" --ticket OPS-12",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asked.Accept, "accept", false, "Let a suspended mass change count")
	cmd.Flags().StringVar(&asked.Reason, "reason", "", "Why, for the audit")
	cmd.Flags().StringVar(&asked.Ticket, "ticket", "", "Ticket, for the audit")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		answer, err := c.client.Reconcile(ctx, &asked)
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(answer)
		}
		switch {
		case asked.Accept && answer.Accepted:
			c.sayf("The suspended mass change counts now.\n")
		case asked.Accept:
			c.sayf("No mass change was suspended.\n")
		}
		for _, k := range answer.Keys {
			c.sayf("Keys: %s.\n", printable(keysText(&k)))
		}
		c.sayf("Contexts are being read again: %s. `caddy capif status` shows how far it is.\n", contextsText(&answer.Contexts))
		return nil
	})
}
