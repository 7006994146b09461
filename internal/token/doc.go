// Package token verifies access tokens and looks after the keys that they are
// verified with. It decides nothing about revocation: it says who the API
// invoker is, what the scope is and how long the token lasts.
//
// # What a good verification means
//
// [Verifier.Verify] accepts a compact JWS (RFC 7515 7.1) only if all of this
// is true:
//
//   - it is at most [MaxBytes] long and has three parts, each in canonical
//     base64url: no padding, no line breaks, no stray trailing bits;
//   - its alg is on the configured list and fits the kind of the key (never the
//     other way round: the token does not choose what a key is used for), and
//     its header has neither crit nor b64;
//   - a key of the current [KeySet] verifies the signature. Keys named in the
//     token itself (jwk, jku, x5c, x5u) are never looked at;
//   - exp is there and not passed, nbf, if there, is reached;
//   - the claims that name the API invoker are there and agree.
//
// typ, aud, kid and an iss that is the issuer are never required: real CAPIF
// core functions leave them out. The signing key is the trust anchor.
//
// # Which keys are tried
//
// A kid that the key set knows selects exactly the keys of that name. Without
// a kid every key is tried; with an unknown kid, only the keys that have no
// name themselves (PEM keys never have one). When none verifies, the source is
// asked to refresh, and the token is tried once more if that brought other
// keys. The source limits how often that happens, so forged tokens cannot
// cause a flood of fetches.
//
// # Keys that change
//
// A [Source] swaps in a new key set first and calls its OnChange hooks after.
// [Token.KeySetID] names the set that verified the token, read before the
// verification began. A cache that compares it with [Verifier.KeySetID] on
// every hit therefore forgets, at once, what a key verified that was rotated
// out, also when the rotation happened during the verification.
//
// A load that fails keeps the last good keys; a set without a usable key counts
// as a failed load. Until the first good load, Verify answers [KeysMissing].
//
// # Secrets
//
// No error, log line or other text of this package contains a token, a part of
// one, or a key.
package token
