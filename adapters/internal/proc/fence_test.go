package proc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// try does what the arguments say, and prints what came of each: "ok" or why not.
func try(args []string) {
	for _, arg := range args {
		do, what, _ := strings.Cut(arg, " ")
		var err error
		switch do {
		case "read":
			_, err = os.ReadFile(what)
		case "list":
			_, err = os.ReadDir(what)
		case "write":
			err = os.WriteFile(what, []byte("x"), 0o600)
		case "dial":
			var conn net.Conn
			if conn, err = net.Dial("tcp", what); err == nil {
				err = conn.Close()
			}
		case "run":
			err = exec.Command(what).Run()
		case "mount":
			err = unix.Mount("none", what, "tmpfs", 0, "")
		case "remount":
			err = unix.Mount("none", what, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		case "unshare":
			err = unix.Unshare(unix.CLONE_NEWNS)
		case "mknod":
			err = unix.Mknod(what, unix.S_IFBLK|0o600, 0)
		case "status":
			err = hasStatus(what)
		case "pid":
			if got := fmt.Sprint(os.Getpid()); got != what {
				err = errors.New(got)
			}
		}
		if err == nil {
			fmt.Println("ok")
		} else {
			fmt.Println(err)
		}
	}
}

// hasStatus looks for a line of /proc/self/status, which words are separated in by tabs.
func hasStatus(line string) error {
	text, err := os.ReadFile("/proc/self/status")
	if err == nil && !strings.Contains(string(text), strings.ReplaceAll(line, " ", "\t")+"\n") {
		err = errors.New(string(text))
	}
	return err
}

// TestFence has a child try what it should be able to do, and what not.
func TestFence(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	outside, given, own := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{outside, given, own} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(dir string) string { return filepath.Join(dir, "file") }
	address := listener.Addr().String()
	tests := []struct {
		try, want string // what the answer contains
	}{
		{"read " + in(given), "ok"},
		{"read " + in(own), "ok"},
		{"read /etc/passwd", "ok"},
		{"read " + self(t), "ok"},
		{"write " + in(own), "ok"},
		{"write " + filepath.Join(own, "new"), "ok"},
		{"write /dev/null", "ok"},
		{"run /bin/true", "ok"},
		{"pid 1", "ok"},
		{"read /proc/self/status", "ok"},
		{"status NoNewPrivs: 1", "ok"},
		{"status CapEff: 0000000000000000", "ok"},
		{"status CapPrm: 0000000000000000", "ok"},
		{"status CapBnd: 0000000000000000", "ok"},
		{"status CapAmb: 0000000000000000", "ok"},

		{"read " + in(outside), "no such file"},
		{"list " + outside, "no such file"},
		{"read /etc/shadow", "no such file"},
		{"list /root", "no such file"},
		{"list /home", "no such file"},
		{"list /var", "no such file"},
		{"list /sys", "no such file"},
		{"read /dev/kmsg", "no such file"},
		{fmt.Sprintf("read /proc/%d/environ", os.Getpid()), "no such file"},
		{"write " + in(given), "read-only file system"},
		{"write " + filepath.Join(given, "new"), "read-only file system"},
		{"write /tmp/new", "read-only file system"},
		{"write /new", "read-only file system"},
		{"write /usr/bin/new", "read-only file system"},
		{"write /etc/passwd", "read-only file system"},
		{"mount " + own, "operation not permitted"},
		{"remount " + given, "operation not permitted"},
		{"unshare", "operation not permitted"},
		{"mknod " + filepath.Join(own, "disk"), "operation not permitted"},
		{"dial " + address, "unreachable"},
	}
	root := t.TempDir()
	args := make([]string, len(tests))
	for i, tt := range tests {
		args[i] = tt.try
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	fence := &Fence{Readable: []string{self(t), given, given, "/usr", filepath.Join(given, "none"), ""}, Writable: []string{own}, Root: root}
	p, out := start(t, "fenced", func(s *Spec) { s.Fence, s.Args, s.Dir = fence, args, own })
	for i, got := range lines(t, p, out, len(tests)) {
		if want := tests[i].want; got != want && (want == "ok" || !strings.Contains(got, want)) {
			t.Errorf("%s: got %q, want %q", tests[i].try, got, want)
		}
	}
	if exit := p.Wait(); exit.Code != 0 {
		t.Errorf("got %s", exit)
	}
	if text, err := os.ReadFile(in(own)); err != nil || string(text) != "x" {
		t.Errorf("what it wrote: %q, %v", text, err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("at its root: %v, %v", left, err)
	}
	if now, err := os.ReadFile("/proc/self/mounts"); err != nil || string(now) != string(mounts) {
		t.Errorf("mounts of the daemon: %v\n%s", err, now)
	}

	fence.Network = true
	p, out = start(t, "fenced", func(s *Spec) { s.Fence, s.Args, s.Dir = fence, []string{"dial " + address, "read " + in(outside)}, own })
	if got := lines(t, p, out, 2); got[0] != "ok" || !strings.Contains(got[1], "no such file") {
		t.Errorf("with the network: got %q", got)
	}
}

// TestFence_offspring: what a fenced process has started ends with it, in whatever session.
func TestFence_offspring(t *testing.T) {
	fence := &Fence{Readable: []string{self(t)}, Root: t.TempDir()}
	p, out := start(t, "escapes-unmarked", func(s *Spec) { s.Fence = fence })
	lines(t, p, out, 1)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var kid int
	if _, err := fmt.Sscan(string(children), &kid); err != nil {
		// The thread that forked may be another.
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Pid()))
		for _, task := range tasks {
			if text, err := os.ReadFile(task); err == nil && len(text) > 0 {
				_, _ = fmt.Sscan(string(text), &kid)
			}
		}
	}
	if kid == 0 {
		t.Fatal("it has no child: the test shows nothing")
	}
	p.Kill()
	p.Wait()
	awaitGone(t, kid)
}

// TestFence_asNobody: as another user than root it is put up in a user namespace, and
// ends with the daemon.
func TestFence_asNobody(t *testing.T) {
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "proc-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := os.ReadFile(self(t))
	copied, root := filepath.Join(dir, "daemon"), filepath.Join(dir, "root")
	if err := errors.Join(err, os.WriteFile(copied, binary, 0o755), os.Mkdir(root, 0o700), os.Chown(root, nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(copied, root)
	daemon.Env = []string{roleVar + "=fenced-daemon"}
	daemon.Dir, daemon.Stderr = dir, os.Stderr
	if os.Getuid() == 0 {
		daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(bufio.NewReader(stdout), &child); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if err != nil || !strings.Contains(string(status), want) {
			t.Errorf("want %s (%v):\n%s", want, err, status)
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/root", child)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it sees /root: %v", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/usr", child)); err != nil {
		t.Errorf("it does not see /usr: %v", err)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	awaitGone(t, child)
}

func TestFence_faults(t *testing.T) {
	for name, s := range map[string]Spec{
		"detached": {Detached: true}, "private /tmp": {PrivateTmp: t.TempDir()}, "digest": {Digest: "sha256:00"},
	} {
		s.Path, s.Fence = "/bin/true", &Fence{Root: t.TempDir()}
		if _, err := Start(s); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "a fence goes with none") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, path := range []string{"/", "/usr/.."} {
		for _, f := range []Fence{{Readable: []string{path}}, {Writable: []string{path}}} {
			if _, err := Start(Spec{Path: "/bin/true", Fence: &f}); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "shows /") {
				t.Errorf("%+v: got %v", f, err)
			}
		}
	}
	_, err := Start(Spec{Path: "/bin/true", Fence: &Fence{Root: filepath.Join(t.TempDir(), "none")}})
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "sandbox: tmpfs: no such file") {
		t.Errorf("without a root: got %v", err)
	}
	if err := fenceError(fmt.Errorf("fork/exec: %w", syscall.EPERM)); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "a sandbox needs root's CAP_SYS_ADMIN, or user namespaces") {
		t.Errorf("got %v", err)
	}
}

// The helper is told by JSON.
func TestFence_told(t *testing.T) {
	in := helperTask{Fence: &Fence{Readable: []string{"/a"}, Writable: []string{"/b"}, Root: "/c", Network: true}, Dir: "/d"}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out helperTask
	if err := json.Unmarshal(text, &out); err != nil || fmt.Sprint(*out.Fence) != fmt.Sprint(*in.Fence) || out.Dir != in.Dir {
		t.Errorf("got %+v, %v", out, err)
	}
}
