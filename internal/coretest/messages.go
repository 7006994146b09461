package coretest

import (
	"encoding/json"
	"strconv"
)

// SecurityInformation is one entry of a security context (TS 29.222 8.5.4.2.3).
type SecurityInformation struct {
	InterfaceDetails    json.RawMessage `json:"interfaceDetails,omitempty"`
	AEFID               string          `json:"aefId,omitempty"`
	APIID               string          `json:"apiId,omitempty"` // empty: every API of the AEF
	PrefSecurityMethods []string        `json:"prefSecurityMethods"`
	SelSecurityMethod   string          `json:"selSecurityMethod,omitempty"`
	AuthenticationInfo  string          `json:"authenticationInfo,omitempty"`
	AuthorizationInfo   string          `json:"authorizationInfo,omitempty"`
}

// ServiceSecurity is a security context (TS 29.222 8.5.4.2.2).
type ServiceSecurity struct {
	SecurityInfo            []SecurityInformation `json:"securityInfo"`
	NotificationDestination string                `json:"notificationDestination"`
	SupportedFeatures       string                `json:"supportedFeatures,omitempty"`
}

// SecurityNotification asks for, or tells of, a revocation (TS 29.222 8.5.4.2.5).
type SecurityNotification struct {
	APIInvokerID string   `json:"apiInvokerId"`
	AEFID        string   `json:"aefId,omitempty"`
	APIIDs       []string `json:"apiIds"`
	AccessToken  string   `json:"accessToken,omitempty"` // Release 19, only from the core to an AEF
	Cause        string   `json:"cause"`
}

// RevokeAuthorizationReq is what the core sends to an AEF (TS 29.222 9.1.4.2.4).
type RevokeAuthorizationReq struct {
	RevokeInfo        SecurityNotification `json:"revokeInfo"`
	SupportedFeatures string               `json:"supportedFeatures"`
}

// EventFilter narrows the event at the same position of a subscription; an empty one filters nothing.
type EventFilter struct {
	APIIDs        []string `json:"apiIds,omitempty"`
	APIInvokerIDs []string `json:"apiInvokerIds,omitempty"`
	AEFIDs        []string `json:"aefIds,omitempty"`
}

// EventSubscription is what an AEF asks to be told (TS 29.222 8.3.4.2.2).
type EventSubscription struct {
	Events                  []string      `json:"events"`
	EventFilters            []EventFilter `json:"eventFilters,omitempty"`
	NotificationDestination string        `json:"notificationDestination"`
	RequestTestNotification bool          `json:"requestTestNotification,omitempty"`
	SupportedFeatures       string        `json:"supportedFeatures,omitempty"`
}

// EventNotification tells of a single event, despite its plural member (TS 29.222 8.3.4.2.3).
type EventNotification struct {
	SubscriptionID string       `json:"subscriptionId"`
	Events         string       `json:"events"`
	EventDetail    *EventDetail `json:"eventDetail,omitempty"`
}

// EventDetail names what an event is about (TS 29.222 8.3.4.2.5).
type EventDetail struct {
	APIIDs         []string                    `json:"apiIds,omitempty"`
	APIInvokerIDs  []string                    `json:"apiInvokerIds,omitempty"`
	AccCtrlPolList *AccessControlPolicyListExt `json:"accCtrlPolList,omitempty"`
}

// AccessControlPolicyList holds the policies of one API at one AEF (TS 29.222 8.6.4.2.2).
type AccessControlPolicyList struct {
	APIInvokerPolicies []APIInvokerPolicy `json:"apiInvokerPolicies"`
}

// AccessControlPolicyListExt is the list as an event carries it.
type AccessControlPolicyListExt struct {
	APIID              string             `json:"apiId"`
	APIInvokerPolicies []APIInvokerPolicy `json:"apiInvokerPolicies"`
}

// APIInvokerPolicy is what one API invoker may do (TS 29.222 8.6.4.2.3); zero numbers are not sent.
type APIInvokerPolicy struct {
	APIInvokerID                   string      `json:"apiInvokerId"`
	AllowedTotalInvocations        int         `json:"allowedTotalInvocations,omitempty"`
	AllowedInvocationsPerSecond    int         `json:"allowedInvocationsPerSecond,omitempty"`
	AllowedInvocationTimeRangeList []TimeRange `json:"allowedInvocationTimeRangeList,omitempty"`
}

// TimeRange is a time in which invocations are allowed, both ends in RFC 3339.
type TimeRange struct {
	StartTime string `json:"startTime,omitempty"`
	StopTime  string `json:"stopTime,omitempty"`
}

// AccessTokenRsp is the answer that carries a token (TS 29.222 8.5.4.2.7).
type AccessTokenRsp struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	Scope       string `json:"scope,omitempty"`
}

// AccessTokenErr is the answer that refuses one (TS 29.222 8.5.4.2.9).
type AccessTokenErr struct {
	Error            string `json:"error"`
	ErrorDescription string `json:"error_description,omitempty"`
}

// ProblemDetails is an error of the standard (TS 29.122 5.2.1.2.12).
type ProblemDetails struct {
	Title         string         `json:"title,omitempty"`
	Status        int            `json:"status,omitempty"`
	Detail        string         `json:"detail,omitempty"`
	Cause         string         `json:"cause,omitempty"`
	InvalidParams []InvalidParam `json:"invalidParams,omitempty"`
}

// InvalidParam names one member of a request that was refused.
type InvalidParam struct {
	Param  string `json:"param"`
	Reason string `json:"reason,omitempty"`
}

// The events and causes that the core knows by name.
const (
	EventRevoked           = "API_INVOKER_AUTHORIZATION_REVOKED"
	EventOffboarded        = "API_INVOKER_OFFBOARDED"
	EventInvokerUpdated    = "API_INVOKER_UPDATED"
	EventPolicyUpdate      = "ACCESS_CONTROL_POLICY_UPDATE"
	EventPolicyUnavailable = "ACCESS_CONTROL_POLICY_UNAVAILABLE"
	EventAPIUnavailable    = "SERVICE_API_UNAVAILABLE"

	CauseOverlimit     = "OVERLIMIT_USAGE"
	CauseUnexpected    = "UNEXPECTED_REASON"
	CauseAuthorization = "AUTHORIZATION_ISSUE" // Release 19
	CauseOther         = "OTHER_REASON"        // Release 19
)

// Feature bits of CAPIF_Events (TS 29.222 8.3.6).
const (
	featureTestEvent      = 1 << 0
	featureEnhancedReport = 1 << 2
)

// Entry is a context entry for one API at one AEF, with OAuth as its security method.
func Entry(aefID, apiID string) SecurityInformation {
	return SecurityInformation{AEFID: aefID, APIID: apiID, PrefSecurityMethods: []string{"OAUTH"}}
}

// hasFeature reads the hexadecimal mask of supportedFeatures; all features are in its last digit.
func hasFeature(supported string, bit int) bool {
	if supported == "" {
		return false
	}
	digit, err := strconv.ParseUint(supported[len(supported)-1:], 16, 8)
	return err == nil && int(digit)&bit != 0
}
