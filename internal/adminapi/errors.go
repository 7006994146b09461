package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
)

// Kind says what went wrong with a call of the admin API.
type Kind int

const (
	// KindFailed is anything else; the message says what.
	KindFailed Kind = iota
	// KindUnreachable means that nothing answers at the address, or that it ended
	// the connection before it had answered.
	KindUnreachable
	// KindWrongAddress means that something answers, and that it is no admin
	// endpoint of a Caddy with this plugin.
	KindWrongAddress
	// KindNotConfigured means that the running Caddy has no capif app.
	KindNotConfigured
	// KindNotFound means that there is no such record.
	KindNotFound
	// KindInvalid means that the request was refused; nothing was changed.
	KindInvalid
	// KindUnavailable means that the ledger is not open, or cannot be written
	// and the outcome is unknown.
	KindUnavailable
)

// CallError is what every failing call of a [Client] returns. Its text says what to
// do next.
type CallError struct {
	Kind    Kind
	Address string
	// Status is the HTTP status, 0 if there was no answer.
	Status int
	// Message is what Caddy said.
	Message string
	Err     error
}

// Error says what went wrong and what to do next.
func (e *CallError) Error() string {
	switch e.Kind {
	case KindUnreachable:
		if errors.Is(e.Err, fs.ErrPermission) {
			return fmt.Sprintf("the admin endpoint %s may not be opened by this user: run the command as the user that may, such as with sudo: %v", e.Address, e.Err)
		}
		if isCut(e.Err) {
			return fmt.Sprintf("the admin endpoint %s ended the connection before it had answered, as a Caddy that reloads or stops may do: what was asked may have been done; see `caddy capif list` and `caddy capif audit`, or ask again: %v", e.Address, e.Err)
		}
		return fmt.Sprintf("no Caddy answers at the admin endpoint %s: start Caddy, or name its admin endpoint with --address, or its configuration with --config: %v", e.Address, e.Err)
	case KindWrongAddress:
		return fmt.Sprintf("what answers at %s is not the admin endpoint of a Caddy with this plugin (HTTP %d): check --address, and that `caddy list-modules` of the running Caddy shows admin.api.capif", e.Address, e.Status)
	case KindNotConfigured:
		return fmt.Sprintf("the Caddy at %s runs without the capif app: add the global option capif to its configuration and reload it, or name another Caddy with --address", e.Address)
	case KindNotFound:
		return e.Message + "; `caddy capif list` and `caddy capif status` show what there is"
	case KindInvalid:
		return "refused, nothing was changed: " + e.Message
	case KindUnavailable:
		return e.Message
	default:
		if e.Err != nil {
			return fmt.Sprintf("asking the Caddy at %s: %v", e.Address, e.Err)
		}
		return fmt.Sprintf("the Caddy at %s answered HTTP %d: %s", e.Address, e.Status, e.Message)
	}
}

// Unwrap returns the cause.
func (e *CallError) Unwrap() error { return e.Err }

// answered makes an error of an answer that is none of ours, or an error.
func answered(address string, response *http.Response, body []byte) *CallError {
	e := &CallError{Address: address, Status: response.StatusCode}
	var said Error
	if json.Unmarshal(body, &said) == nil {
		e.Message = said.Error
	}
	switch response.Header.Get(HeaderError) {
	case CodeNotConfigured:
		e.Kind = KindNotConfigured
	case CodeNotFound:
		e.Kind = KindNotFound
	case CodeInvalid:
		e.Kind = KindInvalid
	case CodeUnavailable:
		e.Kind = KindUnavailable
	case CodeInternal:
		e.Kind = KindFailed
	default:
		// Caddy itself answers JSON where it refuses a host or an origin.
		e.Kind = KindWrongAddress
		if said.Error != "" && response.StatusCode != http.StatusNotFound && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
			e.Kind = KindFailed
		}
	}
	return e
}
