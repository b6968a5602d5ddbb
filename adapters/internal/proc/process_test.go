package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestWait_tellsHowItEnded(t *testing.T) {
	p, _ := start(t, "exit", func(s *Spec) { s.Args = []string{"3"} })
	if got := p.Wait(); got.Code != 3 || got.Signal != "" {
		t.Errorf("exit 3: got %+v", got)
	}
	p, out := start(t, "block", nil)
	lines(t, p, out, 1)
	_ = syscall.Kill(p.Pid(), syscall.SIGSEGV)
	if got := p.Wait(); got.Code == 0 || got.Success() {
		t.Errorf("SIGSEGV: got %+v, want no success", got)
	}
	p, _ = start(t, "block", nil)
	p.Kill()
	if got := p.Wait(); got.Code != -1 || got.Signal != "SIGKILL" {
		t.Errorf("Kill: got %+v, want -1 and SIGKILL", got)
	}
}

func TestWait_sameAnswerForAll(t *testing.T) {
	p, _ := start(t, "block", nil)
	exits := make([]plugin.Exit, 8)
	var all sync.WaitGroup
	for i := range exits {
		all.Go(func() { exits[i] = p.Wait() })
	}
	p.Kill()
	all.Wait()
	for _, e := range exits {
		if e != exits[0] {
			t.Errorf("got %+v, want %+v", e, exits[0])
		}
	}
}

func TestStart_childSeesOnlyWhatItIsGiven(t *testing.T) {
	t.Setenv("PROC_TEST_SECRET", "of the daemon")
	dir := t.TempDir()
	extra, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	p, out := start(t, "look", func(s *Spec) { s.Dir, s.ExtraFiles = dir, []*os.File{extra} })
	got := lines(t, p, out, 6)
	want := fmt.Sprintf("fds 0=/dev/null 1=%s 2=/dev/null 3=%s", out, dir)
	// The child's own look at its descriptors is one more.
	if rest, ok := strings.CutPrefix(got[0], want); !ok || strings.Count(rest, "=") > 1 {
		t.Errorf("descriptors: got %q, want %q", got[0], want)
	}
	if got[1] != "env "+noRaceSleep+" "+roleVar+"=look" {
		t.Errorf("environment: got %q", got[1])
	}
	if got[3] != "cwd "+dir || got[4] != "leader true" {
		t.Errorf("got %q", got[3:])
	}
}

func TestStart_refusals(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	lost := filepath.Join(dir, "lost")
	if err := os.WriteFile(lost, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	for _, tt := range []struct {
		name, want string
		spec       Spec
	}{
		{"relative", "not absolute", Spec{Path: "true"}},
		{"missing", "no such file", Spec{Path: dir + "/none"}},
		{"no folder", "is not a folder", Spec{Path: "/bin/true", Dir: dir + "/none"}},
		{"text", "not a program", Spec{Path: text}},
		{"interpreter", "interpreter", Spec{Path: lost}},
		{"zero byte", "invalid argument", Spec{Path: "/bin/true", Args: []string{"a\x00b"}}},
		{"missing, helper", "no such file", Spec{Path: dir + "/none", PrivateTmp: dir}},
		{"text, helper", "not a program", Spec{Path: text, PrivateTmp: dir}},
		{"digest word", "does not begin", Spec{Path: "/bin/true", Digest: "md5:1"}},
		{"digest", "has sha256:", Spec{Path: "/bin/true", Digest: "sha256:00"}},
	} {
		p, err := Start(tt.spec)
		if err == nil {
			p.Kill()
			t.Errorf("%s: started", tt.name)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%s: got %v, want invalid and %q", tt.name, err, tt.want)
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("open files: got %d, want at most %d as before", after, before)
	}
}

func TestStop_asks(t *testing.T) {
	p, _ := start(t, "block", nil)
	err := p.Stop(within(t, 10*time.Second), func(context.Context) error {
		p.Kill()
		return errors.New("the line broke")
	})
	if err != nil {
		t.Errorf("got %v", err)
	}
}

func TestStop_askNeverReturnsThenTerm(t *testing.T) {
	p, out := start(t, "exit-on-term", nil)
	lines(t, p, out, 1)
	err := p.Stop(within(t, time.Second), func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if got := p.Wait(); err != nil || got.Code != 7 {
		t.Errorf("got %+v, %v, want exit code 7 upon SIGTERM", got, err)
	}
}

func TestStop_termIgnored(t *testing.T) {
	p, out := start(t, "ignore-term", nil)
	lines(t, p, out, 1)
	begun := time.Now()
	err := p.Stop(within(t, 200*time.Millisecond), nil)
	if got := p.Wait(); err != nil || got.Signal != "SIGKILL" {
		t.Errorf("got %+v, %v, want SIGKILL", got, err)
	}
	if took := time.Since(begun); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %s, want ctx's 200ms and little more", took)
	}
}

func TestStop_frozen(t *testing.T) {
	p, out := start(t, "ignore-term", nil)
	lines(t, p, out, 1)
	_ = syscall.Kill(p.Pid(), syscall.SIGSTOP)
	if err := p.Stop(within(t, 100*time.Millisecond), nil); err != nil {
		t.Error(err)
	}
	awaitGone(t, p.Pid())
}

func TestStop_twiceAndAtOnce(t *testing.T) {
	p, out := start(t, "ignore-term", nil)
	lines(t, p, out, 1)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := p.Stop(within(t, 100*time.Millisecond), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := p.Stop(within(t, time.Minute), nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStop_rightAfterStart(t *testing.T) {
	for _, tmp := range []string{"", t.TempDir()} {
		p, _ := start(t, "block", func(s *Spec) { s.PrivateTmp = tmp })
		if err := p.Stop(within(t, 5*time.Second), nil); err != nil {
			t.Error(err)
		}
		awaitGone(t, p.Pid())
	}
}

func TestGroup_grandchildGoesAlong(t *testing.T) {
	for _, role := range []string{"parent", "parent-exits"} {
		p, out := start(t, role, nil)
		kid := number(t, lines(t, p, out, 1)[0])
		if role == "parent" {
			if !p.Owns(kid) || !p.Owns(p.Pid()) || p.Owns(os.Getpid()) || p.Owns(1) {
				t.Error("Owns: the wrong ones")
			}
			if err := p.Stop(within(t, 5*time.Second), nil); err != nil {
				t.Error(err)
			}
		}
		p.Wait()
		awaitGone(t, kid)
		if p.Owns(p.Pid()) {
			t.Error("Owns: still owns a pid that may be somebody else's")
		}
	}
}

func TestDaemonKilled_childEnds(t *testing.T) {
	for _, tmp := range []string{"", t.TempDir()} {
		daemon := exec.Command(self(t), tmp)
		daemon.Env = []string{roleVar + "=daemon"}
		stdout, err := daemon.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		var child int
		if _, err := fmt.Fscan(stdout, &child); err != nil {
			t.Fatal(err)
		}
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		awaitGone(t, child)
	}
}

func TestPrivateTmp(t *testing.T) {
	dir, tmp := t.TempDir(), t.TempDir()
	p, out := start(t, "look", func(s *Spec) { s.Dir, s.PrivateTmp, s.Args = dir, tmp, []string{dir} })
	got := lines(t, p, out, 7)
	if got[4] != "leader true" || got[3] != "cwd "+dir {
		t.Errorf("got %q", got)
	}
	if exit := p.Wait(); exit.Code != 0 {
		t.Errorf("got %+v", exit)
	}
	if _, err := os.Stat(filepath.Join(tmp, "made-by-child")); err != nil {
		t.Errorf("what the child wrote to /tmp: %v", err)
	}
	if _, err := os.Stat("/tmp/made-by-child"); err == nil {
		t.Error("the child wrote to the machine's /tmp")
		_ = os.Remove("/tmp/made-by-child")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), tmp) || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts of the daemon: %v\n%s", err, mounts)
	}
}

// Another user than root gets there through a user namespace: a daemon of
// user 65534 is played by a copy of the test binary.
func TestPrivateTmp_asNobody(t *testing.T) {
	if os.Getuid() != 0 {
		return // then TestPrivateTmp has just shown it
	}
	const nobody = 65534
	tmp, err := os.MkdirTemp("/tmp", "proc-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	binary, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(tmp, "daemon")
	private := filepath.Join(tmp, "private")
	if err := errors.Join(os.WriteFile(copied, binary, 0o755), os.Mkdir(private, 0o700),
		os.Chown(private, nobody, nobody), os.Chmod(tmp, 0o755)); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(copied, private)
	daemon.Env = []string{roleVar + "=daemon"}
	daemon.Dir = tmp
	daemon.Stderr = os.Stderr
	daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(stdout, &child); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp", child))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.Stat(private); err != nil || !os.SameFile(inside, want) {
		t.Errorf("the child's /tmp is not the private folder (%v)", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
	if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000000") || !strings.Contains(string(status), "Uid:\t65534\t") {
		t.Errorf("the child's rights (%v):\n%s", err, status)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	awaitGone(t, child)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestStart_leavesNoDescriptor(t *testing.T) {
	run := func() {
		for _, tmp := range []string{"", t.TempDir()} {
			p, err := Start(Spec{Path: "/bin/true", PrivateTmp: tmp})
			if err != nil {
				t.Fatal(err)
			}
			p.Wait()
			<-p.gone
		}
	}
	run() // the poller's own descriptors come with the first
	before := openFiles(t)
	for range 5 {
		run()
	}
	if after := openFiles(t); after > before {
		t.Errorf("open files: got %d, want at most %d", after, before)
	}
}

func TestAwaitEnd_withoutPidfd(t *testing.T) {
	l, err := Spec{Path: "/bin/false"}.prepare()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	pid, pidfd, err := l.fork()
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pidfd)
	if got := watch(pid, -1, "", holding{}).Wait(); got.Code != 1 {
		t.Errorf("got %+v, want 1", got)
	}
}

func TestPeerPid(t *testing.T) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.DialUnix("unix", nil, listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if pid, err := PeerPid(client); err != nil || pid != os.Getpid() {
		t.Errorf("got %d, %v, want %d", pid, err, os.Getpid())
	}
}

func TestEnviron(t *testing.T) {
	got := Environ(plugin.Launch{
		ID: "p-1", Node: "n", Manifest: plugin.Manifest{Spec: plugin.Spec{Adapter: "provider"}},
		Dir: "/d", Env: map[string]string{"HOME": "/h", "A": "1"},
	})
	want := "A=1 HOME=/h LANG=C.UTF-8 PATCHBAY_INSTANCE=n/provider/p-1 PATH=" + defaultPath + " TMPDIR=/d"
	if strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLookExecutable(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		plain: "chmod +x", t.TempDir(): "a folder", "/no/such": "does not exist", "/dev/null": "not a regular file",
	} {
		if err := LookExecutable(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if err := LookExecutable("/bin/sh"); err != nil {
		t.Error(err)
	}
}
