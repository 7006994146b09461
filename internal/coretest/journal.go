package coretest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The operations by which requests, messages, counts and faults are named.
const (
	OpToken         = "token"          // POST securities/{id}/token
	OpPutContext    = "put_context"    // PUT trustedInvokers/{id}
	OpGetContext    = "get_context"    // GET trustedInvokers/{id}
	OpDeleteContext = "delete_context" // DELETE trustedInvokers/{id}
	OpUpdateContext = "update_context" // POST trustedInvokers/{id}/update
	OpRevoke        = "revoke"         // POST trustedInvokers/{id}/delete
	OpSubscribe     = "subscribe"      // POST subscriptions
	OpResubscribe   = "resubscribe"    // PUT subscriptions/{id}
	OpUnsubscribe   = "unsubscribe"    // DELETE subscriptions/{id}
	OpGetPolicies   = "get_policies"   // GET accessControlPolicyList/{id}
	OpJWKS          = "jwks"           // GET of the key set
	OpUnknown       = "unknown"        // anything else: 404

	OpCallAEF       = "revoke_authorization" // sent: POST aef-security/v1/revoke-authorization
	OpNotifyInvoker = "notify_invoker"       // sent: SecurityNotification
	OpNotifyEvent   = "notify_event"         // sent: EventNotification
	OpNotifyTest    = "notify_test"          // sent: TestNotification

	OpChange = "change" // PhaseState only
)

// Phase says what part of an exchange an Event tells of.
type Phase string

// The phases. A received request is seen as PhaseRequest, then PhaseState if it changed something, then
// PhaseAnswer; a sent message as PhaseRequest and PhaseAnswer.
const (
	PhaseRequest Phase = "request"
	PhaseState   Phase = "state"
	PhaseAnswer  Phase = "answer"
)

// Event is one thing that happened at the core. Body and Answer are whole and may hold tokens: show the
// other fields.
type Event struct {
	Time      time.Time
	Phase     Phase
	Sent      bool   // the core was the one who asked
	From, To  string // "core", "AEF aef-a", "API invoker inv-1", or an address
	Operation string
	Method    string
	URL       string // received: path and query; sent: whole
	InvokerID string
	AEFID     string
	APIIDs    []string
	Cause     string
	Header    http.Header // of the request
	Body      []byte      // of the request
	Status    int         // PhaseAnswer: 0 if no answer was given or came
	Answer    []byte      // PhaseAnswer: body of the answer
	Duration  time.Duration
	Note      string // PhaseState: what changed, in words
	Err       error  // sent: why no answer came
}

// Decode reads the JSON of the request into v.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Body, v); err != nil {
		return fmt.Errorf("decode %s body: %w", e.Operation, err)
	}
	return nil
}

// journalSize bounds the events kept; counts go on beyond it.
const journalSize = 20_000

// journal keeps what happened. Its mutex is held while Observe runs, which gives Observe its order.
type journal struct {
	observe func(Event)
	mu      sync.Mutex
	events  []Event
	dropped int // events left out at the front
	counts  map[string]int
	changed chan struct{} // closed at the next event; nil while nobody waits
}

func (j *journal) add(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Time = time.Now()
	if j.counts == nil {
		j.counts = map[string]int{}
	}
	if len(j.events) >= journalSize {
		half := journalSize / 2
		j.events = slices.Clone(j.events[half:])
		j.dropped += half
	}
	j.events = append(j.events, e)
	if e.Phase == PhaseAnswer {
		j.counts[e.Operation]++
	}
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
	if j.observe != nil {
		j.observe(e)
	}
}

func (j *journal) filter(keep func(Event) bool) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Event
	for _, e := range j.events {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

// Requests lists the received requests that have been answered (or cut off), oldest first: those of the
// operations named, or all. Of events, the last 10,000 are certain to be kept.
func (c *Core) Requests(operations ...string) []Event {
	return c.journal.filter(func(e Event) bool {
		return !e.Sent && e.Phase == PhaseAnswer && (len(operations) == 0 || slices.Contains(operations, e.Operation))
	})
}

// Sent lists the messages sent that were answered or failed, like Requests.
func (c *Core) Sent(operations ...string) []Event {
	return c.journal.filter(func(e Event) bool {
		return e.Sent && e.Phase == PhaseAnswer && (len(operations) == 0 || slices.Contains(operations, e.Operation))
	})
}

// Count is how many exchanges of the operation have ended since the start or the last ResetJournal.
func (c *Core) Count(operation string) int {
	c.journal.mu.Lock()
	defer c.journal.mu.Unlock()
	return c.journal.counts[operation]
}

// ResetJournal forgets requests, messages and counts.
func (c *Core) ResetJournal() {
	c.journal.mu.Lock()
	defer c.journal.mu.Unlock()
	c.journal.dropped += len(c.journal.events)
	c.journal.events = nil
	c.journal.counts = nil
}

// WaitFor waits for an event, past or coming, for which match is true, and returns the first of them.
// match runs while the journal is locked: it must not call the core.
func (c *Core) WaitFor(ctx context.Context, match func(Event) bool) (Event, error) {
	j := &c.journal
	next := 0 // counted from the very first event
	for {
		j.mu.Lock()
		next = max(next, j.dropped)
		for ; next < j.dropped+len(j.events); next++ {
			if e := j.events[next-j.dropped]; match(e) {
				j.mu.Unlock()
				return e, nil
			}
		}
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("wait for an event of the core: %w", ctx.Err())
		}
	}
}
