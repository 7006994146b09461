package coretest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// revoke is steps 2 to 4 of TS 23.222 8.23.3, and the beginning of steps 6 and 7
// (TS 29.222 8.5.2.3.4.3).
func (c *Core) revoke(rq *request) reply {
	if refusal := c.admit(rq, RoleAEF, ""); refusal != nil {
		return *refusal
	}
	var n SecurityNotification
	if err := json.Unmarshal(rq.body, &n); err != nil {
		return c.dialect.fail(http.StatusBadRequest, "the body is not a SecurityNotification")
	}
	if invalid := invalidRevoke(rq.id, n); len(invalid) > 0 {
		return c.dialect.fail(http.StatusBadRequest, "a revocation names invoker, APIs and cause", invalid...)
	}
	if !c.dialect.knowsCause(n.Cause) {
		return c.dialect.fail(http.StatusBadRequest, "unknown cause", InvalidParam{"/cause", "is not known"})
	}
	if n.AccessToken != "" && c.dialect.refusesToken {
		return c.dialect.fail(http.StatusBadRequest, "only the core names a token", InvalidParam{"/accessToken", "must not be in an AEF's request"})
	}
	rep, direct := c.applyRevoke(rq, n)
	if direct == nil {
		return rep
	}
	// This dialect tells the invoker first and lets its own answer depend on it.
	status, _, err := c.send(c.ctx, *direct)
	if err != nil || status >= http.StatusInternalServerError {
		failed := c.dialect.fail(http.StatusInternalServerError, "notification of the API invoker failed")
		failed.note, failed.after = rep.note, rep.after
		return failed
	}
	return rep
}

func invalidRevoke(pathID string, n SecurityNotification) []InvalidParam {
	var bad []InvalidParam
	if n.APIInvokerID == "" {
		bad = append(bad, InvalidParam{"/apiInvokerId", "must be set"})
	} else if n.APIInvokerID != pathID {
		bad = append(bad, InvalidParam{"/apiInvokerId", "is not the one in the path"})
	}
	if len(n.APIIDs) == 0 || slices.Contains(n.APIIDs, "") {
		bad = append(bad, InvalidParam{"/apiIds", "must hold at least one entry, none empty"})
	}
	if n.Cause == "" {
		bad = append(bad, InvalidParam{"/cause", "must be set"})
	}
	return bad
}

// applyRevoke changes the state under the mutex and says what is to be sent; direct is a message to send
// before the answer.
func (c *Core) applyRevoke(rq *request, n SecurityNotification) (reply, *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.dialect
	sec, ok := rq.st.contexts[rq.id]
	if !ok {
		return d.fail(http.StatusNotFound, noContext), nil
	}
	by := rq.caller.id
	if d.ownProviderOnly && n.AEFID != "" && !c.reg.sameProvider(by, n.AEFID) {
		return d.fail(http.StatusForbidden, fmt.Sprintf("AEF %s is not of the caller's provider", n.AEFID)), nil
	}
	left, ok := d.remove(&c.reg, by, slices.Clone(sec.SecurityInfo), n)
	if !ok {
		return reply{drop: true}, nil
	}
	removed := removedPairs(&c.reg, sec.SecurityInfo, left)
	if len(removed) == 0 && d.refusesNothingRevoked {
		return d.fail(http.StatusNotFound, "no authorization of the API invoker for these APIs"), nil
	}
	c.setEntries(rq.st, rq.id, sec, left)

	var direct *message
	rep := noContent()
	rep.note = fmt.Sprintf("revoked %d of %d entries of %s", len(removed), len(sec.SecurityInfo), rq.id)
	if d.notifiesInvoker {
		m := c.invokerMessage(sec.NotificationDestination, n)
		if d.notifiesBeforeAnswer {
			direct = &m
		} else {
			rep.after = append(rep.after, []message{m})
		}
	}
	told := pairsAt(removed, cmp.Or(n.AEFID, by), n.APIIDs)
	if others := c.otherAEFs(by, n); d.callsAEFs {
		for _, p := range others {
			told = append(told, p)
			if aef := c.reg.aefs[p.aefID]; aef.CallbackURL != "" {
				own := n
				own.AEFID, own.APIIDs = p.aefID, []string{p.apiID}
				rep.after = append(rep.after, []message{c.aefMessage(aef, own)})
			}
		}
	}
	rep.after = append(rep.after, c.eventGroups(rq.st, occasion{
		kind: authorizationRevoked, invokerID: rq.id, apiIDs: n.APIIDs, pairs: removed, told: told,
	})...)
	return rep, direct
}

// otherAEFs needs c.mu. It is who step 7 reaches: with the indication, which is an aefId left out, the
// other AEFs of the caller's provider that expose the API and where the API invoker has discovered it.
func (c *Core) otherAEFs(by string, n SecurityNotification) []pair {
	if n.AEFID != "" {
		return nil
	}
	var others []pair
	for _, apiID := range n.APIIDs {
		for _, aefID := range c.reg.apis[apiID].AEFIDs {
			p := pair{aefID, apiID}
			if aefID != by && c.reg.sameProvider(by, aefID) && c.reg.discovered[n.APIInvokerID][p] {
				others = append(others, p)
			}
		}
	}
	return others
}

// setEntries needs c.mu.
func (c *Core) setEntries(st *store, invokerID string, sec ServiceSecurity, left []SecurityInformation) {
	if len(left) == 0 && c.dialect.dropsEmptyContext {
		delete(st.contexts, invokerID)
		return
	}
	sec.SecurityInfo = left
	st.contexts[invokerID] = sec
}

// removeExactly is what the standard says: aefId (if given) and apiId must both be met, at AEFs of the
// caller's provider; by "" is the core itself. An entry for all APIs of an AEF becomes entries for the
// APIs that remain.
func removeExactly(reg *registry, by string, entries []SecurityInformation, n SecurityNotification) ([]SecurityInformation, bool) {
	var left []SecurityInformation
	for _, e := range entries {
		inReach := (by == "" || reg.sameProvider(by, e.AEFID)) && (n.AEFID == "" || n.AEFID == e.AEFID)
		switch {
		case inReach && slices.Contains(n.APIIDs, e.APIID):
		case inReach && e.APIID == "":
			for _, apiID := range reg.apisOf(e.AEFID) {
				if !slices.Contains(n.APIIDs, apiID) {
					one := e
					one.APIID = apiID
					left = append(left, one)
				}
			}
		default:
			left = append(left, e)
		}
	}
	return left, true
}

// apisOf lists the APIs that an AEF exposes, in order.
func (r *registry) apisOf(aefID string) []string {
	var ids []string
	for id, api := range r.apis {
		if slices.Contains(api.AEFIDs, aefID) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func pairsOf(entries []SecurityInformation) []pair {
	var pairs []pair
	for _, e := range entries {
		pairs = append(pairs, pair{e.AEFID, e.APIID})
	}
	return pairs
}

// removedPairs is what before covered and after does not.
func removedPairs(reg *registry, before, after []SecurityInformation) []pair {
	expand := func(entries []SecurityInformation) []pair {
		var pairs []pair
		for _, p := range pairsOf(entries) {
			if p.apiID != "" {
				pairs = append(pairs, p)
				continue
			}
			for _, apiID := range reg.apisOf(p.aefID) {
				pairs = append(pairs, pair{p.aefID, apiID})
			}
		}
		return pairs
	}
	left := expand(after)
	return slices.DeleteFunc(expand(before), func(p pair) bool { return slices.Contains(left, p) })
}

// pairsAt is the caller's own part: it hears of its own revoke, too, if it subscribed.
func pairsAt(removed []pair, aefID string, apiIDs []string) []pair {
	return slices.DeleteFunc(slices.Clone(removed), func(p pair) bool {
		return p.aefID != aefID || !slices.Contains(apiIDs, p.apiID)
	})
}

// deleteContext deletes everything, other AEFs' entries included (TS 29.222 8.5.2.3.3.3).
func (c *Core) deleteContext(rq *request) reply {
	if refusal := c.admit(rq, RoleAEF, ""); refusal != nil {
		return *refusal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sec, ok := rq.st.contexts[rq.id]
	if !ok {
		return c.dialect.fail(http.StatusNotFound, noContext)
	}
	delete(rq.st.contexts, rq.id)
	removed := removedPairs(&c.reg, sec.SecurityInfo, nil)
	rep := noContent()
	rep.note = fmt.Sprintf("deleted the context of %s with %d entries", rq.id, len(sec.SecurityInfo))
	apiIDs := apiIDsOf(removed)
	if c.dialect.notifiesInvoker && len(apiIDs) > 0 {
		rep.after = append(rep.after, []message{c.invokerMessage(sec.NotificationDestination, SecurityNotification{
			APIInvokerID: rq.id, APIIDs: apiIDs, Cause: CauseUnexpected,
		})})
	}
	rep.after = append(rep.after, c.eventGroups(rq.st, occasion{
		kind: contextDeleted, invokerID: rq.id, apiIDs: apiIDs, pairs: removed, told: removed,
	})...)
	return rep
}

func apiIDsOf(pairs []pair) []string {
	var ids []string
	for _, p := range pairs {
		if !slices.Contains(ids, p.apiID) {
			ids = append(ids, p.apiID)
		}
	}
	return ids
}

// CoreRevoke is a revocation that begins at the core (TS 23.222 8.23.4).
type CoreRevoke struct {
	InvokerID   string
	APIIDs      []string
	AEFID       string // "": every AEF concerned, the request names none
	Cause       string // default UNEXPECTED_REASON
	AccessToken string // Release 19: only this token; the context stays as it is
}

// AEFAnswer is what an AEF said to revoke-authorization.
type AEFAnswer struct {
	AEFID  string
	Status int // 0: no answer
	Body   []byte
	Err    error
}

// RevokeByCore revokes exactly what is named, in every dialect, and tells who the dialect tells: a dialect
// that knows revoke-authorization calls each AEF concerned, at each address once, and their answers are
// returned. The invoker and the subscribers are told in the background.
//
// It works on the state behind URL. Concerned is AEFID; without it each AEF that exposes one of the APIs and is in the context or was
// discovered by the API invoker.
func (c *Core) RevokeByCore(ctx context.Context, r CoreRevoke) ([]AEFAnswer, error) {
	if r.Cause == "" {
		r.Cause = CauseUnexpected
	}
	n := SecurityNotification{APIInvokerID: r.InvokerID, AEFID: r.AEFID, APIIDs: r.APIIDs, Cause: r.Cause, AccessToken: r.AccessToken}
	if invalid := invalidRevoke(r.InvokerID, n); len(invalid) > 0 {
		return nil, fmt.Errorf("revoke by core: %s %s", invalid[0].Param, invalid[0].Reason)
	}
	calls, after, note := c.applyCoreRevoke(n)
	c.note(n, note)
	for _, group := range c.enlist(after) {
		go c.sendGroup(c.main, group) // as in exchange
	}
	return c.callAll(ctx, calls), nil
}

// applyCoreRevoke changes the state and says whom to call, whom to tell, and what changed.
func (c *Core) applyCoreRevoke(n SecurityNotification) ([]message, [][]message, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var after [][]message
	sec := c.main.contexts[n.APIInvokerID]
	concerned := c.concerned(sec, n)
	var removed []pair
	if n.AccessToken == "" && len(sec.SecurityInfo) > 0 {
		left, _ := removeExactly(&c.reg, "", sec.SecurityInfo, n)
		removed = removedPairs(&c.reg, sec.SecurityInfo, left)
		c.setEntries(c.main, n.APIInvokerID, sec, left)
	}
	note := fmt.Sprintf("the core revoked %d of %d entries of %s", len(removed), len(sec.SecurityInfo), n.APIInvokerID)
	if c.dialect.notifiesInvoker && sec.NotificationDestination != "" {
		after = append(after, []message{c.invokerMessage(sec.NotificationDestination, n)})
	}
	if n.AccessToken == "" { // an event cannot say that a single token is meant
		after = append(after, c.eventGroups(c.main, occasion{
			kind: authorizationRevoked, invokerID: n.APIInvokerID, apiIDs: n.APIIDs, pairs: removed, told: concerned,
		})...)
	}
	if !c.dialect.callsAEFs {
		return nil, after, note
	}
	var calls []message
	called := map[string]bool{}
	for _, p := range concerned {
		aef := c.reg.aefs[p.aefID]
		if aef.CallbackURL == "" || called[aef.CallbackURL] {
			continue
		}
		called[aef.CallbackURL] = true
		calls = append(calls, c.aefMessage(aef, n))
	}
	return calls, after, note
}

// note puts a change of the core's own making into the journal.
func (c *Core) note(n SecurityNotification, text string) {
	c.journal.add(Event{
		Phase: PhaseState, From: "core", To: "core", Operation: OpChange,
		InvokerID: n.APIInvokerID, AEFID: n.AEFID, APIIDs: n.APIIDs, Cause: n.Cause, Note: text,
	})
	c.log.Info("core state changed", "operation", OpChange, "api_invoker_id", n.APIInvokerID, "change", text)
}

// concerned needs c.mu.
func (c *Core) concerned(sec ServiceSecurity, n SecurityNotification) []pair {
	inContext := removedPairs(&c.reg, sec.SecurityInfo, nil)
	var pairs []pair
	for _, apiID := range n.APIIDs {
		for _, aefID := range c.reg.apis[apiID].AEFIDs {
			p := pair{aefID, apiID}
			known := c.reg.discovered[n.APIInvokerID][p] || slices.Contains(inContext, p)
			if aefID == n.AEFID || n.AEFID == "" && known {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// callAll sends the calls side by side and waits for all answers.
func (c *Core) callAll(ctx context.Context, calls []message) []AEFAnswer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // Close ends the calls
	answers := make([]AEFAnswer, len(calls))
	var wg sync.WaitGroup
	for i, m := range calls {
		wg.Go(func() {
			status, body, err := c.send(ctx, m)
			answers[i] = AEFAnswer{AEFID: m.aefID, Status: status, Body: body, Err: err}
		})
	}
	wg.Wait()
	return answers
}

// CallAEF sends revoke-authorization to one AEF, as n says and in every dialect, and changes nothing at
// the core: for requests that a core should not send, and for repeats.
func (c *Core) CallAEF(ctx context.Context, aefID string, n SecurityNotification) (AEFAnswer, error) {
	c.mu.Lock()
	aef, ok := c.reg.aefs[aefID]
	c.mu.Unlock()
	if !ok || aef.CallbackURL == "" {
		return AEFAnswer{}, fmt.Errorf("call AEF %s: no CallbackURL is known: give it to AddAEF", aefID)
	}
	return c.callAll(ctx, []message{c.aefMessage(aef, n)})[0], nil
}

// Offboard removes an API invoker with its context and tells the subscribers in the background.
func (c *Core) Offboard(invokerID string) error {
	if !c.forgetInvoker(invokerID) {
		return fmt.Errorf("offboard: unknown API invoker %q", invokerID)
	}
	c.note(SecurityNotification{APIInvokerID: invokerID}, "offboarded "+invokerID)
	c.tell(occasion{kind: invokerOffboarded, invokerID: invokerID})
	return nil
}

func (c *Core) forgetInvoker(invokerID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.reg.invokers[invokerID]
	delete(c.reg.invokers, invokerID)
	delete(c.reg.discovered, invokerID)
	for _, st := range c.stores() {
		delete(st.contexts, invokerID)
	}
	return known
}
