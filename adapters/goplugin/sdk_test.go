package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// patience is for a loaded machine.
const patience = 20 * time.Second

// sinkSpec is a plugin of sdk/go/goplugin that has an operation of every form.
func sinkSpec(t testing.TB) goplugin.Spec {
	return goplugin.Spec{Command: []string{built(t, "sink")}, Preset: "patchbay"}
}

// TestConformance_sdk: a plugin of the SDK is one that Patchbay's adapter knows everything of,
// by its preset.
func TestConformance_sdk(t *testing.T) {
	spec := sinkSpec(t)
	conformance.Run(t, conformance.Fixture{
		Adapter:  goplugin.New(goplugin.Options{}),
		Manifest: func(t testing.TB) plugin.Manifest { return manifest(t, spec) },
		Echo:     conformance.Call{Operation: "Echo", Data: `{"name":"@N@","size":0}`, Want: `{"name":"@N@","size":0}`},
		Refuse:   conformance.Call{Operation: "Fail", Data: `{"text":"no @N@"}`, WantMessage: "Fail: panicked: no @N@"},
		Exit:     &conformance.Call{Operation: "Exit", Data: `{"n":7}`, WantCode: 7},
		Slow:     conformance.Call{Operation: "Wait", Data: `{"n":60000}`},
		Print:    conformance.Call{Operation: "Print", Data: `{"text":"printed @N@"}`, Want: "printed @N@"},
		Process:  true, Limits: true,
	})
}

// TestSDK_invoke: JSON in, JSON out, as encoding/json has it.
func TestSDK_invoke(t *testing.T) {
	i, _ := started(t, sinkSpec(t))
	const whole = `{"name":"a","kind":"branch","size":-9007199254740993,"at":"2026-01-31T12:00:00Z","labels":{"x":1},` +
		`"children":[{"name":"b","size":0}],"extra":[1.5,null]}`
	for _, tt := range []struct{ operation, data, want string }{
		{"Echo", whole, whole}, {"Echo", `{"name":""}`, `{"name":"","size":0}`},
		{"Nothing", ``, `{}`}, {"Plain", `["a","b"]`, `{"words":2}`}, {"Plain", `[]`, `{"words":0}`},
		{"Count", `{"n":2}`, `[{"n":1},{"n":2}]`}, {"Count", `{}`, `[]`}, {"CountSent", `{"n":1}`, `[{"n":1}]`},
		{"Sum", `[{"n":1},{"n":41}]`, `{"n":42}`}, {"Sum", `[]`, `{"n":0}`}, {"Sum", `[{"n":1},{},{"n":5}]`, `{"n":1}`},
		{"Chat", `[{"text":"a"},{"text":"b"}]`, `[{"text":"you said a"},{"text":"you said b"}]`},
		{"Metadata", ``, `"[me]"`},
	} {
		got, err := i.Invoke(t.Context(), plugin.Invocation{Operation: tt.operation, Data: []byte(tt.data), Metadata: map[string]string{"who": "me"}})
		var text any = string(got.Data)
		if err == nil && tt.operation == "Plain" { // protojson's spaces
			text = strings.ReplaceAll(string(got.Data), " ", "")
		}
		if err != nil || text != tt.want {
			t.Errorf("%s %s: got %s, %v; want %s", tt.operation, tt.data, got.Data, err, tt.want)
		}
	}
}

// TestSDK_errors: each kind of error arrives as what it is, and the plugin goes on.
func TestSDK_errors(t *testing.T) {
	i, out := started(t, sinkSpec(t))
	for _, tt := range []struct {
		operation, data string
		want            plugin.Refusal
	}{
		{"Fail", `{"text":"plain"}`, plugin.Refusal{Code: "Unknown", Message: "it broke"}},
		{"Fail", `{"text":"status"}`, plugin.Refusal{Code: "AlreadyExists", Status: 409, Message: "wrapped: rpc error: code = AlreadyExists desc = twice"}},
		{"Fail", `{"text":"refusal"}`, plugin.Refusal{Code: "NotFound", Status: 404, Message: "wrapped: no such"}},
		{"Fail", `{"text":"details"}`, plugin.Refusal{
			Code: "FailedPrecondition", Message: "not now", Details: plugin.RawJSON(`[{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"retry":5}}]`),
		}},
		{"Fail", `{"text":"list"}`, plugin.Refusal{
			Code: "FailedPrecondition", Message: "not now", Details: plugin.RawJSON(`[{"@type":"type.googleapis.com/google.protobuf.Value","value":[1]}]`),
		}},
		{"Fail", `{"text":"bad details"}`, plugin.Refusal{Code: "FailedPrecondition", Message: "not now (its details are left out: json: unsupported type: chan int)"}},
		{"Fail", `{"text":"boom"}`, plugin.Refusal{Code: "Internal", Status: 500, Message: "Fail: panicked: boom"}},
		{"Fail", `{"text":"nil"}`, plugin.Refusal{Code: "Internal", Status: 500, Message: "Fail: panicked: runtime error: invalid memory address or nil pointer dereference"}},
		{"Chat", `[{"text":"panic"}]`, plugin.Refusal{Code: "Internal", Status: 500, Message: "Chat: panicked: in the middle"}},
		{"CountSent", `{"n":2}`, plugin.Refusal{Code: "OutOfRange", Status: 400, Message: "two is enough"}},
		{"Bad", ``, plugin.Refusal{Code: "Internal", Status: 500, Message: "Bad: the answer: json: unsupported type: func()"}},
		{"BadNode", ``, plugin.Refusal{Code: "Internal", Status: 500, Message: "BadNode: the answer: children[0]: is nil, which no element of a list or map can be"}},
		{"Echo", `{"name":"a","children":[{}]}`, plugin.Refusal{Code: "InvalidArgument", Status: 400, Message: "argument: children[0].name: is required"}},
		{"Echo", `{"name":"a","kind":"twig"}`, plugin.Refusal{Code: "InvalidArgument", Status: 400, Message: `argument: kind: is "twig"; write leaf, branch`}},
		{"Plain", `{}`, plugin.Refusal{Code: "InvalidArgument", Status: 400, Message: "argument: json: cannot unmarshal object into Go value of type []string"}},
	} {
		_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: tt.operation, Data: []byte(tt.data)})
		no, ok := errors.AsType[*plugin.Refusal](err)
		if !ok {
			t.Errorf("%s %s: got %v", tt.operation, tt.data, err)
			continue
		}
		no.Details = plugin.RawJSON(strings.ReplaceAll(string(no.Details), " ", ""))
		if len(no.Details) == 0 {
			no.Details = nil
		}
		if diff := cmp.Diff(&tt.want, no); diff != "" {
			t.Errorf("%s %s: -want +got:\n%s", tt.operation, tt.data, diff)
		}
	}
	lines := logged(t, out, "the operation panicked")
	if len(lines) != 3 || lines[0]["@level"] != "error" || lines[0]["@module"] != "Sink" || lines[0]["operation"] != "Fail" || lines[0]["panic"] != "boom" ||
		!strings.Contains(lines[0]["stack"].(string), "(*sink).Fail") {
		t.Errorf("the panics' lines: %v", lines)
	}
}

// logged returns the lines on standard error that have the message.
func logged(t *testing.T, out *conformance.Output, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out.Text(plugin.Stderr)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if fields["@message"] == message {
			found = append(found, fields)
		}
	}
	return found
}

func TestSDK_logs(t *testing.T) {
	i, out := started(t, sinkSpec(t))
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	if _, err := i.Invoke(t.Context(), plugin.Invocation{
		Operation: "Print", Data: []byte(`{"text":"hello"}`), Metadata: map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"},
	}); err != nil {
		t.Fatal(err)
	}
	lines := logged(t, out, "hello")
	if len(lines) != 1 {
		t.Fatalf("got %s", out.Text(plugin.Stderr))
	}
	delete(lines[0], "@timestamp")
	if diff := cmp.Diff(map[string]any{
		"@level": "debug", "@message": "hello", "@module": "Sink", "operation": "Print", "trace_id": trace, "group": map[string]any{"n": 1.0},
	}, lines[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := i.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(logged(t, out, "closed")) != 1 || i.Wait().Code != 0 {
		t.Errorf("after the stop: %v, %s", i.Wait(), out.All())
	}
}

// TestSDK_describe: what authors wrote is what users see.
func TestSDK_describe(t *testing.T) {
	i, _ := started(t, sinkSpec(t))
	operations, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]plugin.Operation{}
	for _, o := range operations {
		byName[o.Name] = o
	}
	if _, ok := byName["String"]; ok || len(operations) != 16 {
		t.Errorf("got %d operations: %v", len(operations), operations)
	}
	for name, want := range map[string]string{
		"Echo": "Answers its argument. (acme.sink.v1.Sink/Echo)", "Count": "How much. (acme.sink.v1.Sink/Count)", "Nothing": "acme.sink.v1.Sink/Nothing",
	} {
		if got := byName[name].Summary; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if c := byName["Chat"]; !c.Streams || !c.TakesStream || byName["Sum"].Streams || !byName["Sum"].TakesStream || byName["Echo"].Streams {
		t.Errorf("streams: %+v %+v", c, byName["Sum"])
	}
	var got struct {
		Properties map[string]any `json:"properties"`
		Required   []string       `json:"required"`
	}
	if err := json.Unmarshal(byName["Echo"].Input, &got); err != nil {
		t.Fatal(err)
	}
	reference := map[string]any{"$ref": "#/$defs/acme.sink.v1.Node"}
	if diff := cmp.Diff(map[string]any{
		"name":     map[string]any{"type": "string", "description": "What it is called."},
		"kind":     map[string]any{"type": "string", "enum": []any{"leaf", "branch"}},
		"size":     map[string]any{"type": "integer"},
		"at":       map[string]any{"type": "string", "format": "date-time"},
		"labels":   map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "integer"}},
		"children": map[string]any{"type": "array", "items": reference},
		"extra":    map[string]any{},
	}, got.Properties); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"name"}, got.Required); diff != "" {
		t.Errorf("required: -want +got:\n%s", diff)
	}
}

// TestSDK_forever: a method that yields without end ends with its caller.
func TestSDK_forever(t *testing.T) {
	i, out := started(t, sinkSpec(t))
	enough := errors.New("enough")
	n := 0
	err := i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Forever"}, func([]byte) error {
		if n++; n == 100 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	conformance.Eventually(t, patience, func() error {
		if len(logged(t, out, "nobody listens")) == 0 {
			return errors.New("it goes on")
		}
		return nil
	})
}

// TestSDK_parts: who asks for no more of the argument is not waited for.
func TestSDK_parts(t *testing.T) {
	i, _ := started(t, sinkSpec(t))
	given := 0
	got, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Sum", Parts: func(ctx context.Context) ([]byte, error) {
		switch given++; given {
		case 1:
			return []byte(`{"n":3}`), nil
		case 2:
			return []byte(`{"n":0}`), nil
		case 3:
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, io.EOF
	}})
	if err != nil || string(got.Data) != `{"n":3}` {
		t.Errorf("got %s, %v", got.Data, err)
	}
}
