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
	adminA, adminB := "http://"+c.a.Admin, "http://"+c.b.Admin
	out.heading("Commands to play with, in another terminal")
	out.command("call as the API invoker; the token is in the file", fmt.Sprintf("curl -si -H @%s http://%s%s", header, c.a.API, path1))
	out.command("revoke at "+c.a.ID+reach(c.kind), fmt.Sprintf(
		`curl -s -H 'Content-Type: application/json' -d '{"api_invoker_id":"%s","api_ids":["%s"],"cause":"OVERLIMIT_USAGE","all_aefs":true}' %s%s`,
		invokerID, c.a.APIID, adminA, adminapi.PathRevocations))
	out.command("what denies, and what was revoked", fmt.Sprintf("curl -s %s%s; curl -s %s%s", adminB, adminapi.PathClaims, adminA, adminapi.PathRevocations))
	asInvoker := fmt.Sprintf("curl -sS --cacert %s --cert %s --key %s", c.a.CAFile, invokerCert, invokerKey)
	out.command("authorize the API invoker again at the core; what a trigger denies stays denied", fmt.Sprintf(
		"%s -X PUT -H 'Content-Type: application/json' -d @%s %s/capif-security/v1/trustedInvokers/%s",
		asInvoker, security, c.scene.Core.URL(), invokerID))
	for _, e := range []*exposer{c.a, c.b} {
		out.command("lift at "+e.ID, fmt.Sprintf(
			`curl -s -H 'Content-Type: application/json' -d '{"api_invoker_id":"%s","api_ids":["%s"]}' http://%s%s`,
			invokerID, e.APIID, e.Admin, adminapi.PathLifts))
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
	out.command("status, alarms, metrics", fmt.Sprintf("curl -s %s%s; curl -s %s/metrics | grep ^capif_", adminA, adminapi.PathStatus, adminA))
	return nil
}
