package token

import "strings"

// GrantsAPI reports whether scope names the API apiName at the AEF aefID in a
// scope value of CAPIF, `3gpp#aefId:apiName,apiName;aefId:apiName`
// (TS 29.222 8.5.4.2.8). The match is exact in every part: the prefix, both
// names, their case. scope may hold several values separated by spaces.
//
// An entry between semicolons that does not have exactly this form grants
// nothing, and the entries beside it keep their meaning: later releases add
// finer scopes, whose syntax must not be mistaken for a grant of the whole API.
// A name consists of the scope characters of RFC 6749 3.3 without # , : and ;
// so a name with any other character is never granted. It allocates nothing.
func GrantsAPI(scope, aefID, apiName string) bool {
	if aefID == "" || apiName == "" {
		return false
	}
	for value := range strings.SplitSeq(scope, " ") {
		entries, ok := strings.CutPrefix(value, "3gpp#")
		if !ok {
			continue
		}
		for entry := range strings.SplitSeq(entries, ";") {
			if entryGrants(entry, aefID, apiName) {
				return true
			}
		}
	}
	return false
}

// entryGrants judges one aef-entry. The whole entry must be well formed, also
// behind the name that matches.
func entryGrants(entry, aefID, apiName string) bool {
	id, names, ok := strings.Cut(entry, ":")
	if !ok || id != aefID || !isName(id) {
		return false
	}
	granted := false
	for name := range strings.SplitSeq(names, ",") {
		if !isName(name) {
			return false
		}
		granted = granted || name == apiName
	}
	return granted
}

// isName reports whether s is one or more characters that a scope value of
// RFC 6749 3.3 may have, less the separators of the CAPIF form.
func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c <= 0x20, c >= 0x7f, c == '"', c == '\\':
			return false
		case c == '#', c == ',', c == ':', c == ';':
			return false
		}
	}
	return s != ""
}

// HasScope reports whether the space-separated list scope has exactly value
// among its values (RFC 6749 3.3). It is for tokens of issuers that do not use
// the CAPIF form. It allocates nothing.
func HasScope(scope, value string) bool {
	if value == "" {
		return false
	}
	for v := range strings.SplitSeq(scope, " ") {
		if v == value {
			return true
		}
	}
	return false
}
