package logs

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestRate_aFloodIsDroppedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &fakeBus{}
		var rate atomic.Int64
		rate.Store(100)
		hub := New(Options{Publish: bus.publish, Settings: func(string) Settings { return Settings{LineRate: int(rate.Load())} }})
		log := hub.Open("p", "p-1", "", 0)
		w := log.Writer(plugin.Stdout)
		for range 10 {
			for range 1000 {
				fmt.Fprintln(w, "flood") // takes no time: nobody waits
			}
			<-time.After(time.Second)
		}
		rate.Store(0) // the manifest is changed
		<-time.After(settingsEvery)
		for range 500 {
			fmt.Fprintln(w, "no limit")
		}
		log.Close()
		lines := bus.lines()
		counted(t, lines, 10_500)
		if n := len(lines); n != 100+9*100+500 {
			t.Errorf("%d lines were taken, want 1500: a burst, nine seconds, and all", n)
		}
	})
}

// TestRate_whatIsTooMuchInAFileIsCounted: what is over the rate is not cut into lines,
// and still each is counted.
func TestRate_whatIsTooMuchInAFileIsCounted(t *testing.T) {
	bus := &fakeBus{}
	log := New(Options{Publish: bus.publish, Settings: func(string) Settings { return Settings{LineRate: 10} }}).Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	const lines = 8_000 // less than leapOver
	for n := range lines {
		fmt.Fprintf(file, "a line with its number, %d, which has another length\n", n)
	}
	_, _ = fmt.Fprint(file, "and one that does not end")
	_ = file.Close()
	log.Close()
	taken, last := uint64(0), uint64(0)
	for _, l := range bus.lines() {
		if l.Sequence != last+1+l.Dropped {
			t.Fatalf("line %d comes after %d and tells of %d dropped", l.Sequence, last, l.Dropped)
		}
		if want := fmt.Sprintf("a line with its number, %d, which has another length", l.Sequence-1); l.Message != want && l.Sequence <= lines {
			t.Fatalf("line %d is %q, want %q", l.Sequence, l.Message, want)
		}
		taken, last = taken+1, l.Sequence
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	s := log.streams[plugin.Stdout]
	if s.sequence != lines+1 || taken < 10 || s.sequence-last != s.dropped {
		t.Errorf("%d lines were counted, %d taken, the last %d, %d dropped after it; want %d in all and a burst of 10", s.sequence, taken, last, s.dropped, lines+1)
	}
}

// TestRate_aFloodIsNotRead: only its end is, and about so many lines are counted as it
// has; what it holds is freed, and its burst is saved up more slowly than its rate.
func TestRate_aFloodIsNotRead(t *testing.T) {
	for name, tail := range map[string]string{"lines": "", "a line without end": strings.Repeat("x", 2*leapKept)} {
		t.Run(name, func(t *testing.T) {
			const rate, lines = 10, 200_000
			log := New(Options{Settings: func(string) Settings { return Settings{LineRate: rate} }}).Open("p", "p-1", t.TempDir(), 0)
			defer log.Close()
			file, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			for n := range lines {
				fmt.Fprintf(file, "a line with its number, %6d\n", n)
			}
			fmt.Fprint(file, tail)
			f := &follower{log: log, stream: log.recall(plugin.Stderr), file: file, freed: log.head(plugin.Stderr)}
			size, before := f.size(), blocks(t, file)
			buf := make([]byte, leapKept)
			if _, err := f.leap(buf, math.MaxInt64); err != nil || f.offset != 0 {
				t.Fatalf("within the rate: got at %d, %v", f.offset, err)
			}
			log.mu.Lock()
			log.bucket.lines = -1
			log.mu.Unlock()
			if _, err := f.leap(buf, math.MaxInt64); err != nil || size-f.offset > leapKept || f.offset != f.cutter.at {
				t.Fatalf("got at %d of %d, %v, want within its last %d bytes", f.offset, size, err, leapKept)
			}
			log.mu.Lock()
			defer log.mu.Unlock()
			left := uint64(size-f.offset) / 30
			if counted := f.stream.sequence + left; tail == "" && (counted < lines*99/100 || counted > lines*101/100) || f.stream.dropped != f.stream.sequence || counted == 0 {
				t.Errorf("%d lines were counted and %d dropped, want about %d", counted, f.stream.dropped, lines)
			}
			if after := blocks(t, file); after > before/2 {
				t.Errorf("%d of %d blocks are still held", after, before)
			}
			had := log.bucket.lines
			log.bucket.fill(log.bucket.filled.Add(floodOver+time.Second), rate)
			if got, want := log.bucket.lines-had, rate*(1+floodOver.Seconds()/floodShare); math.Abs(got-want) > 0.001 {
				t.Errorf("%v lines were saved up in and after the flood, want %v", got, want)
			}
		})
	}
}

// TestRate_whatMayStillBePrintedIsInWhatIsKept: a flood is leapt over all the same, while
// that is little; of a low rate it never is.
func TestRate_whatMayStillBePrintedIsInWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		rate  int
		lines float64
		want  bool
	}{{10_000, 50, true}, {10_000, 51, false}, {1000, 10, true}, {1000, 11, false}, {10, 1, false}, {10, 0, true}} {
		log := New(Options{}).Open("p", "p-1", t.TempDir(), 0)
		f := &follower{log: log, stream: log.recall(plugin.Stderr)}
		now := time.Now()
		log.bucket = bucket{lines: c.lines, filled: now}
		if got := f.seesFlood(now, c.rate); got != c.want {
			t.Errorf("%v lines of %d a second left: got flood %t, want %t", c.lines, c.rate, got, c.want)
		}
		log.Close()
	}
}

func blocks(t *testing.T, file *os.File) int64 {
	t.Helper()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks
}

func TestRate_dropsAtTheEndAreToldToTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &fakeBus{}
		var said bytes.Buffer
		log := New(Options{
			Publish: bus.publish, Settings: func(string) Settings { return Settings{LineRate: 1} }, Log: slog.New(slog.NewTextHandler(&said, nil)),
		}).Open("p", "p-1", "", 0)
		for range 25 { // a burst is one
			fmt.Fprintln(log.Writer(plugin.Stdout), "flood")
		}
		log.Close()
		for _, want := range []string{"more than spec.limits.logRate", "last lines of a plugin were dropped", "lines=24"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%q is not said in %s", want, said.String())
			}
		}
	})
}

func TestRate_isNotHeldAgainstAReaderThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := New(Options{Settings: func(string) Settings { return Settings{LineRate: 100} }})
		log := hub.Open("p", "p-1", "", 0)
		s := log.recall(plugin.Stdout)
		now := printed{at: time.Now()}
		for range 100 {
			if !log.allow(s, now, 100) {
				t.Fatal("a line within the rate was dropped")
			}
		}
		log.mu.Lock()
		log.bucket.waited = 5 * time.Second // for the bus
		log.mu.Unlock()
		taken := 0
		for range 1000 {
			if log.allow(s, now, 100) {
				taken++
			}
		}
		if taken != 500 {
			t.Errorf("%d lines were taken, want what was printed in the five seconds", taken)
		}
	})
}

func TestRate_whatWasPrintedWithoutADaemonIsTaken(t *testing.T) {
	hub, bus := newFake()
	dir := t.TempDir()
	log := hub.Open("p", "p-1", dir, 0)
	c := newChild(t, log)
	c.print(10)
	await(t, bus, 10)
	log.Leave()
	for range 10 {
		c.print(1000)
	}
	next := New(Options{Publish: bus.publish, Last: bus.last, Settings: func(string) Settings { return Settings{LineRate: 5} }}).Resume("p", "p-1", dir, 0)
	await(t, bus, c.n-1)
	next.Close()
	inOrder(t, bus.lines(), c.n)
}

func TestSettings_goWithEachBatch(t *testing.T) {
	bus := &fakeBus{}
	keep := plugin.Logs{MaxAge: plugin.Duration(time.Hour), MaxSize: 1 << 20}
	log := New(Options{Publish: bus.publish, Settings: func(name string) Settings {
		if name != "p" {
			t.Errorf("asked for %q", name)
		}
		return Settings{Keep: keep}
	}}).Open("p", "p-1", "", 0)
	fmt.Fprintln(log.Writer(plugin.Stdout), "one")
	log.Close()
	if got := bus.batches[0].Keep; got != keep {
		t.Errorf("got %+v, want %+v", got, keep)
	}
}
