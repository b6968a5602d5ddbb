package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// left starts a daemon that starts a detached child, kills the daemon, and returns
// the child's handle. The child ends with the test.
func left(t *testing.T, tmp, role, mark string) Handle {
	t.Helper()
	return leftWithin(t, 0, tmp, role, mark)
}

// leftWithin is left with a limit of memory, in bytes; 0 is none.
func leftWithin(t *testing.T, memory int, tmp, role, mark string) Handle {
	t.Helper()
	daemon := exec.Command(self(t), tmp, role, mark, strconv.Itoa(memory))
	daemon.Env = []string{roleVar + "=leaving-daemon"}
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var h Handle
	if err := json.NewDecoder(stdout).Decode(&h); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	t.Cleanup(func() { killMarked(h.Mark) })
	return h
}

// TestMark_isOfOneProcess: the end of one process of an instance does not take
// along the next.
func TestMark_isOfOneProcess(t *testing.T) {
	mark := markFor(t)
	started := func() *Process {
		p, err := Start(Spec{Path: self(t), Env: []string{roleVar + "=block", markVariable + "=" + mark}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Kill(); p.Wait() })
		return p
	}
	first, second := started(), started()
	first.Kill()
	<-first.gone
	if second.ended() || second.mark == first.mark || !strings.HasPrefix(second.mark, mark+"/") {
		t.Errorf("second ended: %t; marks %s, %s, want two of %s", second.ended(), first.mark, second.mark, mark)
	}
}

func markFor(t *testing.T) string {
	return "node/provider/" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
}

func adopted(t *testing.T, h Handle) *Process {
	t.Helper()
	p, err := Adopt(h)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestAdopt_theChildOfAKilledDaemon(t *testing.T) {
	for name, tmp := range map[string]string{"plain": "", "private tmp": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			h := left(t, tmp, "exit-on-term", markFor(t))
			p := adopted(t, h)
			if p.Pid() != h.Pid || !p.Owns(h.Pid) || p.ended() {
				t.Errorf("got pid %d, ended %t, want %d alive", p.Pid(), p.ended(), h.Pid)
			}
			if again, err := p.Handle(context.Background()); err != nil || again != h {
				t.Errorf("its handle: got %+v, %v, want %+v", again, err, h)
			}
			if err := p.Stop(within(t, 5*time.Second), nil); err != nil {
				t.Fatal(err)
			}
			// A SIGTERM in earnest when it had not been so far.
			if e := p.Wait(); e.Code != 7 && e.Signal != "SIGTERM" && !mayBeUnknown(t, e) {
				t.Errorf("got %+v, want code 7 or SIGTERM", e)
			}
		})
	}
}

func TestAdopt_seesADeathAndTakesAlongWhatEscaped(t *testing.T) {
	h := left(t, "", "escapes", markFor(t))
	p := adopted(t, h)
	kids := waitForMarked(t, h.Mark, 2)
	if err := syscall.Kill(h.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); e.Signal != "SIGKILL" && !mayBeUnknown(t, e) {
		t.Errorf("got %+v, want SIGKILL", e)
	}
	<-p.gone
	for _, pid := range kids {
		awaitGone(t, pid)
	}
}

// An adopted process is still held to its memory, and its end for that is told apart
// from a plain kill: by its group's own count, which outlives the daemon.
func TestAdopt_memoryRunsOut(t *testing.T) {
	for _, oom := range []bool{true, false} {
		t.Run(fmt.Sprint(oom), func(t *testing.T) {
			tmp := t.TempDir()
			if err := unix.Mkfifo(filepath.Join(tmp, "leak"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := adopted(t, leftWithin(t, 64<<20, tmp, "leak-when-told", markFor(t)))
			byGroup(t, p, limitMemory)
			if oom {
				tell(t, filepath.Join(tmp, "leak"))
			} else if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if got := p.Wait(); got.Signal != "SIGKILL" && !mayBeUnknown(t, got) || got.OOM != oom {
				t.Errorf("got %+v, want SIGKILL and OOM %t", got, oom)
			}
			groupsGone(t, p)
		})
	}
}

// What an adopted plugin has survived is no reason of its end, which here is a plain
// kill.
func TestAdopt_memoryHadRunOutBefore(t *testing.T) {
	tmp := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(tmp, "leak"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := leftWithin(t, 64<<20, tmp, "leaking-child-when-told", markFor(t))
	tell(t, filepath.Join(tmp, "leak"))
	awaitOOMKill(t, h.Cgroup)
	p := adopted(t, h)
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := p.Wait(); got.Signal != "SIGKILL" && !mayBeUnknown(t, got) || got.OOM {
		t.Errorf("got %+v, want SIGKILL and nothing of memory", got)
	}
}

func awaitOOMKill(t *testing.T, c Cgroup) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); c.oomKills() == 0; <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("memory does not run out")
		}
	}
}

// mayBeUnknown reports whether an adopted process's exit is said to be unknown, in
// those very words, where the kernel tells only who reaps: asked of a child that was
// reaped.
func mayBeUnknown(t *testing.T, e plugin.Exit) bool {
	t.Helper()
	child := exec.Command("/bin/true")
	pidfd := -1
	child.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if pidfd < 0 {
		t.Fatal("this kernel has no pidfd")
	}
	defer unix.Close(pidfd)
	if _, told, err := reapedExit(pidfd); told || err == nil {
		return false
	}
	return e.Code == -1 && e.Signal == "" && e.Message == exitUnknown
}

// TestExitOfOther is what is said of an end, wherever it runs: a code that is right,
// or that nobody tells it. A zombie's is known everywhere.
func TestExitOfOther(t *testing.T) {
	for name, reaped := range map[string]bool{"zombie": false, "reaped": true} {
		t.Run(name, func(t *testing.T) {
			child := exec.Command(self(t), "9")
			child.Env = []string{noRaceSleep, roleVar + "=exit"}
			pidfd := -1
			child.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			pid := child.Process.Pid
			start := readStat(strconv.Itoa(pid)).start
			if err := ignoringEINTR(func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) }); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = child.Wait(), unix.Close(pidfd) })
			if reaped {
				_ = child.Wait()
			}
			if got := exitOfOther(pid, start, pidfd); got.Code != 9 && !(reaped && mayBeUnknown(t, got)) {
				t.Errorf("got %+v, want code 9", got)
			}
		})
	}
}

// tell writes to a named pipe, whether somebody reads it yet or not.
func tell(t *testing.T, path string) {
	t.Helper()
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pipe.Close() })
	if _, err := pipe.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
}

// waitForMarked returns the processes that bear the mark once there are n.
func waitForMarked(t *testing.T, mark string, n int) []int {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-ticker.C {
		var found []int
		all, err := pids()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			if readMark(pid) == mark {
				found = append(found, pid)
			}
		}
		if len(found) == n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes bear %s, want %d", len(found), mark, n)
		}
	}
}

func TestAdopt_neverTouchesAStranger(t *testing.T) {
	stranger := exec.Command("/bin/cat")
	in, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	pid := stranger.Process.Pid
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	real := Handle{Pid: pid, Boot: boot, Start: readStat(strconv.Itoa(pid)).start, Mark: "node/provider/p-1"}
	real.Executable, err = executables().digest(pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Handle){
		"reused pid":         func(h *Handle) { h.Start-- },
		"another boot":       func(h *Handle) { h.Boot = "0" },
		"another executable": func(h *Handle) { h.Executable = "sha256:00" },
		"no start time":      func(h *Handle) { h.Start = 0 },
		"process 1":          func(h *Handle) { h.Pid = 1 },
		"nobody":             func(h *Handle) { h.Pid = 1 << 22 },
	} {
		h := real
		change(&h)
		if _, err := Adopt(h); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("%s: got %v, want plugin.ErrNotFound", name, err)
		}
	}
	_ = in.Close()
	if err := stranger.Wait(); err != nil { // exit code 0 at the end of its input: nobody sent a signal
		t.Errorf("the stranger: %v, want it untouched", err)
	}
}

func TestLeave_leavesItRunning(t *testing.T) {
	mark := markFor(t)
	p, err := Start(Spec{Path: self(t), Env: []string{roleVar + "=block", markVariable + "=" + mark}, Detached: true})
	if err != nil {
		t.Fatal(err)
	}
	h, err := p.Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killMarked(h.Mark) })
	p.Leave()
	p.Leave()
	if e := p.Wait(); !p.Left() || e.Code != -1 || e.Message == "" {
		t.Errorf("got %+v, left %t", e, p.Left())
	}
	p.Kill() // must not reach it
	second := adopted(t, h)
	second.Kill()
	<-second.gone
	_, _ = syscall.Wait4(h.Pid, nil, 0, nil) // here it is our child after all
}

// Who cannot wait for the hash of the executable gets a handle by which the process is
// found all the same, and its next handle is whole.
func TestHandle_beforeTheExecutableIsHashed(t *testing.T) {
	h := left(t, "", "block", markFor(t))
	whole := h.Executable
	h.Executable = ""
	p := adopted(t, h)
	ended, end := context.WithCancel(t.Context())
	end()
	p.learnt = make(chan struct{}) // not hashed yet
	if early, err := p.Handle(ended); err != nil || early != h {
		t.Errorf("got %+v, %v, want %+v", early, err, h)
	}
	p.Leave()
	again, err := adopted(t, h).Handle(t.Context())
	if err != nil || again.Executable != whole {
		t.Errorf("of the adopted one: got %+v, %v, want the executable %s", again, err, whole)
	}
}

func TestHandle_ofABoundChild(t *testing.T) {
	p, _ := start(t, "block", nil)
	if _, err := p.Handle(context.Background()); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want plugin.ErrInvalid", err)
	}
}

func TestStrays_areSweptUnlessKept(t *testing.T) {
	node := fmt.Sprintf("strays-%d", os.Getpid()) // other tests of this machine have others
	h := left(t, "", "escapes", node+"/provider/p-1")
	waitForMarked(t, h.Mark, 2)
	keep := func(instance string) bool { return instance == "p-1" }
	if kept, err := Strays(node, "provider", keep); err != nil || len(kept) != 0 {
		t.Errorf("all kept: got %v, %v", kept, err)
	}
	none := func(string) bool { return false }
	if others, err := Strays(node, "goplugin", none); err != nil || len(others) != 0 {
		t.Errorf("of another adapter: got %v, %v", others, err)
	}
	strays, err := Strays(node, "provider", none)
	if err != nil || len(strays) != 2 || strays[0].Instance != "p-1" || strays[0].Detail != self(t) {
		t.Fatalf("got %+v, %v, want two of p-1", strays, err)
	}
	if removed, err := Sweep("another-node", strays); err != nil || len(removed) != 0 {
		t.Errorf("sweep for another node: got %v, %v", removed, err)
	}
	removed, err := Sweep(node, strays)
	if err != nil || len(removed) != 2 {
		t.Errorf("sweep: got %v, %v, want both", removed, err)
	}
	awaitGone(t, h.Pid)
}
