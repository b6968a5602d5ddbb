package trace_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/patchbay-dev/patchbay/core/api"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
	"github.com/patchbay-dev/patchbay/core/trace"
)

// otlp is a collector: it keeps what it is sent.
type otlp struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*spans.Span
	raw   bytes.Buffer
	down  bool
}

func newCollector(t *testing.T) *otlp {
	t.Helper()
	o := &otlp{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var sent collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &sent) != nil {
			t.Errorf("%s: not traces: %v", r.URL.Path, err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.down {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		o.raw.Write(body)
		for _, resource := range sent.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				o.spans = append(o.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(o.Close)
	return o
}

// instance remembers what it was given and does what the operation says.
type instance struct {
	gone chan struct{}
	mu   sync.Mutex
	in   plugin.Invocation
}

func (i *instance) Name() string                { return "fake" }
func (i *instance) Check(plugin.Manifest) error { return nil }
func (i *instance) Resident()                   {}
func (i *instance) Wait() plugin.Exit           { <-i.gone; return plugin.Exit{} }
func (i *instance) Stop(context.Context) error  { close(i.gone); return nil }
func (i *instance) Launch(context.Context, plugin.Launch) (plugin.Instance, error) {
	return i, nil
}

func (i *instance) Invoke(_ context.Context, in plugin.Invocation) (plugin.Result, error) {
	i.mu.Lock()
	i.in = in
	i.mu.Unlock()
	switch in.Operation {
	case "refuse":
		return plugin.Result{}, &plugin.Refusal{Code: "no", Message: "s3cret refusal"}
	case "break":
		return plugin.Result{}, errors.New("s3cret fault")
	}
	return plugin.Result{Data: in.Data}, nil
}

func (i *instance) given() map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.in.Metadata
}

type noLog struct{}

func (noLog) File(plugin.LogStream) (*os.File, error) { return nil, errors.New("not a process") }
func (noLog) Writer(plugin.LogStream) io.Writer       { return io.Discard }
func (noLog) Tail(int) []plugin.LogLine               { return nil }
func (noLog) Stdout(int) ([]byte, bool)               { return nil, true }
func (noLog) Match(*regexp.Regexp) (func() bool, func()) {
	return func() bool { return false }, func() {}
}
func (noLog) Close() {}
func (noLog) Leave() {}

type lookup struct{ p *supervise.Pool }

func (l lookup) Lookup(name string) (*supervise.Pool, bool) { return l.p, name == "p" }

// house is REST, dispatch and one plugin "p".
type house struct {
	api      *api.API
	dispatch *dispatch.Dispatch
	instance *instance
}

func start(t *testing.T, tracer *trace.Tracer) house {
	t.Helper()
	h := house{instance: &instance{gone: make(chan struct{})}}
	var m plugin.Manifest
	if err := json.Unmarshal([]byte(`{"metadata":{"name":"p"},"spec":{"fake":{}}}`), &m); err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	p := supervise.New(&supervise.Deps{
		Adapters: map[string]plugin.Adapter{"fake": h.instance},
		OpenLog:  func(string, string, string, int) supervise.Log { return noLog{} },
		Resolve:  func(map[string]plugin.EnvValue) (map[string]string, error) { return nil, nil },
		Changed: func(c plugin.StateChange) {
			if c.To == plugin.Running {
				close(up)
			}
		},
		Refreshed: func(plugin.Status) {}, Forget: func(string, string) {}, Host: func(string) plugin.Host { return nil },
		Starts: make(chan struct{}, 1), Removals: make(chan struct{}, 1), Log: slog.New(slog.DiscardHandler), Trace: tracer.Calls(),
	}, supervise.Want{Manifest: m.WithDefaults(), Generation: 1, Desired: plugin.DesiredRunning})
	h.dispatch = dispatch.New(lookup{p}, func(plugin.InvocationRecord) {})
	h.dispatch.Trace = tracer
	h.api = api.New(api.Deps{Invoker: h.dispatch, Token: "t", Trace: tracer})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with the cleanup
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	<-up
	return h
}

func (h house) post(operation string, header ...string) int {
	r := httptest.NewRequest("POST", "/v1/plugins/p/operations/"+operation+"?timeout=5s", strings.NewReader(`"s3cret argument"`))
	r.Header.Set("Authorization", "Bearer t")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.api.ServeHTTP(w, r)
	return w.Code
}

func open(t *testing.T, endpoint string, log io.Writer) *trace.Tracer {
	t.Helper()
	tracer, err := trace.Open(t.Context(), trace.Options{Endpoint: endpoint, Node: "n", Version: "v", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tracer.Close)
	return tracer
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
	traceparent  = "00-" + callersTrace + "-" + callersSpan + "-01"
)

// chain follows the spans from the one below parent, and returns their names.
func (o *otlp) chain(t *testing.T, parent string) []*spans.Span {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []*spans.Span
	for range o.spans {
		for _, s := range o.spans {
			if hex.EncodeToString(s.ParentSpanId) == parent {
				found, parent = append(found, s), hex.EncodeToString(s.SpanId)
				break
			}
		}
	}
	return found
}

func names(all []*spans.Span) string {
	var text []string
	for _, s := range all {
		text = append(text, s.Name)
	}
	return strings.Join(text, " > ")
}

func attribute(s *spans.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func TestInvocation_isOneChainFromTheCallerToThePlugin(t *testing.T) {
	o := newCollector(t)
	tracer := open(t, o.URL, io.Discard)
	h := start(t, tracer)
	if code := h.post("echo", "Traceparent", traceparent, "Tracestate", "vendor=1", "Patchbay-Meta-A", "b"); code != 200 {
		t.Fatalf("got %d", code)
	}
	given := h.instance.given()
	tracer.Close()
	all := o.chain(t, callersSpan)
	if got, want := names(all), "POST /v1/plugins/{name}/operations/{operation} > dispatch p > fake echo"; got != want {
		t.Fatalf("got spans %s, want %s", got, want)
	}
	for _, s := range all {
		if hex.EncodeToString(s.TraceId) != callersTrace || s.Status.GetCode() != spans.Status_STATUS_CODE_UNSET {
			t.Errorf("%s: got trace %x, status %v", s.Name, s.TraceId, s.Status)
		}
	}
	if want := "00-" + callersTrace + "-" + hex.EncodeToString(all[2].SpanId) + "-01"; given["traceparent"] != want || given["tracestate"] != "vendor=1" || given["a"] != "b" {
		t.Errorf("the plugin was given %v, want its own span %s", given, want)
	}
	if got := attribute(all[2], "patchbay.adapter") + attribute(all[2], "patchbay.outcome"); got != "fakeok" {
		t.Errorf("got %v", all[2].Attributes)
	}
}

func TestInvocation_byAnotherDoorGoesBelowItsMetadata(t *testing.T) {
	o := newCollector(t)
	tracer := open(t, o.URL+"/v1/traces", io.Discard)
	h := start(t, tracer)
	caller := map[string]string{"traceparent": traceparent}
	if _, err := h.dispatch.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "echo", Metadata: caller, Caller: "bus"}); err != nil {
		t.Fatal(err)
	}
	if err := h.dispatch.InvokeStream(t.Context(), plugin.Invocation{Plugin: "p", Operation: "echo"}, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	tracer.Close()
	if got := names(o.chain(t, callersSpan)); got != "dispatch p > fake echo" {
		t.Errorf("got spans %s", got)
	}
	if got := names(o.chain(t, "")); got != "dispatch p > fake echo" {
		t.Errorf("without a parent: got spans %s", got)
	}
	if caller["traceparent"] != traceparent {
		t.Error("the caller's metadata was changed")
	}
}

func TestOutcome_isTheClassAndNoText(t *testing.T) {
	for _, tt := range []struct {
		operation, outcome string
		status             int
		fault              bool
	}{{"refuse", "refused", 422, false}, {"break", "unavailable", 503, true}} {
		t.Run(tt.operation, func(t *testing.T) {
			o := newCollector(t)
			tracer := open(t, o.URL, io.Discard)
			h := start(t, tracer)
			if code := h.post(tt.operation, "Traceparent", traceparent); code != tt.status {
				t.Errorf("got %d, want %d", code, tt.status)
			}
			tracer.Close()
			all := o.chain(t, callersSpan)
			if len(all) != 3 {
				t.Fatalf("got spans %s", names(all))
			}
			for i, s := range all {
				if fault := s.Status.GetCode() == spans.Status_STATUS_CODE_ERROR; fault != tt.fault || s.Status.GetMessage() != "" {
					t.Errorf("%s: got status %v, want a fault to be %v", s.Name, s.Status, tt.fault)
				}
				if got := attribute(s, "patchbay.outcome"); i > 0 && got != tt.outcome {
					t.Errorf("%s: got outcome %q, want %q", s.Name, got, tt.outcome)
				}
			}
			if o.mu.Lock(); bytes.Contains(o.raw.Bytes(), []byte("s3cret")) {
				t.Error("a text of the invocation was sent")
			}
			o.mu.Unlock()
		})
	}
}

func TestTracer_nilTracesNothing(t *testing.T) {
	tracer := open(t, "", io.Discard)
	if tracer != nil || tracer.Calls() != nil {
		t.Fatal("got a tracer without an endpoint")
	}
	h := start(t, tracer)
	if code := h.post("echo", "Traceparent", traceparent); code != 200 || h.instance.given()["traceparent"] != traceparent {
		t.Errorf("got %d, and the plugin was given %v; want the caller's own", code, h.instance.given())
	}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestCollector_thatRefusesIsToldOnceAndHoldsNobodyUp(t *testing.T) {
	o := newCollector(t)
	o.down = true
	var log lockedBuffer
	tracer := open(t, o.URL, &log)
	h := start(t, tracer)
	began := time.Now()
	for range 5000 {
		if code := h.post("echo"); code != 200 {
			t.Fatalf("got %d", code)
		}
	}
	tracer.Close()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	if got := strings.Count(log.String(), "traces are lost"); got != 1 {
		t.Errorf("told %d times, want once:\n%s", got, log.String())
	}
}

func TestOpen_refusesWhatIsNoURL(t *testing.T) {
	for _, endpoint := range []string{"127.0.0.1:4318", "ftp://a", "http://"} {
		if _, err := trace.Open(t.Context(), trace.Options{Endpoint: endpoint}); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%q: got %v", endpoint, err)
		}
	}
}
