package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-capif/aef/internal/testbed"
)

// kind is a kind of core: how an operator points an AEF at it, and how another
// AEF gets to know of a revoke there.
type kind struct {
	// name is the dialect of the core for tests, and the profile of the AEFs.
	name string
	// tokenKeys is what follows token_keys. Default: the core's JWK set.
	tokenKeys string
	// global are lines in the block of the global option capif.
	global string
	// hints: the core cannot authenticate, and announces on a secret path that
	// something was revoked, but not from whom.
	hints bool
	// apart: one apiId at two AEFs makes this core crash on a revoke, so each
	// AEF's API has an apiId of its own, and a revoke at one does not reach the
	// other.
	apart bool
	// tellsInvoker: the core takes step 6.
	tellsInvoker bool
	// policies: the core has access control policies (TS 29.222 8.6).
	policies bool
	// refusal is the end of the problem type by which the other AEF refuses.
	refusal string
}

var kinds = []kind{
	{name: "strict", tellsInvoker: true, policies: true, refusal: revokedType},
	{name: "opencapif", tokenKeys: "core_certificate", hints: true, tellsInvoker: true, policies: true, refusal: notListedType},
	{name: "oran", global: "invoker_claim azp clientId\nreconcile " + shortReconcile, apart: true, refusal: notListedType},
}

// shortReconcile is for the walk only; the default is five minutes.
const shortReconcile = "1s"

// hintPath is a secret where an AEF is not in a temporary folder.
const hintPath = "/capif/hints/5b1f0c9a7d3e4826"

func kindOf(name string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return kind{}, false
	}
	return kinds[i], true
}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// silent: the core tells another AEF nothing at all.
func (k kind) silent() bool { return !k.hints && k.refusal != revokedType }

// because says how the other AEF knows, where no step 7 told it.
func (k kind) because() string {
	switch {
	case k.hints:
		return ": an event said that something was revoked, and it read the context before its next answer"
	case k.silent():
		return ": its timer read the context (reconcile " + shortReconcile + ", 5m by default)"
	default:
		return ""
	}
}

// configure points an AEF at a core of this kind.
func (k kind) configure(a *testbed.AEF, second bool) {
	a.Profile, a.GlobalExtra = k.name, k.global
	if k.tokenKeys != "" {
		a.TokenKeys = k.tokenKeys
	}
	if k.hints {
		a.GlobalExtra = "subscribe https://" + a.Callback + hintPath
		a.CallbackExtra = "hint_path " + hintPath
	}
	if !second {
		a.OtherRouteExtra = k.limit()
	}
	if k.apart && second {
		a.APIID, a.OtherAPIID = "c40e17", "d72a95"
	}
}

// limit is what the route of the second act has: a policy whose total revokes, and
// streams that end with the revoke.
func (k kind) limit() string {
	policy := "policy core"
	own := ""
	if !k.policies {
		policy = "policy"
		own = fmt.Sprintf("invoker %s {\ntotal %d\n}\n", limitedID, allowedCalls)
	}
	return policy + " {\n" + own + "unbound_triggers\n}\nend_streams"
}

// limitedBy says where the limit of the second act stands.
func (k kind) limitedBy() string {
	if k.policies {
		return "the core's access control policy (allowedTotalInvocations), which the route reads: policy core"
	}
	return "the route itself (policy, total): this core has no access control policies"
}
