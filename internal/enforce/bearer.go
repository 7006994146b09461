package enforce

import "strings"

// Bearer takes the token out of the values of the Authorization header
// (RFC 6750 2.1). The other ways of RFC 6750 to send a token, in the body or in
// the query, are not offered: TS 33.122 C.5 names the header. The outcome is
// [Undecided] if there is a token; that it is no list is seen by
// [Decider.Decide] where it does not verify.
func Bearer(authorization []string) (string, Reason) {
	switch len(authorization) {
	case 0:
		return "", NoToken
	case 1:
	default:
		return "", MalformedRequest
	}
	const scheme, usual = "bearer", "Bearer "
	value := authorization[0]
	if len(value) > len(usual) && value[:len(usual)] == usual && value[len(usual)] != ' ' {
		return value[len(usual):], Undecided
	}
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", NoToken
	}
	rest := value[len(scheme):]
	token := strings.TrimLeft(rest, " ")
	switch {
	case rest != "" && len(token) == len(rest):
		return "", NoToken // another scheme that begins alike
	case token == "":
		return "", MalformedRequest
	}
	return token, Undecided
}

// oneToken tells a token from a list of tokens. It is asked only about what does
// not verify: no good token has either character in it.
func oneToken(raw string) bool {
	return strings.IndexByte(raw, ' ') < 0 && strings.IndexByte(raw, ',') < 0
}
