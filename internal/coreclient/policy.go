package coreclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const opPolicies = "read the access control policy from the core"

// Policy is what one API invoker may do at one API (ApiInvokerPolicy, TS 29.222 8.6.4.2.3). A nil number
// is no limit. netSliceInfo (Release 19) is not read.
type Policy struct {
	Invoker string
	// Total is allowedTotalInvocations, PerSecond allowedInvocationsPerSecond. Not negative; 0 allows none.
	Total, PerSecond *int64
	// Ranges are allowedInvocationTimeRangeList. None: at any time, also where the list is there and empty.
	Ranges []TimeRange
}

// TimeRange is a time in which invocations are allowed; a zero end is open.
type TimeRange struct{ Start, Stop time.Time }

// Policies reads the access control policy of an API at an AEF
// (GET …/accessControlPolicyList/{serviceApiId}?aef-id=…, TS 29.222 8.6.2.2.3.1). Every error is an *Error.
// One of class NotFound comes from cores that have no policy for the API, from cores that do not have this
// API of TS 29.222 at all (not InCoreShape on some), and from proxies. One with a status of 200 means that
// the body was no list that can be read in full: of a list of limits no part is left out.
func (c *Core) Policies(ctx context.Context, aefID, apiID string) ([]Policy, error) {
	if err := errors.Join(checkID("AEF", aefID), checkID("API", apiID)); err != nil {
		return nil, invalid(opPolicies, err)
	}
	a, err := c.exchange(ctx, request{
		op:     opPolicies,
		method: http.MethodGet,
		url: c.base.JoinPath("access-control-policy/v1/accessControlPolicyList").String() + "/" + url.PathEscape(apiID) +
			"?" + url.Values{"aef-id": {aefID}}.Encode(),
	})
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, a.failure(opPolicies)
	}
	if a.readErr != nil {
		return nil, &Error{Op: opPolicies, Status: a.status, Err: fmt.Errorf("answer broke off: %w", a.readErr)}
	}
	list, err := decodePolicies(a.body)
	if err != nil {
		return nil, &Error{Op: opPolicies, Status: a.status, Err: err}
	}
	return list, nil
}

// decodePolicies reads an AccessControlPolicyList (TS 29.222 8.6.4.2.2), in camelCase or snake_case. An
// object without any member is an empty list; one that has only others is none: taking it for an empty
// list would lift every limit.
func decodePolicies(body []byte) ([]Policy, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("answer is longer than %d bytes", maxBody)
	}
	o, err := members(body)
	if err != nil {
		return nil, fmt.Errorf("answer is no access control policy: %w", err)
	}
	raw, ok := o["apiinvokerpolicies"]
	if !ok && len(o) > 0 {
		return nil, errors.New("answer is no access control policy: it has no apiInvokerPolicies")
	}
	elements, err := elementsOf(raw)
	if err != nil {
		return nil, fmt.Errorf("answer is no access control policy: apiInvokerPolicies: %w", err)
	}
	var list []Policy
	for i, element := range elements {
		p, err := decodePolicy(element)
		if err != nil {
			return nil, fmt.Errorf("policy %d of the list: %w", i, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func decodePolicy(raw json.RawMessage) (Policy, error) {
	o, err := members(raw)
	if err != nil {
		return Policy{}, err
	}
	var p Policy
	err = json.Unmarshal(orNull(o["apiinvokerid"]), &p.Invoker)
	if err != nil || p.Invoker == "" {
		return Policy{}, errors.New("apiInvokerId is missing or no string")
	}
	if p.Total, err = countOf(o["allowedtotalinvocations"]); err != nil {
		return Policy{}, fmt.Errorf("allowedTotalInvocations: %w", err)
	}
	if p.PerSecond, err = countOf(o["allowedinvocationspersecond"]); err != nil {
		return Policy{}, fmt.Errorf("allowedInvocationsPerSecond: %w", err)
	}
	ranges, err := elementsOf(o["allowedinvocationtimerangelist"])
	if err != nil {
		return Policy{}, fmt.Errorf("allowedInvocationTimeRangeList: %w", err)
	}
	for _, element := range ranges {
		r, err := decodeRange(element)
		if err != nil {
			return Policy{}, fmt.Errorf("allowedInvocationTimeRangeList: %w", err)
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p, nil
}

// decodeRange reads a TimeRangeList. The OpenAPI file calls its end stopTime, the prose endTime.
func decodeRange(raw json.RawMessage) (TimeRange, error) {
	o, err := members(raw)
	if err != nil {
		return TimeRange{}, err
	}
	var r TimeRange
	if r.Start, err = instantOf(o["starttime"]); err != nil {
		return TimeRange{}, fmt.Errorf("startTime: %w", err)
	}
	stop, end := o["stoptime"], o["endtime"]
	if isAbsent(stop) {
		stop, end = end, nil
	}
	if r.Stop, err = instantOf(stop); err != nil {
		return TimeRange{}, fmt.Errorf("stopTime: %w", err)
	}
	if other, err := instantOf(end); err != nil || !isAbsent(end) && !other.Equal(r.Stop) {
		return TimeRange{}, errors.New("stopTime and endTime differ")
	}
	return r, nil
}

// members are those of a JSON object by their names in lower case without underscores. Of two spellings
// of one name none is taken.
func members(raw []byte) (map[string]json.RawMessage, error) {
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, err
	}
	if o == nil {
		return nil, errors.New("null is no object")
	}
	named := make(map[string]json.RawMessage, len(o))
	for name, value := range o {
		name = strings.ToLower(strings.ReplaceAll(name, "_", ""))
		if _, twice := named[name]; twice {
			return nil, fmt.Errorf("member %s is there in two spellings", clean(name))
		}
		named[name] = value
	}
	return named, nil
}

func isAbsent(raw json.RawMessage) bool { return raw == nil || string(raw) == "null" }

func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}

func elementsOf(raw json.RawMessage) ([]json.RawMessage, error) {
	var list []json.RawMessage
	err := json.Unmarshal(orNull(raw), &list)
	return list, err
}

func countOf(raw json.RawMessage) (*int64, error) {
	if isAbsent(raw) {
		return nil, nil //nolint:nilnil // absent: no limit
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	if err != nil || n < 0 {
		return nil, errors.New("it is no whole number, or negative")
	}
	return &n, nil
}

// instantLayouts are tried in turn. The standard wants RFC 3339; Python cores leave out the zone and mean
// UTC, or write the form of HTTP.
var instantLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", http.TimeFormat,
}

func instantOf(raw json.RawMessage) (time.Time, error) {
	if isAbsent(raw) {
		return time.Time{}, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return time.Time{}, errors.New("it is no string")
	}
	text = strings.TrimSpace(text)
	for _, layout := range instantLayouts {
		at, err := time.Parse(layout, text)
		if err != nil {
			// RFC 3339 5.6 allows t and z.
			at, err = time.Parse(layout, strings.ToUpper(text))
		}
		if err == nil && !at.IsZero() {
			return at.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time as in RFC 3339", clean(text))
}
