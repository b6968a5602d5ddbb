package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// memory is a plugin.Output that outlives daemons and counts lines, as the core's.
type memory struct {
	*conformance.Output
	mu    sync.Mutex
	lines map[plugin.LogStream][]string
	at    map[plugin.LogStream]uint64 // where the writer is
	rest  map[plugin.LogStream][]byte
}

var _ plugin.Resumer = (*memory)(nil)

func newMemory(t *testing.T) *memory {
	return &memory{Output: conformance.NewOutput(t), lines: map[plugin.LogStream][]string{}, at: map[plugin.LogStream]uint64{}, rest: map[plugin.LogStream][]byte{}}
}

func (m *memory) Lines(s plugin.LogStream) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.lines[s]))
}

func (m *memory) Resume(s plugin.LogStream, lines uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[s], m.rest[s] = lines, nil
}

func (m *memory) Writer(s plugin.LogStream) io.Writer { return memoryWriter{m, s} }

type memoryWriter struct {
	m *memory
	s plugin.LogStream
}

func (w memoryWriter) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.rest[w.s] = append(w.m.rest[w.s], p...)
	for {
		line, rest, found := bytes.Cut(w.m.rest[w.s], []byte("\n"))
		if !found {
			return len(p), nil
		}
		if w.m.at[w.s]++; w.m.at[w.s] > uint64(len(w.m.lines[w.s])) {
			w.m.lines[w.s] = append(w.m.lines[w.s], string(line))
		}
		w.m.rest[w.s] = rest
	}
}

func (m *memory) all(s plugin.LogStream) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines[s])
}

// launched is a detached service, its handle, and the launch to adopt it with.
type launched struct {
	plugin.Instance
	l      plugin.Launch
	handle plugin.RawJSON
}

func launch(t *testing.T, a *container.Adapter, out plugin.Output) launched {
	t.Helper()
	l := conformance.NewLaunch(t, manifestOf(plugin.Service, serviceBlock("")))
	if out != nil {
		l.Output = out
	}
	i, err := a.Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(within(t)) })
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return launched{i, l, handle}
}

func adopt(t *testing.T, a *container.Adapter, r launched) launched {
	t.Helper()
	i, err := a.Adopt(within(t), r.l, r.handle)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(func() { _ = i.Stop(within(t)) })
	return launched{i, r.l, r.handle}
}

// say calls a service that no instance serves: it runs on while there is no daemon.
func (r launched) say(t *testing.T, operation, data string) {
	t.Helper()
	url := "http://" + r.Instance.(plugin.Inspector).Inspect()["address"] + "/" + operation
	resp, err := http.Post(url, "application/json", strings.NewReader(data))
	if err == nil {
		_ = resp.Body.Close()
	} else if operation != "exit" {
		t.Fatalf("%s: %v", operation, err)
	}
}

// lines are line 0 to line n-1, behind the first words of the service.
func lines(n int) []string {
	all := []string{"listening on :8080"}
	for i := range n {
		all = append(all, "line "+strconv.Itoa(i))
	}
	return all
}

// prints waits until exactly want was printed.
func prints(t *testing.T, m *memory, want []string) {
	t.Helper()
	conformance.Eventually(t, 20*time.Second, func() error {
		got := m.all(plugin.Stdout)
		if slices.Equal(got, want) {
			return nil
		}
		for n := range min(len(got), len(want)) {
			if got[n] != want[n] {
				return fmt.Errorf("stdout: got %d lines, want %d; line %d is %.80q, want %.80q", len(got), len(want), n, got[n], want[n])
			}
		}
		return fmt.Errorf("stdout: got %d lines, want %d", len(got), len(want))
	})
}

// What was printed while nobody listened arrives once, and so does what is printed
// while the adoption goes on; again and again, since what was made up for counts.
func TestAdopt_outputArrivesOnce(t *testing.T) {
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	n := 0
	print := func(count int) {
		for range count {
			r.say(t, "print", `{"text": "line `+strconv.Itoa(n)+`"}`)
			n++
		}
	}
	print(5)
	prints(t, out, lines(n))
	for range 3 {
		r.Instance.(plugin.Survivor).Leave()
		print(5)
		r = adopt(t, newAdapter(t), r)
		print(50)
		prints(t, out, lines(n))
	}
	info, err := os.Stat(filepath.Join(r.l.Dir, "log-position"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("position: got %v, %v, want a file of mode 0600", info, err)
	}
}

// A line that repeats itself is counted, not compared; a flood does not hide it.
func TestAdopt_outputThatRepeatsItself(t *testing.T) {
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	want := []string{"listening on :8080"}
	tick := func(count int) {
		for range count {
			r.say(t, "print", `{"text": "tick"}`)
			want = append(want, "tick")
		}
	}
	tick(3)
	prints(t, out, want)
	r.Instance.(plugin.Survivor).Leave()
	tick(7)
	r = adopt(t, newAdapter(t), r)
	tick(20)
	prints(t, out, want)
}

// A flood that goes on while the daemon changes loses nothing and repeats nothing.
func TestAdopt_outputOfAFlood(t *testing.T) {
	const count = 60_000
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	flooded := make(chan struct{})
	go func() { // ends with the flood
		defer close(flooded)
		r.say(t, "print", fmt.Sprintf(`{"text": "line", "n": %d}`, count))
	}()
	for range 2 {
		before := out.Lines(plugin.Stdout)
		conformance.Eventually(t, 20*time.Second, func() error {
			if now := out.Lines(plugin.Stdout); now < min(before+count/10, count) {
				return fmt.Errorf("the flood does not arrive: %d lines, %d before", now, before)
			}
			return nil
		})
		r.Instance.(plugin.Survivor).Leave()
		r = adopt(t, newAdapter(t), r)
	}
	<-flooded
	prints(t, out, lines(count))
}

// The mark moves as much is printed, and what comes behind it is still exact.
func TestAdopt_outputBehindALaterMark(t *testing.T) {
	const count = 10_000 // more than markBytes
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	want := append(lines(count), "while nobody listened", "afterwards")
	r.say(t, "print", fmt.Sprintf(`{"text": "line", "n": %d}`, count))
	conformance.Eventually(t, 10*time.Second, func() error {
		data, err := os.ReadFile(filepath.Join(r.l.Dir, "log-position"))
		if !bytes.Contains(data, []byte(`"lines":`+strconv.Itoa(count))) { // the last one is behind the mark
			return fmt.Errorf("position: %s, %v", data, err)
		}
		return nil
	})
	r.Instance.(plugin.Survivor).Leave()
	r.say(t, "print", `{"text": "while nobody listened"}`)
	r = adopt(t, newAdapter(t), r)
	r.say(t, "print", `{"text": "afterwards"}`)
	prints(t, out, want)
}

// When the engine has dropped what was printed, that is said, and the rest goes on.
func TestAdopt_outputThatIsGone(t *testing.T) {
	const count = 45_000 // of 1 kB, more than the engine keeps
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	prints(t, out, lines(0))
	position := filepath.Join(r.l.Dir, "log-position")
	conformance.Eventually(t, 10*time.Second, func() error {
		if data, err := os.ReadFile(position); err != nil || !bytes.Contains(data, []byte(`"mark"`)) {
			return fmt.Errorf("position: %s, %v", data, err)
		}
		return nil
	})
	r.Instance.(plugin.Survivor).Leave()
	r.say(t, "print", fmt.Sprintf(`{"text": %q, "n": %d}`, strings.Repeat("x", 1000), count))
	r = adopt(t, newAdapter(t), r)
	r.say(t, "print", `{"text": "after the flood"}`)
	conformance.Eventually(t, 20*time.Second, func() error {
		got := out.all(plugin.Stdout)
		if got[len(got)-1] != "after the flood" || !strings.HasSuffix(got[len(got)-2], " "+strconv.Itoa(count-1)) {
			return fmt.Errorf("stdout: got %d lines, the last %.200q", len(got), got[max(0, len(got)-2):])
		}
		return nil
	})
	if told := strings.Join(out.all(plugin.PluginLog), " "); strings.Count(told, "output is missing") != 1 {
		t.Errorf("plugin log: got %q, want once that output is missing", told)
	}
	got := len(out.all(plugin.Stdout))
	if got < count/10 || got >= count {
		t.Errorf("stdout: got %d lines of %d, want what the engine still had", got, count)
	}
	// Without the position nobody knows either, and what comes next is not taken
	// for what is known.
	r.Instance.(plugin.Survivor).Leave()
	if err := os.Remove(position); err != nil {
		t.Fatal(err)
	}
	out.mu.Lock() // as if the first had arrived before the flood
	out.lines[plugin.Stdout] = append(make([]string, count), out.lines[plugin.Stdout]...)
	out.mu.Unlock()
	r = adopt(t, newAdapter(t), r)
	conformance.Eventually(t, 20*time.Second, func() error {
		if told := strings.Join(out.all(plugin.PluginLog), " "); strings.Count(told, "output is missing") != 2 {
			return fmt.Errorf("plugin log: got %q, want once more that output is missing", told)
		}
		return nil
	})
	r.say(t, "print", `{"text": "after all"}`)
	conformance.Eventually(t, 20*time.Second, func() error {
		if all := out.all(plugin.Stdout); len(all) != count+got+1 || all[count+got] != "after all" {
			return fmt.Errorf("stdout: got %d lines, want %d", len(all), count+got+1)
		}
		return nil
	})
}

// A daemon that is killed leaves no position but the last that it wrote down.
func TestAdopt_afterAKill(t *testing.T) {
	g := newGate(t)
	killed := container.New(container.Options{Node: node, Host: "unix://" + g.path})
	t.Cleanup(func() { _ = killed.Close() })
	out := newMemory(t)
	r := launch(t, killed, out)
	first := r.Instance
	r.say(t, "print", `{"text": "line 0"}`)
	prints(t, out, lines(1))
	g.shut() // from now on it reads nothing
	r.say(t, "print", `{"text": "line 1"}`)
	r = adopt(t, newAdapter(t), r)
	r.say(t, "print", `{"text": "line 2"}`)
	prints(t, out, lines(3))
	if err := r.Stop(within(t)); err != nil {
		t.Error(err)
	}
	g.open(t) // so that it sees the end
	first.Wait()
}

// While the engine is away nobody knows: nothing is touched, and later on it works.
func TestAdopt_engineAway(t *testing.T) {
	r := launch(t, newAdapter(t), nil)
	r.Instance.(plugin.Survivor).Leave()
	g := newGate(t)
	a := container.New(container.Options{Node: node, Host: "unix://" + g.path})
	t.Cleanup(func() { _ = a.Close() })
	g.shut()
	if err := a.Available(within(t)); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("available: got %v, want plugin.ErrUnavailable", err)
	}
	if _, err := a.Adopt(within(t), r.l, r.handle); !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("adopt: got %v, want plugin.ErrUnavailable", err)
	}
	r.say(t, "print", `{"text": "still here"}`)
	g.open(t)
	second := adopt(t, a, r)
	conformance.Eventually(t, 10*time.Second, func() error {
		if all := r.l.Output.(*conformance.Output).Text(plugin.Stdout); all != "listening on :8080\nstill here\n" {
			return fmt.Errorf("stdout: got %q", all)
		}
		return nil
	})
	if err := second.Stop(within(t)); err != nil {
		t.Errorf("stop: %v", err)
	}
	nothingOf(t, r.l.ID)
}

// One that ended meanwhile says how, and its last words arrive.
func TestAdopt_endedMeanwhile(t *testing.T) {
	out := newMemory(t)
	r := launch(t, newAdapter(t), out)
	r.Instance.(plugin.Survivor).Leave()
	r.say(t, "print", `{"text": "line 0"}`)
	r.say(t, "exit", `{"code": 9}`)
	conformance.Eventually(t, 10*time.Second, func() error {
		if all := containersOf(t, r.l.ID); len(all) != 1 || all[0].State == "running" {
			return fmt.Errorf("containers: got %v, want one that has ended", all)
		}
		return nil
	})
	_, err := newAdapter(t).Adopt(within(t), r.l, r.handle)
	if !errors.Is(err, plugin.ErrNotFound) || !strings.Contains(err.Error(), "exit code 9") || !strings.Contains(err.Error(), "line 0") {
		t.Errorf("adopt: got %v, want plugin.ErrNotFound with exit code 9 and its last words", err)
	}
	prints(t, out, lines(1))
	nothingOf(t, r.l.ID)
}

// What cannot be proved is left alone.
func TestAdopt_anotherContainer(t *testing.T) {
	r := launch(t, newAdapter(t), nil)
	other := container.New(container.Options{Node: node + "-other"})
	t.Cleanup(func() { _ = other.Close() })
	for name, tt := range map[string]struct {
		a      *container.Adapter
		change func(l *plugin.Launch, handle *string)
	}{
		"node":     {other, func(*plugin.Launch, *string) {}},
		"instance": {newAdapter(t), func(l *plugin.Launch, _ *string) { l.ID += "-x" }},
		"plugin":   {newAdapter(t), func(l *plugin.Launch, _ *string) { l.Manifest.Metadata.Name = "huge" }},
		"start":    {newAdapter(t), func(_ *plugin.Launch, h *string) { *h = strings.Replace(*h, `"started":"20`, `"started":"19`, 1) }},
		"image":    {newAdapter(t), func(_ *plugin.Launch, h *string) { *h = strings.Replace(*h, `"sha256:`, `"sha256:0`, 1) }},
		"id": {newAdapter(t), func(_ *plugin.Launch, h *string) {
			*h = strings.Replace(*h, r.Instance.(plugin.Inspector).Inspect()["container"], "000000000000", 1)
		}},
	} {
		l, handle := r.l, string(r.handle)
		tt.change(&l, &handle)
		if _, err := tt.a.Adopt(within(t), l, plugin.RawJSON(handle)); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("another %s: got %v, want plugin.ErrNotFound", name, err)
		}
	}
	if all := containersOf(t, r.l.ID); len(all) != 1 || all[0].State != "running" {
		t.Errorf("containers: got %v, want it running", all)
	}
}

// One that does not answer is ended; an adoption that is called off ends nothing.
func TestAdopt_doesNotAnswer(t *testing.T) {
	r := launch(t, newAdapter(t), nil)
	r.Instance.(plugin.Survivor).Leave()
	silent := r.l
	silent.Manifest = manifestOf(plugin.Service, strings.Replace(serviceBlock(""), "/health", "/nowhere", 1)).WithDefaults()
	off, cancel := context.WithCancel(within(t))
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := newAdapter(t).Adopt(off, silent, r.handle); !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("called off: got %v, want plugin.ErrUnavailable", err)
	}
	r.say(t, "echo", `1`)
	short, cancel := context.WithTimeout(within(t), 500*time.Millisecond)
	defer cancel()
	if _, err := newAdapter(t).Adopt(short, silent, r.handle); !errors.Is(err, plugin.ErrDeadline) || errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("silent: got %v, want plugin.ErrDeadline", err)
	}
	nothingOf(t, r.l.ID)
}

// What ends with the daemon cannot be adopted, and nothing is written down for it.
func TestHandle_bound(t *testing.T) {
	bound := manifestOf(plugin.Service, serviceBlock(""))
	bound.Spec.Lifetime = plugin.Bound
	for name, m := range map[string]plugin.Manifest{"bound": bound, "job": manifestOf(plugin.Job, `{"image": "`+tag+`", "pull": "never"}`)} {
		l := conformance.NewLaunch(t, m)
		i, err := newAdapter(t).Launch(within(t), l)
		if err != nil {
			t.Fatal(err)
		}
		if handle, err := i.(plugin.Survivor).Handle(context.Background()); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%s: got %s, %v, want plugin.ErrInvalid", name, handle, err)
		}
		if err := i.Stop(within(t)); err != nil {
			t.Error(err)
		}
		if files, _ := os.ReadDir(l.Dir); len(files) != 0 {
			t.Errorf("%s: got files %v, want none", name, files)
		}
	}
}
