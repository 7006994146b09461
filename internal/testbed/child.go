package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// childEnv marks a process that is to be a Caddy; its value is the path of the
// Caddyfile.
const childEnv = "CAPIF_TESTBED_CADDYFILE"

// commandEnv marks a process that is to run one Caddy command; its value are the
// arguments, one a line.
const commandEnv = "CAPIF_TESTBED_COMMAND"

// RunChild runs caddyMain, which is Caddy's own main function, and never
// returns, if this process was started by [StartCaddy] or [RunCommand]. Else it
// does nothing.
func RunChild(caddyMain func()) {
	if command := os.Getenv(commandEnv); command != "" {
		os.Args = append([]string{"caddy"}, strings.Split(command, "\n")...)
		caddyMain()
		os.Exit(0)
	}
	caddyfile := os.Getenv(childEnv)
	if caddyfile == "" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		interruptSelf()
	}()
	os.Args = []string{"caddy", "run", "--config", caddyfile, "--adapter", "caddyfile"}
	caddyMain()
	os.Exit(0)
}

// RunCommand runs a Caddy command, such as validate or list-modules, in a
// process of its own with dir for everything it writes. It returns all that the
// command wrote, and an error if it failed. ctx should have a deadline.
func RunCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd, err := Command(ctx, dir, args...)
	if err != nil {
		return "", err
	}
	output, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("caddy %s: %w", args[0], errors.Join(err, ctx.Err()))
	}
	return string(output), err
}

// Command prepares a Caddy command for a caller that starts it itself, with its own
// input and output. It is killed when ctx ends.
func Command(ctx context.Context, dir string, args ...string) (*exec.Cmd, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("caddy %s: %w", args[0], err)
	}
	cmd := exec.CommandContext(ctx, executable)
	cmd.Dir = dir
	cmd.Env = append(environment(dir), commandEnv+"="+strings.Join(args, "\n"))
	return cmd, nil
}

// environment keeps what a child writes in its folder.
func environment(dir string) []string {
	return append(os.Environ(),
		"HOME="+dir,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(dir, "config"),
		"XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
}
