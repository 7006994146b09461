package caddyplugin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-capif/aef/internal/adminapi"
)

// FuzzDecodeRequest: what an operator sends is taken as it is meant, or refused
// as a mistake of the operator.
func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		`{"api_invoker_id":"inv-1","api_ids":["8f36c0"],"cause":"OVERLIMIT_USAGE","all_aefs":true,"hold":false}`,
		`{"api_invoker_id":"inv-1","reason":"asked for"}`, `{"accept":true}`, `{}`, `null`, `[]`, ``, `{`, `{} {}`,
		`{"api_invoker_id":1}`, `{"unknown":1}`, `{"all_aefs":null}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, into := range []any{new(adminapi.RevocationRequest), new(adminapi.LiftRequest), new(adminapi.ReconcileRequest)} {
			err := decode(httptest.NewRequest(http.MethodPost, "/capif/x", strings.NewReader(body)), into)
			var api caddy.APIError
			if err != nil {
				if !errors.As(err, &api) || api.HTTPStatus != http.StatusBadRequest && api.HTTPStatus != http.StatusRequestEntityTooLarge {
					t.Fatalf("%q: got %v; want 400 or 413", body, err)
				}
				continue
			}
			again, err := json.Marshal(into)
			if err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			other := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			err = decode(httptest.NewRequest(http.MethodPost, "/capif/x", strings.NewReader(string(again))), other)
			if err != nil {
				t.Fatalf("%q, written again as %s: got %v; want it accepted", body, again, err)
			}
			third, err := json.Marshal(other)
			if err != nil || string(third) != string(again) {
				t.Fatalf("%q: got %s, then %s; want the same", body, again, third)
			}
		}
	})
}
