// Command jwx is Caddy with its standard modules and the handler that verifies every call.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-capif/aef/benchmarks/caddyjwx"
)

func main() { caddycmd.Main() }
