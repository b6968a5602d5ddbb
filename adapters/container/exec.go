package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

var (
	_ plugin.Execer    = (*service)(nil)
	_ plugin.Addressed = (*service)(nil)
	_ plugin.Stepper   = (*service)(nil)
)

// Address is where the engine has published the container's port: that of
// spec.container.port is the only one.
func (v *service) Address(port int) (string, error) {
	if port != v.spec.Port {
		return "", fmt.Errorf("port %d: %w: only spec.container.port, %d, is published", port, plugin.ErrInvalid, v.spec.Port)
	}
	return strings.TrimPrefix(v.base, "http://"), nil
}

// checkProbes refuses what cannot be asked of a container.
func checkProbes(f *plugin.Faults, s Spec, p plugin.Probe) {
	checkDoor(f, s, "spec.probe", p.Question)
	if p.Startup != nil {
		checkDoor(f, s, "spec.probe.startup", p.Startup.Question)
	}
	if p.Liveness != nil {
		checkDoor(f, s, "spec.probe.liveness", p.Liveness.Question)
	}
}

func checkDoor(f *plugin.Faults, s Spec, at string, q plugin.Question) {
	var kind, socket string
	var port int
	switch {
	case q.HTTP != nil:
		kind, port, socket = ".http", q.HTTP.Port, q.HTTP.Socket
	case q.TCP != nil:
		kind, port, socket = ".tcp", q.TCP.Port, q.TCP.Socket
	default:
		return
	}
	if socket != "" {
		f.Add(at+kind+".socket", "a socket in the container cannot be reached from here; give spec.container.port as port, or ask by exec")
	}
	if port != 0 && s.Port != 0 && port != s.Port {
		f.Add(at+kind+".port", "%d is not published, only spec.container.port is; write %d, or ask by exec", port, s.Port)
	}
}

// commands is the memory of Exec: one at a time.
type commands struct {
	mu   sync.Mutex
	last string // the engine's id of a command that was cut off
}

// Exec runs a command in the container. The engine has no way to end one: when
// ctx ends, its process is killed if it can be proved to be the container's, and
// while it cannot no further one is begun.
func (v *service) Exec(ctx context.Context, command []string) (code int, output []byte, err error) {
	v.commands.mu.Lock()
	defer v.commands.mu.Unlock()
	if err := v.lastIsGone(ctx); err != nil {
		return 0, nil, err
	}
	made, err := v.engine.ContainerExecCreate(ctx, v.id, container.ExecOptions{Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, nil, class("exec", err)
	}
	v.commands.last = made.ID
	conn, err := v.engine.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		return 0, nil, class("exec", err)
	}
	output = readCommand(ctx, conn)
	if ctx.Err() != nil {
		v.killCommand(made.ID)
		return 0, output, fmt.Errorf("%s: %w: %w", command[0], plugin.ErrDeadline, ctx.Err())
	}
	now, err := v.engine.ContainerExecInspect(ctx, made.ID)
	switch {
	case err != nil:
		return 0, output, class("exec", err)
	case now.Running:
		return 0, output, fmt.Errorf("%s: %w: the engine cut its output off", command[0], plugin.ErrUnavailable)
	}
	v.commands.last = ""
	return now.ExitCode, output, nil
}

// readCommand returns the head of what a command prints, until it ends or ctx does.
func readCommand(ctx context.Context, conn types.HijackedResponse) []byte {
	stop := context.AfterFunc(ctx, conn.Close)
	defer conn.Close()
	defer stop()
	var kept head
	_, _ = stdcopy.StdCopy(&kept, &kept, conn.Reader) // however it ends: the engine is asked for the exit
	return kept
}

// head keeps the first bytes that are written.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), plugin.ExecOutputBytesMax-len(*h))]...)
	return len(p), nil
}

// lastIsGone kills what an earlier call left, or says that it is still there.
func (v *service) lastIsGone(ctx context.Context) error {
	if v.commands.last == "" {
		return nil
	}
	now, err := v.engine.ContainerExecInspect(ctx, v.commands.last)
	if err == nil && now.Running {
		v.killCommand(v.commands.last)
		now, err = v.engine.ContainerExecInspect(ctx, v.commands.last)
	}
	if err == nil && now.Running && now.Pid > 0 {
		return fmt.Errorf("exec: %w: the command before still runs in the container, as process %d, and cannot be killed from here; "+
			"make it end by itself", plugin.ErrUnavailable, now.Pid)
	}
	v.commands.last = ""
	return nil
}

// killMax bounds the questions to the engine around a kill.
const killMax = 2 * time.Second

// killCommand kills a command's process, if there is proof that the number is its
// own: the process is in the container's control group, and while a descriptor
// holds it the engine still says that the command runs under that number.
func (v *service) killCommand(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), killMax)
	defer cancel()
	before, err := v.engine.ContainerExecInspect(ctx, id)
	if err != nil || !before.Running || before.Pid <= 1 || !v.isLocal() {
		return
	}
	fd, err := unix.PidfdOpen(before.Pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if !inContainer(before.Pid, v.id) {
		return
	}
	if now, err := v.engine.ContainerExecInspect(ctx, id); err != nil || !now.Running || now.Pid != before.Pid {
		return
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // what is left is told at the next call
}

// inContainer reports whether a process of this machine is in the control group
// of a container, whose name has the container's id.
func inContainer(pid int, id string) bool {
	groups, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	return err == nil && id != "" && strings.Contains(string(groups), id)
}
