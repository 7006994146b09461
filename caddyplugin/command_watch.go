package caddyplugin

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// errEnough ends a watch that has seen what it was to see.
var errEnough = errors.New("enough")

func watchCommand() *cobra.Command {
	var after string
	var count int
	cmd := &cobra.Command{
		Use:   "watch [--after <event>] [--count <n>]",
		Short: "Shows revocations, claims and alarms as they come",
		Long: `
Shows what changes as it changes: revocations and the core's answers, claims that the
core sets or lifts, lifts, what security contexts newly list or no longer list, and
alarms. A reload of Caddy ends the stream; the command
takes it up again without losing an event, as it does when Caddy is restarted. --after
goes on after an event of an earlier watch: its id is in the JSON. If the audit no longer
has all that came after it, a line "gap" says so. Ends with Ctrl-C, or after --count
events.`,
		Example: "  caddy capif watch\n  caddy capif watch --json --after 42-1764061000000000 --count 3",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&after, "after", "", "Go on after this event")
	cmd.Flags().IntVar(&count, "count", 0, "End after so many events")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		seen := 0
		err := c.client.Watch(ctx, after, func(e adminapi.Event) error {
			err := c.event(&e)
			if err != nil {
				return err
			}
			if e.Name != adminapi.EventStart && e.Name != adminapi.EventGap {
				seen++
			}
			if count > 0 && seen >= count {
				return errEnough
			}
			return nil
		}, func(err error) {
			c.tellf("The stream broke off (%v); taking it up again.\n", err)
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
}

// event writes one event as a line.
func (c *console) event(e *adminapi.Event) error {
	if c.json {
		return c.writeLine(e)
	}
	switch e.Name {
	case adminapi.EventStart:
		var start adminapi.WatchStart
		err := json.Unmarshal(e.Data, &start)
		if err != nil {
			return err
		}
		c.tellf("Watching from %s on; %d alarms raised.\n", e.ID, len(start.Alarms))
	case adminapi.EventGap:
		var gap adminapi.WatchGap
		err := json.Unmarshal(e.Data, &gap)
		if err != nil {
			return err
		}
		c.sayf("gap: changes after %d, up to %d, are no longer in the audit; what follows is what it still has\n", gap.After, gap.To)
	case adminapi.EventAlarm:
		var change alarm.Change
		err := json.Unmarshal(e.Data, &change)
		if err != nil {
			return err
		}
		word := "raised"
		if !change.Raised {
			word = "cleared"
		}
		c.sayf("%s  alarm        %s %s: %s\n", at(change.Last), change.Name, word, printable(change.Detail))
	case adminapi.EventChange:
		var a revocation.Audit
		err := json.Unmarshal(e.Data, &a)
		if err != nil {
			return err
		}
		apis := strings.Join(a.APIs, " ")
		if a.AllAPIs {
			apis = "all APIs"
		}
		c.sayf("%s  %-11s  %s\n", at(a.At), a.Action, printable(strings.Join(strings.Fields(strings.Join(
			[]string{a.Invoker, a.AEF, apis, whatCame(&a), a.Cause, a.Reason, a.Ticket, "by", a.By}, " ")), " ")))
	default:
		c.sayf("%s %s\n", printable(e.Name), printable(string(e.Data)))
	}
	return nil
}
