// Package subscription keeps one event subscription alive at the CAPIF core
// function (CAPIF_Events_API, TS 29.222 8.3).
//
// # When the core is asked
//
// At the start, when the settings change, when somebody says [Keeper.Poke]
// (the core was unreachable, an operator asks), and every ten minutes. Between
// two rounds lies at least a second. A round
//
//   - renews the subscription by its id (PUT), which shows that it stands;
//   - makes a new one where there is none, where the destination or the events
//     have changed, or where the core has forgotten it or knows no PUT. The old
//     one is deleted only after the new one stands;
//   - finds out, where the core refuses the list with 400, which events it does
//     not know, and subscribes to the rest (accept.go).
//
// What fails is tried again with back-off, by itself never sooner than the core
// asked.
//
// # Guarantees
//
//   - The id is durable: neither a reload nor a restart makes a new
//     subscription. [Keeper.Stop] deletes none: what the core announces during
//     a restart is lost anyway, but a core without our subscription would say
//     nothing in the time between our start and the first round either.
//   - After a time in which the core may have had no subscription of ours,
//     Settings.Gap is called once one stands: what was announced meanwhile was
//     lost.
//   - The destination is never logged or stored, only a digest of it: its path
//     may be a secret.
//
// # What it does not do
//
// The API has no operation that lists subscriptions. One that the core made
// without our seeing the answer, or before a ledger was lost, stays there: it
// brings the same notifications twice, which changes nothing.
package subscription
