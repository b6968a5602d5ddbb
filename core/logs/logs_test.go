package logs_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// store stands in for the bus: it keeps messages, and can be down.
type store struct {
	mu       sync.Mutex
	messages [][]plugin.LogLine
	down     bool
	tried    chan struct{} // told at each attempt while down
}

func (s *store) publish(b plugin.LogBatch) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		select {
		case s.tried <- struct{}{}:
		default:
		}
		return 0, plugin.ErrUnavailable
	}
	kept := append([]plugin.LogLine(nil), b.Lines...)
	for i := range kept {
		kept[i].ID = fmt.Sprintf("%d.%d", len(s.messages)+1, i+1)
	}
	s.messages = append(s.messages, kept)
	return uint64(len(s.messages)), nil
}

func (s *store) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *store) lines() []plugin.LogLine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []plugin.LogLine
	for _, m := range s.messages {
		all = append(all, m...)
	}
	return all
}

func (s *store) history(_ context.Context, q logs.Query) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		s.mu.Lock()
		down := s.down
		s.mu.Unlock()
		if down {
			yield(plugin.LogLine{}, plugin.ErrUnavailable)
			return
		}
		found := q.After == ""
		for _, line := range s.lines() {
			if found && line.Plugin == q.Plugin && !yield(line, nil) {
				return
			}
			found = found || line.ID == q.After
		}
	}
}

func newHub(t *testing.T) (*logs.Hub, *store) {
	t.Helper()
	s := &store{tried: make(chan struct{}, 1)}
	return logs.New(logs.Options{Publish: s.publish, History: s.history}), s
}

func messages(lines []plugin.LogLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Message + "\n")
	}
	return b.String()
}

func TestFile_everythingIsShippedInOrder(t *testing.T) {
	hub, s := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if _, err := file.WriteString(want.String() + "and an end without a newline"); err != nil {
		t.Fatal(err)
	}
	file.Close()
	log.Close()
	got := s.lines()
	if text := messages(got); text != want.String()+"and an end without a newline\n" {
		t.Fatalf("got %d lines, want 10001, the same in the same order", len(got))
	}
	for i, line := range got {
		if line.Sequence != uint64(i+1) || line.Instance != "p-1" || line.Stream != plugin.Stdout {
			t.Fatalf("line %d: got %+v", i, line)
		}
	}
	if n := len(s.messages); n > 60 {
		t.Errorf("10,001 lines went in %d messages, want them packed", n)
	}
}

// TestFile_ageOfABatch: how long lines wait for others is by our clock, whatever time
// they say they are of.
func TestFile_ageOfABatch(t *testing.T) {
	for name, away := range map[string]time.Duration{"future": time.Hour, "past": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			hub, s := newHub(t)
			log := hub.Open("p", "p-1", t.TempDir(), 0)
			defer log.Close()
			w := log.Writer(plugin.PluginLog)
			const lines = 100
			for range lines {
				fmt.Fprintf(w, "{\"time\":%q,\"msg\":\"x\"}\n", time.Now().Add(away).Format(time.RFC3339Nano))
			}
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for late := time.After(10 * time.Second); len(s.lines()) < lines; {
				select {
				case <-look.C:
				case <-late:
					t.Fatalf("%d of %d lines were shipped", len(s.lines()), lines)
				}
			}
			if at := s.lines()[0].Time; time.Until(at.Add(-away)).Abs() > time.Minute {
				t.Errorf("got a line of %v: its time was not taken, and the test shows nothing", at)
			}
			if n := len(s.messages); n > lines/2 {
				t.Errorf("%d lines went in %d messages, want them packed", lines, n)
			}
		})
	}
}

func TestWriter_neverWaitsForTheBus(t *testing.T) {
	hub, s := newHub(t)
	s.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	w := log.Writer(plugin.PluginLog)
	for i := range 40_000 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	<-s.tried
	s.set(false)
	log.Close()
	got := s.lines()
	lost := uint64(0)
	for _, line := range got {
		lost += line.Dropped
	}
	if uint64(len(got))+lost != 40_000 || lost == 0 || len(got) > 20_000 {
		t.Errorf("got %d lines and %d told as dropped, want 40,000 in all, some dropped", len(got), lost)
	}
	if last := got[len(got)-1]; last.Message != "line 39999" || last.Sequence != 40_000 {
		t.Errorf("last line: got %q, sequence %d", last.Message, last.Sequence)
	}
}

func TestClose_isBoundedWhileTheBusIsDown(t *testing.T) {
	hub, s := newHub(t)
	s.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	fmt.Fprintln(log.Writer(plugin.Stdout), "lost")
	began := time.Now()
	log.Close()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("close took %s, want about 2s", took)
	}
	if tail := log.Tail(5); len(tail) != 1 || tail[0].Message != "lost" {
		t.Errorf("tail after close: got %v", tail)
	}
}

func TestFollow_historyThenLiveWithoutGapOrRepeat(t *testing.T) {
	hub, s := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	w := log.Writer(plugin.Stdout)
	const total = 30_000
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range total {
			fmt.Fprintf(w, "line %d\n", i)
			if i%1000 == 0 {
				runtime.Gosched()
			}
		}
		log.Close()
	})
	defer writing.Wait()
	var followers sync.WaitGroup
	for range 4 {
		followers.Go(func() {
			next := uint64(1)
			for line, err := range hub.Follow(t.Context(), logs.Query{Plugin: "p", Follow: true}) {
				if err != nil {
					t.Errorf("follow: %v", err)
					return
				}
				if line.Sequence != next+line.Dropped {
					t.Errorf("got line %d (%d dropped), want line %d", line.Sequence, line.Dropped, next)
					return
				}
				if next = line.Sequence + 1; next == total+1 {
					return
				}
			}
		})
	}
	followers.Wait()
	_ = s
}

func TestFollow_resumesAfterAnID(t *testing.T) {
	hub, _ := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	for i := range 1000 {
		fmt.Fprintf(log.Writer(plugin.Stdout), "line %d\n", i)
	}
	log.Close()
	var id string
	for line := range hub.Follow(t.Context(), logs.Query{Plugin: "p"}) {
		if id = line.ID; line.Sequence == 400 {
			break
		}
	}
	for line, err := range hub.Follow(t.Context(), logs.Query{Plugin: "p", After: id}) {
		if err != nil || line.Sequence != 401 {
			t.Errorf("after %s: got line %d, %v; want line 401", id, line.Sequence, err)
		}
		break
	}
}

func TestFollow_whileTheBusIsDown(t *testing.T) {
	hub, s := newHub(t)
	s.set(true)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	defer log.Close()
	defer s.set(false)
	w := log.Writer(plugin.Stdout)
	fmt.Fprintln(w, "one")
	<-s.tried
	var got []string
	for line, err := range hub.Follow(t.Context(), logs.Query{Plugin: "p", Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, line.Message); len(got) == 1 {
			s.set(false) // the next batch goes through; the first is told already
			fmt.Fprintln(w, "two")
		}
		if len(got) == 2 {
			break
		}
	}
	if strings.Join(got, " ") != "one two" {
		t.Errorf("got %q, want one and two, each once", got)
	}
}

// TestFollow_afterAnotherBatchFailed: a batch that is stored waits to be told for one
// that was sent before it, which then fails.
func TestFollow_afterAnotherBatchFailed(t *testing.T) {
	sent, fail, s := make(chan struct{}), make(chan struct{}), &store{}
	hub := logs.New(logs.Options{
		History: s.history,
		Publish: func(b plugin.LogBatch) (uint64, error) {
			select {
			case <-fail:
				return s.publish(b)
			case sent <- struct{}{}:
			}
			if b.Plugin == "failing" {
				<-fail
				return 0, plugin.ErrUnavailable
			}
			return s.publish(b)
		},
	})
	failing, well := hub.Open("failing", "failing-1", t.TempDir(), 0), hub.Open("well", "well-1", t.TempDir(), 0)
	got := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { // ends with cancel
		for line, err := range hub.Follow(ctx, logs.Query{Plugin: "well", Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			got <- line.Message
		}
	})
	fmt.Fprintln(failing.Writer(plugin.Stdout), "fails")
	<-sent
	for _, text := range []string{"first", "second"} { // the second goes once the first was answered
		fmt.Fprintln(well.Writer(plugin.Stdout), text)
		<-sent
	}
	close(fail)
	if first, second := <-got, <-got; first != "first" || second != "second" {
		t.Errorf("got %s and %s, want the first and the second", first, second)
	}
	cancel()
	following.Wait()
	failing.Close()
	well.Close()
}

func TestFile_longAndHostileLines(t *testing.T) {
	hub, s := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", plugin.LogLineBytesMax+10)
	fmt.Fprintf(file, "%s\r\n\xff\xfe\x00bin\n\n{\"@level\":7,\"@message\":[1]}\n", long)
	file.Close()
	log.Close()
	got := s.lines()
	if len(got) != 5 {
		t.Fatalf("got %d lines, want 5", len(got))
	}
	if !got[0].Truncated || len(got[0].Message) != plugin.LogLineBytesMax || got[1].Message != strings.Repeat("x", 10) || got[1].Truncated {
		t.Errorf("a long line: got pieces of %d and %d", len(got[0].Message), len(got[1].Message))
	}
	if got[2].Message != "\uFFFD\x00bin" || got[3].Message != "" || got[4].Message != `{"@level":7,"@message":[1]}` {
		t.Errorf("got %q, %q, %q", got[2].Message, got[3].Message, got[4].Message)
	}
}

func TestFile_givesTheDiskBack(t *testing.T) {
	hub, s := newHub(t)
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("y", 1023) + "\n"
	for range 16 << 10 {
		if _, err := file.WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "stdout.log")
	log.Close()
	file.Close()
	if n := len(s.lines()); n != 16<<10 {
		t.Fatalf("got %d lines, want all", n)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	used := info.Sys().(*syscall.Stat_t).Blocks * 512
	if info.Size() != 16<<20 || used > 4<<20 {
		t.Errorf("after shipping 16 MiB: size %d, on disk %d; want the size kept and the disk given back", info.Size(), used)
	}
	head := make([]byte, len(line))
	if f, err := os.Open(path); err != nil {
		t.Error(err)
	} else {
		_, _ = f.ReadAt(head, 0)
		f.Close()
	}
	if string(head) != line {
		t.Error("the head of the file is gone: adapters may read it")
	}
}

func TestStdout_ofAJob(t *testing.T) {
	hub, _ := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 10)
	fmt.Fprint(log.Writer(plugin.Stdout), "0123456789")
	fmt.Fprint(log.Writer(plugin.Stderr), "not this")
	if got, whole := log.Stdout(10); string(got) != "0123456789" || !whole {
		t.Errorf("got %q %t", got, whole)
	}
	fmt.Fprint(log.Writer(plugin.Stdout), "more")
	if got, whole := log.Stdout(10); string(got) != "0123456789" || whole {
		t.Errorf("beyond the limit: got %q %t, want the head and false", got, whole)
	}
	log.Close()
}

func TestIdleLogs_costNothing(t *testing.T) {
	hub, _ := newHub(t)
	before := runtime.NumGoroutine()
	all := make([]*logs.Log, 10_000)
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	for i := range all {
		all[i] = hub.Open("p", "p-1", "/nowhere", 0)
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	if each := int64(m1.HeapAlloc-m0.HeapAlloc) / int64(len(all)); each > 512 {
		t.Errorf("an idle log costs %d bytes, want at most 512", each)
	}
	for _, l := range all {
		l.Close()
		l.Close()
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
}

func TestTail_isTheNewest(t *testing.T) {
	hub, _ := newHub(t)
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	for i := range 2500 {
		fmt.Fprintf(log.Writer(plugin.Stdout), "%d\n", i)
	}
	log.Close()
	tail := log.Tail(5000)
	if len(tail) != 1000 || tail[0].Message != "1500" || tail[999].Message != "2499" {
		t.Errorf("got %d lines from %q to %q, want the last 1000", len(tail), tail[0].Message, tail[len(tail)-1].Message)
	}
	if tail := log.Tail(2); len(tail) != 2 || tail[1].Message != "2499" {
		t.Errorf("got %v", tail)
	}
}

func TestFile_cannotBeMade(t *testing.T) {
	hub, _ := newHub(t)
	log := hub.Open("p", "p-1", filepath.Join(t.TempDir(), "missing"), 0)
	if _, err := log.File(plugin.Stdout); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the folder is missing", err)
	}
	log.Close()
}
