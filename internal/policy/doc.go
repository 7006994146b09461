// Package policy holds API invokers to the access control policy of a service
// API (CAPIF_Access_Control_Policy, TS 29.222 8.6; TS 23.222 8.12): how many
// calls in all, how many in a second, and when.
//
// # Semantics
//
// A policy belongs to a pair of aefId and apiId and says something for each API
// invoker; what it does not say is not limited. It comes from the configuration
// or from the core. The core's is read at the start, whenever the core hints
// at a change, and on the reconcile timer. An event of the core is only a hint,
// with its list or without: the list has no aefId, real cores put only the API
// invoker into it that changed, and it can be older than what was read.
//
//   - allowedInvocationTimeRangeList: a call passes from startTime on and before
//     stopTime, in any of the ranges. An open end and an empty list limit nothing.
//   - allowedInvocationsPerSecond: a token bucket (golang.org/x/time/rate) of
//     that rate that holds one second's worth.
//   - allowedTotalInvocations: a count of the calls that were passed on. 0 allows
//     none. Nothing but an operator's lift begins a count anew: the core may raise
//     the total, and the count goes on. So an API invoker cannot reset its count
//     by deleting its security context and putting it again.
//
// They are checked in this order, and a call that one refuses is not counted.
// The first call over the total asks, once until the lift, for a revocation
// with cause OVERLIMIT_USAGE ([Trigger]); rate and time only refuse. A lift
// of what was used up begins the count anew, in the same transaction.
//
// # Guarantees
//
//   - Never more calls than the total, also over a kill -9: a call passes only on
//     what the ledger has as reserved. Reserved are at most [Block] calls ahead
//     (a twentieth of the total, 1 to 10,000), and so many a crash loses at most, for
//     each API invoker and API. A stop in good order loses none.
//   - A call within what is reserved does no I/O, waits for nobody and allocates
//     nothing. The next block is reserved in the background at half of the last.
//     No lock is shared by all calls: one API invoker's calls to one API share a
//     rate limiter, nothing else.
//   - If the ledger cannot reserve, the calls of a policy with a total are refused
//     once the block is used up: [enforce.PolicyUnavailable].
//   - Until a policy of the core was read for the first time, a call waits up
//     to a second for that, and then passes without limit, unless the route requires
//     the policy. Afterwards a core that cannot be read changes nothing. A core's
//     404 means that there is no policy; one that is not in the core's shape, as
//     from a proxy, does so only while none was ever read.
//
// Rates are not durable: a restart fills the buckets. An account (some 300 bytes)
// is kept for each API invoker and API that called since the start.
package policy
