package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

var (
	errNotObject = errors.New("not a JSON object")
	errNotString = errors.New("not a JSON string")
)

// members calls visit for each member of the one JSON object in data, in the
// order of data and with repeats, which a map or a struct would hide. value has
// no space around it and is valid during the call only. The first error of
// visit ends it.
//
// encoding/json judges first whether data is JSON. What is left, finding where a
// member of valid JSON ends, is done here: a json.Decoder reading token by token
// costs ten allocations for each member.
func members(data []byte, visit func(name string, value []byte) error) error {
	// encoding/json replaces bytes that are not UTF-8, so that two different
	// names could become the same one.
	if !utf8.Valid(data) || !json.Valid(data) {
		return errNotObject
	}
	data = trimSpace(data)
	if data[0] != '{' {
		return errNotObject
	}
	for rest := trimSpace(data[1:]); rest[0] != '}'; {
		n := valueLen(rest)
		quoted := rest[:n]
		rest = trimSpace(trimSpace(rest[n:])[1:]) // the colon
		n = valueLen(rest)
		value := rest[:n]
		rest = trimSpace(rest[n:])
		if rest[0] == ',' {
			rest = trimSpace(rest[1:])
		}

		var name string
		err := stringValue(quoted, &name)
		if err != nil {
			return err
		}
		err = visit(name, value)
		if err != nil {
			return err
		}
	}
	return nil
}

// trimSpace removes leading JSON white space.
func trimSpace(data []byte) []byte { return bytes.TrimLeft(data, " \t\r\n") }

// valueLen returns the length of the JSON value that data begins with. data is
// the rest of a valid object, so there is always an end.
func valueLen(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i += stringLen(data[i:]) - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // behind a number or a word
				return i
			}
			depth--
			if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return len(data)
}

// stringLen returns the length of the JSON string that data begins with.
func stringLen(data []byte) int {
	for i := 1; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// stringValue decodes a valid JSON value into s if it is a string, and refuses
// every other type.
func stringValue(value []byte, s *string) error {
	if len(value) < 2 || value[0] != '"' {
		return errNotString
	}
	if bytes.IndexByte(value, '\\') < 0 {
		*s = string(value[1 : len(value)-1])
		return nil
	}
	return json.Unmarshal(value, s)
}
