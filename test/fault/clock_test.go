//go:build vm

package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

const (
	// soon is "at once" for a call on a machine that is interpreted.
	soon = 3 * time.Second
	// waitMost is of a wait that is to come to its end, lateStart of a plugin that is
	// waited for; both are longer than the jump takes.
	waitMost, lateStart = 6 * time.Second, "4s"
	// backoffMost is the longest wait for a retry, backoffLeast what must be left of it
	// when the clock jumps.
	backoffMost, backoffLeast = 12 * time.Second, 3 * time.Second
	// linesPace is how often a plugin prints.
	linesPace = "50ms"
)

// TestClock: the clock is set forward and back below a daemon at work, which is
// killed in the end. Only what is shown to people, and how long the log is kept, goes
// by that clock.
func TestClock(t *testing.T) {
	w := newWorld(t)
	for _, by := range []time.Duration{time.Hour, 30 * 24 * time.Hour, -2 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) { w.over(t, by) })
	}
	w.followed(t)
	t.Run("killed", w.killed)
}

// world is a daemon with plugins of each kind, and who follows it meanwhile.
type world struct {
	*daemon
	listen string
	cells  []cell
	lines, // of the provider
	events *follower
	// printedAt is how far each plugin's log was when the clock had jumped last.
	printedAt map[string]int
}

func newWorld(t *testing.T) *world {
	w := &world{listen: "--listen=" + freeAddress(t), printedAt: map[string]int{}}
	begun := time.Now()
	w.daemon = serve(t, folder(t), w.listen)
	w.events = w.followEvents(t, begun)
	var text strings.Builder
	for _, k := range processKinds() {
		w.cells = append(w.cells, cell{kind: k})
		text.WriteString(k.manifest(habits{count: linesPace}))
	}
	text.WriteString(starlarkKind("marker", "").manifest(habits{}))
	text.WriteString(faulty("exit", fmt.Sprintf("  restart: {backoff: {min: %[1]s, max: %[1]s}, budget: {failures: -1}}\n", backoffMost)))
	w.apply(text.String())
	for i, c := range w.cells {
		w.cells[i].before = w.until(c.name, plugin.Running)
	}
	w.until("marker", plugin.Running)
	w.measure()
	w.lines = followed(t, func(ctx context.Context, each func(string, uint64)) error {
		for l, err := range w.Logs(ctx, "provider", client.LogOptions{Since: begun, Follow: true}) {
			if err != nil {
				return err
			}
			if l.Stream == plugin.Stderr {
				each(l.Message, l.Sequence)
			}
		}
		return nil
	})
	return w
}

func (w *world) followEvents(t *testing.T, since time.Time) *follower {
	return followed(t, func(ctx context.Context, each func(string, uint64)) error {
		for e, err := range w.Events(ctx, client.EventOptions{Since: since, Follow: true}) {
			if err != nil {
				return err
			}
			each(eventText(e), e.Sequence)
		}
		return nil
	})
}

// eventText is another one for each event.
func eventText(e plugin.Event) string { return fmt.Sprintf("%s %s %s", e.ID, e.Plugin, e.Data) }

// measure makes the slow call of Starlark, which is work and not a wait, as long as
// the others' are: here all work may be interpreted.
func (w *world) measure() {
	w.t.Helper()
	const sample, long = 20, 3 * time.Second
	for i := range w.cells {
		c := &w.cells[i]
		if c.name != "starlark" {
			continue
		}
		begun := time.Now()
		if answer, err := w.call(c.name, c.slow, fmt.Sprint(sample)); err != nil {
			w.t.Fatalf("%s: %s, %v", c.name, answer, err)
		}
		c.slowData = fmt.Sprint(max(1, int64(sample*long/time.Since(begun))))
	}
}

// follower is a stream that is followed until the test ends.
type follower struct {
	mu    sync.Mutex
	texts []string
	// at are their sequences; 0 for one that was told before it was stored.
	at  []uint64
	err error
}

func followed(t *testing.T, follow func(ctx context.Context, each func(text string, at uint64)) error) *follower {
	f := &follower{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { // ends with ctx
		defer close(ended)
		err := follow(ctx, func(text string, at uint64) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.texts, f.at = append(f.texts, text), append(f.at, at)
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err = err
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return f
}

// whole wants everything once and in order, n at least.
func (f *follower) whole(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || len(f.at) < n {
		return fmt.Errorf("got %d items, %w, want %d", len(f.at), errors.Join(f.err, errors.New("no more yet")), n)
	}
	for i, at := range f.at {
		if want := f.at[0] + uint64(i); at != want && at != 0 {
			return fmt.Errorf("item %d: got sequence %d, want %d: %s", i, at, want, f.texts[i])
		}
	}
	return nil
}

// eventsWhole wants n followed events at least, each once and in order, and among them
// all that are kept. Their sequences have gaps: /readyz writes to the same stream.
func (w *world) eventsWhole(n int) error {
	f := w.events
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || len(f.at) < n {
		return fmt.Errorf("got %d events, %w, want %d", len(f.at), errors.Join(f.err, errors.New("no more yet")), n)
	}
	had, last := map[string]bool{}, uint64(0)
	for i, text := range f.texts {
		if had[text] || f.at[i] != 0 && f.at[i] <= last {
			return fmt.Errorf("event %d, sequence %d after %d: got it twice or too late: %s", i, f.at[i], last, text)
		}
		had[text], last = true, max(last, f.at[i])
	}
	for e, err := range w.Events(w.t.Context(), client.EventOptions{}) {
		if err != nil {
			return err
		}
		if !had[eventText(e)] {
			return fmt.Errorf("event %d is missing: %s", e.Sequence, eventText(e))
		}
	}
	return nil
}

func (f *follower) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}

// jump sets the clock of this machine, which must be one that test/vm has booted.
func jump(t *testing.T, by time.Duration) {
	t.Helper()
	if text, err := os.ReadFile("/proc/cmdline"); err != nil || !bytes.Contains(text, []byte("patchbay.vm=1")) {
		t.Fatal("this is no machine of test/vm: its clock is left alone")
	}
	ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatal(err)
	}
}

// over has calls, waits and a backoff under way when the clock jumps.
func (w *world) over(t *testing.T, by time.Duration) {
	w.apply(strings.Replace(processKinds()[4].manifest(habits{start: lateStart}), "name: provider", "name: late", 1))
	retry := w.backoff(t)
	calls := w.slowCalls(t)
	since := w.followEvents(t, time.Now().Add(-time.Minute))
	w.poll(patience, "events -f --since before the jump", func() error {
		if since.count() == 0 {
			return errors.New("no event yet")
		}
		return nil
	})
	late, never := w.wait(t, "late"), w.wait(t, "provider", "--for=stopped", "--timeout="+waitMost.String())

	jump(t, by)
	for _, c := range w.cells {
		begun := time.Now()
		if answer, err := w.call(c.name, c.echo, c.echoData); err != nil || time.Since(begun) > soon {
			t.Errorf("%s: a call after the jump: %s, %v, took %s", c.name, answer, err, time.Since(begun))
		}
	}
	if err := w.isReady(); err != nil {
		t.Error(err)
	}
	calls(t)
	if code, took := late(); code != 0 {
		t.Errorf("wait for a plugin that starts: got exit code %d after %s, want 0", code, took)
	}
	if code, took := never(); code != 7 || took < waitMost || took > waitMost+soon {
		t.Errorf("wait for what does not come: got exit code %d after %s, want 7 after %s", code, took, waitMost)
	}
	retry(t)
	w.unmoved(t)
	w.sinceThen(t, since)
	if err := w.Delete(t.Context(), "late", client.Expect{}); err != nil {
		t.Fatal(err)
	}
}

// backoff returns once a retry is due in a while; what it returns wants it then.
func (w *world) backoff(t *testing.T) (due func(*testing.T)) {
	t.Helper()
	var left time.Duration
	var restarts int
	if err := poll(20*backoffMost, func() error {
		r, err := w.Plugin(t.Context(), "faulty")
		if err != nil {
			return err
		}
		if r.Status.State != plugin.Backoff || r.Status.RetryAt == nil {
			return fmt.Errorf("it is %s", r.Status.State)
		}
		if left, restarts = time.Until(*r.Status.RetryAt), r.Status.Restarts; left < backoffLeast+soon {
			return fmt.Errorf("its retry is due in %s", left)
		}
		return nil
	}); err != nil {
		t.Fatal("backoff:", err)
	}
	seen := time.Now()
	return func(t *testing.T) {
		if err := poll(left+soon-time.Since(seen), func() error {
			r, err := w.Plugin(t.Context(), "faulty")
			if err == nil && r.Status.Restarts == restarts {
				err = fmt.Errorf("it is %s%s", r.Status.State, client.Why(r.Status))
			}
			return err
		}); err != nil {
			t.Errorf("a retry that was due in %s: %v", left, err)
		}
	}
}

// slowCalls has a call under way in each plugin; what it returns wants their answers.
func (w *world) slowCalls(t *testing.T) (answered func(*testing.T)) {
	t.Helper()
	errs := make([]error, len(w.cells))
	var all sync.WaitGroup
	for i, c := range w.cells {
		all.Go(func() { _, errs[i] = w.call(c.name, c.slow, c.slowData) })
	}
	return func(t *testing.T) {
		all.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("%s: a call under way: %v", w.cells[i].name, err)
			}
		}
	}
}

// wait runs patchbay wait; what it returns tells how that ended, and after how long.
func (w *world) wait(t *testing.T, args ...string) (end func() (code int, took time.Duration)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.bin, append([]string{"wait"}, args...)...)
	cmd.Env = append(environment(w.dir), "PATCHBAY_DATA_DIR="+w.dir)
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var took time.Duration
	ended := make(chan struct{})
	go func() { // ends with the command
		defer close(ended)
		_ = cmd.Wait()
		took = time.Since(begun)
	}()
	return func() (int, time.Duration) {
		<-ended
		return cmd.ProcessState.ExitCode(), took
	}
}

// unmoved wants every plugin as it was: the same process, in the same state since
// the same time.
func (w *world) unmoved(t *testing.T) {
	t.Helper()
	for _, c := range w.cells {
		r, err := w.Plugin(t.Context(), c.name)
		if err != nil {
			t.Fatal(err)
		}
		got, want := r.Status, c.before.Status
		if got.State != plugin.Running || !got.Since.Equal(want.Since) || got.Instance != want.Instance || got.Restarts != want.Restarts {
			t.Errorf("%s is %s since %s, %s, %d restarts; want running since %s, %s, %d", c.name,
				got.State, got.Since, got.Instance, got.Restarts, want.Since, want.Instance, want.Restarts)
		}
	}
}

// sinceThen wants what happens from now on in the history of now on, and given to who
// has followed since shortly before the jump.
func (w *world) sinceThen(t *testing.T, events *follower) {
	t.Helper()
	now, before := time.Now(), events.count()
	if _, err := w.Restart(t.Context(), "marker"); err != nil {
		t.Fatal(err)
	}
	w.poll(patience, "events since the jump", func() error {
		for e, err := range w.PluginEvents(t.Context(), "marker", client.EventOptions{Since: now, Type: plugin.EventState}) {
			if err != nil {
				return err
			}
			if bytes.Contains(e.Data, []byte(`"running"`)) {
				return nil
			}
		}
		return errors.New("the marker's start is not among them")
	})
	w.poll(patience, "events -f --since", func() error {
		if got := events.count(); got < before+3 { // running, and twice the way there
			return fmt.Errorf("got %d events, want 3 more than %d", got, before)
		}
		return nil
	})
	for _, c := range w.cells {
		if c.detached {
			w.poll(patience, "lines since the jump", func() error { return w.linesSince(t, c, now) })
		}
	}
}

// linesSince wants ten lines at least that were printed since, each once. What bears a
// time that is still to come was printed before the clock was set back, and is passed
// over.
func (w *world) linesSince(t *testing.T, c cell, since time.Time) error {
	var lines []plugin.LogLine
	for l, err := range w.Logs(t.Context(), c.name, client.LogOptions{Since: since}) {
		if err != nil {
			return err
		}
		if l.Time.Before(since) {
			t.Errorf("%s: got a line of %s, want none before %s", c.name, l.Time, since)
		}
		if l.Time.Before(time.Now()) {
			lines = append(lines, l)
		}
	}
	got := counts(lines)
	if len(got) < 10 || got[len(got)-1] != got[0]+len(got)-1 {
		return fmt.Errorf("%s: got lines %v, want ten and no gap", c.name, got)
	}
	w.printedAt[c.name] = got[0]
	return nil
}

// followed wants that who has followed since before the jumps has everything.
func (w *world) followed(t *testing.T) {
	t.Helper()
	printed, events := w.lines.count(), w.events.count()
	if _, err := w.Restart(t.Context(), "marker"); err != nil {
		t.Fatal(err)
	}
	w.poll(patience, "logs -f", func() error { return w.lines.whole(printed + 20) })
	w.poll(patience, "events -f", func() error { return w.eventsWhole(events + 2) })
	for _, text := range w.events.texts {
		if strings.Contains(text, `"degraded"`) {
			t.Errorf("event %s", text)
		}
	}
}

// killed wants that the next daemon adopts what it finds although the clock has
// jumped, and reads on where the log was.
func (w *world) killed(t *testing.T) {
	w.kill()
	w.daemon = w.again(w.listen)
	for _, c := range w.cells {
		r := w.until(c.name, plugin.Running)
		if !c.detached {
			continue
		}
		if pidOf(t, r) != pidOf(t, c.before) || r.Status.Instance != c.before.Status.Instance {
			t.Errorf("%s: got process %d of %s, want %d of %s: it was not adopted", c.name,
				pidOf(t, r), r.Status.Instance, pidOf(t, c.before), c.before.Status.Instance)
			continue
		}
		if answer, err := w.call(c.name, c.echo, c.echoData); err != nil {
			t.Errorf("%s: a call: %s, %v", c.name, answer, err)
		}
		w.readsOn(t, c)
	}
	w.followed(t)
	if err := w.nothingStray(); err != nil {
		t.Error(err)
	}
}

// readsOn wants the lines since the last jump, and what comes, without a gap. Those
// of before the long jump are too old now, by the only clock there is.
func (w *world) readsOn(t *testing.T, c cell) {
	t.Helper()
	w.poll(patience, "its log", func() error {
		got := counts(w.printed(c))
		switch from := w.printedAt[c.name]; {
		case len(got) == 0 || got[0] > from:
			return fmt.Errorf("%s: got %d lines, want them from %d on: %v", c.name, len(got), from, got[:min(1, len(got))])
		case got[len(got)-1] != got[0]+len(got)-1:
			return fmt.Errorf("%s: lines are missing: %v", c.name, got)
		case got[len(got)-1] < from+100:
			return fmt.Errorf("%s: got lines to %d, want more", c.name, got[len(got)-1])
		}
		return nil
	})
}
