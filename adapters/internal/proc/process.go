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

// A Process is one started or adopted child. It is safe for concurrent use.
type Process struct {
	pid  int
	mark string        // value of markVariable in its environment; may be empty
	done chan struct{} // closed when the leader is reaped; exit is set before
	gone chan struct{} // closed when the group is empty, soon after
	exit plugin.Exit
	left chan struct{} // closed by Leave
	// pidfd is polled for the end, and closed then; nil where the kernel has none.
	pidfd *os.File

	mu     sync.Mutex
	reaped bool // from here on the pid may be somebody else's
	killed bool // by us

	held holding // to its limits

	stopping sync.Mutex // held by whoever walks the ladder
	steps    ladder     // that the walk had

	learnt     chan struct{} // closed once executable is set; nil for a bound child
	executable string        // digest of what it executes
}

func newProcess(pid, pidfd int, mark string) *Process {
	p := &Process{pid: pid, mark: mark, done: make(chan struct{}), gone: make(chan struct{}), left: make(chan struct{})}
	if pidfd >= 0 {
		_ = unix.SetNonblock(pidfd, true)
		p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	}
	return p
}

// watch takes over a child that was just started.
func watch(pid, pidfd int, mark string, held holding) *Process {
	p := newProcess(pid, pidfd, mark)
	p.held = held
	go p.reap() // ends with the child, or with Leave
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
	exit          uint32 // the wait status of a zombie; zero also when we may not know
}

// Where proc(5) has the start time and the exit code, counted from the state.
const startField, exitField = 19, 49

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
	if len(fields) > exitField {
		exit, _ := strconv.ParseUint(string(fields[exitField]), 10, 32)
		s.exit = uint32(exit)
	}
	return s
}

// reap waits for the leader's end, takes the group along while the leader still
// holds its number, and publishes the exit.
func (p *Process) reap() {
	if !p.awaitEnd() {
		p.letGo()
		return
	}
	p.mu.Lock()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	status, err := wait4(p.pid)
	p.reaped = true
	killed := p.killed
	p.mu.Unlock()

	p.exit = p.held.explain(exitOf(status, err), killed)
	close(p.done)
	killMarked(p.mark) // what left the group
	p.awaitGroup()
	p.held.end()
	close(p.gone)
}

// seeEnd does for an adopted process, which somebody else reaps, what reap does
// for a child. It closes own, a descriptor of the process.
func (p *Process) seeEnd(own int, start uint64) {
	defer func() { _ = unix.Close(own) }()
	if !p.awaitEnd() {
		p.letGo()
		return
	}
	p.mu.Lock()
	p.reaped = true
	killed := p.killed
	p.mu.Unlock()
	p.exit = p.held.explain(exitOfOther(p.pid, start, own), killed)
	close(p.done)
	killMarked(p.mark)
	p.killGroup(start)
	p.awaitGroup()
	p.held.end()
	close(p.gone)
}

// killGroup kills what is left of an adopted process's group. The number is the
// group's as long as it has members, and somebody else's once a younger process
// has it for a pid.
func (p *Process) killGroup(start uint64) {
	all, err := pids()
	if err != nil {
		return
	}
	ours := func(pid int) bool {
		leader := readStat(strconv.Itoa(p.pid)).start
		return readStat(strconv.Itoa(pid)).group == p.pid && (leader == 0 || leader == start)
	}
	for _, pid := range all {
		if ours(pid) {
			killProven(pid, ours)
		}
	}
}

// awaitEnd returns true when the process has ended, without reaping it, and false
// when it was left. With a pidfd the goroutine sleeps in the runtime's poller;
// without one (a kernel or a filter that has none) it occupies a thread, and cannot
// be left.
func (p *Process) awaitEnd() bool {
	if p.pidfd != nil {
		defer func() { _ = p.pidfd.Close() }()
		if conn, err := p.pidfd.SyscallConn(); err == nil {
			err = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
			if err == nil {
				return true
			}
			if p.Left() {
				return false
			}
		}
	}
	_ = ignoringEINTR(func() error { return unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) })
	return true
}

// readable reports whether the process of a pidfd has ended.
func readable(pidfd int) bool {
	set := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(set, 0)
	return err == nil && n > 0
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
	all, err := pids()
	if err != nil {
		return true
	}
	for _, pid := range all {
		if s := readStat(strconv.Itoa(pid)); s.group == group && s.state != 'Z' && s.state != 'X' {
			return true
		}
	}
	return false
}
