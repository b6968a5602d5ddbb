package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// The fake protocol: this test binary, started with fakeSocket in its environment,
// serves one JSON request per connection on that unix socket.
const fakeSocket = "CONFORMANCE_FAKE_SOCKET"

type request struct{ Op, Data string }
type answer struct{ OK, No, Unknown string }

func fakePlugin(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	go func() { // the broken variants leave processes; they end with the test
		for range time.Tick(100 * time.Millisecond) {
			if os.Getppid() == 1 {
				os.Exit(1)
			}
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serveFake(c)
	}
}

func serveFake(c net.Conn) {
	defer c.Close()
	var r request
	if json.NewDecoder(c).Decode(&r) != nil {
		return
	}
	var a answer
	switch r.Op {
	case "echo":
		a.OK = r.Data
	case "refuse":
		a.No = r.Data
	case "print":
		fmt.Println(r.Data)
		a.OK = "null"
	case "slow":
		_, _ = bufio.NewReader(c).ReadByte() // until the caller goes away
		return
	case "exit":
		os.Exit(3)
	default:
		a.Unknown = r.Op
	}
	_ = json.NewEncoder(c).Encode(a)
}

// fake is a small adapter that keeps every rule, but for the one named by breaks.
type fake struct {
	breaks string
	mu     sync.Mutex
	last   string                  // the last echo's data, for the fault "crossed"
	all    map[string]*fakeProcess // by instance
}

var (
	_ plugin.Adapter  = (*fake)(nil)
	_ plugin.Adopter  = (*fake)(nil)
	_ plugin.Survivor = (*fakeInstance)(nil)
)

type block struct {
	Command string `json:"command"`
}

func (a *fake) Name() string { return "fake" }
func (a *fake) Spec() any    { return new(block) }

func (a *fake) Check(m plugin.Manifest) error {
	var faults plugin.Faults
	var fields map[string]any
	err := json.Unmarshal(m.Spec.Block, &fields)
	if err != nil {
		faults.Add("spec.fake", "%v", err)
	}
	for name := range fields {
		if name != "command" && a.breaks != "unknown field" {
			faults.Add("spec.fake."+name, "is unknown")
		}
	}
	if _, ok := fields["command"]; !ok {
		faults.Add("spec.fake.command", "is missing")
	}
	if l := m.Spec.Limits; l.Memory != 0 || l.CPU != 0 || l.Pids != 0 || l.OpenFiles != 0 {
		faults.Add("spec.limits", "not enforced")
	}
	if m.Spec.Mode == plugin.Job {
		faults.Add("spec.mode", "no jobs")
	}
	return faults.Err()
}

func (a *fake) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	if l.Manifest.Spec.Digest != "" && a.breaks != "digest" {
		return nil, fmt.Errorf("digest: %w", plugin.ErrInvalid)
	}
	if err := ctx.Err(); err != nil && a.breaks != "cancelled launch" {
		return nil, classed(err)
	}
	i := a.instance(l, &fakeProcess{done: make(chan struct{})})
	if err := i.start(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	if a.all == nil {
		a.all = map[string]*fakeProcess{}
	}
	a.all[l.ID] = i.fakeProcess
	a.mu.Unlock()
	go i.attend() // ends with the process, or when it is left
	if err := i.ready(ctx); err != nil {
		if a.breaks != "cancelled launch" {
			i.kill()
			<-i.done
		}
		return nil, classed(err)
	}
	return i, nil
}

func classed(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", plugin.ErrDeadline, err)
	}
	return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
}

// Adopt finds a process of this test again.
func (a *fake) Adopt(_ context.Context, l plugin.Launch, handle plugin.RawJSON) (plugin.Instance, error) {
	a.mu.Lock()
	p := a.all[l.ID]
	a.mu.Unlock()
	if p == nil || string(handle) != strconv.Itoa(p.cmd.Process.Pid) && a.breaks != "adopt by any handle" {
		return nil, plugin.ErrNotFound
	}
	select {
	case <-p.done:
		if a.breaks != "adopt the dead" {
			return nil, plugin.ErrNotFound
		}
	default:
	}
	i := a.instance(l, p)
	go i.attend() // ends with the process, or when it is left
	return i, nil
}

// fakeProcess is a process, whoever has it.
type fakeProcess struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	end  plugin.Exit   // set before
}

type fakeInstance struct {
	*fakeProcess
	a      *fake
	launch plugin.Launch
	socket string
	left   chan struct{} // closed by Leave
	gone   chan struct{} // closed when the process has ended or was left
	exit   plugin.Exit   // set before
}

func (a *fake) instance(l plugin.Launch, p *fakeProcess) *fakeInstance {
	return &fakeInstance{fakeProcess: p, a: a, launch: l, socket: filepath.Join(l.Dir, "s"), left: make(chan struct{}), gone: make(chan struct{})}
}

func (i *fakeInstance) attend() {
	select {
	case <-i.done:
		i.exit = i.end
	case <-i.left:
		i.exit = plugin.Exit{Code: -1, Message: "left"}
	}
	close(i.gone)
}

func (i *fakeInstance) Handle(context.Context) (plugin.RawJSON, error) {
	return plugin.RawJSON(strconv.Itoa(i.cmd.Process.Pid)), nil
}

func (i *fakeInstance) Leave() {
	if i.a.breaks == "leave ends it" {
		i.kill()
	}
	close(i.left)
}

func (i *fakeInstance) start() error {
	i.cmd = exec.Command(os.Args[0])
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	i.cmd.Env = []string{fakeSocket + "=" + i.socket}
	for k, v := range i.launch.Env {
		i.cmd.Env = append(i.cmd.Env, k+"="+v)
	}
	if i.a.breaks == "environment" {
		i.cmd.Env = append(i.cmd.Env, os.Environ()...)
	}
	out, err := i.launch.Output.File(plugin.Stdout)
	if err != nil {
		return err
	}
	defer out.Close()
	i.cmd.Stdout = out
	switch i.a.breaks {
	case "logs":
		i.cmd.Stdout = nil
	case "pipe":
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		go func() { <-i.done; r.Close() }()
		i.cmd.Stderr = w
	case "goroutines":
		go func() { select {} }()
	case "files":
		if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
			return err
		}
	}
	if err := i.cmd.Start(); err != nil {
		return err
	}
	go i.reap() // ends with the process
	return nil
}

func (i *fakeInstance) reap() {
	_ = i.cmd.Wait()
	if i.a.breaks == "late notice" {
		<-time.After(300 * time.Millisecond)
	}
	i.end = plugin.Exit{Code: i.cmd.ProcessState.ExitCode(), At: time.Now()}
	if s := i.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() && i.a.breaks != "signal" {
		i.end.Signal = map[syscall.Signal]string{syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM"}[s.Signal()]
	}
	close(i.done)
}

func (i *fakeInstance) kill() { _ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGKILL) }

func (i *fakeInstance) ready(ctx context.Context) error {
	for {
		c, err := net.Dial("unix", i.socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-i.done:
			return errors.New("exited")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (i *fakeInstance) Inspect() map[string]string {
	return map[string]string{"pid": strconv.Itoa(i.cmd.Process.Pid)}
}

func (i *fakeInstance) Ended() <-chan struct{} {
	if i.a.breaks == "ended" {
		return make(chan struct{})
	}
	return i.gone
}

func (i *fakeInstance) Describe(context.Context) ([]plugin.Operation, error) {
	if i.a.breaks == "describe" {
		return []plugin.Operation{{Name: "print"}, {Name: "echo"}}, nil
	}
	return []plugin.Operation{{Name: "echo"}, {Name: "print"}}, nil
}

func (i *fakeInstance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	if i.a.breaks == "deadline" {
		ctx = context.Background()
	}
	c, err := net.Dial("unix", i.socket)
	if err != nil {
		return plugin.Result{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = json.NewEncoder(c).Encode(request{in.Operation, string(in.Data)})
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		if ctx.Err() != nil {
			return plugin.Result{}, classed(ctx.Err())
		}
		return plugin.Result{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	return i.result(a)
}

func (i *fakeInstance) result(a answer) (plugin.Result, error) {
	switch {
	case a.No != "" && i.a.breaks == "refusal":
		return plugin.Result{}, errors.New(a.No)
	case a.No != "":
		return plugin.Result{}, &plugin.Refusal{Message: a.No}
	case a.Unknown != "" || a.OK == "":
		if i.a.breaks == "unknown operation" {
			return plugin.Result{}, plugin.ErrUnavailable
		}
		return plugin.Result{}, fmt.Errorf("operation: %w", plugin.ErrNotFound)
	case i.a.breaks == "crossed":
		i.a.mu.Lock()
		defer i.a.mu.Unlock()
		a.OK, i.a.last = i.a.last, a.OK
	}
	return plugin.Result{Data: []byte(a.OK)}, nil
}

func (i *fakeInstance) Wait() plugin.Exit {
	<-i.gone
	e := i.exit
	if i.a.breaks == "waiters" {
		e.At = time.Now()
	}
	return e
}

func (i *fakeInstance) Stop(ctx context.Context) error {
	select {
	case <-i.left:
		return nil
	default:
	}
	if i.a.breaks == "stop returns early" {
		time.AfterFunc(time.Second, i.kill)
		return nil
	}
	_ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGTERM)
	if i.a.breaks == "stop waits" {
		later, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		ctx = later
	}
	select {
	case <-i.gone:
	case <-ctx.Done():
		i.kill()
		<-i.gone
	}
	if i.a.breaks == "stop twice" {
		i.a.mu.Lock()
		defer i.a.mu.Unlock()
		if i.a.last == i.launch.ID {
			return errors.New("already stopped")
		}
		i.a.last = i.launch.ID
	}
	return nil
}

func fixture(breaks string) conformance.Fixture {
	const n = conformance.Number
	return conformance.Fixture{
		Adapter: &fake{breaks: breaks},
		Manifest: func(testing.TB) plugin.Manifest {
			return plugin.Manifest{
				APIVersion: plugin.APIVersion, Kind: plugin.Kind,
				Metadata: plugin.Metadata{Name: "fake"},
				Spec:     plugin.Spec{Adapter: "fake", Block: plugin.RawJSON(`{"command": "fake"}`)},
			}
		},
		Echo:    conformance.Call{Operation: "echo", Data: `{"n": ` + n + `}`, Want: `{"n": ` + n + `}`},
		Refuse:  conformance.Call{Operation: "refuse", Data: `"no"`, WantMessage: "no"},
		Exit:    &conformance.Call{Operation: "exit", Data: `3`, WantCode: 3},
		Slow:    conformance.Call{Operation: "slow", Data: `30000`},
		Print:   conformance.Call{Operation: "print", Data: `"line ` + n + `"`, Want: "line " + n},
		Process: true,
	}
}
