package corecallback

import (
	"context"
	"encoding/json"
	"log/slog"
	"mime"
	"net/http"
	"strings"
)

// revokeAuthorization revokes first and answers then (TS 29.222 6.2.2.3.2).
func (h *Handler) revokeAuthorization(w http.ResponseWriter, r *http.Request) {
	if !h.authenticate(w, r) {
		return
	}
	body, err := h.readJSON(w, r)
	if err != nil {
		h.fail(w, whatRevoke, err)
		return
	}
	req, err := ParseRevokeAuthorization(body)
	if err != nil {
		h.fail(w, whatRevoke, err)
		return
	}
	info := req.RevokeInfo
	d := Deny{
		Invokers: []string{info.APIInvokerID},
		AEFID:    info.AEFID,
		APIIDs:   info.APIIDs,
		Token:    info.AccessToken,
		Cause:    info.Cause,
	}
	err = h.tell(r, func(ctx context.Context) error { return h.consumer.Deny(ctx, d) })
	if err != nil {
		h.fail(w, whatRevoke, err)
		return
	}
	h.count(OutcomeRevoked)
	writeFeatures(w, req.SupportedFeatures)
}

// checkAuthentication passes the question on; see [CheckAuthenticator].
func (h *Handler) checkAuthentication(w http.ResponseWriter, r *http.Request) {
	body, err := h.readJSON(w, r)
	if err != nil {
		h.fail(w, whatCheck, err)
		return
	}
	req, err := ParseCheckAuthentication(body)
	if err != nil {
		h.fail(w, whatCheck, err)
		return
	}
	c := CheckAuthentication{Invoker: req.APIInvokerID, RemoteAddr: r.RemoteAddr}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		c.Certificate = r.TLS.PeerCertificates[0]
	}
	err = h.tell(r, func(ctx context.Context) error { return h.checker.CheckAuthentication(ctx, c) })
	if err != nil {
		h.fail(w, whatCheck, err)
		return
	}
	h.count(OutcomeChecked)
	writeFeatures(w, req.SupportedFeatures)
}

// notification carries out an event of the authenticated core. Content types
// do not matter here: real cores are careless with them, and the body decides.
func (h *Handler) notification(w http.ResponseWriter, r *http.Request) {
	if !h.authenticate(w, r) {
		return
	}
	body, err := h.readBody(w, r)
	if err != nil {
		h.fail(w, whatEvent, err)
		return
	}
	o, err := parseBody(body)
	if err != nil {
		h.fail(w, whatEvent, err)
		return
	}
	if isTest(o) {
		h.count(OutcomeTest)
		writeNoContent(w)
		return
	}
	n, err := eventNotification(o)
	if err != nil {
		h.fail(w, whatEvent, err)
		return
	}
	actions, ignored, err := interpret(n)
	if err != nil {
		h.fail(w, whatEvent, err)
		return
	}
	for _, event := range ignored {
		h.count(OutcomeIgnoredEvent)
		h.logger.Debug("event left alone", slog.String("event", event))
	}
	err = h.tell(r, func(ctx context.Context) error {
		for _, act := range actions {
			err := act(ctx, h.consumer)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		h.fail(w, whatEvent, err)
		return
	}
	h.count(OutcomeEvent)
	writeNoContent(w)
}

// hint takes whatever arrives as the wish for a read: too long, cut off, empty
// or not JSON, it still says that something happened at the core.
func (h *Handler) hint(w http.ResponseWriter, r *http.Request) {
	var known Hint
	body, err := h.readBody(w, r)
	if err != nil {
		drain(r)
	} else if o, err := parseBody(body); err == nil {
		if isTest(o) {
			h.count(OutcomeTest)
			writeNoContent(w)
			return
		}
		known.Invokers, known.Event = namedInvokers(o)
	}
	err = h.tell(r, func(ctx context.Context) error { return h.consumer.Hint(ctx, known) })
	if err != nil {
		h.fail(w, whatHint, err)
		return
	}
	h.count(OutcomeHint)
	writeNoContent(w)
}

// readJSON is readBody for the AEF_Security_API, where the standard has 415. A
// missing content type passes: the body is decoded strictly anyway.
func (h *Handler) readJSON(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	given := r.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(given)
	isJSON := err == nil && (mediaType == "application/json" ||
		strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json"))
	if given != "" && !isJSON {
		w.Header().Set("Accept", "application/json")
		return nil, problemError(refusal(http.StatusUnsupportedMediaType, "send application/json"))
	}
	return h.readBody(w, r)
}

// fail answers with the problem for err and logs it, failures of ours at most
// once a second. The text of a refusal says what is wrong with the message
// without quoting it.
func (h *Handler) fail(w http.ResponseWriter, what string, err error) {
	p := problemFor(err)
	if p.Status == http.StatusServiceUnavailable {
		h.count(OutcomeFailed)
		skipped, due := h.failures.due()
		if due {
			h.logger.Error("message not carried out", slog.String("message", what),
				slog.Any("error", err), slog.Int("not_logged_since", skipped))
		}
		p.write(w)
		return
	}
	h.count(OutcomeRefused)
	level := slog.LevelWarn
	if what == whatCheck {
		level = slog.LevelDebug // anyone can send these
	}
	h.logger.Log(context.Background(), level, "message refused", slog.String("message", what),
		slog.Int("status", p.Status), slog.Any("error", err))
	p.write(w)
}

// Kinds of messages, for log lines.
const (
	whatRevoke = "revoke_authorization"
	whatCheck  = "check_authentication"
	whatEvent  = "event_notification"
	whatHint   = "hint"
)

// writeFeatures is the 200 of the AEF_Security_API: the features that both
// sides have (TS 29.222 7.8).
func writeFeatures(w http.ResponseWriter, theirs Features) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]Features{"supportedFeatures": theirs.Intersect(FeatureExt1)})
}

func writeNoContent(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}
