// Package revocation holds what is denied here and why, durably.
//
// # Model
//
// A pair is (apiInvokerId, aefId, apiId). A [Claim] is one durable reason to
// deny: for a pair, for all APIs of an API invoker, or for one token on a pair.
// A call is denied while at least one claim covers it. A [Revocation] is the
// record of one trigger towards the CAPIF core function: what was asked, by
// whom and why, what the core answered. A revocation is about the core, a
// claim is about calls here; claims of different origin never overwrite one
// another.
//
// # Guarantees
//
// The [Ledger] is the only truth. One writer orders every change, on disk
// (bbolt) and in memory, and recognises repeats in that order.
//
//   - Deny: the claim enters the in-memory index, the epoch is raised, the
//     file is synced, the call returns nil. A call that starts after that is
//     refused, also after a kill -9.
//   - While several changes at a time keep coming, they share a sync and wait for
//     one another, at most 5 ms. What denies is in force before it waits; a lift
//     is in force once it is durable. A change that comes 5 ms after the last was
//     acknowledged, or later, waits for nobody.
//   - Lift: the file is synced, the index forgets what is older than the lift,
//     the epoch is raised, the call returns nil.
//   - If the disk fails, what was denied stays denied in memory, the call
//     returns an error that wraps [ErrNotDurable], and nothing more is
//     acknowledged until the file has been reopened, checked and has first
//     received what only memory had. A lift that was answered with an error
//     has not happened, whatever reached the disk: it is taken back then, at
//     the latest by Close. Only where the process is killed before that, the
//     file decides.
//   - A file in which a claim or a pending revocation is damaged or missing is
//     refused when it is opened; a sum over all of them is kept for that. A
//     damaged context counts as unknown, and a damaged revocation that is no
//     longer pending is an error to those who ask for it, to nobody else.
//   - A [Count] of calls that was acknowledged is on disk. A lift begins those
//     anew that were used up, in its own transaction.
//
// Lookups ([Ledger.Covering]) read memory only, take no lock that all calls
// share, and stay correct after Close.
package revocation
