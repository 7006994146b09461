package corecallback

import (
	"encoding/json"
	"slices"
	"strconv"
)

// ParseRevokeAuthorization decodes the body of revoke-authorization. The error
// is an [InvalidParams] if members are missing or wrong. How long body may be
// is for the caller to bound.
func ParseRevokeAuthorization(body []byte) (RevokeAuthorizationReq, error) {
	o, err := parseBody(body)
	if err != nil {
		return RevokeAuthorizationReq{}, err
	}
	var r reader
	var req RevokeAuthorizationReq
	raw := r.required(o, "/revokeInfo", "revokeInfo")
	if raw != nil {
		info := parseObject(raw)
		if info == nil {
			r.refuse("/revokeInfo", "must be an object")
		} else {
			req.RevokeInfo = r.securityNotification(info, "/revokeInfo")
		}
	}
	req.SupportedFeatures = r.features(o, "/supportedFeatures")
	err = r.err()
	if err != nil {
		return RevokeAuthorizationReq{}, err
	}
	return req, nil
}

func (r *reader) securityNotification(o object, at string) SecurityNotification {
	n := SecurityNotification{
		APIInvokerID: r.id(r.required(o, at+"/apiInvokerId", "apiInvokerId"), at+"/apiInvokerId"),
		AEFID:        r.id(r.member(o, at+"/aefId", "aefId"), at+"/aefId"),
		AccessToken:  NewSecret(r.text(r.member(o, at+"/accessToken", "accessToken"), at+"/accessToken")),
		Cause:        r.id(r.required(o, at+"/cause", "cause"), at+"/cause"),
	}
	raw := r.required(o, at+"/apiIds", "apiIds")
	if raw == nil {
		return n
	}
	before := len(r.invalid)
	n.APIIDs = r.ids(raw, at+"/apiIds")
	if len(n.APIIDs) == 0 && len(r.invalid) == before {
		r.refuse(at+"/apiIds", "must hold at least one entry")
	}
	return n
}

// ParseCheckAuthentication decodes the body of check-authentication, with the
// errors of [ParseRevokeAuthorization].
func ParseCheckAuthentication(body []byte) (CheckAuthenticationReq, error) {
	o, err := parseBody(body)
	if err != nil {
		return CheckAuthenticationReq{}, err
	}
	var r reader
	req := CheckAuthenticationReq{
		APIInvokerID:      r.id(r.required(o, "/apiInvokerId", "apiInvokerId"), "/apiInvokerId"),
		SupportedFeatures: r.features(o, "/supportedFeatures"),
	}
	err = r.err()
	if err != nil {
		return CheckAuthenticationReq{}, err
	}
	return req, nil
}

// ParseEventNotification decodes an event notification, with the errors of
// [ParseRevokeAuthorization]. The detail of events that this package does not
// know is not looked at.
func ParseEventNotification(body []byte) (EventNotification, error) {
	o, err := parseBody(body)
	if err != nil {
		return EventNotification{}, err
	}
	return eventNotification(o)
}

func eventNotification(o object) (EventNotification, error) {
	var r reader
	n := r.event(o)
	n.SubscriptionID = r.id(r.required(o, "/subscriptionId", "subscriptionId"), "/subscriptionId")
	err := r.err()
	if err != nil {
		return EventNotification{}, err
	}
	return n, nil
}

// event decodes what a notification says, apart from whose subscription it is.
func (r *reader) event(o object) EventNotification {
	var n EventNotification
	raw := r.required(o, "/events", "events", "event")
	switch {
	case raw == nil:
		return n
	case raw[0] == '[':
		before := len(r.invalid)
		n.Events = r.ids(raw, "/events")
		if len(n.Events) == 0 && len(r.invalid) == before {
			r.refuse("/events", "must hold at least one entry")
		}
	default:
		n.Events = []string{r.id(raw, "/events")}
	}
	if slices.ContainsFunc(n.Events, knownEvent) {
		n.Detail = r.eventDetail(r.member(o, "/eventDetail", "eventDetail"))
	}
	return n
}

func (r *reader) eventDetail(raw json.RawMessage) EventDetail {
	if raw == nil {
		return EventDetail{}
	}
	const at = "/eventDetail"
	o := parseObject(raw)
	if o == nil {
		r.refuse(at, "must be an object")
		return EventDetail{}
	}
	return EventDetail{
		APIIDs:         r.ids(r.member(o, at+"/apiIds", "apiIds"), at+"/apiIds"),
		APIInvokerIDs:  r.ids(r.member(o, at+"/apiInvokerIds", "apiInvokerIds"), at+"/apiInvokerIds"),
		AccCtrlPolList: r.policyList(r.member(o, at+"/accCtrlPolList", "accCtrlPolList"), at+"/accCtrlPolList"),
	}
}

func (r *reader) policyList(raw json.RawMessage, at string) *AccessControlPolicyList {
	if raw == nil {
		return nil
	}
	o := parseObject(raw)
	if o == nil {
		r.refuse(at, "must be an object")
		return nil
	}
	list := &AccessControlPolicyList{APIID: r.id(r.required(o, at+"/apiId", "apiId"), at+"/apiId")}
	at += "/apiInvokerPolicies"
	for i, element := range r.list(r.member(o, at, "apiInvokerPolicies"), at) {
		list.Policies = append(list.Policies, r.policy(element, at+"/"+strconv.Itoa(i)))
	}
	return list
}

func (r *reader) policy(raw json.RawMessage, at string) APIInvokerPolicy {
	o := parseObject(raw)
	if o == nil {
		r.refuse(at, "must be an object")
		return APIInvokerPolicy{}
	}
	count := func(name string) *int64 { return r.number(r.member(o, at+"/"+name, name), at+"/"+name) }
	p := APIInvokerPolicy{
		APIInvokerID:                r.id(r.required(o, at+"/apiInvokerId", "apiInvokerId"), at+"/apiInvokerId"),
		AllowedTotalInvocations:     count("allowedTotalInvocations"),
		AllowedInvocationsPerSecond: count("allowedInvocationsPerSecond"),
	}
	at += "/allowedInvocationTimeRangeList"
	for i, element := range r.list(r.member(o, at, "allowedInvocationTimeRangeList"), at) {
		at := at + "/" + strconv.Itoa(i)
		o := parseObject(element)
		if o == nil {
			r.refuse(at, "must be an object")
			continue
		}
		p.AllowedTimeRanges = append(p.AllowedTimeRanges, TimeRange{
			Start: r.id(r.member(o, at+"/startTime", "startTime"), at+"/startTime"),
			Stop:  r.id(r.member(o, at+"/stopTime", "stopTime", "endTime"), at+"/stopTime"),
		})
	}
	return p
}

// isTest reports whether o is a TestNotification (TS 29.122): it
// names a subscription and no event.
func isTest(o object) bool {
	var r reader
	if r.member(o, "/events", "events", "event") != nil || len(r.invalid) > 0 {
		return false
	}
	return r.text(r.member(o, "/subscription", "subscription"), "/subscription") != ""
}

// namedInvokers returns the API invokers that a message on the hint path names,
// and its event. None means all, so whatever is in doubt names none.
func namedInvokers(o object) ([]string, string) {
	var r reader
	if r.member(o, "", "events", "event") != nil {
		n := r.event(o)
		if len(r.invalid) > 0 {
			return nil, ""
		}
		for _, e := range n.Events {
			if !knownEvent(e) {
				return nil, ""
			}
		}
		return hintedInvokers(n), n.Events[0]
	}
	// A core that posts its revocations here, whole or bare.
	info := o
	if raw := r.member(o, "", "revokeInfo"); raw != nil {
		info = parseObject(raw)
	}
	id := r.id(r.member(info, "", "apiInvokerId"), "")
	if id == "" || len(r.invalid) > 0 {
		return nil, ""
	}
	return []string{id}, ""
}
