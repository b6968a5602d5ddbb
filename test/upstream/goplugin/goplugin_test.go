// Package goplugin_test runs plugins that others wrote, unmodified: go-plugin's own
// examples, a Terraform provider, a secrets engine of Vault, a ruleset of tflint and
// a data source on Grafana's SDK. test/build-upstream.sh builds them.
package goplugin_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin/examples/grpc/shared"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// built is the folder that TestMain builds the plugins into.
const built = "../../../bin/upstream"

func TestMain(m *testing.M) {
	adapters.Child()
	if out, err := exec.Command("../../build-upstream.sh").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build-upstream.sh: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// launchOf is the launch of an example with the rest of its block as JSON members.
func launchOf(t *testing.T, example, rest string) plugin.Launch {
	t.Helper()
	return launchFile(t, "example-"+example, rest)
}

func launchFile(t *testing.T, name, rest string) plugin.Launch {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(built, name))
	if err != nil {
		t.Fatal(err)
	}
	block := fmt.Sprintf(`{"command": [%q] %s}`, path, rest)
	return conformance.NewLaunch(t, plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "example"},
		Spec: plugin.Spec{Adapter: "goplugin", Block: plugin.RawJSON(block)},
	})
}

// start launches an example.
func start(t *testing.T, example, rest string) (plugin.Instance, *conformance.Output, error) {
	t.Helper()
	return startOf(t, launchOf(t, example, rest))
}

func startOf(t *testing.T, l plugin.Launch) (plugin.Instance, *conformance.Output, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	i, err := goplugin.New(goplugin.Options{}).Launch(ctx, l)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := i.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return i, l.Output.(*conformance.Output), err
}

func started(t *testing.T, example, rest string) (plugin.Instance, *conformance.Output) {
	t.Helper()
	i, out, err := start(t, example, rest)
	if err != nil {
		t.Fatal(err)
	}
	return i, out
}

// hello is the cookie of the examples.
var hello = fmt.Sprintf(`, "handshake": {"key": %q, "value": %q}`, shared.Handshake.MagicCookieKey, shared.Handshake.MagicCookieValue)

// kv describes the net/rpc side of the KV examples: Put takes a
// map[string]interface{} with a string and a []byte in it.
const kv = `, "plugin": "kv", "describe": {
	"methods": {"Put": {"args": "Put", "reply": "any"}, "Get": {"args": "string", "reply": "bytes"}},
	"types": {"Put": {"keys": {"key": "string", "value": "bytes"}}}}`

// call makes one call that must work and returns its answer without blanks.
func call(t *testing.T, i plugin.Instance, operation, data string) string {
	t.Helper()
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: operation, Data: []byte(data)})
	if err != nil {
		t.Fatalf("%s %s: %v", operation, data, err)
	}
	return strings.ReplaceAll(string(r.Data), " ", "")
}

// facts checks protocol and version.
func facts(t *testing.T, i plugin.Instance, protocol, version string) {
	t.Helper()
	got := i.(plugin.Inspector).Inspect()
	if got["protocol"] != protocol || got["version"] != version {
		t.Errorf("got %v, want %s, version %s", got, protocol, version)
	}
}

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func TestKV_grpc(t *testing.T) {
	for _, tls := range []string{"off", "auto"} {
		t.Run("tls "+tls, func(t *testing.T) {
			i, _ := started(t, "kv-grpc", hello+`, "tls": "`+tls+`"`)
			facts(t, i, "grpc", "1")
			if got := call(t, i, "Put", `{"key": "a", "value": "`+encoded("hello")+`"}`); got != "{}" {
				t.Errorf("put: got %s", got)
			}
			if got, want := call(t, i, "proto.KV/Get", `{"key": "a"}`), `{"value":"`+encoded("hello\n\nWritten from plugin-go-grpc")+`"}`; got != want {
				t.Errorf("get: got %s, want %s", got, want)
			}
			_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Get", Data: []byte(`{"key": "b"}`)})
			var no *plugin.Refusal
			if !errors.As(err, &no) || no.Code != "Unknown" || !strings.Contains(no.Message, "no such file") {
				t.Errorf("get of a missing key: got %v, want a refusal", err)
			}
		})
	}
}

func TestKV_netrpc(t *testing.T) {
	for _, tls := range []string{"off", "auto"} {
		t.Run("tls "+tls, func(t *testing.T) {
			i, _ := started(t, "kv-netrpc", hello+kv+`, "tls": "`+tls+`"`)
			facts(t, i, "netrpc", "1")
			if got := call(t, i, "Put", `{"key": "a", "value": "`+encoded("hello")+`"}`); got != "null" {
				t.Errorf("put: got %s", got)
			}
			if got, want := call(t, i, "Get", `"a"`), `"`+encoded("hello\n\nWritten from plugin-go-netrpc")+`"`; got != want {
				t.Errorf("get: got %s, want %s", got, want)
			}
			_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Get", Data: []byte(`"b"`)})
			var no *plugin.Refusal
			if !errors.As(err, &no) || !strings.Contains(no.Message, "no such file") {
				t.Errorf("get of a missing key: got %v, want a refusal", err)
			}
			if got := call(t, i, "Put", `{"key": "c", "value": ""}`); got != "null" {
				t.Errorf("put after a refusal: got %s", got)
			}
		})
	}
}

// TestBasic: an argument of type interface{}, and structured lines on stderr.
func TestBasic(t *testing.T) {
	i, out := started(t, "basic", hello+`, "plugin": "greeter", "describe": {"methods": {"Greet": {"args": "any", "reply": "string"}}}`)
	if got := call(t, i, "Greet", ""); got != `"Hello!"` {
		t.Errorf("got %s", got)
	}
	conformance.Eventually(t, 5*time.Second, func() error {
		if text := out.Text(plugin.Stderr); !strings.Contains(text, `"@message":"message from GreeterHello.Greet"`) {
			return fmt.Errorf("stderr: got %s", text)
		}
		return nil
	})
}

// TestNegotiated: one binary speaks version 2 over net/rpc and 3 over gRPC.
func TestNegotiated(t *testing.T) {
	const cookie = `, "handshake": {"key": "BASIC_PLUGIN", "value": "hello", "versions": `
	i, _ := started(t, "negotiated", cookie+`[2]}`+kv)
	facts(t, i, "netrpc", "2")
	call(t, i, "Put", `{"key": "n", "value": "`+encoded("x")+`"}`)
	j, _ := started(t, "negotiated", cookie+`[2, 3]}`)
	facts(t, j, "grpc", "3")
	call(t, j, "Put", `{"key": "n", "value": "`+encoded("x")+`"}`)
	if _, _, err := start(t, "negotiated", cookie+`[7]}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "handshake.versions allows [7]") {
		t.Errorf("version 7: got %v", err)
	}
}

func TestStreaming(t *testing.T) {
	i, _ := started(t, "streaming", hello)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	argument, err := json.Marshal(map[string]any{"path": path, "chunkSize": 4})
	if err != nil {
		t.Fatal(err)
	}
	call(t, i, "Configure", string(argument))
	var got []byte
	err = i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Read"}, func(part []byte) error {
		var chunk struct{ ReadBytes []byte }
		err := json.Unmarshal(part, &chunk)
		got = append(got, chunk.ReadBytes...)
		return err
	})
	if err != nil || string(got) != "0123456789" {
		t.Errorf("read: got %q, %v", got, err)
	}
	// The example writes what it is sent and ends the call without an answer, which is
	// against gRPC: its own host does not look.
	parts := `[{"bytesToWrite": "` + encoded("ab") + `"}, {"bytesToWrite": "` + encoded("cd") + `"}]`
	var no *plugin.Refusal
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Write", Data: []byte(parts)}); !errors.As(err, &no) || !strings.Contains(no.Message, "no response message") {
		t.Errorf("a client stream: got %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "abcd" {
		t.Errorf("written: got %q, %v", text, err)
	}
}

func TestBidirectional_withoutCallback(t *testing.T) {
	i, _ := started(t, "bidirectional", hello)
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil || len(ops) != 2 || ops[0].Name != "Get" || ops[1].Name != "Put" {
		t.Errorf("describe: got %v, %v", ops, err)
	}
}

// TestWrongCookie says whose mistake it is.
func TestWrongCookie(t *testing.T) {
	_, _, err := start(t, "kv-grpc", `, "handshake": {"key": "BASIC_PLUGIN", "value": "reva"}`)
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "refused the cookie BASIC_PLUGIN") {
		t.Errorf("got %v", err)
	}
}

// TestKillAndFreeze: a killed example is noticed at once, a frozen one is gone
// within its grace.
func TestKillAndFreeze(t *testing.T) {
	for _, example := range []string{"kv-grpc", "kv-netrpc"} {
		rest := hello
		if example == "kv-netrpc" {
			rest += kv
		}
		t.Run(example, func(t *testing.T) {
			i, _ := started(t, example, rest)
			begin := time.Now()
			signal(t, i, syscall.SIGKILL)
			if exit := i.Wait(); exit.Signal != "SIGKILL" || time.Since(begin) > 100*time.Millisecond {
				t.Errorf("kill: got %v after %v", exit, time.Since(begin))
			}
			j, _ := started(t, example, rest)
			signal(t, j, syscall.SIGSTOP)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin = time.Now()
			if err := j.Stop(ctx); err != nil || time.Since(begin) > 800*time.Millisecond {
				t.Errorf("stop while frozen: got %v after %v", err, time.Since(begin))
			}
		})
	}
}

func signal(t *testing.T, i plugin.Instance, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pidOf(t, i), s); err != nil {
		t.Fatal(err)
	}
}

func pidOf(t *testing.T, i plugin.Instance) (pid int) {
	t.Helper()
	if _, err := fmt.Sscan(i.(plugin.Inspector).Inspect()["pid"], &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}
