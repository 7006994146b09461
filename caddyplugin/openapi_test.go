package caddyplugin

import (
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/revocation"
)

// operation is one method of one path, as docs/admin-api.yaml describes it.
type operation struct {
	method, path, id, summary, description string
	parameters                             []parameter
	request, answer                        any
	statuses                               map[int]string
	errors                                 []int
	stream                                 bool
}

type parameter struct{ name, in, kind, description string }

var (
	byInvoker = parameter{"api_invoker_id", "query", "string", "Only records of this API invoker."}
	onePage   = parameter{"limit", "query", "integer", "How many records on one page, 1 to 1000. Default: 100."}
	before    = parameter{"before", "query", "integer", "Continue a listing: the next of the page before."}
)

var operations = []operation{
	{method: "post", path: adminapi.PathRevocations, id: "revoke", summary: "Revoke authorizations of an API invoker",
		description: "Triggers the procedure of TS 23.222 8.23.3: blocks here, durably, and asks the core.",
		request:     adminapi.RevocationRequest{}, answer: adminapi.RevocationResponse{},
		statuses: map[int]string{200: "The core has decided everything.", 202: "Something is pending: the core is asked again."}, errors: []int{400, 413, 503}},
	{method: "get", path: adminapi.PathRevocations, id: "listRevocations", summary: "List revocations, newest first",
		parameters: []parameter{byInvoker, {"api_id", "query", "string", "Only revocations of this apiId."},
			{"state", "query", "string", "Only revocations in this state."}, before, onePage},
		answer: adminapi.RevocationList{}, errors: []int{400, 503}},
	{method: "get", path: adminapi.PathRevocations + "/{id}", id: "showRevocation", summary: "Show one revocation",
		parameters: []parameter{{"id", "path", "string", "The id of the revocation."}}, answer: revocation.Revocation{}, errors: []int{404, 503}},
	{method: "get", path: adminapi.PathClaims, id: "listClaims", summary: "List claims, what denies calls, by API invoker",
		parameters: []parameter{byInvoker, {"after", "query", "string", "Continue a listing: the next of the page before."}, onePage},
		answer:     adminapi.ClaimList{}, errors: []int{400, 503}},
	{method: "post", path: adminapi.PathLifts, id: "lift", summary: "Let an API invoker in again",
		description: "Removes claims, whoever set them, ends their pending revocations, and says what still denies.",
		request:     adminapi.LiftRequest{}, answer: adminapi.LiftResponse{}, errors: []int{400, 413, 503}},
	{method: "post", path: adminapi.PathReconcile, id: "reconcile", summary: "Read every security context and the token keys again",
		request: adminapi.ReconcileRequest{}, answer: adminapi.ReconcileResponse{}, errors: []int{400, 413, 503}},
	{method: "post", path: adminapi.PathCheck, id: "check", summary: "Say whether a call would pass, and why",
		description: "The deciders of the routes decide, as they do for calls. The context may be read from the core.",
		request:     adminapi.CheckRequest{}, answer: adminapi.CheckResponse{}, errors: []int{400, 404, 413, 503}},
	{method: "get", path: adminapi.PathAudit, id: "listAudit", summary: "List who changed what, newest first",
		parameters: []parameter{byInvoker, {"action", "query", "string", "Only this action."}, before, onePage},
		answer:     adminapi.AuditList{}, errors: []int{400, 503}},
	{method: "get", path: adminapi.PathWatch, id: "watch", summary: "Stream what changes, as server-sent events",
		description: "An event start (WatchStart) comes first, then an event change (Audit) for each change and an event alarm (Change) for each alarm raised or cleared. " +
			"The stream ends when the configuration is replaced; with the id of the last event as Last-Event-ID it goes on where it was, as far as the audit reaches back: an event gap (WatchGap) says if that is not far enough.",
		parameters: []parameter{{"Last-Event-ID", "header", "string", "The id of the event to go on after. Default: begin now."}},
		stream:     true, errors: []int{400, 503}},
	{method: "get", path: adminapi.PathStatus, id: "status", summary: "Show how the AEF stands", answer: adminapi.Status{}, errors: []int{503}},
}

// otherSchemas are those that only a stream or an error holds.
var otherSchemas = []any{adminapi.WatchStart{}, adminapi.WatchGap{}, revocation.Audit{}, alarm.Change{}, adminapi.Error{}}

// TestOpenAPI: docs/admin-api.yaml has every route with its methods, and every member
// of every message with its comment. Write it anew with
//
//	go test ./caddyplugin -run TestOpenAPI -update
func TestOpenAPI(t *testing.T) {
	var have, described []string
	for _, r := range new(adminAPI).Routes() {
		rec := httptest.NewRecorder()
		err := r.Handler.ServeHTTP(rec, httptest.NewRequest("BREW", r.Pattern, nil))
		if err == nil {
			t.Errorf("%s: got no error for the method BREW; want one", r.Pattern)
		}
		for method := range strings.SplitSeq(rec.Header().Get("Allow"), ", ") {
			have = append(have, r.Pattern+" "+strings.ToLower(method))
		}
	}
	for _, o := range operations {
		described = append(described, o.path+" "+o.method)
	}
	slices.Sort(have)
	slices.Sort(described)
	wantEqual(t, "operations", described, have)

	var page yaml.Node
	err := page.Encode(openAPI(t))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString("# Written from the handlers and their types: go test ./caddyplugin -run TestOpenAPI -update\n")
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err = encoder.Encode(&page)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		err := os.WriteFile(filepath.Join("..", "docs", "admin-api.yaml"), []byte(text.String()), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	if repositoryFile(t, "docs", "admin-api.yaml") != text.String() {
		t.Error("docs/admin-api.yaml is not what the handlers are; write it anew with -update")
	}
}

// object is a YAML mapping in its order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalYAML keeps the order.
func (o object) MarshalYAML() (any, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, m := range o {
		var key, value yaml.Node
		err := key.Encode(m.key)
		if err != nil {
			return nil, err
		}
		err = value.Encode(m.value)
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, &key, &value)
	}
	return node, nil
}

func openAPI(t *testing.T) object {
	s := &schemas{t: t, comments: comments(t), done: map[string]object{}}
	var paths object
	for _, o := range operations {
		described := member{o.method, s.operation(&o)}
		at := slices.IndexFunc(paths, func(m member) bool { return m.key == o.path })
		if at < 0 {
			paths = append(paths, member{o.path, object{described}})
			continue
		}
		paths[at].value = append(paths[at].value.(object), described)
	}
	for _, v := range otherSchemas {
		s.of(reflect.TypeOf(v), false)
	}
	var all object
	for _, name := range slices.Sorted(maps.Keys(s.done)) {
		all = append(all, member{name, s.done[name]})
	}
	return object{
		{"openapi", "3.1.0"},
		{"info", object{
			{"title", "Admin API of caddy-capif"}, {"version", "1"}, {"license", object{{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}},
			{"description", "The API behind `caddy capif`, on Caddy's admin endpoint. Whoever reaches that endpoint commands the AEF. " +
				"An error has a JSON body with a sentence, and in the header Capif-Error its kind: not_configured, not_found, invalid, unavailable or internal."},
		}},
		{"servers", []object{{{"url", "http://localhost:2019"}, {"description", "Caddy's default admin endpoint"}}}},
		{"paths", paths},
		{"components", object{{"schemas", all}}},
	}
}

func (s *schemas) operation(o *operation) object {
	out := object{{"operationId", o.id}, {"summary", o.summary}}
	if o.description != "" {
		out = append(out, member{"description", o.description})
	}
	var parameters []object
	for _, p := range o.parameters {
		parameters = append(parameters, object{{"name", p.name}, {"in", p.in}, {"required", p.in == "path"},
			{"description", p.description}, {"schema", object{{"type", p.kind}}}})
	}
	if parameters != nil {
		out = append(out, member{"parameters", parameters})
	}
	if o.request != nil {
		out = append(out, member{"requestBody", object{{"required", true},
			{"content", object{{"application/json", object{{"schema", s.of(reflect.TypeOf(o.request), true)}}}}}}})
	}
	var responses object
	statuses := o.statuses
	if statuses == nil {
		statuses = map[int]string{200: "Done."}
	}
	for status := 200; status < 300; status++ {
		text, ok := statuses[status]
		if !ok {
			continue
		}
		content := object{{"text/event-stream", object{{"schema", object{{"type", "string"}}}}}}
		if !o.stream {
			content = object{{"application/json", object{{"schema", s.of(reflect.TypeOf(o.answer), false)}}}}
		}
		responses = append(responses, member{fmt.Sprint(status), object{{"description", text}, {"content", content}}})
	}
	for _, status := range append(slices.Clone(o.errors), 0) {
		name, text := fmt.Sprint(status), http.StatusText(status)
		if status == 0 {
			name, text = "default", "Any other error, such as 404 where the capif app is not configured."
		}
		responses = append(responses, member{name, object{{"description", text},
			{"headers", object{{adminapi.HeaderError, object{{"schema", object{{"type", "string"}}}}}}},
			{"content", object{{"application/json", object{{"schema", s.of(reflect.TypeOf(adminapi.Error{}), false)}}}}}}})
	}
	return append(out, member{"responses", responses})
}

// schemas collects those of the types that messages are made of.
type schemas struct {
	t        *testing.T
	comments map[string]string
	done     map[string]object
}

var (
	textual  = reflect.TypeFor[encoding.TextMarshaler]()
	timeType = reflect.TypeFor[time.Time]()
	enums    = map[reflect.Type][]string{
		reflect.TypeFor[revocation.State]():  {"pending", "revoked", "unconfirmed", "no_authorization_found", "rejected", "cancelled", "damaged"},
		reflect.TypeFor[revocation.Action](): strings.Split(actionWords(), ", "),
		reflect.TypeFor[revocation.Origin](): {"aef", "core"},
		reflect.TypeFor[alarm.Name]():        alarmWords(),
	}
)

func alarmWords() []string {
	var words []string
	for _, n := range alarm.Names() {
		words = append(words, string(n))
	}
	return words
}

// of returns the schema of a type, a reference for a struct. A request is closed:
// unknown members are refused.
func (s *schemas) of(typ reflect.Type, closed bool) object {
	if words, ok := enums[typ]; ok {
		return object{{"type", "string"}, {"enum", words}}
	}
	switch {
	case typ == timeType:
		return object{{"type", "string"}, {"format", "date-time"}}
	case typ.Implements(textual):
		return object{{"type", "string"}}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return s.of(typ.Elem(), closed)
	case reflect.String:
		return object{{"type", "string"}}
	case reflect.Bool:
		return object{{"type", "boolean"}}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{{"type", "integer"}}
	case reflect.Float64:
		return object{{"type", "number"}}
	case reflect.Slice:
		return object{{"type", "array"}, {"items", s.of(typ.Elem(), closed)}}
	case reflect.Struct:
		if s.done[typ.Name()] == nil {
			s.done[typ.Name()] = s.structure(typ, closed)
		}
		return object{{"$ref", "#/components/schemas/" + typ.Name()}}
	default:
		s.t.Fatalf("got a member of type %v; want one that JSON schema can say", typ)
		return nil
	}
}

func (s *schemas) structure(typ reflect.Type, closed bool) object {
	var properties object
	required := []string{}
	for _, f := range reflect.VisibleFields(typ) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "-" {
			continue
		}
		property := s.of(f.Type, closed)
		owner := typ
		for _, i := range f.Index[:len(f.Index)-1] {
			owner = owner.Field(i).Type
		}
		if text := s.comments[owner.String()+"."+f.Name]; text != "" {
			property = append(property, member{"description", text})
		}
		properties = append(properties, member{name, property})
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
	}
	out := object{{"type", "object"}}
	if text := s.comments[typ.String()]; text != "" {
		out = append(out, member{"description", text})
	}
	out = append(out, member{"properties", properties})
	if len(required) > 0 {
		out = append(out, member{"required", required})
	}
	if closed {
		out = append(out, member{"additionalProperties", false})
	}
	return out
}

// comments are the doc comments of types and fields, as "package.Type" and
// "package.Type.Field".
func comments(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range []string{"adminapi", "revocation", "alarm"} {
		files, err := filepath.Glob(filepath.Join("..", "internal", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %v files, %v; want sources", dir, files, err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				d, ok := n.(*ast.GenDecl)
				if !ok || d.Tok != token.TYPE {
					return true
				}
				for _, spec := range d.Specs {
					typ := spec.(*ast.TypeSpec)
					found[dir+"."+typ.Name.Name] = oneLine(d.Doc)
					body, ok := typ.Type.(*ast.StructType)
					if !ok {
						continue
					}
					for _, f := range body.Fields.List {
						for _, n := range f.Names {
							found[dir+"."+typ.Name.Name+"."+n.Name] = oneLine(f.Doc)
						}
					}
				}
				return false
			})
		}
	}
	return found
}

func oneLine(doc *ast.CommentGroup) string {
	return strings.Join(strings.Fields(doc.Text()), " ")
}
