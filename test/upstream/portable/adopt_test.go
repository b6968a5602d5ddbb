package portable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

const (
	// daemonArg makes the test binary a daemon that launches the order on its
	// standard input, prints the handle and waits to be killed.
	daemonArg = "killed-daemon"
	// absence is how long there is no daemon: longer than the SDK waits for a
	// command, 5 s, and than it takes for a message that it cannot send, 1 s.
	absence = 6 * time.Second
)

type order struct {
	ID, Dir  string
	Manifest plugin.Manifest
	Env      map[string]string
}

func portableAdapter() plugin.Adapter {
	for _, a := range adapters.All(adapters.Options{Node: "conformance"}) {
		if a.Name() == "portable" {
			return a
		}
	}
	return nil
}

func playDaemon() error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	i, err := portableAdapter().Launch(context.Background(), plugin.Launch{
		ID: o.ID, Dir: o.Dir, Manifest: o.Manifest, Env: o.Env, Node: "conformance",
		Host: conformance.NewHost(), Output: conformance.OutputIn(o.Dir),
	})
	if err != nil {
		return err
	}
	p := newPipe()
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
	fmt.Println(string(handle))
	select {}
}

// orphaned launches m in a daemon that is then killed, once the plugin has done its part.
func orphaned(t *testing.T, m plugin.Manifest, done func() error) (plugin.Launch, plugin.RawJSON) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	input, err := json.Marshal(order{l.ID, l.Dir, l.Manifest, l.Env})
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
	conformance.Eventually(t, patience, done)
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	return l, handle
}

func adopt(t *testing.T, l plugin.Launch, handle plugin.RawJSON) plugin.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i, err := portableAdapter().(plugin.Adopter).Adopt(ctx, l, handle)
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

func echoed(t *testing.T, i plugin.Instance, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "echo", Data: fmt.Appendf(nil, "[%d]", n)})
	if err != nil || string(r.Data) != fmt.Sprint(n) {
		t.Errorf("echo %d: got %s and %v", n, r.Data, err)
	}
}

func number(t *testing.T, tuple string) int {
	t.Helper()
	var v struct{ N int }
	if err := json.Unmarshal([]byte(tuple), &v); err != nil || v.N == 0 {
		t.Fatalf("tuple %q: %v", tuple, err)
	}
	return v.N
}

// The SDK ends its process when its control connection ends, and a source when
// nobody takes its data for a second. Neither happens while there is no daemon.
func TestPython_outlivesAKilledDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "portable")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "out")
	config, _ := json.Marshal(map[string]string{"path": path})
	m := manifest(t)
	m.Spec.Streams = []plugin.Stream{
		{Source: "counter", Publish: "x", Config: plugin.RawJSON(`{"interval": 100}`)},
		{Sink: "file", Subscribe: "x", Config: config},
	}
	holds := func(want string) func() error {
		return func() error {
			got, err := os.ReadFile(path)
			if err == nil && string(got) != want {
				err = fmt.Errorf("sink: got %q", got)
			}
			return err
		}
	}
	l, handle := orphaned(t, m, holds("before\n"))
	<-time.After(absence)
	i := adopt(t, l, handle)
	if pid := `"pid":` + i.(plugin.Inspector).Inspect()["pid"] + ","; !bytes.Contains(handle, []byte(pid)) {
		t.Errorf("adopted %s, want the process of %s", pid, handle)
	}
	for n := range 3 {
		echoed(t, i, n)
	}
	p := newPipe()
	endSource, sourceDone := stream(t, i, l.Manifest.Spec.Streams[0], p)
	first := number(t, receive(t, p.published, "a tuple"))
	if most := int(absence/(100*time.Millisecond)) / 2; first < 2 || first > most {
		t.Errorf("first tuple after the adoption: got number %d, want one from 2 to %d, of the beginning of the absence", first, most)
	}
	for n := first + 1; n < first+80; n++ {
		if got := number(t, receive(t, p.published, "a tuple")); got != n {
			t.Fatalf("tuple: got %d, want %d", got, n)
		}
	}
	endSink, sinkDone := stream(t, i, l.Manifest.Spec.Streams[1], p)
	p.next <- "after"
	conformance.Eventually(t, patience, holds("before\nafter\n"))
	endSource()
	endSink()
	if err := errors.Join(receive(t, sourceDone, "the source's end"), receive(t, sinkDone, "the sink's end")); err != nil {
		t.Errorf("end of the streams: %v", err)
	}
}

// A daemon that leaves loses no tuple, however often.
func TestPython_leftAndAdopted(t *testing.T) {
	l, handle := orphaned(t, manifest(t), func() error { return nil })
	s := plugin.Stream{Source: "counter", Config: plugin.RawJSON(`{"interval": 5}`)}
	p, last := newPipe(), 0
	for range 3 {
		i := adopt(t, l, handle)
		_, done := stream(t, i, s, p)
		for range 20 {
			if n := number(t, receive(t, p.published, "a tuple")); n != last+1 {
				t.Fatalf("got tuple %d after %d", n, last)
			}
			last++
		}
		echoed(t, i, last)
		i.(plugin.Survivor).Leave()
		if err := receive(t, done, "the end of the stream"); err == nil {
			t.Error("a stream of what was left: got nil, want an error")
		}
	}
	echoed(t, adopt(t, l, handle), 9)
}
