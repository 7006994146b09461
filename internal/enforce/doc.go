// Package enforce decides one call: may this token call this route now?
//
// # The decision
//
// In order, the first that does not hold answers:
//
//	one Authorization header with one bearer token     [Bearer]
//	the deny cache knows the token: exp, nbf, verdict   (else the rest)
//	the token verifies and is valid now                 Verifier
//	its scope names this route's aefId and apiName
//	no claim covers the call                            Claims
//	the security context lists the pair                 Contexts
//
// # Guarantees
//
// A verdict comes from the cache only if it is current: the epoch that covers
// all it rests on was read before the lookups and has not changed since. So a
// call that starts after a deny was acknowledged is refused, whatever the
// cache did. Anything unknown denies: a ledger that is not open and keys that
// are missing answer [NotReady] and [KeysMissing], never [Allowed].
//
// Where a call waits for the core, the claims are looked up again afterwards, and
// what is not settled is not cached.
//
// The package does no I/O of its own and imports neither Caddy nor net/http.
package enforce
