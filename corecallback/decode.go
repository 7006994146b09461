package corecallback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxIDBytes  = 1024 // of one id or cause; the standard has no limit, a ledger has
	maxIDs      = 1000 // in one list
	maxRefusals = 20   // in one answer
)

// object is a JSON object, by canonical member name. A member can be there more
// than once: in two spellings, or simply twice.
type object map[string][]json.RawMessage

// canonical makes camelCase and snake_case the same name.
func canonical(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// reader decodes one message and collects all that is wrong with it, so that
// the core is told at once.
type reader struct{ invalid InvalidParams }

func (r *reader) refuse(param, reason string) {
	if len(r.invalid) < maxRefusals {
		r.invalid = append(r.invalid, InvalidParam{Param: param, Reason: reason})
	}
}

func (r *reader) err() error {
	if len(r.invalid) == 0 {
		return nil
	}
	return r.invalid
}

// parseBody returns the one JSON object that body must be. Its errors quote
// nothing of the body.
func parseBody(body []byte) (object, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, problemError(refusal(http.StatusBadRequest, "the body is empty; a JSON object is expected"))
	}
	if !utf8.Valid(body) {
		return nil, problemError(refusal(http.StatusBadRequest, "the body is not valid UTF-8"))
	}
	var value json.RawMessage
	err := json.Unmarshal(body, &value)
	if err != nil {
		detail := "the body is not one complete JSON value"
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			detail = fmt.Sprintf("the body is not one complete JSON value: error at byte %d", syntax.Offset)
		}
		return nil, problemError(refusal(http.StatusBadRequest, detail))
	}
	o := parseObject(value)
	if o == nil {
		return nil, problemError(refusal(http.StatusBadRequest, "the body is not a JSON object"))
	}
	return o, nil
}

// parseObject returns nil if raw, which is valid JSON, is not an object.
func parseObject(raw json.RawMessage) object {
	d := json.NewDecoder(bytes.NewReader(raw))
	first, err := d.Token()
	if err != nil || first != json.Delim('{') {
		return nil
	}
	o := object{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil
		}
		name, isText := key.(string)
		if !isText {
			return nil
		}
		var value json.RawMessage
		err = d.Decode(&value)
		if err != nil {
			return nil
		}
		name = canonical(name)
		o[name] = append(o[name], value)
	}
	return o
}

// member returns the value of names[0], for which the other names stand, too;
// nil if it is missing or null. Of two different values neither is taken.
func (r *reader) member(o object, param string, names ...string) json.RawMessage {
	var found json.RawMessage
	for _, name := range names {
		for _, value := range o[canonical(name)] {
			if string(value) == "null" {
				continue
			}
			if found != nil && !bytes.Equal(found, value) {
				r.refuse(param, "is given more than once, with different values")
				return nil
			}
			found = value
		}
	}
	return found
}

// required is member for what must not be missing. It refuses once only: what
// was refused as ambiguous is not said to be missing as well.
func (r *reader) required(o object, param string, names ...string) json.RawMessage {
	before := len(r.invalid)
	value := r.member(o, param, names...)
	if value == nil && len(r.invalid) == before {
		r.refuse(param, "is required")
	}
	return value
}

// text returns the string in raw, empty if raw is nil or refused.
func (r *reader) text(raw json.RawMessage, param string) string {
	if raw == nil {
		return ""
	}
	var s string
	err := json.Unmarshal(raw, &s)
	switch {
	case err != nil:
		r.refuse(param, "must be a string")
	case s == "":
		r.refuse(param, "must not be empty; leave it out if there is none")
	default:
		return s
	}
	return ""
}

// id returns a string that names something.
func (r *reader) id(raw json.RawMessage, param string) string {
	s := r.text(raw, param)
	switch {
	case len(s) > maxIDBytes:
		r.refuse(param, fmt.Sprintf("must not be longer than %d bytes", maxIDBytes))
	case strings.ContainsFunc(s, unicode.IsControl):
		r.refuse(param, "must not hold control characters")
	case strings.ContainsRune(s, utf8.RuneError):
		// Where the decoder found half a surrogate pair: two ids could
		// become one.
		r.refuse(param, "must be well-formed Unicode")
	default:
		return s
	}
	return ""
}

// list returns the elements of an array, nil if raw is nil or refused.
func (r *reader) list(raw json.RawMessage, param string) []json.RawMessage {
	if raw == nil {
		return nil
	}
	var elements []json.RawMessage
	err := json.Unmarshal(raw, &elements)
	if err != nil {
		r.refuse(param, "must be an array")
		return nil
	}
	return elements
}

// ids returns the ids of an array, each once, in order.
func (r *reader) ids(raw json.RawMessage, param string) []string {
	elements := r.list(raw, param)
	if len(elements) > maxIDs {
		r.refuse(param, fmt.Sprintf("must not hold more than %d entries", maxIDs))
		return nil
	}
	var ids []string
	seen := make(map[string]bool, len(elements))
	for i, element := range elements {
		id := r.id(element, param+"/"+strconv.Itoa(i))
		if id == "" || seen[id] {
			continue
		}
		seen[id] = true
		ids = append(ids, id)
	}
	return ids
}

// number returns a whole number that is not negative, nil if raw is nil or refused.
func (r *reader) number(raw json.RawMessage, param string) *int64 {
	if raw == nil {
		return nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 0 {
		r.refuse(param, "must be a whole number, not negative")
		return nil
	}
	return &n
}

// features returns the mask in raw; an empty one is valid.
func (r *reader) features(o object, param string) Features {
	raw := r.required(o, param, "supportedFeatures")
	if raw == nil {
		return ""
	}
	var f Features
	err := json.Unmarshal(raw, &f)
	if err != nil || !f.valid() {
		r.refuse(param, "must be a string of hexadecimal digits")
		return ""
	}
	return f
}
