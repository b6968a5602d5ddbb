package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// helperName is argv[0] of the daemon's own binary when it is to be the
	// helper.
	helperName = "patchbay-child"
	// helperFailed is the exit code of a helper that could not become the
	// target, as shells have it. Start reports why and nobody else sees it.
	helperFailed = 127
	// helperTimeout bounds the helper: it takes a few milliseconds, but the
	// machine may be busy.
	helperTimeout = 10 * time.Second
	// reportBytesMax bounds the helper's one line.
	reportBytesMax = 4 << 10
	// sharedTmp is what PrivateTmp covers.
	sharedTmp = "/tmp"
)

// helperTask is what the helper does before it executes argv[2:].
type helperTask struct {
	Parent int      `json:"parent,omitempty"` // the daemon's pid: another parent means that it is gone; 0: detached
	Report int      `json:"report"`           // descriptor for the one line that says what went wrong
	Exe    int      `json:"exe,omitempty"`    // descriptor of a pinned executable; 0 = execute by path
	Script bool     `json:"script,omitempty"` // the pinned executable is a script
	Tmp    string   `json:"tmp,omitempty"`    // to be seen as /tmp; empty: the machine's
	Keep   []string `json:"keep,omitempty"`   // folders below /tmp that stay visible
	Fence  *Fence   `json:"fence,omitempty"`  // to be put up
	Dir    string   `json:"dir,omitempty"`    // to go on in, behind the fence
	Limits []rlimit `json:"limits,omitempty"` // to be set
	Join   []string `json:"join,omitempty"`   // files of groups to go into
}

// throughHelper rewrites the launch so that the daemon's own binary is executed
// first. As root it makes the mount namespace itself; another user gets a user
// namespace too, in which it keeps its own number.
func (l *launch) throughHelper(s Spec) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w: %w", s.Path, plugin.ErrUnavailable, err)
	}
	l.owned = append(l.owned, r, w)
	l.helper, l.reportTo = r, w
	task := helperTask{Report: l.add(w), Tmp: s.PrivateTmp, Limits: l.held.rlimits, Join: l.held.joins()}
	if !s.Detached {
		task.Parent = os.Getpid()
	}
	if s.PrivateTmp != "" {
		task.Keep = s.belowTmp()
	}
	if s.Fence != nil {
		task.Fence, task.Dir = s.Fence, s.Dir
	}
	if l.exe != nil {
		task.Exe, task.Script = l.add(l.exe.file), l.exe.script
	}
	text, err := json.Marshal(task)
	if err != nil {
		return fmt.Errorf("start %s: %w: %w", s.Path, plugin.ErrInvalid, err)
	}
	l.argv = append([]string{helperName, string(text)}, l.argv...)
	l.path = "/proc/self/exe"
	capabilities := []uintptr{unix.CAP_SYS_ADMIN} // to mount; within that namespace only
	switch {
	case s.Fence != nil:
		l.attr.Sys.Cloneflags, capabilities = s.Fence.flags(), s.Fence.capabilities()
	case s.PrivateTmp != "":
		l.attr.Sys.Cloneflags = syscall.CLONE_NEWNS
	default:
		return nil
	}
	if os.Geteuid() != 0 {
		l.attr.Sys.Cloneflags |= syscall.CLONE_NEWUSER
		l.attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		l.attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		l.attr.Sys.AmbientCaps = capabilities
	}
	return nil
}

// belowTmp lists the folders below /tmp that the target needs by name.
func (s Spec) belowTmp() []string {
	folders := []string{s.Dir, filepath.Dir(s.Path)}
	for _, arg := range s.Args {
		if info, err := os.Stat(arg); err == nil && filepath.IsAbs(arg) {
			if !info.IsDir() {
				arg = filepath.Dir(arg)
			}
			folders = append(folders, arg)
		}
	}
	kept := folders[:0]
	for _, f := range folders {
		if f = filepath.Clean(f); strings.HasPrefix(f, sharedTmp+"/") {
			kept = append(kept, f)
		}
	}
	return kept
}

// readReport waits for the end of the helper's report: nothing written means
// that the target is being executed.
func readReport(r *os.File) error {
	_ = r.SetReadDeadline(time.Now().Add(helperTimeout))
	text, err := io.ReadAll(io.LimitReader(r, reportBytesMax))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: the helper did not finish within %s", plugin.ErrUnavailable, helperTimeout)
	case err != nil:
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	case len(text) > 0:
		return fmt.Errorf("%w: %s", plugin.ErrInvalid, text)
	}
	return nil
}

// Child is the first statement of main and of every TestMain that starts
// processes. In a process that [Start] made as its helper it never returns: it
// mounts the private /tmp, goes into the groups that hold it and becomes the target,
// or exits; nor does it return in the reaper of [Bind]. In any other process it
// returns at once.
func Child() {
	if len(os.Args) > 0 && os.Args[0] == reaperName {
		reap()
	}
	if len(os.Args) < 3 || os.Args[0] != helperName {
		return
	}
	runtime.LockOSThread() // the death signal belongs to the thread that calls exec
	var task helperTask
	if err := json.Unmarshal([]byte(os.Args[1]), &task); err != nil {
		os.Exit(helperFailed)
	}
	report := os.NewFile(uintptr(task.Report), "report")
	unix.CloseOnExec(task.Report)
	err := task.run(os.Args[2:])
	_, _ = fmt.Fprint(report, err)
	os.Exit(helperFailed)
}

// run returns only with an error.
func (t helperTask) run(argv []string) error {
	if err := t.bind(); err != nil {
		return err
	}
	groups, err := t.openGroups() // which a fence hides
	if err != nil {
		return err
	}
	if err := t.mount(); err != nil {
		return fmt.Errorf("private /tmp: %w", err)
	}
	if t.Fence != nil {
		if err := t.Fence.enter(t.Dir); err != nil {
			return fmt.Errorf("sandbox: %w", fenceError(err))
		}
	}
	// The target gets none of the helper's rights in its user namespace.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if t.Fence != nil {
		if err := renounce(); err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
	}
	if err := t.confine(groups); err != nil {
		return err
	}
	path := argv[0]
	if t.Exe != 0 {
		path = fmt.Sprintf("/proc/self/fd/%d", t.Exe)
		if !t.Script {
			unix.CloseOnExec(t.Exe)
		}
	}
	return startError(syscall.Exec(path, argv, os.Environ()))
}

// bind makes a bound child end with the daemon. The kernel disarms the signal when
// credentials change, as they do in a new user namespace: arm it again, then look
// whether it came too late.
func (t helperTask) bind() error {
	if t.Parent == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("parent death signal: %w", err)
	}
	// In a process namespace of its own nobody's parent can be seen: there the end of
	// the daemon, if it came too late for the signal, is for the reaper.
	if parent := os.Getppid(); parent != t.Parent && (t.Fence == nil || parent != 0) {
		return errors.New("the daemon is gone")
	}
	return nil
}

// confine sets the limits and goes into the groups. It is the last before exec: a
// limit of processes or of memory could be too small for the helper itself, which
// therefore begins no thread in it.
func (t helperTask) confine(groups []int) error {
	debug.SetGCPercent(-1)
	self := []byte("0")
	for _, limit := range t.Limits {
		if err := limit.set(); err != nil {
			return err
		}
	}
	for i, fd := range groups {
		if _, err := rawWrite(fd, self); err != nil {
			return fmt.Errorf("%s: %w", t.Join[i], err)
		}
	}
	return nil
}

func (t helperTask) openGroups() (groups []int, err error) {
	for _, file := range t.Join {
		fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		groups = append(groups, fd)
	}
	return groups, nil
}

// rawWrite does not tell the runtime that it may take long: it would begin another
// thread.
func rawWrite(fd int, text []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// mount covers /tmp, in this mount namespace only, and shows the kept folders
// through the cover.
func (t helperTask) mount() error {
	if t.Tmp == "" {
		return nil
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	open := make([]int, len(t.Keep))
	for i, folder := range t.Keep {
		fd, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", folder, err)
		}
		open[i] = fd
	}
	if err := unix.Mount(t.Tmp, sharedTmp, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", t.Tmp, err)
	}
	for i, folder := range t.Keep {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", open[i]), folder, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", folder, err)
		}
	}
	return nil
}
