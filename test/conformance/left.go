package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// reapMost is how long init and the kernel may take to take away what was killed.
const reapMost = 2 * time.Second

// nothingLeft fails the test when processes, sockets or mounts of the launch remain.
func nothingLeft(t testing.TB, l plugin.Launch) {
	t.Helper()
	Eventually(t, reapMost, func() error { return Left(l) })
}

// Left returns what of the launch is still there: processes that carry its mark
// or folder, unix sockets in its folder, mounts of it.
func Left(l plugin.Launch) error {
	var errs []error
	for _, pid := range processes(func(pid string) bool { return belongs(pid, l) }) {
		cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		errs = append(errs, fmt.Errorf("process %s is left: %s", pid, bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
	}
	if l.Dir == "" {
		return errors.Join(errs...)
	}
	for what, file := range map[string]string{"socket": "/proc/self/net/unix", "mount": "/proc/self/mountinfo"} {
		data, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, l.Dir+"/") || strings.HasSuffix(line, l.Dir+"\n") {
				errs = append(errs, fmt.Errorf("%s is left: %s", what, strings.TrimSpace(line)))
			}
		}
	}
	return errors.Join(errs...)
}

// processes lists the pids that match.
func processes(match func(pid string) bool) []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []string
	for _, dir := range dirs {
		if pid := filepath.Base(dir); pid != strconv.Itoa(os.Getpid()) && match(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// belongs reports whether the process is of the launch. What cannot be read has
// ended meanwhile.
func belongs(pid string, l plugin.Launch) bool {
	for _, file := range []string{"environ", "cmdline"} {
		data, err := os.ReadFile("/proc/" + pid + "/" + file)
		if err == nil && (bytes.Contains(data, []byte(l.ID)) || l.Dir != "" && bytes.Contains(data, []byte(l.Dir))) {
			return true
		}
	}
	cwd, err := os.Readlink("/proc/" + pid + "/cwd")
	return err == nil && l.Dir != "" && strings.HasPrefix(cwd, l.Dir)
}

// children lists the processes whose parent is this one, zombies too.
func children() []string {
	want := "\nPPid:\t" + strconv.Itoa(os.Getpid()) + "\n"
	return processes(func(pid string) bool {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		return err == nil && strings.Contains(string(status), want)
	})
}

// pipes lists the pipes that the process has open, by descriptor.
func pipes(pid string) map[int]string {
	found := map[int]string{}
	fds, _ := filepath.Glob("/proc/" + pid + "/fd/*")
	for _, fd := range fds {
		n, _ := strconv.Atoi(filepath.Base(fd))
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "pipe:") {
			found[n] = to
		}
	}
	return found
}

// ownPipes are this process's: its standard streams and what it opened itself.
// What a shell or make left open in it without close-on-exec is not.
func ownPipes() map[string]bool {
	own := map[string]bool{}
	for fd, pipe := range pipes("self") {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd <= 2 || err == nil && flags&unix.FD_CLOEXEC != 0 {
			own[pipe] = true
		}
	}
	return own
}

// alive reports whether the process is there and not a zombie.
func alive(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !strings.Contains(string(status), "\nState:\tZ")
}

// census counts what a leak would make grow.
type census struct{ goroutines, files, children int }

func count() census {
	fds, _ := os.ReadDir("/proc/self/fd")
	return census{runtime.NumGoroutine(), len(fds), len(children())}
}

// growthMost allows for pools (idle connections to an engine) that are as large
// after many launches as after one. Less than one per launch is not a leak.
const growthMost = 2

// backTo returns nil when nothing has grown since base.
func backTo(base census) error {
	now := count()
	if now.goroutines > base.goroutines+growthMost {
		return fmt.Errorf("goroutines: got %d, want %d:\n%s", now.goroutines, base.goroutines, stacks())
	}
	if now.files > base.files+growthMost {
		return fmt.Errorf("open files: got %d, want %d", now.files, base.files)
	}
	if now.children > base.children {
		return fmt.Errorf("children: got %d %v, want %d", now.children, children(), base.children)
	}
	return nil
}

// stacksBytesMax keeps a failure readable.
const stacksBytesMax = 32 << 10

func stacks() string {
	buf := make([]byte, stacksBytesMax)
	return string(buf[:runtime.Stack(buf, true)])
}

// pid returns the instance's process.
func pid(t testing.TB, r running) int {
	t.Helper()
	i, ok := r.Instance.(plugin.Inspector)
	if !ok {
		t.Fatal("inspect: the instance is no plugin.Inspector")
	}
	n, err := strconv.Atoi(i.Inspect()["pid"])
	if err != nil || n <= 1 {
		t.Fatalf("inspect: got pid %q, want a process id", i.Inspect()["pid"])
	}
	return n
}

func (f Fixture) signal(t testing.TB, r running, s syscall.Signal) {
	t.Helper()
	if f.Signal != nil {
		f.Signal(t, r.Instance, s)
		return
	}
	if err := syscall.Kill(pid(t, r), s); err != nil {
		t.Fatalf("%v: %v", s, err)
	}
}

func numbered(text string, n int) string { return strings.ReplaceAll(text, Number, strconv.Itoa(n)) }

// sameJSON compares two JSON texts by value; numbers by their digits.
func sameJSON(got, want []byte) error {
	var g, w any
	if err := decode(got, &g); err != nil {
		return fmt.Errorf("answer %q: not JSON: %w", got, err)
	}
	if err := decode(want, &w); err != nil {
		return fmt.Errorf("fixture: want %q: not JSON: %w", want, err)
	}
	if !reflect.DeepEqual(g, w) {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

func decode(data []byte, into *any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}
