package fault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// boundMax is how soon what is bound ends after the daemon.
const boundMax = time.Second

// faulty is a manifest of test/plugins/faulty as a provider.
func faulty(fault, rest string) string {
	return fmt.Sprintf("---\napiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: faulty}\nspec:\n  provider: {command: [%s]}\n  env: {FAULT: %s}\n%s", program("faulty"), fault, rest)
}

func TestBound_diesWithTheDaemon(t *testing.T) {
	for _, k := range processKinds() {
		if !k.detached {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			d := serve(t, folder(t))
			d.apply(k.manifest(habits{}) + "  lifetime: bound\n")
			d.until(k.name, plugin.Running)
			d.kill()
			d.poll(boundMax, k.name, d.nobody)
		})
	}
}

// TestBound_grandchildren: also what has left the group, and has no parent.
func TestBound_grandchildrenDieWithTheDaemon(t *testing.T) {
	d := serve(t, folder(t))
	d.apply(faulty("children", "  lifetime: bound\n"))
	d.until("faulty", plugin.Running)
	d.poll(patience, "children", func() error { return d.atLeast(2) })
	d.kill()
	d.poll(boundMax, "children", d.nobody)
}

func TestBound_containerDiesWithTheDaemon(t *testing.T) {
	d := serve(t, folder(t))
	k := containerKind()
	d.apply(k.manifest(habits{}) + "  lifetime: bound\n")
	d.until(k.name, plugin.Running)
	d.kill()
	d.poll(boundMax, "container", func() error {
		all, err := boxes(d.node)
		for _, b := range all {
			if b.State == "running" {
				err = errors.Join(err, fmt.Errorf("container %s runs", b.ID))
			}
		}
		return err
	})
}

// nobody wants that no process bears the node's mark.
func (d *daemon) nobody() error {
	if all := marked(d.node); len(all) > 0 {
		return fmt.Errorf("processes are there: %v", all)
	}
	return nil
}

func (d *daemon) atLeast(n int) error {
	if all := marked(d.node); len(all) < n {
		return fmt.Errorf("got processes %v, want %d", all, n)
	}
	return nil
}

// TestDeleted_beforeTheKill: the plugin ignores every request to stop, so that it
// still runs when the daemon dies after its delete was acknowledged.
func TestDeleted_beforeTheKill(t *testing.T) {
	d := serve(t, folder(t))
	d.apply(faulty("deaf", "  timeouts: {stop: 1s}\n"))
	pid := pidOf(t, d.until("faulty", plugin.Running))
	if err := d.Delete(t.Context(), "faulty", client.Expect{}); err != nil {
		t.Fatal(err)
	}
	d.kill()
	if !alive(pid) {
		t.Fatalf("process %d ended before the daemon: nothing is tested", pid)
	}
	d = d.again()
	d.poll(healMax, "what was deleted", d.nobody)
	if _, err := d.Plugin(t.Context(), "faulty"); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("get: got %v, want not found", err)
	}
	d.poll(healMax, "strays", d.nothingStray)
}

func TestChanged_beforeTheKill(t *testing.T) {
	for _, k := range processKinds() {
		if !k.detached {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			d := serve(t, folder(t))
			d.apply(k.manifest(habits{}))
			before := d.until(k.name, plugin.Running)
			d.apply(k.manifest(habits{count: "1s"}))
			d.kill()
			d = d.again()
			d.poll(healMax, "desired and actual", d.asDesired)
			after := d.until(k.name, plugin.Running)
			if after.Generation != 2 || after.Status.Generation != 2 || pidOf(t, after) == pidOf(t, before) {
				t.Errorf("got generation %d (running: %d) with pid %d, want 2 with another pid than %d",
					after.Generation, after.Status.Generation, pidOf(t, after), pidOf(t, before))
			}
			d.poll(healMax, "strays", d.nothingStray)
		})
	}
}

func pidOf(t *testing.T, r plugin.Resource) int {
	t.Helper()
	pid, err := strconv.Atoi(r.Status.Facts["pid"])
	if err != nil {
		t.Fatalf("%s: pid %q", r.Metadata.Name, r.Status.Facts["pid"])
	}
	return pid
}

// TestForgedRecord: a record that names another process than the plugin's, as when
// its pid has been given away. That process is never signalled.
func TestForgedRecord(t *testing.T) {
	for _, k := range processKinds() {
		for _, forged := range []string{"start", "executable"} {
			if !k.detached {
				continue
			}
			t.Run(k.name+"/"+forged, func(t *testing.T) { forgedRecord(t, k, forged) })
		}
	}
}

func forgedRecord(t *testing.T, k kind, forged string) {
	d := serve(t, folder(t))
	d.apply(k.manifest(habits{}))
	old := pidOf(t, d.until(k.name, plugin.Running))
	d.poll(patience, "record", func() error { return one(d.records()) })
	begun := startTime(t, old)
	d.kill()
	_ = syscall.Kill(old, syscall.SIGKILL)
	d.poll(patience, "plugin", d.nobody)
	innocent := exec.Command("sleep", "600")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- innocent.Wait() }() // ends with the process
	t.Cleanup(func() { _ = innocent.Process.Kill() })

	record := d.records()[0]
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	text = replaceOnce(t, text, `"pid":`+strconv.Itoa(old), `"pid":`+strconv.Itoa(innocent.Process.Pid))
	if forged == "executable" { // the start time is right, what runs is not
		text = replaceOnce(t, text, `"start":`+begun, `"start":`+startTime(t, innocent.Process.Pid))
	}
	if err := os.WriteFile(record, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d = d.again()
	d.poll(healMax, "desired and actual", d.asDesired)
	if now := pidOf(t, d.until(k.name, plugin.Running)); now == innocent.Process.Pid {
		t.Errorf("process %d was adopted", now)
	}
	if err := d.nothingStray(); err != nil {
		t.Error(err)
	}
	d.stop()
	select {
	case err := <-ended:
		t.Errorf("the process of somebody else ended: %v", err)
	default:
	}
}

func (d *daemon) records() []string {
	all, _ := filepath.Glob(filepath.Join(d.dir, "run", "*.json"))
	return all
}

func one(all []string) error {
	if len(all) != 1 {
		return fmt.Errorf("got %v, want one", all)
	}
	return nil
}

// startTime is a process's start in clock ticks, as its stat has it.
func startTime(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)[19] // field 22, after pid, comm and from state on
}

func replaceOnce(t *testing.T, text []byte, old, new string) []byte {
	t.Helper()
	if bytes.Count(text, []byte(old)) != 1 {
		t.Fatalf("record: got %d of %s, want one: %s", bytes.Count(text, []byte(old)), old, text)
	}
	return bytes.Replace(text, []byte(old), []byte(new), 1)
}

func TestSIGTERM_stopsAll(t *testing.T) {
	d := serve(t, folder(t))
	d.applyAll(processKinds())
	d.stop()
	if err := d.nobody(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "run", "*")); len(left) > 0 {
		t.Errorf("left in the folder of instances: %v", left)
	}
}

func (d *daemon) applyAll(kinds []kind) {
	d.t.Helper()
	var text strings.Builder
	for _, k := range kinds {
		text.WriteString(k.manifest(habits{}))
	}
	d.apply(text.String())
	for _, k := range kinds {
		d.until(k.name, plugin.Running)
	}
}

// TestUpgrade replaces the binary below running plugins and callers.
func TestUpgrade(t *testing.T) {
	dir := folder(t)
	bin := filepath.Join(dir, "patchbay")
	copyFile(t, binary(), bin)
	listen := "--listen=" + freeAddress(t)
	d := serveBinary(t, bin, dir, "--on-exit", "keep", listen)
	kinds := slices.DeleteFunc(processKinds(), func(k kind) bool { return !k.detached })
	d.applyAll(kinds)
	before := map[string]int{}
	for _, k := range kinds {
		before[k.name] = pidOf(t, d.until(k.name, plugin.Running))
	}
	calls := d.callOn(4)
	d.poll(patience, "calls", func() error { return calls.answered(50) })

	copyFile(t, binary(), bin+".new")
	if err := os.Rename(bin+".new", bin); err != nil {
		t.Fatal(err)
	}
	d.stop()
	d = d.again("--on-exit", "keep", listen)
	d.poll(healMax, "desired and actual", d.asDesired)
	already := calls.count()
	d.poll(patience, "calls", func() error { return calls.answered(already + 50) })
	calls.end()
	for _, k := range kinds {
		if got := pidOf(t, d.until(k.name, plugin.Running)); got != before[k.name] {
			t.Errorf("%s: got pid %d, want %d as before", k.name, got, before[k.name])
		}
		if answer, err := d.call(k.name, k.echo, k.echoData); err != nil {
			t.Errorf("%s: %s %v", k.name, answer, err)
		}
	}
	calls.judge(t)
	if err := d.nothingStray(); err != nil {
		t.Error(err)
	}
	d.cmd.Process.Signal(syscall.SIGTERM) // and once more without a successor: the cleanup of folder ends them
	<-d.gone
}

// callers call the provider's count, whose answers are 1, 2, 3 ...: one that is
// missing is a call that was accepted and whose answer was lost.
type callers struct {
	mu       sync.Mutex
	answers  []int
	problems []error
	stop     chan struct{}
	all      sync.WaitGroup
}

func (d *daemon) callOn(n int) *callers {
	c := &callers{stop: make(chan struct{})}
	for range n {
		c.all.Go(func() { // ends with stop
			for {
				select {
				case <-c.stop:
					return
				default:
					answer, err := d.call("provider", "count", "")
					c.note(answer, err)
				}
			}
		})
	}
	d.t.Cleanup(c.end)
	return c
}

func (c *callers) note(answer []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, bad := strconv.Atoi(string(bytes.TrimSpace(answer)))
	switch {
	case err == nil && bad == nil:
		c.answers = append(c.answers, n)
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, plugin.ErrUnavailable):
		// It was not accepted; if it was, its number is missing.
	default:
		c.problems = append(c.problems, fmt.Errorf("%s: %w", answer, errors.Join(err, bad)))
	}
}

func (c *callers) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.answers)
}

func (c *callers) answered(n int) error {
	if got := c.count(); got < n {
		return fmt.Errorf("got %d answers, want %d", got, n)
	}
	return nil
}

func (c *callers) end() {
	c.mu.Lock()
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.mu.Unlock()
	c.all.Wait()
}

func (c *callers) judge(t *testing.T) {
	t.Helper()
	for _, err := range c.problems {
		t.Errorf("a call: %v", err)
	}
	slices.Sort(c.answers)
	for i, n := range c.answers {
		if n != i+1 {
			t.Fatalf("answer %d is missing: %d calls were answered", i+1, len(c.answers))
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
