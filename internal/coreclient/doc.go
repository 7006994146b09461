// Package coreclient speaks to the CAPIF core function as an API exposing function (AEF) does: it reads
// the security context of an API invoker and asks the core to revoke one authorization
// (CAPIF_Security_API, TS 29.222 8.5); it subscribes to events (8.3) and reads access control policies
// (8.6).
//
// # What it guarantees
//
//   - One call makes one exchange. Nothing is repeated, not even after a lost connection: some cores
//     revoke a second API when the same request is sent twice, so only the caller, who can read the
//     context in between, may send again. (net/http replays a POST only if no byte of it was written.)
//   - The status code alone decides. Bodies of errors may be JSON, text, HTML or nothing; they only give
//     the reason shown to an operator, and whether a 404 is the core's own word (Error.InCoreShape).
//   - Every call ends within Settings.Timeout, redirects included, and reads a bounded answer.
//   - 307 and 308 are followed over https, for at most three hops, to the core's own host and port or to
//     Settings.RedirectHosts, with method and body kept and under the same trust anchors. Anything else
//     that redirects is an error.
//   - The AEF is known by its client certificate and by nothing else: no Authorization header is ever
//     sent, for cores refuse a request that carries both. HTTP_PROXY and its kin are not read: a proxy
//     would end the TLS connection on which both sides know one another, or could be set by accident.
//   - authenticationInfo and authorizationInfo are never kept, logged, or part of an error.
//
// A changed certificate, key or CA file is used from the next call on. A pair that cannot be used, such as
// a half-written one, leaves the last good one in place and is logged once for each change of the files.
//
// # What it does not do
//
// It does not retry, wait, limit the number of calls, or judge what an answer means for a claim: these are
// the jobs of the outbox and of reconcile. A 308 is followed anew each time and not remembered.
package coreclient
