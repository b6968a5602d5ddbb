package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// phase is what plugins do when the daemon is killed.
type phase string

const (
	starting phase = "starting"
	running  phase = "running"
	inACall  phase = "in a call"
	draining phase = "draining"
)

// TestKill is the kill matrix for plugins that are processes, and for Starlark.
func TestKill(t *testing.T) { matrix(t, processKinds()) }

// TestKill_container is its row for containers; it needs an engine.
func TestKill_container(t *testing.T) {
	if _, err := boxes("none"); err != nil {
		t.Fatalf("no Docker engine answers: %v; test/ensure-docker.sh start gets one", err)
	}
	matrix(t, []kind{containerKind()})
}

// rounds is how often the matrix runs; killed at another moment each time.
func rounds() int { return either(1, 10) }

func matrix(t *testing.T, kinds []kind) {
	for _, p := range []phase{starting, running, inACall, draining} {
		for n := range rounds() {
			t.Run(fmt.Sprintf("%s/%d", p, n), func(t *testing.T) { killIn(t, p, kinds) })
		}
	}
}

// cell is one plugin of the matrix.
type cell struct {
	kind
	before plugin.Resource
}

func killIn(t *testing.T, p phase, kinds []kind) {
	dir := folder(t)
	d := serve(t, dir)
	d.apply(starlarkKind("halted", "").manifest(habits{}))
	d.until("halted", plugin.Running)
	cells := d.bring(p, kinds)
	// Acknowledged right before the kill.
	if _, err := d.Stop(t.Context(), "halted"); err != nil {
		t.Fatal(err)
	}
	d.apply(starlarkKind("late", "").manifest(habits{}))
	d.pass(time.Duration(rand.Int64N(int64(rounds()) * int64(20*time.Millisecond))))
	want := applied(t, d)
	d.kill()

	seen := watchDoubles(d.node)
	d = d.again()
	d.heals(want)
	for _, doubled := range seen() {
		t.Errorf("two processes of one plugin: %s", doubled)
	}
	if err := d.nothingStray(); err != nil {
		t.Error(err)
	}
	for _, c := range cells {
		t.Run(c.name, func(t *testing.T) { d.judge(t, p, c) })
	}
}

// bring applies the plugins and returns once all of them are in the phase.
func (d *daemon) bring(p phase, kinds []kind) (cells []cell) {
	d.t.Helper()
	h := habits{count: "5ms"}
	if p == starting {
		h.start = "2s"
	}
	var text strings.Builder
	for _, k := range kinds {
		if p == starting && !k.detached {
			k = starlarkKind(k.name, "slow(100)") // work, not a wait: five times as long on a busy machine
		}
		text.WriteString(k.manifest(h))
		cells = append(cells, cell{kind: k})
	}
	d.apply(text.String())
	for i, c := range cells {
		if p == starting {
			cells[i].before = d.until(c.name, plugin.Starting)
			continue
		}
		cells[i].before = d.until(c.name, plugin.Running)
	}
	switch p {
	case starting: // their processes are there
		d.poll(patience, "processes", func() error { return d.begun(cells) })
	case inACall:
		d.occupy(cells)
	case draining:
		d.occupy(cells)
		for _, c := range cells {
			if _, err := d.Stop(d.t.Context(), c.name); err != nil {
				d.t.Fatal(err)
			}
		}
		for _, c := range cells {
			d.until(c.name, plugin.Stopping)
		}
	case running: // and print
		for _, c := range cells {
			if c.detached {
				d.poll(patience, c.name+" prints", func() error { return d.counted(c, 5) })
			}
		}
	}
	return cells
}

// begun wants that something of each plugin that is more than code is there.
func (d *daemon) begun(cells []cell) error {
	there := map[string]bool{}
	for _, p := range marked(d.node) {
		there[p.plugin()] = true
	}
	all, _ := boxes(d.node)
	for _, b := range all {
		there[b.Labels["dev.patchbay.plugin"]] = b.State == "running"
	}
	for _, c := range cells {
		if c.detached && !there[c.name] {
			return fmt.Errorf("nothing of %s is there", c.name)
		}
	}
	return nil
}

// occupy has each plugin in a slow call.
func (d *daemon) occupy(cells []cell) {
	d.t.Helper()
	for _, c := range cells {
		go func() { _, _ = d.call(c.name, c.slow, c.slowData) }() // ends with the daemon, at the latest
	}
	for _, c := range cells {
		d.poll(patience, c.name+" is in a call", func() error {
			r, err := d.Plugin(d.t.Context(), c.name)
			if err == nil && r.Status.InFlight == 0 {
				err = errors.New("no call is under way")
			}
			return err
		})
	}
}

// applied is all that is applied, without how it is.
func applied(t *testing.T, d *daemon) map[string]plugin.Resource {
	t.Helper()
	all := map[string]plugin.Resource{}
	for r, err := range d.AllPlugins(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		r.Status = plugin.Status{}
		all[r.Metadata.Name] = r
	}
	return all
}

// heals wants what was applied, and within healMax that it is so: each plugin in
// the state that is desired, and nothing there but the instances that are named.
func (d *daemon) heals(want map[string]plugin.Resource) {
	d.t.Helper()
	if diff := cmp.Diff(want, applied(d.t, d)); diff != "" {
		d.t.Errorf("applied before and after (-want +got):\n%s", diff)
	}
	if err := poll(healMax, d.asDesired); err != nil {
		d.t.Errorf("desired and actual: %v", err)
	}
}

// asDesired compares what is desired with what the daemon says and with what is there.
func (d *daemon) asDesired() error {
	instances := map[string]string{}
	for r, err := range d.AllPlugins(d.t.Context(), client.ListOptions{}) {
		if err != nil {
			return err
		}
		name, want := r.Metadata.Name, plugin.Running
		if r.Desired == plugin.DesiredStopped {
			want = plugin.Stopped
		}
		if r.Status.State != want || r.Status.Generation != r.Generation {
			return fmt.Errorf("%s is %s%s, want %s", name, r.Status.State, client.Why(r.Status), want)
		}
		if want == plugin.Running {
			instances[name] = r.Status.Instance
		}
	}
	for _, p := range marked(d.node) {
		if instances[p.plugin()] != p.instance {
			return fmt.Errorf("process %d is of %s, want %q", p.pid, p.instance, instances[p.plugin()])
		}
	}
	all, _ := boxes(d.node)
	for _, b := range all {
		if name, got := b.Labels["dev.patchbay.plugin"], b.Labels["dev.patchbay.instance"]; instances[name] != got {
			return fmt.Errorf("container %s is of %s, want %q", b.ID, got, instances[name])
		}
	}
	return nil
}

// judge looks at one plugin after the restart.
func (d *daemon) judge(t *testing.T, p phase, c cell) {
	r, err := d.Plugin(t.Context(), c.name)
	if err != nil {
		t.Fatal(err)
	}
	if p == draining {
		return // it was told to stop, and heals has seen that it has
	}
	answer, err := d.call(c.name, c.echo, c.echoData)
	if err != nil || !strings.Contains(string(answer), "x") {
		t.Errorf("a call after the restart: got %s, %v", answer, err)
	}
	if !c.detached || p == starting {
		return
	}
	for _, fact := range []string{"pid", "container"} {
		if got, want := r.Status.Facts[fact], c.before.Status.Facts[fact]; got != want {
			t.Errorf("%s after the restart: got %q, want %q: it was not adopted", fact, got, want)
		}
	}
	if r.Status.Instance != c.before.Status.Instance {
		return // a new instance counts from the start
	}
	t.Run("log", func(t *testing.T) { d.unbroken(t, c) })
}

// unbroken wants every line of the instance's standard error once, in order, before
// and after: by the sequence of each line, and by what the counted ones say.
func (d *daemon) unbroken(t *testing.T, c cell) {
	had := len(counts(d.printed(c)))
	if err := poll(healMax, func() error { return d.counted(c, had+20) }); err != nil {
		t.Fatal(err)
	}
	lines := d.printed(c)
	for i, line := range lines {
		if line.Sequence != uint64(i+1) || line.Dropped > 0 || line.Instance != c.before.Status.Instance {
			t.Fatalf("line %d: got sequence %d of %s, %d dropped: %q", i+1, line.Sequence, line.Instance, line.Dropped, line.Message)
		}
	}
	for i, n := range counts(lines) {
		if n != i+1 {
			t.Fatalf("counted line %d: it says %d", i+1, n)
		}
	}
}

func (d *daemon) counted(c cell, atLeast int) error {
	if got := len(counts(d.printed(c))); got < atLeast {
		return fmt.Errorf("%s: got %d counted lines, want %d", c.name, got, atLeast)
	}
	return nil
}

// printed is what history has of a plugin's standard error.
func (d *daemon) printed(c cell) (lines []plugin.LogLine) {
	for line, err := range d.Logs(d.t.Context(), c.name, client.LogOptions{}) {
		if err != nil {
			break
		}
		if line.Stream == plugin.Stderr {
			lines = append(lines, line)
		}
	}
	return lines
}

// counts are the numbers of the counted lines; go-plugin prints others, too.
func counts(lines []plugin.LogLine) (numbers []int) {
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line.Message, "count "); ok {
			n, _ := strconv.Atoi(text)
			numbers = append(numbers, n)
		}
	}
	return numbers
}
