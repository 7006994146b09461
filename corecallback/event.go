package corecallback

import (
	"context"
	"fmt"
	"slices"
)

// maxPairs bounds what one event can deny: the invokers times their APIs.
const maxPairs = 10_000

func knownEvent(event string) bool {
	switch event {
	case EventInvokerAuthorizationRevoked, EventInvokerOffboarded, EventInvokerUpdated,
		EventPolicyUpdate, EventPolicyUnavailable, EventServiceAPIUnavailable:
		return true
	}
	return false
}

// action is one call of a Consumer.
type action func(context.Context, Consumer) error

// interpret returns what an event notification of the authenticated core means,
// in order, with at most one Hint at the end. What it leaves alone is in ignored.
func interpret(n EventNotification) (actions []action, ignored []string, err error) { //nolint:nonamedreturns // three results want names
	invokers, apis := n.Detail.APIInvokerIDs, n.Detail.APIIDs
	hinting := EventNotification{Detail: n.Detail} // the events that ask for a read
	for _, event := range n.Events {
		switch event {
		case EventInvokerAuthorizationRevoked:
			if len(invokers) == 0 {
				hinting.Events = append(hinting.Events, event)
				continue
			}
			if len(invokers)*max(1, len(apis)) > maxPairs {
				reason := fmt.Sprintf("names more than %d pairs of API invoker and service API; send several events", maxPairs)
				return nil, nil, InvalidParam{Param: "/eventDetail", Reason: reason}
			}
			d := Deny{Invokers: invokers, APIIDs: apis, Event: event}
			actions = append(actions, func(ctx context.Context, c Consumer) error { return c.Deny(ctx, d) })
		case EventInvokerOffboarded:
			if len(invokers) == 0 {
				hinting.Events = append(hinting.Events, event)
				continue
			}
			actions = append(actions, func(ctx context.Context, c Consumer) error { return c.Gone(ctx, invokers) })
		case EventInvokerUpdated:
			hinting.Events = append(hinting.Events, event)
		case EventPolicyUpdate, EventPolicyUnavailable:
			p := policyOf(event, n.Detail)
			actions = append(actions, func(ctx context.Context, c Consumer) error { return c.PolicyChanged(ctx, p) })
			hinting.Events = append(hinting.Events, event)
		case EventServiceAPIUnavailable:
			actions = append(actions, func(ctx context.Context, c Consumer) error { return c.ServiceUnavailable(ctx, apis) })
		default:
			ignored = append(ignored, event)
		}
	}
	if len(hinting.Events) > 0 {
		h := Hint{Invokers: hintedInvokers(hinting), Authenticated: true, Event: hinting.Events[0]}
		actions = append(actions, func(ctx context.Context, c Consumer) error { return c.Hint(ctx, h) })
	}
	return actions, ignored, nil
}

// hintedInvokers returns whom to read again because of n, nil for all.
func hintedInvokers(n EventNotification) []string {
	var names []string
	for _, event := range n.Events {
		named := n.Detail.APIInvokerIDs
		if event == EventPolicyUpdate {
			named = policyOf(event, n.Detail).Invokers
		}
		// The list of an unavailable policy, if there is one, need not hold
		// the API invokers that lost it: only the detail itself names them.
		if len(named) == 0 {
			return nil
		}
		names = appendNew(names, named...)
	}
	return names
}

func policyOf(event string, detail EventDetail) Policy {
	p := Policy{
		Event:    event,
		APIIDs:   slices.Clone(detail.APIIDs),
		Invokers: slices.Clone(detail.APIInvokerIDs),
		List:     detail.AccCtrlPolList,
	}
	if p.List == nil {
		return p
	}
	p.APIIDs = appendNew(p.APIIDs, p.List.APIID)
	for _, policy := range p.List.Policies {
		p.Invokers = append(p.Invokers, policy.APIInvokerID)
	}
	slices.Sort(p.Invokers)
	p.Invokers = slices.Compact(p.Invokers)
	return p
}

// appendNew appends what is not there yet.
func appendNew(list []string, more ...string) []string {
	seen := make(map[string]bool, len(list)+len(more))
	for _, s := range list {
		seen[s] = true
	}
	for _, s := range more {
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}
