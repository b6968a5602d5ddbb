package logs

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// fakeBus is a bus whose every answer the test decides.
type fakeBus struct {
	mu       sync.Mutex
	down     bool
	sequence uint64
	kept     []plugin.LogLine
	batches  []plugin.LogBatch
	answered func(sequence uint64, lines []plugin.LogLine) // called before the answer is given
}

func (b *fakeBus) publish(batch plugin.LogBatch) (uint64, error) {
	lines := batch.Lines
	b.mu.Lock()
	if b.down {
		b.mu.Unlock()
		return 0, plugin.ErrUnavailable
	}
	b.sequence++
	sequence := b.sequence
	for i, line := range lines {
		line.ID = fmt.Sprintf("%d.%d", sequence, i+1)
		b.kept = append(b.kept, line)
	}
	b.batches = append(b.batches, batch)
	b.mu.Unlock()
	if b.answered != nil {
		b.answered(sequence, lines)
	}
	return sequence, nil
}

// last answers as bus.LastLog does.
func (b *fakeBus) last(_ context.Context, _, instance string, stream plugin.LogStream) (uint64, int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return 0, 0, plugin.ErrUnavailable
	}
	for _, batch := range slices.Backward(b.batches) {
		if batch.Instance == instance && batch.Stream == stream {
			return batch.Lines[len(batch.Lines)-1].Sequence, batch.Upto, nil
		}
	}
	return 0, 0, nil
}

// lose forgets the last n batches, as the embedded server does when it is killed.
func (b *fakeBus) lose(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ; n > 0 && len(b.batches) > 0; n-- {
		last := b.batches[len(b.batches)-1]
		b.batches = b.batches[:len(b.batches)-1]
		b.kept = b.kept[:len(b.kept)-len(last.Lines)]
	}
}

func (b *fakeBus) set(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

func (b *fakeBus) lines() []plugin.LogLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.kept)
}

func (b *fakeBus) history(_ context.Context, q Query) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		b.mu.Lock()
		down := b.down
		b.mu.Unlock()
		if down {
			yield(plugin.LogLine{}, plugin.ErrUnavailable)
			return
		}
		for _, line := range b.lines() {
			if after(line.ID, q.After) && !yield(line, nil) {
				return
			}
		}
	}
}

func newFake() (*Hub, *fakeBus) {
	b := &fakeBus{}
	return New(Options{Publish: b.publish, History: b.history, Last: b.last}), b
}

// counted checks that no line is missing without being told by the very next one.
func counted(t *testing.T, lines []plugin.LogLine, total uint64) {
	t.Helper()
	next := map[plugin.LogStream]uint64{}
	for _, l := range lines {
		if want := next[l.Stream] + max(1, l.Lines) + l.Dropped; l.Sequence != want {
			t.Fatalf("%s: line %d tells of %d dropped, after line %d", l.Stream, l.Sequence, l.Dropped, next[l.Stream])
		}
		next[l.Stream] = l.Sequence
	}
	for stream, last := range next {
		if last != total {
			t.Errorf("%s: the last line is %d, want %d", stream, last, total)
		}
	}
}

// awaitCrowd returns once the queue is full, so that readers of files wait.
func awaitCrowd(log *Log) {
	for full := false; !full; runtime.Gosched() {
		log.mu.Lock()
		full = log.crowded()
		log.mu.Unlock()
	}
}

func TestDropped_isToldByTheNextLine(t *testing.T) {
	hub, bus := newFake()
	bus.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	const total = 3 * queueLinesMax
	for i := range total {
		fmt.Fprintf(log.Writer(plugin.PluginLog), "line %d\n", i)
	}
	bus.set(false)
	log.Close()
	counted(t, bus.lines(), total)
}

func TestWriter_neverCrowdsOutAFile(t *testing.T) {
	hub, bus := newFake()
	bus.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	const fromFile = 2 * queueLinesMax
	if _, err := file.WriteString(strings.Repeat("of the file\n", fromFile)); err != nil {
		t.Fatal(err)
	}
	file.Close()
	awaitCrowd(log)
	const written = 1000
	for range written {
		fmt.Fprintln(log.Writer(plugin.PluginLog), "of the writer")
	}
	bus.set(false)
	fmt.Fprintln(log.Writer(plugin.PluginLog), "the last")
	log.Close()
	n, told := 0, uint64(0)
	for _, line := range bus.lines() {
		if line.Stream == plugin.Stdout {
			if n++; line.Dropped > 0 {
				t.Fatalf("line %d of the file: %d were dropped before it", line.Sequence, line.Dropped)
			}
			continue
		}
		told += 1 + line.Dropped
	}
	if n != fromFile || told > written+1 {
		t.Errorf("%d lines of the file, want all %d; %d of the writer accounted for", n, fromFile, told)
	}
}

func TestQueue_isBoundedInBytes(t *testing.T) {
	hub, bus := newFake()
	bus.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	long := strings.Repeat("x", plugin.LogLineBytesMax-1) + "\n"
	for range 1000 { // 64 MiB
		fmt.Fprint(log.Writer(plugin.PluginLog), long)
	}
	log.mu.Lock()
	queued, ring := 0, 0
	for _, b := range log.queue {
		for i := range b.lines {
			queued += len(b.lines[i].Message)
		}
	}
	for _, line := range log.ring.last(ringLinesMax) {
		ring += len(line.Message)
	}
	if log.bytes != queued {
		t.Errorf("%d bytes are counted, %d are queued", log.bytes, queued)
	}
	log.mu.Unlock()
	if queued > 9<<20 || ring > ringBytesMax {
		t.Errorf("a plugin of long lines holds %d bytes in the queue and %d in the ring", queued, ring)
	}
	bus.set(false)
	log.Close()
	counted(t, bus.lines(), 1000)
}

func TestFlood_isSkippedWhileTheBusIsDown(t *testing.T) {
	hub, bus := newFake()
	bus.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat(strings.Repeat("y", 1023)+"\n", 1<<10)
	const blocks = backlogBytesMax>>20 + 40
	for i := range blocks {
		if _, err := file.WriteString(block); err != nil {
			t.Fatal(err)
		}
		if i == 30 {
			awaitCrowd(log) // its reader waits for room when the flood comes
		}
	}
	log.mu.Lock()
	reader := log.streams[plugin.Stdout].file
	log.mu.Unlock()
	for freed := int64(0); freed < backlogBytesMax; runtime.Gosched() { // or the test never ends
		log.mu.Lock()
		freed = reader.freed
		log.mu.Unlock()
	}
	used, err := os.Stat(filepath.Join(log.dir, "stdout.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := used.Sys().(*syscall.Stat_t).Blocks * 512; n > 64<<20 {
		t.Errorf("%d MiB are on disk, want the flood freed", n>>20)
	}
	file.WriteString("after the flood\n")
	file.Close()
	bus.set(false)
	log.Close()
	lines := bus.lines()
	counted(t, lines, blocks<<10+1)
	for _, l := range lines {
		if len(l.Message) > 1023 {
			t.Fatalf("a line of %d bytes was made of two", len(l.Message))
		}
	}
}

// TestClose_doesNotWaitForWhoeverStillWrites has a grandchild that got away write on
// while the last of the file is read.
func TestClose_doesNotWaitForWhoeverStillWrites(t *testing.T) {
	hub, bus := newFake()
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := os.OpenFile(filepath.Join(log.dir, "stdout.log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log.mu.Lock()
	f := &follower{log: log, stream: log.stream(plugin.Stdout), file: file, freed: freeStep}
	f.stream.file = f
	log.mu.Unlock()
	fmt.Fprintln(file, "before")
	until := f.size()
	fmt.Fprintln(file, "after")
	if err := f.readAll(make([]byte, 1024), until); err != nil || f.offset != until {
		t.Errorf("read %d bytes, %v; want the %d that were there", f.offset, err, until)
	}
	f.stream.file = nil // it has no goroutine to wait for
	log.Close()
	if lines := bus.lines(); len(lines) != 1 || lines[0].Message != "before" {
		t.Errorf("got %v", lines)
	}
}

func TestFollow_whileTheBusIsDownShowsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, bus := newFake()
		bus.set(true)
		log := hub.Open("p", "p-1", "", 0)
		w := log.Writer(plugin.Stdout)
		fmt.Fprintln(w, "line 1")
		n := 0
		for line, err := range hub.Follow(t.Context(), Query{Plugin: "p", Follow: true}) {
			if n++; err != nil || line.Message != fmt.Sprintf("line %d", n) {
				t.Fatalf("got %q %v, want line %d", line.Message, err, n)
			}
			if n == 10 {
				break
			}
			fmt.Fprintf(w, "line %d\n", n+1) // the bus is still down
		}
		bus.set(false)
		log.Close()
		counted(t, bus.lines(), 10)
	})
}

func TestHistory_doesNotRepeatWhatWasToldWithoutID(t *testing.T) {
	hub, bus := newFake()
	bus.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	w := log.Writer(plugin.Stdout)
	fmt.Fprintln(w, "line 1")
	var got []string
	r := newReader(hub, Query{Plugin: "p"}, func(l plugin.LogLine, _ error) bool {
		got = append(got, l.Message)
		return true
	})
	r.history(t.Context()) // from memory: the bus is down
	bus.set(false)
	fmt.Fprintln(w, "line 2")
	log.Close()
	r.history(t.Context()) // what a reader that was too slow does next
	if want := []string{"line 1", "line 2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestFollow_answersThatOvertakeEachOther has two runs of a job publish at once.
// The answer to the first comes after that to the second.
func TestFollow_answersThatOvertakeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, bus := newFake()
		bus.answered = func(sequence uint64, _ []plugin.LogLine) {
			if sequence == 1 {
				<-time.After(time.Second)
			}
		}
		live := hub.subscribe(map[string]struct{}{"p": {}})
		defer hub.unsubscribe(live)
		first, second := hub.Open("p", "p-1", "", 0), hub.Open("p", "p-2", "", 0)
		fmt.Fprintln(first.Writer(plugin.Stdout), "one")
		<-time.After(100 * time.Millisecond)
		fmt.Fprintln(second.Writer(plugin.Stdout), "two")
		first.Close()
		second.Close()
		for _, want := range []string{"1.1 one", "2.1 two"} {
			if line := (<-live.batches)[0]; line.ID+" "+line.Message != want {
				t.Errorf("got %s %s, want %s", line.ID, line.Message, want)
			}
		}
	})
}

func TestOrder_tellsBySequenceWhateverOvertakesWhat(t *testing.T) {
	var o order
	var got []string
	tell := func(_ uint64, lines []plugin.LogLine) { got = append(got, lines[0].Message) }
	named := func(name string) []plugin.LogLine { return []plugin.LogLine{{Message: name}} }
	a, b, c := o.begin(), o.begin(), o.begin()
	o.end(c, 9, named("9"), tell)
	d := o.begin() // sent after 9 was answered: cannot stand before it
	o.end(a, 8, named("8"), tell)
	if len(got) != 0 {
		t.Errorf("told %v while one that may stand before is under way", got)
	}
	o.end(b, 0, nil, tell) // failed
	if !slices.Equal(got, []string{"8", "9"}) {
		t.Errorf("got %v, want 8 and 9", got)
	}
	o.end(d, 10, named("10"), tell)
	if !slices.Equal(got, []string{"8", "9", "10"}) || len(o.stored) != 0 || len(o.ended) != 0 {
		t.Errorf("got %v, left %d and %d", got, len(o.stored), len(o.ended))
	}
}

func TestJob_outputBeyondItsResultIsFreed(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 3<<20)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("y", 1023) + "\n"
	if _, err := file.WriteString(strings.Repeat(line, 32<<10)); err != nil {
		t.Fatal(err)
	}
	file.Close()
	log.Close()
	info, err := os.Stat(filepath.Join(dir, "stdout.log"))
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 8<<20 {
		t.Errorf("32 MiB were shipped, %d MiB are still on disk", used>>20)
	}
	if data, whole := log.Stdout(3 << 20); whole || string(data) != strings.Repeat(line, 3<<10) {
		t.Errorf("the result is %d bytes, whole %t: want its 3 MiB untouched", len(data), whole)
	}
	if n := len(bus.lines()); n != 32<<10 {
		t.Errorf("%d lines, want all", n)
	}
}

func TestRing_keepsTheNewestInOrder(t *testing.T) {
	var r ring
	var want []string
	for i := range 5000 {
		size := 1 + i*7919%4000
		r.push(plugin.LogLine{Sequence: uint64(i), Message: strings.Repeat("x", size)})
		want = append(want, fmt.Sprint(i, size))
		if i > 50 && i%97 != 0 {
			continue
		}
		got, bytes := r.last(ringLinesMax+1), 0
		for j, line := range got {
			bytes += len(line.Message)
			if text := fmt.Sprint(line.Sequence, len(line.Message)); text != want[len(want)-len(got)+j] {
				t.Fatalf("after %d lines: place %d of %d has %s", i+1, j, len(got), text)
			}
		}
		if bytes != r.bytes || bytes > ringBytesMax || len(got) > ringLinesMax || len(got) < min(i+1, 200) {
			t.Fatalf("after %d lines: %d lines, %d bytes, %d counted", i+1, len(got), bytes, r.bytes)
		}
	}
	if len(r.last(-1)) != 0 {
		t.Error("a negative number of lines is none")
	}
}
