package goplugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// vault is the kv engine, version 1, with nothing but its preset.
func vault(t *testing.T) plugin.Launch { return families()[1].launch(t) }

// vaultV2 is the engine with versions, which is told so at its setup.
func vaultV2(t *testing.T) plugin.Launch {
	return launchFile(t, "vault-plugin-secrets-kv", `, "preset": "vault", "startCalls": [
		{"operation": "Setup", "data": {"backendUUID": "kv-2", "Config": {"version": "2"}}, "error": "err"},
		{"operation": "Initialize", "error": "err.err_msg"}]`)
}

// request is the argument of HandleRequest: its data is a JSON text.
func request(operation, path string, data any) string {
	inner, _ := json.Marshal(data)
	outer, _ := json.Marshal(map[string]any{"request": map[string]any{"operation": operation, "path": path, "data": string(inner)}})
	return string(outer)
}

// vaultAnswer is what the engine answers a request with.
func vaultAnswer(t *testing.T, i plugin.Instance, operation, path string, data any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "HandleRequest", Data: []byte(request(operation, path, data))})
	if err != nil {
		t.Fatalf("%s %s: %v", operation, path, err)
	}
	var reply struct {
		Response struct{ Data string }
		Err      *struct{ ErrMsg string }
	}
	if err := json.Unmarshal(r.Data, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Err != nil {
		t.Fatalf("%s %s: the engine says %s", operation, path, reply.Err.ErrMsg)
	}
	return reply.Response.Data
}

// TestVault keeps a secret in the host's values: another process reads it, and so does
// a daemon that adopts the process.
func TestVault(t *testing.T) {
	l := vault(t)
	i, out, err := startOf(t, l)
	if err != nil {
		t.Fatal(err)
	}
	vaultAnswer(t, i, "create", "app/db", map[string]string{"password": "s3cret"})
	if got := vaultAnswer(t, i, "read", "app/db", nil); !strings.Contains(got, `"password":"s3cret"`) {
		t.Errorf("read: got %s", got)
	}
	if got := vaultAnswer(t, i, "list", "", nil); !strings.Contains(got, `"keys":["app/"]`) {
		t.Errorf("list: got %s", got)
	}
	signal(t, i, syscall.SIGKILL)
	i.Wait()
	next := handOver(t, l, func(second plugin.Instance) {
		if got := vaultAnswer(t, second, "read", "app/db", nil); !strings.Contains(got, `"password":"s3cret"`) {
			t.Errorf("read by the next process: got %s", got)
		}
	})
	vaultAnswer(t, next, "create", "app/cache", map[string]string{"password": "other"})
	if got := vaultAnswer(t, next, "list", "app/", nil); !strings.Contains(got, `"keys":["cache","db"]`) {
		t.Errorf("list once adopted: got %s", got)
	}
	vaultAnswer(t, next, "delete", "app/db", nil)
	if got := vaultAnswer(t, next, "read", "app/db", nil); strings.Contains(got, "s3cret") {
		t.Errorf("read of what is deleted: got %s", got)
	}
	for _, stream := range []plugin.LogStream{plugin.Stdout, plugin.Stderr, plugin.PluginLog} {
		if text := out.Text(stream); strings.Contains(text, "s3cret") || strings.Contains(text, "denied") {
			t.Errorf("%s has: %s", stream, text)
		}
	}
	endsUponBeingAsked(t, next)
}

// TestVault_versions: the second version of the engine, its events on the bus.
func TestVault_versions(t *testing.T) {
	l := vaultV2(t)
	i, out, err := startOf(t, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"one", "two"} {
		vaultAnswer(t, i, "create", "data/db", map[string]any{"data": map[string]string{"password": password}})
	}
	if got := vaultAnswer(t, i, "read", "data/db", nil); !strings.Contains(got, `"password":"two"`) || !strings.Contains(got, `"version":2`) {
		t.Errorf("read: got %s", got)
	}
	if got := vaultAnswer(t, i, "read", "data/db", map[string]int{"version": 1}); !strings.Contains(got, `"password":"one"`) {
		t.Errorf("read of the first version: got %s", got)
	}
	conformance.Eventually(t, 5*time.Second, func() error {
		for _, e := range l.Host.(*conformance.Host).Events() {
			if e.Type == "vault.event" && strings.Contains(string(e.Data), "kv-v2/data-write") {
				return nil
			}
		}
		return fmt.Errorf("events: got %v", l.Host.(*conformance.Host).Events())
	})
	if text := out.Text(plugin.PluginLog); strings.Contains(text, "denied") {
		t.Errorf("the engine misses something: %s", text)
	}
}

// TestVault_badSetup: what the engine says against its setup is why the start failed.
func TestVault_badSetup(t *testing.T) {
	l := launchFile(t, "vault-plugin-secrets-kv", `, "preset": "vault", "startCalls": [{"operation": "Setup", "data": {"Config": {"version": "2"}}, "error": "err"}]`)
	_, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l)
	if err == nil || !strings.Contains(err.Error(), "spec.goplugin.startCalls[0]: Setup: ") || !strings.Contains(err.Error(), "no UUID was provided") {
		t.Errorf("got %v", err)
	}
}

// TestBidirectional: the example's callback, by a fixed answer and by one from the bus.
func TestBidirectional(t *testing.T) {
	for binding, want := range map[string]string{`{"static": {"r": "42"}}`: "42", `{"bus": {"request": "sum"}}`: "5"} {
		t.Run(binding, func(t *testing.T) {
			l := launchFile(t, "example-bidirectional", `, "preset": "example-bidirectional", "callbacks": {"proto.AddHelper/Sum": `+binding+`}`)
			var asked string
			l.Host.(*conformance.Host).Answer = func(_ context.Context, name string, data []byte) ([]byte, error) {
				asked = name + " " + strings.ReplaceAll(string(data), " ", "")
				return []byte(`{"r": "5"}`), nil
			}
			i, _, err := startOf(t, l)
			if err != nil {
				t.Fatal(err)
			}
			call(t, i, "Put", `{"key": "n", "value": "5"}`)
			if got := call(t, i, "Get", `{"key": "n"}`); got != `{"value":"`+want+`"}` {
				t.Errorf("got %s, want %s", got, want)
			}
			if want == "5" && asked != `sum {"b":"5"}` {
				t.Errorf("asked: %s", asked)
			}
		})
	}
}
