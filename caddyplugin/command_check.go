package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
)

// maxToken bounds a token from standard input; the verifier has its own bound.
const maxToken = 64 << 10

func checkCommand() *cobra.Command {
	var asked adminapi.CheckRequest
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "check (--invoker <id> | --token-stdin) [--api <id>] [--aef <id>] [--certificate-name <name>]…",
		Short: "Says whether a call would pass, and why: each step of the decision",
		Long: `
Says what becomes of a call at each route, by the same code that decides calls:
of an API invoker whose token is in order (--invoker), or with a token that is read
from standard input (--token-stdin). The token is not printed, logged or stored. As
with a call, the security context may be read from the core. The access control
policy is asked and nothing is counted. Where a route has bind, give the names of the
caller's certificate (--certificate-name), or that is not checked. Ends with 10 if a
call would be refused.`,
		Example: "  caddy capif check --invoker inv-1 --api 8f36c0\n  caddy capif check --invoker inv-1 --api 8f36c0 --certificate-name inv-1\n  caddy capif check --token-stdin --api 8f36c0 < token",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&asked.APIInvokerID, "invoker", "", "The API invoker")
	cmd.Flags().BoolVar(&fromStdin, "token-stdin", false, "Read an access token from standard input")
	cmd.Flags().StringVar(&asked.APIID, "api", "", "Only routes that stand for this apiId")
	cmd.Flags().StringVar(&asked.AEFID, "aef", "", "Only routes of this aefId")
	cmd.Flags().StringArrayVar(&asked.ClientCertificateNames, "certificate-name", nil, "A common name or alternative name of the caller's client certificate; may be repeated")
	cmd.MarkFlagsOneRequired("invoker", "token-stdin")
	cmd.MarkFlagsMutuallyExclusive("invoker", "token-stdin")
	return running(cmd, func(ctx context.Context, c *console, _ []string) error {
		if fromStdin {
			token, err := reading(ctx, func() (string, error) { return readToken(c.in) })
			if err != nil {
				return err
			}
			asked.Token = token
		}
		answer, err := c.client.Check(ctx, &asked)
		if err != nil {
			return err
		}
		if c.json {
			err = c.writeJSON(answer)
			if err != nil {
				return err
			}
		}
		refused := false
		for i := range answer.Checks {
			refused = refused || !answer.Checks[i].Passed
			if !c.json {
				c.check(&answer.Checks[i])
			}
		}
		if refused {
			return &exit{exitWouldRefuse, errors.New("")} // the verdict is on standard output
		}
		return nil
	})
}

// readToken takes the token alone, with "Bearer" before it, or a whole header line.
func readToken(from io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxToken+1))
	if err != nil {
		return "", exitWith(exitFailed, "reading the token from standard input: %w", err)
	}
	text := strings.TrimSpace(string(data))
	for _, before := range []string{"authorization:", "bearer "} {
		if len(text) > len(before) && strings.EqualFold(text[:len(before)], before) {
			text = strings.TrimSpace(text[len(before):])
		}
	}
	if text == "" || len(data) > maxToken {
		return "", exitWith(exitInvalid, "standard input holds no token: give one line with an access token")
	}
	return text, nil
}

func (c *console) check(k *adminapi.Check) {
	verdict := "would be passed on"
	switch {
	case k.Passed && !k.Allowed && k.Status == 0:
		verdict = "would be passed on UNDECIDED"
	case k.Passed && !k.Allowed:
		verdict = "would be refused, were the route not to monitor only"
	case !k.Passed:
		verdict = fmt.Sprintf("would be REFUSED with %d", k.Status)
	}
	c.sayf("%s: %s (%s)\n", printable(routeText(&k.Route)), verdict, k.Reason)
	for _, s := range k.Steps {
		mark := "ok"
		if !s.Passed {
			mark = "NO"
		}
		c.sayf("  %-3s %-8s %s\n", mark, s.Step, printable(s.Outcome))
	}
	if k.Detail != "" {
		c.sayf("  the caller is told: %s\n", printable(k.Detail))
	}
	if len(k.Claims) > 0 {
		c.claims(k.Claims)
	}
	for _, note := range k.Notes {
		c.sayf("  note: %s\n", printable(note))
	}
}
