// Command benchmarks measures Caddy with this plugin beside bare Caddy, a Caddy
// that verifies every call with jwx, and HAProxy where it is installed, and writes
// what it found into docs/performance.md and docs/scale.md:
//
//	go -C benchmarks run .
//	go -C benchmarks run . -parts compare -rounds 3 -docs ""
//
// It needs Linux, a machine that does nothing else, and about 40 minutes. It
// listens on 127.0.0.1 only, at free ports, bounds every load, and ends what it
// started, also on Ctrl-C. It is a module of its own so that plotting and
// statistics never become dependencies of the plugin.
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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-capif/aef/benchmarks/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "capif-benchmarks-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	begin := time.Now()
	log := func(format string, args ...any) {
		_, _ = fmt.Fprintf(stderr, "%5.0f s  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	log("building the Caddys")
	programs, err := buildPrograms(ctx, dir)
	if err != nil {
		return err
	}
	return measureAll(ctx, c, dir, programs, commandLine(args), stdout, log)
}

// commandLine is what was called, as one can call it again.
func commandLine(args []string) string {
	command := "go -C benchmarks run ."
	for _, arg := range args {
		if arg == "" || strings.ContainsAny(arg, " \"") {
			arg = strconv.Quote(arg)
		}
		command += " " + arg
	}
	return command
}

// measureAll runs the parts one after the other and writes each when it is done,
// so that what was measured is not lost with what comes after.
func measureAll(ctx context.Context, c config, dir string, programs map[string]program, command string, stdout io.Writer, log func(string, ...any)) error {
	w, err := newWorld(dir, c, programs, log)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("`%s`\n\n%s", command, report.Machine(time.Now()))
	err = w.parts(ctx, head, stdout)
	log("stopping")
	return errors.Join(err, w.close())
}

func (w *world) parts(ctx context.Context, head string, stdout io.Writer) error {
	publish := func(page, section, text string) error {
		if w.config.docs == "" {
			_, err := fmt.Fprintln(stdout, text)
			return err
		}
		return report.Rewrite(filepath.Join(w.config.docs, page), section, text)
	}
	for _, part := range []struct {
		name, page string
		text       func(ctx context.Context, head string) (string, error)
	}{
		{"compare", "performance.md", w.comparePart},
		{"within", "performance.md", w.withinPart},
		{"latency", "performance.md", w.latencyPart},
		{"scale", "scale.md", w.scalePart},
	} {
		if !w.config.has(part.name) {
			continue
		}
		text, err := part.text(ctx, head)
		if err != nil {
			return err
		}
		err = publish(part.page, part.name, text)
		if err != nil {
			return err
		}
	}
	return nil
}
