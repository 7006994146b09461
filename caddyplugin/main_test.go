package caddyplugin_test

import (
	"os"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-capif/aef/caddyplugin"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestMain lets the tests start this binary again as a real Caddy.
func TestMain(m *testing.M) {
	testbed.RunChild(caddycmd.Main)
	os.Exit(m.Run())
}
