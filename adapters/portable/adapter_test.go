package portable_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// withBlock is the tiny plugin's manifest with fields of its block replaced; nil
// takes one out.
func withBlock(t *testing.T, fields map[string]any) plugin.Manifest {
	t.Helper()
	m := tinyManifest(t)
	var block map[string]any
	if err := json.Unmarshal(m.Spec.Block, &block); err != nil {
		t.Fatal(err)
	}
	for key, value := range fields {
		if block[key] = value; value == nil {
			delete(block, key)
		}
	}
	var err error
	if m.Spec.Block, err = json.Marshal(block); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCheck_faults(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.py")
	if err := os.WriteFile(script, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path, text string
		fields           map[string]any
		change           func(*plugin.Manifest)
	}{
		{name: "missing executable", path: "spec.portable.executable", text: "does not exist", fields: map[string]any{"executable": "/no/such"}},
		{name: "not executable", path: "spec.portable.executable", text: "chmod", fields: map[string]any{"executable": script}},
		{name: "relative without a folder", path: "spec.portable.executable", text: "relative", fields: map[string]any{"executable": "bin/x"}},
		{name: "directly in /tmp", path: "spec.portable.executable", text: "private", fields: map[string]any{"executable": inTmp(t)}},
		{name: "another language", path: "spec.portable.language", text: "rust", fields: map[string]any{"language": "rust"}},
		{name: "python of a Go plugin", path: "spec.portable.python", text: "leave it out", fields: map[string]any{"python": "python3"}},
		{name: "no such python", path: "spec.portable.python", text: "does not exist", fields: map[string]any{"language": "python", "executable": script, "python": "/no/venv"}},
		{name: "python not installed", path: "spec.portable.python", text: "PATH", fields: map[string]any{"language": "python", "executable": script, "python": "python-nope"}},
		{name: "python below /tmp", path: "spec.portable.python", text: "private", fields: map[string]any{"language": "python", "executable": script, "python": "/tmp/venv/bin/python"}},
		{name: "plugin name", path: "spec.portable.name", text: "../x", fields: map[string]any{"name": "../x"}},
		{name: "function name", path: "spec.portable.functions[1]", text: "a/b", fields: map[string]any{"functions": []string{"ok", "a/b"}}},
		{name: "long name", path: "spec.portable.sinks[0]", text: "1 to 64", fields: map[string]any{"sinks": []string{strings.Repeat("x", 65)}}},
		{name: "twice", path: "spec.portable.sources[1]", text: "twice", fields: map[string]any{"sources": []string{"a", "a"}}},
		{name: "no symbols", path: "spec.portable", text: "at least one", fields: map[string]any{"functions": nil, "sources": nil, "sinks": nil}},
		{name: "undeclared source", path: "spec.streams[0].source", text: "spec.portable.sources", change: func(m *plugin.Manifest) {
			m.Spec.Streams = []plugin.Stream{{Source: "nope", Publish: "x"}}
		}},
		{name: "undeclared sink", path: "spec.streams[0].sink", text: "spec.portable.sinks", change: func(m *plugin.Manifest) {
			m.Spec.Streams = []plugin.Stream{{Sink: "nope", Subscribe: "x"}}
		}},
		{name: "stream configuration", path: "spec.streams[0].config", text: "object", change: func(m *plugin.Manifest) {
			m.Spec.Streams = []plugin.Stream{{Source: "ticker", Publish: "x", Config: plugin.RawJSON(`[1]`)}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := withBlock(t, tt.fields)
			if tt.change != nil {
				tt.change(&m)
			}
			var faults plugin.Faults
			if err := portable.New(portable.Options{}).Check(m); !errors.As(err, &faults) {
				t.Fatalf("got %v, want faults", err)
			}
			for _, f := range faults {
				if f.Path == tt.path && strings.Contains(f.Detail, tt.text) {
					return
				}
			}
			t.Errorf("got %v, want one at %s with %q", faults, tt.path, tt.text)
		})
	}
}

// inTmp returns a program that lies directly in /tmp.
func inTmp(t *testing.T) string {
	t.Helper()
	file, err := os.CreateTemp("/tmp", "portable")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Cleanup(func() { os.Remove(file.Name()) })
	if err := file.Chmod(0o700); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// launch fails, and returns why.
func launch(t *testing.T, m plugin.Manifest, within time.Duration) (plugin.Launch, error) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	i, err := portable.New(portable.Options{}).Launch(ctx, l)
	if err == nil {
		_ = i.Stop(ctx)
		t.Fatal("launch: got an instance, want an error")
	}
	conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
	return l, err
}

// Upstream waits out its whole timeout for a plugin that has ended long since.
func TestLaunch_earlyExitIsSeenAtOnce(t *testing.T) {
	begin := time.Now()
	_, err := launch(t, withBlock(t, map[string]any{"executable": "/bin/true"}), time.Minute)
	if !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "exit code 0") {
		t.Errorf("got %v, want ErrUnavailable with the exit code", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v, want at once", took)
	}
}

func TestLaunch_wrongNameIsVisible(t *testing.T) {
	l, err := launch(t, withBlock(t, map[string]any{"name": "other"}), time.Minute)
	if printed := l.Output.(*conformance.Output).All(); !strings.Contains(printed, "/tmp/plugin_tiny.ipc") {
		t.Errorf("got %v and printed %q, want the socket that it looked for", err, printed)
	}
}

func TestLaunch_unknownFunctionIsInvalid(t *testing.T) {
	_, err := launch(t, withBlock(t, map[string]any{"functions": []string{"echo", "nope"}}), time.Minute)
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "start func nope") || !strings.Contains(err.Error(), "symbol not found") {
		t.Errorf("got %v, want ErrInvalid that names the function", err)
	}
}

func TestLaunch_silentPluginIsADeadline(t *testing.T) {
	_, err := launch(t, fake(t, "silent"), 300*time.Millisecond)
	if !errors.Is(err, plugin.ErrDeadline) || !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want ErrDeadline and ErrUnavailable", err)
	}
}

// What a plugin got wrong at its handshake is what its launch says.
func TestLaunch_saysWhatIsWrongWithTheHandshake(t *testing.T) {
	for how, want := range map[string]string{
		"silent": "the plugin did not connect",
		"mute":   "sent no whole greeting",
		"hybrid": `its greeting is 47 45 54 20 2f 20 48 54 ("GET / HT"), want 00 53 50 00`,
		"huge":   "got a frame of 4611686018427387904 bytes, want at most 1048576",
		"large":  "a message of 2130706432 bytes is over the limit of 1048576",
		"asks":   "the request has no id: 2 bytes",
	} {
		t.Run(how, func(t *testing.T) {
			_, err := launch(t, fake(t, how), 500*time.Millisecond)
			if !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want ErrUnavailable with %q", err, want)
			}
		})
	}
}

func invoke(t *testing.T, i plugin.Instance, operation, data string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: operation, Data: []byte(data)})
	return string(r.Data), err
}

func TestInvoke_overOneMebibyte(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	long := `"` + strings.Repeat("x", 1<<20) + `"`
	if _, err := invoke(t, i, "echo", long); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("long argument: got %v, want ErrInvalid that says 1 MiB", err)
	}
	most := `"` + strings.Repeat("x", 1<<20-200) + `"`
	if got, err := invoke(t, i, "echo", most); err != nil || got != most {
		t.Errorf("next call: got %d bytes and %v, want %d", len(got), err, len(most))
	}
}

func TestInvoke_callsOfOneFunctionStandInLine(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	done := make(chan error, 20)
	for n := range cap(done) {
		go func() { // ends with its answer
			got, err := invoke(t, i, "slow", fmt.Sprintf(`[1,%d]`, n))
			if err == nil && got != "1" {
				err = fmt.Errorf("got %s, want 1", got)
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := receive(t, done, "an answer"); err != nil {
			t.Error(err)
		}
	}
}

// Anybody may reach a socket in a folder that he can enter: only the plugin is
// let in.
func TestSockets_refuseStrangers(t *testing.T) {
	i, l := start(t, tinyManifest(t))
	for _, name := range []string{"plugin_tiny.ipc", "func_echo.ipc"} {
		conn, err := net.Dial("unix", filepath.Join(l.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if n, err := conn.Read(make([]byte, 8)); err == nil {
			t.Errorf("%s: got %d bytes, want that it closes", name, n)
		}
	}
	if got, err := invoke(t, i, "echo", `[1]`); err != nil || got != "1" {
		t.Errorf("echo afterwards: got %s and %v, want 1", got, err)
	}
}

// The Go SDK closes a function for good when it could not send a keepalive; it
// opens it upon the next start.
func TestFunction_isStartedAgain(t *testing.T) {
	i, _ := start(t, fake(t, "forgetful"))
	for range 2 {
		if got, err := invoke(t, i, "once", `[]`); err != nil || got != `"done"` {
			t.Fatalf("once: got %s and %v, want done", got, err)
		}
	}
}

func TestProbe_seesAStuckFunction(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	probe := func() error { return i.(plugin.Prober).Probe(t.Context()) }
	if err := probe(); err != nil {
		t.Errorf("probe: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := i.Invoke(ctx, plugin.Invocation{Operation: "slow", Data: []byte(`[300]`)})
	if !errors.Is(err, plugin.ErrDeadline) {
		t.Fatalf("slow: got %v, want ErrDeadline", err)
	}
	if err := probe(); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "slow") {
		t.Errorf("probe with a call given up: got %v, want ErrUnavailable that names slow", err)
	}
	conformance.Eventually(t, patience, probe)
}

func TestProbe_seesAFrozenProcess(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	probe := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return i.(plugin.Prober).Probe(ctx)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if probe() == nil {
			t.Error("probe of a frozen process: got nil, want why not")
		}
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, patience, probe)
}
