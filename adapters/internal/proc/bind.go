package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// boundMax bounds the reaper's list: as many as one daemon can have children.
	boundMax = 32768
	// entryBytesMax bounds one line to it. Up to a pipe's PIPE_BUF a write is whole
	// or not at all.
	entryBytesMax = 4096
	// entryWait is how long a reaper may leave the pipe full before it is taken for
	// stuck: it does nothing but read.
	entryWait = time.Second
	// reaperPace is the least time between two reapers, should somebody kill them.
	reaperPace = time.Second
)

// A Bound is something that is to end with the daemon, however that ends: a process
// with all that it has started, or what Requests end.
type Bound struct {
	// Pid and Start are the process, which leads its group.
	Pid   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	// Mark is what its offspring bears, Groups are what they are in.
	Mark   string   `json:"mark,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// Requests are sent in order, whatever the answers.
	Requests []Request `json:"requests,omitempty"`
}

// A Request is one HTTP request without a body, such as an engine's API takes.
type Request struct {
	// Network is unix or tcp, Address the socket's path or HOST:PORT.
	Network string `json:"network"`
	Address string `json:"address"`
	Method  string `json:"method"`
	Path    string `json:"path"`
}

// entry is one line to the reaper.
type entry struct {
	Key uint64 `json:"key"`
	Add *Bound `json:"add,omitempty"` // nil: take it off the list
}

// Bind puts b on the list of the daemon's reaper, which ends it within a second of
// the daemon's own end. The reaper is one small process, begun by the first Bind;
// should it be killed, another one gets the list. The function that Bind returns
// takes b off again. The program must begin with [Child].
func Bind(b Bound) (unbind func(), err error) { return theKeeper().add(b) }

// bind puts a child on the list, unless it is to outlive the daemon.
func (l *launch) bind(s Spec, pid int) (err error) {
	if s.Detached || s.Brief {
		return nil
	}
	b := Bound{Pid: pid, Start: readStat(decimal(pid)).start, Mark: markOf(s.Env), Groups: l.held.dirs()}
	l.held.unbind, err = Bind(b)
	return err
}

// A keeper has the daemon's end of the pipe to the reaper.
type keeper struct {
	mu    sync.Mutex
	list  map[uint64]Bound
	last  uint64   // key
	pipe  *os.File // nil: there is no reaper
	pid   int      // of the reaper
	begun time.Time
}

// theKeeper is the daemon's one.
var theKeeper = sync.OnceValue(func() *keeper { return &keeper{list: map[uint64]Bound{}} })

func (k *keeper) add(b Bound) (unbind func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.list) >= boundMax {
		return nil, fmt.Errorf("bind: %w: %d plugins and runs are bound to the daemon already", plugin.ErrBusy, boundMax)
	}
	k.last++
	key := k.last
	k.list[key] = b
	if k.pipe == nil || k.tell(entry{key, &b}) != nil {
		if err := k.renew(); err != nil {
			delete(k.list, key)
			return nil, fmt.Errorf("bind: %w: %w", plugin.ErrUnavailable, err)
		}
	}
	return func() { k.drop(key) }, nil
}

func (k *keeper) drop(key uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.list[key]; !ok {
		return
	}
	delete(k.list, key)
	if k.pipe != nil && k.tell(entry{Key: key}) != nil {
		_ = k.renew() // else the next add does
	}
}

func (k *keeper) tell(e entry) error {
	line, err := json.Marshal(e)
	if err != nil || len(line) >= entryBytesMax {
		return errors.Join(err, errors.New("the entry is too long"))
	}
	_ = k.pipe.SetWriteDeadline(time.Now().Add(entryWait))
	_, err = k.pipe.Write(append(line, '\n'))
	return err
}

// renew begins a reaper with the whole list.
func (k *keeper) renew() error {
	k.dismiss()
	pipe, pid, err := startReaper()
	if err != nil {
		return err
	}
	k.pipe, k.pid, k.begun = pipe, pid, time.Now()
	go k.watch(pid) // ends with the reaper
	for key, b := range k.list {
		if err := k.tell(entry{key, &b}); err != nil {
			k.dismiss()
			return fmt.Errorf("reaper: %w", err)
		}
	}
	return nil
}

// dismiss kills the reaper before it could see the end of the pipe and act on it.
func (k *keeper) dismiss() {
	if k.pipe == nil {
		return
	}
	_ = syscall.Kill(k.pid, syscall.SIGKILL) // not reaped yet: see watch
	_ = k.pipe.Close()
	k.pipe, k.pid = nil, 0
}

// watch reaps a reaper, and begins another one if it was in use.
func (k *keeper) watch(pid int) {
	_ = ignoringEINTR(func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) })
	k.mu.Lock()
	_, _ = wait4(pid) // under the lock: dismiss must not signal a pid that is free
	used := k.pid == pid
	if used {
		_ = k.pipe.Close()
		k.pipe, k.pid = nil, 0
	}
	wait := time.Until(k.begun.Add(reaperPace))
	k.mu.Unlock()
	if !used {
		return
	}
	time.Sleep(wait)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pipe == nil && len(k.list) > 0 {
		_ = k.renew() // else the next add does
	}
}

// startReaper returns once the reaper reads.
func startReaper() (pipe *os.File, pid int, err error) {
	if os.Args[0] == reaperName {
		return nil, 0, errNoChild
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = null.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = r.Close() }()
	ready, tellReady, err := os.Pipe()
	if err != nil {
		_ = w.Close()
		return nil, 0, err
	}
	defer func() { _ = ready.Close() }()
	onStarterThread(func() {
		pid, err = syscall.ForkExec("/proc/self/exe", reaperArgs(), &syscall.ProcAttr{
			Dir: "/", Env: []string{"GOMAXPROCS=1"}, // it has little to do
			Files: []uintptr{r.Fd(), tellReady.Fd(), null.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	})
	_ = tellReady.Close()
	if err == nil {
		err = awaitReady(ready, pid)
	}
	if err != nil {
		_ = w.Close()
		return nil, 0, err
	}
	return w, pid, nil
}

var errNoChild = errors.New("the program does not begin with proc.Child, and cannot be its own reaper")

// awaitReady ends a reaper that does not say that it is one.
func awaitReady(ready *os.File, pid int) error {
	var word [len(readyWord)]byte
	_ = ready.SetReadDeadline(time.Now().Add(helperTimeout))
	if _, err := io.ReadFull(ready, word[:]); err == nil && string(word[:]) == readyWord {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_, _ = wait4(pid)
	return errNoChild
}
