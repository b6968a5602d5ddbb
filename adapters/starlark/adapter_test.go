package starlark_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/starlark"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// core is what the core gives an instance: it keeps what is printed and emitted,
// and answers invocations of other plugins.
type core struct {
	mu      sync.Mutex
	printed bytes.Buffer
	events  []plugin.Event
	answer  func(plugin.Invocation) (plugin.Result, error)
}

func (c *core) File(plugin.LogStream) (*os.File, error)  { return nil, errors.New("no process here") }
func (c *core) Writer(plugin.LogStream) io.Writer        { return c }
func (c *core) Permit(context.Context, plugin.Ask) error { return nil }
func (c *core) Emit(_ context.Context, e plugin.Event) error {
	c.events = append(c.events, e)
	return nil
}
func (c *core) Invoke(_ context.Context, in plugin.Invocation) (plugin.Result, error) {
	return c.answer(in)
}
func (c *core) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.printed.Write(p)
}

func inline(t testing.TB, source string) plugin.Manifest {
	t.Helper()
	block, err := json.Marshal(starlark.Block{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Manifest{Metadata: plugin.Metadata{Name: "inline"}, Spec: plugin.Spec{Adapter: "starlark", Block: block}}
}

func launch(t testing.TB, a *starlark.Adapter, m plugin.Manifest, c *core) plugin.Instance {
	t.Helper()
	i, err := a.Launch(t.Context(), plugin.Launch{ID: "x-1", Manifest: m.WithDefaults(), Output: c, Host: c, Env: map[string]string{"KEY": "value"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return i
}

func invoke(t testing.TB, i plugin.Instance, operation, data string) (string, error) {
	t.Helper()
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: operation, Data: []byte(data)})
	return string(r.Data), err
}

const shapes = `
def none(): return "none"
def whole(x): return x
def opt(x = 7): return x
def two(a, b = 2): return [a, b]
def kw(*, a): return a
def rest(**kw): return kw
def _hidden(): pass
constant = 1
alias = whole
`

func TestInvoke_arguments(t *testing.T) {
	i := launch(t, starlark.New(), inline(t, shapes), &core{})
	for _, tt := range []struct{ operation, data, want string }{
		{"none", ``, `"none"`}, {"none", `{}`, `"none"`}, {"none", `null`, `"none"`}, {"none", " \n", `"none"`},
		{"whole", `{"a": 1}`, `{"a":1}`}, {"whole", `[1]`, `[1]`}, {"whole", `null`, `null`}, {"alias", `1`, `1`},
		{"opt", ``, `7`}, {"opt", `{"x": 1}`, `{"x":1}`},
		{"two", `{"a": 1}`, `[1,2]`}, {"two", `{"b": 3, "a": 1}`, `[1,3]`},
		{"kw", `{"a": 1}`, `1`}, {"rest", `{"z": 1, "y": 2}`, `{"z":1,"y":2}`}, {"rest", ``, `{}`},
	} {
		if got, err := invoke(t, i, tt.operation, tt.data); err != nil || got != tt.want {
			t.Errorf("%s(%s): got %s, %v, want %s", tt.operation, tt.data, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		operation, data string
		class           error
		text            string
	}{
		{"none", `{"a": 1}`, plugin.ErrInvalid, `unknown key "a"`}, {"none", `1`, plugin.ErrInvalid, "want an object"},
		{"whole", ``, plugin.ErrInvalid, `lacks "x"`}, {"two", `{}`, plugin.ErrInvalid, `lacks "a"; it takes: a, b`},
		{"two", `{"a": 1, "c": 2}`, plugin.ErrInvalid, `unknown key "c"`}, {"two", `[1, 2]`, plugin.ErrInvalid, "want an object with the keys a, b"},
		{"kw", `{}`, plugin.ErrInvalid, `lacks "a"`}, {"whole", `{`, plugin.ErrInvalid, "is not JSON"}, {"whole", `1e400`, plugin.ErrInvalid, "too large"},
		{"_hidden", ``, plugin.ErrNotFound, "there are: alias, kw, none, opt, rest, two, whole"}, {"constant", ``, plugin.ErrNotFound, ""}, {"len", ``, plugin.ErrNotFound, ""},
	} {
		if _, err := invoke(t, i, tt.operation, tt.data); !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s(%s): got %v, want %v with %q", tt.operation, tt.data, err, tt.class, tt.text)
		}
	}
}

const wrongs = `
seen = []
def refuse(): fail("not", 2, "day", sep = "-")
def divide(): return 1 // 0
def frozen(): seen.append(1)
def forever():
    while True:
        pass
def deep(): return deep()
def bomb(): return json.decode("[" * 2000000)
def orelse(): return json.decode("{", default = "none")
def nested():
    x = []
    for _ in range(100000):
        x = [x]
    return x
def large(): return "x" * (17 << 20)
def function(): return len
def noisy():
    for _ in range(3000):
        print("y" * 100)
`

func TestInvoke_refusals(t *testing.T) {
	i := launch(t, starlark.New(), inline(t, wrongs), &core{})
	for _, tt := range []struct{ operation, code, text, details string }{
		{"refuse", "fail", "not-2-day", ""},
		{"divide", "error", "floored division by zero", `source.star:4:24: in divide`},
		{"frozen", "error", "cannot append to frozen list", "in frozen"},
		{"forever", "steps", "more than 10000000 steps; do less, or raise spec.starlark.steps (at most 50000000)", "in forever"},
		{"deep", "depth", "calls are nested more than 2000 deep; use a loop", "in deep"},
		{"bomb", "error", "json.decode: at byte 100: is nested more than 100 levels deep", "in bomb"},
		{"nested", "error", "result of nested: is nested more than 100 levels deep", ""},
		{"large", "error", "result of large: is more than 16777216 bytes as JSON", ""},
		{"function", "error", "a builtin_function_or_method has no JSON form", ""},
	} {
		_, err := invoke(t, i, tt.operation, "")
		var refusal *plugin.Refusal
		if !errors.As(err, &refusal) || refusal.Code != tt.code || !strings.Contains(refusal.Message, tt.text) || !strings.Contains(string(refusal.Details), tt.details) {
			t.Errorf("%s: got %#v, want code %s, %q, details %q", tt.operation, err, tt.code, tt.text, tt.details)
		}
	}
	if got, err := invoke(t, i, "orelse", ""); got != `"none"` || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestInvoke_deadlineThenNext(t *testing.T) {
	a := starlark.New()
	m := inline(t, "def f(n):\n    for _ in range(n):\n        list(range(100000))\n    return n\n")
	i := launch(t, a, m, &core{})
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := i.Invoke(ctx, plugin.Invocation{Operation: "f", Data: []byte(`100000`)})
		if !errors.Is(err, plugin.ErrDeadline) {
			t.Errorf("got %v, want a deadline", err)
		}
		cancel()
		if got, err := invoke(t, i, "f", "1"); got != "1" || err != nil {
			t.Errorf("after the deadline: got %s, %v", got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.Invoke(ctx, plugin.Invocation{Operation: "f", Data: []byte(`1`)}); !errors.Is(err, context.Canceled) || !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want cancelled", err)
	}
}

func TestStop_cancelsWhatRuns(t *testing.T) {
	c := &core{}
	began := make(chan struct{})
	c.answer = func(plugin.Invocation) (plugin.Result, error) { close(began); return plugin.Result{}, nil }
	i := launch(t, starlark.New(), inline(t, "def f():\n    host.invoke('other', 'x')\n    for _ in range(100000):\n        list(range(100000))\n"), c)
	done := make(chan error, 1)
	go func() { // ends with the invocation, which Stop cancels
		_, err := i.Invoke(context.Background(), plugin.Invocation{Operation: "f"})
		done <- err
	}()
	<-began
	if err := i.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	if e := i.Wait(); !e.Success() || e.At.IsZero() {
		t.Errorf("got %+v", e)
	}
	if _, err := invoke(t, i, "f", ""); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("after stop: got %v", err)
	}
}

func TestPrint_isBounded(t *testing.T) {
	c := &core{}
	i := launch(t, starlark.New(), inline(t, wrongs), c)
	for range 2 {
		c.printed.Reset()
		if _, err := invoke(t, i, "noisy", ""); err != nil {
			t.Fatal(err)
		}
		if n := c.printed.Len(); n > 66<<10 || n < 60<<10 || !strings.HasSuffix(c.printed.String(), "print: cut: more than 65536 bytes in one invocation\n") {
			t.Errorf("printed %d bytes, ending in %q", n, c.printed.String()[n-60:])
		}
	}
}

func TestHost(t *testing.T) {
	c := &core{}
	c.answer = func(in plugin.Invocation) (plugin.Result, error) {
		if in.Caller != "plugin:tiny" || in.Plugin != "other" {
			t.Errorf("got %+v", in)
		}
		switch in.Operation {
		case "refuse":
			return plugin.Result{}, &plugin.Refusal{Code: "theirs", Message: "no"}
		case "missing":
			return plugin.Result{}, fmt.Errorf("plugin other: %w", plugin.ErrNotFound)
		}
		return plugin.Result{Data: append([]byte(`[`), append(in.Data, ']')...)}, nil
	}
	i := launch(t, starlark.New(), tiny(t), c)
	if got, err := invoke(t, i, "relay", `{"plugin":"other","operation":"op","data":{"a":1}}`); got != `[{"a":1}]` || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	var refusal *plugin.Refusal
	if _, err := invoke(t, i, "relay", `{"plugin":"other","operation":"refuse"}`); !errors.As(err, &refusal) || refusal.Code != "theirs" {
		t.Errorf("got %v", err)
	}
	if _, err := invoke(t, i, "relay", `{"plugin":"other","operation":"missing"}`); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := invoke(t, i, "emit", `{"type":"greeted","data":{"n":1}}`); err != nil || len(c.events) != 1 || c.events[0].Type != "greeted" || string(c.events[0].Data) != `{"n":1}` {
		t.Errorf("got %v, %v", c.events, err)
	}
	if got, err := invoke(t, i, "variable", `"KEY"`); got != `"value"` || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestLaunch_refuses(t *testing.T) {
	for _, tt := range []struct{ name, source, text string }{
		{"fails while loading", "fail('broken')", "broken"},
		{"loops while loading", "def f():\n    while True:\n        pass\nf()\n", "steps"},
		{"calls the host while loading", "host.emit('x')", "not while the module loads"},
	} {
		a := starlark.New()
		if err := a.Check(inline(t, tt.source)); err != nil {
			t.Errorf("%s: check runs it: %v", tt.name, err)
		}
		_, err := a.Launch(t.Context(), plugin.Launch{Manifest: inline(t, tt.source).WithDefaults(), Output: &core{}, Host: &core{}})
		if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestCheck_faults(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large.star"), bytes.Repeat([]byte("#\n"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, block, want string }{
		{"nothing", `{}`, "spec.starlark.module: is missing"},
		{"both", `{"module":"a","source":"b"}`, "spec.starlark.source: stands beside module"},
		{"no such file", `{"module":"none.star"}`, "none.star: no such file"},
		{"a folder", `{"module":"."}`, "is not a file"},
		{"too large", `{"module":"large.star"}`, "has more than 262144 bytes"},
		{"syntax", `{"source":"def f(:\n"}`, "spec.starlark.source: source.star:1:8: got ':'"},
		{"undefined names", `{"source":"x = a\ny = b\n"}`, "source.star:1:5: undefined: a\nspec.starlark.source: source.star:2:5: undefined: b"},
		{"load", `{"source":"load('x.star', 'x')\n"}`, `load("x.star") is not supported`},
		{"operation", `{"source":"def f(): pass\n","operations":["f","g"]}`, `spec.starlark.operations[1]: "g" is no function`},
		{"steps", `{"source":"def f(): pass\n","steps":100000000}`, "spec.starlark.steps: 100000000 is too large; the most is 50000000"},
	} {
		m := plugin.Manifest{Metadata: plugin.Metadata{Name: "m", Source: dir}, Spec: plugin.Spec{Adapter: "starlark", Block: plugin.RawJSON(tt.block)}}
		if err := starlark.New().Check(m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestCheck_hostileSource has what makes recursive compilers exhaust the stack,
// which would end the process.
func TestCheck_hostileSource(t *testing.T) {
	const n = 60_000
	for name, source := range map[string]string{
		"sum":      "x = 1" + strings.Repeat("+1", n),
		"calls":    "def f(): return f" + strings.Repeat("()", n),
		"dots":     "def f(a): return a" + strings.Repeat(".a", n),
		"index":    "def f(a): return a" + strings.Repeat("[0]", n),
		"parens":   "x = " + strings.Repeat("(", n) + strings.Repeat(")", n),
		"lists":    "x = " + strings.Repeat("[", n) + strings.Repeat("]", n),
		"minus":    "x = " + strings.Repeat("-", n) + "1",
		"not":      "x = " + strings.Repeat("not ", n) + "1",
		"if":       "x = " + strings.Repeat("1 if 0 else ", n/3) + "1",
		"lambda":   "x = " + strings.Repeat("lambda:", n/3) + "1",
		"elif":     "def f(a):\n if a: pass\n" + strings.Repeat(" elif a: pass\n", n/5),
		"for":      "def f():\n" + nest("for a in []:", 900),
		"and":      "x = 1" + strings.Repeat(" and 1", n/2),
		"comp":     "x = [1" + strings.Repeat(" for a in []", n/4) + "]",
		"def":      nest("def f():", 900),
		"long int": "x = " + strings.Repeat("9", 4*n),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			err := starlark.New().Check(inline(t, source))
			t.Logf("%v %.100v", time.Since(start), err)
		})
	}
}

func nest(line string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + line + "\n")
	}
	return b.String() + strings.Repeat(" ", n) + "pass\n"
}

func TestDigest_isOfTheModule(t *testing.T) {
	m := inline(t, "def f(): pass\n")
	m.Spec.Digest = "sha256:" + strings.Repeat("0", 64)
	err := starlark.New().Check(m)
	if err == nil || !strings.Contains(err.Error(), "spec.digest: the module is sha256:") {
		t.Fatalf("got %v", err)
	}
	m.Spec.Digest = err.Error()[strings.Index(err.Error(), "sha256:"):][:71]
	if err := starlark.New().Check(m); err != nil {
		t.Error(err)
	}
}

func TestDescribe(t *testing.T) {
	m := inline(t, "def a(x):\n    '''Does a.\n\n    Slowly.'''\ndef b(x, y = [1]): pass\ndef c(): pass\n")
	m.Spec.Block = plugin.RawJSON(strings.Replace(string(m.Spec.Block), "{", `{"operations":["b","a"],`, 1))
	i := launch(t, starlark.New(), m, &core{})
	got, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	if got[0].Name != "a" || got[0].Summary != "Does a." || string(got[0].Input) != `{"title":"x"}` {
		t.Errorf("got %+v", got[0])
	}
	if want := `{"additionalProperties":false,"properties":{"x":{},"y":{"default":[1]}},"required":["x"],"type":"object"}`; string(got[1].Input) != want {
		t.Errorf("got %s, want %s", got[1].Input, want)
	}
}

// TestInstances_areCheap holds the promise that ten thousand plugins of one
// source cost less than 2 KiB each.
func TestInstances_areCheap(t *testing.T) {
	const count = 10_000
	a, c, m := starlark.New(), &core{}, inline(t, greeter(t))
	keep := make([]plugin.Instance, count)
	before := heap()
	for n := range keep {
		i, err := a.Launch(t.Context(), plugin.Launch{Manifest: m, Output: c, Host: c})
		if err != nil {
			t.Fatal(err)
		}
		keep[n] = i
	}
	each := int(heap()-before) / count
	t.Logf("%d bytes per instance", each)
	if each >= 2<<10 {
		t.Errorf("got %d bytes per instance, want less than 2 KiB", each)
	}
	runtime.KeepAlive(keep)
}

func greeter(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../manifests/examples/starlark/greeter.star")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkInvoke(b *testing.B) {
	for _, bb := range []struct{ name, operation, data string }{
		{"noop", "noop", ``}, {"echo_small", "echo", `{"name":"Ada","n":1}`},
		{"greet", "greet", `{"name":"Ada","language":"fr"}`},
		{"echo_4KiB", "echo", `{"rows":[` + strings.Repeat(`{"id":12345,"name":"some name","ratio":0.5,"on":true},`, 75) + `{}]}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			i := launch(b, starlark.New(), inline(b, "def noop(): return None\ndef echo(x): return x\ndef greet(name, language): return {'greeting': 'Bonjour, ' + name}\n"), &core{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			in := plugin.Invocation{Operation: bb.operation, Data: []byte(bb.data)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := i.Invoke(ctx, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLaunch(b *testing.B) {
	a, c, m := starlark.New(), &core{}, inline(b, greeter(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Launch(context.Background(), plugin.Launch{Manifest: m, Output: c, Host: c}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCheck_probe(t *testing.T) {
	for block, want := range map[string]bool{
		`{"starlark":{"source":"def f(): pass\n"}}`:                                                        true,
		`{"starlark":{"source":"def f(): pass\n"},"probe":{"interval":"10s","timeout":"1s","failures":3}}`: true,
		`{"starlark":{"source":"def f(): pass\n"},"probe":{"interval":"1s"}}`:                              false,
	} {
		var m plugin.Manifest
		if err := json.Unmarshal([]byte(`{"metadata":{"name":"p"},"spec":`+block+`}`), &m); err != nil {
			t.Fatal(err)
		}
		err := starlark.New().Check(m)
		if want != (err == nil) || (err != nil && !strings.Contains(err.Error(), "spec.probe")) {
			t.Errorf("%s: got %v", block, err)
		}
	}
}
