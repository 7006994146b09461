package caddyplugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// adapt turns a Caddyfile into JSON.
func adapt(text string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return out, err
}

// TestAdapt adapts the Caddyfiles of testdata/adapt. In each file a line of ten
// dashes follows, and then the whole JSON, or texts that the error must hold, one
// a line.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "adapt", "*.caddyfiletest"))
	if err != nil || len(files) < 50 {
		t.Fatalf("got %d files, %v; want at least 50", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			must(t, err)
			text, want, ok := strings.Cut(string(data), "\n----------\n")
			want = strings.TrimSpace(want)
			if !ok || want == "" {
				t.Fatal("got no line of dashes with something behind it; want one")
			}
			out, err := adapt(text + "\n")
			if strings.HasPrefix(want, "{") {
				if err != nil {
					t.Fatalf("got %v; want it adapted", err)
				}
				wantSameJSON(t, out, []byte(want))
				return
			}
			if err == nil {
				t.Fatalf("got %s; want an error", out)
			}
			for line := range strings.Lines(want) {
				if line = strings.TrimSpace(line); !strings.Contains(err.Error(), line) {
					t.Errorf("got %v; want %q in it", err, line)
				}
			}
		})
	}
}

func wantSameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var a, b bytes.Buffer
	must(t, json.Indent(&a, got, "", "\t"))
	var compact bytes.Buffer
	must(t, json.Compact(&compact, want))
	must(t, json.Indent(&b, compact.Bytes(), "", "\t"))
	if a.String() != b.String() {
		t.Errorf("got\n%s\nwant\n%s", a.String(), b.String())
	}
}

// plainApp is the smallest app; a call is refused by keys that are a file.
const plainApp = `{
	aef_id aef-a
	core https://core.example
	token_keys pem KEYS_FILE
	ledger LEDGER_FILE
}`

// TestProvisioningErrors loads configurations that adapt and cannot be used: the
// error names what to change, and nothing is left behind.
func TestProvisioningErrors(t *testing.T) {
	dir := t.TempDir()
	keys, ledger, ca := filepath.Join(dir, "keys.pem"), filepath.Join(dir, "capif", "ledger.db"), filepath.Join(dir, "ca.pem")
	newSigner(t, keys, "ES256")
	writeFile(t, ca, []byte("no certificate\n"))
	const policyRoute = "capif_enforce {\napi_id 8f36c0\napi_name location\nPOLICY\n}"
	policy := func(words string) string { return strings.Replace(policyRoute, "POLICY", words, 1) }
	const unbound = "could have that one revoked; bind it, or say `unbound_triggers` or `over_limit refuse` in policy"
	const route = `capif_enforce {
		api_id   8f36c0
		api_name location
	}`
	const callback = `capif_callback {
		core_identity san core.example
		core_ca       CA_FILE
	}`
	for _, tt := range []struct {
		name string
		app  string // the block of capif; "" is plainApp, "-" none
		site string // default: route
		want string // "" where it must load
	}{
		{"everything is there", "", "", ""},
		{"no global option, a route", "-", "", "capif_enforce needs the global option capif: add a block `capif { … }` at the top of the Caddyfile"},
		{"no global option, a callback", "-", callback, "capif_callback needs the global option capif: add a block `capif { … }` at the top of the Caddyfile"},
		{"no aef_id", "{\ncore https://core.example\ntoken_keys pem KEYS_FILE\n}", "", "aef_id is missing: give the aefId that the core assigned to this AEF"},
		{"an empty app", "{\n}", "", "aef_id is missing"},
		{"no core", "{\naef_id aef-a\ntoken_keys pem KEYS_FILE\n}", "", "core is missing: give the URL of the CAPIF core function"},
		{"a core over http", "{\naef_id aef-a\ncore http://core.example\ntoken_keys pem KEYS_FILE\n}", "", "insecure_http"},
		{"a core without scheme", "{\naef_id aef-a\ncore core.example\ntoken_keys pem KEYS_FILE\n}", "", "core.example"},
		{"an unknown profile by placeholder", "{\naef_id aef-a\ncore https://core.example {\nprofile {env.CAPIF_TEST_WORD}\n}\ntoken_keys pem KEYS_FILE\n}", "", "sometimes"},
		{"no token_keys", "{\naef_id aef-a\ncore https://core.example\n}", "", "token_keys is missing: say where the keys that sign access tokens come from, in the global option capif or here"},
		{"a PEM file that is not there", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem /nowhere/keys.pem\n}", "", "/nowhere/keys.pem"},
		{"a PEM file without a key", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem CA_FILE\n}", "", "CA_FILE"},
		{"HS256", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nalgorithms HS256\n}", "", `"HS256"`},
		{"none", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nalgorithms ES256 none\n}", "", `"none"`},
		{"too much leeway", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nleeway 31s\n}", "", "30s"},
		{"the most leeway", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nleeway 30s\nledger LEDGER_FILE\n}", "", ""},
		{"too much leeway in a route", "", "capif_enforce {\napi_id 8f36c0\napi_name location\nleeway 1m\n}", "30s"},
		{"a client certificate that is not there", "{\naef_id aef-a\ncore https://core.example {\nclient_cert /nowhere/aef.crt /nowhere/aef.key\n}\ntoken_keys pem KEYS_FILE\n}", "", "/nowhere/aef.crt"},
		{"an authority that is not there", "{\naef_id aef-a\ncore https://core.example {\ntrusted_ca /nowhere/ca.pem\n}\ntoken_keys pem KEYS_FILE\n}", "", "/nowhere/ca.pem"},
		{"an environment variable that is not set", "{\naef_id {env.CAPIF_TEST_NOT_SET}\ncore https://core.example\ntoken_keys pem KEYS_FILE\n}", "", "env.CAPIF_TEST_NOT_SET"},
		{"a reconcile of less than a second", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nreconcile 10ms\n}", "", "reconcile is 10ms; give at least 1s"},
		{"a total and nobody is bound", "", policy("policy {\ntotal 3\n}"), unbound},
		{"a total for one and nobody is bound", "", policy("policy {\ninvoker i {\ntotal 3\n}\n}"), unbound},
		{"the core's total and nobody is bound", "", policy("policy core"), unbound},
		{"a total by a bound call", "", policy("bind client_certificate\npolicy {\ntotal 3\n}"), ""},
		{"a total by anybody's call", "", policy("policy {\ntotal 3\nunbound_triggers\n}"), ""},
		{"the core's total by anybody's call", "", policy("policy core {\nunbound_triggers\n}"), ""},
		{"a total that revokes nobody", "", policy("policy {\ntotal 3\nover_limit refuse\n}"), ""},
		{"a total that is only looked at", "", policy("mode monitor\npolicy {\ntotal 3\n}"), ""},
		{"a rate", "", policy("policy {\nper_second 3\n}"), ""},
		{"a policy that limits nothing", "", policy("policy {\nover_limit refuse\n}"), "it limits nothing"},
		{"the core's policy and limits", "", policy("policy core {\ntotal 3\n}"), "give one of the two"},
		{"a configured policy that is required", "", policy("policy {\nper_second 3\nrequired\n}"), "required is about the core's policy"},
		{"no time", "", policy("policy {\ntime_range noon -\n}"), `"noon" is no time as in RFC 3339`},
		{"a time without zone", "", policy("policy {\ntime_range - 2026-01-01T00:00:00\n}"), "is no time as in RFC 3339"},
		{"a time that ends as it begins", "", policy("policy {\ntime_range 2026-01-01T01:00:00+01:00 2026-01-01T00:00:00Z\n}"), "is not after its start"},
		{"an invoker twice", "", policy("policy {\ninvoker i {\nper_second 1\n}\ninvoker i\n}"), `invoker "i" is there twice`},
		{"an over_limit by placeholder", "", policy("policy {\nper_second 3\nover_limit {env.CAPIF_TEST_WORD}\n}"), `over_limit is "sometimes"`},
		{"two policies for one API", "", "route /a {\n" + policy("policy {\nper_second 3\n}") + "\n}\nroute /b {\n" + policy("policy {\nper_second 4\n}") + "\n}", "another route has another policy for apiId 8f36c0 at aefId aef-a"},
		{"a total that revokes bound calls and counts others", "", "route /a {\n" + policy("bind client_certificate\npolicy {\ntotal 3\n}") + "\n}\nroute /b {\n" + policy("policy {\ntotal 3\nover_limit refuse\n}") + "\n}", "another one that counts them has no `bind client_certificate`"},
		{"a total that counts others' calls and is only looked at", "", "route /a {\n" + policy("mode monitor\npolicy {\ntotal 3\n}") + "\n}\nroute /b {\n" + policy("bind client_certificate\npolicy {\ntotal 3\n}") + "\n}", "another one that counts them has no `bind client_certificate`"},
		{"a total of two routes that revoke bound calls", "", "route /a {\n" + policy("bind client_certificate\npolicy {\ntotal 3\n}") + "\n}\nroute /b {\n" + policy("bind client_certificate\npolicy {\ntotal 3\n}") + "\n}", ""},
		{"a total of two routes with the word", "", "route /a {\n" + policy("bind client_certificate\npolicy {\ntotal 3\nunbound_triggers\n}") + "\n}\nroute /b {\n" + policy("policy {\ntotal 3\nover_limit refuse\n}") + "\n}", ""},
		{"a rate of a bound and an unbound route", "", "route /a {\n" + policy("bind client_certificate\npolicy {\nper_second 3\n}") + "\n}\nroute /b {\n" + policy("policy {\nper_second 3\n}") + "\n}", ""},
		{"one policy twice", "", "route /a {\n" + policy("policy {\nper_second 3\n}") + "\n}\nroute /b {\n" + policy("policy {\nper_second 3\n}") + "\n}", ""},
		{"a callback without authority", "", "capif_callback {\ncore_identity san core.example\n}", "core_ca is missing, and the core has no trusted_ca"},
		{"a callback with an authority that is not there", "", "capif_callback {\ncore_identity san core.example\ncore_ca /nowhere/ca.pem\n}", "/nowhere/ca.pem"},
		{"a callback with an authority without certificate", "", callback, "no PEM certificate in it"},
		{"an unknown kind of identity", "", "capif_callback {\ncore_identity dn CN=core\n}", "use san, cn or spki"},
		{"a short hint_path", "", "capif_callback {\nhint_path /capif/hints/short\n}", "use at least 16 that cannot be guessed"},
		{"an events_path of the standard", "", "capif_callback {\nhint_path /capif/hints/0f8d2c7be1a94653\nevents_path /aef-security/v1/revoke-authorization\n}", "belongs to the AEF_Security_API"},
		{"no global option, a trigger", "-", "capif_trigger {\ncause OVERLIMIT_USAGE\n}", "capif_trigger needs the global option capif: add a block `capif { … }` at the top of the Caddyfile"},
		{"a trigger of an unknown api by placeholder", "", "capif_trigger {\ncause OVERLIMIT_USAGE\napi {env.CAPIF_TEST_WORD}\n}", `capif_trigger: unknown api "sometimes"; accepted: this, all`},
		{"a trigger with a cause that is not set", "", "capif_trigger {\ncause {env.CAPIF_TEST_NOT_SET}\n}", "env.CAPIF_TEST_NOT_SET"},
		{"too many automatic triggers", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nautomatic_triggers 10001\n}", "", "automatic_triggers is 10001; give 1 to 10000 for a minute, or off"},
		{"no automatic triggers", "{\naef_id aef-a\ncore https://core.example\ntoken_keys pem KEYS_FILE\nledger LEDGER_FILE\nautomatic_triggers off\n}", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("CAPIF_TEST_WORD", "sometimes")
			app, site := tt.app, tt.site
			if app == "" {
				app = plainApp
			}
			if site == "" {
				site = route
			}
			global := ""
			if app != "-" {
				global = "capif " + app
			}
			text := fmt.Sprintf("{\nadmin off\nauto_https off\nstorage file_system %s\nlog {\noutput discard\n}\n%s\n}\nhttp://127.0.0.1:0 {\n%s\n}\n", dir, global, site)
			paths := strings.NewReplacer("KEYS_FILE", keys, "LEDGER_FILE", ledger, "CA_FILE", ca)
			out, err := adapt(paths.Replace(text))
			if err != nil {
				t.Fatalf("adapting: %v", err)
			}
			err = validate(out)
			want := paths.Replace(tt.want)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v; want it to load", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("got %v; want %q in it", err, want)
			}
			if exists(ledger) {
				t.Error("got a ledger made by validating; want none")
			}
		})
	}
	(&bed{t: t}).poll(func() bool { // the deny cache ends once nobody holds it
		runtime.GC()
		return ourGoroutines() == ""
	})
}

// validate provisions a configuration in this process and takes it back.
func validate(config []byte) error {
	var c caddy.Config
	err := json.Unmarshal(config, &c)
	if err != nil {
		return err
	}
	return caddy.Validate(&c)
}
