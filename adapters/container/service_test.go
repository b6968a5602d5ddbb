package container_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

func service(t *testing.T, more string) plugin.Instance {
	t.Helper()
	m := manifestOf(plugin.Service, serviceBlock(more))
	m.Spec.Limits.Payload = 64 << 10
	i, err := newAdapter(t).Launch(within(t), conformance.NewLaunch(t, m))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Stop(within(t)); err != nil {
			t.Error(err)
		}
	})
	return i
}

func TestInvoke(t *testing.T) {
	i := service(t, `, "operations": [{"name": "echo"}, {"name": "refuse"}, {"name": "env"},
		{"name": "status", "method": "GET", "path": "/health"}, {"name": "lost", "path": "/no/such/path"}]`)
	call := func(operation, data string) (plugin.Result, error) {
		return i.Invoke(within(t), plugin.Invocation{ID: "call-1", Operation: operation, Data: []byte(data), Metadata: map[string]string{"traceparent": "00-1-2-3", "host": "elsewhere"}})
	}
	if res, err := call("status", "{}"); err != nil || string(res.Data) != "ok\n" || !strings.HasPrefix(res.ContentType, "text/plain") {
		t.Errorf("GET: got %q %q, %v", res.Data, res.ContentType, err)
	}
	if _, err := call("status", `{"a": 1}`); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("GET with an argument: got %v, want plugin.ErrInvalid", err)
	}
	const odd = "{ \"big\": 12345678901234567890,\n\"x\":1 }"
	if res, err := call("echo", odd); err != nil || string(res.Data) != odd || res.ContentType != "application/json" {
		t.Errorf("echo: got %q %q, %v, want it byte for byte", res.Data, res.ContentType, err)
	}
	if _, err := call("count", `{"n": 1}`); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("operation that is not listed: got %v, want plugin.ErrNotFound", err)
	}
	if _, err := call("echo", `"`+strings.Repeat("x", 64<<10)+`"`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "spec.limits.payload") {
		t.Errorf("answer beyond the limit: got %v, want plugin.ErrInvalid that names the limit", err)
	}
	for operation, want := range map[string]plugin.Refusal{
		"refuse": {Code: "409", Message: "no", Details: plugin.RawJSON(`{"message":"no"}`)},
		"lost":   {Code: "404", Message: "404 page not found"},
	} {
		_, err := call(operation, `{"message": "no"}`)
		var got *plugin.Refusal
		if !errors.As(err, &got) || got.Code != want.Code || got.Message != want.Message || string(got.Details) != string(want.Details) {
			t.Errorf("%s: got %v, want %v", operation, err, &want)
		}
	}
}

func TestInvokeStream(t *testing.T) {
	i := service(t, "").(plugin.StreamInvoker)
	var parts []string
	take := func(part []byte) error {
		parts = append(parts, string(part))
		return nil
	}
	if err := i.InvokeStream(within(t), plugin.Invocation{Operation: "count", Data: []byte(`{"n": 3}`)}, take); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(parts), `[{"n":1} {"n":2} {"n":3}]`; got != want {
		t.Errorf("count: got %s, want %s", got, want)
	}
	parts = nil
	if err := i.InvokeStream(within(t), plugin.Invocation{Operation: "echo", Data: []byte(`{"a": 1}`)}, take); err != nil || len(parts) != 1 || parts[0] != `{"a": 1}` {
		t.Errorf("operation with one answer: got %q, %v, want one part", parts, err)
	}
	stop := errors.New("enough")
	err := i.InvokeStream(within(t), plugin.Invocation{Operation: "count", Data: []byte(`{"n": 1000000}`)}, func([]byte) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("send that fails: got %v, want its error", err)
	}
	if err := i.InvokeStream(within(t), plugin.Invocation{Operation: "nothing"}, take); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("unknown operation: got %v, want plugin.ErrNotFound", err)
	}
}
