package caddyplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

func exampleFile(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExampleIsFormatted(t *testing.T) {
	example := []byte(exampleFile(t))
	if formatted := caddyfile.Format(example); !bytes.Equal(formatted, example) {
		t.Errorf("Caddyfile.example: got it unformatted; want what `caddy fmt` writes:\n%s", formatted)
	}
}

// exampleScene is the example on own ports with own files.
type exampleScene struct {
	*bed
	aef     *testbed.AEF
	caddy   *testbed.Caddy
	invoker *coretest.Invoker
}

const (
	otherAEF   = "aef-b"
	plainScope = "quality-on-demand:sessions:read"
	qodPath    = "/quality-on-demand/1"
)

func startExample(t *testing.T) *exampleScene {
	t.Helper()
	b := newBed(t, coretest.Options{})
	a := b.aef("aef-a", testbed.Provider)
	_, callbackPort, err := net.SplitHostPort(a.Callback)
	if err != nil {
		t.Fatal(err)
	}
	// The core calls by the name that the callback's site has.
	site := "https://localhost:" + callbackPort
	for _, aef := range []coretest.AEF{
		{ID: a.ID, ProviderID: testbed.Provider, CallbackURL: site},
		{ID: otherAEF, ProviderID: testbed.Provider, CallbackURL: site},
	} {
		err = b.scene.Core.AddAEF(aef)
		if err != nil {
			t.Fatal(err)
		}
	}
	b.publish(a.ID, otherAEF)
	keys, err := b.scene.Core.TokenKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	issuer := filepath.Join(a.Dir, "issuer.pem")
	err = os.WriteFile(issuer, keys, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c, err := testbed.StartCaddy(b.ctx, testbed.CaddyOptions{
		Name: "example", Dir: a.Dir, Caddyfile: exampleFile(t), AdminAddress: a.Admin,
		Env: []string{
			"CADDY_ADMIN=" + a.Admin,
			"CAPIF_AEF_ID=" + a.ID,
			"CAPIF_AEF_ID_QOD=" + otherAEF,
			"CAPIF_CORE=" + b.scene.Core.URL(),
			"CAPIF_CERT=" + a.CertFile,
			"CAPIF_KEY=" + a.KeyFile,
			"CAPIF_CORE_CA=" + a.CAFile,
			"CAPIF_JWKS=" + a.JWKS,
			"CAPIF_LEDGER=" + a.Ledger,
			"CAPIF_API_SITE=http://" + a.API,
			"CAPIF_BACKEND=" + a.BackendAddress,
			"CAPIF_QOD_KEYS=" + issuer,
			"CAPIF_CALLBACK_SITE=" + site,
			"CAPIF_CALLBACK_BIND=127.0.0.1",
			"CAPIF_CORE_NAME=" + coretest.CoreDNSName,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.Stop()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of the example:\n%s", c.Log())
		}
	})
	return &exampleScene{bed: b, aef: a, caddy: c, invoker: b.invoker("inv-1", a.ID, otherAEF)}
}

// TestExample loads Caddyfile.example with a real Caddy: calls are passed on,
// and refused after the core has called the callback and after a trigger.
func TestExample(t *testing.T) {
	e := startExample(t)
	token := e.token(e.invoker, "3gpp#aef-a:location;aef-b:qos")
	e.want(e.aef, "/location/1", token, http.StatusOK)
	answer, err := e.scene.Core.CallAEF(e.ctx, "aef-a", coretest.SecurityNotification{
		APIInvokerID: "inv-1", AEFID: "aef-a", APIIDs: []string{testbed.APIID}, Cause: coretest.CauseOverlimit,
	})
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("callback: got %+v, %v; want 200", answer, err)
	}
	e.want(e.aef, "/location/1", token, http.StatusForbidden)
	e.want(e.aef, "/location/1", "", http.StatusUnauthorized)

	// The second route: a plain scope, another aefId, its own answers.
	plain, err := e.scene.Core.MintToken(coretest.TokenSpec{Claims: map[string]any{
		"client_id": "inv-1", "scope": "openid " + plainScope, "exp": time.Now().Add(time.Hour).Unix(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	e.want(e.aef, qodPath, plain, http.StatusOK)
	e.want(e.aef, qodPath, token, http.StatusForbidden)
	e.trigger(e.caddy, adminapi.RevocationRequest{
		APIInvokerID: "inv-1", APIIDs: []string{testbed.OtherAPIID}, AEFID: otherAEF, Cause: coretest.CauseUnexpected,
	}, http.StatusOK)
	status, body, err := e.aef.Call(e.ctx, qodPath, plain)
	want := `{"status":403,"code":"authorization_revoked"}`
	if err != nil || status != http.StatusForbidden || string(body) != want {
		t.Fatalf("revoked call with pass_errors: got %v, %s, %v; want 403, %s", status, body, err, want)
	}
	if status := preflight(e.ctx, t, e.aef, qodPath); status != http.StatusOK {
		t.Errorf("preflight where the route passes it: got %v; want 200", status)
	}
	if status := preflight(e.ctx, t, e.aef, "/location/1"); status != http.StatusUnauthorized {
		t.Errorf("preflight where the route does not: got %v; want 401", status)
	}
}

func preflight(ctx context.Context, t *testing.T, a *testbed.AEF, path string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodOptions, "http://"+a.API+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Origin", "https://app.example")
	request.Header.Set("Access-Control-Request-Method", http.MethodGet)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

// callbackSite is a Caddyfile that has the callback's site as given and a
// global option in the servers block.
func callbackSite(a *testbed.AEF, site, servers string) string {
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	servers {
		%s
	}
	capif {
		aef_id %s
		core %s {
			client_cert %s %s
			trusted_ca %s
		}
		token_keys jwks %s
		ledger %s
	}
}
%s {
	bind 127.0.0.1
	tls %s %s {
		client_auth {
			mode request
		}
	}
	capif_callback {
		core_identity san %s
	}
}
`, a.Admin, servers, a.ID, a.CoreURL, a.CertFile, a.KeyFile, a.CAFile, a.JWKS, a.Ledger, site, a.CertFile, a.KeyFile, coretest.CoreDNSName)
}

// TestCallbackSite holds what Caddyfile.example says about the address of the
// callback's site and a core that calls by IP address.
func TestCallbackSite(t *testing.T) {
	for _, test := range []struct {
		name, site, servers string
		want                int
	}{
		{"the IP address as host of the site", "https://127.0.0.1:PORT", "strict_sni_host insecure_off", http.StatusForbidden},
		{"no host", "https://:PORT", "strict_sni_host insecure_off", http.StatusOK},
		{"no host, strict SNI", "https://:PORT", "", http.StatusMisdirectedRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, coretest.Options{})
			a := b.aef("aef-a", testbed.Provider)
			b.publish(a.ID)
			b.invoker("inv-1", a.ID)
			c, err := testbed.StartCaddy(b.ctx, testbed.CaddyOptions{
				Name: "callback", Dir: a.Dir, AdminAddress: a.Admin,
				Caddyfile: callbackSite(a, strings.ReplaceAll(test.site, "PORT", a.CallbackPort()), test.servers),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				err := c.Stop()
				if err != nil {
					t.Error(err)
				}
			})
			answer, err := b.scene.Core.CallAEF(b.ctx, a.ID, coretest.SecurityNotification{
				APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: coretest.CauseOverlimit,
			})
			if err != nil || answer.Status != test.want {
				t.Errorf("got %+v, %v; want %v", answer, err, test.want)
			}
		})
	}
}
