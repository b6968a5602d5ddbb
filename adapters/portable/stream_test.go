package portable_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

const patience = 10 * time.Second

// start launches m; the instance is stopped with the test.
func start(t *testing.T, m plugin.Manifest) (plugin.Instance, plugin.Launch) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i, err := portable.New(portable.Options{}).Launch(ctx, l)
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
	return i, l
}

// pipe is a plugin.Pipe in memory.
type pipe struct {
	published chan string
	next      chan string
}

func newPipe() *pipe { return &pipe{make(chan string, 1000), make(chan string)} }

func (p *pipe) Publish(data []byte) error {
	select {
	case p.published <- string(data):
		return nil
	default:
		return errors.New("full")
	}
}

func (p *pipe) Next(ctx context.Context) ([]byte, error) {
	select {
	case m := <-p.next:
		return []byte(m), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stream runs one stream; end stops it and returns what it said.
func stream(t *testing.T, i plugin.Instance, s plugin.Stream, p plugin.Pipe) (end func() error, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- i.(plugin.Streamer).Stream(ctx, s, p) }() // ends with ctx or the instance
	return func() error {
		cancel()
		return receive(t, ended, "the end of the stream")
	}, ended
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

func TestSource_publishesUntilItIsStopped(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	p := newPipe()
	end, _ := stream(t, i, plugin.Stream{
		Source: "ticker", Config: plugin.RawJSON(`{"interval":1,"value":{"deep":[1]},"datasource":"plant/7"}`),
	}, p)
	for n := 1; n <= 20; n++ {
		want := fmt.Sprintf(`{"datasource":"plant/7","n":%d,"value":{"deep":[1]}}`, n)
		if got := receive(t, p.published, "a tuple"); got != want {
			t.Fatalf("tuple %d: got %s, want %s", n, got, want)
		}
	}
	if err := end(); err != nil {
		t.Errorf("end of the stream: %v", err)
	}
	// Started again, it counts from 1, once: the first has been stopped.
	p = newPipe()
	end, _ = stream(t, i, plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`{"interval":1}`)}, p)
	for n := 1; n <= 20; n++ {
		if got, want := receive(t, p.published, "a tuple"), fmt.Sprintf(`{"n":%d,"value":null}`, n); got != want {
			t.Fatalf("second start, tuple %d: got %s, want %s", n, got, want)
		}
	}
	if err := end(); err != nil {
		t.Errorf("end of the second stream: %v", err)
	}
}

func TestSource_severalAtOnce(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	var all sync.WaitGroup
	for n := range 8 {
		p := newPipe()
		end, _ := stream(t, i, plugin.Stream{Source: "ticker", Config: plugin.RawJSON(fmt.Sprintf(`{"interval":1,"value":%d}`, n))}, p)
		all.Go(func() { // ends with its five tuples
			for k := 1; k <= 5; k++ {
				if got, want := <-p.published, fmt.Sprintf(`{"n":%d,"value":%d}`, k, n); got != want {
					t.Errorf("source %d: got %s, want %s", n, got, want)
				}
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestSink_getsMessagesAsTheyAre(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	path := filepath.Join(varTmp(t), "out")
	p := newPipe()
	config, _ := json.Marshal(map[string]string{"path": path})
	end, _ := stream(t, i, plugin.Stream{Sink: "file", Config: config}, p)
	want := ""
	for n := range 100 {
		message := fmt.Sprintf(`{"n":%d,"raw":"ü\u0000"}`, n)
		want += message + "\n"
		p.next <- message
	}
	conformance.Eventually(t, patience, func() error { return fileIs(path, want) })
	if err := end(); err != nil {
		t.Errorf("end of the stream: %v", err)
	}
	// A Go sink is parked, and taken up again.
	end, _ = stream(t, i, plugin.Stream{Sink: "file", Config: config}, p)
	p.next <- "again"
	conformance.Eventually(t, patience, func() error { return fileIs(path, want+"again\n") })
	p.next <- strings.Repeat("x", 1<<20+1) // longer than a Go plugin takes: dropped
	p.next <- "after"
	conformance.Eventually(t, patience, func() error { return fileIs(path, want+"again\nafter\n") })
	if err := end(); err != nil {
		t.Errorf("end of the second stream: %v", err)
	}
}

// varTmp is a folder that the plugin sees too: its /tmp is its own.
func varTmp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "portable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func fileIs(path, want string) error {
	got, err := os.ReadFile(path)
	if err == nil && string(got) != want {
		err = fmt.Errorf("got %d bytes %.80q, want %d", len(got), got, len(want))
	}
	return err
}

func TestStream_faults(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	for _, tt := range []struct {
		name string
		s    plugin.Stream
		want error
		text string
	}{
		{"undeclared", plugin.Stream{Source: "nope"}, plugin.ErrNotFound, "nope"},
		{"bad configuration", plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`{"interval":"x"}`)}, plugin.ErrUnavailable, "cannot unmarshal"},
		{"not an object", plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`[]`)}, plugin.ErrInvalid, "not an object"},
		{"the sink's own no", plugin.Stream{Sink: "file"}, plugin.ErrUnavailable, "property path is required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, done := stream(t, i, tt.s, newPipe())
			err := receive(t, done, "an error")
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestStream_endsWithTheProcess(t *testing.T) {
	i, _ := start(t, tinyManifest(t))
	source, sink := newPipe(), newPipe()
	_, sourceDone := stream(t, i, plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`{"interval":1}`)}, source)
	_, sinkDone := stream(t, i, plugin.Stream{Sink: "print"}, sink)
	receive(t, source.published, "a tuple")
	sink.next <- "one"
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := i.Wait(); exit.Signal != "SIGKILL" {
		t.Errorf("exit: got %v, want SIGKILL", exit)
	}
	t.Logf("kill -9 to Wait: %v", time.Since(begin))
	for name, done := range map[string]<-chan error{"source": sourceDone, "sink": sinkDone} {
		if err := receive(t, done, name); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("%s after kill -9: got %v, want ErrUnavailable", name, err)
		}
	}
	if err := i.(plugin.Streamer).Stream(t.Context(), plugin.Stream{Source: "ticker"}, source); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("stream after the end: got %v, want ErrUnavailable", err)
	}
}
