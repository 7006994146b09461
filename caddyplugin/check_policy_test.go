package caddyplugin_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestCheckIsTheNextCall: whatever API invokers, with certificates and tokens of
// each other, have called before, check says what the next call gets, with the
// policy and the binding, and uses up no call.
func TestCheckIsTheNextCall(t *testing.T) {
	b := newPolicyBed(t, coretest.Options{}, `bind client_certificate
		policy {
			total 6
			over_limit refuse
			invoker inv-2 {
				per_second 0
			}
			invoker inv-3 {
				time_range 2020-01-01T00:00:00Z 2021-01-01T00:00:00Z
				time_range 2022-01-01T00:00:00Z 2023-01-01T00:00:00Z
			}
		}`, bound)
	b.caddy = b.start(b.a)
	var callers []*policyCaller
	for i := range 4 {
		callers = append(callers, b.caller(fmt.Sprint("inv-", i+1)))
	}
	check := func(asked *adminapi.CheckRequest) *adminapi.Check {
		t.Helper()
		asked.APIID = testbed.APIID
		var answer adminapi.CheckResponse
		status, err := b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathCheck, asked, &answer)
		if err != nil || status != http.StatusOK || len(answer.Checks) != 1 {
			t.Fatalf("check: got %d, %v, %+v; want one route", status, err, answer)
		}
		return &answer.Checks[0]
	}
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	for range 100 {
		certificate, owner := callers[random.IntN(4)], callers[random.IntN(4)]
		if random.IntN(3) > 0 {
			owner = certificate
		}
		if random.IntN(25) == 0 {
			b.lift(owner.id)
		}
		names := []string{"something", certificate.id}
		verdict := check(&adminapi.CheckRequest{Token: owner.token, ClientCertificateNames: names})
		byInvoker := check(&adminapi.CheckRequest{APIInvokerID: owner.id, ClientCertificateNames: names})
		call := policyCaller{Invoker: certificate.Invoker, b: b, id: certificate.id, token: owner.token}
		status, body := call.at("/location/1")
		want := http.StatusOK
		if !verdict.Allowed {
			want = verdict.Status
		}
		if status != want || (!verdict.Allowed && !strings.Contains(body, verdict.Detail)) || byInvoker.Reason != verdict.Reason {
			t.Fatalf("%s with the token of %s: got %d %s; want %+v as checked, and %s by its name", certificate.id, owner.id, status, body, verdict, byInvoker.Reason)
		}
		last := verdict.Steps[len(verdict.Steps)-1]
		step := enforce.StepPolicy
		if certificate != owner {
			step = enforce.StepBinding
		}
		if last.Step != step || last.Passed != verdict.Allowed {
			t.Fatalf("%s: got steps %+v; want the last one %s", verdict.Reason, verdict.Steps, step)
		}
		seen[verdict.Reason]++
	}
	for _, reason := range []enforce.Reason{enforce.Allowed, enforce.TokenNotBound, enforce.OverRate, enforce.OutsideTimeRange, enforce.OverLimit} {
		if seen[reason.String()] == 0 {
			t.Errorf("got no %v; want each met (%v)", reason, seen)
		}
	}
	unknown := check(&adminapi.CheckRequest{APIInvokerID: "inv-2"})
	binding := unknown.Steps[len(unknown.Steps)-2]
	if binding.Step != enforce.StepBinding || !binding.Passed || !strings.HasPrefix(binding.Outcome, "not checked") || len(unknown.Notes) != 1 || unknown.Reason != "over_rate" {
		t.Errorf("without names: got %+v; want the binding not checked, and said so", unknown)
	}
}
