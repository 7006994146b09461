package caddyplugin

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-capif/aef/internal/autotrigger"
)

// TestTriggersConfigurations adapts the examples of docs/triggers.md. Blocks of
// plugins that are not part of this build are left out.
func TestTriggersConfigurations(t *testing.T) {
	document := repositoryFile(t, "docs", "triggers.md")
	plugin := regexp.MustCompile(`(?ms)^\t(rate_limit|coraza_waf) \{\n.*?^\t\}\n`)
	found, plugins := 0, 0
	for _, match := range regexp.MustCompile("(?s)```caddy\n(.*?)```").FindAllStringSubmatch(document, -1) {
		found++
		block := match[1]
		if formatted := caddyfile.Format([]byte(block)); !bytes.Equal(formatted, []byte(block)) {
			t.Errorf("got it unformatted:\n%s\nwant\n%s", block, formatted)
		}
		standard := plugin.ReplaceAllString(block, "")
		if standard != block {
			plugins++
		}
		text := fmt.Sprintf("{\ncapif {\naef_id aef-a\ncore https://core.example\ntoken_keys pem keys.pem\n}\n}\napi.example {\n%s\n}\n", standard)
		adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		if err != nil || !bytes.Contains(adapted, []byte(`"handler":"capif_trigger"`)) {
			t.Errorf("got %v, %v for\n%s\nwant it adapted, with a trigger", warnings, err, block)
		}
	}
	if found != 5 || plugins != 2 {
		t.Errorf("got %d examples, %d of them with plugins; want 5, 2", found, plugins)
	}
}

// TestTriggersOutcomes: the table of docs/triggers.md and the row of docs/observe.md
// name every outcome.
func TestTriggersOutcomes(t *testing.T) {
	var got, want, quoted []string
	for _, row := range table(t, repositoryFile(t, "docs", "triggers.md"), "outcome") {
		got = append(got, row[0])
	}
	for _, o := range autotrigger.Outcomes() {
		want = append(want, code(o.String()))
	}
	wantEqual(t, "outcomes", got, want)
	for _, row := range table(t, repositoryFile(t, "docs", "observe.md"), "metric") {
		if row[0] == code("capif_automatic_triggers_total") {
			quoted = regexp.MustCompile("`\\w+`").FindAllString(strings.Split(row[2], ";")[0], -1)
		}
	}
	wantEqual(t, "outcomes of the metric", quoted, want)
}
