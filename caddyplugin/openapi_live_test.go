package caddyplugin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/testbed"
)

// described is docs/admin-api.yaml.
type described struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]struct{ Schema schema }
		}
	}
	Components struct{ Schemas map[string]schema }
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       string
	Format     string
	Enum       []string
	Items      *schema
	Properties map[string]schema
	Required   []string
}

// problems says where a JSON value is not what the schema says. Members that the
// schema does not have are a problem too.
func (d *described) problems(at string, s schema, value any) []string {
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	wrong := []string{fmt.Sprintf("%s: got %v; want %s %v", at, value, s.Type, s.Enum)}
	switch v := value.(type) {
	case map[string]any:
		if s.Type != "object" {
			return wrong
		}
		var found []string
		for name, inner := range v {
			property, ok := s.Properties[name]
			if !ok {
				found = append(found, at+"."+name+": is not described")
				continue
			}
			found = append(found, d.problems(at+"."+name, property, inner)...)
		}
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				found = append(found, at+"."+name+": is required and missing")
			}
		}
		return found
	case []any:
		if s.Type != "array" {
			return wrong
		}
		var found []string
		for i, inner := range v {
			found = append(found, d.problems(fmt.Sprintf("%s[%d]", at, i), *s.Items, inner)...)
		}
		return found
	case string:
		if s.Type != "string" || (s.Enum != nil && !slices.Contains(s.Enum, v)) {
			return wrong
		}
	case bool:
		if s.Type != "boolean" {
			return wrong
		}
	case float64:
		if s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) {
			return wrong
		}
	default:
		return wrong
	}
	return nil
}

// TestAnswersAreAsDescribed asks a running Caddy for every operation, and holds each
// answer against docs/admin-api.yaml.
func TestAnswersAreAsDescribed(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "admin-api.yaml"))
	must(t, err)
	var d described
	must(t, yaml.Unmarshal(data, &d))
	b := newAdminBed(t, nil)
	b.granted("inv-1")
	first := b.trigger(b.caddy, revokeRequest("inv-1"), http.StatusOK)
	id := first.Revocations[0].ID
	asked := map[string]bool{}
	for _, q := range []struct{ method, pattern, path, body string }{
		{"post", adminapi.PathRevocations, "", `{"api_invoker_id":"inv-1","api_ids":["91b2d4"],"cause":"OVERLIMIT_USAGE","reason":"r","ticket":"t","request_id":"1","all_aefs":true}`},
		{"post", adminapi.PathRevocations, "", `{"api_invoker_id":"inv-2","api_ids":["91b2d4"],"cause":"OVERLIMIT_USAGE","no_wait":true}`},
		{"post", adminapi.PathRevocations, "", `{"api_invoker_id":"inv-2","cause":"OVERLIMIT_USAGE"}`},
		{"get", adminapi.PathRevocations, "?limit=1", ""},
		{"get", adminapi.PathRevocations, "?limit=x", ""},
		{"get", adminapi.PathRevocations + "/{id}", id, ""},
		{"get", adminapi.PathRevocations + "/{id}", "rv-none-1", ""},
		{"get", adminapi.PathClaims, "?limit=1", ""},
		{"post", adminapi.PathCheck, "", `{"api_invoker_id":"inv-1"}`},
		{"post", adminapi.PathCheck, "", `{"api_invoker_id":"inv-1","client_certificate_names":["inv-1"]}`},
		{"post", adminapi.PathCheck, "", `{"token":"nonsense"}`},
		{"post", adminapi.PathLifts, "", `{"api_invoker_id":"inv-1","api_ids":["` + testbed.APIID + `"]}`},
		{"post", adminapi.PathReconcile, "", `{"accept":true,"reason":"r"}`},
		{"get", adminapi.PathAudit, "", ""},
		{"get", adminapi.PathStatus, "", ""},
	} {
		path := strings.Replace(q.pattern, "{id}", q.path, 1)
		if strings.HasPrefix(q.path, "?") {
			path += q.path
		}
		got := b.send(strings.ToUpper(q.method), path, []byte(q.body))
		asked[q.pattern+" "+q.method] = true
		response, ok := d.Paths[q.pattern][q.method].Responses[fmt.Sprint(got.status)]
		if !ok {
			t.Errorf("%s %s: got %d, which is not described", q.method, path, got.status)
			continue
		}
		var value any
		must(t, json.Unmarshal(got.body, &value))
		for _, problem := range d.problems(q.method+" "+path, response.Content["application/json"].Schema, value) {
			t.Error(problem)
		}
		if (got.status >= 400) != (got.header.Get(adminapi.HeaderError) != "") {
			t.Errorf("%s %s: got %d with %s %q", q.method, path, got.status, adminapi.HeaderError, got.header.Get(adminapi.HeaderError))
		}
	}
	w := b.watch("--after", "0-0")
	for _, event := range []struct{ name, of string }{{adminapi.EventStart, "WatchStart"}, {adminapi.EventChange, "Audit"}} { // in this order
		var value any
		must(t, json.Unmarshal(w.next(b.bed, event.name).Data, &value))
		for _, problem := range d.problems(event.name, schema{Ref: event.of}, value) {
			t.Error(problem)
		}
	}
	asked[adminapi.PathWatch+" get"] = true
	for path, methods := range d.Paths {
		for method := range methods {
			if !asked[path+" "+method] {
				t.Errorf("%s %s: was not asked; want every operation asked", method, path)
			}
		}
	}
}
