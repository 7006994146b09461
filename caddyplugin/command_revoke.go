package caddyplugin

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/revocation"
)

// revokeFlags are what the flags of revoke say.
type revokeFlags struct {
	request adminapi.RevocationRequest
	wait    time.Duration
	file    fileFlags
}

func revokeCommand() *cobra.Command {
	var f revokeFlags
	var allAEFs, noHold bool
	cmd := &cobra.Command{
		Use:   "revoke --invoker <id> (--api <id>… | --all-apis) --cause <cause> [flags] | --from <file.csv> [flags]",
		Short: "Revokes authorizations of an API invoker: here at once, and at the core",
		Long: `
Blocks an API invoker here, durably and at once, and asks the core to revoke its
authorization (TS 23.222 8.23.3). It says how that stands when the core has decided
or trigger_timeout is over; --wait goes on waiting. A core that does not answer is
asked again, until it has decided or a lift ends it.

Causes: OVERLIMIT_USAGE, UNEXPECTED_REASON, from Release 19 on AUTHORIZATION_ISSUE
and OTHER_REASON. Whether other AEFs revoke too (--all-aefs) is up to the core's
profile; the answer says what it will do.

With --from it revokes what a CSV file lists: a header line with api_invoker_id and
api_id (* for all APIs), and if wanted aef_id, cause, reason, ticket; what a row
leaves empty, the flags give. It checks every row, shows what the file would hit,
asks, and sends. Interrupted or killed, the same command goes on where it was: rows
that were sent are known by the file's contents and the number of the row, and are
not sent twice. --batch gives the rows another name, and so sends them anew.`,
		Example: "  caddy capif revoke --invoker inv-1 --api 8f36c0 --cause OVERLIMIT_USAGE --reason \"twice the agreed rate\" --ticket OPS-7\n" +
			"  caddy capif revoke --invoker inv-2 --all-apis --cause UNEXPECTED_REASON --all-aefs --wait 1m\n" +
			"  caddy capif revoke --from invokers.csv --cause UNEXPECTED_REASON --ticket OPS-8 --yes",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.request.APIInvokerID, "invoker", "", "The API invoker")
	flags.StringArrayVar(&f.request.APIIDs, "api", nil, "An apiId; may be repeated")
	flags.BoolVar(&f.request.AllAPIs, "all-apis", false, "All APIs of the API invoker")
	flags.StringVar(&f.request.AEFID, "aef", "", "The aefId (default: that of the app)")
	flags.StringVar(&f.request.Cause, "cause", "", "The cause, for the core")
	flags.StringVar(&f.request.Reason, "reason", "", "Why, for the record")
	flags.StringVar(&f.request.Ticket, "ticket", "", "Ticket, for the record")
	flags.BoolVar(&allAEFs, "all-aefs", false, "Ask the core to revoke at every AEF; --all-aefs=false to ask for this one only")
	flags.BoolVar(&noHold, "no-hold", false, "Block only with the core's answer, and not if the core rejects the request")
	flags.StringVar(&f.request.RequestID, "request-id", "", "Name of this request: a repeat of it triggers nothing")
	flags.DurationVar(&f.wait, "wait", 0, "Wait so long for the core to decide, such as 1m")
	f.file.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("from", "invoker")
	cmd.MarkFlagsMutuallyExclusive("from", "api")
	cmd.MarkFlagsMutuallyExclusive("from", "all-apis")
	cmd.MarkFlagsMutuallyExclusive("from", "request-id")
	cmd.MarkFlagsOneRequired("from", "invoker")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		if f.file.path == "" {
			err := needsFrom(cmd)
			if err != nil {
				return err
			}
		}
		if cmd.Flags().Changed("all-aefs") {
			f.request.AllAEFs = &allAEFs
		}
		hold := !noHold
		f.request.Hold = &hold
		if f.file.path != "" {
			return c.revokeFile(ctx, &f)
		}
		return c.revoke(ctx, &f)
	})
}

func (c *console) revoke(ctx context.Context, f *revokeFlags) error {
	if len(f.request.APIIDs) == 0 && !f.request.AllAPIs {
		return exitWith(exitInvalid, "nothing was changed: give --api with an apiId, or --all-apis")
	}
	answer, _, err := c.client.Revoke(ctx, &f.request)
	if err != nil {
		return err
	}
	if f.wait > 0 {
		err = c.awaitDecided(ctx, answer.Revocations, f.wait)
		if err != nil {
			return err
		}
	}
	c.doubt(ctx, answer.Revocations)
	if c.json {
		err = c.writeJSON(answer)
		if err != nil {
			return err
		}
		return outcome(answer.Revocations, f.wait > 0)
	}
	switch {
	case answer.Existing:
		c.sayf("This was triggered before; nothing new was triggered.\n")
	case answer.Blocked:
		c.sayf("Blocked here: no call of what was revoked is passed on any more.\n")
	default:
		c.sayf("NOT blocked here (yet): without hold, before the core's answer, or because a route only monitors.\n")
	}
	c.sayf("Scope at the core: %s. %s.\n", answer.EffectiveScope, strings.ToUpper(answer.Note[:1])+answer.Note[1:])
	c.revocations(answer.Revocations)
	return outcome(answer.Revocations, f.wait > 0)
}

// doubt warns of a revocation that may stop nobody, since an id is mistyped: the API
// has no route here, or the core knew of nothing to revoke.
func (c *console) doubt(ctx context.Context, list []revocation.Revocation) {
	routes := map[string]bool{}
	status, err := c.client.Status(ctx)
	if err == nil { // a warning is not worth failing for
		for _, r := range status.Routes {
			for _, api := range r.APIIDs {
				routes[r.AEFID+"\x00"+api] = true
			}
		}
	}
	if len(list) > 0 {
		c.doubtCauses(list[0].Cause)
	}
	for i := range list {
		r := &list[i]
		if err == nil && !r.AllAPIs && !routes[r.AEFID+"\x00"+r.APIID] {
			c.tellf("Warning: NO ROUTE here stands for API %s at %s. --api takes an apiId, not the apiName; `caddy capif status` shows the routes.\n",
				printable(r.APIID), printable(r.AEFID))
		}
		if r.State == revocation.StateNoAuthorizationFound {
			c.tellf("Warning: the core has no such authorization of %s (API %s): %s\n",
				printable(r.InvokerID), printable(apiOr(r.APIID)), unknownHint(r))
		}
	}
}

// doubtCauses warns of causes that may be mistyped. The standard allows others.
func (c *console) doubtCauses(causes ...string) {
	for _, cause := range causes {
		if !slices.Contains(standardCauses, cause) {
			c.tellf("Warning: cause %q is none of the standard's (%s): the core may refuse it, or take it for another.\n",
				cause, strings.Join(standardCauses, ", "))
		}
	}
}

// unknownHint says what to look at where the core had nothing to revoke.
func unknownHint(r *revocation.Revocation) string {
	last := len(r.Answers) - 1
	if last >= 0 && r.Answers[last].Status == http.StatusOK {
		return "its security context is there, without this API. Was it revoked before, or is the apiId another one?"
	}
	return "is the id of the API invoker the one in its tokens?"
}

// outcome is nil unless the core refused or, where that was waited for, has not
// decided.
func outcome(list []revocation.Revocation, waited bool) error {
	for i := range list {
		r := &list[i]
		switch {
		case r.State == revocation.StateRejected:
			return exitWith(exitCoreRefused, "the core rejected %s (%s): see what it says of the request, and lift the claim if it was wrong", r.ID, lastWord(r))
		case r.State == revocation.StateUnconfirmed:
			return exitWith(exitCoreRefused, "the core said yes to %s and still lists the authorization: ask the core's operator; the API invoker stays blocked here", r.ID)
		case r.State == revocation.StatePending && waited:
			return exitWith(exitPending, "the core has not decided %s yet (%s): it is asked again; `caddy capif show %s` shows how it stands", r.ID, lastWord(r), r.ID)
		}
	}
	return nil
}

// pollEvery is how often a waiting command looks.
const pollEvery = 250 * time.Millisecond

// awaitDecided brings a list up to date until none is pending or the time is over.
func (c *console) awaitDecided(ctx context.Context, list []revocation.Revocation, wait time.Duration) error {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		pending := false
		for i := range list {
			if list[i].State != revocation.StatePending {
				continue
			}
			now, err := c.client.Revocation(ctx, list[i].ID)
			if err != nil {
				return err
			}
			list[i] = *now
			pending = pending || now.State == revocation.StatePending
		}
		if !pending {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func liftCommand() *cobra.Command {
	var asked adminapi.LiftRequest
	var yes bool
	cmd := &cobra.Command{
		Use:   "lift --invoker <id> (--api <id>… | --all-apis) [--aef <id>] [--reason <text>] [--ticket <id>] [--yes]",
		Short: "Lets an API invoker in again: removes claims, ends pending revocations",
		Long: `
Shows the claims that the lift covers, asks, removes them, whoever set them, and
ends their pending revocations. It then says what still denies: claims that the lift
does not cover, and APIs that the security context at the core does not list. Those
stay refused until the API invoker is authorized again at the core.`,
		Example: "  caddy capif lift --invoker inv-1 --api 8f36c0 --reason settled --ticket OPS-7\n  caddy capif lift --invoker inv-2 --all-apis --yes",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&asked.APIInvokerID, "invoker", "", "The API invoker")
	flags.StringArrayVar(&asked.APIIDs, "api", nil, "An apiId; may be repeated")
	flags.BoolVar(&asked.AllAPIs, "all-apis", false, "Everything that denies the API invoker")
	flags.StringVar(&asked.AEFID, "aef", "", "Only claims that name this aefId (default: every claim)")
	flags.StringVar(&asked.Reason, "reason", "", "Why, for the audit")
	flags.StringVar(&asked.Ticket, "ticket", "", "Ticket, for the audit")
	flags.BoolVar(&yes, "yes", false, "Do not ask")
	_ = cmd.MarkFlagRequired("invoker") // it is defined above
	cmd.MarkFlagsOneRequired("api", "all-apis")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		err := c.confirmLift(ctx, &asked, yes)
		if err != nil {
			return err
		}
		answer, err := c.client.Lift(ctx, &asked)
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(answer)
		}
		c.lifted(answer)
		return nil
	})
}

// confirmLift shows what a lift would remove.
func (c *console) confirmLift(ctx context.Context, asked *adminapi.LiftRequest, yes bool) error {
	if yes {
		return nil
	}
	var covered []revocation.Claim
	lift := revocation.Lift{Invoker: asked.APIInvokerID, AEF: asked.AEFID, APIs: asked.APIIDs}
	_, err := eachPage(true, "", func(cursor string) (string, error) {
		got, err := c.client.Claims(ctx, adminapi.Filter{Invoker: asked.APIInvokerID, Limit: revocation.MaxPage}, cursor)
		for _, claim := range got.Claims {
			if lift.Covers(&claim.Scope) {
				covered = append(covered, claim)
			}
		}
		return got.Next, err
	})
	if err != nil {
		return err
	}
	shown := *c
	shown.out = c.err // standard output is for the result
	if len(covered) > 0 {
		shown.claims(covered)
	}
	return c.confirm(ctx, false, "Lift %d claims of %s?", len(covered), printable(asked.APIInvokerID))
}

func (c *console) lifted(answer *adminapi.LiftResponse) {
	c.sayf("%d claims lifted, %d pending revocations ended.\n", len(answer.Lifted), len(answer.Cancelled))
	if len(answer.Lifted) > 0 {
		c.claims(answer.Lifted)
	}
	for _, p := range answer.CountsBegunAnew {
		c.sayf("The calls of API %s at %s are counted from 0 again: the total was used up.\n", printable(p.APIID), printable(p.AEFID))
	}
	if len(answer.StillDenying)+len(answer.NotInContext)+len(answer.ContextUnknown) == 0 {
		c.sayf("Nothing else that is known here denies these calls.\n")
		return
	}
	if len(answer.StillDenying) > 0 {
		c.sayf("These claims STILL DENY calls; lift them too if that is meant:\n")
		c.claims(answer.StillDenying)
	}
	for _, p := range answer.ContextUnknown {
		c.sayf("The core does not answer, so whether it lists API %s at %s is not known: calls may be STILL REFUSED; `caddy capif check` says.\n",
			printable(p.APIID), printable(p.AEFID))
	}
	for _, p := range answer.NotInContext {
		c.sayf("The security context at the core does not list API %s at %s: calls are STILL REFUSED until the API invoker is authorized again there.\n",
			printable(p.APIID), printable(p.AEFID))
	}
}
