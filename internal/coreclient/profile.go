package coreclient

import (
	"errors"
	"fmt"
	"slices"
)

// EffectiveScope is whose authorization a revoke request takes away at the core.
type EffectiveScope string

const (
	// ScopeThisAEF says that the request carries aefId, so the core takes the API away at that AEF.
	ScopeThisAEF EffectiveScope = "this_aef"
	// ScopeAllAEFs says that the request carries no aefId, so the core takes the API away wherever it is exposed.
	ScopeAllAEFs EffectiveScope = "all_aefs"
)

// Causes that every release of TS 29.222 8.5.4.2.5 knows.
const (
	causeOverlimit  = "OVERLIMIT_USAGE"
	causeUnexpected = "UNEXPECTED_REASON"
)

// profile is what one kind of core makes of a revoke request.
type profile struct {
	name string
	// sendsAEFID: the core reads aefId as the standard means it. Others ignore it, or revoke every API
	// of that AEF when it is sent, and a repeat revokes even more.
	sendsAEFID bool
	// causes the core is known to accept; nil: any.
	causes []string
}

var profiles = []profile{
	{name: "strict", sendsAEFID: true},
	{name: "opencapif", causes: []string{causeOverlimit, causeUnexpected}},
	{name: "oran", causes: []string{causeOverlimit, causeUnexpected}},
}

func profileFor(name string) (profile, error) {
	if name == "" {
		return profiles[0], nil
	}
	for _, p := range profiles {
		if p.name == name {
			return p, nil
		}
	}
	return profile{}, fmt.Errorf("profile of the core is %q: want strict, opencapif or oran", name)
}

// cause is what is sent for the cause an operator gave.
func (p profile) cause(given string) string {
	if given == "" || p.causes != nil && !slices.Contains(p.causes, given) {
		return causeUnexpected
	}
	return given
}

// EffectiveScope states what a revoke for aefID really does at this core, where allAEFs is what the
// trigger asked for (nil: nothing). TS 29.222 has no field for the indication of TS 23.222 8.23.3 step 7:
// leaving aefId out is how all AEFs are meant.
//
//   - strict: aefId is sent unless allAEFs is true.
//   - opencapif, oran: aefId is never sent, whatever was asked; false is therefore an error.
//
// Revoke returns the same error and sends nothing.
func (c *Core) EffectiveScope(aefID string, allAEFs *bool) (EffectiveScope, error) {
	if !c.profile.sendsAEFID {
		if allAEFs != nil && !*allAEFs {
			return "", fmt.Errorf("all_aefs is false, but with profile %s a revoke cannot be kept to one AEF: "+
				"this core is sent no aefId and takes the API away at every AEF; leave all_aefs out or set it to true", c.profile.name)
		}
		return ScopeAllAEFs, nil
	}
	if allAEFs != nil && *allAEFs {
		return ScopeAllAEFs, nil
	}
	if aefID == "" {
		return "", errors.New("aef_id is missing: without it the core would take the API away at every AEF; name one or set all_aefs to true")
	}
	return ScopeThisAEF, nil
}
