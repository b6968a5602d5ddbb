package portable_test

import (
	"bytes"
	"context"
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

	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// daemonArg makes the test binary a daemon that does what its standard input says,
// prints the handle and waits to be killed.
const daemonArg = "killed-daemon"

// An order is what such a daemon does.
type order struct {
	ID, Dir  string
	Manifest plugin.Manifest
	Env      map[string]string
	// Call, if any, is made and not waited for.
	Call plugin.Invocation
}

func playDaemon() error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	i, err := portable.New(portable.Options{}).Launch(context.Background(), plugin.Launch{
		ID: o.ID, Dir: o.Dir, Manifest: o.Manifest, Env: o.Env, Node: "conformance",
		Host: conformance.NewHost(), Output: conformance.OutputIn(o.Dir),
	})
	if err != nil {
		return err
	}
	p := &pipe{published: make(chan string, 3), next: make(chan string)}
	for _, s := range o.Manifest.Spec.Streams {
		go func() { fmt.Fprintln(os.Stderr, i.(plugin.Streamer).Stream(context.Background(), s, p)) }() // ends with this process
		if s.Source != "" {
			<-p.published
		} else {
			p.next <- "before"
		}
	}
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		return err
	}
	if o.Call.Operation != "" {
		go func() { _, _ = i.Invoke(context.Background(), o.Call) }() // ends with this process
		if err := awaitFile(filepath.Join(o.Dir, "stdout"), "called"); err != nil {
			return err
		}
	}
	fmt.Println(string(handle))
	select {}
}

// awaitFile waits until text is in the file.
func awaitFile(path, text string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(text)) {
			return nil
		}
	}
	return fmt.Errorf("%s: no %q", path, text)
}

// orphaned launches m in a daemon that is then killed.
func orphaned(t *testing.T, m plugin.Manifest, call plugin.Invocation) (plugin.Launch, plugin.RawJSON) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	input, err := json.Marshal(order{l.ID, l.Dir, l.Manifest, l.Env, call})
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(os.Args[0], daemonArg)
	daemon.Stdin, daemon.Stderr = bytes.NewReader(input), os.Stderr
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var handle plugin.RawJSON
	if err := json.NewDecoder(out).Decode(&handle); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	return l, handle
}

func adopt(t *testing.T, l plugin.Launch, handle plugin.RawJSON) plugin.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i, err := portable.New(portable.Options{}).Adopt(ctx, l, handle)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := i.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
	})
	return i
}

func leave(t *testing.T, i plugin.Instance) plugin.RawJSON {
	t.Helper()
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	i.(plugin.Survivor).Leave()
	return handle
}

func echoed(t *testing.T, i plugin.Instance, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "echo", Data: fmt.Appendf(nil, "[%d]", n)})
	if err != nil || string(r.Data) != fmt.Sprint(n) {
		t.Errorf("echo %d: got %s and %v", n, r.Data, err)
	}
}

// numberOf is the n of a ticker's tuple.
func numberOf(t *testing.T, tuple string) int {
	t.Helper()
	var v struct{ N int }
	if err := json.Unmarshal([]byte(tuple), &v); err != nil || v.N == 0 {
		t.Fatalf("tuple %q: %v", tuple, err)
	}
	return v.N
}

func streaming(t *testing.T, path string) plugin.Manifest {
	t.Helper()
	config, err := json.Marshal(map[string]string{"path": path})
	if err != nil {
		t.Fatal(err)
	}
	m := tinyManifest(t)
	m.Spec.Streams = []plugin.Stream{
		{Source: "ticker", Publish: "x", Config: plugin.RawJSON(`{"interval":20,"value":{"a": 1}}`)},
		{Sink: "file", Subscribe: "x", Config: config},
	}
	return m
}

// What streamed goes on after the daemon was killed: the same source, which is not
// started again, and the same sink.
func TestAdopt_streamsOfAKilledDaemon(t *testing.T) {
	path := filepath.Join(varTmp(t), "out")
	l, handle := orphaned(t, streaming(t, path), plugin.Invocation{})
	i := adopt(t, l, handle)
	p := newPipe()
	endSource, _ := stream(t, i, l.Manifest.Spec.Streams[0], p)
	last := numberOf(t, receive(t, p.published, "a tuple"))
	if last < 2 {
		t.Errorf("first tuple after the adoption: got number %d, want that it counts on", last)
	}
	for range 5 {
		n := numberOf(t, receive(t, p.published, "a tuple"))
		if n != last+1 {
			t.Errorf("after tuple %d: got %d, want the next, once", last, n)
		}
		last = n
	}
	endSink, _ := stream(t, i, l.Manifest.Spec.Streams[1], p)
	p.next <- "after"
	conformance.Eventually(t, patience, func() error { return fileIs(path, "before\nafter\n") })
	echoed(t, i, 1)
	if err := errors.Join(endSource(), endSink()); err != nil {
		t.Errorf("end of the streams: %v", err)
	}
	// The source was stopped, by its own name: another start counts from 1.
	p = newPipe()
	end, _ := stream(t, i, l.Manifest.Spec.Streams[0], p)
	for want := 1; want < 4; want++ {
		if n := numberOf(t, receive(t, p.published, "a tuple")); n != want {
			t.Errorf("started again: got tuple %d, want %d", n, want)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A daemon that leaves loses nothing of what streams.
func TestAdopt_losesNoTupleWhenItWasLeft(t *testing.T) {
	i, l := start(t, tinyManifest(t))
	s := plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`{"interval":1}`)}
	p := newPipe()
	last := 0
	for round := range 4 {
		_, done := stream(t, i, s, p)
		for range 20 {
			n := numberOf(t, receive(t, p.published, "a tuple"))
			if n != last+1 {
				t.Fatalf("round %d: got tuple %d after %d", round, n, last)
			}
			last = n
		}
		handle := leave(t, i)
		if err := receive(t, done, "the end of the stream"); err == nil {
			t.Error("a stream of what was left: got nil, want an error")
		}
		i = adopt(t, l, handle)
	}
}

// The answer to a call of the killed daemon is not the answer to another call.
func TestAdopt_dropsTheAnswerToADeadDaemon(t *testing.T) {
	l, handle := orphaned(t, tinyManifest(t), plugin.Invocation{Operation: "slow", Data: []byte(`[700,"called"]`)})
	i := adopt(t, l, handle)
	echoed(t, i, 7)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "slow", Data: []byte(`[1]`)})
	if err != nil || string(r.Data) != "1" {
		t.Errorf("got %s and %v, want 1, not the 700 of the call before", r.Data, err)
	}
	if logged := l.Output.(*conformance.Output).Text(plugin.PluginLog); !strings.Contains(logged, "late answer dropped") {
		t.Errorf("log: got %s", logged)
	}
}

func TestAdopt_endsWhatIsSilent(t *testing.T) {
	l, handle := orphaned(t, tinyManifest(t), plugin.Invocation{})
	freeze(t, handle)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := portable.New(portable.Options{}).Adopt(ctx, l, handle)
	if !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v, want plugin.ErrUnavailable and not plugin.ErrNotFound", err)
	}
	conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
}

func freeze(t *testing.T, handle plugin.RawJSON) {
	t.Helper()
	var h struct{ Process struct{ Pid int } }
	if err := json.Unmarshal(handle, &h); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, patience, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.Process.Pid))
		if err == nil && !bytes.Contains(stat, []byte(") T ")) {
			err = fmt.Errorf("not stopped: %s", stat)
		}
		return err
	})
}

// What cannot be gone on with is ended, so that it can be launched anew: here the
// manifest has other functions than the plugin was started with.
func TestAdopt_endsWhatItCannotGoOnWith(t *testing.T) {
	i, l := start(t, tinyManifest(t))
	handle := leave(t, i)
	l.Manifest = withBlock(t, map[string]any{"functions": []string{"echo"}}).WithDefaults()
	_, err := portable.New(portable.Options{}).Adopt(t.Context(), l, handle)
	if !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrNotFound) || !strings.Contains(err.Error(), "of something else") {
		t.Errorf("got %v", err)
	}
	conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
}

func TestAdopt_anothersHandle(t *testing.T) {
	first, _ := start(t, tinyManifest(t))
	handle, err := first.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	other := conformance.NewLaunch(t, tinyManifest(t))
	if _, err := portable.New(portable.Options{}).Adopt(t.Context(), other, handle); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v, want plugin.ErrNotFound", err)
	}
	echoed(t, first, 1)
}

func TestHandle_ofABoundPlugin(t *testing.T) {
	m := tinyManifest(t)
	m.Spec.Lifetime = plugin.Bound
	i, _ := start(t, m)
	if _, err := i.(plugin.Survivor).Handle(context.Background()); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want plugin.ErrInvalid", err)
	}
	echoed(t, i, 1)
}

func TestSweep_whatNobodyAdopts(t *testing.T) {
	l, _ := orphaned(t, tinyManifest(t), plugin.Invocation{})
	a := portable.New(portable.Options{Node: "conformance"})
	strays, err := a.Strays(t.Context(), "conformance", func(id string) bool { return id != l.ID })
	if err != nil || len(strays) != 1 || strays[0].Instance != l.ID {
		t.Fatalf("strays: got %+v, %v", strays, err)
	}
	if removed, err := a.Sweep(t.Context(), strays); err != nil || len(removed) != 1 {
		t.Errorf("sweep: got %v, %v", removed, err)
	}
	conformance.Eventually(t, patience, func() error {
		again, err := a.Strays(t.Context(), "conformance", func(id string) bool { return id != l.ID })
		if err == nil && len(again) > 0 {
			err = fmt.Errorf("still there: %v", again)
		}
		return err
	})
}
