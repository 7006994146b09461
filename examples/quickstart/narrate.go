package main

import (
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
)

// narrator tells what happens at the core while it happens. The core sees all
// of 8.23.3 but the trigger and what an AEF does by itself, which the walk
// tells.
type narrator struct {
	out   *printer
	began atomic.Pointer[time.Time] // of the procedure; nil outside it
	over  atomic.Bool
}

// procedure starts the clock of the numbered steps, or stops it with the zero
// time.
func (n *narrator) procedure(began time.Time) {
	if began.IsZero() {
		n.began.Store(nil)
		return
	}
	n.began.Store(&began)
}

// end ends the story: what comes while everything is stopped is no part of it.
func (n *narrator) end() { n.over.Store(true) }

// since is how long after the start of the procedure something happened.
func (n *narrator) since(at time.Time) time.Duration {
	began := n.began.Load()
	if began == nil {
		return 0
	}
	return at.Sub(*began)
}

// observe takes what the core tells; it neither blocks nor calls the core.
func (n *narrator) observe(e coretest.Event) {
	began := n.began.Load()
	switch {
	case n.over.Load(), e.Operation == coretest.OpJWKS:
		// How an AEF gets the keys is not part of the story.
	case began == nil:
		if e.Phase == coretest.PhaseAnswer {
			n.out.exchange(short(e.From)+" -> "+short(e.To), purpose(&e), e.Status)
		}
	default:
		number, who, what := n.tell(&e)
		if who != "" {
			n.out.step(number, e.Time.Sub(*began), who, what)
		}
	}
}

// tell puts an event of the procedure into words.
func (n *narrator) tell(e *coretest.Event) (string, string, string) {
	there, back := short(e.From)+" -> "+short(e.To), short(e.To)+" -> "+short(e.From)
	asked, answered := e.Phase == coretest.PhaseRequest, e.Phase == coretest.PhaseAnswer
	answer := n.out.status(e.Status)
	if e.Err != nil {
		answer = e.Err.Error()
	}
	switch {
	case e.Operation == coretest.OpRevoke && asked:
		return "2", there, fmt.Sprintf("%s %s apiIds %s, cause %s, %s", e.Method, e.URL, strings.Join(e.APIIDs, ","), e.Cause, indication(e))
	case e.Operation == coretest.OpRevoke && e.Phase == coretest.PhaseState:
		return "3", "core", e.Note
	case e.Operation == coretest.OpRevoke && answered:
		return "4", back, answer
	case e.Operation == coretest.OpNotifyInvoker && asked:
		return "6", there, e.Method + " " + path(e.URL) + " apiIds " + strings.Join(e.APIIDs, ",") + ", cause " + e.Cause
	case e.Operation == coretest.OpNotifyInvoker && answered:
		return "6", back, answer
	case e.Operation == coretest.OpCallAEF && asked:
		return "7", there, e.Method + " " + path(e.URL) + " apiIds " + strings.Join(e.APIIDs, ",") + ", cause " + e.Cause
	case e.Operation == coretest.OpCallAEF && answered:
		return "7", back, answer
	case e.Operation == coretest.OpNotifyEvent && asked:
		return "", there, tells(e)
	case e.Operation == coretest.OpNotifyEvent && answered:
		return "", back, answer
	case e.Operation == coretest.OpChange:
		return "", "core", e.Note
	case e.Operation == coretest.OpGetContext && answered:
		return "", there, "reads the security context: " + answer
	case e.Operation == coretest.OpGetPolicies && answered:
		return "", there, "reads the access control policy: " + answer
	default:
		return "", "", ""
	}
}

// indication names what stands for the indication of step 7, which TS 29.222
// has no field for.
func indication(e *coretest.Event) string {
	if e.AEFID == "" {
		return "no aefId: at every AEF"
	}
	return "aefId " + e.AEFID
}

func purpose(e *coretest.Event) string {
	switch e.Operation {
	case coretest.OpPutContext:
		return "puts its security context"
	case coretest.OpToken:
		return "asks for an access token"
	case coretest.OpGetContext:
		return "reads the security context"
	case coretest.OpGetPolicies:
		return "reads the access control policy"
	case coretest.OpSubscribe:
		return "subscribes to events"
	case coretest.OpNotifyEvent:
		return tells(e)
	default:
		return e.Method + " " + path(e.URL)
	}
}

// tells says what an event is about. Its address is a secret, for whoever knows
// it can send hints.
func tells(e *coretest.Event) string {
	var n coretest.EventNotification
	err := e.Decode(&n)
	if err != nil {
		return "sends what is no event"
	}
	return e.Method + " of the event " + n.Events
}

// path leaves out the host: whom a message goes to is said in words.
func path(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Path
}

// short leaves out the role in front of a name.
func short(party string) string {
	for _, role := range []string{coretest.RoleAEF, coretest.RoleInvoker} {
		party = strings.TrimPrefix(party, role+" ")
	}
	return party
}
