package caddyplugin

import (
	"errors"
	"net/url"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Subscribe is the event subscription at the core (TS 29.222 8.3).
type Subscribe struct {
	// Destination is the https URL at which the core reaches a capif_callback
	// of this AEF: its host with events_path, or with hint_path for a core that
	// cannot authenticate. With the hint path it is a secret, so take it from the
	// environment, as in `https://aef.example/capif/hints/{env.CAPIF_HINT}`.
	// Required.
	Destination string `json:"destination,omitempty"`

	// SubscriberID is the subscriberId. Some cores accept only the one in the
	// client certificate. Default: aef_id.
	SubscriberID string `json:"subscriber_id,omitempty"`
}

// subscribeSettings are a Subscribe with its placeholders replaced.
type subscribeSettings struct{ destination, subscriber string }

// settings resolves and checks. No error quotes the destination.
func (s *Subscribe) settings(re *resolver, aefID string) (subscribeSettings, error) {
	if s == nil {
		return subscribeSettings{}, nil
	}
	out := subscribeSettings{
		destination: re.text("subscribe destination", s.Destination),
		subscriber:  re.text("subscriber_id", s.SubscriberID),
	}
	if out.subscriber == "" {
		out.subscriber = aefID
	}
	if out.destination == "" {
		return subscribeSettings{}, errors.New("subscribe has no destination: give the https URL of this AEF's events_path or hint_path")
	}
	u, err := url.Parse(out.destination)
	switch {
	case err != nil:
		return subscribeSettings{}, errors.New("subscribe destination is no URL; give https://host[:port] and the events_path or hint_path of capif_callback")
	case u.Scheme != "https" || u.Hostname() == "":
		return subscribeSettings{}, errors.New("subscribe destination is not https with a host; give https://host[:port] and the events_path or hint_path of capif_callback")
	case u.Path == "" || u.Path == "/":
		return subscribeSettings{}, errors.New("subscribe destination has no path; end it with the events_path or hint_path of capif_callback")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return subscribeSettings{}, errors.New("subscribe destination has a user name, a query or a fragment; capif_callback knows its paths only without")
	}
	return out, nil
}

func (s *Subscribe) unmarshal(d *caddyfile.Dispenser) error {
	err := one(d, &s.Destination)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		if word != "subscriber_id" {
			return unrecognized(d, "subscriber_id")
		}
		return one(d, &s.SubscriberID)
	})
}
