package revocation

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Digest names a token: SHA-256 of its JWS signing input. It identifies, it
// never authorizes. The zero value means "every token".
type Digest [sha256.Size]byte

// IsZero reports whether d names no token.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns the digest in hexadecimal, or "" for the zero value.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// MarshalText lets a digest stand in JSON as hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Digest{}
		return nil
	}
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(d) {
		return fmt.Errorf("a token digest has %d hexadecimal digits", 2*len(d))
	}
	copy(d[:], raw)
	return nil
}

// Scope says which calls a claim covers.
type Scope struct {
	// Invoker is the apiInvokerId. Never empty.
	Invoker string `json:"api_invoker_id"`
	// AEF is the aefId; "" means every aefId hosted here, resolved when a
	// call is decided.
	AEF string `json:"aef_id,omitempty"`
	// API is the apiId; "" means all APIs of the invoker.
	API string `json:"api_id,omitempty"`
	// Token narrows the scope to one token; the zero value covers all.
	Token Digest `json:"token_digest,omitzero"`
}

// Origin says who set a claim, and so who may lift it.
type Origin uint8

const (
	// OriginAEF is a trigger of this AEF: operator, policy or route.
	OriginAEF Origin = 1
	// OriginCore is an authenticated command or event of the core.
	OriginCore Origin = 2
)

// String returns "aef" or "core".
func (o Origin) String() string {
	switch o {
	case OriginAEF:
		return "aef"
	case OriginCore:
		return "core"
	default:
		return "unknown"
	}
}

// MarshalText lets an origin stand in JSON as its name.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (o *Origin) UnmarshalText(text []byte) error {
	switch string(text) {
	case "aef":
		*o = OriginAEF
	case "core":
		*o = OriginCore
	default:
		return fmt.Errorf("unknown origin %q", text)
	}
	return nil
}

// Claim is one durable reason to deny.
type Claim struct {
	Scope
	Origin Origin `json:"origin"`
	// Sequence is the ledger's counter at the last time the claim was set.
	Sequence uint64 `json:"sequence"`
	// Revocation is the id of the revocation that set an aef claim.
	Revocation string `json:"revocation,omitempty"`
	// Cause is TS 29.222 8.5.4.2.5 cause, an open enumeration.
	Cause string `json:"cause,omitempty"`
	// SetAt is when the claim was first set.
	SetAt time.Time `json:"set_at"`
	// Expires is set on token claims only: exp of the token plus 24 h.
	Expires time.Time `json:"expires,omitzero"`
	// AbsentSequence is when a read begun after the claim was set showed the
	// context without what the claim is about; 0 for never. It matters only
	// where the core may lift its own claims.
	AbsentSequence uint64 `json:"absent_sequence,omitempty"`

	revocationSeq uint64
}

// State is where a revocation stands with the core.
type State string

const (
	// StatePending means the core has not decided; it is asked again.
	StatePending State = "pending"
	// StateRevoked means the core no longer lists the authorization.
	StateRevoked State = "revoked"
	// StateUnconfirmed means the core said yes and still lists it.
	StateUnconfirmed State = "unconfirmed"
	// StateNoAuthorizationFound means the core listed nothing to revoke.
	StateNoAuthorizationFound State = "no_authorization_found"
	// StateRejected means the core refused the request as wrong.
	StateRejected State = "rejected"
	// StateCancelled means an operator's lift ended it.
	StateCancelled State = "cancelled"
	// StateDamaged is no state of a revocation: a listing says so of a record
	// that cannot be read, of which nothing but its id is known.
	StateDamaged State = "damaged"
)

// States returns every state that a listing can show.
func States() []State {
	return []State{StatePending, StateRevoked, StateUnconfirmed, StateNoAuthorizationFound, StateRejected, StateCancelled, StateDamaged}
}

// Revocation is the record of one trigger for one (invoker, apiId), or for all
// APIs of an invoker when APIID is empty.
type Revocation struct {
	ID        string `json:"id"`
	Sequence  uint64 `json:"sequence"`
	InvokerID string `json:"api_invoker_id"`
	AEFID     string `json:"aef_id"`
	APIID     string `json:"api_id,omitempty"`
	AllAPIs   bool   `json:"all_apis,omitempty"`
	// AllAEFs is the indication of 8.23.3 step 7 as it was asked: true,
	// false or absent.
	AllAEFs *bool  `json:"all_aefs,omitempty"`
	Cause   string `json:"cause"`
	Reason  string `json:"reason,omitempty"`
	Ticket  string `json:"ticket,omitempty"`
	// RequestedBy is who asked, as far as Caddy knows it.
	RequestedBy string `json:"requested_by,omitempty"`
	// Source is what asked: operator, policy or route.
	Source Source `json:"source,omitempty"`
	// Hold says that the invoker was blocked before the core's word.
	Hold  bool  `json:"hold"`
	State State `json:"state"`
	// Listed and Sent are durable before a request leaves: the core listed
	// the authorization, and a request may have reached it.
	Listed bool `json:"listed,omitempty"`
	Sent   bool `json:"sent,omitempty"`
	// Confirmed counts requests that the core answered with 2xx.
	Confirmed int `json:"confirmed,omitempty"`
	// Attempts counts exchanges that ended without a decision.
	Attempts    int       `json:"attempts,omitempty"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
	CreatedAt   time.Time `json:"created_at"`
	DecidedAt   time.Time `json:"decided_at,omitzero"`
	// Exposure is what passed between the trigger and the block, or without a
	// block the decision. Absent until then, and where a restart came between.
	Exposure *Exposure `json:"exposure,omitempty"`
	// Answers are the last answers of the core, oldest first, at most 16.
	Answers []Answer `json:"answers,omitempty"`
}

// Answer is one answer of the core, or the lack of one.
type Answer struct {
	At        time.Time `json:"at"`
	Operation string    `json:"operation"`
	// Status is the HTTP status, 0 when there was no answer.
	Status int    `json:"status,omitempty"`
	Detail string `json:"detail,omitempty"`
}

const maxAnswers = 16

// Scope is what the claim of this revocation covers.
func (r *Revocation) scope() Scope {
	return Scope{Invoker: r.InvokerID, AEF: r.AEFID, API: r.APIID}
}

// sameRequest says whether r was asked for in the same words as t. Hold and
// who asked do not count: design rule "equal to a revocation still pending".
func (r *Revocation) sameRequest(t *Trigger) bool {
	sameAEFs := (r.AllAEFs == nil) == (t.AllAEFs == nil) && (r.AllAEFs == nil || *r.AllAEFs == *t.AllAEFs)
	return sameAEFs && r.Cause == t.Cause && r.Reason == t.Reason && r.Ticket == t.Ticket
}

// MaxIDBytes bounds every identifier that enters the ledger.
const MaxIDBytes = 1024

// ErrInvalid is wrapped by every error about the content of a change. Nothing
// of such a change was applied.
var ErrInvalid = errors.New("invalid")

func checkID(what, id string) error {
	if id == "" {
		return fmt.Errorf("%w: %s is empty", ErrInvalid, what)
	}
	if len(id) > MaxIDBytes {
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrInvalid, what, MaxIDBytes)
	}
	if !utf8.ValidString(id) {
		return fmt.Errorf("%w: %s is not UTF-8", ErrInvalid, what) // JSON would not bring it back
	}
	if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: %s holds a control character", ErrInvalid, what)
	}
	return nil
}

// maxTextBytes bounds every free text of a record.
const maxTextBytes = 4096

func checkText(what, text string) error {
	if len(text) > maxTextBytes {
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrInvalid, what, maxTextBytes)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%w: %s is not UTF-8", ErrInvalid, what)
	}
	return nil
}

// clip makes a text fit for a record: a deny is not refused for its cause.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxTextBytes)], "")
}

func (s Scope) check() error {
	if err := checkID("api_invoker_id", s.Invoker); err != nil {
		return err
	}
	if s.AEF != "" {
		if err := checkID("aef_id", s.AEF); err != nil {
			return err
		}
	}
	if s.API != "" {
		return checkID("api_id", s.API)
	}
	return nil
}
