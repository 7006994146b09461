package token

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxNumericDate is the end of the year 9999: a later exp is a mistake, and
// arithmetic with times below it cannot overflow.
const maxNumericDate = 253402300799

// claimReader collects the claims that decide. Others are passed over, whatever
// their type.
type claimReader struct {
	invokerClaims []string
	scopeClaim    string

	exp, nbf       int64
	hasExp, hasNbf bool
	scope          string
	hasScope       bool
	invokers       []string // by index in invokerClaims, "" is absent
}

// read fills r from the payload of a token. The error is a *Error of Kind
// Malformed or NoInvoker. Whether the invoker is there is for invoker to say.
func (r *claimReader) read(payload []byte) error {
	err := members(payload, r.visit)
	if errors.Is(err, errNotObject) {
		return errClaims
	}
	return err
}

func (r *claimReader) visit(name string, value []byte) error {
	switch name {
	case "exp":
		seconds, ok := numericDate(value, math.Floor)
		if r.hasExp || !ok {
			return errExpType
		}
		r.exp, r.hasExp = seconds, true
	case "nbf":
		// Rounded up: a token is not valid a part of a second early.
		seconds, ok := numericDate(value, math.Ceil)
		if r.hasNbf || !ok {
			return errNbfType
		}
		r.nbf, r.hasNbf = seconds, true
	}
	// A configured name may be any claim, so these are no cases of the switch.
	if name == r.scopeClaim && name != "" {
		scope, ok := scopeValue(value)
		if r.hasScope || !ok {
			return errScopeType
		}
		r.scope, r.hasScope = scope, true
	}
	if i := slices.Index(r.invokerClaims, name); i >= 0 {
		return r.visitInvoker(i, value)
	}
	return nil
}

// maxInvokerBytes bounds the name of an API invoker, as the ledger does: one that
// no claim can name could never be revoked.
const maxInvokerBytes = 1024

func (r *claimReader) visitInvoker(i int, value []byte) error {
	var s string
	err := stringValue(value, &s)
	switch {
	case err != nil, r.invokers[i] != "", len(s) > maxInvokerBytes, !plainText(s):
		return errInvokerType
	case s == "":
		return errNoInvoker
	}
	r.invokers[i] = s
	return nil
}

// invoker returns the one name that all invoker claims present agree on.
func (r *claimReader) invoker() (string, error) {
	found := ""
	for _, s := range r.invokers {
		switch {
		case s == "", s == found:
		case found == "":
			found = s
		default:
			return "", errInvokersDiffer
		}
	}
	if found == "" {
		return "", errNoInvoker
	}
	return found, nil
}

// plainText refuses what could make two invokers look alike in a log or turn
// one id into another: control characters, and the replacement character, which
// encoding/json writes for a lone surrogate.
func plainText(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return c == unicode.ReplacementChar || unicode.IsControl(c)
	})
}

// numericDate reads a NumericDate (RFC 7519 2) from 0 to the year 9999, which
// may have a fraction.
func numericDate(value []byte, round func(float64) float64) (int64, bool) {
	text := string(value)
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		// A JSON value that ParseFloat takes begins with a digit or a minus.
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, false
		}
		f = round(f)
		if !(f >= 0 && f <= maxNumericDate) {
			return 0, false
		}
		seconds = int64(f)
	}
	return seconds, seconds >= 0 && seconds <= maxNumericDate
}

// scopeValue reads a scope: a string (RFC 9068 2.2.3), or a list of strings as
// some issuers write it, which comes back joined with spaces.
func scopeValue(value []byte) (string, bool) {
	if len(value) > 0 && value[0] == '[' {
		var list []*string
		err := json.Unmarshal(value, &list)
		if err != nil || slices.Contains(list, nil) {
			return "", false
		}
		all := make([]string, len(list))
		for i, s := range list {
			all[i] = *s
		}
		return strings.Join(all, " "), true
	}
	var s string
	err := stringValue(value, &s)
	return s, err == nil
}
