package caddyplugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-capif/aef/internal/adminapi"
)

// The exit codes of `caddy capif`. 1 is cobra's: the command line is wrong.
const (
	exitFailed      = 2
	exitUnreachable = 3
	exitNoApp       = 4
	exitNotFound    = 5
	exitInvalid     = 6
	exitUnavailable = 7
	exitCoreRefused = 8
	exitPending     = 9
	exitWouldRefuse = 10
	exitNotAgreed   = 11
	exitSomeFailed  = 12
	exitInterrupted = 130
)

// exitCodes is what the help says of them.
const exitCodes = `Exit codes:
  0    done
  1    the command line is wrong
  2    failed in another way; the message says how
  3    no Caddy answers at the admin endpoint, or it ended the connection
  4    what answers there has no capif app
  5    there is no such revocation, or no such route
  6    refused as invalid; nothing was changed
  7    the ledger is not open, or cannot be written: the outcome is unknown
  8    the core refused, or still lists the authorization; it is blocked here,
       unless --no-hold was given and the core rejected the request
  9    the core has not decided yet; it is asked again
  10   check: the call would be refused
  11   not confirmed; nothing was changed
  12   revoke --from: some rows failed
  130  interrupted`

// exit is an error with the code that the process ends with.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }

func (e *exit) Unwrap() error { return e.err }

func exitWith(code int, format string, args ...any) error {
	return &exit{code, fmt.Errorf(format, args...)}
}

func codeOf(err error) int {
	var e *exit
	var call *adminapi.CallError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case !errors.As(err, &call):
		return exitFailed
	}
	switch call.Kind {
	case adminapi.KindUnreachable:
		return exitUnreachable
	case adminapi.KindWrongAddress, adminapi.KindNotConfigured:
		return exitNoApp
	case adminapi.KindNotFound:
		return exitNotFound
	case adminapi.KindInvalid:
		return exitInvalid
	case adminapi.KindUnavailable:
		return exitUnavailable
	default:
		return exitFailed
	}
}

// console is what a command works with: the admin endpoint and the terminal.
type console struct {
	client *adminapi.Client
	in     *bufio.Reader
	out    io.Writer
	err    io.Writer
	json   bool
}

// capifCommand is `caddy capif`.
func capifCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  "capif",
		Usage: "<command>",
		Short: "Revokes, lifts and looks at API invoker authorizations of a running AEF",
		Long: `
Commands for the AEF that a running Caddy is. They use its admin endpoint: the
default one, that of --address, or that of the configuration --config names.
Nothing needs a reload.

` + exitCodes,
		CobraFunc: func(cmd *cobra.Command) {
			flags := cmd.PersistentFlags()
			flags.String("address", "", "Address of the admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock")
			flags.StringP("config", "c", "", "Configuration file that names the admin endpoint (if --address is not used)")
			flags.StringP("adapter", "a", "", "Name of the config adapter (if --config is used)")
			flags.Bool("json", false, "Write JSON instead of text")
			// Without these a mistyped command shows the help and ends with 0.
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(statusCommand(), revokeCommand(), listCommand(), showCommand(), liftCommand(), checkCommand(),
				auditCommand(), watchCommand(), reconcileCommand(), exportCommand())
		},
	}
}

// running makes a command run f. Errors of f are written as one line to standard
// error, and become the exit code.
func running(cmd *cobra.Command, f func(context.Context, *console, []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			err := run(ctx, cmd, args, f)
			switch {
			case errors.Is(err, context.Canceled):
				cmd.PrintErrln("Interrupted.")
			case err != nil && err.Error() != "":
				cmd.PrintErrln("Error:", err)
			}
			cmd.SilenceErrors = true // said above
			return codeOf(err), nil
		})(cmd, args)
	}
	return cmd
}

func run(ctx context.Context, cmd *cobra.Command, args []string, f func(context.Context, *console, []string) error) error {
	flags := cmd.Flags()
	address, _ := flags.GetString("address") // they are defined above
	config, _ := flags.GetString("config")
	adapter, _ := flags.GetString("adapter")
	address, err := caddycmd.DetermineAdminAPIAddress(address, nil, config, adapter)
	if err != nil {
		return exitWith(exitFailed, "finding the admin endpoint in %s: %w; name it with --address", config, err)
	}
	client, err := dialAdmin(address)
	if err != nil {
		return err
	}
	defer client.Close()
	c := &console{client: client, in: bufio.NewReader(cmd.InOrStdin()), out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
	c.json, _ = flags.GetBool("json")
	return f(ctx, c, args)
}

// dialTimeout is how long an admin endpoint may take to accept a connection.
const dialTimeout = 10 * time.Second

// dialAdmin makes a client of an address in Caddy's notation.
func dialAdmin(address string) (*adminapi.Client, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	// A URL would be read as an address of the network "http:".
	if err != nil || parsed.PortRangeSize() > 1 || strings.Contains(address, "://") {
		return nil, exitWith(exitFailed, "--address %q is no address of an admin endpoint: give one such as localhost:2019 or unix//run/caddy/admin.sock", address)
	}
	options := adminapi.ClientOptions{Address: address, Host: "127.0.0.1"}
	target := parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		target, _, _ = strings.Cut(parsed.Host, "|") // Caddy lets the mode of the socket follow
	} else {
		options.Host, options.Origin = target, "http://"+target
	}
	options.Dial = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, parsed.Network, target)
	}
	return adminapi.NewClient(options), nil
}

// sayf writes to standard output, where the result goes, and tellf to standard
// error. A terminal that is gone is no reason to stop half-way.
func (c *console) sayf(format string, args ...any) { _, _ = fmt.Fprintf(c.out, format, args...) }

func (c *console) tellf(format string, args ...any) { _, _ = fmt.Fprintf(c.err, format, args...) }

// confirm asks a yes-or-no question on standard error.
func (c *console) confirm(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	c.tellf(format+" [y/N] ", args...)
	line, err := reading(ctx, func() (string, error) { return c.in.ReadString('\n') })
	if err != nil {
		c.tellf("\n")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	default:
		return exitWith(exitNotAgreed, "not confirmed, nothing was changed: answer y, or give --yes in scripts")
	}
}

// reading returns what read returns, or ctx's error when that comes first: a read of
// a terminal cannot be interrupted, and Ctrl-C must end the command all the same. What
// is still read then ends with the process.
func reading[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// writeJSON writes one indented JSON value.
func (c *console) writeJSON(v any) error {
	encoder := json.NewEncoder(c.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// writeLine writes a JSON value as one line.
func (c *console) writeLine(v any) error {
	encoder := json.NewEncoder(c.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

var _ error = (*exit)(nil)
