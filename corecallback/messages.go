package corecallback

// RevokeAuthorizationReq asks the AEF to revoke (TS 29.222 9.1.4.2.4).
type RevokeAuthorizationReq struct {
	RevokeInfo        SecurityNotification // required
	SupportedFeatures Features             // required
}

// SecurityNotification names what is revoked, and why (TS 29.222 8.5.4.2.5).
type SecurityNotification struct {
	APIInvokerID string   // required
	AEFID        string   // empty: the AEF that receives it
	APIIDs       []string // required, 1 to 1000, without duplicates
	AccessToken  Secret   // Release 19: only this token
	Cause        string   // required, open
}

// CheckAuthenticationReq asks whether the AEF can authenticate an API invoker
// (TS 29.222 6.2.2.2).
type CheckAuthenticationReq struct {
	APIInvokerID      string   // required
	SupportedFeatures Features // required
}

// EventNotification tells of an event (TS 29.222 8.3.4.2.3).
type EventNotification struct {
	SubscriptionID string      // required
	Events         []string    // required; one in the standard, despite the name
	Detail         EventDetail // zero if missing
}

// EventDetail says what an event is about (TS 29.222 8.3.4.2.5), as far as an
// AEF has to know.
type EventDetail struct {
	APIIDs         []string
	APIInvokerIDs  []string
	AccCtrlPolList *AccessControlPolicyList
}

// AccessControlPolicyList holds the policies of one service API, as an event
// carries them (AccessControlPolicyListExt of the CAPIF_Events_API).
type AccessControlPolicyList struct {
	APIID    string // required
	Policies []APIInvokerPolicy
}

// APIInvokerPolicy is what one API invoker may do (TS 29.222 8.6.4.2.3). A nil
// number means no limit.
type APIInvokerPolicy struct {
	APIInvokerID                string // required
	AllowedTotalInvocations     *int64
	AllowedInvocationsPerSecond *int64
	AllowedTimeRanges           []TimeRange
}

// TimeRange is a time in which invocations are allowed. Both ends are as the
// core wrote them, in RFC 3339 by the standard; either may be empty.
type TimeRange struct {
	Start string
	Stop  string // the prose of the standard calls it endTime; both names are read
}

// Events that an AEF acts on (CAPIFEvent of the CAPIF_Events_API).
const (
	EventInvokerAuthorizationRevoked = "API_INVOKER_AUTHORIZATION_REVOKED"
	EventInvokerOffboarded           = "API_INVOKER_OFFBOARDED"
	EventInvokerUpdated              = "API_INVOKER_UPDATED"
	EventPolicyUpdate                = "ACCESS_CONTROL_POLICY_UPDATE"
	EventPolicyUnavailable           = "ACCESS_CONTROL_POLICY_UNAVAILABLE"
	EventServiceAPIUnavailable       = "SERVICE_API_UNAVAILABLE"
)

// Causes of a revocation (Cause of the CAPIF_Security_API). The list is open: a core may
// send others.
const (
	CauseOverlimitUsage     = "OVERLIMIT_USAGE"
	CauseUnexpectedReason   = "UNEXPECTED_REASON"
	CauseAuthorizationIssue = "AUTHORIZATION_ISSUE" // Release 19
	CauseOtherReason        = "OTHER_REASON"        // Release 19
)

// ParamAccessToken is the JSON pointer for an [InvalidParam] about the access
// token of a revocation.
const ParamAccessToken = "/revokeInfo/accessToken"

// Features is a hexadecimal mask; its last digit holds features 1 to 4
// (SupportedFeatures of TS 29.571).
type Features string

// FeatureExt1 is feature 1 of the AEF_Security_API, CAPIF_Ext1: a revocation
// may carry an access token (TS 29.222 9.1.6). It is all that this package supports.
const FeatureExt1 Features = "1"

// Intersect returns the features of both masks, in the fewest digits: "0" if none.
func (f Features) Intersect(g Features) Features {
	var out []byte
	for i := range min(len(f), len(g)) {
		both := hexValue(f[len(f)-1-i]) & hexValue(g[len(g)-1-i])
		out = append(out, "0123456789abcdef"[both])
	}
	for len(out) > 0 && out[len(out)-1] == '0' {
		out = out[:len(out)-1]
	}
	if len(out) == 0 {
		return "0"
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return Features(out)
}

// valid reports whether every digit is hexadecimal. No digit at all is valid
// and means no feature.
func (f Features) valid() bool {
	for _, c := range []byte(f) {
		if hexValue(c) == 0 && c != '0' {
			return false
		}
	}
	return true
}

// hexValue returns the value of a digit, 0 for anything that is none.
func hexValue(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}
