package coretest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
)

// occasionKind is what happened at the core; a dialect makes events of it.
type occasionKind int

const (
	authorizationRevoked occasionKind = iota
	contextCreated
	contextDeleted
	invokerOffboarded
	policyChanged
)

// occasion is one happening of which subscribers may be told.
type occasion struct {
	kind      occasionKind
	invokerID string
	apiIDs    []string // as the request named them
	pairs     []pair   // what is concerned: removed or created
	told      []pair   // strict: which AEFs may hear of a revocation, and about what
	policies  []APIInvokerPolicy
}

// subscribe creates an event subscription (TS 29.222 8.3.2.2.3.1).
func (c *Core) subscribe(rq *request) reply {
	sub, refusal := c.readSubscription(rq)
	if refusal != nil {
		return *refusal
	}
	c.mu.Lock()
	id := c.addSubscription(rq.st, rq.id, sub)
	c.mu.Unlock()
	rep := jsonReply(http.StatusCreated, sub)
	rep.header.Set("Location", c.dialect.location(c.url, rq.id, id))
	rep.note = fmt.Sprintf("subscription %s of %s", id, rq.id)
	rep.after = c.testMessage(rq.id, id, sub)
	return rep
}

// resubscribe replaces one (Release 18).
func (c *Core) resubscribe(rq *request) reply {
	sub, refusal := c.readSubscription(rq)
	if refusal != nil {
		return *refusal
	}
	id := rq.http.PathValue("sub")
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := rq.st.subscriptions[id]
	if !ok || old.subscriberID != rq.id {
		return c.dialect.fail(http.StatusNotFound, "no such subscription")
	}
	rq.st.subscriptions[id] = subscription{id: id, subscriberID: rq.id, EventSubscription: sub}
	rep := jsonReply(http.StatusOK, sub)
	rep.note = fmt.Sprintf("subscription %s of %s replaced", id, rq.id)
	rep.after = c.testMessage(rq.id, id, sub)
	return rep
}

// unsubscribe deletes one (TS 29.222 8.3.2.3.3.1).
func (c *Core) unsubscribe(rq *request) reply {
	if refusal := c.admitSubscriber(rq); refusal != nil {
		return *refusal
	}
	id := rq.http.PathValue("sub")
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := rq.st.subscriptions[id]
	if !ok || old.subscriberID != rq.id {
		return c.dialect.fail(http.StatusNotFound, "no such subscription")
	}
	delete(rq.st.subscriptions, id)
	rep := noContent()
	rep.note = fmt.Sprintf("subscription %s of %s deleted", id, rq.id)
	return rep
}

func (c *Core) admitSubscriber(rq *request) *reply {
	ownID := ""
	if c.dialect.bindsSubscriber {
		ownID = rq.id
	}
	return c.admit(rq, RoleAEF, ownID)
}

func (c *Core) readSubscription(rq *request) (EventSubscription, *reply) {
	var sub EventSubscription
	if refusal := c.admitSubscriber(rq); refusal != nil {
		return sub, refusal
	}
	if err := json.Unmarshal(rq.body, &sub); err != nil {
		refusal := c.dialect.fail(http.StatusBadRequest, "the body is not an EventSubscription")
		return sub, &refusal
	}
	if invalid := c.invalidSubscription(sub); len(invalid) > 0 {
		refusal := c.dialect.fail(http.StatusBadRequest, "the subscription is refused", invalid...)
		return sub, &refusal
	}
	return sub, nil
}

func (c *Core) invalidSubscription(sub EventSubscription) []InvalidParam {
	var bad []InvalidParam
	if len(sub.Events) == 0 {
		bad = append(bad, InvalidParam{"/events", "must hold at least one event"})
	}
	if sub.NotificationDestination == "" {
		bad = append(bad, InvalidParam{"/notificationDestination", "must be set"})
	}
	if sub.SupportedFeatures == "" && c.dialect.needsFeatures {
		bad = append(bad, InvalidParam{"/supportedFeatures", "must be set"})
	}
	for i, event := range sub.Events {
		if c.opts.KnownEvents != nil && !slices.Contains(c.opts.KnownEvents, event) {
			bad = append(bad, InvalidParam{fmt.Sprintf("/events/%d", i), "is not an event of this core"})
		}
		if event == EventRevoked && c.dialect.refusesRevokedFilters && !sub.filterAt(i).empty() {
			bad = append(bad, InvalidParam{fmt.Sprintf("/eventFilters/%d", i), "this event takes no filter"})
		}
	}
	return bad
}

// filterAt is the filter of the n-th event, empty if there is none.
func (s EventSubscription) filterAt(n int) EventFilter {
	if n < len(s.EventFilters) {
		return s.EventFilters[n]
	}
	return EventFilter{}
}

func (f EventFilter) empty() bool {
	return len(f.APIIDs) == 0 && len(f.APIInvokerIDs) == 0 && len(f.AEFIDs) == 0
}

// testMessage honours requestTestNotification, a feature of its own (TS 29.222 7.6).
func (c *Core) testMessage(subscriberID, id string, sub EventSubscription) [][]message {
	if !sub.RequestTestNotification || !c.dialect.testsSubscriptions || !hasFeature(sub.SupportedFeatures, featureTestEvent) {
		return nil
	}
	body := mustJSON(map[string]string{"subscription": c.dialect.location(c.url, subscriberID, id)})
	return [][]message{{{
		operation: OpNotifyTest, to: RoleAEF + " " + subscriberID, method: http.MethodPost,
		url: sub.NotificationDestination, body: body, mutual: c.dialect.authenticatesItself, aefID: subscriberID,
	}}}
}

// eventGroups needs c.mu. It is one group of messages for each subscriber who hears of the occasion, or a
// single one for all where one dead subscriber ends the events of everyone.
func (c *Core) eventGroups(st *store, o occasion) [][]message {
	turn := st.revokes
	if o.kind == authorizationRevoked {
		st.revokes++
	}
	var groups [][]message
	for _, id := range slices.Sorted(maps.Keys(st.subscriptions)) {
		sub := st.subscriptions[id]
		var group []message
		for _, n := range c.dialect.events(o, sub, turn) {
			at := slices.Index(sub.Events, n.Events)
			if at < 0 || c.dialect.honoursFilters && !sub.filterAt(at).passes(o) {
				continue
			}
			n.SubscriptionID = sub.id
			group = append(group, c.eventMessage(sub, n, o))
		}
		groups = append(groups, group)
	}
	if c.dialect.deadSubscriberEndsEvents {
		return [][]message{slices.Concat(groups...)}
	}
	return groups
}

func (f EventFilter) passes(o occasion) bool {
	about := o.apiIDs
	if len(about) == 0 {
		about = apiIDsOf(o.pairs)
	}
	wanted := func(apiID string) bool { return slices.Contains(f.APIIDs, apiID) }
	return (len(f.APIInvokerIDs) == 0 || slices.Contains(f.APIInvokerIDs, o.invokerID)) &&
		(len(f.APIIDs) == 0 || slices.ContainsFunc(about, wanted))
}

func (c *Core) eventMessage(sub subscription, n EventNotification, o occasion) message {
	method, body, chunked := c.dialect.encode(n)
	return message{
		operation: OpNotifyEvent, to: RoleAEF + " " + sub.subscriberID, method: method,
		url: sub.NotificationDestination, body: body, chunked: chunked, mutual: c.dialect.authenticatesItself,
		invokerID: o.invokerID, aefID: sub.subscriberID, apiIDs: o.apiIDs, cause: n.Events,
	}
}

// tell sends the events of an occasion that no request caused, on both listeners' behalf.
func (c *Core) tell(o occasion) {
	type batch struct {
		st     *store
		groups [][]message
	}
	var batches []batch
	c.mu.Lock()
	for _, st := range c.stores() {
		batches = append(batches, batch{st, c.eventGroups(st, o)})
	}
	c.mu.Unlock()
	for _, b := range batches {
		for _, group := range c.enlist(b.groups) {
			go c.sendGroup(b.st, group) // ends with its last message or c.ctx; Close waits for c.messages
		}
	}
}

// SendEvent sends an event to each subscriber who named it, encoded as the dialect does: for events that
// no other call causes, and for repeats.
func (c *Core) SendEvent(event string, detail *EventDetail) {
	type delivery struct {
		st    *store
		group []message
	}
	var all []delivery
	c.mu.Lock()
	for _, st := range c.stores() {
		for _, id := range slices.Sorted(maps.Keys(st.subscriptions)) {
			sub := st.subscriptions[id]
			if slices.Contains(sub.Events, event) {
				n := EventNotification{SubscriptionID: sub.id, Events: event, EventDetail: detail}
				all = append(all, delivery{st, []message{c.eventMessage(sub, n, occasion{})}})
			}
		}
	}
	c.mu.Unlock()
	for _, d := range all {
		for _, group := range c.enlist([][]message{d.group}) {
			go c.sendGroup(d.st, group) // as in tell
		}
	}
}

// SetPolicies sets the access control policies of an API at an AEF and tells the subscribers.
func (c *Core) SetPolicies(aefID, apiID string, policies ...APIInvokerPolicy) error {
	c.mu.Lock()
	exposed := c.reg.exposes(aefID, apiID)
	if exposed {
		c.reg.policies[pair{aefID, apiID}] = slices.Clone(policies)
	}
	c.mu.Unlock()
	if !exposed {
		return fmt.Errorf("set policies: API %q is not exposed by AEF %q: call PublishAPI first", apiID, aefID)
	}
	c.tell(occasion{kind: policyChanged, pairs: []pair{{aefID, apiID}}, apiIDs: []string{apiID}, policies: policies})
	return nil
}

// getPolicies is how an AEF reads them (TS 29.222 8.6.2.2.3.1).
func (c *Core) getPolicies(rq *request) reply {
	if c.dialect.withoutPolicies {
		return c.dialect.noPolicies()
	}
	if refusal := c.admit(rq, RoleAEF, ""); refusal != nil {
		return *refusal
	}
	query := rq.http.URL.Query()
	aefID := query.Get("aef-id")
	if aefID == "" {
		return c.dialect.fail(http.StatusBadRequest, "aef-id is required", InvalidParam{"aef-id", "must be set"})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reg.exposes(aefID, rq.id) {
		return c.dialect.fail(http.StatusNotFound, "the API is not exposed by this AEF")
	}
	list := AccessControlPolicyList{APIInvokerPolicies: []APIInvokerPolicy{}}
	for _, p := range c.reg.policies[pair{aefID, rq.id}] {
		if only := query.Get("api-invoker-id"); only == "" || only == p.APIInvokerID {
			list.APIInvokerPolicies = append(list.APIInvokerPolicies, p)
		}
	}
	if len(list.APIInvokerPolicies) == 0 && c.dialect.noPolicies != nil {
		return c.dialect.noPolicies()
	}
	return jsonReply(http.StatusOK, list)
}

// standardLocation is the URI of a subscription as TS 29.222 7.5 builds it.
func standardLocation(coreURL, subscriberID, id string) string {
	return coreURL + "/capif-events/v1/" + url.PathEscape(subscriberID) + "/subscriptions/" + id
}
