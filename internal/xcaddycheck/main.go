// Command xcaddycheck reads the repository's xcaddy.json and builds Caddy as it says, with the plugin
// taken from the checkout instead of from its published module:
//
//	go -C internal/xcaddycheck run . -output /tmp/caddy
//
// It is a module of its own so that xcaddy's packages never become dependencies of the plugin.
//
// xcaddy.json itself names no replacement: xcaddy builds in a temporary folder and does not make a
// relative replacement absolute, so "." would mean that folder, and an absolute path is good on one
// machine only. The replacement is therefore added here.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/xcaddy"
)

const (
	pluginModule = "github.com/caddy-capif/aef"
	caddyModule  = "github.com/caddyserver/caddy/v2"
	buildTimeout = 20 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "xcaddycheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("xcaddycheck", flag.ContinueOnError)
	checkout := flags.String("checkout", filepath.Join("..", ".."), "root of the repository")
	output := flags.String("output", "", "where to put the caddy binary; empty: only check xcaddy.json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	root, err := filepath.Abs(*checkout)
	if err != nil {
		return err
	}
	builder, err := load(filepath.Join(root, "xcaddy.json"))
	if err != nil {
		return err
	}
	if err := check(ctx, builder, root); err != nil {
		return err
	}
	if *output == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	end, err := hideOwnModule(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := fromCheckout(builder, root).Build(ctx, *output); err != nil {
		return fmt.Errorf("build from xcaddy.json: %w", err)
	}
	return nil
}

// load decodes the file strictly: an unknown or misspelt member is an error, not a setting that does nothing.
func load(path string) (xcaddy.Builder, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return xcaddy.Builder{}, err
	}
	builder, err := decode(data)
	if err != nil {
		return xcaddy.Builder{}, fmt.Errorf("%s: %w", path, err)
	}
	return builder, nil
}

func decode(data []byte) (xcaddy.Builder, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var builder xcaddy.Builder
	if err := dec.Decode(&builder); err != nil {
		return xcaddy.Builder{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return xcaddy.Builder{}, errors.New("something follows the JSON object")
	}
	return builder, nil
}

// check holds the file against the go.mod beside it.
func check(ctx context.Context, b xcaddy.Builder, root string) error {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", caddyModule)
	list.Dir = root
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("ask for the Caddy version of go.mod: %w", err)
	}
	return checkAgainst(b, strings.TrimSpace(string(out)))
}

func checkAgainst(b xcaddy.Builder, caddyVersion string) error {
	if b.CaddyVersion != caddyVersion {
		return fmt.Errorf("xcaddy.json builds Caddy %q, go.mod requires %q: make them equal", b.CaddyVersion, caddyVersion)
	}
	found := false
	for _, p := range b.Plugins {
		found = found || p.PackagePath == pluginModule+"/caddyplugin"
	}
	if !found {
		return fmt.Errorf("xcaddy.json does not build the plugin %s/caddyplugin", pluginModule)
	}
	for _, r := range b.Replacements {
		if strings.HasPrefix(r.New.String(), ".") {
			return fmt.Errorf("xcaddy.json replaces %s by %s: xcaddy does not make a relative path absolute", r.Old, r.New)
		}
	}
	return nil
}

// fromCheckout adds the replacement of the plugin's module by an absolute path.
func fromCheckout(b xcaddy.Builder, root string) xcaddy.Builder {
	b.Replacements = append(b.Replacements[:len(b.Replacements):len(b.Replacements)], xcaddy.NewReplace(pluginModule, root))
	return b
}
