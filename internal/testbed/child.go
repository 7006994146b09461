package testbed

import (
	"io"
	"os"
)

// childEnv marks a process that is to be a Caddy; its value is the path of the
// Caddyfile.
const childEnv = "CAPIF_TESTBED_CADDYFILE"

// RunChild runs caddyMain, which is Caddy's own main function, and never
// returns, if this process was started by [StartCaddy]. Else it does nothing.
func RunChild(caddyMain func()) {
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
