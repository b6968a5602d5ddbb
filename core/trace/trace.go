// Package trace tells a collector of OpenTelemetry, by OTLP over HTTP, how an
// invocation went: the REST request, its dispatch and the call of the plugin, each a
// span below the one before, and below the caller's own. It is the only package that
// knows OpenTelemetry.
//
// It promises that spans hold names, outcomes and times, and no argument, result,
// message or secret; that no invocation waits for the collector: spans are sent in
// batches, at most queueMax wait, and more are dropped; and that nothing is set for
// the whole process. A nil *Tracer traces nothing.
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// queueMax spans wait for the collector: a second at some 700 invocations.
	queueMax = 2048
	// sendEvery is how late a span may be.
	sendEvery = time.Second
	// sendMax bounds one batch to a collector that hangs.
	sendMax = 10 * time.Second
	// closeMax bounds what Close spends on what is still queued.
	closeMax = 3 * time.Second
	// tracesPath is where OTLP takes traces, below the endpoint.
	tracesPath = "/v1/traces"
)

// Options say where spans go.
type Options struct {
	// Endpoint is the collector's base URL, http://127.0.0.1:4318; empty: no traces.
	Endpoint string
	// Node and Version name this daemon.
	Node, Version string
	Log           *slog.Logger
}

// Tracer makes spans. It is safe for concurrent use.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   api.Tracer
	w3c      propagation.TraceContext
}

// Open makes a Tracer; nil when there is no endpoint. Its goroutine ends in Close. It
// does not ask the collector: one that is not there is logged when spans are sent.
// The variables OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT and _CERTIFICATE, and
// OTEL_TRACES_SAMPLER hold as they do everywhere.
func Open(ctx context.Context, o Options) (*Tracer, error) {
	if o.Endpoint == "" {
		return nil, nil
	}
	endpoint, err := tracesURL(o.Endpoint)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("otlp: %w: %w", plugin.ErrInvalid, err)
	}
	who := resource.NewSchemaless(
		attribute.String("service.name", "patchbay"), attribute.String("service.version", o.Version), attribute.String("service.instance.id", o.Node),
	)
	provider := sdk.NewTracerProvider(sdk.WithResource(who), sdk.WithBatcher(&teller{SpanExporter: exporter, log: o.Log},
		sdk.WithMaxQueueSize(queueMax), sdk.WithBatchTimeout(sendEvery), sdk.WithExportTimeout(sendMax)))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/patchbay-dev/patchbay")}, nil
}

// tracesURL is where traces go at an endpoint.
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("otlp endpoint %q: %w: want a URL such as http://127.0.0.1:4318", endpoint, plugin.ErrInvalid)
	}
	if base := strings.TrimSuffix(u.Path, "/"); !strings.HasSuffix(base, tracesPath) {
		u.Path = base + tracesPath
	}
	return u.String(), nil
}

// Close sends what is queued, for at most closeMax.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeMax)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // teller has told
}

// teller tells once that the collector does not take spans, and once that it does
// again: OpenTelemetry's own way is one for the whole process.
type teller struct {
	sdk.SpanExporter
	log    *slog.Logger
	failed atomic.Bool
}

// ExportSpans sends one batch; one that fails is lost.
func (t *teller) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := t.SpanExporter.ExportSpans(ctx, spans)
	if failed := err != nil; t.failed.Swap(failed) == failed {
		return nil
	}
	if err != nil {
		t.log.Warn("traces are lost: the collector does not take them", "why", err)
	} else {
		t.log.Info("the collector takes traces again")
	}
	return nil
}

// Request begins the span of a REST request, below the caller's own span. The
// returned function ends it with the status of the answer.
func (t *Tracer) Request(r *http.Request, route string) (*http.Request, func(status int)) {
	ctx := t.w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, r.Method+" "+route, api.WithSpanKind(api.SpanKindServer), api.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("http.route", route),
	))
	return r.WithContext(ctx), func(status int) {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			fail(span, http.StatusText(status))
		}
		span.End()
	}
}

// Dispatch begins the span of an invocation, below the request's, or below what its
// metadata names when it came by another door. The returned function ends it.
func (t *Tracer) Dispatch(ctx context.Context, in plugin.Invocation) (context.Context, func(error)) {
	if !api.SpanContextFromContext(ctx).IsValid() {
		ctx = t.w3c.Extract(ctx, propagation.MapCarrier(in.Metadata))
	}
	ctx, span := t.tracer.Start(ctx, "dispatch "+in.Plugin, api.WithAttributes(about(in)...))
	return ctx, func(err error) { end(span, err) }
}

// Calls is what core/supervise asks around each call of an instance: it begins the
// span of the call, whose place the invocation's metadata then carries to the
// plugin. nil when nothing is traced.
func (t *Tracer) Calls() func(ctx context.Context, adapter string, in plugin.Invocation) (context.Context, plugin.Invocation, func(error)) {
	if t == nil {
		return nil
	}
	return func(ctx context.Context, adapter string, in plugin.Invocation) (context.Context, plugin.Invocation, func(error)) {
		ctx, span := t.tracer.Start(ctx, adapter+" "+in.Operation, api.WithSpanKind(api.SpanKindClient),
			api.WithAttributes(append(about(in), attribute.String("patchbay.adapter", adapter))...))
		metadata := make(propagation.MapCarrier, len(in.Metadata)+1) // the caller's is the caller's
		for key, value := range in.Metadata {
			metadata[key] = value
		}
		delete(metadata, "tracestate") // of another place
		t.w3c.Inject(ctx, metadata)
		in.Metadata = metadata
		return ctx, in, func(err error) { end(span, err) }
	}
}

func about(in plugin.Invocation) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("patchbay.plugin", in.Plugin), attribute.String("patchbay.operation", in.Operation),
		attribute.String("patchbay.invocation", in.ID), attribute.String("patchbay.caller", in.Caller),
	}
}

// end ends a span with its outcome: ok, refused, or the class of the error. A
// plugin's own no is no fault.
func end(span api.Span, err error) {
	outcome := outcomeOf(err)
	span.SetAttributes(attribute.String("patchbay.outcome", outcome))
	if outcome != "ok" && outcome != "refused" {
		fail(span, outcome)
	}
	span.End()
}

func fail(span api.Span, class string) {
	span.SetAttributes(attribute.String("error.type", class))
	span.SetStatus(codes.Error, "") // texts of errors may tell of arguments
}

func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	if _, refused := errors.AsType[*plugin.Refusal](err); refused {
		return "refused"
	}
	for _, class := range []error{
		plugin.ErrDeadline, plugin.ErrInvalid, plugin.ErrDenied, plugin.ErrNotFound, plugin.ErrConflict, plugin.ErrBusy, plugin.ErrUnavailable,
		context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, class) {
			return class.Error()
		}
	}
	return plugin.ErrUnavailable.Error()
}
