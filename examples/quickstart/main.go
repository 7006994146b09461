// Command quickstart shows TS 23.222 clause 8.23.3, revoking API invoker
// authorization initiated by the AEF, with real parts on this machine:
//
//	go run ./examples/quickstart
//
// It starts a CAPIF core function, a service API, two API invokers and two Caddy
// processes as API exposing functions (AEF), triggers a revoke at one of them,
// and prints each step as it happens with the times it measured. In a second act
// an API invoker uses up what its access control policy allows: the AEF revokes by
// itself, and ends the event stream that is open. All keys and data are made in a
// temporary folder, which is removed at the end.
//
// It ends with 0 if every step came out as it must, with 130 after Ctrl-C, and
// otherwise with 1 and what was expected. With -stay it stays up and prints
// commands to play with. With -external <folder> it starts no Caddys, but writes
// their configurations there and waits for Caddys that others start with them, as
// examples/deploy/compose.yaml does. With -core opencapif or -core oran the core behaves, and
// misbehaves, as one of those in the field: the first announces a revoke to other
// AEFs without saying whose, the second says nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-capif/aef/caddyplugin"
	"github.com/caddy-capif/aef/internal/testbed"
)

// walkTimeout ends a walk that hangs; it takes a few seconds.
const walkTimeout = time.Minute

const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// caddyName is the name under which this program is a Caddy, with all its
// commands: see linkCaddy.
const caddyName = "caddy"

func main() {
	asCaddy()
	testbed.RunChild(caddycmd.Main) // this very binary is also the two Caddys
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// asCaddy runs Caddy and does not return, if this program was called by that name.
func asCaddy() {
	if filepath.Base(os.Args[0]) == caddyName {
		caddycmd.Main()
		os.Exit(exitOK)
	}
}

// options are what the command line says.
type options struct {
	stay bool
	core string // the kind of core
	// external is a folder; the Caddys are started by others.
	external string
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.stay, "stay", false, "stay up after the walk and print commands to play with, until Ctrl-C")
	flags.StringVar(&o.core, "core", kinds[0].name, "the kind of core: "+kindNames())
	flags.StringVar(&o.external, "external", "", "a `folder`: start no Caddys, write their Caddyfiles there and wait for others to start them")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "quickstart: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	}

	core, known := kindOf(o.core)
	if !known {
		fmt.Fprintf(stderr, "quickstart: unknown core %q: want one of %s\n", o.core, kindNames())
		return exitUsage
	}

	interrupted, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer release()
	// A reader that goes away, as head does, must not end us before the
	// folder is removed: writes fail instead.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(interrupted)
	defer cancel()
	out := newPrinter(stdout, cancel)
	err = play(ctx, castOptions{stay: o.stay, kind: core, external: o.external}, out)
	out.close()
	switch {
	case interrupted.Err() != nil:
		fmt.Fprintln(stderr, "quickstart: interrupted; everything that was started has been ended")
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "quickstart: FAILED: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// play starts everything, walks through the procedure and ends everything.
func play(ctx context.Context, o castOptions, out *printer) error {
	began := time.Now()
	story := &narrator{out: out}
	o.observe = story.observe
	c, err := startCast(ctx, o, out)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, walkTimeout)
	err = (&walk{cast: c, out: out, story: story}).run(limited)
	cancel()
	if err != nil {
		return errors.Join(err, c.logs(), c.stop())
	}
	if !o.stay {
		story.end()
	}
	out.success("\nEvery step came out as it must, in %.1f s.", time.Since(began).Seconds())
	if o.stay {
		err = stay(ctx, c, out)
	}
	return errors.Join(err, c.stop())
}
