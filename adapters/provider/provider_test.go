package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// patience is far more than anything here takes on a busy machine.
const patience = 20 * time.Second

// launchOf is the suite's launch for a binary that may be instrumented for races:
// such a one would sleep a second at each exit.
func launchOf(t *testing.T, m plugin.Manifest) plugin.Launch {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	l.Env["GORACE"] = "atexit_sleep_ms=0"
	return l
}

// launched starts m and stops it at the end of the test.
func launched(t *testing.T, m plugin.Manifest, change func(*plugin.Launch)) (plugin.Instance, plugin.Launch) {
	t.Helper()
	l := launchOf(t, m)
	if change != nil {
		change(&l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i, err := provider.New(provider.Options{}).Launch(ctx, l)
	if err != nil {
		t.Fatalf("launch: %v\n%s", err, l.Output.(*conformance.Output).All())
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := i.Stop(ctx); err != nil {
			t.Error(err)
		}
		nothingLeft(t, l)
	})
	return i, l
}

func nothingLeft(t *testing.T, l plugin.Launch) {
	t.Helper()
	conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
	for _, pattern := range []string{"*.sock", "*.out", "*.err"} {
		if files, _ := filepath.Glob(filepath.Join(l.Dir, pattern)); len(files) > 0 {
			t.Errorf("left: %v", files)
		}
	}
}

func invoke(t *testing.T, i plugin.Instance, operation, data string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := i.Invoke(ctx, plugin.Invocation{Operation: operation, Data: []byte(data)})
	return string(result.Data), err
}

func must(t *testing.T, i plugin.Instance, operation, data, want string) {
	t.Helper()
	if got, err := invoke(t, i, operation, data); err != nil || got != want {
		t.Errorf("%s %s: got %q, %v, want %q", operation, data, got, err, want)
	}
}

func logs(l plugin.Launch) string { return l.Output.(*conformance.Output).Text(plugin.PluginLog) }

func TestCheck_faults(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := manifestOf(t, provider.Spec{Command: []string{"/bin/true"}})
	for _, tt := range []struct {
		name, want string
		change     func(*plugin.Manifest)
	}{
		{"missing", "spec.provider.command: is missing", func(m *plugin.Manifest) { m.Spec.Block = plugin.RawJSON(`{"command": []}`) }},
		{"no file", "spec.provider.command[0]: /none/such does not exist", func(m *plugin.Manifest) { m.Spec.Block = plugin.RawJSON(`{"command": ["/none/such"]}`) }},
		{"relative", "metadata.source is not set", func(m *plugin.Manifest) { m.Spec.Block = plugin.RawJSON(`{"command": ["x"]}`) }},
		{"not executable", "chmod +x", func(m *plugin.Manifest) {
			m.Metadata.Source = dir
			m.Spec.Block = plugin.RawJSON(`{"command": ["plain"]}`)
		}},
		{"name as parameter", "give it as spec.provider.name", func(m *plugin.Manifest) {
			m.Spec.Block = plugin.RawJSON(`{"command": ["/bin/true"], "params": {"Name": "x"}}`)
		}},
		{"variable", `spec.env has no variable "PASS"`, func(m *plugin.Manifest) {
			m.Spec.Block = plugin.RawJSON(`{"command": ["/bin/true"], "paramsFromEnv": {"x": "PASS"}}`)
		}},
		{"twice", "given twice", func(m *plugin.Manifest) {
			m.Spec.Env = map[string]plugin.EnvValue{"PASS": {Value: "p"}}
			m.Spec.Block = plugin.RawJSON(`{"command": ["/bin/true"], "params": {"x": 1}, "paramsFromEnv": {"x": "PASS"}}`)
		}},
		{"unknown field", "spec.provider.comand", func(m *plugin.Manifest) { m.Spec.Block = plugin.RawJSON(`{"comand": ["/bin/true"]}`) }},
		{"job", "spec.mode", func(m *plugin.Manifest) { m.Spec.Mode = plugin.Job }},
		{"memory", "spec.limits.memory: is less than a program needs", func(m *plugin.Manifest) { m.Spec.Limits.Memory = 1 }},
		{"streams", "spec.streams", func(m *plugin.Manifest) { m.Spec.Streams = []plugin.Stream{{Source: "x"}} }},
	} {
		m := good
		tt.change(&m)
		err := provider.New(provider.Options{}).Check(m)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := provider.New(provider.Options{}).Check(good); err != nil {
		t.Errorf("good: %v", err)
	}
}

func TestLaunch_faults(t *testing.T) {
	for _, tt := range []struct {
		fault, want string
		class       error
	}{
		{"define-text", "not a provider", plugin.ErrInvalid},
		{"define-empty", "not a provider", plugin.ErrInvalid},
		{"define-no-name", "its Name is", plugin.ErrInvalid},
		{"define-bad-name", "its Name is", plugin.ErrInvalid},
		{"define-version", "PluginVersion is 3", plugin.ErrInvalid},
		{"define-no-command", "without a Command", plugin.ErrInvalid},
		{"define-twice", "twice", plugin.ErrInvalid},
		{"define-content", "its Content", plugin.ErrInvalid},
		{"define-fails", "define: invalid: exit code 1: Error: no licence", plugin.ErrInvalid},
		{"unpack-fails", "unpack: invalid: exit code 1: Error: no room", plugin.ErrInvalid},
		{"ends-before-ready", "it ended before READY!: exit code 4", plugin.ErrUnavailable},
		{"failed", "the provider printed Failed", plugin.ErrInvalid},
		{"required", `the provider needs "x/one", "x/three"`, plugin.ErrInvalid},
		{"config-refused", "config: invalid: the provider answered 400: bad; worse", plugin.ErrInvalid},
		{"config-zero", "without a status code", plugin.ErrUnavailable},
		{"config-ends", "the provider ended: exit code 5", plugin.ErrUnavailable},
		{"config-garbage", "status 502, and no error body", plugin.ErrUnavailable},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			l := launchOf(t, manifestOf(t, faulty(tt.fault)))
			_, err := provider.New(provider.Options{}).Launch(ctx, l)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, tt.class) {
				t.Errorf("got %v, want %v and %q", err, tt.class, tt.want)
			}
			nothingLeft(t, l)
		})
	}
}

func TestLaunch_tooLate(t *testing.T) {
	for _, fault := range []string{"define-hangs", "never-ready", "closes-stdout", "config-hangs"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			l := launchOf(t, manifestOf(t, faulty(fault)))
			_, err := provider.New(provider.Options{}).Launch(ctx, l)
			if !errors.Is(err, plugin.ErrDeadline) || !errors.Is(err, plugin.ErrUnavailable) {
				t.Errorf("got %v, want unavailable and deadline", err)
			}
			nothingLeft(t, l)
		})
	}
}

func TestInvoke_faults(t *testing.T) {
	for _, tt := range []struct{ fault, code, want string }{
		{"action-none", "", "declares actions and serves none"},
		{"action-zero", "500", "without a status code"},
		{"action-panics", "500", "the provider panicked: nil map"},
		{"action-garbage", "", "answered 502, and no error body"},
		{"action-long", "", "longer than spec.limits.payload"},
		{"action-endless", "", "longer than spec.limits.payload"},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			m := manifestOf(t, faulty(tt.fault))
			m.Spec.Limits.Payload = 1 << 20
			i, _ := launched(t, m, nil)
			_, err := invoke(t, i, "act", "{}")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			var no *plugin.Refusal
			if errors.As(err, &no) != (tt.code != "") || no != nil && (no.Code != tt.code || strings.Contains(no.Message, "secret")) {
				t.Errorf("got %+v, want code %q", no, tt.code)
			}
		})
	}
}

func TestInvoke_argumentsAndNames(t *testing.T) {
	i, _ := launched(t, manifestOf(t, faulty("none")), nil)
	must(t, i, "act", `{"a": 1.50}`, `{"Plugin":"demo","Command":"act","CommandSet":"system","Model":null,"Params":{"a": 1.50}}`)
	must(t, i, "act", "", `{"Plugin":"demo","Command":"act","CommandSet":"system","Model":null,"Params":{}}`)
	must(t, i, "one", `{"Model": {"Name": "m"}}`, `{"Plugin":"demo","Command":"one","CommandSet":"machines","Model":{"Name": "m"},"Params":{}}`)
	must(t, i, "machines/one", `{"Model": {}, "Params": {"p": 1}}`, `{"Plugin":"demo","Command":"one","CommandSet":"machines","Model":{},"Params":{"p": 1}}`)
	must(t, i, "both", `{}`, `{"Plugin":"demo","Command":"both","CommandSet":"system","Model":null,"Params":{}}`)
	must(t, i, "machines/both", `{"Model": {}}`, `{"Plugin":"demo","Command":"both","CommandSet":"machines","Model":{},"Params":{}}`)
	for operation, data := range map[string]string{
		"act": `[1]`, "both": `{"a": 1}, "Command": "act"`, "one": `{"Params": {}}`, "machines/one": `{"Model": {}, "More": 1}`, "machines/both": `{"Model": {}, "Params": 3}`,
	} {
		if _, err := invoke(t, i, operation, data); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%s %s: got %v, want invalid", operation, data, err)
		}
	}
	operations, err := i.(plugin.Describer).Describe(t.Context())
	var names []string
	for _, o := range operations {
		names = append(names, o.Name)
	}
	if want := []string{"act", "both", "machines/both", "one"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("operations: got %v, %v, want %v", names, err, want)
	}
}

func TestInvoke_declaredParameters(t *testing.T) {
	i, _ := launched(t, demo(t), nil)
	if _, err := invoke(t, i, "print", "{}"); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), `"text"`) {
		t.Errorf("missing: got %v, want invalid and the name", err)
	}
	_, err := invoke(t, i, "refuse", "{}")
	var no *plugin.Refusal
	if !errors.As(err, &no) || no.Message != "no" || no.Code != "409" || len(no.Details) == 0 {
		t.Errorf("default of message: got %+v, %v", no, err)
	}
	must(t, i, "tag", `{"Model": {"Name": "m", "Params": {"demo/tag": "own"}}}`, `{"Name":"m","Params":{"demo/tag":"own"},"Tag":"own"}`)
	must(t, i, "tag", `{"Model": {"Params": {"demo/tag": "own"}}, "Params": {"demo/tag": "given"}}`, `{"Params":{"demo/tag":"own"},"Tag":"given"}`)
}

// TestConfig_parameters: given, from the environment, by default; and the name.
func TestConfig_parameters(t *testing.T) {
	s := faulty("required")
	s.Name = "other name"
	s.Params = map[string]plugin.RawJSON{"x/one": plugin.RawJSON(`{"deep": [1.0]}`), "undeclared": plugin.RawJSON("null")}
	s.ParamsFromEnv = map[string]string{"x/three": "THREE"}
	m := manifestOf(t, s)
	m.Spec.Env = map[string]plugin.EnvValue{"THREE": {Secret: "vault/three"}}
	_, l := launched(t, m, func(l *plugin.Launch) { l.Env["THREE"] = "3" })
	got, err := os.ReadFile(filepath.Join(l.Dir, "scratch", "config.json"))
	const want = `{"Name":"other name","undeclared":null,"x/one":{"deep":[1.0]},"x/three":"3","x/two":2}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestDemo_countAnnounceAndFiles(t *testing.T) {
	m := manifestOf(t, provider.Spec{Command: []string{os.Getenv(builtVar)}, Params: map[string]plugin.RawJSON{"demo/step": plugin.RawJSON("2")}})
	i, l := launched(t, m, nil)
	must(t, i, "count", "{}", "2")
	must(t, i, "count", "{}", "4")
	must(t, i, "announce", `{"key": "k.1"}`, "200")
	events := l.Host.(*conformance.Host).Events()
	if len(events) != 1 || events[0].Type != "demo.announce" || events[0].Subject != "k.1" || events[0].Time.IsZero() {
		t.Errorf("events: got %+v", events)
	}
	if _, err := os.Stat(filepath.Join(l.Dir, "files/plugin_providers/provider-demo/README")); err != nil {
		t.Errorf("unpacked: %v", err)
	}
	facts := i.(plugin.Inspector).Inspect()
	if facts["protocol"] != "api-plugin/v4" || facts["provider"] != "provider-demo" {
		t.Errorf("facts: got %v", facts)
	}
}

func TestVersion2_andPublishNotice(t *testing.T) {
	i, l := launched(t, manifestOf(t, faulty("version-2")), nil)
	must(t, i, "act", "{}", `{"Plugin":"demo","Command":"act","CommandSet":"system","Model":null,"Params":{}}`)
	if !strings.Contains(logs(l), "HasPublish") {
		t.Errorf("logs: got %q, want a word about HasPublish", logs(l))
	}
}

// TestLogs_secretsAreRedacted: the config line of the library holds every parameter.
func TestLogs_secretsAreRedacted(t *testing.T) {
	m := manifestOf(t, provider.Spec{
		Command: []string{os.Getenv(builtVar)}, Params: map[string]plugin.RawJSON{"demo/password": plugin.RawJSON(`"s3cr3t-param"`)},
		ParamsFromEnv: map[string]string{"other": "PASS"},
	})
	m.Spec.Env = map[string]plugin.EnvValue{"PASS": {Secret: "a/b"}, "OPEN": {Value: "visible"}}
	i, l := launched(t, m, func(l *plugin.Launch) { l.Env["PASS"], l.Env["OPEN"] = "s3cr3t-env", "visible" })
	must(t, i, "log", `{"text": "now s3cr3t-env and visible\n"}`, "null")
	text := logs(l)
	if strings.Contains(text, "s3cr3t") || !strings.Contains(text, "received config request") {
		t.Errorf("logs: got %s", text)
	}
	var last struct{ Level, Message, Service string }
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	if last.Level != "warn" || last.Message != "now [redacted] and visible" || last.Service != "provider-demo" {
		t.Errorf("line: got %+v", last)
	}
	_, err := invoke(t, i, "refuse", `{"message": "because s3cr3t-param"}`)
	var no *plugin.Refusal
	if !errors.As(err, &no) || strings.Contains(err.Error()+string(no.Details), "s3cr3t") {
		t.Errorf("refusal: got %v", err)
	}
}

func TestLeave_endsTheInstance(t *testing.T) {
	i, _ := launched(t, demo(t), nil)
	_, _ = invoke(t, i, "leave", "{}") // answered, or cut off by the stop
	if exit := i.Wait(); exit.Code != 0 || exit.Message != "it asked to leave: enough for today" {
		t.Errorf("got %+v", exit)
	}
}

func TestStop_ofFaultyOnes(t *testing.T) {
	for fault, want := range map[string]string{"stop-panics": "SIGTERM", "ignores-everything": "SIGKILL", "none": ""} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			i, _ := launched(t, manifestOf(t, faulty(fault)), nil)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := i.Stop(ctx); err != nil {
				t.Error(err)
			}
			if exit := i.Wait(); exit.Signal != want {
				t.Errorf("got %+v, want signal %q", exit, want)
			}
		})
	}
}

func TestProbe_frozen(t *testing.T) {
	i, l := launched(t, demo(t), nil)
	p := i.(plugin.Prober)
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if strings.Contains(logs(l), "probe") {
		t.Errorf("logs: %s", logs(l))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := p.Probe(ctx); !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("without time: got %v", err)
	}
}
