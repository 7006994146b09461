package corecallback

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// maxDrain is how much of a body that is too long is still read on the hint
// path, so that a core which does not look for an answer while it writes gets it.
const maxDrain = 1 << 20

// limitReading gives the request readTimeout for its body. A server that is
// stricter stays so; one that cannot set deadlines keeps its own. net/http drops
// the deadline when the body has ended, so it does not run against a Consumer.
func (h *Handler) limitReading(w http.ResponseWriter, r *http.Request) {
	server, isServer := r.Context().Value(http.ServerContextKey).(*http.Server)
	if isServer && server.ReadTimeout > 0 && server.ReadTimeout < h.readTimeout {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.readTimeout))
}

// readBody returns the whole body. The error is a problemError.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > h.maxBody {
		return nil, problemError(refusal(http.StatusRequestEntityTooLarge, "the body is too long"))
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, h.maxBody+1))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong), int64(len(body)) > h.maxBody:
		return nil, problemError(refusal(http.StatusRequestEntityTooLarge, "the body is too long"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // the rest may still come
		}
		return nil, problemError(refusal(http.StatusRequestTimeout, "the body did not arrive in time"))
	case err != nil:
		return nil, problemError(refusal(http.StatusBadRequest, "the body could not be read"))
	}
	return body, nil
}

// drain reads on, within bounds.
func drain(r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, maxDrain) }

// tell calls a Consumer. Neither a core that has gone away nor a server that
// reloads cancels it: half a deny is worse than a late answer.
func (h *Handler) tell(r *http.Request, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), consumerTimeout)
	defer cancel()
	return call(ctx)
}

const (
	defaultReadTimeout = 10 * time.Second
	consumerTimeout    = 30 * time.Second
)
