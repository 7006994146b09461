// Package corecallback receives what a CAPIF core function says to an API
// exposing function (AEF): the AEF_Security_API (TS 29.222 clauses 6.2 and 9.1)
// and the notifications of the CAPIF_Events_API (clauses 5.4 and 8.3). It needs
// nothing but net/http and serves any AEF written in Go.
//
// A [Handler] authenticates the core, decodes the message and tells a
// [Consumer] what it means. It keeps no state of its own.
//
// # Paths
//
//	POST      /aef-security/v1/revoke-authorization  200, after Consumer.Deny
//	POST      /aef-security/v1/check-authentication  200, only with Options.CheckAuthentication
//	POST PUT  Options.EventsPath                     204
//	POST PUT  Options.HintPath                       204
//
// The handler is terminal: any other path is answered 404, for a core must not
// mistake the empty 200 of some other handler for a revocation. A core that was
// given an apiRoot with a path is served through [http.StripPrefix].
//
// # Guarantees
//
//   - A 2xx means that the Consumer has accepted everything in the message;
//     for a deny, that it is durable. Anything else means: not all of it. A
//     message is decoded and checked as a whole before the Consumer hears of any
//     part of it. A core may repeat a message; each call of a Consumer is
//     idempotent.
//   - Only the core can deny. On revoke-authorization and on EventsPath the
//     client certificate must chain to Options.CoreCA, be meant for client
//     authentication, be valid now, and carry one of Options.Identities. The
//     handler checks this itself on every request, also on resumed TLS sessions;
//     it trusts neither what the TLS server verified nor any header.
//   - On HintPath nobody is authenticated, so nothing that arrives there can do
//     more than [Consumer.Hint]: start a read over the AEF's own connection.
//   - Without any way to authenticate, [New] fails.
//   - Bodies are bounded in size and in time. No token and no hint path is
//     logged, nor put into an answer.
//   - A client that goes away, or a server that reloads, does not cancel what
//     the Consumer has begun.
//
// # What is tolerated, and what is not
//
// One codec serves Releases 15 to 19. Members may be spelled as the standard
// has them or in snake_case; unknown members, causes and events are tolerated;
// null is the same as missing; events may be a string or a list. A member that
// is given twice with different values, or has the wrong type, is refused, for
// ignoring apiIds, aefId or accessToken would widen a revocation. What the
// standard requires is required.
//
// # What an event means
//
//	API_INVOKER_AUTHORIZATION_REVOKED  apiInvokerIds: Deny for the apiIds, for all APIs if there are none
//	API_INVOKER_OFFBOARDED             apiInvokerIds: Gone
//	API_INVOKER_UPDATED                apiInvokerIds: Hint for them
//	ACCESS_CONTROL_POLICY_UPDATE       PolicyChanged, then Hint for the invokers it lists
//	ACCESS_CONTROL_POLICY_UNAVAILABLE  PolicyChanged, then Hint
//	SERVICE_API_UNAVAILABLE            ServiceUnavailable
//
// Without the names of invokers the first five are a Hint for all: up to Release 19.5 the
// standard has no names there, and cores leave them out. Such an event never
// means "revoke all". Other events are answered 204, counted and left alone.
package corecallback
