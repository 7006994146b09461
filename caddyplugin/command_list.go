package caddyplugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/revocation"
)

// page are the flags of commands that list.
type page struct {
	filter adminapi.Filter
	all    bool
}

func (p *page) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.filter.Invoker, "invoker", "", "Only this API invoker")
	cmd.Flags().IntVar(&p.filter.Limit, "limit", 100, "How many on one page, at most 1000")
	cmd.Flags().BoolVar(&p.all, "all", false, "Every page")
}

// check finds what the admin API would take for not given.
func (p *page) check() error {
	if p.filter.Limit < 1 {
		return exitWith(exitInvalid, "--limit %d: give 1 to %d", p.filter.Limit, revocation.MaxPage)
	}
	return nil
}

// eachPage asks for pages and hands each on, one or all. next is what continues the
// listing.
func eachPage[C comparable](all bool, from C, get func(C) (C, error)) (C, error) {
	var end C
	for cursor := from; ; {
		next, err := get(cursor)
		if err != nil || next == end || !all {
			return next, err
		}
		cursor = next
	}
}

func listCommand() *cobra.Command {
	var p page
	var claims bool
	var before uint64
	var after string
	cmd := &cobra.Command{
		Use:   "list [--claims] [--invoker <id>] [--api <id>] [--state <state>] [--limit <n>] [--all]",
		Short: "Lists revocations, newest first, or claims",
		Long: `
Lists revocations, newest first: what was asked of the core, and what came of it.
With --claims it lists what denies calls here. A page that is not the last says
how to go on.`,
		Example: "  caddy capif list --state pending\n  caddy capif list --claims --invoker inv-1",
		Args:    cobra.NoArgs,
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&p.filter.API, "api", "", "Only this apiId")
	cmd.Flags().StringVar(&p.filter.State, "state", "", "Only revocations in this state, such as pending")
	cmd.Flags().BoolVar(&claims, "claims", false, "List claims instead of revocations")
	cmd.Flags().Uint64Var(&before, "before", 0, "Go on before this sequence")
	cmd.Flags().StringVar(&after, "after", "", "Go on after this cursor (with --claims)")
	cmd.MarkFlagsMutuallyExclusive("claims", "state")
	cmd.MarkFlagsMutuallyExclusive("claims", "before")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		err := p.check()
		switch {
		case err != nil:
			return err
		case after != "" && !claims:
			return exitWith(exitInvalid, "--after goes on in a list of --claims: give --before for revocations")
		}
		if claims {
			return c.listClaims(ctx, &p, after)
		}
		list := adminapi.RevocationList{Revocations: []revocation.Revocation{}}
		next, err := eachPage(p.all, before, func(cursor uint64) (uint64, error) {
			got, err := c.client.Revocations(ctx, p.filter, cursor)
			list.Revocations = append(list.Revocations, got.Revocations...)
			return got.Next, err
		})
		if err != nil {
			return err
		}
		list.Next = next
		return listed(c, list, func() { c.revocations(list.Revocations) }, "before", next)
	})
}

func (c *console) listClaims(ctx context.Context, p *page, after string) error {
	api := p.filter.API
	p.filter.API = "" // claims are filtered here
	list := adminapi.ClaimList{Claims: []revocation.Claim{}}
	next, err := eachPage(p.all, after, func(cursor string) (string, error) {
		got, err := c.client.Claims(ctx, p.filter, cursor)
		for _, claim := range got.Claims {
			if api == "" || claim.API == "" || claim.API == api {
				list.Claims = append(list.Claims, claim)
			}
		}
		return got.Next, err
	})
	if err != nil {
		return err
	}
	list.Next = next
	return listed(c, list, func() { c.claims(list.Claims) }, "after", next)
}

// listed writes a list, as JSON or by table, and how to go on where there is more.
func listed[K comparable](c *console, list any, table func(), flag string, next K) error {
	if c.json {
		return c.writeJSON(list)
	}
	table()
	var none K
	if next != none {
		c.tellf("There are more: go on with --%s %v, or give --all.\n", flag, next)
	}
	return nil
}

func auditCommand() *cobra.Command {
	var p page
	var before uint64
	cmd := &cobra.Command{
		Use:   "audit [--invoker <id>] [--action <action>] [--limit <n>] [--all]",
		Short: "Lists who changed what, and why",
		Long: `
Lists the audit, newest first: each revoke, lift, reconcile and accept with who
asked and why, each decision of the core on a revocation, each claim that the core
set or lifted by itself, and each change of a security context that lets calls pass
or refuses them (core_context; at most 300 an hour, the others counted). Actions: ` + actionWords() + `.`,
		Example: "  caddy capif audit --invoker inv-1\n  caddy capif audit --action lift --all --json",
		Args:    cobra.NoArgs,
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&p.filter.Action, "action", "", "Only this action")
	cmd.Flags().Uint64Var(&before, "before", 0, "Go on before this sequence")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		err := p.check()
		if err != nil {
			return err
		}
		list := adminapi.AuditList{Audit: []revocation.Audit{}}
		next, err := eachPage(p.all, before, func(cursor uint64) (uint64, error) {
			got, err := c.client.Audit(ctx, p.filter, cursor)
			list.Audit = append(list.Audit, got.Audit...)
			return got.Next, err
		})
		if err != nil {
			return err
		}
		list.Next = next
		return listed(c, list, func() { c.audits(list.Audit) }, "before", next)
	})
}

func actionWords() string {
	words := make([]string, 0, len(revocation.Actions()))
	for _, a := range revocation.Actions() {
		words = append(words, string(a))
	}
	return strings.Join(words, ", ")
}

func showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show <id>",
		Short:   "Shows one revocation with the core's answers",
		Long:    "\nShows one revocation: what was asked, by whom and why, and what the core answered.",
		Example: "  caddy capif show rv-5f2c1a90-17",
		Args:    cobra.ExactArgs(1),
	}
	return running(cmd, func(ctx context.Context, c *console, args []string) error {
		r, err := c.client.Revocation(ctx, args[0])
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(r)
		}
		rows := [][]string{
			{"id", r.ID}, {"state", string(r.State)}, {"API invoker", r.InvokerID}, {"AEF", r.AEFID}, {"API", apiOr(r.APIID)},
			{"cause", r.Cause}, {"reason", r.Reason}, {"ticket", r.Ticket}, {"requested by", r.RequestedBy},
			{"held", yesNo(r.Hold)}, {"created", at(r.CreatedAt)}, {"decided", at(r.DecidedAt)},
		}
		if r.State == revocation.StatePending {
			rows = append(rows, []string{"next attempt", at(r.NextAttempt)}, []string{"attempts", fmt.Sprint(r.Attempts)})
		}
		if x := r.Exposure; x != nil {
			rows = append(rows, []string{"passed since the trigger", exposureText(x)})
		}
		for i := range r.Answers {
			rows = append(rows, []string{"core, " + at(r.Answers[i].At), answerText(&r.Answers[i])})
		}
		c.table(nil, rows)
		return nil
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// exported are the kinds of records of an export, in their order.
var exported = []string{"claims", "revocations", "audit"}

func exportCommand() *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use:   "export [--only claims,revocations,audit]",
		Short: "Writes the ledger as JSON lines",
		Long: `
Writes the ledger as JSON lines: first one of type ledger, then claims, revocations
and audit records, each as {"type": …, "data": …}. What changes meanwhile may be in
it or not; take a copy of the file for a backup.`,
		Example: "  caddy capif export > ledger.jsonl\n  caddy capif export --only audit",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringSliceVar(&only, "only", exported, "Which records")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		for _, kind := range only {
			if !slices.Contains(exported, kind) {
				return exitWith(exitInvalid, "--only %s: there are %s", kind, strings.Join(exported, ", "))
			}
		}
		return c.export(ctx, only)
	})
}

type exportedRecord struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

func (c *console) export(ctx context.Context, only []string) error {
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	err = c.writeLine(exportedRecord{"ledger", map[string]any{"aef_id": status.AEFID, "path": status.Ledger.Path, "at": time.Now().UTC()}})
	if err != nil {
		return err
	}
	filter := adminapi.Filter{Limit: revocation.MaxPage}
	if slices.Contains(only, exported[0]) {
		_, err = eachPage(true, "", func(cursor string) (string, error) {
			got, err := c.client.Claims(ctx, filter, cursor)
			return got.Next, writeAll(c, err, "claim", got.Claims)
		})
		if err != nil {
			return err
		}
	}
	if slices.Contains(only, exported[1]) {
		_, err = eachPage(true, 0, func(cursor uint64) (uint64, error) {
			got, err := c.client.Revocations(ctx, filter, cursor)
			return got.Next, writeAll(c, err, "revocation", got.Revocations)
		})
		if err != nil {
			return err
		}
	}
	if slices.Contains(only, exported[2]) {
		_, err = eachPage(true, 0, func(cursor uint64) (uint64, error) {
			got, err := c.client.Audit(ctx, filter, cursor)
			return got.Next, writeAll(c, err, "audit", got.Audit)
		})
	}
	return err
}

func writeAll[T any](c *console, err error, kind string, list []T) error {
	for i := range list {
		if err != nil {
			return err
		}
		err = c.writeLine(exportedRecord{kind, list[i]})
	}
	return err
}

// exposureText says what passed between a trigger and the block.
func exposureText(x *revocation.Exposure) string {
	if x.Calls == 0 {
		return "no call"
	}
	return fmt.Sprintf("at most %d, the last at %s", x.Calls, at(x.LastPassedAt))
}
