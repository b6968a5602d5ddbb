package fault

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// truthMax is how soon /readyz tells a fault (design.md: 5 s), and a bit.
const truthMax = 6 * time.Second

// diskMiB is the size of the small disk: the daemon calls less than 64 MiB free no room.
const diskMiB = 128

// TestDiskFull fills the data folder's disk under a daemon with plugins.
func TestDiskFull(t *testing.T) {
	dir := folder(t)
	if err := syscall.Mount("fault", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", diskMiB)); err != nil {
		t.Fatalf("mount of a tmpfs: %v; it needs root", err)
	}
	t.Cleanup(func() {
		endMarked(dir) // they work in it
		if err := poll(patience, func() error { return syscall.Unmount(dir, 0) }); err != nil {
			t.Errorf("unmount: %v", errors.Join(err, syscall.Unmount(dir, syscall.MNT_DETACH)))
		}
	})
	d := serve(t, dir)
	kinds := processKinds()
	d.applyAll(kinds)
	want := applied(t, d)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	d.poll(truthMax, "/readyz tells", func() error {
		if d.isReady() == nil {
			return errors.New("it says ready")
		}
		return nil
	})
	for _, k := range kinds {
		if answer, err := d.call(k.name, k.echo, k.echoData); err != nil {
			t.Errorf("%s on a full disk: %s %v", k.name, answer, err)
		}
	}
	// What is refused is not kept; what is acknowledged is. A small one may still fit
	// into a page that a file has already.
	late, large := starlarkKind("late", "").manifest(habits{}), starlarkKind("large", "").manifest(habits{})
	part := strings.Repeat("x", 100<<10)
	large += "  env: {A: '" + part + "', B: '" + part + "'}\n"
	for _, text := range []string{late, large} {
		_, err := d.Apply(t.Context(), []wire.File{{Name: "fault", Content: text}}, client.ForReal)
		if text == large && !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("apply of 200 KiB on a full disk: got %v, want unavailable", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d.poll(patience, "ready again", d.isReady)
	d.apply(late)
	want["late"] = d.until("late", plugin.Running)
	d.kill()
	d = d.again()
	d.poll(healMax, "desired and actual", d.asDesired)
	if got := applied(t, d); len(got) != len(want) {
		t.Errorf("applied: got %d plugins, want %d: %v", len(got), len(want), slices.Collect(maps.Keys(got)))
	}
	for _, k := range kinds {
		if answer, err := d.call(k.name, k.echo, k.echoData); err != nil {
			t.Errorf("%s afterwards: %s %v", k.name, answer, err)
		}
	}
	d.stop()
}

// fill takes every block that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 64<<10)
	for range diskMiB << 20 / len(block) {
		if _, err = file.Write(block); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: got %v, want that it is full", err)
	}
}

// TestNATSAway takes an external server away for a while; the story nats-outage of
// test/e2e says what becomes of events and logs. Here plugins are called all along,
// one by one, and the daemon is killed and started while there is none.
func TestNATSAway(t *testing.T) {
	store := folder(t)
	ns := startNATS(t, store, server.RANDOM_PORT)
	port := ns.Addr().(*net.TCPAddr).Port
	d := serve(t, folder(t), "--nats-url", "nats://127.0.0.1:"+strconv.Itoa(port))
	kinds := processKinds()
	d.applyAll(kinds)
	gone := d.counting()
	ns.Shutdown()
	ns.WaitForShutdown()
	printed := d.killCounting(gone)
	for end := time.Now().Add(either(5*time.Second, time.Minute)); time.Now().Before(end); {
		for _, k := range kinds {
			begun := time.Now()
			answer, err := d.call(k.name, k.echo, k.echoData)
			if took := time.Since(begun); err != nil || took > time.Second {
				t.Fatalf("%s without NATS: after %s %s %v", k.name, took, answer, err)
			}
		}
		d.pass(20 * time.Millisecond)
	}
	startNATS(t, store, port)
	d.poll(patience, "ready again", d.isReady)
	d.apply(starlarkKind("late", "").manifest(habits{}))
	d.until("late", plugin.Running)
	d.keptOf(gone, printed)
	d.poll(healMax, "strays", d.nothingStray)
	d.stop()
}

// counting applies a plugin that prints counted lines, and returns its status.
func (d *daemon) counting() plugin.Status {
	d.t.Helper()
	k := processKinds()[0]
	k.name = "counting"
	d.apply(k.manifest(habits{count: "5ms"}))
	return d.until("counting", plugin.Running).Status
}

// killCounting kills that instance once it has printed lines which the bus has not
// taken, and returns how many it has printed at least.
func (d *daemon) killCounting(s plugin.Status) (printed int) {
	d.t.Helper()
	path := filepath.Join(d.dir, "run", strings.TrimPrefix(s.Instance, "counting-"), "stderr.log")
	lines := func() int {
		text, err := os.ReadFile(path)
		if err != nil {
			d.t.Fatal(err)
		}
		return strings.Count(string(text), "count ")
	}
	before := lines()
	d.poll(patience, "lines without NATS", func() error {
		if printed = lines(); printed < before+50 {
			return fmt.Errorf("%d lines, %d before", printed, before)
		}
		return nil
	})
	pid, err := strconv.Atoi(s.Facts["pid"])
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.poll(patience, "another instance", func() error {
		r, err := d.Plugin(d.t.Context(), "counting")
		if err == nil && (r.Status.Instance == s.Instance || r.Status.State != plugin.Running) {
			err = fmt.Errorf("%s is %s", r.Status.Instance, r.Status.State)
		}
		return err
	})
	return printed
}

// keptOf wants every line of an instance that is gone in the log, once and in order.
func (d *daemon) keptOf(s plugin.Status, printed int) {
	d.t.Helper()
	d.poll(healMax, "the log of an instance that ended without NATS", func() error {
		var numbers []int
		for _, line := range d.printed(cell{kind: kind{name: s.Plugin}}) {
			if line.Instance == s.Instance {
				numbers = append(numbers, counts([]plugin.LogLine{line})...)
			}
		}
		for i, n := range numbers {
			if n != i+1 {
				d.t.Fatalf("counted line %d: it says %d", i+1, n)
			}
		}
		if len(numbers) < printed {
			return fmt.Errorf("got %d lines, want at least %d", len(numbers), printed)
		}
		return nil
	})
}

func startNATS(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not answer")
	}
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	return ns
}

// quiet is how long after the last change of a storm the daemon has let go of what
// it keeps for a while: 3 s and 32 s in core/reconcile, the buffers of the bus's files
// and the ids of its events among it; and a bit. Nobody may ask for /metrics meanwhile:
// that writes to the bus, and takes up to three buffers of 8 MiB.
const quiet = 40 * time.Second

// What a daemon at rest may hold more after the second half of the cycles than after
// the first; goroutines, descriptors and folders have to be as many as before.
const (
	// moreHeapMax: 5,000 starts of a process that prints take 2.2 MiB, because the bus
	// has an entry for each subject of its log, 131,072 of them at most
	// (TestRetention_subjects of core/bus). 1 KiB that is lost with each start fails.
	moreHeapMax = 5 << 20
	// moreMemoryMax: the same, garbage, and pages of the runtime that are not full.
	moreMemoryMax = 12 << 20
)

// TestCycles starts and stops plugins again and again; nothing may grow. The first half
// fills what is filled once. In the short form the daemon does not rest before it is
// looked at, and its memory does not count.
func TestCycles(t *testing.T) {
	const side = 4 // plugins of a kind, at the same time
	for _, base := range processKinds() {
		if !slices.Contains([]string{"netrpc", "provider", "starlark"}, base.name) {
			continue
		}
		t.Run(base.name, func(t *testing.T) {
			t.Parallel() // each waits, for the most part
			d := serve(t, folder(t))
			var kinds []kind
			for n := range side {
				k := base
				k.name = fmt.Sprintf("%s%d", base.name, n)
				kinds = append(kinds, k)
			}
			d.applyAll(kinds)
			begun, start := time.Now(), d.holds()
			half := either(150, 5_000)
			d.cycle(kinds, half)
			first := d.rested()
			d.cycle(kinds, half)
			busy, last := d.holds(), holding{}
			d.poll(either(patience, 3*quiet), "what it holds", func() error {
				last = d.rested()
				return last.within(first)
			})
			t.Logf("%d cycles in %s: at the start %s, after the first half %s, at once after the second %s, and then %s",
				2*half, time.Since(begun).Round(time.Second), start, first, busy, last)
			d.poll(healMax, "strays", d.nothingStray)
		})
	}
}

// cycle stops and starts plugins, so many times in all.
func (d *daemon) cycle(kinds []kind, times int) {
	d.t.Helper()
	var all sync.WaitGroup
	problems := make(chan error, len(kinds))
	for _, k := range kinds {
		all.Go(func() { // ends after its share, or a failure
			for range max(times/len(kinds), 1) {
				if err := d.stopAndStart(k.name); err != nil {
					problems <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(problems)
	for err := range problems {
		d.t.Fatal(err)
	}
}

func (d *daemon) stopAndStart(name string) error {
	if _, err := d.Stop(d.t.Context(), name); err != nil {
		return err
	}
	if err := d.in(name, plugin.Stopped); err != nil {
		return err
	}
	if _, err := d.Start(d.t.Context(), name); err != nil {
		return err
	}
	return d.in(name, plugin.Running)
}

func (d *daemon) in(name string, want plugin.State) error {
	return poll(patience, func() error {
		r, err := d.Plugin(d.t.Context(), name)
		if err == nil && r.Status.State != want {
			err = fmt.Errorf("%s is %s%s, want %s", name, r.Status.State, client.Why(r.Status), want)
		}
		return err
	})
}

// rested returns what the daemon holds, in the full form once it rests and has
// collected its garbage.
func (d *daemon) rested() holding {
	d.t.Helper()
	before := d.holds()
	if !full() {
		return before
	}
	d.pass(quiet)
	for range garbage {
		if _, err := d.Plugins(d.t.Context(), client.ListOptions{}); err != nil {
			d.t.Fatal(err)
		}
	}
	h := d.holds()
	if h.collections < before.collections+2 {
		d.t.Fatalf("%d collections of garbage at rest, want 2", h.collections-before.collections)
	}
	return h
}

// garbage is how many requests leave so much garbage that it is collected twice.
const garbage = 5_000

// holding is what a daemon holds.
type holding struct {
	memory, heap      int64 // bytes: of the process, and what the last collection found in use of its heap
	goroutines, files int
	folders           int
	collections       int // of garbage, so far
}

func (d *daemon) holds() (h holding) {
	d.t.Helper()
	text, err := d.Metrics(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	h.memory = resident(d.t, d.cmd.Process.Pid)
	h.heap = int64(metric(d.t, text, "go_memstats_next_gc_bytes")) * 100 / int64(100+metric(d.t, text, "go_gc_gogc_percent"))
	h.goroutines, h.files = metric(d.t, text, "go_goroutines"), metric(d.t, text, "process_open_fds")
	h.collections = metric(d.t, text, "go_gc_duration_seconds_count")
	entries, err := os.ReadDir(filepath.Join(d.dir, "run"))
	if err != nil {
		d.t.Fatal(err)
	}
	h.folders = len(entries)
	return h
}

func metric(t *testing.T, text []byte, name string) int {
	t.Helper()
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}

func (h holding) within(before holding) error {
	grown := h.memory > before.memory+moreMemoryMax || h.heap > before.heap+moreHeapMax
	if grown && full() && !raced() || h.goroutines > before.goroutines || h.files > before.files || h.folders > before.folders {
		return fmt.Errorf("got %s, before %s", h, before)
	}
	return nil
}

func (h holding) String() string {
	return fmt.Sprintf("%.1f MiB (heap %.1f MiB), %d goroutines, %d files, %d folders",
		float64(h.memory)/(1<<20), float64(h.heap)/(1<<20), h.goroutines, h.files, h.folders)
}
