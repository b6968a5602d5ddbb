package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

// story is what one script has running.
type story struct {
	data    string
	bin     string
	daemons map[string]*daemon
	subs    []func()
	// An external NATS server, when the story has one.
	nats     *server.Server
	natsPort int
}

type storyKey struct{}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// daemon is one `patchbay serve`.
type daemon struct {
	dir  string
	keep bool // it leaves its plugins to the next one
	cmd  *exec.Cmd
	out  *transcript
	gone chan struct{} // closed when it has been reaped
	err  error         // of Wait
}

// transcript collects what a daemon prints.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// serve starts a daemon on a folder and waits until it is ready.
func (s *story) serve(name string, args, env []string) (*daemon, error) {
	dir := filepath.Join(s.data, name)
	if d := s.daemons[name]; d != nil && !closed(d.gone) {
		return nil, fmt.Errorf("daemon %s runs already", name)
	}
	args = append([]string{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}, args...)
	// The addresses of an earlier daemon must not be taken for this one's.
	_ = os.Remove(filepath.Join(dir, wire.APIAddrFile))
	d := &daemon{dir: dir, keep: slices.Contains(args, "keep"), cmd: exec.Command(s.bin, args...), out: &transcript{}, gone: make(chan struct{})}
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = env, d.out, d.out
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the daemon
		d.err = d.cmd.Wait()
		close(d.gone)
	}()
	s.daemons[name] = d
	return d, poll(30*time.Second, d.ready)
}

// ready asks /readyz.
func (d *daemon) ready() error {
	if closed(d.gone) {
		return fmt.Errorf("the daemon ended: %v\n%s", d.err, d.out)
	}
	addr, err := os.ReadFile(filepath.Join(d.dir, wire.APIAddrFile))
	if err != nil {
		return err
	}
	resp, err := http.Get("http://" + address(addr) + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("readyz: " + resp.Status)
	}
	return nil
}

// address is host:port, whether the file holds that or a URL.
func address(file []byte) string {
	text := strings.TrimSpace(string(file))
	_, rest, ok := strings.Cut(text, "://")
	if ok {
		return rest
	}
	return text
}

// stop ends the daemon as an operator would, and judges how it ended.
func (d *daemon) stop() error {
	if closed(d.gone) {
		return nil
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
		if d.err != nil {
			return fmt.Errorf("the daemon ended badly: %w\n%s", d.err, d.out)
		}
		if d.keep {
			return nil
		}
		return d.tidy()
	case <-time.After(stopMost):
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines, for the report
		select {
		case <-d.gone:
		case <-time.After(time.Second):
			_ = d.cmd.Process.Kill()
			<-d.gone
		}
		return fmt.Errorf("the daemon did not end within %v\n%s", stopMost, d.out)
	}
}

// tidy looks for files of instances that an orderly end left.
func (d *daemon) tidy() error {
	left, err := filepath.Glob(filepath.Join(d.dir, "run", "*"))
	if len(left) > 0 {
		err = fmt.Errorf("files of instances are left: %v", left)
	}
	return err
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.gone
}

// end stops what the story began and looks for what is left.
func (s *story) end(t testscript.T) {
	var errs []error
	for _, sub := range s.subs {
		sub()
	}
	for name, d := range s.daemons {
		if err := d.validate(); err != nil {
			errs = append(errs, fmt.Errorf("daemon %s: %w", name, err))
		}
		if err := d.stop(); err != nil {
			errs = append(errs, fmt.Errorf("daemon %s: %w", name, err))
		}
		if strings.Contains(d.out.String(), "DATA RACE") || strings.Contains(d.out.String(), "panic:") {
			errs = append(errs, fmt.Errorf("daemon %s: panicked or raced", name))
		}
		t.Log("daemon " + name + " said:\n" + d.out.String())
	}
	if s.nats != nil {
		stopServer(s.nats)
	}
	// A daemon that was killed cannot wait for its plugins; they die with it, soon.
	// One that was to leave them has left them.
	if err := poll(5*time.Second, func() error { return left(s.traces()...) }); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.noContainers())
	for _, pid := range holders(s.traces()...) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = os.RemoveAll(s.data)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// traces are what the processes of the story bear: its folder, or the mark of one of
// its daemons, by which plugins are known that were left running.
func (s *story) traces() []string {
	all := []string{s.data + "/"}
	for name := range s.daemons {
		if node := s.node(name); node != "" {
			all = append(all, "PATCHBAY_INSTANCE="+node+"/")
		}
	}
	return all
}

// node is the identity of a daemon; empty when it never came so far.
func (s *story) node(daemon string) string {
	text, _ := os.ReadFile(filepath.Join(s.data, daemon, "node"))
	return strings.TrimSpace(string(text))
}

func left(traces ...string) error {
	if pids := holders(traces...); len(pids) > 0 {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
		return fmt.Errorf("processes are left: %v, the first is %q", pids, bytes.ReplaceAll(cmd, []byte{0}, []byte{' '}))
	}
	return nil
}

// holders are the processes that carry one of the traces in their environment, command
// line or working folder; not this one.
func holders(traces ...string) []int {
	var found []int
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		if pid != os.Getpid() && holds(p, traces) {
			found = append(found, pid)
		}
	}
	return found
}

func holds(proc string, traces []string) bool {
	var all []byte
	for _, file := range []string{"environ", "cmdline"} {
		data, _ := os.ReadFile(proc + "/" + file)
		all = append(append(all, data...), 0)
	}
	cwd, _ := os.Readlink(proc + "/cwd")
	all = append(all, cwd+"/"...)
	return slices.ContainsFunc(traces, func(trace string) bool { return bytes.Contains(all, []byte(trace)) })
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// poll tries until ok returns nil, and gives its last error when that takes
// longer than within.
func poll(within time.Duration, ok func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
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

// noContainers looks for containers of the story's daemons, if there is an engine.
func (s *story) noContainers() error {
	var errs []error
	for name := range s.daemons {
		node := s.node(name)
		if node == "" {
			continue
		}
		found, err := containers(os.Getenv("DOCKER_HOST"), node)
		if err == nil && len(found) > 0 {
			errs = append(errs, fmt.Errorf("daemon %s: containers are left: %v", name, found))
		}
	}
	return errors.Join(errs...)
}

// containers lists the ids of a daemon's containers, running or not.
func containers(host, node string) ([]string, error) {
	network, addr, ok := strings.Cut(cmp.Or(host, "unix:///var/run/docker.sock"), "://")
	if !ok {
		return nil, fmt.Errorf("DOCKER_HOST %q: want a URL", host)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
	filter := url.QueryEscape(`{"label":["dev.patchbay.node=` + node + `"]}`)
	resp, err := (&http.Client{Transport: transport}).Get("http://engine/containers/json?all=true&filters=" + filter)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all []struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range all {
		ids = append(ids, c.ID)
	}
	return ids, nil
}
