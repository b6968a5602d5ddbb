package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Output is a plugin.Output on append files, as the core's own is.
type Output struct {
	dir string
	mu  sync.Mutex // orders whole writes of Writer
}

var _ plugin.Output = (*Output)(nil)

// NewOutput returns an Output whose files go with the test.
func NewOutput(t testing.TB) *Output {
	t.Helper()
	return &Output{dir: t.TempDir()}
}

// OutputIn returns an Output with its files in a folder that is there.
func OutputIn(dir string) *Output { return &Output{dir: dir} }

// File opens the stream's file in append mode; the caller closes it.
func (o *Output) File(s plugin.LogStream) (*os.File, error) {
	return os.OpenFile(filepath.Join(o.dir, string(s)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// Writer appends to the stream's file, opening it for each write.
func (o *Output) Writer(s plugin.LogStream) io.Writer { return appender{o, s} }

// Text returns everything that was printed on the stream so far.
func (o *Output) Text(s plugin.LogStream) string {
	data, err := os.ReadFile(filepath.Join(o.dir, string(s)))
	if err != nil {
		return ""
	}
	return string(data)
}

// All returns everything that was printed so far, on whatever stream.
func (o *Output) All() string {
	return o.Text(plugin.Stdout) + o.Text(plugin.Stderr) + o.Text(plugin.PluginLog)
}

type appender struct {
	o *Output
	s plugin.LogStream
}

func (a appender) Write(p []byte) (int, error) {
	a.o.mu.Lock()
	defer a.o.mu.Unlock()
	f, err := a.o.File(a.s)
	if err != nil {
		return len(p), nil // a Writer returns no error; the test's folder is gone
	}
	defer f.Close()
	_, _ = f.Write(p)
	return len(p), nil
}

// Host is a plugin.Host that remembers what is emitted and what is kept, permits
// everything and knows no other plugin.
type Host struct {
	mu     sync.Mutex
	events []plugin.Event
	values values
	// Answer is whoever listens on the bus; nil: nobody does.
	Answer func(ctx context.Context, name string, data []byte) ([]byte, error)
}

var (
	_ plugin.Host      = (*Host)(nil)
	_ plugin.Keeper    = (*Host)(nil)
	_ plugin.Requester = (*Host)(nil)
)

// NewHost returns a Host that has heard nothing yet.
func NewHost() *Host { return &Host{values: values{all: map[string][]byte{}}} }

// Emit remembers the event.
func (h *Host) Emit(_ context.Context, e plugin.Event) error {
	if len(e.Data) > plugin.EventDataBytesMax {
		return fmt.Errorf("emit: %w: %d bytes", plugin.ErrInvalid, len(e.Data))
	}
	e.Data = bytes.Clone(e.Data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	return nil
}

// Invoke finds no plugin.
func (h *Host) Invoke(_ context.Context, in plugin.Invocation) (plugin.Result, error) {
	return plugin.Result{}, fmt.Errorf("plugin %s: %w", in.Plugin, plugin.ErrNotFound)
}

// Permit permits.
func (h *Host) Permit(context.Context, plugin.Ask) error { return nil }

// Events returns what was emitted so far.
func (h *Host) Events() []plugin.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]plugin.Event(nil), h.events...)
}

// Values are kept in memory.
func (h *Host) Values() plugin.Values { return &h.values }

// Request asks Answer.
func (h *Host) Request(ctx context.Context, name string, data []byte) ([]byte, error) {
	if h.Answer == nil {
		return nil, fmt.Errorf("%s: %w: nobody listens", name, plugin.ErrUnavailable)
	}
	return h.Answer(ctx, name, data)
}

// values are plugin.Values without their bounds.
type values struct {
	mu  sync.Mutex
	all map[string][]byte
}

func (v *values) Get(_ context.Context, key string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, ok := v.all[key]
	if !ok {
		return nil, fmt.Errorf("key %q: %w", key, plugin.ErrNotFound)
	}
	return value, nil
}

func (v *values) Put(_ context.Context, key string, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all[key] = bytes.Clone(value)
	return nil
}

func (v *values) Delete(_ context.Context, key string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, key)
	return nil
}

func (v *values) List(_ context.Context, prefix string) ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var keys []string
	for key := range v.all {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// markName is the variable of every launch by which its processes are found.
const markName = "PATCHBAY_CONFORMANCE"

// NewLaunch returns what the core would give the adapter for m: an ID, an empty
// folder of its own (short, so that sockets fit; under the system's folder for
// temporary files, as a daemon's data folder may be), an Output, a Host and an
// environment that marks the instance's processes. The folder goes with the test.
func NewLaunch(t testing.TB, m plugin.Manifest) plugin.Launch {
	t.Helper()
	id := m.Metadata.Name + "-" + mark()
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return plugin.Launch{
		ID: id, Manifest: m.WithDefaults(), Env: map[string]string{markName: id},
		Dir: dir, Output: NewOutput(t), Host: NewHost(), Node: "conformance",
	}
}

func mark() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Eventually polls until ok returns nil, and fails the test with its last error
// when that takes longer than within.
func Eventually(t testing.TB, within time.Duration, ok func() error) {
	t.Helper()
	if err := poll(within, ok); err != nil {
		t.Errorf("still after %v: %v", within, err)
	}
}

func poll(within time.Duration, ok func() error) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			return err
		}
	}
}

// running is one launched instance and what it was launched with.
type running struct {
	plugin.Instance
	launch plugin.Launch
	out    *Output
}

// launch is what the core would give the adapter; a Resident one gets no folder.
func (f Fixture) launch(t testing.TB) plugin.Launch {
	t.Helper()
	l := NewLaunch(t, f.Manifest(t))
	if _, ok := f.Adapter.(plugin.Resident); ok {
		l.Dir = ""
	}
	return l
}

// start launches an instance. When the test ends it is stopped, and nothing of
// it may be left.
func (f Fixture) start(t testing.TB) running {
	t.Helper()
	r, err := f.try(t)
	if err != nil {
		t.Fatalf("launch: %v", err)
	}
	return r
}

// try is start for goroutines that are not the test's own.
func (f Fixture) try(t testing.TB) (running, error) {
	l := f.launch(t)
	ctx, cancel := context.WithTimeout(context.Background(), l.Manifest.Spec.Timeouts.Start.Std())
	defer cancel() // the instance must outlive its launch's context
	i, err := f.Adapter.Launch(ctx, l)
	if err != nil {
		nothingLeft(t, l)
		return running{}, fmt.Errorf("%w\nprinted: %s", err, l.Output.(*Output).All())
	}
	r := running{i, l, l.Output.(*Output)}
	t.Cleanup(func() { f.end(t, r) })
	return r, nil
}

// end stops the instance and looks for what it left.
func (f Fixture) end(t testing.TB, r running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.launch.Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	nothingLeft(t, r.launch)
}

// do makes the call; n takes the place of [Number]. A call that ignores its
// context is given up after hangMost, so that the suite can say so and go on.
func do(ctx context.Context, r running, c Call, n int) (plugin.Result, error) {
	type end struct {
		res plugin.Result
		err error
	}
	answer := make(chan end, 1)
	go func() { // ends with the call
		res, err := r.Invoke(ctx, plugin.Invocation{
			ID: fmt.Sprintf("%s-%d", r.launch.ID, n), Plugin: r.launch.Manifest.Metadata.Name,
			Operation: c.Operation, Data: []byte(numbered(c.Data, n)), ContentType: "application/json", Caller: "conformance",
		})
		answer <- end{res, err}
	}()
	select {
	case e := <-answer:
		return e.res, e.err
	case <-time.After(hangMost):
		return plugin.Result{}, fmt.Errorf("operation %s: does not return", c.Operation)
	}
}

// echo makes the fixture's Echo call and compares the answer.
func (f Fixture) echo(r running, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := do(ctx, r, f.Echo, n)
	if err != nil {
		return fmt.Errorf("echo %d: %w", n, err)
	}
	if err := sameJSON(res.Data, []byte(numbered(f.Echo.Want, n))); err != nil {
		return fmt.Errorf("echo %d: %w", n, err)
	}
	return nil
}

// ends waits for the instance to be gone.
func ends(r running, within time.Duration) (plugin.Exit, error) {
	gone := make(chan plugin.Exit, 1)
	go func() { gone <- r.Wait() }() // ends with the instance
	select {
	case e := <-gone:
		return e, nil
	case <-time.After(within):
		return plugin.Exit{}, errors.New("wait: not gone after " + within.String())
	}
}
