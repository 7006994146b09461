package caddyplugin

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/caddy-capif/aef/internal/revocation"
)

// TestSpanAttributes: the span of the call says what was decided and for whom, and
// never holds the token. A span that is not recorded costs no allocation:
// TestHandlerAllocations has none, and here is one that was sampled out.
func TestSpanAttributes(t *testing.T) {
	b := newBench(t)
	must1(t, b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "denied", APIs: []string{"api-1"}}))
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
	for name, tt := range map[string]struct {
		raw  string
		want map[attribute.Key]string
	}{
		"allowed":  {b.token(t, "invoker-0"), map[attribute.Key]string{"capif.reason": "allowed", "capif.api_invoker_id": "invoker-0"}},
		"denied":   {b.token(t, "denied"), map[attribute.Key]string{"capif.reason": "authorization_revoked", "capif.api_invoker_id": "denied"}},
		"no token": {"nonsense", map[attribute.Key]string{"capif.reason": "token_malformed"}},
	} {
		t.Run(name, func(t *testing.T) {
			recorder.Reset()
			r := b.request(tt.raw)
			ctx, span := tracer.Start(r.Context(), "call")
			must1(t, b.handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx), called))
			span.End()
			got := map[attribute.Key]string{}
			for _, a := range recorder.Ended()[0].Attributes() {
				got[a.Key] = a.Value.AsString()
			}
			if len(got) != len(tt.want) || got["capif.reason"] != tt.want["capif.reason"] || got["capif.api_invoker_id"] != tt.want["capif.api_invoker_id"] {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
	t.Run("allowed, from the cache", func(t *testing.T) { // spans have been seen by now
		r := b.requests(t, 1)[0]
		recorder.Reset()
		ctx, span := tracer.Start(r.Context(), "call")
		must1(t, b.handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx), called))
		span.End()
		if got := len(recorder.Ended()[0].Attributes()); got != 2 {
			t.Errorf("got %d attributes; want 2", got)
		}
	})
	quiet := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("test")
	r := b.request(b.token(t, "invoker-1"))
	ctx, span := quiet.Start(r.Context(), "call")
	defer span.End()
	r = r.WithContext(ctx)
	b.warm(t, []*http.Request{r})
	replacerOf(r).Set("http.auth.user.id", "")
	w := httptest.NewRecorder()
	if got := leastAllocs(func() { must1(t, b.handler.ServeHTTP(w, r, called)) }); got != 0 {
		t.Errorf("got %v allocations for a call that is not traced; want 0", got)
	}
}
