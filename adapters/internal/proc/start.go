package proc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// firstExtraFile follows standard input, output and error.
const firstExtraFile = 3

// A Spec says what to start.
type Spec struct {
	// Path is the absolute executable, Args is what follows it.
	Path string
	Args []string
	// Env is the whole environment; nothing is added.
	Env []string
	// Dir is the working directory.
	Dir string
	// Stdin, Stdout and Stderr are files, never pipes; nil is /dev/null. The
	// caller closes them, and ExtraFiles, after Start.
	Stdin, Stdout, Stderr *os.File
	// ExtraFiles become descriptors 3 and up.
	ExtraFiles []*os.File
	// Digest is "sha256:HEX": another content is refused, and what is executed
	// is the very file that was hashed. A script keeps one more descriptor, its
	// own, open for reading, because its interpreter opens it by that.
	Digest string
	// PrivateTmp is a folder that the child sees as /tmp; "" gives it the
	// machine's. What Path, Dir and Args name below /tmp stays visible there.
	PrivateTmp string
	// Fence, if not nil, keeps the child from what it is not given. It cannot be Detached,
	// and has no PrivateTmp: its /tmp is empty and stays so.
	Fence *Fence
	// Detached lets the child outlive the daemon: it gets no death signal, and its
	// Handle finds it again.
	Detached bool
	// Brief is for a bound child that ends by itself within seconds: the death
	// signal has to do for it, and the reaper is not begun for its sake.
	Brief bool
	// Limits are what the child is held to; InFlight and Payload are not for proc.
	// Groups are named after the mark in Env. What this machine cannot keep is said
	// by Process.Limits.
	Limits plugin.Limits
	// machine replaces this machine in tests.
	machine *machine
}

// Start starts a child. It returns once the target itself is being executed. An
// error wraps plugin.ErrInvalid when it would fail again, and
// plugin.ErrUnavailable when the machine lacks something now; nothing is left.
func Start(s Spec) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Env = ownMark(s.Env)
	l, err := s.prepare()
	if err != nil {
		return nil, err
	}
	defer l.close()
	pid, pidfd, err := l.fork()
	if err != nil && s.Fence != nil {
		err = fenceError(err)
	}
	if err != nil {
		l.held.end()
		return nil, fmt.Errorf("start %s: %w", s.Path, startError(err))
	}
	bound := l.bind(s, pid)
	p := watch(pid, pidfd, markOf(s.Env), l.held)
	if err := errors.Join(bound, l.confirm()); err != nil {
		p.Kill()
		<-p.gone // with its groups
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	if s.Detached {
		p.learnExecutable()
	}
	return p, nil
}

func (s Spec) check() error {
	if !filepath.IsAbs(s.Path) {
		return fmt.Errorf("start %q: %w: the path is not absolute", s.Path, plugin.ErrInvalid)
	}
	if s.Fence != nil && (s.Detached || s.PrivateTmp != "" || s.Digest != "") {
		return fmt.Errorf("start %s: %w: a fence goes with none of Detached, PrivateTmp and Digest", s.Path, plugin.ErrInvalid)
	}
	if s.Fence != nil {
		if err := s.Fence.check(); err != nil {
			return fmt.Errorf("start %s: %w", s.Path, err)
		}
	}
	for _, dir := range []string{s.Dir, s.PrivateTmp} {
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return fmt.Errorf("start %s: %w: %s is not a folder", s.Path, plugin.ErrInvalid, dir)
		}
	}
	return nil
}

// A launch is a Spec made ready for the fork.
type launch struct {
	path     string   // what is executed: the target, a descriptor's name, or the helper
	argv     []string // from argv[0]
	attr     *syscall.ProcAttr
	files    []*os.File // attr.Files, kept from the garbage collector
	owned    []*os.File // closed after the fork
	exe      *pinned    // set with a digest
	helper   *os.File   // reading end of the helper's report
	reportTo *os.File   // writing end, to be closed after the fork
	held     holding    // to the limits
}

func (s Spec) prepare() (_ *launch, err error) {
	l := &launch{path: s.Path, argv: append([]string{s.Path}, s.Args...)}
	defer func() {
		if err != nil {
			l.held.end()
			l.close()
		}
	}()
	if err := l.open(s); err != nil {
		return nil, err
	}
	l.held = s.hold()
	if s.Digest != "" {
		if l.exe, err = pin(s.Path, s.Digest); err != nil {
			return nil, fmt.Errorf("start %s: %w", s.Path, err)
		}
		l.owned = append(l.owned, l.exe.file)
	}
	l.attr = &syscall.ProcAttr{
		Dir: s.Dir, Env: s.Env,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if s.Detached {
		// No session of its own: with autogroups a call to it would cost a switch
		// between two.
		l.attr.Sys.Pdeathsig = 0
	}
	if s.Env == nil {
		l.attr.Env = []string{} // nil would mean the daemon's own
	}
	direct := s.PrivateTmp == "" && s.Fence == nil && l.held.byFork()
	if direct {
		if err := l.intoGroup(); err != nil {
			return nil, err
		}
	}
	switch {
	case !direct:
		err = l.throughHelper(s)
	case l.exe != nil && l.exe.script:
		l.path = fmt.Sprintf("/proc/self/fd/%d", l.add(l.exe.file))
	case l.exe != nil:
		// By the daemon's own descriptor: the child inherits none.
		l.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.exe.file.Fd())
	}
	return l, err
}

// open fills the standard descriptors and the extra ones.
func (l *launch) open(s Spec) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start %s: %w: %w", s.Path, plugin.ErrUnavailable, err)
	}
	l.owned = append(l.owned, null)
	for _, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
		if f == nil {
			f = null
		}
		l.add(f)
	}
	for _, f := range s.ExtraFiles {
		l.add(f)
	}
	return nil
}

// add gives the child one more file and returns its number there.
func (l *launch) add(f *os.File) int {
	l.files = append(l.files, f)
	return len(l.files) - 1
}

func (l *launch) fork() (pid, pidfd int, err error) {
	for _, f := range l.files {
		l.attr.Files = append(l.attr.Files, f.Fd())
	}
	pidfd = -1
	l.attr.Sys.PidFD = &pidfd
	onStarterThread(func() { pid, err = syscall.ForkExec(l.path, l.argv, l.attr) })
	runtime.KeepAlive(l)
	return pid, pidfd, err
}

// confirm waits until the target is being executed and is what was hashed.
func (l *launch) confirm() error {
	if l.helper != nil {
		_ = l.reportTo.Close()
		if err := readReport(l.helper); err != nil {
			return err
		}
	}
	if l.exe != nil {
		return l.exe.unchanged()
	}
	return nil
}

func (l *launch) close() {
	for _, f := range l.owned {
		_ = f.Close()
	}
}

// startError sorts what fork, chdir and exec answer into the house's classes.
func startError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: %w: it, its #! interpreter or its dynamic loader is missing", plugin.ErrInvalid, err)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: %w: not a program for this machine, nor a script with a #! line", plugin.ErrInvalid, err)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE),
		errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ETXTBSY):
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
}

// starter is the one OS thread from which children are started, made at the
// first start. It lives as long as the daemon, because PDEATHSIG is sent when
// the thread that forked ends: this goroutine never returns, on purpose.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func()) // unbuffered: a start waits for its turn
	go func() {
		runtime.LockOSThread()
		// Go opens everything close-on-exec; what the daemon itself inherited
		// from a careless shell is not to go on to the plugins.
		_ = unix.CloseRange(firstExtraFile, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
		for job := range work {
			job()
		}
	}()
	return work
})

func onStarterThread(job func()) {
	done := make(chan struct{})
	starter() <- func() {
		defer close(done)
		job()
	}
	<-done
}
