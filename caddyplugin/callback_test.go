package caddyplugin_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
)

const eventsPath = corecallback.DefaultEventsPath

// callbackBed is one Caddy that names the core's authority when it asks for
// client certificates, and an API invoker that it lets in.
type callbackBed struct {
	*adminBed
	token string
	core  *http.Client
}

func newCallbackBed(t *testing.T) *callbackBed {
	t.Helper()
	b := &callbackBed{adminBed: &adminBed{bed: newBed(t, coretest.Options{})}}
	b.aef = b.bed.aef("aef-a", testbed.Provider)
	other := b.bed.aef("aef-b", testbed.Provider)
	b.publish(b.aef.ID, other.ID)
	text, err := b.aef.Caddyfile()
	must(t, err)
	const mode = "mode request\n"
	if strings.Count(text, mode) != 1 {
		t.Fatalf("got %d of %q in the Caddyfile; want 1", strings.Count(text, mode), mode)
	}
	b.caddy, err = testbed.StartCaddy(b.ctx, testbed.CaddyOptions{
		Name: b.aef.ID, Dir: b.aef.Dir, AdminAddress: b.aef.Admin,
		Caddyfile: strings.Replace(text, mode, mode+"\t\t\ttrust_pool file "+b.aef.CAFile+"\n", 1),
	})
	must(t, err)
	t.Cleanup(func() {
		err := b.caddy.Stop()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", b.caddy.Log())
		}
	})
	b.token = b.granted("inv-1")
	b.core = b.scene.Core.Client(b.scene.Core.Identity())
	return b
}

type callbackRequest struct {
	method string // default: POST
	path   string // default: revoke-authorization
	body   string
	header http.Header
}

func (b *callbackBed) ask(client *http.Client, q callbackRequest) adminAnswer {
	b.t.Helper()
	if q.method == "" {
		q.method = http.MethodPost
	}
	if q.path == "" {
		q.path = corecallback.RevokeAuthorizationPath
	}
	request, err := http.NewRequestWithContext(b.ctx, q.method, "https://"+b.aef.Callback+q.path, bytes.NewReader([]byte(q.body)))
	must(b.t, err)
	request.Header.Set("Content-Type", "application/json")
	for name, values := range q.header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	must(b.t, err)
	body, err := io.ReadAll(response.Body)
	must(b.t, err)
	must(b.t, response.Body.Close())
	return adminAnswer{response.StatusCode, response.Header, body}
}

// wantProblem fails unless the answer is a problem document with this status,
// and these invalidParams if there are any.
func (b *callbackBed) wantProblem(got adminAnswer, status int, invalid ...corecallback.InvalidParam) {
	b.t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		InvalidParams       []corecallback.InvalidParam
	}
	err := json.Unmarshal(got.body, &p)
	if err != nil || got.status != status || p.Status != status || p.Title == "" || p.Detail == "" {
		b.t.Errorf("got %v, %s, %v; want %v with a problem document", got.status, got.body, err, status)
	}
	if fmt.Sprint(p.InvalidParams) != fmt.Sprint(invalid) {
		b.t.Errorf("invalidParams: got %v; want %v", p.InvalidParams, invalid)
	}
	if kind, cache := got.header.Get("Content-Type"), got.header.Get("Cache-Control"); kind != "application/problem+json" || cache != "no-store" {
		b.t.Errorf("got %q, %q; want application/problem+json, no-store", kind, cache)
	}
}

// revokeBody is the plain request; changes are set over revokeInfo, nil removes.
func revokeBody(changes map[string]any) string {
	info := map[string]any{"apiInvokerId": "inv-1", "aefId": "aef-a", "apiIds": []string{testbed.APIID}, "cause": "OVERLIMIT_USAGE"}
	for name, value := range changes {
		info[name] = value
		if value == nil {
			delete(info, name)
		}
	}
	body, err := json.Marshal(map[string]any{"revokeInfo": info, "supportedFeatures": "1"})
	if err != nil {
		panic(err) // plain texts
	}
	return string(body)
}

// denied is what the core has set for an API invoker, as "aef/api/token?".
func (b *callbackBed) denied(invoker string) []string {
	b.t.Helper()
	var list adminapi.ClaimList
	b.get(adminapi.PathClaims+"?api_invoker_id="+url.QueryEscape(invoker), &list)
	found := []string{}
	for _, c := range list.Claims {
		if c.Origin != revocation.OriginCore {
			b.t.Errorf("got a claim of %s; want one of the core", c.Origin)
		}
		found = append(found, fmt.Sprintf("%s/%s/%v", c.AEF, c.API, !c.Token.IsZero()))
	}
	return found
}

func (b *callbackBed) wantDenied(invoker string, want ...string) {
	b.t.Helper()
	if got := b.denied(invoker); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("claims on %s: got %v; want %v", invoker, got, want)
	}
}

// TestCallbackStrangers: who is not the core is answered 403 on every path of the
// core, whatever the request says, and nothing is stored.
func TestCallbackStrangers(t *testing.T) {
	b := newCallbackBed(t)
	foreign, err := coretest.NewCA("another authority", false)
	must(t, err)
	own := b.scene.Core.CA()
	core := []string{coretest.CoreDNSName}
	for _, tt := range []struct {
		name   string
		ca     *coretest.CA // nil: no certificate
		spec   coretest.CertSpec
		reason string // in the log; "" where it was looked for already
	}{
		{"no certificate", nil, coretest.CertSpec{}, "no client certificate"},
		{"another authority", foreign, coretest.CertSpec{SANs: core, ClientAuth: true}, "the certificate does not chain to the CA of the core"},
		{"another identity", own, coretest.CertSpec{SANs: []string{"aef-z.example"}, ClientAuth: true}, "the certificate is of another identity"},
		{"the name as common name only", own, coretest.CertSpec{CommonName: coretest.CoreDNSName, ClientAuth: true}, ""},
		{"a name that begins alike", own, coretest.CertSpec{SANs: []string{coretest.CoreDNSName + ".org"}, ClientAuth: true}, ""},
		{"for servers only", own, coretest.CertSpec{SANs: core, ServerAuth: true}, "the certificate is not meant for client authentication"},
		{"expired", own, coretest.CertSpec{SANs: core, ClientAuth: true, NotAfter: time.Now().Add(-time.Minute)}, "a certificate of the chain has expired or is not yet valid"},
	} {
		b.sub(t, tt.name, func() {
			var id *coretest.Identity
			subject := ""
			if tt.ca != nil {
				if tt.spec.CommonName == "" {
					tt.spec.CommonName = tt.name
				}
				subject = "CN=" + tt.spec.CommonName
				var err error
				id, err = tt.ca.Issue(tt.spec)
				must(b.t, err)
			}
			client, shown := showing(b.t, own, id)
			before := b.stored()
			for _, q := range strangersRequests() {
				b.wantProblem(b.ask(client, q), http.StatusForbidden)
			}
			if id != nil && shown.Load() == 0 {
				b.t.Fatal("the server asked for no certificate; want it to")
			}
			// One line a second tells of strangers: ask until ours is told of.
			line := fmt.Sprintf(`"reason":%q,"certificate_subject":"%s`, tt.reason, subject)
			b.poll(func() bool {
				b.wantProblem(b.ask(client, callbackRequest{body: revokeBody(nil)}), http.StatusForbidden)
				return b.t.Failed() || tt.reason == "" || strings.Contains(b.caddy.Log(), line)
			})
			if after := b.stored(); after != before {
				b.t.Errorf("got stored:\n%s\nwant as before:\n%s", after, before)
			}
			b.want(b.aef, "/location/1", b.token, http.StatusOK)
		})
	}
	if got := b.ask(b.core, callbackRequest{body: revokeBody(nil)}); got.status != http.StatusOK {
		t.Errorf("the core itself: got %v %s; want 200", got.status, got.body)
	}
}

// showing is a client that presents id even to a server that names other
// authorities, and counts how often it was asked to.
func showing(t *testing.T, ca *coretest.CA, id *coretest.Identity) (*http.Client, *atomic.Int32) {
	t.Helper()
	config, shown := id.ClientTLS(ca), new(atomic.Int32)
	if choose := config.GetClientCertificate; choose != nil {
		config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(info.AcceptableCAs) > 0 {
				shown.Add(1)
			}
			return choose(info)
		}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 15 * time.Second}, shown
}

func strangersRequests() []callbackRequest {
	return []callbackRequest{
		{body: revokeBody(nil)},
		{body: revokeBody(map[string]any{"aefId": nil})},
		{body: "{"},
		{body: strings.Repeat("x", 1<<20)},
		{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["inv-1"]}}`},
		{path: eventsPath, method: http.MethodPut, body: `{"subscriptionId":"1","events":"API_INVOKER_OFFBOARDED","eventDetail":{"apiInvokerIds":["inv-1"]}}`},
	}
}

// TestCallbackForwardedCertificate: a header that says who the caller is proves
// nothing.
func TestCallbackForwardedCertificate(t *testing.T) {
	b := newCallbackBed(t)
	certificate := string(b.scene.Core.Identity().CertPEM)
	escaped := url.QueryEscape(certificate)
	block := strings.Join(strings.Split(certificate, "\n")[1:3], "")
	headers := http.Header{
		"X-Forwarded-Client-Cert":       {`Hash=00;Subject="CN=` + coretest.CoreCommonName + `";URI=;DNS=` + coretest.CoreDNSName + `;Cert="` + escaped + `"`},
		"X-Forwarded-Tls-Client-Cert":   {escaped},
		"X-Ssl-Client-Cert":             {escaped},
		"X-Ssl-Cert":                    {escaped},
		"Ssl-Client-Cert":               {escaped},
		"X-Client-Cert":                 {escaped},
		"X-Amzn-Mtls-Clientcert":        {escaped},
		"X-Amzn-Mtls-Clientcert-Leaf":   {escaped},
		"X-Arr-Clientcert":              {block},
		"Client-Cert":                   {":" + block + ":"},
		"Client-Cert-Chain":             {":" + block + ":"},
		"X-Ssl-Client-Verify":           {"SUCCESS"},
		"X-Client-Verify":               {"SUCCESS"},
		"X-Ssl-Client-S-Dn":             {"CN=" + coretest.CoreCommonName},
		"X-Forwarded-For":               {"127.0.0.1"},
		"Forwarded":                     {"for=127.0.0.1;proto=https"},
		"Authorization":                 {"Bearer " + b.token},
		"X-Forwarded-Tls-Client-Cert-I": {`Subject="CN=` + coretest.CoreCommonName + `"`},
	}
	before := b.stored()
	stranger, err := b.scene.Core.IssueAEF("aef-z")
	must(t, err)
	for name, client := range map[string]*http.Client{
		"without certificate": b.scene.Core.Client(nil), "with the certificate of another": b.scene.Core.Client(stranger),
	} {
		for header, values := range headers {
			b.sub(t, name+"/"+header, func() {
				b.wantProblem(b.ask(client, callbackRequest{body: revokeBody(nil), header: http.Header{header: values}}), http.StatusForbidden)
			})
		}
		b.sub(t, name+"/all", func() {
			b.wantProblem(b.ask(client, callbackRequest{body: revokeBody(nil), header: headers}), http.StatusForbidden)
		})
	}
	if after := b.stored(); after != before {
		t.Errorf("got stored:\n%s\nwant as before:\n%s", after, before)
	}
	b.want(b.aef, "/location/1", b.token, http.StatusOK)
}

// TestCallbackRefusals: what the core itself sends in a wrong way. Each is answered
// in full, and nothing of it is stored.
func TestCallbackRefusals(t *testing.T) {
	b := newCallbackBed(t)
	type params []corecallback.InvalidParam
	event := func(rest string) string {
		return `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED"` + rest + `}`
	}
	for _, tt := range []struct {
		name    string
		request callbackRequest
		status  int
		invalid params
	}{
		{"a foreign aefId", callbackRequest{body: revokeBody(map[string]any{"aefId": "aef-b"})}, 404, nil},
		{"an aefId that begins alike", callbackRequest{body: revokeBody(map[string]any{"aefId": "aef-a2"})}, 404, nil},
		{"a body over the limit", callbackRequest{body: revokeBody(map[string]any{"cause": strings.Repeat("c", 64<<10)})}, 413, nil},
		{"an event over the limit", callbackRequest{path: eventsPath, body: event(`,"pad":"` + strings.Repeat("p", 64<<10) + `"`)}, 413, nil},
		{"no body", callbackRequest{}, 400, nil},
		{"broken JSON", callbackRequest{body: revokeBody(nil)[1:]}, 400, nil},
		{"JSON cut off", callbackRequest{body: strings.TrimSuffix(revokeBody(nil), "}")}, 400, nil},
		{"two JSON values", callbackRequest{body: revokeBody(nil) + revokeBody(nil)}, 400, nil},
		{"a list", callbackRequest{body: "[" + revokeBody(nil) + "]"}, 400, nil},
		{"no UTF-8", callbackRequest{body: strings.Replace(revokeBody(nil), "inv-1", "inv-\xff", 1)}, 400, nil},
		{"another content type", callbackRequest{body: revokeBody(nil), header: http.Header{"Content-Type": {"text/plain"}}}, 415, nil},
		{"nothing in it", callbackRequest{body: `{}`}, 400, params{{Param: "/revokeInfo", Reason: "is required"}, {Param: "/supportedFeatures", Reason: "is required"}}},
		{"nothing in revokeInfo", callbackRequest{body: `{"revokeInfo":{},"supportedFeatures":"0"}`}, 400, params{
			{Param: "/revokeInfo/apiInvokerId", Reason: "is required"}, {Param: "/revokeInfo/cause", Reason: "is required"}, {Param: "/revokeInfo/apiIds", Reason: "is required"},
		}},
		{"no API invoker", callbackRequest{body: revokeBody(map[string]any{"apiInvokerId": nil})}, 400, params{{Param: "/revokeInfo/apiInvokerId", Reason: "is required"}}},
		{"empty apiIds", callbackRequest{body: revokeBody(map[string]any{"apiIds": []string{}})}, 400, params{{Param: "/revokeInfo/apiIds", Reason: "must hold at least one entry"}}},
		{"a bad apiId behind a good one", callbackRequest{body: revokeBody(map[string]any{"apiIds": []string{testbed.APIID, "a\nb"}})}, 400, params{{Param: "/revokeInfo/apiIds/1", Reason: "must not hold control characters"}}},
		{"apiIds mistyped", callbackRequest{body: revokeBody(map[string]any{"apiIds": testbed.APIID})}, 400, params{{Param: "/revokeInfo/apiIds", Reason: "must be an array"}}},
		{"the API invoker mistyped", callbackRequest{body: revokeBody(map[string]any{"apiInvokerId": 1})}, 400, params{{Param: "/revokeInfo/apiInvokerId", Reason: "must be a string"}}},
		{"two API invokers", callbackRequest{body: strings.Replace(revokeBody(nil), `"apiInvokerId":"inv-1"`, `"apiInvokerId":"inv-1","apiInvokerId":"inv-2"`, 1)}, 400,
			params{{Param: "/revokeInfo/apiInvokerId", Reason: "is given more than once, with different values"}}},
		{"a token that is none", callbackRequest{body: revokeBody(map[string]any{"accessToken": "not-a-token"})}, 400,
			params{{Param: "/revokeInfo/accessToken", Reason: "the token is not a compact JWS of three parts"}}},
		{"a token of another API invoker", callbackRequest{body: revokeBody(map[string]any{"accessToken": b.granted("inv-2")})}, 400,
			params{{Param: "/revokeInfo/accessToken", Reason: "the token belongs to another API invoker"}}},
		{"an event without subscription", callbackRequest{path: eventsPath, body: `{"events":"API_INVOKER_AUTHORIZATION_REVOKED"}`}, 400, params{{Param: "/subscriptionId", Reason: "is required"}}},
		{"an event with a bad name behind a good one", callbackRequest{path: eventsPath, body: event(`,"eventDetail":{"apiInvokerIds":["inv-1",""]}`)}, 400,
			params{{Param: "/eventDetail/apiInvokerIds/1", Reason: "must not be empty; leave it out if there is none"}}},
		{"two events, the second one mistyped", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":["API_INVOKER_AUTHORIZATION_REVOKED",2],"eventDetail":{"apiInvokerIds":["inv-1"]}}`}, 400,
			params{{Param: "/events/1", Reason: "must be a string"}}},
		{"a wrong path", callbackRequest{path: "/aef-security/v1/revoke", body: revokeBody(nil)}, 404, nil},
		{"the path with a slash behind", callbackRequest{path: corecallback.RevokeAuthorizationPath + "/", body: revokeBody(nil)}, 404, nil},
		{"the path of another version", callbackRequest{path: "/aef-security/v2/revoke-authorization", body: revokeBody(nil)}, 404, nil},
		{"the root", callbackRequest{path: "/", body: revokeBody(nil)}, 404, nil},
		{"check-authentication where it is not served", callbackRequest{path: corecallback.CheckAuthenticationPath, body: `{"apiInvokerId":"inv-1","supportedFeatures":"0"}`}, 404, nil},
		{"a wrong method", callbackRequest{method: http.MethodGet}, 405, nil},
		{"PUT of a revoke", callbackRequest{method: http.MethodPut, body: revokeBody(nil)}, 405, nil},
		{"DELETE of an event", callbackRequest{path: eventsPath, method: http.MethodDelete}, 405, nil},
	} {
		b.sub(t, tt.name, func() {
			before := b.stored()
			got := b.ask(b.core, tt.request)
			b.wantProblem(got, tt.status, tt.invalid...)
			if tt.status == http.StatusMethodNotAllowed && !strings.HasPrefix(got.header.Get("Allow"), http.MethodPost) {
				b.t.Errorf("Allow: got %q; want POST in it", got.header.Get("Allow"))
			}
			if after := b.stored(); after != before {
				b.t.Errorf("got stored:\n%s\nwant as before:\n%s", after, before)
			}
			b.want(b.aef, "/location/1", b.token, http.StatusOK)
		})
	}
}

// TestCallbackWords: what the core says in each of its ways is in force when it
// is answered, and not a word more.
func TestCallbackWords(t *testing.T) {
	b := newCallbackBed(t)
	invokers := 0
	// next makes an API invoker that is let in, and returns its id and a token.
	next := func() (string, string) {
		invokers++
		id := fmt.Sprintf("inv-word-%d", invokers)
		token := b.granted(id)
		b.want(b.aef, "/location/1", token, http.StatusOK)
		b.want(b.aef, "/qos/1", token, http.StatusOK)
		return id, token
	}
	const passes, refused = http.StatusOK, http.StatusForbidden
	for _, tt := range []struct {
		name    string
		request callbackRequest // WHO stands for the id
		status  int
		// location and qos are how calls end afterwards.
		location, qos int
		claims        []string
	}{
		{"one API", callbackRequest{body: `{"revokeInfo":{"apiInvokerId":"WHO","aefId":"aef-a","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`},
			200, refused, passes, []string{"aef-a/8f36c0/false"}},
		{"without aefId, two APIs", callbackRequest{body: `{"revokeInfo":{"apiInvokerId":"WHO","apiIds":["8f36c0","91b2d4","8f36c0"],"cause":"A_NEW_CAUSE"},"supportedFeatures":""}`},
			200, refused, refused, []string{"/8f36c0/false", "/91b2d4/false"}},
		{"snake_case", callbackRequest{body: `{"revoke_info":{"api_invoker_id":"WHO","aef_id":"aef-a","api_ids":["91b2d4"],"cause":"OVERLIMIT_USAGE"},"supported_features":"1"}`},
			200, passes, refused, []string{"aef-a/91b2d4/false"}},
		{"more members than known", callbackRequest{body: `{"revokeInfo":{"apiInvokerId":"WHO","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE","x":{}},"supportedFeatures":"ff","y":1}`},
			200, refused, passes, []string{"/8f36c0/false"}},
		{"an apiId that no route stands for", callbackRequest{body: `{"revokeInfo":{"apiInvokerId":"WHO","apiIds":["unmapped-1"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`},
			200, passes, passes, []string{"/unmapped-1/false"}},
		{"an event with names", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["WHO"],"apiIds":["8f36c0"]}}`},
			204, refused, passes, []string{"/8f36c0/false"}},
		{"an event by PUT, in snake_case", callbackRequest{path: eventsPath, method: http.MethodPut,
			body: `{"subscription_id":"1","events":["API_INVOKER_AUTHORIZATION_REVOKED"],"event_detail":{"api_invoker_ids":["WHO"],"api_ids":["91b2d4"]}}`},
			204, passes, refused, []string{"/91b2d4/false"}},
		{"an event without APIs", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["WHO"]}}`},
			204, refused, refused, []string{"//false"}},
		{"an event under another content type", callbackRequest{path: eventsPath, header: http.Header{"Content-Type": {"text/plain"}},
			body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["WHO"],"apiIds":["8f36c0"]}}`},
			204, refused, passes, []string{"/8f36c0/false"}},
		{"offboarded", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_OFFBOARDED","eventDetail":{"apiInvokerIds":["WHO"]}}`},
			204, refused, refused, []string{"//false"}},
		{"an event about others", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["inv-elsewhere"]}}`},
			204, passes, passes, nil},
		{"an event without names", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED"}`},
			204, passes, passes, nil},
		{"an event that does not concern us", callbackRequest{path: eventsPath, body: `{"subscriptionId":"1","events":"SERVICE_API_INVOCATION_SUCCESS","eventDetail":{"apiInvokerIds":["WHO"]}}`},
			204, passes, passes, nil},
	} {
		b.sub(t, tt.name, func() {
			id, token := next()
			tt.request.body = strings.ReplaceAll(tt.request.body, "WHO", id)
			for range 2 { // a repeat does the same again
				got := b.ask(b.core, tt.request)
				if got.status != tt.status || (tt.status == http.StatusNoContent) != (len(got.body) == 0) {
					b.t.Errorf("got %v %s; want %v", got.status, got.body, tt.status)
				}
				b.want(b.aef, "/location/1", token, tt.location)
				b.want(b.aef, "/qos/1", token, tt.qos)
				b.wantDenied(id, tt.claims...)
			}
		})
	}
	if !b.alarmed(b.caddy, alarm.UnmappedAPI) {
		t.Errorf("got %+v; want unmapped_api in the status", b.status(b.caddy).Alarms)
	}
	b.sub(t, "a token", func() { testCallbackToken(b, next) })
}

// testCallbackToken: Release 19 names a token. That one is refused, another of the
// same API invoker is not.
func testCallbackToken(b *callbackBed, next func() (string, string)) {
	id, token := next()
	fresh, err := b.scene.Core.MintToken(coretest.TokenSpec{InvokerID: id, Scope: "3gpp#aef-a:location,qos"})
	must(b.t, err)
	b.want(b.aef, "/location/1", fresh, http.StatusOK)
	body := revokeBody(map[string]any{"apiInvokerId": id, "accessToken": token})
	if got := b.ask(b.core, callbackRequest{body: body}); got.status != http.StatusOK || string(got.body) != `{"supportedFeatures":"1"}`+"\n" {
		b.t.Fatalf("got %v %s; want 200 with the feature", got.status, got.body)
	}
	b.want(b.aef, "/location/1", token, http.StatusUnauthorized)
	b.want(b.aef, "/qos/1", token, http.StatusOK)
	b.want(b.aef, "/location/1", fresh, http.StatusOK)
	b.wantDenied(id, "aef-a/8f36c0/true")
	if strings.Contains(b.caddy.Log(), token) || strings.Contains(string(b.send(http.MethodGet, adminapi.PathClaims, nil).body), token) {
		b.t.Error("got the token in the log or the admin API; want its digest only")
	}
}
