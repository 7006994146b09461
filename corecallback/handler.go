package corecallback

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Paths of the AEF_Security_API (TS 29.222 9.1.2A), and the default for events.
const (
	RevokeAuthorizationPath = "/aef-security/v1/revoke-authorization"
	CheckAuthenticationPath = "/aef-security/v1/check-authentication"
	DefaultEventsPath       = "/capif/events"
)

const (
	defaultMaxBody = 64 << 10
	minHintSecret  = 16
)

// Options configure a [Handler].
type Options struct {
	// Identities are who the core is; any of them suffices. Without any, only
	// HintPath works, and revoke-authorization and EventsPath answer 403.
	Identities []Identity
	// CoreCA holds the trust anchors of the core's client certificate.
	// Required with Identities.
	CoreCA *x509.CertPool
	// EventsPath receives notifications of the authenticated core. Default
	// DefaultEventsPath.
	EventsPath string
	// HintPath receives notifications of cores that cannot authenticate. It is
	// a secret: its last segment must have at least 16 characters that cannot
	// be guessed. Empty for none.
	HintPath string
	// PreviousHintPath is the one before, accepted while the core still has
	// it. Empty for none.
	PreviousHintPath string
	// MaxBody bounds a body, in bytes. Default 64 KiB.
	MaxBody int64
	// Consumer acts on the messages. Required.
	Consumer Consumer
	// CheckAuthentication answers API invokers. Without it the path is not
	// owned and answered 404.
	CheckAuthentication CheckAuthenticator
	// Count is told how each request ended, and of each event left alone, for
	// metrics. It must be quick and safe for concurrent use. Nil for none.
	Count func(Outcome)
	// Logger receives refusals and failures. Nil for none.
	Logger *slog.Logger
}

// Outcome says how a request ended; the set is closed, fit for a metric label.
type Outcome string

// All outcomes.
const (
	OutcomeRevoked         Outcome = "revoked"         // revoke-authorization carried out
	OutcomeEvent           Outcome = "event"           // event notification carried out
	OutcomeIgnoredEvent    Outcome = "ignored_event"   // one event left alone; counted beside event
	OutcomeHint            Outcome = "hint"            // hint taken
	OutcomeTest            Outcome = "test"            // test notification
	OutcomeChecked         Outcome = "checked"         // check-authentication answered 200
	OutcomeUnauthenticated Outcome = "unauthenticated" // not the core
	OutcomeRefused         Outcome = "refused"         // other 4xx
	OutcomeFailed          Outcome = "failed"          // 503
)

// Outcomes returns all outcomes, so that metrics begin at zero.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeRevoked, OutcomeEvent, OutcomeIgnoredEvent, OutcomeHint, OutcomeTest, OutcomeChecked,
		OutcomeUnauthenticated, OutcomeRefused, OutcomeFailed,
	}
}

// Handler serves what the core says. Make one with [New]; it is safe for
// concurrent use.
type Handler struct {
	core        authenticator
	events      string
	hints       [][sha256.Size]byte
	maxBody     int64
	consumer    Consumer
	checker     CheckAuthenticator
	count       func(Outcome)
	logger      *slog.Logger
	readTimeout time.Duration
	strangers   oncePerSecond // lines about callers that are not the core
	failures    oncePerSecond // lines about a Consumer that failed
}

// New returns a Handler, or an error that says what to change in o. The error
// never quotes a hint path.
func New(o Options) (*Handler, error) {
	if o.Consumer == nil {
		return nil, errors.New("corecallback: a Consumer is required")
	}
	if len(o.Identities) == 0 && o.HintPath == "" {
		return nil, errors.New("corecallback: nothing authenticates the core: set Identities and CoreCA, or a HintPath for a core that has no client certificate")
	}
	if len(o.Identities) > 0 && (o.CoreCA == nil || o.CoreCA.Equal(x509.NewCertPool())) {
		return nil, errors.New("corecallback: Identities are set, but CoreCA has no certificate to verify them with")
	}
	if slices.ContainsFunc(o.Identities, func(id Identity) bool { return id.kind == "" }) {
		return nil, errors.New("corecallback: an Identity is empty: make it with ParseIdentity")
	}
	if o.MaxBody < 0 {
		return nil, fmt.Errorf("corecallback: MaxBody is %d: it must not be negative", o.MaxBody)
	}
	h := &Handler{
		core:        authenticator{identities: slices.Clone(o.Identities), roots: o.CoreCA},
		events:      o.EventsPath,
		maxBody:     o.MaxBody,
		consumer:    o.Consumer,
		checker:     o.CheckAuthentication,
		count:       o.Count,
		logger:      o.Logger,
		readTimeout: defaultReadTimeout,
	}
	if h.events == "" {
		h.events = DefaultEventsPath
	}
	if h.maxBody == 0 {
		h.maxBody = defaultMaxBody
	}
	if h.count == nil {
		h.count = func(Outcome) {}
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	if !plainPath(h.events) {
		return nil, fmt.Errorf("corecallback: EventsPath %q must begin with / and hold only letters, digits and -._~!$&'()*+,;=:@/", h.events)
	}
	if h.events == RevokeAuthorizationPath || h.events == CheckAuthenticationPath {
		return nil, fmt.Errorf("corecallback: EventsPath %q belongs to the AEF_Security_API", h.events)
	}
	for _, path := range []string{o.HintPath, o.PreviousHintPath} {
		if path == "" {
			continue
		}
		err := h.addHintPath(path)
		if err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *Handler) addHintPath(path string) error {
	if !plainPath(path) {
		return errors.New("corecallback: the hint path must begin with / and hold only letters, digits and -._~!$&'()*+,;=:@/")
	}
	secret := path[strings.LastIndexByte(path, '/')+1:]
	if len(secret) < minHintSecret {
		return fmt.Errorf("corecallback: the last segment of the hint path has %d characters: use at least %d that cannot be guessed", len(secret), minHintSecret)
	}
	if path == h.events || path == RevokeAuthorizationPath || path == CheckAuthenticationPath {
		return errors.New("corecallback: the hint path must differ from EventsPath and from the paths of the AEF_Security_API")
	}
	h.hints = append(h.hints, sha256.Sum256([]byte(path)))
	return nil
}

// plainPath reports whether path stands for itself: no escapes, nothing that
// a URL would carry in another form.
func plainPath(path string) bool {
	if !strings.HasPrefix(path, "/") {
		return false
	}
	return !strings.ContainsFunc(path, func(c rune) bool {
		isAlphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		return !isAlphanumeric && !strings.ContainsRune("-._~!$&'()*+,;=:@/", c)
	})
}

// isHintPath compares digests, all of them, in constant time: how long it takes
// says nothing about how much of a guess was right.
func (h *Handler) isHintPath(path string) bool {
	got := sha256.Sum256([]byte(path))
	found := 0
	for i := range h.hints {
		found |= subtle.ConstantTimeCompare(got[:], h.hints[i][:])
	}
	return found == 1
}

// IsHint reports whether a request path is Options.HintPath or PreviousHintPath,
// so that a server can keep such requests out of its access log.
func (h *Handler) IsHint(path string) bool { return h.isHintPath(path) }

// ServeHTTP answers every request: 404 for what it does not own.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.limitReading(w, r)
	var serve http.HandlerFunc
	allowed := []string{http.MethodPost}
	switch path := r.URL.Path; {
	case path == RevokeAuthorizationPath:
		serve = h.revokeAuthorization
	case path == CheckAuthenticationPath && h.checker != nil:
		serve = h.checkAuthentication
	case path == h.events:
		serve = h.notification
		allowed = append(allowed, http.MethodPut)
	case h.isHintPath(path):
		serve = h.hint
		allowed = append(allowed, http.MethodPut)
	default:
		h.count(OutcomeRefused)
		refusal(http.StatusNotFound, "this AEF serves nothing at this path").write(w)
		return
	}
	if !slices.Contains(allowed, r.Method) {
		h.count(OutcomeRefused)
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		refusal(http.StatusMethodNotAllowed, "use "+strings.Join(allowed, " or ")).write(w)
		return
	}
	serve(w, r)
}

var _ http.Handler = (*Handler)(nil)
