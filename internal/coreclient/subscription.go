package coreclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	opSubscribe   = "subscribe at the core"
	opRenew       = "renew the subscription at the core"
	opUnsubscribe = "delete the subscription at the core"
)

// subscriptionFeatures is sent with every subscription: bit 3, Enhanced_event_report
// (TS 29.222 8.3.6), without which no event says whom it is about. Some cores refuse a
// subscription without supportedFeatures.
const subscriptionFeatures = "4"

// Subscription is what the core is asked to announce, and where (EventSubscription,
// TS 29.222 8.3.4.2.2). It has no filters: cores refuse them for
// API_INVOKER_AUTHORIZATION_REVOKED.
type Subscription struct {
	// Events are names of CAPIFEvent (TS 29.222 8.3.4.3.3), at least one.
	Events []string
	// Destination is the URL that receives the notifications. Its last segment may be a
	// secret: it is in no error.
	Destination string
}

type eventSubscription struct {
	Events            []string `json:"events"`
	Destination       string   `json:"notificationDestination"`
	SupportedFeatures string   `json:"supportedFeatures"`
}

// Subscribe makes a subscription (POST …/{subscriberId}/subscriptions, TS 29.222
// 8.3.2.2.3.1) and returns its id: the last path segment of Location, of which the rest is
// ignored, for cores put the wrong host, port and path there. Every error is an *Error; where
// its class is Unknown the core may have made the subscription all the same.
func (c *Core) Subscribe(ctx context.Context, subscriberID string, s Subscription) (string, error) {
	a, err := c.sendSubscription(ctx, opSubscribe, http.MethodPost, subscriberID, "", s)
	if err != nil {
		return "", err
	}
	id, err := lastSegment(a.header.Get("Location"))
	if err != nil {
		return "", &Error{Op: opSubscribe, Status: a.status, Err: err}
	}
	return id, nil
}

// Renew replaces a subscription by its id (PUT, TS 29.222 8.3.2.3.3.2, from Release 18 on),
// which also shows that it stands. Its errors are those of Subscribe: NotFound is the answer of a core that
// has forgotten the subscription, and of one that knows no PUT.
func (c *Core) Renew(ctx context.Context, subscriberID, id string, s Subscription) error {
	if err := checkID("subscription", id); err != nil {
		return invalid(opRenew, err)
	}
	_, err := c.sendSubscription(ctx, opRenew, http.MethodPut, subscriberID, id, s)
	return err
}

// Unsubscribe deletes a subscription (DELETE, TS 29.222 8.3.2.3.3.1) and reports whether
// there was one: a 404 is no error.
func (c *Core) Unsubscribe(ctx context.Context, subscriberID, id string) (bool, error) {
	if err := errors.Join(checkID("subscriber", subscriberID), checkID("subscription", id)); err != nil {
		return false, invalid(opUnsubscribe, err)
	}
	a, err := c.exchange(ctx, request{op: opUnsubscribe, method: http.MethodDelete, url: c.subscriptions(subscriberID, id)})
	switch {
	case err != nil:
		return false, err
	case a.status == http.StatusNotFound:
		return false, nil
	case a.status/100 != 2:
		return false, a.failure(opUnsubscribe)
	}
	return true, nil
}

func (c *Core) sendSubscription(ctx context.Context, op, method, subscriberID, id string, s Subscription) (answer, error) {
	if err := checkID("subscriber", subscriberID); err != nil {
		return answer{}, invalid(op, err)
	}
	if len(s.Events) == 0 || s.Destination == "" {
		return answer{}, invalid(op, errors.New("a subscription needs events and a destination"))
	}
	body, err := json.Marshal(eventSubscription{s.Events, s.Destination, subscriptionFeatures})
	if err != nil {
		return answer{}, invalid(op, err)
	}
	a, err := c.exchange(ctx, request{op: op, method: method, url: c.subscriptions(subscriberID, id), body: body})
	if err != nil {
		return answer{}, err
	}
	if a.status/100 != 2 {
		a.body = withoutSecret(a.body, s.Destination)
		return answer{}, a.failure(op)
	}
	return a, nil
}

// subscriptions is the URL of a subscriber's subscriptions, or of one of them.
func (c *Core) subscriptions(subscriberID, id string) string {
	u := c.base.JoinPath("capif-events/v1").String() + "/" + url.PathEscape(subscriberID) + "/subscriptions"
	if id != "" {
		u += "/" + url.PathEscape(id)
	}
	return u
}

// lastSegment is the id in a Location.
func lastSegment(location string) (string, error) {
	if location == "" {
		return "", errors.New("answer has no Location, which holds the id of the subscription")
	}
	u, err := url.Parse(location)
	if err != nil {
		return "", errors.New("the Location, which holds the id of the subscription, is no URL")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	id, err := url.PathUnescape(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return "", errors.New("the Location, which holds the id of the subscription, is no URL")
	}
	if err := checkID("subscription", id); err != nil {
		return "", fmt.Errorf("id in the Location: %w", err)
	}
	return id, nil
}

// minSecret is the length from which on the last segment of a destination may be a secret: a shorter one
// could be guessed, and would be found in any text.
const minSecret = 16

// withoutSecret takes the end of a destination out of a body that quotes it: the reason in it is shown to operators.
func withoutSecret(body []byte, destination string) []byte {
	secret := destination[strings.LastIndexByte(destination, '/')+1:]
	if len(secret) < minSecret {
		return body
	}
	return bytes.ReplaceAll(body, []byte(secret), []byte("[redacted]"))
}
