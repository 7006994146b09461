// Package reconcile keeps what the CAPIF core function says about the security
// contexts of API invokers (GET trustedInvokers, TS 29.222 5.6.2.4), and decides
// when to ask again.
//
// # When a context is read
//
//   - First sight: before the first allow of an invoker whose context was not
//     read within the reconcile interval.
//   - Due: after a hint, at the start, and at the end of a time in which the
//     core was unreachable. The next call of each invoker waits for a read begun
//     after the hint; the rest are read in the background, those seen last
//     first.
//   - Not listed: counts for five seconds, then the next call reads again, since
//     the invoker may create its context at any moment.
//   - Timer: all that were seen lately, once in each reconcile interval. One that
//     the timer gives up is read before its next allow, whatever is cached.
//   - Probe: somebody asks about a name that no token proves (probe.go). Such a
//     read is used once and remembered nowhere.
//
// # Guarantees
//
//   - When [Reconciler.Hint] has returned, no call that starts later is decided
//     by a read begun before the hint. If the call's own read fails, the call is
//     decided by what is known, its verdict is not to be cached, and the context
//     stays due: a forged hint cannot stop traffic.
//   - Before Start has read what is stored, nothing is known of anybody, and
//     every call that needs a context is refused.
//   - A word older than the one in force changes nothing, neither here nor in the
//     ledger: of an invoker that is evicted or offboarded meanwhile, it comes to
//     nothing.
//   - Eviction forgets permission. That a pair was listed once and no longer is
//     goes last, for no read brings it back.
//   - One read for an invoker at a time. Calls that may share one do. Reads in
//     the background never exceed the budget, and reads that a call waits for are
//     bounded in number.
//   - Only the core's word counts: 200 with a context, or a 404 in the core's own
//     shape that a witness supports (absence.go). Anything else leaves the state
//     as it is.
//   - A change for many at once is suspect: it is withheld until an operator
//     accepts it or a complete pass no longer shows it (mass.go). Meanwhile
//     no word of the core counts for claims.
package reconcile
