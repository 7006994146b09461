// Package monitoring holds no code but this: it runs the dashboard's queries and
// the alert rules against a real Prometheus that reads a real Caddy.
//
// It needs prometheus and promtool in PATH. .ci/run gets them from Debian.
package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"sigs.k8s.io/yaml"

	_ "github.com/caddy-capif/aef/caddyplugin"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestMain lets the tests start this binary again as a real Caddy.
func TestMain(m *testing.M) {
	testbed.RunChild(caddycmd.Main)
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: install Debian's package prometheus, or put its binaries into PATH", err)
	}
	return path
}

// rules are the alerts of rules.yaml.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

func loadRules(t *testing.T) *rules {
	t.Helper()
	data, err := os.ReadFile("rules.yaml")
	must(t, err)
	r := new(rules)
	must(t, yaml.Unmarshal(data, r))
	return r
}

// TestRules: promtool sees each alert fire, and not fire.
func TestRules(t *testing.T) {
	data, err := os.ReadFile("rules_test.yaml")
	must(t, err)
	for _, group := range loadRules(t).Groups {
		for _, rule := range group.Rules {
			for _, kind := range []string{"quiet", "fires"} {
				if !strings.Contains(string(data), "  - name: "+rule.Alert+" "+kind+"\n") {
					t.Errorf("rules_test.yaml: got no test %s %s; want one", rule.Alert, kind)
				}
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), tool(t, "promtool"), "test", "rules", "rules_test.yaml").CombinedOutput()
	if err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	t.Log(string(out))
}

// queries returns the dashboard's, by panel, with its variables filled in. The
// dashboard is decoded strictly into Grafana's own types.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("dashboard.json")
	must(t, err)
	d := new(dashboard.Dashboard)
	err = d.UnmarshalJSONStrict(data)
	// The library hands out an empty list of errors for what is in order. What is
	// in options of a panel it does not see: these types take long to build.
	if list := (cog.BuildErrors{}); err != nil && (!errors.As(err, &list) || len(list) > 0) {
		t.Errorf("dashboard.json: got %v; want it decoded into Grafana's types", err)
	}
	var raw struct {
		Panels []struct {
			Type, Title, Description string
			Targets                  []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(data, &raw))
	found := map[string][]string{}
	for _, p := range raw.Panels {
		if p.Type == "row" {
			continue
		}
		if p.Description == "" {
			t.Errorf("panel %q has no description; want one", p.Title)
		}
		for _, target := range p.Targets {
			found[p.Title] = append(found[p.Title], strings.NewReplacer("$__rate_interval", "5s", "$instance", ".*").Replace(target.Expr))
		}
	}
	return found
}

// scene is a Caddy that did some of everything, and a Prometheus that reads it.
type scene struct {
	t   *testing.T
	ctx context.Context
	api string // of Prometheus
	// deadline is when all series must have been there.
	deadline time.Time
}

func start(t *testing.T) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s := &scene{t: t, ctx: ctx, deadline: time.Now().Add(40 * time.Second)}
	bed, err := testbed.NewScene(t.TempDir(), coretest.Options{}, nil)
	must(t, err)
	t.Cleanup(func() { testbed.CloseIdleConnections(); must(t, bed.Close()) })
	aef, err := bed.AddAEF("aef-a", testbed.Provider)
	must(t, err)
	must(t, bed.Core.PublishAPI(coretest.API{ID: testbed.APIID, Name: testbed.APIName, AEFIDs: []string{"aef-a"}}))
	aef.OptionsExtra = "metrics"
	aef.GlobalExtra = "reconcile 1s"
	caddy, err := aef.Start(ctx)
	must(t, err)
	t.Cleanup(func() { must(t, caddy.Stop()) })

	inv, err := bed.Core.NewInvoker("inv-1")
	must(t, err)
	t.Cleanup(func() { must(t, inv.Close()) })
	revoked, err := bed.Core.NewInvoker("inv-2")
	must(t, err)
	t.Cleanup(func() { must(t, revoked.Close()) })
	for _, id := range []string{"inv-1", "inv-2"} {
		must(t, bed.Core.Discover(id, testbed.APIID, "aef-a"))
	}
	must(t, inv.PutContext(ctx, coretest.Entry("aef-a", testbed.APIID)))
	token, err := inv.Token(ctx, coretest.ScopeOf("aef-a", testbed.APIName))
	must(t, err)
	s.prometheus(aef.Admin)
	trigger := adminapi.RevocationRequest{APIInvokerID: "inv-3", APIIDs: []string{testbed.APIID}, Cause: "UNEXPECTED_REASON"}
	// Rates want figures that move while they are read.
	moving, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for moving.Err() == nil {
			_, _, _ = aef.Call(moving, "/location/1", token)
			_, _, _ = aef.Call(moving, "/location/1", "")
			_, _ = caddy.Admin(moving, http.MethodPost, adminapi.PathReconcile, adminapi.ReconcileRequest{}, nil)
			_, _ = caddy.Admin(moving, http.MethodPost, adminapi.PathRevocations, trigger, nil)
			_ = revoked.PutContext(moving, coretest.Entry("aef-a", testbed.APIID))
			_, _ = bed.Core.RevokeByCore(moving, coretest.CoreRevoke{InvokerID: "inv-2", AEFID: "aef-a", APIIDs: []string{testbed.APIID}})
			select {
			case <-moving.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	code, err := caddy.Admin(ctx, http.MethodPost, adminapi.PathRevocations, trigger, nil)
	if err != nil || code/100 != 2 {
		t.Fatalf("trigger: got %v, %v; want 2xx", code, err)
	}
	return s
}

// prometheus starts one that reads the admin endpoint five times a second.
func (s *scene) prometheus(target string) {
	s.t.Helper()
	dir := s.t.TempDir()
	here, err := os.Getwd()
	must(s.t, err)
	config := fmt.Sprintf("global: {scrape_interval: 200ms, evaluation_interval: 500ms}\nscrape_configs: [{job_name: caddy-capif, static_configs: [{targets: [%q]}]}]\nrule_files: [%q]\n",
		target, filepath.Join(here, "rules.yaml"))
	must(s.t, os.WriteFile(filepath.Join(dir, "prometheus.yaml"), []byte(config), 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only to find a free port
	must(s.t, err)
	address := listener.Addr().String()
	must(s.t, listener.Close())
	log, err := os.Create(filepath.Join(dir, "log"))
	must(s.t, err)
	command := exec.CommandContext(s.ctx, tool(s.t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	command.Stdout, command.Stderr = log, log
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	must(s.t, command.Start())
	s.t.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
		must(s.t, log.Close())
		if s.t.Failed() {
			data, _ := os.ReadFile(log.Name())
			s.t.Logf("log of Prometheus:\n%s", data)
		}
	})
	s.api = "http://" + address + "/api/v1/"
}

// get asks Prometheus; it fails while that is starting.
func (s *scene) get(path string, query url.Values, into any) error {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.api+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	if err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", response.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// wantSeries polls until the query returns a series that is a number.
func (s *scene) wantSeries(what, query string) {
	s.t.Helper()
	var last error
	var got struct{ Result []struct{ Value [2]any } }
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for first := true; first || time.Now().Before(s.deadline); first = false {
		if !first {
			<-ticker.C
		}
		got.Result = nil
		last = s.get("query", url.Values{"query": {query}}, &got)
		for _, series := range got.Result {
			if value, ok := series.Value[1].(string); last == nil && ok && value != "NaN" {
				return
			}
		}
		if last != nil && strings.Contains(last.Error(), "parse error") {
			break
		}
	}
	s.t.Errorf("%s: got %v, %v from\n%s\nwant a series", what, got.Result, last, query)
}

// TestQueries: every query of the dashboard and every alert's returns series,
// and Prometheus takes the rules.
func TestQueries(t *testing.T) {
	s := start(t)
	panels := queries(t)
	if len(panels) < 20 {
		t.Errorf("got %d panels with queries; want at least 20", len(panels))
	}
	used := map[string]bool{}
	metric := regexp.MustCompile(`capif_\w+`)
	for title, list := range panels {
		for _, query := range list {
			s.wantSeries("panel "+title, query)
			for _, name := range metric.FindAllString(query, -1) {
				used[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	comparison := regexp.MustCompile(` (==|>) [0-9.]+$`)
	for _, group := range loadRules(t).Groups {
		for _, rule := range group.Rules {
			// What an alert looks at must be there; that it fires is promtool's part.
			query := comparison.ReplaceAllString(rule.Expr, "")
			if query == rule.Expr {
				t.Errorf("alert %s: got %s; want it to end in a comparison", rule.Alert, rule.Expr)
			}
			s.wantSeries("alert "+rule.Alert, query)
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
				t.Errorf("alert %s: got %+v, %+v; want summary, description and severity", rule.Alert, rule.Annotations, rule.Labels)
			}
		}
	}
	var health struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	must(t, s.get("rules", nil, &health))
	checked := 0
	for _, group := range health.Groups {
		for _, rule := range group.Rules {
			checked++
			if rule.Health != "ok" {
				t.Errorf("alert %s: got health %s, %s; want ok", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if checked != len(loadRules(t).Groups[0].Rules) {
		t.Errorf("got %d rules at Prometheus; want those of the file", checked)
	}
	var names []string
	must(t, s.get("label/__name__/values", url.Values{"match[]": {`{__name__=~"capif_.*"}`}}, &names))
	for _, name := range names {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
		if !used[name] && !used[base] {
			t.Errorf("metric %s is on no panel; want each on one", name)
		}
	}
	if !slices.Contains(names, "capif_decisions_total") {
		t.Errorf("got %v; want the metrics of the plugin", names)
	}
}
