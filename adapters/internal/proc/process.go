package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// ancestorsMax bounds the walk of Owns from a process up to its ancestors.
	ancestorsMax = 64
	// groupGoneMax bounds the wait for killed grandchildren to end,
	// groupGoneStep is the pace. Almost always there is none.
	groupGoneMax  = time.Second
	groupGoneStep = 2 * time.Millisecond
)

// A Process is one started child. It is safe for concurrent use.
type Process struct {
	pid  int
	done chan struct{} // closed when the leader is reaped; exit is set before
	gone chan struct{} // closed when the group is empty, soon after
	exit plugin.Exit

	mu     sync.Mutex
	reaped bool // from here on the pid may be somebody else's
	killed bool // by us

	held holding // to its limits

	stopping sync.Mutex // held by whoever walks the ladder
}

// adopt watches a child that was just started.
func adopt(pid, pidfd int, held holding) *Process {
	p := &Process{pid: pid, held: held, done: make(chan struct{}), gone: make(chan struct{})}
	go p.reap(pidfd) // ends with the child
	return p
}

// Pid returns the child's process id, which is also its group's.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the child has ended and is reaped, and its group killed.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until then; every caller gets the same answer. Whether memory ran
// out is known where a group keeps the limit of it.
func (p *Process) Wait() plugin.Exit {
	<-p.done
	return p.exit
}

// Kill sends SIGKILL to the group now. It does not wait.
func (p *Process) Kill() { p.signal(syscall.SIGKILL) }

// signal reaches the group as long as its leader is not reaped.
func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.killed = p.killed || s == syscall.SIGKILL
		_ = syscall.Kill(-p.pid, s)
	}
}

// Owns reports whether pid is this child, in its group, or a descendant.
func (p *Process) Owns(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped || pid <= 1 {
		return false
	}
	if group, err := unix.Getpgid(pid); err == nil && group == p.pid {
		return true
	}
	for range ancestorsMax {
		if pid == p.pid {
			return true
		}
		if pid = parentOf(pid); pid <= 1 {
			return false
		}
	}
	return false
}

func parentOf(pid int) int { return readStat(strconv.Itoa(pid)).parent }

// A stat is what /proc says of a process; zero when there is none.
type stat struct {
	state         byte
	parent, group int
	start         uint64 // clock ticks since boot: with the boot's id it is never given twice to a pid
}

// startField is where proc(5) has the start time, counted from the state.
const startField = 19

func readStat(pid string) (s stat) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return stat{}
	}
	// pid (name, which may hold anything) state parent group ...
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 3 {
		return stat{}
	}
	s.state = fields[0][0]
	s.parent, _ = strconv.Atoi(string(fields[1]))
	s.group, _ = strconv.Atoi(string(fields[2]))
	if len(fields) > startField {
		s.start, _ = strconv.ParseUint(string(fields[startField]), 10, 64)
	}
	return s
}

// reap waits for the leader's end, takes the group along while the leader still
// holds its number, and publishes the exit.
func (p *Process) reap(pidfd int) {
	awaitExit(p.pid, pidfd)
	p.mu.Lock()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	status, err := wait4(p.pid)
	p.reaped = true
	killed := p.killed
	p.mu.Unlock()

	p.exit = p.held.explain(exitOf(status, err), killed)
	close(p.done)
	p.awaitGroup()
	p.held.end()
	close(p.gone)
}

// awaitExit returns when the process has ended, without reaping it. With a pidfd
// the goroutine sleeps in the runtime's poller; without one (a kernel or a
// filter that has none) it occupies a thread.
func awaitExit(pid, pidfd int) {
	const ended = unix.WEXITED | unix.WNOWAIT
	if pidfd >= 0 {
		_ = unix.SetNonblock(pidfd, true)
		file := os.NewFile(uintptr(pidfd), "pidfd")
		defer func() { _ = file.Close() }()
		if conn, err := file.SyscallConn(); err == nil {
			var result error
			err = conn.Read(func(fd uintptr) bool {
				result = ignoringEINTR(func() error { return unix.Waitid(unix.P_PIDFD, int(fd), nil, ended, nil) })
				return !errors.Is(result, unix.EAGAIN)
			})
			if err == nil && result == nil {
				return
			}
		}
	}
	_ = ignoringEINTR(func() error { return unix.Waitid(unix.P_PID, pid, nil, ended, nil) })
}

func wait4(pid int) (status syscall.WaitStatus, err error) {
	err = ignoringEINTR(func() error {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		return err
	})
	return status, err
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func exitOf(status syscall.WaitStatus, err error) plugin.Exit {
	e := plugin.Exit{Code: -1, At: time.Now()}
	switch {
	case err != nil:
		e.Message = "its exit was not seen: " + err.Error()
	case status.Signaled():
		e.Signal = unix.SignalName(status.Signal())
		if e.Signal == "" {
			e.Signal = fmt.Sprintf("signal %d", int(status.Signal()))
		}
	default:
		e.Code = status.ExitStatus()
	}
	return e
}

// awaitGroup returns when no member of the group runs any more. Where the daemon
// is process 1 the orphans are its own, and it reaps them; where process 1 leaves
// the dead lying about, they do not count.
func (p *Process) awaitGroup() {
	for deadline := time.Now().Add(groupGoneMax); time.Now().Before(deadline); time.Sleep(groupGoneStep) {
		_, _ = syscall.Wait4(-p.pid, nil, syscall.WNOHANG, nil)
		if errors.Is(syscall.Kill(-p.pid, 0), syscall.ESRCH) || !groupRuns(p.pid) {
			return
		}
	}
}

func groupRuns(group int) bool {
	proc, err := os.Open("/proc")
	if err != nil {
		return true
	}
	defer func() { _ = proc.Close() }()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return true
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		if s := readStat(name); s.group == group && s.state != 'Z' && s.state != 'X' {
			return true
		}
	}
	return false
}
