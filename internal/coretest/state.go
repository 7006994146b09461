package coretest

import (
	"fmt"
	"maps"
	"slices"
)

// AEF is an API exposing function as the core knows it.
type AEF struct {
	ID         string
	ProviderID string
	// CallbackURL is the apiRoot of its AEF_Security_API, without /aef-security/v1. Empty: never called.
	CallbackURL string
}

// API is a published service API.
type API struct {
	ID     string
	Name   string
	AEFIDs []string // the AEFs that expose it
}

// pair is one API at one AEF.
type pair struct{ aefID, apiID string }

// registry is what was onboarded. It is one for both listeners.
type registry struct {
	providers  map[string]bool
	aefs       map[string]AEF
	apis       map[string]API
	invokers   map[string]bool
	discovered map[string]map[pair]bool // by API invoker
	policies   map[pair][]APIInvokerPolicy
}

// store is what the HTTP operations of one listener create. Its values are replaced, never changed.
type store struct {
	contexts      map[string]ServiceSecurity
	subscriptions map[string]subscription
	eventsDead    bool // evolved: a subscriber was dead, nobody is told of events any more
	revokes       int  // opencapif: alternates the order of its two events
}

type subscription struct {
	id           string
	subscriberID string
	EventSubscription
}

func newRegistry() registry {
	return registry{
		providers:  map[string]bool{},
		aefs:       map[string]AEF{},
		apis:       map[string]API{},
		invokers:   map[string]bool{},
		discovered: map[string]map[pair]bool{},
		policies:   map[pair][]APIInvokerPolicy{},
	}
}

// stores are the states of the listeners; needs c.mu.
func (c *Core) stores() []*store {
	if c.plain == nil {
		return []*store{c.main}
	}
	return []*store{c.main, c.plain}
}

func newStore() *store {
	return &store{contexts: map[string]ServiceSecurity{}, subscriptions: map[string]subscription{}}
}

// AddProvider onboards an API provider.
func (c *Core) AddProvider(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reg.providers[id] = true
}

// AddAEF onboards an AEF, or changes the address of a known one.
func (c *Core) AddAEF(aef AEF) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if aef.ID == "" {
		return fmt.Errorf("add AEF: ID is empty")
	}
	if !c.reg.providers[aef.ProviderID] {
		return fmt.Errorf("add AEF %s: unknown provider %q: call AddProvider first", aef.ID, aef.ProviderID)
	}
	c.reg.aefs[aef.ID] = aef
	return nil
}

// PublishAPI publishes a service API, or replaces it.
func (c *Core) PublishAPI(api API) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if api.ID == "" || api.Name == "" {
		return fmt.Errorf("publish API: ID and Name must be set: got %q, %q", api.ID, api.Name)
	}
	for _, id := range api.AEFIDs {
		if _, ok := c.reg.aefs[id]; !ok {
			return fmt.Errorf("publish API %s: unknown AEF %q: call AddAEF first", api.ID, id)
		}
	}
	api.AEFIDs = slices.Clone(api.AEFIDs)
	c.reg.apis[api.ID] = api
	return nil
}

// AddInvoker onboards an API invoker, or onboards it again.
func (c *Core) AddInvoker(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" {
		return fmt.Errorf("add API invoker: id is empty")
	}
	c.reg.invokers[id] = true
	return nil
}

// Discover records that an API invoker has found an API at the AEFs named.
func (c *Core) Discover(invokerID, apiID string, aefIDs ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reg.invokers[invokerID] {
		return fmt.Errorf("discover: unknown API invoker %q: call AddInvoker first", invokerID)
	}
	for _, aefID := range aefIDs {
		if !c.reg.exposes(aefID, apiID) {
			return fmt.Errorf("discover: API %q is not exposed by AEF %q: call PublishAPI first", apiID, aefID)
		}
	}
	if c.reg.discovered[invokerID] == nil {
		c.reg.discovered[invokerID] = map[pair]bool{}
	}
	for _, aefID := range aefIDs {
		c.reg.discovered[invokerID][pair{aefID, apiID}] = true
	}
	return nil
}

// Authorize adds entries to the context behind URL, as if the API invoker had been authorized (again).
// Where there is no context it makes one, with notificationDestination.
func (c *Core) Authorize(invokerID, notificationDestination string, entries ...SecurityInformation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reg.invokers[invokerID] {
		return fmt.Errorf("authorize: unknown API invoker %q: call AddInvoker first", invokerID)
	}
	sec, ok := c.main.contexts[invokerID]
	if !ok {
		sec = ServiceSecurity{NotificationDestination: notificationDestination}
	}
	info := slices.Clone(sec.SecurityInfo)
	for _, e := range entries {
		if !slices.ContainsFunc(info, func(x SecurityInformation) bool { return x.AEFID == e.AEFID && x.APIID == e.APIID }) {
			info = append(info, e)
		}
	}
	sec.SecurityInfo = selectMethods(info)
	c.main.contexts[invokerID] = sec
	return nil
}

// Context is the security context of an API invoker behind URL.
func (c *Core) Context(invokerID string) (ServiceSecurity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sec, ok := c.main.contexts[invokerID]
	return cloneContext(sec), ok
}

// Contexts are all security contexts behind URL, by API invoker.
func (c *Core) Contexts() map[string]ServiceSecurity { return c.contextsOf(c.main) }

// PlainContexts are all security contexts behind PlainURL, by API invoker.
func (c *Core) PlainContexts() map[string]ServiceSecurity {
	if c.plain == nil {
		return map[string]ServiceSecurity{}
	}
	return c.contextsOf(c.plain)
}

func (c *Core) contextsOf(st *store) map[string]ServiceSecurity {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]ServiceSecurity, len(st.contexts))
	for id, sec := range st.contexts {
		out[id] = cloneContext(sec)
	}
	return out
}

// Authorized is true if the context behind URL lists the API at the AEF, by name or by an entry for all.
func (c *Core) Authorized(invokerID, aefID, apiID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.main.contexts[invokerID].SecurityInfo, func(e SecurityInformation) bool {
		return e.AEFID == aefID && (e.APIID == apiID || e.APIID == "")
	})
}

// Subscriptions are the event subscriptions behind URL, by subscription id.
func (c *Core) Subscriptions() map[string]EventSubscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]EventSubscription, len(c.main.subscriptions))
	for id, sub := range c.main.subscriptions {
		out[id] = sub.EventSubscription
	}
	return out
}

// Subscribe makes an event subscription by Go call, without the checks of the dialect.
func (c *Core) Subscribe(subscriberID string, sub EventSubscription) (string, error) {
	if len(sub.Events) == 0 || sub.NotificationDestination == "" {
		return "", fmt.Errorf("subscribe %s: Events and NotificationDestination must be set", subscriberID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addSubscription(c.main, subscriberID, sub), nil
}

// addSubscription needs c.mu.
func (c *Core) addSubscription(st *store, subscriberID string, sub EventSubscription) string {
	c.serial++
	id := fmt.Sprintf("sub-%d", c.serial)
	st.subscriptions[id] = subscription{id: id, subscriberID: subscriberID, EventSubscription: sub}
	return id
}

// RestartEvents ends the silence into which evolved falls after a dead subscriber.
func (c *Core) RestartEvents() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main.eventsDead = false
}

// Snapshot is a copy of contexts and subscriptions, and of who is onboarded: a backup.
type Snapshot struct {
	invokers    map[string]bool
	main, plain *store
}

// Snapshot takes a backup.
func (c *Core) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &Snapshot{invokers: maps.Clone(c.reg.invokers), main: c.main.clone(), plain: c.plain.clone()}
}

// Restore puts a backup back, in silence.
func (c *Core) Restore(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reg.invokers = maps.Clone(s.invokers)
	c.main.set(s.main)
	c.plain.set(s.plain)
}

// Empty forgets all contexts and subscriptions, in silence, as a core restarted without its database.
// Who is onboarded stays known.
func (c *Core) Empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main.set(newStore())
	c.plain.set(newStore())
}

func (st *store) clone() *store {
	if st == nil {
		return nil
	}
	return &store{
		contexts: maps.Clone(st.contexts), subscriptions: maps.Clone(st.subscriptions),
		eventsDead: st.eventsDead, revokes: st.revokes,
	}
}

// set keeps the pointer: the listener's handler holds it.
func (st *store) set(from *store) {
	if st != nil {
		*st = *from.clone()
	}
}

func (r *registry) exposes(aefID, apiID string) bool {
	return slices.Contains(r.apis[apiID].AEFIDs, aefID)
}

// sameProvider is false for AEFs that are not known.
func (r *registry) sameProvider(aefID, other string) bool {
	a, ok := r.aefs[aefID]
	b, known := r.aefs[other]
	return ok && known && a.ProviderID == b.ProviderID
}

func cloneContext(sec ServiceSecurity) ServiceSecurity {
	sec.SecurityInfo = slices.Clone(sec.SecurityInfo)
	return sec
}

// selectMethods chooses the first preference of each entry that has no choice yet.
func selectMethods(info []SecurityInformation) []SecurityInformation {
	for i, e := range info {
		if e.SelSecurityMethod == "" && len(e.PrefSecurityMethods) > 0 {
			info[i].SelSecurityMethod = e.PrefSecurityMethods[0]
		}
	}
	return info
}
