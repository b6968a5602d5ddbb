// Package fault breaks what Patchbay stands on, and looks at what is left: the
// daemon is killed with SIGKILL while plugins of every protocol start, run, answer
// and stop (kill_test.go, life_test.go); plugins are hostile (hostile_test.go); the
// disk is full, NATS is away, plugins come and go thousands of times
// (world_test.go). It runs the real binary and the tiny plugins of test/plugins.
//
// `make test` runs a short form, `make fault` (FAULT_FULL=1) all of it. The clock
// of the machine is never changed: where it jumps (clock_test.go), and where limits
// are kept by cgroup v2 (groups_test.go), is a virtual machine that test/vm boots.
//
// A test leaves nothing: when it ends, also by failing, its daemons, all that bears
// their node's mark, their containers, mounts and folders are removed.
package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

const (
	// patience is for what has no promised time: the machine may be busy.
	patience = 30 * time.Second
	// healMax is how soon after a start what is wanted is what runs.
	healMax = 10 * time.Second
	// every is how often a poll looks.
	every = 5 * time.Millisecond
)

// The suite's variables: what was built, whether it runs in full, and whether the
// daemon has the race detector (as in test/e2e).
const (
	raceVariable = "E2E_RACE"
	binVariable  = "FAULT_BIN"
	fullVariable = "FAULT_FULL"
)

func TestMain(m *testing.M) {
	if os.Getenv(binVariable) != "" { // built by test/vm
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "pbf")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "fault: build:", err)
	} else {
		_ = os.Setenv(binVariable, dir)
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build has its own copy of everything: other packages' tests build at the same time.
func build(dir string) error {
	daemon := []string{"build", "-trimpath", "-o", filepath.Join(dir, "patchbay"), "../../cmd/patchbay"}
	cgo := "CGO_ENABLED=0"
	if raced() {
		daemon, cgo = slices.Insert(daemon, 1, "-race"), "CGO_ENABLED=1"
	}
	if err := goes(daemon, cgo); err != nil {
		return err
	}
	return goes([]string{"build", "-trimpath", "-o", filepath.Join(dir, "plugins") + "/", "../plugins/..."}, "CGO_ENABLED=0")
}

func goes(args []string, cgo string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

// raced says that the daemon has the race detector, which takes ten times the
// memory and the time.
func raced() bool { return os.Getenv(raceVariable) != "" }

func full() bool { return os.Getenv(fullVariable) != "" }

// either is short in the short form, else long.
func either[T any](short, long T) T {
	if full() {
		return long
	}
	return short
}

func binary() string             { return filepath.Join(os.Getenv(binVariable), "patchbay") }
func program(name string) string { return filepath.Join(os.Getenv(binVariable), "plugins", name) }

// transcript keeps what a daemon prints, to be shown when a test fails.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// transcriptMax is ample for a few starts and their troubles.
const transcriptMax = 256 << 10

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() < transcriptMax {
		t.text.Write(p)
	}
	return len(p), nil
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// folder makes a data folder, and removes it and all that its daemons have left.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pbf") // short, so that sockets fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if node := endMarked(dir); node != "" {
			removeContainers(t, node)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("data folder: %v", err)
		}
	})
	return dir
}

// endMarked kills what bears the mark of the folder's node until nothing does, and
// returns the node.
func endMarked(dir string) (node string) {
	if node = nodeOf(dir); node == "" {
		return ""
	}
	_ = poll(patience, func() error {
		all := marked(node)
		for _, m := range all {
			_ = syscall.Kill(m.pid, syscall.SIGKILL)
		}
		if len(all) > 0 {
			return fmt.Errorf("%v are there", all)
		}
		return nil
	})
	return node
}

// nodeOf is the identity of the daemon of a data folder; empty before its first start.
func nodeOf(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "node"))
	return strings.TrimSpace(string(text))
}

// daemon is one `patchbay serve`.
type daemon struct {
	*client.Client
	t    *testing.T
	dir  string
	node string
	bin  string
	cmd  *exec.Cmd
	said *transcript
	gone chan struct{} // closed when it has been reaped
	err  error         // of Wait
}

// serve starts a daemon on a folder and waits until it is ready.
func serve(t *testing.T, dir string, args ...string) *daemon {
	t.Helper()
	return serveBinary(t, binary(), dir, args...)
}

func serveBinary(t *testing.T, bin, dir string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, bin: bin, said: &transcript{}, gone: make(chan struct{})}
	_ = os.Remove(filepath.Join(dir, wire.APIAddrFile)) // of an earlier daemon
	args = append([]string{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--log-level", "debug"}, args...)
	d.cmd = exec.Command(bin, args...)
	d.cmd.Env = environment(dir)
	d.cmd.Stdout, d.cmd.Stderr = d.said, d.said
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the daemon
		d.err = d.cmd.Wait()
		close(d.gone)
	}()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.said)
		}
		if said := d.said.String(); strings.Contains(said, "panic:") || strings.Contains(said, "DATA RACE") {
			t.Errorf("the daemon panicked or raced:\n%s", said)
		}
	})
	d.poll(patience, "the daemon is ready", d.ready)
	d.node = nodeOf(dir)
	return d
}

func environment(dir string) []string {
	env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + os.Getenv("DOCKER_HOST")}
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} { // for plugins from source
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (d *daemon) ready() error {
	if d.ended() {
		return fmt.Errorf("it ended: %w", d.err)
	}
	url, token := d.door()
	if url == "" || token == "" {
		return errors.New("it has not said where it is")
	}
	var err error
	d.Client, err = client.New(client.Options{URL: url, Token: token, HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		return err
	}
	return d.isReady()
}

// isReady asks /readyz.
func (d *daemon) isReady() error {
	r, err := d.Ready(d.t.Context())
	if err == nil && !r.Ready {
		err = fmt.Errorf("it is not ready: %+v", r.Components)
	}
	return err
}

// door is where it listens and the token that it takes; empty until it has said so.
func (d *daemon) door() (url, token string) {
	addr, _ := os.ReadFile(filepath.Join(d.dir, wire.APIAddrFile))
	secret, _ := os.ReadFile(filepath.Join(d.dir, wire.APITokenFile))
	return strings.TrimSpace(string(addr)), strings.TrimSpace(string(secret))
}

func (d *daemon) ended() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

// kill is kill -9.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.gone
}

// stop ends the daemon as an operator does.
func (d *daemon) stop() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
	case <-time.After(patience):
		d.t.Fatalf("the daemon did not end within %s of SIGTERM", patience)
	}
	if d.err != nil {
		d.t.Errorf("the daemon ended badly: %v", d.err)
	}
}

// again starts the next daemon on the same folder.
func (d *daemon) again(args ...string) *daemon {
	d.t.Helper()
	return serveBinary(d.t, d.bin, d.dir, args...)
}

// poll tries until ok returns nil, and fails the test when that takes too long.
func (d *daemon) poll(within time.Duration, what string, ok func() error) {
	d.t.Helper()
	if err := poll(within, ok); err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
}

// poll gives the last error when it takes longer than within.
func poll(within time.Duration, ok func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.After(within)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			return fmt.Errorf("still after %v: %w", within, err)
		}
	}
}

// pass is a moment that passes, for a test that watches for a while.
func (d *daemon) pass(span time.Duration) {
	select {
	case <-time.After(span):
	case <-d.t.Context().Done():
	}
}

// apply applies manifests and returns once they are acknowledged.
func (d *daemon) apply(text string) {
	d.t.Helper()
	if _, err := d.Apply(d.t.Context(), []wire.File{{Name: "fault", Content: text}}, client.ForReal); err != nil {
		d.t.Fatalf("apply: %v", err)
	}
}

// until waits for a state, and returns the plugin in it.
func (d *daemon) until(name string, states ...plugin.State) plugin.Resource {
	d.t.Helper()
	var r plugin.Resource
	d.poll(patience, fmt.Sprintf("%s is %v", name, states), func() (err error) {
		if r, err = d.Plugin(d.t.Context(), name); err != nil {
			return err
		}
		for _, s := range states {
			if r.Status.State == s && r.Status.Generation == r.Generation {
				return nil
			}
		}
		return fmt.Errorf("it is %s%s", r.Status.State, client.Why(r.Status))
	})
	return r
}

// call invokes an operation, for at most patience.
func (d *daemon) call(name, operation, data string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	r, err := d.Invoke(ctx, client.Invocation{Plugin: name, Operation: operation, Data: []byte(data)})
	return r.Data, err
}

// nothingStray wants that gc has nothing to remove. An engine that is not there
// cannot say, and matters to containers alone, whose tests want one.
func (d *daemon) nothingStray() error {
	cmd := exec.CommandContext(d.t.Context(), d.bin, "gc", "--dry-run", "-o", "json")
	cmd.Env = append(environment(d.dir), "PATCHBAY_DATA_DIR="+d.dir)
	out, failed := cmd.Output()
	var list wire.StrayList
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("gc --dry-run: %w: %w: %s", failed, err, out)
	}
	problem := func(text string) bool { return !strings.HasPrefix(text, "container: ") }
	if len(list.Items) > 0 || slices.ContainsFunc(list.Problems, problem) {
		return fmt.Errorf("gc --dry-run: got %s, want nothing", out)
	}
	return nil
}
