package coretest

import (
	"fmt"
	"net/http"
	"time"
)

// dialect is how one kind of core behaves. Everything in which cores differ is here; the rest of the
// package asks it and never asks for its name.
type dialect struct {
	name string

	// Tokens.
	algorithm          string
	tokenLifetime      time.Duration
	keyIDs             bool   // tokens carry kid
	signsWithServerKey bool   // with the private key of the TLS server certificate
	jwksPath           string // empty: no key set is served
	claims             func(coreURL, invokerID, scope string, serial int) map[string]any
	// grant judges a token request of which grant_type is known to be good.
	grant func(reg *registry, st *store, t tokenRequest) (tokenGrant, *reply)

	// Who may call.
	intermediateCA bool
	authenticates  bool // checks client certificates
	refusesBearer  bool // 401 for an Authorization header beside a certificate
	plainListener  bool // a second listener, plain HTTP, with a state of its own
	roleOf         func(caller) string
	bindsInvoker   bool // tokens only for the invoker in the certificate
	noCertificate  func() reply
	wrongRole      func(detail string) reply
	assignAEFID    func(name string) string

	// Errors in the dialect's shape.
	fail func(status int, detail string, invalid ...InvalidParam) reply

	// Security contexts.
	checksEntries     bool // a context may name only published APIs at known AEFs
	dropsEmptyContext bool // the context goes with its last entry
	knowsCause        func(string) bool
	refusesToken      bool // accessToken in an AEF's request: 400 (TS 23.222 8.23.2.1 NOTE 1)
	// remove is what a revoke by an AEF does to the entries. ok false: the core crashes.
	remove func(reg *registry, by string, entries []SecurityInformation, n SecurityNotification) (left []SecurityInformation, ok bool)
	// refusesNothingRevoked answers 404 to a revoke that matches no entry.
	refusesNothingRevoked bool
	// ownProviderOnly refuses an aefId that is not of the caller's provider with 403.
	ownProviderOnly bool

	// Access control policies: what is answered where an API has none; nil for an empty list.
	noPolicies func() reply
	// withoutPolicies has nothing under CAPIF_Access_Control_Policy: noPolicies answers all of it.
	withoutPolicies bool

	// Subscriptions.
	needsFeatures         bool // supportedFeatures must be there
	refusesRevokedFilters bool // no filter but {} on API_INVOKER_AUTHORIZATION_REVOKED
	bindsSubscriber       bool // subscriberId must be the caller's
	testsSubscriptions    bool // honours requestTestNotification
	honoursFilters        bool
	knownEvents           []string // nil: any
	location              func(coreURL, subscriberID, id string) string

	// Notifications.
	authenticatesItself      bool // presents its certificate to invokers and subscribers, too
	callsAEFs                bool // knows revoke-authorization
	notifiesInvoker          bool
	notifiesBeforeAnswer     bool // and answers 500 if the invoker cannot be reached
	deadSubscriberEndsEvents bool
	events                   func(o occasion, sub subscription, turn int) []EventNotification
	encode                   func(EventNotification) (method string, body []byte, chunked bool)
}

func dialectFor(name string) (*dialect, error) {
	switch name {
	case "", "strict":
		return strictDialect(), nil
	case "opencapif":
		return opencapifDialect(), nil
	case "oran":
		return oranDialect(), nil
	case "evolved":
		return evolvedDialect(), nil
	}
	return nil, fmt.Errorf("unknown dialect %q: use strict, opencapif, oran or evolved", name)
}

// Dialects lists the names that Options.Dialect takes.
func Dialects() []string { return []string{"strict", "opencapif", "oran", "evolved"} }

func anyCause(string) bool { return true }

func roleInCertificate(c caller) string { return c.role }

// postJSON is the encoding of the standard.
func postJSON(n EventNotification) (string, []byte, bool) {
	return http.MethodPost, mustJSON(n), false
}

// htmlForbidden is what the web server in front of EVOLVED and OpenCAPIF says without a certificate.
func htmlForbidden() reply {
	return reply{
		status: http.StatusForbidden, header: http.Header{"Content-Type": {"text/html"}},
		body: []byte("<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n</body>\r\n</html>\r\n"),
	}
}

// textUnauthorized is their answer to a wrong role: JSON that says it is text.
func textUnauthorized(detail string) reply {
	rep := jsonReply(http.StatusUnauthorized, ProblemDetails{
		Title: "Unauthorized", Status: http.StatusUnauthorized, Detail: detail, Cause: "User not authorized",
	})
	rep.header.Set("Content-Type", "text/plain; charset=utf-8")
	return rep
}
