package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// newAside is a hub that puts aside, on a bus, and how many lines it says are lost.
func newAside(bus *fakeBus, dir string, lost *uint64, s Settings) *Hub {
	return New(Options{
		Publish: bus.publish, History: bus.history, Last: bus.last, AsideDir: dir,
		Settings: func(string) Settings { return s },
		Lost: func(_ string, lines uint64) {
			if lost != nil {
				*lost += lines
			}
		},
	})
}

// shipped runs hubs on a bus that is back until nothing waits.
func shipped(t *testing.T, hub *Hub) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }() // ends with cancel
	for end := time.Now().Add(time.Minute); len(hub.allAside()) > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("something still waits after a minute")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// printAndGo is an instance that prints n lines to its file, more to a writer, and is
// gone with its folder.
func printAndGo(t *testing.T, hub *Hub, instance string, n, more int) *Log {
	t.Helper()
	dir := t.TempDir()
	log := hub.Open("p", instance, dir, 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "line %d\n", i+1)
	}
	if _, err := file.WriteString(text.String()); err != nil {
		t.Fatal(err)
	}
	for i := range more {
		fmt.Fprintf(log.Writer(plugin.PluginLog), "line %d\n", i+1)
	}
	log.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	return log
}

func of(lines []plugin.LogLine, instance string, stream plugin.LogStream) (some []plugin.LogLine) {
	for _, line := range lines {
		if line.Instance == instance && line.Stream == stream {
			some = append(some, line)
		}
	}
	return some
}

// Nothing is lost of an instance that ends while the bus is down: it is shipped by
// this daemon, or by the next, behind what is stored.
func TestAside_isShippedOnceTheBusIsBack(t *testing.T) {
	for _, who := range []string{"this daemon", "the next"} {
		t.Run(who, func(t *testing.T) {
			bus, dir, lost := &fakeBus{}, filepath.Join(t.TempDir(), "aside"), uint64(0)
			hub := newAside(bus, dir, &lost, Settings{})
			before := hub.Open("p", "p-1", t.TempDir(), 0)
			c := newChild(t, before)
			c.print(10)
			await(t, bus, 10)
			bus.set(true)
			c.print(5000)
			before.Close()
			log := printAndGo(t, hub, "p-2", 3000, 500)
			if tail := log.Tail(1); len(tail) != 1 || !strings.HasPrefix(tail[0].Message, "line ") {
				t.Errorf("last words: got %v", tail)
			}
			bus.set(false)
			if who == "the next" {
				hub = newAside(bus, dir, &lost, Settings{})
			}
			shipped(t, hub)
			inOrder(t, of(bus.lines(), "p-1", plugin.Stdout), 5012)
			inOrder(t, of(bus.lines(), "p-2", plugin.Stdout), 3000)
			inOrder(t, of(bus.lines(), "p-2", plugin.PluginLog), 500)
			if lost != 0 {
				t.Errorf("%d lines are said to be lost", lost)
			}
		})
	}
}

// A bus that goes down again while it is shipped gets the rest later, each line once.
func TestAside_goesOnWhereTheBusStopped(t *testing.T) {
	bus := &fakeBus{}
	bus.set(true)
	hub := newAside(bus, filepath.Join(t.TempDir(), "aside"), nil, Settings{})
	printAndGo(t, hub, "p-1", 10_000, 5000)
	bus.set(false)
	taken := 0
	bus.answered = func(uint64, []plugin.LogLine) {
		if taken++; taken%15 == 0 {
			bus.set(true)
		}
	}
	for round := 0; !hub.shipAside(t.Context()); round++ {
		if round > 100 {
			t.Fatal("still not shipped after 100 rounds")
		}
		bus.set(false)
	}
	inOrder(t, of(bus.lines(), "p-1", plugin.Stdout), 10_000)
	inOrder(t, of(bus.lines(), "p-1", plugin.PluginLog), 5000)
}

// What waits is bounded by what the manifest keeps, and what is given up is counted.
func TestAside_isBounded(t *testing.T) {
	bus, lost := &fakeBus{}, uint64(0)
	bus.set(true)
	hub := newAside(bus, filepath.Join(t.TempDir(), "aside"), &lost, Settings{Keep: plugin.Logs{MaxSize: 1 << 20}})
	for n := range 3 {
		printAndGo(t, hub, fmt.Sprintf("p-%d", n+1), 50_000, 0) // 0.6 MB each
	}
	if left := hub.allAside(); len(left) != 1 || left[0].Instance != "p-3" || lost != 100_000 {
		t.Errorf("got %+v and %d lines lost, want p-3 alone and 100,000", left, lost)
	}
}

// A daemon that was killed while it put something aside leaves half of it.
func TestAside_halfOfItIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "aside")
	half := filepath.Join(dir, "p-1")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	newAside(&fakeBus{}, dir, nil, Settings{}).sweepAside()
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("%s: got %v, want that it is gone", half, err)
	}
}

func TestAside_onAnotherFileSystem(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("shipped\nnot yet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyRest(from, to, int64(len("shipped\n"))); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != strings.Repeat("\x00", len("shipped\n"))+"not yet\n" {
		t.Errorf("got %q, %v, want the rest in its place", got, err)
	}
}
