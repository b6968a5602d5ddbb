// Package portable runs a function, a source and a sink on the unmodified eKuiper
// SDK for Python, from PyPI with its libnng, through the adapter.
package portable

import (
	"context"
	"crypto/sha256"
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

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

const patience = 20 * time.Second

// venv is the virtual environment that has the SDK.
var venv string

func TestMain(m *testing.M) {
	adapters.Child()
	if len(os.Args) == 2 && os.Args[1] == daemonArg {
		fmt.Fprintln(os.Stderr, playDaemon())
		os.Exit(1)
	}
	var err error
	if venv, err = environment(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// environment makes the virtual environment, once per interpreter and list of
// packages, in the user's cache: it takes half a minute and the network.
func environment() (string, error) {
	python, err := exec.Command("../../ensure-python.sh").Output()
	if err != nil {
		return "", fmt.Errorf("ensure-python: %w", err)
	}
	packages, err := os.ReadFile("testdata/requirements.txt")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/tmp" // without a home; not /tmp, which plugins do not see
	}
	key := sha256.Sum256(append(python, packages...))
	dir := filepath.Join(cache, "patchbay", fmt.Sprintf("ekuiper-%x", key[:6]))
	return dir, locked(dir+".lock", func() error { return install(strings.TrimSpace(string(python)), dir) })
}

// locked keeps other runs of the tests away meanwhile.
func locked(path string, work func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	return work()
}

func install(python, dir string) error {
	complete := filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, command := range [][]string{
		{python, "-m", "venv", dir},
		{filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "-r", "testdata/requirements.txt"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
		}
	}
	return os.WriteFile(complete, nil, 0o644)
}

func adapter(t testing.TB) plugin.Adapter {
	t.Helper()
	for _, a := range adapters.All(adapters.Options{}) {
		if a.Name() == "portable" {
			return a
		}
	}
	t.Fatal("there is no portable adapter")
	return nil
}

func manifest(t testing.TB) plugin.Manifest {
	t.Helper()
	script, err := filepath.Abs("testdata/tiny.py")
	if err != nil {
		t.Fatal(err)
	}
	block, err := json.Marshal(map[string]any{
		"language": "python", "executable": script, "python": venv, "name": "pytiny",
		"functions": []string{"echo", "refuse", "exit", "print", "slow"},
		"sources":   []string{"counter"}, "sinks": []string{"file"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "pytiny"},
		Spec: plugin.Spec{Adapter: "portable", Block: block},
	}
}

func TestPython_conformance(t *testing.T) {
	conformance.Run(t, conformance.Fixture{
		Adapter: adapter(t), Manifest: manifest,
		Echo:    conformance.Call{Operation: "echo", Data: `[{"n":@N@,"deep":[1,null,"ü"]}]`, Want: `{"n":@N@,"deep":[1,null,"ü"]}`},
		Refuse:  conformance.Call{Operation: "refuse", Data: `["not today @N@"]`, WantMessage: "ValueError: not today @N@"},
		Exit:    &conformance.Call{Operation: "exit", Data: `[3]`, WantCode: 3},
		Slow:    conformance.Call{Operation: "slow", Data: `[60000]`},
		Print:   conformance.Call{Operation: "print", Data: `["line @N@"]`, Want: "line @N@"},
		Process: true, Limits: true,
	})
}

func start(t *testing.T) (plugin.Instance, *conformance.Output) {
	t.Helper()
	l := conformance.NewLaunch(t, manifest(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i, err := adapter(t).Launch(ctx, l)
	if err != nil {
		t.Fatalf("launch: %v\nprinted: %s", err, l.Output.(*conformance.Output).All())
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := i.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
	})
	return i, l.Output.(*conformance.Output)
}

// pipe is a plugin.Pipe in memory.
type pipe struct{ published, next chan string }

func newPipe() pipe { return pipe{make(chan string, 1000), make(chan string)} }

func (p pipe) Publish(data []byte) error {
	select {
	case p.published <- string(data):
		return nil
	default:
		return errors.New("full")
	}
}

func (p pipe) Next(ctx context.Context) ([]byte, error) {
	select {
	case m := <-p.next:
		return []byte(m), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stream runs one stream; end stops it.
func stream(t *testing.T, i plugin.Instance, s plugin.Stream, p plugin.Pipe) (end context.CancelFunc, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- i.(plugin.Streamer).Stream(ctx, s, p) }() // ends with ctx or the instance
	return cancel, ended
}

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

func TestPython_source(t *testing.T) {
	i, out := start(t)
	p := newPipe()
	end, done := stream(t, i, plugin.Stream{Source: "counter", Config: plugin.RawJSON(`{"interval":1,"fail":3,"datasource":"plant/7"}`)}, p)
	for _, n := range []int{1, 2, 4, 5} {
		if got, want := receive(t, p.published, "a tuple"), fmt.Sprintf(`{"n": %d, "topic": "plant/7"}`, n); got != want {
			t.Fatalf("tuple: got %s, want %s", got, want)
		}
	}
	end()
	if err := receive(t, done, "the end"); err != nil {
		t.Errorf("stopped: got %v, want nil", err)
	}
	conformance.Eventually(t, patience, func() error { return has(out.Text(plugin.PluginLog), "error: number 3") })
	if logged := out.Text(plugin.Stdout); strings.Contains(logged, "not found") {
		t.Errorf("the plugin did not know what to stop: %s", logged)
	}
}

func TestPython_sourceThatEndsAndOneThatCannotStart(t *testing.T) {
	i, _ := start(t)
	p := newPipe()
	_, done := stream(t, i, plugin.Stream{Source: "counter", Config: plugin.RawJSON(`{"last":2}`)}, p)
	if err := receive(t, done, "the end"); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("source that ends: got %v, want ErrUnavailable", err)
	}
	_, done = stream(t, i, plugin.Stream{Source: "counter", Config: plugin.RawJSON(`{"interval":-1}`)}, p)
	if err := receive(t, done, "an error"); err == nil || !strings.HasSuffix(err.Error(), "ValueError: interval must be positive") {
		t.Errorf("bad interval: got %v, want the last line of the traceback", err)
	}
}

func TestPython_sink(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "portable") // the plugin's /tmp is its own
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "out")
	config, _ := json.Marshal(map[string]string{"path": path})
	i, out := start(t)
	want := ""
	for range 2 { // started, stopped, started again
		p := newPipe()
		end, done := stream(t, i, plugin.Stream{Sink: "file", Config: config}, p)
		for n := range 100 {
			p.next <- fmt.Sprint("message ", n)
			want += fmt.Sprintln("message", n)
		}
		p.next <- strings.Repeat("x", 2<<20)
		want += strings.Repeat("x", 2<<20) + "\n"
		p.next <- "bad"
		conformance.Eventually(t, patience, func() error {
			got, err := os.ReadFile(path)
			if err == nil && string(got) != want {
				err = fmt.Errorf("got %d bytes, want %d", len(got), len(want))
			}
			return err
		})
		conformance.Eventually(t, patience, func() error { return has(out.Text(plugin.PluginLog), "bad message") })
		end()
		if err := receive(t, done, "the end"); err != nil {
			t.Errorf("stopped: got %v, want nil", err)
		}
	}
}

func has(text, part string) error {
	if strings.Contains(text, part) {
		return nil
	}
	return fmt.Errorf("got %q, want %q in it", text, part)
}

// The SDK's receive times out after 5 s, on every channel, and says handshake
// again: calls and commands after it must be done once each.
func TestPython_afterIdleSpell(t *testing.T) {
	i, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := i.Invoke(ctx, plugin.Invocation{Operation: "slow", Data: []byte(`[5500]`)}); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		r, err := i.Invoke(ctx, plugin.Invocation{Operation: "echo", Data: fmt.Appendf(nil, "[%d]", n)})
		if err != nil || string(r.Data) != fmt.Sprint(n) {
			t.Errorf("echo %d: got %s and %v", n, r.Data, err)
		}
	}
	p := newPipe()
	end, done := stream(t, i, plugin.Stream{Source: "counter"}, p)
	for n := 1; n < 5; n++ {
		if got, want := receive(t, p.published, "a tuple"), fmt.Sprintf(`{"n": %d, "topic": ""}`, n); got != want {
			t.Errorf("tuple: got %s, want %s: started once", got, want)
		}
	}
	end()
	if err := receive(t, done, "the end"); err != nil {
		t.Error(err)
	}
	if err := i.(plugin.Prober).Probe(ctx); err != nil {
		t.Errorf("probe: %v", err)
	}
}

func TestPython_longArgument(t *testing.T) {
	i, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	long := `"` + strings.Repeat("x", 4<<20) + `"`
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "echo", Data: []byte(long)})
	if err != nil || string(r.Data) != long {
		t.Errorf("4 MiB: got %d bytes and %v", len(r.Data), err)
	}
}
