package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
)

// stay prints commands to play with and waits for Ctrl-C. Secrets stand in
// files that only their owner reads: neither on the screen nor in a process's
// arguments.
func stay(ctx context.Context, c *cast, out *printer) error {
	err := printCommands(ctx, c, out)
	if err != nil {
		return err
	}
	out.line("\n" + out.paint(bold, "All of it stays up, and what the core sees is shown here, until Ctrl-C."))
	select {
	case <-ctx.Done():
		return nil
	case <-c.a.caddy.Exited():
	case <-c.b.caddy.Exited():
	}
	return errors.Join(errors.New("a Caddy ended by itself: expected both to stay up"), c.logs())
}

// writeContext writes the security context that the API invoker puts.
func writeContext(c *cast) (string, error) {
	body, err := json.Marshal(coretest.ServiceSecurity{
		SecurityInfo: c.entries(), NotificationDestination: c.invoker.NotificationURL(), SupportedFeatures: "4",
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, "security-context.json")
	return file, os.WriteFile(file, body, 0o600)
}

// linkCaddy makes this very program callable as caddy, so that the commands work
// with nothing else built, and returns how to call it. Where links are not allowed
// that is "caddy": one that is built with this plugin.
func linkCaddy(dir string) string {
	executable, err := os.Executable()
	if err != nil {
		return caddyName
	}
	link := filepath.Join(dir, caddyName)
	err = os.Symlink(executable, link)
	if err != nil {
		return caddyName
	}
	return link
}

// reach says whose API a revoke takes away.
func reach(k kind) string {
	if k.apart {
		return ", whose API has an apiId of its own"
	}
	return ", at every AEF of the provider"
}

func printCommands(ctx context.Context, c *cast, out *printer) error {
	token, err := c.invoker.Token(ctx, c.scope())
	if err != nil {
		return err
	}
	header := filepath.Join(c.dir, "authorization")
	err = os.WriteFile(header, []byte("Authorization: Bearer "+token+"\n"), 0o600)
	if err != nil {
		return err
	}
	security, err := writeContext(c)
	if err != nil {
		return err
	}
	invokerCert, invokerKey, err := c.invoker.Identity.WritePEM(c.dir, invokerID)
	if err != nil {
		return err
	}
	coreCert, coreKey, err := c.scene.Core.Identity().WritePEM(c.dir, "core")
	if err != nil {
		return err
	}
	caddy := linkCaddy(c.dir)
	out.heading("Commands to play with, in another terminal")
	out.command("call as the API invoker; the token is in the file", fmt.Sprintf("curl -si -H @%s http://%s%s", header, c.a.API, path1))
	out.command("would a call pass, and why", fmt.Sprintf("%s capif check --address %s --invoker %s --api %s", caddy, c.a.Admin, invokerID, c.a.APIID))
	out.command("revoke at "+c.a.ID+reach(c.kind), fmt.Sprintf(
		`%s capif revoke --address %s --invoker %s --api %s --cause OVERLIMIT_USAGE --all-aefs`, caddy, c.a.Admin, invokerID, c.a.APIID))
	out.command("the same through the admin API", fmt.Sprintf(
		`curl -s -H 'Content-Type: application/json' -d '{"api_invoker_id":"%s","api_ids":["%s"],"cause":"OVERLIMIT_USAGE","all_aefs":true}' http://%s%s`,
		invokerID, c.a.APIID, c.a.Admin, adminapi.PathRevocations))
	out.command("what denies, and what was revoked", fmt.Sprintf(
		"%s capif list --claims --address %s; %s capif list --address %s", caddy, c.b.Admin, caddy, c.a.Admin))
	asInvoker := fmt.Sprintf("curl -sS --cacert %s --cert %s --key %s", c.a.CAFile, invokerCert, invokerKey)
	out.command("authorize the API invoker again at the core; what a trigger denies stays denied", fmt.Sprintf(
		"%s -X PUT -H 'Content-Type: application/json' -d @%s %s/capif-security/v1/trustedInvokers/%s",
		asInvoker, security, c.scene.Core.URL(), invokerID))
	for _, e := range []*exposer{c.a, c.b} {
		out.command("lift at "+e.ID, fmt.Sprintf("%s capif lift --address %s --invoker %s --api %s --yes", caddy, e.Admin, invokerID, e.APIID))
	}
	if c.kind.hints {
		out.command("tell "+c.b.ID+" as this core does: something was revoked; it reads again and believes only what it reads", fmt.Sprintf(
			`curl -si --cacert %s -H 'Content-Type: application/json' -d '{"subscriptionId":"1","events":"%s"}' https://%s%s`,
			c.a.CAFile, coretest.EventRevoked, c.b.Callback, hintPath))
	}
	title := "revoke at " + c.b.ID + " as the core does (step 7), with the core's certificate"
	if c.kind.refusal != revokedType {
		title = "revoke at " + c.b.ID + " as the standard has it (step 7), which this core does not; with the core's certificate"
	}
	out.command(title, fmt.Sprintf(
		`curl -si --cacert %s --cert %s --key %s -H 'Content-Type: application/json' -d '{"revokeInfo":{"apiInvokerId":"%s","apiIds":["%s"],"cause":"UNEXPECTED_REASON"},"supportedFeatures":"0"}' https://%s/aef-security/v1/revoke-authorization`,
		c.a.CAFile, coreCert, coreKey, invokerID, c.b.APIID, c.b.Callback))
	out.command("a new token, into the file", fmt.Sprintf(
		`%s -d grant_type=client_credentials -d client_id=%s --data-urlencode 'scope=%s' %s/capif-security/v1/securities/%s/token | sed 's/.*"access_token":"\([^"]*\)".*/Authorization: Bearer \1/' > %s`,
		asInvoker, invokerID, c.scope(), c.scene.Core.URL(), invokerID, header))
	out.command("status and alarms, who changed what, and metrics", fmt.Sprintf(
		"%s capif status --address %s; %s capif audit --address %s; curl -s http://%s/metrics | grep ^capif_", caddy, c.a.Admin, caddy, c.a.Admin, c.a.Admin))
	out.command("all of it as it happens", fmt.Sprintf("%s capif watch --address %s", caddy, c.a.Admin))
	out.command("the configurations", fmt.Sprintf("cat %s %s", filepath.Join(c.dir, c.a.ID, "Caddyfile"), filepath.Join(c.dir, c.b.ID, "Caddyfile")))
	return nil
}
