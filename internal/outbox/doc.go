// Package outbox carries accepted triggers to the CAPIF core function until
// the core has decided or an operator has lifted them (TS 23.222 8.23.3 steps
// 2 to 4).
//
// # One exchange
//
//	read the context   not listed -> revoked if it was sent before,
//	                   else no_authorization_found
//	note durably       listed, sent
//	POST …/delete      one apiId each, as the core's profile says
//	read again         gone -> revoked; still listed -> once more, then
//	                   unconfirmed
//
// A 2xx proves nothing with real cores, so the read decides. An answer that
// says nothing about the invoker (401, 403, 429, 5xx, none at all) leaves the
// revocation pending, and so does an entry for all APIs when no route tells an
// apiId to ask for: it is read again before anything is sent again, after a
// back-off that survives a restart. A 400 is final: rejected.
//
// # Guarantees
//
//   - At most one exchange for an API invoker at a time, since cores read,
//     modify and write; none waits behind one that is in back-off.
//   - A bounded number of exchanges at once.
//   - No request begins for a revocation that is no longer pending.
//   - Stop ends what is in flight by its context and waits for it; what was not
//     decided stays pending in the ledger.
package outbox
