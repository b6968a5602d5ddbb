package fault

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

const (
	// overGraceMax is how much longer than its grace a stop may take.
	overGraceMax = 500 * time.Millisecond
	// memoryMax is what the daemon may hold more, whatever a plugin does: the log's
	// buffers and one answer of 16 MiB, several times.
	memoryMax = 256 << 20
	// racedMax is how many times as much a daemon with the race detector may hold.
	racedMax = 8
	// diskMax is what a flood may take: 256 MiB that are unread, 128 MiB that are to
	// be freed, and what comes meanwhile.
	diskMax = 512 << 20
	// tormentEvery is how often the hostile plugin is called while the neighbour is
	// measured: a plugin is hostile here, not its callers.
	tormentEvery = 250 * time.Millisecond
	// neighbourWorseMax is how much a neighbour's p99 may rise, beside the noise.
	neighbourWorseMax = 1.10
)

func memoryBound() int64 {
	if raced() {
		return racedMax * memoryMax
	}
	return memoryMax
}

// diskBound is larger for a daemon with the race detector, which reads a flood some
// times more slowly than the plugin writes it.
func diskBound() int64 {
	if raced() {
		return racedMax * diskMax
	}
	return diskMax
}

// impatient gives up soon: the plugin fails for good after three attempts.
const impatient = "  timeouts: {start: 1s, stop: 1s}\n  restart: {backoff: {min: 10ms, max: 50ms}, budget: {failures: 2}}\n"

// hostile is a plugin that means harm.
type hostile struct {
	name, manifest string
	// story is what must hold of it.
	story func(t *testing.T, d *daemon)
	// torment is done again and again while the neighbour is measured.
	torment func(d *daemon)
	// greedy plugins take a processor for themselves, which is for limits.cpu: how the
	// neighbour fares is told, and not judged.
	greedy bool
}

func TestHostile(t *testing.T) {
	for _, h := range hostiles(t) {
		t.Run(h.name, func(t *testing.T) { h.run(t) })
	}
}

// TestHostile_leak is for itself: its limit needs a cgroup.
func TestHostile_leak(t *testing.T) {
	h := hostile{name: "leak", manifest: faulty("leak", "  limits: {memory: 96MiB}\n"+impatient), story: func(t *testing.T, d *daemon) {
		r := d.until("faulty", plugin.Failed)
		if r.Status.LastExit == nil || !r.Status.LastExit.OOM {
			t.Errorf("last exit: got %+v, want that memory ran out", r.Status.LastExit)
		}
	}}
	h.run(t)
}

func hostiles(t *testing.T) []hostile {
	big := `{"text": "` + strings.Repeat("x", 8<<20) + `"}`
	call := func(d *daemon) {
		_, _ = d.ask("faulty", `{}`, time.Second)
		d.pass(tormentEvery)
	}
	return []hostile{
		{name: "is never ready", manifest: faulty("never", impatient), story: fails("READY!")},
		{name: "exits at once", manifest: faulty("exit", impatient), story: crashLoop},
		{name: "hangs", manifest: faulty("none", "  timeouts: {stop: 1s}\n  restart: {backoff: {min: 10ms, max: 50ms}}\n  probe: {liveness: {interval: 100ms, timeout: 300ms, failures: 2}}\n"), story: hangs},
		{name: "ignores TERM", manifest: faulty("deaf", "  timeouts: {stop: 1s}\n"), story: stopsInTime},
		{name: "has children", manifest: faulty("children", "  timeouts: {stop: 1s}\n"), story: func(t *testing.T, d *daemon) {
			d.until("faulty", plugin.Running)
			d.poll(patience, "children", func() error { return d.atLeast(3) }) // it, its child, the neighbour
			stopsInTime(t, d)
		}},
		{name: "floods its output", manifest: faulty("flood", ""), story: floods},
		{name: "floods its output without pause", manifest: faulty("torrent", ""), story: floods, greedy: true}, // the flood to be borne is the paced one
		{name: "never reads", manifest: faulty("mute", ""), story: answersBadly(big), torment: call},
		{name: "answers garbage", manifest: faulty("garbage", ""), story: answersBadly(`{}`), torment: call},
		{name: "answers without end", manifest: faulty("endless", ""), story: answersBadly(`{}`), torment: call},
		{name: "provider without a socket", manifest: faulty("nosocket", impatient), story: fails("provider.sock")},
		{name: "go-plugin of other versions", manifest: liar("versions", ""), story: fails("version")},
		{name: "go-plugin at another's socket", manifest: liar("alien", alien(t)), story: fails("not the plugin")},
		{name: "go-plugin beyond this machine", manifest: liar("outside", ""), story: fails("loopback")},
		{name: "go-plugin of garbage", manifest: liar("garbage", ""), story: fails("none is a handshake")},
		{name: "portable of garbage", manifest: portableLiar("garbage"), story: fails("its greeting is")},
		{name: "portable of a huge frame", manifest: portableLiar("frame"), story: fails("a frame of 4611686018427387904 bytes")},
	}
}

func liar(fault, address string) string {
	return fmt.Sprintf(`---
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: faulty}
spec:
  goplugin:
    command: [%s]
    handshake: {key: PATCHBAY_TINY, value: 3f2c, versions: [1]}
    transport: netrpc
    plugin: tiny
    describe:
      methods: {Echo: {args: Text, reply: Text}}
      types: {Text: {fields: {Text: string}}}
  env: {FAULT: %s, FAULT_ADDRESS: '%s'}
%s`, program("faulty"), fault, address, impatient)
}

func portableLiar(fault string) string {
	return fmt.Sprintf("---\napiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: faulty}\nspec:\n  portable: {language: go, functions: [echo], executable: %s}\n  env: {FAULT: %s}\n%s", program("faulty"), fault, impatient)
}

// alien is the socket of a real plugin that the test itself runs: whoever does not
// ask who is at the other end takes it for the daemon's own.
func alien(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(program("netrpc"))
	cmd.Env = []string{"PATCHBAY_TINY=3f2c", "PLUGIN_PROTOCOL_VERSIONS=1", "TMPDIR=" + folder(t)}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Split(line, "|")
	if err != nil || len(words) < 4 {
		t.Fatalf("handshake of netrpc: %q, %v", line, err)
	}
	return words[3]
}

func (h hostile) run(t *testing.T) {
	d := serve(t, folder(t))
	neighbour := processKinds()[0]
	neighbour.name = "neighbour"
	d.apply(neighbour.manifest(habits{}))
	d.until("neighbour", plugin.Running)
	before := resident(t, d.cmd.Process.Pid)
	calls := d.callNeighbour(neighbour)
	d.apply(h.manifest)
	h.story(t, d)
	calls.end()
	for _, err := range calls.problems {
		t.Errorf("the neighbour: %v", err)
	}
	if len(calls.took) == 0 {
		t.Error("the neighbour was never called")
	}
	if after := resident(t, d.cmd.Process.Pid); after > before+memoryBound() {
		t.Errorf("the daemon holds %d MiB, %d before", after>>20, before>>20)
	}
	if full() {
		h.compare(t, d, neighbour)
	}
	if err := d.Delete(t.Context(), "faulty", client.Expect{}); err != nil {
		t.Fatal(err)
	}
	d.poll(patience, "what is left of it", func() error { return d.none("faulty") })
	d.poll(healMax, "strays", d.nothingStray)
}

// none wants no process of a plugin.
func (d *daemon) none(name string) error {
	for _, p := range marked(d.node) {
		if p.plugin() == name {
			return fmt.Errorf("process %d of %s is there", p.pid, name)
		}
	}
	return nil
}

// fails wants that it is failed and says why, and that nothing of it runs.
func fails(word string) func(*testing.T, *daemon) {
	return func(t *testing.T, d *daemon) {
		r := d.until("faulty", plugin.Failed)
		if r.Status.Message == "" || !strings.Contains(r.Status.Message, word) {
			t.Errorf("message: got %q, want one with %q", r.Status.Message, word)
		}
		if err := d.none("faulty"); err != nil {
			t.Error(err)
		}
	}
}

func crashLoop(t *testing.T, d *daemon) {
	r := d.until("faulty", plugin.Failed)
	if !slices.ContainsFunc(r.Status.LastWords, func(w string) bool { return strings.Contains(w, "no licence") }) {
		t.Errorf("last words: got %q, want that it has no licence", r.Status.LastWords)
	}
	if text := r.Status.Message + client.Why(r.Status); !strings.Contains(text, "3") {
		t.Errorf("message: got %q, want its exit code", text)
	}
}

func hangs(t *testing.T, d *daemon) {
	old := pidOf(t, d.until("faulty", plugin.Running))
	_ = syscall.Kill(old, syscall.SIGSTOP)
	d.poll(patience, "it is started again", func() error {
		r, err := d.Plugin(t.Context(), "faulty")
		if err == nil && (r.Status.State != plugin.Running || r.Status.Facts["pid"] == fmt.Sprint(old)) {
			err = fmt.Errorf("it is %s with pid %s%s", r.Status.State, r.Status.Facts["pid"], client.Why(r.Status))
		}
		return err
	})
	_ = syscall.Kill(pidOf(t, d.until("faulty", plugin.Running)), syscall.SIGSTOP)
	stopsInTime(t, d)
}

// stopsInTime wants it gone, with all that it started, soon after its grace of 1 s.
func stopsInTime(t *testing.T, d *daemon) {
	d.until("faulty", plugin.Running, plugin.Degraded)
	begun := time.Now()
	if _, err := d.Stop(t.Context(), "faulty"); err != nil {
		t.Fatal(err)
	}
	d.poll(patience, "stop", func() error { return d.none("faulty") })
	if took := time.Since(begun); took > time.Second+overGraceMax {
		t.Errorf("the stop took %s, want at most %s over a grace of 1s", took, overGraceMax)
	}
	d.until("faulty", plugin.Stopped)
}

func floods(t *testing.T, d *daemon) {
	d.until("faulty", plugin.Running)
	before := resident(t, d.cmd.Process.Pid)
	end := time.Now().Add(either(3*time.Second, 20*time.Second))
	most := int64(0)
	for time.Now().Before(end) {
		if held := resident(t, d.cmd.Process.Pid); held > before+memoryBound() {
			t.Fatalf("the daemon holds %d MiB, %d before", held>>20, before>>20)
		}
		if most = max(most, diskUse(d.dir)); most > diskBound() {
			t.Fatalf("the data folder takes %d MiB", most>>20)
		}
		d.pass(50 * time.Millisecond)
	}
	t.Logf("the data folder took %d MiB at most", most>>20)
	if _, err := d.Stop(t.Context(), "faulty"); err != nil {
		t.Fatal(err)
	}
	d.until("faulty", plugin.Stopped)
	var last, dropped uint64
	for line, err := range d.Logs(t.Context(), "faulty", either(client.LogOptions{Tail: 50_000}, client.LogOptions{})) {
		if err != nil {
			t.Fatal(err)
		}
		if line.Stream != plugin.Stdout {
			continue
		}
		if last > 0 && line.Sequence != last+1+line.Dropped {
			t.Fatalf("line %d comes after %d and says that %d were dropped", line.Sequence, last, line.Dropped)
		}
		last, dropped = line.Sequence, dropped+line.Dropped
	}
	if last == 0 {
		t.Error("nothing of the flood is in the log")
	}
	if full() && dropped == 0 {
		t.Errorf("%d lines, and none was dropped: this was no flood", last)
	}
	t.Logf("the flood: %d lines counted, %d dropped, %d MiB on disk", last, dropped, diskUse(d.dir)>>20)
}

// answersBadly wants an error for a call, soon, and a daemon that holds no more for it.
func answersBadly(data string) func(*testing.T, *daemon) {
	return func(t *testing.T, d *daemon) {
		d.until("faulty", plugin.Running)
		for range 2 { // the first breaks nothing for the second
			begun := time.Now()
			answer, err := d.ask("faulty", data, 2*time.Second)
			var refusal *plugin.Refusal
			if err == nil || errors.As(err, &refusal) {
				t.Errorf("got %d bytes of an answer, %v; want that the link broke", len(answer), err)
			}
			if took := time.Since(begun); took > 2*time.Second+overGraceMax {
				t.Errorf("the error came after %s, want it within the call's 2s: %v", took, err)
			}
			d.until("faulty", plugin.Running, plugin.Degraded)
		}
	}
}

func (d *daemon) ask(name, data string, timeout time.Duration) ([]byte, error) {
	r, err := d.Invoke(d.t.Context(), client.Invocation{Plugin: name, Operation: "echo", Data: []byte(data), Timeout: timeout})
	return r.Data, err
}

// neighbourly are calls to the neighbour, one after the other.
type neighbourly struct {
	took       []time.Duration
	problems   []error
	stop, done chan struct{}
}

// neighbourMax bounds one call to the neighbour while the machine is tormented.
const neighbourMax = 5 * time.Second

// callNeighbour calls until end. Its client keeps its connection, as others do.
func (d *daemon) callNeighbour(k kind) *neighbourly {
	d.t.Helper()
	url, token := d.door()
	c, err := client.New(client.Options{URL: url, Token: token, HTTP: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		d.t.Fatal(err)
	}
	n := &neighbourly{stop: make(chan struct{}), done: make(chan struct{})}
	go func() { // ends with stop
		defer close(n.done)
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for {
			begun := time.Now()
			r, err := c.Invoke(d.t.Context(), client.Invocation{Plugin: k.name, Operation: k.echo, Data: []byte(k.echoData), Timeout: neighbourMax})
			if d.t.Context().Err() != nil {
				return
			}
			n.took = append(n.took, time.Since(begun))
			if err != nil || !bytes.Contains(r.Data, []byte("x")) {
				n.problems = append(n.problems, fmt.Errorf("%s: %w", r.Data, err))
			}
			select {
			case <-n.stop:
				return
			case <-pace.C:
			}
		}
	}()
	return n
}

func (n *neighbourly) end() {
	close(n.stop)
	<-n.done
}

func (n *neighbourly) p99() float64 {
	slices.Sort(n.took)
	return float64(n.took[len(n.took)*99/100])
}

// comparePairs and compareTurn: with and without it, in turns; the p99 of two turns
// may differ by a fifth by chance, so pairs that speak against a plugin are followed
// by more, up to compareAgain, and all count. compareLater is how long after the end
// of its first turn a hostile plugin is measured again.
const (
	comparePairs = 3
	compareAgain = 9
	compareTurn  = 10 * time.Second
	compareLater = time.Second
)

// compare measures the neighbour with the hostile plugin stopped and started, in
// turns, from its start on and again a bit later; how far two turns without it lie
// apart is the noise.
func (h hostile) compare(t *testing.T, d *daemon, k kind) {
	turn := func(with bool) float64 {
		calls := d.callNeighbour(k)
		for end := time.Now().Add(compareTurn); time.Now().Before(end); {
			if with && h.torment != nil {
				h.torment(d)
				continue
			}
			d.pass(10 * time.Millisecond)
		}
		calls.end()
		return calls.p99()
	}
	var early, late, noise []float64
	worst := func() float64 { return max(median(early), median(late)) }
	within := func() bool { return worst() <= neighbourWorseMax*median(noise) }
	for n := 0; n < comparePairs || n < compareAgain && !h.greedy && !within(); n++ {
		_, _ = d.Stop(t.Context(), "faulty")
		d.poll(patience, "stop", func() error { return d.none("faulty") })
		a, again := turn(false), turn(false)
		_, _ = d.Start(t.Context(), "faulty")
		early = append(early, 2*turn(true)/(a+again))
		d.pass(compareLater)
		late = append(late, 2*turn(true)/(a+again))
		noise = append(noise, max(a/again, again/a))
	}
	t.Logf("the neighbour's p99: %.2f of what it is without from the start on, %.2f later (noise %.2f, %d pairs)", median(early), median(late), median(noise), len(noise))
	if !h.greedy && !within() {
		t.Errorf("the neighbour's p99 is %.2f of what it is without, want at most %.2f with a noise of %.2f: %.2f, %.2f", worst(), neighbourWorseMax, median(noise), early, late)
	}
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}
