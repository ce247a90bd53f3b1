package examples_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/middleware"
)

// A trace goes through a web service and the sidecar to the provider: the one that
// came in where the service takes no part in it, the service's own span where
// OpenTelemetry is at work.
func TestMiddleware_TraceReachesTheProvider(t *testing.T) {
	s := start(t, provider.Config{})
	incoming := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5, 6}, TraceFlags: trace.FlagsSampled,
	})
	state, err := trace.ParseTraceState("vendor=x")
	if err != nil {
		t.Fatal(err)
	}
	own := incoming.WithSpanID(trace.SpanID{7, 8, 9})
	otel.SetTextMapPropagator(propagation.TraceContext{})

	inject := middleware.Trace(func(ctx context.Context, h http.Header) {
		otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(h))
	})
	tests := []struct {
		name string
		opts []middleware.Option
		span trace.SpanContext // of the service's handler
		want trace.SpanContext
	}{
		{"the service has no OpenTelemetry", nil, trace.SpanContext{}, incoming.WithTraceState(state)},
		{"the service has a span of its own", []middleware.Option{inject}, own, own},
		{"the service's spans are off", []middleware.Option{inject}, trace.SpanContext{}, trace.SpanContext{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			llm := middleware.Client(s.sidecar, nil, tt.opts...)
			service := middleware.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				if tt.span.IsValid() {
					ctx = trace.ContextWithSpanContext(ctx, tt.span)
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.sidecar+"/chat/completions", strings.NewReader(chatBody("say 2 words")))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				resp, err := llm.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				w.WriteHeader(resp.StatusCode)
			}))
			req := httptest.NewRequest(http.MethodPost, "/ask", nil)
			req.Header.Set("X-Session-Id", "traced")
			otel.GetTextMapPropagator().Inject(
				trace.ContextWithRemoteSpanContext(context.Background(), incoming.WithTraceState(state)), propagation.HeaderCarrier(req.Header))
			answer := httptest.NewRecorder()
			service.ServeHTTP(answer, req)
			if answer.Code != http.StatusOK {
				t.Fatalf("the service answered %d", answer.Code)
			}

			entries := s.provider.Ledger()
			ctx := otel.GetTextMapPropagator().Extract(context.Background(), propagation.HeaderCarrier(entries[len(entries)-1].Header))
			if got := trace.SpanContextFromContext(ctx); !got.Equal(tt.want.WithRemote(tt.want.IsValid())) {
				t.Errorf("the provider sees %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := s.status(t, "traced"); got.RequestCount != 3 {
		t.Errorf("booked %+v", got)
	}
}
