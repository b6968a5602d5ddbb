package proc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Handle finds a detached process again. Pid, boot and start time name one
// process for ever: the kernel gives no pid twice within a tick of its clock.
type Handle struct {
	Pid int `json:"pid"`
	// Boot is the kernel's random id of this boot, Start the process's start in
	// clock ticks since then.
	Boot  string `json:"boot"`
	Start uint64 `json:"start"`
	// Executable is the digest of what it executed once it had been started; empty
	// when that was not known yet: then the mark alone has to prove it.
	Executable string `json:"executable"`
	// Mark is what stands in its environment.
	Mark string `json:"mark"`
	// Cgroup is what holds it to its limits.
	Cgroup Cgroup `json:"cgroup,omitzero"`
}

// Handle returns what Adopt needs. It is for a detached process that has not
// ended, and waits until its executable is hashed or ctx ends.
func (p *Process) Handle(ctx context.Context) (Handle, error) {
	if p.learnt == nil {
		return Handle{}, fmt.Errorf("handle: %w: process %d is bound to the daemon", plugin.ErrInvalid, p.pid)
	}
	executable := p.hashed(ctx)
	boot, err := bootID()
	if err != nil {
		return Handle{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := readStat(strconv.Itoa(p.pid))
	if p.reaped || s.start == 0 {
		return Handle{}, fmt.Errorf("handle: %w: process %d has ended", plugin.ErrUnavailable, p.pid)
	}
	return Handle{Pid: p.pid, Boot: boot, Start: s.start, Executable: executable, Mark: p.mark, Cgroup: p.held.Cgroup}, nil
}

// hashed is the digest of what the process executes, or empty when ctx ends first.
func (p *Process) hashed(ctx context.Context) string {
	select {
	case <-p.learnt:
		return p.executable
	default:
	}
	select {
	case <-p.learnt:
		return p.executable
	case <-ctx.Done():
		return ""
	}
}

// Digest returns the digest of what the process executes, for Spec.Digest of another
// start of path. ErrConflict: path is something else now, or a script, whose process
// executes its interpreter.
func (p *Process) Digest(path string) (string, error) {
	p.mu.Lock() // while the pid is surely its own
	defer p.mu.Unlock()
	if p.reaped {
		return "", fmt.Errorf("digest: %w: process %d has ended", plugin.ErrUnavailable, p.pid)
	}
	running, err := executables().digest(p.pid)
	if err != nil {
		return "", fmt.Errorf("digest: %w: %w", plugin.ErrUnavailable, err)
	}
	there, err := executables().ofFile(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("digest: %w: what runs is gone: %w", plugin.ErrConflict, err)
	case there != running:
		return "", fmt.Errorf("digest: %w: %s is %s, and what runs is %s; reload it, or name spec.digest", plugin.ErrConflict, path, there, running)
	}
	return running, nil
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w: %w", plugin.ErrUnavailable, err)
	}
	return string(bytes.TrimSpace(text)), nil
}

// Adopt takes over a process that an earlier daemon started, after it has been
// proved to be that very one: same boot, same start time, and the executable or the
// mark as it was (a wrapper that executes something else keeps the mark; a program
// that overwrites its environment keeps the executable). Anything else is
// plugin.ErrNotFound, and is not touched; what a process that is gone has left
// behind under its mark is killed.
func Adopt(h Handle) (*Process, error) {
	held, notOurs := h.Cgroup.Open()
	survived := held.oomKills() // counted first: the proof is that the leader was none of them
	pidfd, err := h.prove()
	if err != nil {
		if h.Mark != "" {
			killMarked(h.Mark)
		}
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, err)
	}
	if notOurs != nil {
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, notOurs)
	}
	own, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrUnavailable, err)
	}
	p := newProcess(h.Pid, pidfd, h.Mark)
	p.held.Cgroup, p.held.survived = held, survived
	if h.Executable == "" {
		p.learnExecutable()
	} else {
		p.executable, p.learnt = h.Executable, make(chan struct{})
		close(p.learnt)
	}
	go p.seeEnd(own, h.Start) // ends with the process, or with Leave
	return p, nil
}

// prove returns a descriptor of the process that h names. What is checked after it
// was opened is true of what it refers to.
func (h Handle) prove() (pidfd int, err error) {
	boot, err := bootID()
	if err != nil {
		return -1, err
	}
	if h.Pid <= 1 || h.Start == 0 || boot != h.Boot {
		return -1, fmt.Errorf("the machine was started anew since")
	}
	pidfd, err = unix.PidfdOpen(h.Pid, 0)
	if err != nil {
		return -1, fmt.Errorf("process %d is gone: %w", h.Pid, err)
	}
	if err := h.same(); err != nil {
		_ = unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

func (h Handle) same() error {
	s := readStat(strconv.Itoa(h.Pid))
	switch {
	case s.start == 0 || s.state == 'Z' || s.state == 'X':
		return fmt.Errorf("process %d has ended", h.Pid)
	case s.start != h.Start:
		return fmt.Errorf("process %d is another one, started later", h.Pid)
	case h.Mark != "" && readMark(h.Pid) == h.Mark:
		return nil
	}
	if digest, err := executables().digest(h.Pid); err != nil || digest != h.Executable {
		return fmt.Errorf("process %d executes something else than was started, and does not bear the mark of the instance", h.Pid)
	}
	return nil
}

// Leave lets go of a detached process without ending it: Done is closed, and no
// signal is sent any more. Without a pidfd it waits for the process's end.
func (p *Process) Leave() {
	p.mu.Lock()
	if !p.reaped && !p.isLeft() && p.pidfd != nil {
		close(p.left)
		_ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) // ends the wait for its end
	}
	p.mu.Unlock()
	<-p.gone
}

// Left reports whether the process was left running.
func (p *Process) Left() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isLeft()
}

func (p *Process) isLeft() bool {
	select {
	case <-p.left:
		return true
	default:
		return false
	}
}

// letGo publishes that the process was left.
func (p *Process) letGo() {
	p.mu.Lock()
	p.reaped = true // it is not ours to signal any more
	p.mu.Unlock()
	p.exit = plugin.Exit{Code: -1, Message: "left running for the next daemon"}
	close(p.done)
	close(p.gone)
}

// learnExecutable hashes what the process executes, beside the start.
func (p *Process) learnExecutable() {
	learnt := make(chan struct{})
	p.learnt = learnt
	go func() { // ends with the hash of one file
		defer close(learnt)
		p.executable, _ = executables().digest(p.pid) // "" is equal to nothing: the mark is left as a proof
	}()
}

// executablesMax bounds what is remembered of executables' digests.
const executablesMax = 256

// digestCache remembers digests of executables by what the kernel says of the
// file, so that a plugin that is started often is hashed once.
type digestCache struct {
	mu    sync.Mutex
	known map[fileID]string
}

type fileID struct {
	dev, ino    uint64
	size        int64
	mtim, ctime syscall.Timespec
}

func idOf(st syscall.Stat_t) fileID {
	return fileID{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// An Image is the file that a process executes, as the kernel knows it: another file, or
// other content, is another Image.
type Image string

// Image reports false when the process executes another file than path, as a script's
// does, or has ended.
func (p *Process) Image(path string) (Image, bool) {
	var own, named syscall.Stat_t
	if syscall.Stat(fmt.Sprintf("/proc/%d/exe", p.pid), &own) != nil || syscall.Stat(path, &named) != nil {
		return "", false
	}
	return Image(fmt.Sprint(idOf(own))), idOf(own) == idOf(named)
}

// executables is the daemon's one cache.
var executables = sync.OnceValue(func() *digestCache { return &digestCache{known: map[fileID]string{}} })

// FileDigest returns "sha256:HEX" of a file, which is hashed once as long as the kernel
// says that it is the same.
func FileDigest(path string) (string, error) { return executables().ofFile(path) }

// digest returns the digest of what a process executes, also if the file's name
// has been removed or replaced.
func (c *digestCache) digest(pid int) (string, error) {
	return c.ofFile(fmt.Sprintf("/proc/%d/exe", pid))
}

// ofFile returns the digest of a file.
func (c *digestCache) ofFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &st); err != nil {
		return "", err
	}
	id := idOf(st)
	c.mu.Lock()
	known, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	digest, err := hash(file)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= executablesMax {
		clear(c.known)
	}
	c.known[id] = digest
	return digest, nil
}
