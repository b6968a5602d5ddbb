package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// child is a process that outlives daemons: it appends to files that it opened
// once.
type child struct {
	t      *testing.T
	dir    string
	stdout *os.File
	n      int
}

func newChild(t *testing.T, log *Log) *child {
	t.Helper()
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &child{t: t, dir: log.dir, stdout: file}
}

// print writes n numbered lines, and the first half of one more.
func (c *child) print(n int) {
	c.t.Helper()
	var b strings.Builder
	if c.n > 0 {
		b.WriteString(" ended\n")
	}
	for range n {
		c.n++
		fmt.Fprintf(&b, "line %d\n", c.n)
	}
	c.n++
	fmt.Fprintf(&b, "line %d", c.n)
	if _, err := c.stdout.WriteString(b.String()); err != nil {
		c.t.Fatal(err)
	}
}

// inOrder checks that the bus has every line once, in order, with its sequence.
func inOrder(t *testing.T, lines []plugin.LogLine, total int) {
	t.Helper()
	for i, line := range lines {
		if line.Sequence != uint64(i+1) || !strings.HasPrefix(line.Message+" ", fmt.Sprintf("line %d ", i+1)) || line.Dropped != 0 {
			t.Fatalf("place %d: got line %d %q, %d dropped", i+1, line.Sequence, line.Message, line.Dropped)
		}
	}
	if len(lines) != total {
		t.Errorf("got %d lines, want %d", len(lines), total)
	}
}

// await returns once the bus has so many lines.
func await(t *testing.T, bus *fakeBus, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(bus.lines()) < n; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d lines after a minute, want %d", len(bus.lines()), n)
		}
	}
}

// mortal is a daemon's end of the bus that can be killed.
type mortal struct {
	*fakeBus
	mu     sync.Mutex
	killed bool
}

func (m *mortal) publish(b plugin.LogBatch) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return 0, plugin.ErrUnavailable
	}
	return m.fakeBus.publish(b)
}

// kill has the daemon do nothing more, and lose what was acknowledged last.
func (m *mortal) kill(lost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.killed = true
	m.fakeBus.lose(lost)
}

func TestResume_everyLineOnceAcrossKilledDaemons(t *testing.T) {
	bus := &fakeBus{}
	dir := t.TempDir()
	daemon := &mortal{fakeBus: bus}
	var c *child
	var ended sync.WaitGroup
	for life := range 6 {
		hub := New(Options{Publish: daemon.publish, Last: bus.last})
		var log *Log
		if life == 0 {
			log = hub.Open("p", "p-1", dir, 0)
			c = newChild(t, log)
		} else {
			log = hub.Resume("p", "p-1", dir, 0)
		}
		for range 20 {
			c.print(137)
		}
		if life == 5 {
			fmt.Fprintln(c.stdout)
			log.Close()
			break
		}
		await(t, bus, c.n-1000) // in the middle of it
		daemon.kill(life)
		daemon = &mortal{fakeBus: bus}
		ended.Go(log.Leave) // its goroutines; a dead daemon ships nothing
	}
	inOrder(t, bus.lines(), c.n)
	ended.Wait()
}

func TestLeave_shipsWhatWasReadAndLeavesTheRest(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(10)
	await(t, bus, 10)
	log.Leave()
	inOrder(t, bus.lines(), 10) // not the half line
	c.print(10)
	if data, err := os.ReadFile(filepath.Join(dir, "stdout.log")); err != nil || !strings.HasPrefix(string(data), "line 1\n") {
		t.Errorf("the file after Leave: %d bytes, %v", len(data), err)
	}
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", dir, 0)
	await(t, bus, 21)
	next.Close()
	inOrder(t, bus.lines(), 22)
}

// TestLeave_doesNotReadAFloodToItsEnd: a plugin that is left running may print
// faster than it is read.
func TestLeave_doesNotReadAFloodToItsEnd(t *testing.T) {
	shipping := make(chan struct{}, 1)
	log := New(Options{Publish: func(plugin.LogBatch) (uint64, error) {
		poke(shipping)
		return 1, nil
	}}).Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const size = 64 << 20
	if _, err := file.WriteString(strings.Repeat("y\n", size/2)); err != nil {
		t.Fatal(err)
	}
	<-shipping
	log.Leave()
	if f := log.streams[plugin.Stdout].file; f.offset == size {
		t.Error("all of it was read first")
	}
}

func TestResume_tailBeginsWithWhatWasPrintedBefore(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(9999)
	await(t, bus, 9999)
	log.Leave()
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", dir, 0)
	fmt.Fprintln(c.stdout, " ended\nline 10001")
	await(t, bus, 10_001)
	tail := next.Tail(500)
	if len(tail) != 500 {
		t.Fatalf("got %d lines, want 500", len(tail))
	}
	for i, line := range tail {
		if want := uint64(9502 + i); line.Sequence != want || !strings.HasPrefix(line.Message+" ", fmt.Sprintf("line %d ", want)) {
			t.Fatalf("place %d: got line %d %q, want line %d", i, line.Sequence, line.Message, want)
		}
	}
	next.Close()
	inOrder(t, bus.lines(), 10_001)
}

func TestResume_whenTheBusHasForgotten(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(1000)
	await(t, bus, 1000)
	placed := func() bool { at, _ := readPlace(dir, plugin.Stdout); return at.sequence == 1000 }
	for end := time.Now().Add(time.Minute); !placed() && time.Now().Before(end); runtime.Gosched() {
	}
	log.Leave()
	bus.lose(1000) // by age
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", dir, 0)
	fmt.Fprintln(c.stdout, " ended")
	await(t, bus, 1)
	next.Close()
	if lines := bus.lines(); len(lines) != 1 || lines[0].Sequence != 1001 || lines[0].Dropped != 0 {
		t.Errorf("got %d lines, the first is %+v; want line 1001 only", len(lines), lines[0])
	}
}

// TestResume_afterAFloodThatWasSkipped: the bus is down, a flood is skipped and
// freed, and then the daemon is killed.
func TestResume_afterAFloodThatWasSkipped(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	f := &follower{log: log}
	log.mu.Lock()
	f.stream = log.stream(plugin.Stdout)
	file, err := os.OpenFile(filepath.Join(dir, "stdout.log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.file = file
	f.stream.sequence, f.stream.stored = 1000, 900
	f.keep(place{3 << 20, 1000}, f.stream.stored)
	log.mu.Unlock()
	if err := file.Truncate(3 << 20); err != nil { // all of it freed
		t.Fatal(err)
	}
	fmt.Fprintln(file, "after the flood")
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", dir, 0)
	await(t, bus, 1)
	next.Close()
	if line := bus.lines()[0]; line.Message != "after the flood" || line.Sequence != 1001 || line.Dropped != 100 {
		t.Errorf("got %d %q, %d dropped; want line 1001, and the 100 that were not stored told", line.Sequence, line.Message, line.Dropped)
	}
	f.close(gone)
	_ = hub
}

// TestKeep_doesNotGoBackIntoAFlood: what was acknowledged before a flood was skipped
// settles after it.
func TestKeep_doesNotGoBackIntoAFlood(t *testing.T) {
	hub, _ := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	newChild(t, log)
	f := log.streams[plugin.Stdout].file
	log.mu.Lock()
	f.keep(place{3 << 20, 1000}, 900) // skipped
	f.keep(place{1 << 20, 950}, 950)  // settled
	at, stored := readPlace(dir, plugin.Stdout)
	log.mu.Unlock()
	if want := (place{3 << 20, 1000}); at != want || stored != 950 {
		t.Errorf("got %+v with %d stored, want %+v with 950", at, stored, want)
	}
	log.Close()
}

func TestResume_waitsForABusThatIsDown(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(10)
	await(t, bus, 10)
	log.Leave()
	bus.set(true)
	asked := make(chan struct{}, 100)
	next := New(Options{Publish: bus.publish, Last: func(ctx context.Context, p, i string, s plugin.LogStream) (uint64, int64, error) {
		asked <- struct{}{}
		return bus.last(ctx, p, i, s)
	}}).Resume("p", "p-1", dir, 0)
	c.print(10)
	<-asked
	<-asked
	bus.set(false)
	await(t, bus, 21)
	next.Close()
	inOrder(t, bus.lines(), 22)
}

// TestFile_isNotFreedAtOnce: what the bus has just acknowledged may be lost with
// the daemon.
func TestFile_isNotFreedAtOnce(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("y", 1023) + "\n"
	began := time.Now()
	if _, err := file.WriteString(strings.Repeat(line, 8<<10)); err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "stdout.log"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	await(t, bus, 8<<10)
	if n, took := used(), time.Since(began); n < 8<<20 && took < settleAfter {
		t.Errorf("%d bytes are left after %s", n, took)
	}
	for end := time.Now().Add(time.Minute); used() > 2<<20; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are on disk after a minute", used())
		}
	}
	if took := time.Since(began); took < settleAfter {
		t.Errorf("freed after %s", took)
	}
	file.Close()
	log.Close()
}

// TestSettle_notWhenTheProcessWasStopped: what passed meanwhile did not pass for the
// server that has to write.
func TestSettle_notWhenTheProcessWasStopped(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(10)
	await(t, bus, 10)
	f := log.streams[plugin.Stdout].file
	stopped := func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		f.keeper.since = f.keeper.since.Add(-time.Minute)
		return f.keeper.settling != place{}
	}
	for !stopped() { // until the answer has arrived
		runtime.Gosched()
	}
	f.settle()
	if at, _ := readPlace(dir, plugin.Stdout); at.sequence != 0 {
		t.Errorf("settled at line %d", at.sequence)
	}
	for end := time.Now().Add(time.Minute); ; runtime.Gosched() {
		if at, _ := readPlace(dir, plugin.Stdout); at.sequence == 10 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not settled after a minute")
		}
	}
	log.Close()
}

func TestWriter_resumesBehindTheLastStoredLine(t *testing.T) {
	hub, bus := newFake()
	log := hub.Open("p", "p-1", "", 0)
	w := log.Writer(plugin.Stdout)
	const all = "one\ntwo\nthree\nfour\nfive\n"
	fmt.Fprint(w, all[:len("one\ntwo\nthr")])
	await(t, bus, 2)
	log.Leave()
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", "", 0)
	if n := next.Lines(plugin.Stdout); n != 2 {
		t.Errorf("%d lines are taken, want 2", n)
	}
	next.Resume(plugin.Stdout, 0)
	w = next.Writer(plugin.Stdout)
	fmt.Fprint(w, all[:6])
	fmt.Fprint(w, all[6:18])
	next.Resume(plugin.Stdout, 1) // the link broke again: it begins with two
	fmt.Fprint(w, all[4:])
	next.Resume(plugin.Stdout, 7) // six and seven are lost
	fmt.Fprintln(w, "eight")
	next.Close()
	var got []string
	for _, l := range bus.lines() {
		got = append(got, fmt.Sprint(l.Sequence, l.Message, l.Dropped))
	}
	if want := []string{"1one0", "2two0", "3three0", "4four0", "5five0", "8eight2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWriter_countsOnWithoutBeingResumed(t *testing.T) {
	hub, bus := newFake()
	log := hub.Open("p", "p-1", "", 0)
	fmt.Fprintln(log.Writer(plugin.PluginLog), "line 1")
	log.Leave()
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", "", 0)
	fmt.Fprintln(next.Writer(plugin.PluginLog), "line 2")
	next.Close()
	inOrder(t, bus.lines(), 2)
}

func TestWriter_whenTheBusDoesNotTellWhereToGoOn(t *testing.T) {
	bus := &fakeBus{}
	tries := 0
	log := New(Options{Publish: bus.publish, Last: func(context.Context, string, string, plugin.LogStream) (uint64, int64, error) {
		tries++
		return 0, 0, errors.New("down")
	}}).Resume("p", "p-1", "", 0)
	fmt.Fprintln(log.Writer(plugin.PluginLog), "line 1")
	log.Close()
	inOrder(t, bus.lines(), 1)
	if tries != recallTries {
		t.Errorf("asked %d times, want %d", tries, recallTries)
	}
}

func FuzzReadPlace(f *testing.F) {
	f.Add([]byte("00000000000000000001 00000000000000000002 00000000000000000003\n"))
	f.Add([]byte("-1 2 3\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(placePath(dir, plugin.Stdout), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, _ := readPlace(dir, plugin.Stdout); p.upto < 0 {
			t.Errorf("%q: got %+v", data, p)
		}
	})
}
