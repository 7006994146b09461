// Package coretest is a CAPIF core function (3GPP TS 23.222, TS 29.222) for tests and for the quickstart.
//
// It is a real server: HTTPS with client certificates on 127.0.0.1, its own certificate authority, signed
// tokens, event subscriptions and outgoing notifications. What an operator would do by hand (onboarding
// providers, AEFs, service APIs and API invokers) is done by Go calls.
//
//	core, err := coretest.Start(coretest.Options{})
//	defer core.Close()
//	core.AddProvider("prov-1")
//	core.AddAEF(coretest.AEF{ID: "aef-a", ProviderID: "prov-1", CallbackURL: "https://127.0.0.1:8443"})
//	core.PublishAPI(coretest.API{ID: "8f36c0", Name: "location", AEFIDs: []string{"aef-a"}})
//	inv, err := core.NewInvoker("inv-1")               // certificate and notification endpoint included
//	core.Discover("inv-1", "8f36c0", "aef-a")
//	err = inv.PutContext(ctx, coretest.Entry("aef-a", "8f36c0"))
//	token, err := inv.Token(ctx, "3gpp#aef-a:location")
//
// # What it guarantees
//
//   - Revoke (TS 23.222 8.23.3): the state has changed before the answer is sent, and steps 6 and 7 begin
//     after the answer (the dialect "evolved" notifies before it answers).
//   - Step 7 reaches another AEF only if all of this holds: the request carried no aefId (read as the
//     indication, which has no field in TS 29.222), the AEF is of the caller's provider, it exposes the
//     API, and the API invoker has discovered the API there.
//   - Everything received and sent is in the journal (Requests, Sent, Count, WaitFor) and is shown to
//     Options.Observe, in the order in which it happened.
//   - Close ends every goroutine; every outgoing message has a deadline (Options.NotifyTimeout).
//   - One mutex guards the state and is never held while something is sent.
//
// # Making it fail
//
// Inject puts a Fault in force: delays, hanging, dropped connections, other answers, each before or after
// the operation was executed, for what the core receives and for what it sends. Down and Up take the core
// away and back; Empty, Snapshot and Restore are a lost and an older database. RevokeByCore, CallAEF,
// Offboard, SetPolicies and SendEvent make the core act on its own; MintToken signs any token, good or bad.
//
// # Dialects
//
// "strict" keeps to the letter of the standard, with the details of Release 19. "opencapif", "oran" and
// "evolved" behave, with their quirks, as three cores in the field do; each has a file of its own that
// lists them. No dialect is a certified reference of anything.
package coretest
