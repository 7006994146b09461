// Package autotrigger stands between everything that triggers revocations by
// itself (a policy whose limit is reached, a capif_trigger in a route) and the
// ledger, so that no mistake and no storm of calls becomes a storm of
// revocations.
//
// What a [Guard] guarantees:
//
//   - Once for a pair until lifted. While a claim covers the pair, or its
//     trigger is on its way to the ledger, a request answers [Already] and
//     costs a look into memory.
//   - One budget for all automatic triggers of the process: in no 60 seconds
//     are more than [Settings.PerMinute] accepted, whoever asks. What comes
//     beyond it is refused and raises an alarm, which is cleared when a whole
//     minute has gone by without such a refusal. The budget buys an operator
//     time: it does not end a wrong rule, it makes it slow.
//   - Only a call whose API invoker is bound to its client certificate
//     triggers, unless the operator said otherwise: on real cores an invoker
//     can get a token in another's name, and must not get that one revoked.
//   - An accepted request takes the way of an operator's trigger: the same
//     records, claims and exchange with the core. It is durable when the
//     worker has handed it to the ledger ([Guard.RequestAndWait] waits for
//     that), not when [Guard.Request] returns. One that the ledger did not take
//     is counted as [Failed] and raises an alarm; it is not kept, for the next
//     call of that invoker asks again.
//   - Memory is bounded: a queue of [QueueSize], the accepted requests of one
//     minute, and [rememberedDry] pairs of dry runs.
//
// A guard outlives reloads with the state it belongs to, so a reload does not
// refill the budget; a restart does.
package autotrigger
