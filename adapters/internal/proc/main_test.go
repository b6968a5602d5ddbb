package proc

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// noRaceSleep keeps a binary that is instrumented for races from sleeping a second
// at its exit.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// roleVar makes a copy of the test binary play a part instead of testing.
const roleVar = "PROC_TEST_ROLE"

func TestMain(m *testing.M) {
	Child()
	if role := os.Getenv(roleVar); role != "" {
		play(role)
	}
	os.Exit(m.Run())
}

func play(role string) {
	switch role {
	case "block":
	case "ignore-term":
		signal.Ignore(syscall.SIGTERM)
	case "exit-on-term":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(7)
	case "exit":
		code, _ := strconv.Atoi(os.Args[1])
		os.Exit(code)
	case "parent", "parent-exits":
		kid := exec.Command(os.Args[0])
		kid.Env = []string{roleVar + "=block"}
		if err := kid.Start(); err != nil {
			panic(err)
		}
		fmt.Println(kid.Process.Pid)
		if role == "parent-exits" {
			os.Exit(0)
		}
	case "daemon":
		p, err := Start(Spec{Path: os.Args[0], Env: []string{roleVar + "=block"}, PrivateTmp: os.Args[1]})
		if err != nil {
			panic(err)
		}
		fmt.Println(p.Pid())
	case "leaving-daemon": // starts a detached child and tells its handle
		env := []string{roleVar + "=" + os.Args[2], markVariable + "=" + os.Args[3]}
		memory, err := strconv.ParseInt(os.Args[4], 10, 64)
		if err != nil {
			panic(err)
		}
		p, err := Start(Spec{
			Path: os.Args[0], Env: env, PrivateTmp: os.Args[1], Detached: true, Limits: plugin.Limits{Memory: plugin.Bytes(memory)},
		})
		if err != nil {
			panic(err)
		}
		h, err := p.Handle(context.Background())
		if err != nil {
			panic(err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
			panic(err)
		}
	case "binding-daemon":
		bindingDaemon()
	case "escapes", "escapes-unmarked": // has a child in a session of its own
		kid := exec.Command(os.Args[0])
		kid.Env = []string{roleVar + "=block", markVariable + "=" + os.Getenv(markVariable)}
		if role == "escapes-unmarked" {
			kid.Env = kid.Env[:1]
		}
		kid.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := kid.Start(); err != nil {
			panic(err)
		}
	case "leak", "leak-when-told", "leaking-child", "leaking-child-when-told", "forks", "files", "burn", "where":
		press(role)
	case "look":
		look()
		os.Exit(0)
	case "fenced":
		try(os.Args[1:])
		os.Exit(0)
	case "fenced-daemon":
		p, err := Start(Spec{
			Path: os.Args[0], Env: []string{roleVar + "=block"}, Fence: &Fence{Readable: []string{os.Args[0]}, Root: os.Args[1]},
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(p.Pid())
	}
	fmt.Println("ready")
	<-time.After(math.MaxInt64) // no empty select, which without cgo Go takes for a deadlock
}

// look prints what a child can see of the daemon.
func look() {
	entries, _ := os.ReadDir("/proc/self/fd")
	var fds []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/sys/fs/cgroup") {
			fds = append(fds, e.Name()+"="+target)
		}
	}
	sort.Strings(fds)
	names, _ := filepath.Glob("/tmp/*")
	cwd, _ := os.Getwd()
	group, _ := unix.Getpgid(0)
	exe, _ := os.Readlink("/proc/self/exe")
	fmt.Printf("fds %s\nenv %s\ntmp %s\ncwd %s\nleader %v\nuid %d\nexe %s\n", strings.Join(fds, " "),
		strings.Join(os.Environ(), " "), strings.Join(names, " "), cwd, group == os.Getpid(), os.Getuid(), exe)
	if len(os.Args) > 1 {
		if err := os.WriteFile("/tmp/made-by-child", nil, 0o600); err != nil {
			fmt.Println("write", err)
		}
	}
}

// self is this test binary by its real path.
func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts the test binary in a role, with its stdout in the file returned,
// and kills it at the end of the test.
func start(t *testing.T, role string, change func(*Spec)) (*Process, string) {
	t.Helper()
	out, err := os.OpenFile(filepath.Join(t.TempDir(), "stdout"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := Spec{Path: self(t), Env: []string{noRaceSleep, roleVar + "=" + role}, Stdout: out}
	if change != nil {
		change(&s)
	}
	p, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Wait() })
	return p, out.Name()
}

// lines waits until the child printed n lines.
func lines(t *testing.T, p *Process, path string, n int) []string {
	t.Helper()
	var got []string
	err := Follow(testContext(t), Tail{Path: path}, p.Done(), func(line []byte) bool {
		got = append(got, string(line))
		return len(got) < n
	})
	if err != nil || len(got) < n {
		t.Fatalf("lines of the child: got %q (%v), want %d", got, err, n)
	}
	return got
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// within gives Stop's context.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// awaitGone fails when the process is still there after ten seconds.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL { // the latter in kernels before 6.9, while somebody still holds it
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n, end := 0, time.Now().Add(10*time.Second)
	err = ignoringEINTR(func() (err error) { // the runtime's own signals
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(time.Until(end).Milliseconds())))
		return err
	})
	if err != nil || n != 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("process %d: still there after 10 s: %v", pid, err)
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
