package caddyplugin

import (
	"slices"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/policy"
)

// route is what one capif_enforce of this configuration stands for.
type route struct {
	aefID   string
	apiName string
	apiIDs  []string
	mode    string
	onError string
	require bool // the context must list the pair
	// invokerClaims are the claims in which its tokens name the API invoker.
	invokerClaims []string
	decider       *enforce.Decider
	answers       *answers
	bind          bool         // the token must be the caller's by its certificate
	gate          *policy.Gate // nil without a policy
}

func (r *route) shown() adminapi.Route {
	return adminapi.Route{AEFID: r.aefID, APIName: r.apiName, APIIDs: r.apiIDs, Mode: r.mode, OnError: r.onError, RequireContext: r.require}
}

func (a *App) addRoute(r route) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.routes = append(a.routes, r)
}

func (a *App) allRoutes() []route {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.routes)
}

// hosted returns every aefId that is hosted here, the default first.
func (a *App) hosted() []string {
	ids := []string{a.aefID}
	for _, r := range a.allRoutes() {
		if !slices.Contains(ids, r.aefID) {
			ids = append(ids, r.aefID)
		}
	}
	return ids
}

// invokerClaims returns, for each way in which routes read the API invoker out of
// a token, the names of the claims.
func (a *App) invokerClaims() [][]string {
	var sets [][]string
	for _, r := range a.allRoutes() {
		if !slices.ContainsFunc(sets, func(set []string) bool { return slices.Equal(set, r.invokerClaims) }) {
			sets = append(sets, r.invokerClaims)
		}
	}
	if len(sets) == 0 {
		sets = append(sets, nil)
	}
	return sets
}

// apisOf returns the apiIds that routes of an aefId stand for; "" means all.
func (a *App) apisOf(aefID string) []string {
	var ids []string
	for _, r := range a.allRoutes() {
		if aefID == "" || r.aefID == aefID {
			ids = append(ids, r.apiIDs...)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}
