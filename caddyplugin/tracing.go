package caddyplugin

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-capif/aef/internal/enforce"
)

// The attributes that a decision adds to the span of the call.
const (
	attributeReason  = attribute.Key("capif.reason")
	attributeInvoker = attribute.Key("capif.api_invoker_id")
)

// annotate adds the decision to the span that Caddy's `tracing` handler, or another
// one before this, has begun. Looking for one takes a sixth of a cached call's time,
// so such a call looks only once a span has been seen: each call that the cache does
// not answer looks, a first one of every token among them. A reload that begins
// tracing is noticed with the next of these.
func (e *Enforce) annotate(r *http.Request, reason enforce.Reason, d *enforce.Decision) {
	if d.Cached && !e.traced.Load() {
		return
	}
	span := trace.SpanFromContext(r.Context())
	if span.SpanContext().IsValid() && !e.traced.Load() {
		e.traced.Store(true)
	}
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attributeReason.String(reason.String()))
	if d.Entry != nil {
		span.SetAttributes(attributeInvoker.String(d.Entry.Invoker))
	}
}
