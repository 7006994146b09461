package reconcile

import (
	"reflect"
	"testing"

	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/revocation"
)

// TestOnlyWhatDecidesCallsHereIsTold: what a context newly lists or no longer lists
// here goes to the audit; no first sight, nothing of another AEF, nothing that a claim
// denies anyway; and over a restart it is told as well.
func TestOnlyWhatDecidesCallsHereIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		var told []*revocation.ContextChange
		w.memory.before = func(c revocation.Context) {
			if c.Change != nil {
				told = append(told, c.Change)
			}
		}
		elsewhere := coreclient.Entry{AEFID: "elsewhere", APIID: entry.APIID}
		here := []revocation.ContextEntry{{AEF: entry.AEFID, API: entry.APIID}}
		read := func(what string, want *revocation.ContextChange, entries ...coreclient.Entry) {
			t.Helper()
			told = nil
			w.core.set("a", entries...)
			w.hint()
			w.call("a")
			w.settle()
			if want == nil && len(told) == 0 {
				return
			}
			if len(told) != 1 || !reflect.DeepEqual(told[0], want) {
				t.Errorf("%s: got %+v; want %+v", what, told, want)
			}
		}
		read("first sight", nil, entry)
		read("the same", nil, entry)
		read("one of another AEF more", nil, entry, elsewhere)
		read("no longer listed", &revocation.ContextChange{Unlisted: here}, elsewhere)
		read("listed again", &revocation.ContextChange{Listed: here}, entry)
		w.restart()
		read("gone over a restart", &revocation.ContextChange{Unlisted: here})
		w.memory.deny("a")
		read("denied anyway", nil, entry)
	})
}
