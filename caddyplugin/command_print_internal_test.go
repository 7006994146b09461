package caddyplugin

import (
	"testing"

	"github.com/caddy-capif/aef/internal/revocation"
)

func TestWhatCame(t *testing.T) {
	pair := revocation.ContextEntry{AEF: "aef-a", API: "8f36c0"}
	for name, c := range map[string]struct {
		audit revocation.Audit
		want  string
	}{
		"a context":       {revocation.Audit{Invoker: "i", Contexts: 1, Unlisted: []revocation.ContextEntry{pair}, Listed: []revocation.ContextEntry{{AEF: "aef-a"}}}, "no longer lists aef-a/8f36c0 newly lists aef-a/* "},
		"contexts":        {revocation.Audit{Contexts: 7}, "7 more contexts "},
		"a lift by it":    {revocation.Audit{Invoker: "i", Claims: 2, Contexts: 1, Listed: []revocation.ContextEntry{pair}}, "2 claims newly lists aef-a/8f36c0 "},
		"the core's word": {revocation.Audit{State: revocation.StateRevoked, Revocations: []string{"rv-1"}}, "revoked rv-1"},
	} {
		if got := whatCame(&c.audit); got != c.want {
			t.Errorf("%s: got %q; want %q", name, got, c.want)
		}
	}
}
