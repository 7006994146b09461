package caddyplugin_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// TestGoldenMessages compares what is sent to a core and answered to it with
// testdata/golden. Those files were validated against 3GPP's OpenAPI files for
// TS 29.222 of Releases 18 and 19: validate them again when they change.
func TestGoldenMessages(t *testing.T) {
	for dialect, profile := range map[string]string{"strict": "strict", "opencapif": "opencapif", "oran": "oran"} {
		t.Run(profile, func(t *testing.T) {
			b := newBed(t, coretest.Options{Dialect: dialect})
			a := b.aef(b.scene.Core.AssignAEFID("AEFa"), testbed.Provider)
			a.Profile = profile
			a.GlobalExtra = "subscribe https://" + a.Callback + "/capif/events"
			switch dialect {
			case "opencapif":
				a.TokenKeys = "core_certificate"
			case "oran":
				a.GlobalExtra += "\ninvoker_claim azp clientId"
			}
			b.publish(a.ID)
			c := b.start(a)
			inv := b.invoker("inv-1", a.ID)
			b.want(a, "/location/1", b.token(inv, coretest.ScopeOf(a.ID, testbed.APIName)), http.StatusOK)
			b.trigger(c, adminapi.RevocationRequest{
				APIInvokerID: "inv-1", APIIDs: []string{testbed.APIID}, Cause: coretest.CauseAuthorization,
			}, http.StatusOK)
			b.wantGolden(profile+"_revoke", b.received(coretest.OpRevoke).Body)
			subscribed := b.received(coretest.OpSubscribe)
			b.wantGolden("subscribe", bytes.ReplaceAll(subscribed.Body, []byte(a.Callback), []byte("aef.example:8443")))
			for _, e := range b.scene.Core.Requests(coretest.OpGetContext, coretest.OpRevoke, coretest.OpSubscribe) {
				if e.Header.Get("Authorization") != "" {
					t.Errorf("%s carries an Authorization header beside the client certificate", e.Operation)
				}
			}
			if dialect == "strict" {
				testGoldenAnswers(b, a)
			}
		})
	}
}

func testGoldenAnswers(b *bed, a *testbed.AEF) {
	core := b.scene.Core.Client(b.scene.Core.Identity())
	nobody := b.scene.Core.Client(nil)
	const revoke, events = "/aef-security/v1/revoke-authorization", "/capif/events"
	tests := []struct {
		golden string
		client *http.Client
		path   string
		body   string
		status int
	}{
		{"answer_revoke_200", core, revoke, `{"revokeInfo":{"apiInvokerId":"inv-1","aefId":"AEFa","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`, http.StatusOK},
		{"answer_revoke_400", core, revoke, `{"revokeInfo":{"apiInvokerId":"inv-1","apiIds":[]},"supportedFeatures":"1"}`, http.StatusBadRequest},
		{"answer_revoke_404", core, revoke, `{"revokeInfo":{"apiInvokerId":"inv-1","aefId":"elsewhere","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`, http.StatusNotFound},
		{"answer_revoke_403", nobody, revoke, `{"revokeInfo":{"apiInvokerId":"inv-1","apiIds":["8f36c0"],"cause":"OVERLIMIT_USAGE"},"supportedFeatures":"1"}`, http.StatusForbidden},
		{"", core, events, `{"subscriptionId":"1","events":"API_INVOKER_AUTHORIZATION_REVOKED","eventDetail":{"apiInvokerIds":["inv-1"],"apiIds":["8f36c0"]}}`, http.StatusNoContent},
		{"answer_event_400", core, events, `{"events":"API_INVOKER_AUTHORIZATION_REVOKED"}`, http.StatusBadRequest},
	}
	for _, tt := range tests {
		request, err := http.NewRequestWithContext(b.ctx, http.MethodPost, "https://"+a.Callback+tt.path, strings.NewReader(tt.body))
		must(b.t, err)
		request.Header.Set("Content-Type", "application/json")
		response, err := tt.client.Do(request)
		must(b.t, err)
		body, err := io.ReadAll(response.Body)
		must(b.t, err)
		must(b.t, response.Body.Close())
		if response.StatusCode != tt.status {
			b.t.Errorf("%s %s: got %v %s; want %v", tt.path, tt.body, response.StatusCode, body, tt.status)
			continue
		}
		contentType := "application/problem+json"
		switch tt.status {
		case http.StatusNoContent:
			if len(body) > 0 {
				b.t.Errorf("%s: got a body %s beside 204", tt.path, body)
			}
			continue
		case http.StatusOK:
			contentType = "application/json"
		}
		if got := response.Header.Get("Content-Type"); got != contentType {
			b.t.Errorf("%s: got content type %s; want %s", tt.golden, got, contentType)
		}
		b.wantGolden(tt.golden, body)
	}
}

// received waits for the first request of an operation.
func (b *bed) received(operation string) coretest.Event {
	b.t.Helper()
	e, err := b.scene.Core.WaitFor(b.ctx, func(e coretest.Event) bool {
		return e.Operation == operation && e.Phase == coretest.PhaseAnswer
	})
	must(b.t, err)
	return e
}

// wantGolden compares JSON, white space aside.
func (b *bed) wantGolden(name string, got []byte) {
	b.t.Helper()
	golden, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
	if err != nil {
		b.t.Errorf("%v; got %s", err, got)
		return
	}
	var want, compact bytes.Buffer
	must(b.t, json.Compact(&want, golden))
	err = json.Compact(&compact, got)
	if err != nil || !bytes.Equal(compact.Bytes(), want.Bytes()) {
		b.t.Errorf("%s: got %s; want %s", name, got, want.Bytes())
	}
}
