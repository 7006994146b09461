package coreclient

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
)

// ocfPolicy is a policy as OpenCAPIF makes one for each security context.
const ocfPolicy = `{"apiInvokerPolicies":[{"apiInvokerId":"INV1","allowedTotalInvocations":100,"allowedInvocationsPerSecond":10,` +
	`"allowedInvocationTimeRangeList":[{"startTime":"2026-01-01T00:00:00.123456","stopTime":"2027-01-01T00:00:00.123456"}]}]}`

func TestPolicies(t *testing.T) {
	at := func(text string) time.Time {
		instant, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return instant.UTC()
	}
	one := func(start, stop string) []Policy {
		r := TimeRange{}
		if start != "" {
			r.Start = at(start)
		}
		if stop != "" {
			r.Stop = at(stop)
		}
		return []Policy{{Invoker: "i", Ranges: []TimeRange{r}}}
	}
	ranges := func(list string) string {
		return `{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedInvocationTimeRangeList":` + list + `}]}`
	}
	tests := []struct {
		name, body string
		want       []Policy
		wantErr    string
	}{
		{"OpenCAPIF", ocfPolicy, []Policy{{Invoker: "INV1", Total: ptr(int64(100)), PerSecond: ptr(int64(10)),
			Ranges: []TimeRange{{at("2026-01-01T00:00:00.123456Z"), at("2027-01-01T00:00:00.123456Z")}}}}, ""},
		{"snake case", `{"api_invoker_policies":[{"api_invoker_id":"i","allowed_total_invocations":1,"allowed_invocations_per_second":2,"allowed_invocation_time_range_list":[{"start_time":"2026-01-01T00:00:00Z","stop_time":null}]}]}`,
			[]Policy{{Invoker: "i", Total: ptr(int64(1)), PerSecond: ptr(int64(2)), Ranges: []TimeRange{{Start: at("2026-01-01T00:00:00Z")}}}}, ""},
		{"several, and members that nobody knows", `{"x":1,"apiInvokerPolicies":[{"apiInvokerId":"a","netSliceInfo":[{}]},{"apiInvokerId":"b","allowedTotalInvocations":0}]}`,
			[]Policy{{Invoker: "a"}, {Invoker: "b", Total: ptr(int64(0))}}, ""},
		{"nulls", `{"apiInvokerPolicies":[{"apiInvokerId":"a","allowedTotalInvocations":null,"allowedInvocationsPerSecond":null,"allowedInvocationTimeRangeList":null}]}`, []Policy{{Invoker: "a"}}, ""},
		{"no policies", `{"apiInvokerPolicies":[]}`, nil, ""},
		{"null for none", `{"apiInvokerPolicies":null}`, nil, ""},
		{"an empty object", `{}`, nil, ""},
		{"endTime", ranges(`[{"startTime":"2026-01-01T00:00:00Z","endTime":"2026-01-02T00:00:00Z"}]`), one("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), ""},
		{"end_time", ranges(`[{"end_time":"2026-01-02T00:00:00Z"}]`), one("", "2026-01-02T00:00:00Z"), ""},
		{"both, equal in two zones", ranges(`[{"stopTime":"2026-01-02T00:00:00Z","endTime":"2026-01-02T01:00:00+01:00"}]`), one("", "2026-01-02T00:00:00Z"), ""},
		{"a zone", ranges(`[{"startTime":"2026-07-01T00:30:00+05:30"}]`), one("2026-06-30T19:00:00Z", ""), ""},
		{"small letters", ranges(`[{"startTime":"2026-07-01t00:30:00z"}]`), one("2026-07-01T00:30:00Z", ""), ""},
		{"a space", ranges(`[{"startTime":"2026-07-01 00:30:00.5"}]`), one("2026-07-01T00:30:00.5Z", ""), ""},
		{"a space and a zone", ranges(`[{"startTime":"2026-07-01 00:30:00+00:00"}]`), one("2026-07-01T00:30:00Z", ""), ""},
		{"as in HTTP", ranges(`[{"startTime":"Wed, 01 Jul 2026 00:30:00 GMT"}]`), one("2026-07-01T00:30:00Z", ""), ""},
		{"an open range", ranges(`[{}]`), []Policy{{Invoker: "i", Ranges: []TimeRange{{}}}}, ""},
		{"an empty list of ranges", ranges(`[]`), []Policy{{Invoker: "i"}}, ""},

		{"no list", `{"error":"x"}`, nil, "has no apiInvokerPolicies"},
		{"no object", `[]`, nil, "no access control policy"},
		{"null", `null`, nil, "null is no object"},
		{"no JSON", `<html>`, nil, "no access control policy"},
		{"two spellings", `{"apiInvokerPolicies":[],"api_invoker_policies":[]}`, nil, "two spellings"},
		{"a list that is none", `{"apiInvokerPolicies":{}}`, nil, "apiInvokerPolicies"},
		{"a null among them", `{"apiInvokerPolicies":[null]}`, nil, "policy 0"},
		{"no invoker", `{"apiInvokerPolicies":[{"allowedTotalInvocations":1}]}`, nil, "apiInvokerId"},
		{"an invoker that is a number", `{"apiInvokerPolicies":[{"apiInvokerId":1}]}`, nil, "apiInvokerId"},
		{"half a call", `{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedTotalInvocations":0.5}]}`, nil, "allowedTotalInvocations"},
		{"less than none", `{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedInvocationsPerSecond":-1}]}`, nil, "allowedInvocationsPerSecond"},
		{"a number as text", `{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedTotalInvocations":"1"}]}`, nil, "allowedTotalInvocations"},
		{"more than a number holds", `{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedTotalInvocations":9223372036854775808}]}`, nil, "allowedTotalInvocations"},
		{"no time", ranges(`[{"startTime":"noon"}]`), nil, "startTime"},
		{"a time that is a number", ranges(`[{"stopTime":1}]`), nil, "stopTime"},
		{"two different ends", ranges(`[{"stopTime":"2026-01-02T00:00:00Z","endTime":"2026-01-03T00:00:00Z"}]`), nil, "differ"},
		{"a range that is none", ranges(`[1]`), nil, "allowedInvocationTimeRangeList"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got seen
			list, err := newSite(t, record(&got, reply(200, "application/json", tt.body))).core(t).Policies(t.Context(), "aef/1 a", "a/b")
			if tt.wantErr != "" {
				if e := asError(t, err); e.Class() != Unknown || e.Status != 200 || !strings.Contains(e.Error(), tt.wantErr) || list != nil {
					t.Errorf("got %v, %v; want nothing, and status 200 with %q", list, err, tt.wantErr)
				}
			} else if err != nil || !reflect.DeepEqual(list, tt.want) {
				t.Errorf("got %+v, %v; want %+v", list, err, tt.want)
			}
			if want := "/access-control-policy/v1/accessControlPolicyList/a%2Fb?aef-id=aef%2F1+a"; got.method != http.MethodGet || got.uri != want {
				t.Errorf("got %s %s; want GET %s", got.method, got.uri, want)
			}
		})
	}
}

func TestPoliciesRefused(t *testing.T) {
	tests := []struct {
		name, body, contentType string
		status                  int
		class                   Class
		inCoreShape             bool
	}{
		{"none at OpenCAPIF", `{"title":"Not Found","status":404,"detail":"No ACLs found","cause":"Wrong id"}`, "application/problem+json", 404, NotFound, true},
		{"no such API at the core", `{"message":"Not Found"}`, "application/json", 404, NotFound, false},
		{"a proxy", `<html><title>404</title></html>`, "text/html", 404, NotFound, false},
		{"another role", `x`, "text/plain", 401, Refused, false},
		{"broken", ``, "", 500, Unknown, false},
		{"no content", ``, "", 204, Unknown, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := newSite(t, reply(tt.status, tt.contentType, tt.body)).core(t).Policies(t.Context(), "aef", "api")
			if e := asError(t, err); list != nil || e.Status != tt.status || e.Class() != tt.class || e.InCoreShape != tt.inCoreShape {
				t.Errorf("got %v, %v (%v, in the core's shape %v); want %d, %v, %v", list, e, e.Class(), e.InCoreShape, tt.status, tt.class, tt.inCoreShape)
			}
		})
	}
	c := newSite(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("got %s; want nothing sent", r.URL) }).core(t)
	for _, ids := range [][2]string{{"", "api"}, {"aef", ""}, {"aef", ".."}} {
		if _, err := c.Policies(t.Context(), ids[0], ids[1]); asError(t, err).Class() != BadRequest {
			t.Errorf("%q: got %v; want it not sent", ids, err)
		}
	}
}

// TestPoliciesOfTheDialects reads what the core for tests serves as each kind of
// core.
func TestPoliciesOfTheDialects(t *testing.T) {
	for _, dialect := range []string{"strict", "opencapif", "oran"} {
		t.Run(dialect, func(t *testing.T) {
			real, err := coretest.Start(coretest.Options{Dialect: dialect})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := real.Close(); err != nil {
					t.Error(err)
				}
			}()
			c, aef := coreOf(t, real, dialect)
			real.AddProvider("p")
			for _, err := range []error{
				real.AddAEF(coretest.AEF{ID: aef, ProviderID: "p"}),
				real.PublishAPI(coretest.API{ID: "8f36c0", Name: "location", AEFIDs: []string{aef}}),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			list, err := c.Policies(t.Context(), aef, "8f36c0")
			switch dialect {
			case "strict":
				if err != nil || list != nil {
					t.Errorf("before any is set: got %v, %v; want an empty list", list, err)
				}
			case "opencapif":
				if e := asError(t, err); e.Class() != NotFound || !e.InCoreShape {
					t.Errorf("before any is set: got %v; want 404 in the core's shape", e)
				}
			}
			err = real.SetPolicies(aef, "8f36c0", coretest.APIInvokerPolicy{
				APIInvokerID: "i", AllowedTotalInvocations: 3,
				AllowedInvocationTimeRangeList: []coretest.TimeRange{{StartTime: "2026-01-01T00:00:00Z"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			list, err = c.Policies(t.Context(), aef, "8f36c0")
			if dialect == "oran" { // has no such API
				if e := asError(t, err); e.Class() != NotFound || e.InCoreShape {
					t.Errorf("got %v; want 404, not in the core's shape", e)
				}
				return
			}
			if err != nil || len(list) != 1 || list[0].Invoker != "i" || *list[0].Total != 3 || len(list[0].Ranges) != 1 {
				t.Errorf("got %+v, %v; want the policy of i", list, err)
			}
			in := real.Inject(coretest.Fault{Operations: []string{coretest.OpGetPolicies}, Status: 503, Header: http.Header{"Retry-After": {"7"}}})
			_, err = c.Policies(t.Context(), aef, "8f36c0")
			in.Clear()
			if e := asError(t, err); e.Class() != Unknown || e.RetryAfter != 7*time.Second {
				t.Errorf("with a fault: got %v after %v; want 503 after 7 s", e, e.RetryAfter)
			}
		})
	}
}

// FuzzDecodePolicies: no panic; and what is accepted limits nobody to less than
// nothing and names somebody.
func FuzzDecodePolicies(f *testing.F) {
	for _, seed := range []string{
		ocfPolicy, `{}`, `{"apiInvokerPolicies":null}`, `{"api_invoker_policies":[{"api_invoker_id":"i","allowed_total_invocations":1}]}`,
		`{"apiInvokerPolicies":[{"apiInvokerId":"i","allowedInvocationTimeRangeList":[{"startTime":"2026-07-01T00:30:00+05:30","endTime":"Wed, 01 Jul 2026 00:30:00 GMT"}]}]}`,
		`{"apiInvokerPolicies":[null,{},1]}`, `[]`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := decodePolicies(body)
		if err != nil {
			if list != nil {
				t.Errorf("got %v with %v; want nothing with an error", list, err)
			}
			return
		}
		for _, p := range list {
			if p.Invoker == "" || p.Total != nil && *p.Total < 0 || p.PerSecond != nil && *p.PerSecond < 0 {
				t.Errorf("got %+v; want a name and no negative number", p)
			}
			for _, r := range p.Ranges {
				if r.Start.Location() != time.UTC || r.Stop.Location() != time.UTC {
					t.Errorf("got %+v; want instants in UTC", r)
				}
			}
		}
	})
}
