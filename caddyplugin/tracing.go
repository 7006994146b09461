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
// one before this, has begun. Where none is recorded it costs one look into the
// context; that nothing began one cannot be known before, for handlers of others
// may keep routes within them.
func annotate(r *http.Request, reason enforce.Reason, d *enforce.Decision) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attributeReason.String(reason.String()))
	if d.Entry != nil {
		span.SetAttributes(attributeInvoker.String(d.Entry.Invoker))
	}
}
