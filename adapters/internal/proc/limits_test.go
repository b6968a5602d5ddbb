package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// press plays children that want more than they may have.
func press(role string) {
	switch role {
	case "leaking-child": // the leader copes with the end of its child
		kid := exec.Command(os.Args[0])
		kid.Env = []string{noRaceSleep, roleVar + "=leak"}
		fmt.Println(kid.Run())
	case "leak":
		leak()
	case "leak-when-told":
		awaitWord()
		leak()
	case "leaking-child-when-told":
		awaitWord()
		press("leaking-child")
	case "forks":
		n := 0
		for n < 200 {
			kid := exec.Command("/bin/cat") // one thread; ends with its parent
			if _, err := kid.StdinPipe(); err != nil || kid.Start() != nil {
				break
			}
			n++
		}
		fmt.Println(n)
	case "files":
		var files []*os.File
		for len(files) < 2000 {
			f, err := os.Open(os.DevNull)
			if err != nil {
				break
			}
			files = append(files, f)
		}
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
		fmt.Println(len(files), limit.Max)
		runtime.KeepAlive(files)
	case "burn":
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
		}
		var used syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
		fmt.Println(time.Duration(used.Utime.Nano() + used.Stime.Nano()).Milliseconds())
	case "where":
		groups, _ := os.ReadFile("/proc/self/cgroup")
		fmt.Println(strings.ReplaceAll(string(groups), "\n", " "))
	}
}

// awaitWord returns once tell has written.
func awaitWord() {
	pipe, err := os.Open("/tmp/leak")
	if err != nil {
		panic(err)
	}
	if _, err := pipe.Read(make([]byte, 1)); err != nil {
		panic(err)
	}
}

// leak takes memory until there is none, a gigabyte at most.
func leak() {
	var kept [][]byte
	for range 1024 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	runtime.KeepAlive(kept)
}

// limited changes a Spec to one with limits, whose groups bear the test's name.
func limited(t *testing.T, l plugin.Limits) func(*Spec) {
	return func(s *Spec) {
		s.Limits = l
		s.Env = append(s.Env, markVariable+"="+markFor(t))
	}
}

// groupsGone waits until the process's groups are removed.
func groupsGone(t *testing.T, p *Process) {
	t.Helper()
	<-p.gone
	c := p.Cgroup()
	if len(c.dirs()) == 0 {
		t.Error("it had no group")
	}
	for _, dir := range c.dirs() {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("group %s is left (%v)", dir, err)
		}
	}
}

// byGroup fails unless a group keeps each limit that is named. A machine on which
// these tests run has cgroups: as root, in a container with its own.
func byGroup(t *testing.T, p *Process, names ...string) {
	t.Helper()
	var got []string
	for _, one := range p.Limits() {
		if one.By != byCgroup1 && one.By != byCgroup2 {
			t.Errorf("limit %s: kept by %q (%s), want a cgroup", one.Name, one.By, one.Message)
		}
		got = append(got, one.Name)
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
}

func TestLimits_memoryRunsOut(t *testing.T) {
	for name, tmp := range map[string]string{"plain": "", "private tmp": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			p, _ := start(t, "leak", func(s *Spec) {
				limited(t, plugin.Limits{Memory: 64 << 20})(s)
				s.PrivateTmp = tmp
			})
			byGroup(t, p, limitMemory)
			if got := p.Wait(); !got.OOM || got.Signal != "SIGKILL" {
				t.Errorf("got %+v, want OOM by SIGKILL", got)
			}
			groupsGone(t, p)
		})
	}
}

func TestLimits_aKillIsNotOutOfMemory(t *testing.T) {
	p, out := start(t, "block", limited(t, plugin.Limits{Memory: 64 << 20}))
	lines(t, p, out, 1)
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := p.Wait(); got.OOM || got.Signal != "SIGKILL" {
		t.Errorf("got %+v, want SIGKILL and no OOM", got)
	}
	groupsGone(t, p)
}

func TestLimits_ourOwnKillIsNotOutOfMemory(t *testing.T) {
	p, out := start(t, "leaking-child", limited(t, plugin.Limits{Memory: 64 << 20}))
	if got := lines(t, p, out, 2); got[0] != "signal: killed" || got[1] != "ready" {
		t.Fatalf("the child of the child: %q, want that it was killed", got)
	}
	c := p.Cgroup()
	if n := c.oomKills(); n != 1 {
		t.Errorf("got %d kills for memory, want 1", n)
	}
	p.Kill()
	if got := p.Wait(); got.OOM || got.Signal != "SIGKILL" {
		t.Errorf("got %+v, want our SIGKILL and no OOM", got)
	}
}

func TestLimits_processes(t *testing.T) {
	const most = 40
	p, out := start(t, "forks", limited(t, plugin.Limits{Pids: most}))
	byGroup(t, p, limitPids)
	if n := number(t, lines(t, p, out, 1)[0]); n < 1 || n >= most {
		t.Errorf("got %d children, want some and less than %d", n, most)
	}
	p.Kill()
	groupsGone(t, p)
}

func TestLimits_processor(t *testing.T) {
	p, out := start(t, "burn", limited(t, plugin.Limits{CPU: 0.2}))
	byGroup(t, p, limitCPU)
	if ms := number(t, lines(t, p, out, 1)[0]); ms > 500 {
		t.Errorf("got %d ms of processor time in a second, want about 200", ms)
	}
}

func TestLimits_openFiles(t *testing.T) {
	p, out := start(t, "files", func(s *Spec) { s.Limits.OpenFiles = 50 })
	var n, hard int
	if _, err := fmt.Sscan(lines(t, p, out, 1)[0], &n, &hard); err != nil || n < 30 || n >= 50 || hard != 50 {
		t.Errorf("got %d files open, hard limit %d, %v; want nearly 50 of 50", n, hard, err)
	}
	want := []plugin.LimitStatus{{Name: limitOpenFiles, By: byRlimit}}
	if diff := cmp.Diff(want, p.Limits()); diff != "" {
		t.Error(diff)
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil || own.Cur <= 50 {
		t.Errorf("the daemon's own limit: %+v, %v", own, err)
	}
}

func TestLimits_heldFromTheFirstInstruction(t *testing.T) {
	all := plugin.Limits{Memory: 256 << 20, CPU: 1.5, Pids: 100, OpenFiles: 100}
	p, out := start(t, "where", limited(t, all))
	got := lines(t, p, out, 1)[0]
	c := p.Cgroup()
	for _, dir := range c.dirs() {
		if _, at, _ := strings.Cut(dir, groupsDir+"/"); !strings.Contains(got, groupsDir+"/"+at+" ") {
			t.Errorf("the child is in %q, want %s", got, dir)
		}
	}
	if n := len(p.Limits()); n != 4 {
		t.Errorf("got %d limits told, want 4: %v", n, p.Limits())
	}
	again, err := c.Open()
	if err != nil || again != c {
		t.Errorf("opened again: got %+v, %v, want %+v", again, err, c)
	}
	p.Kill()
	groupsGone(t, p)
	if gone, err := c.Open(); err != nil || len(gone.dirs()) != 0 {
		t.Errorf("opened once gone: got %+v, %v, want no folder", gone, err)
	}
}

func TestLimits_theGroupTakesEverythingAlong(t *testing.T) {
	p, out := start(t, "escapes", limited(t, plugin.Limits{Pids: 100}))
	lines(t, p, out, 1)
	c := p.Cgroup()
	members, err := membersOf(c.dirs()[0])
	if err != nil || len(members) != 2 {
		t.Fatalf("members: %v, %v, want two", members, err)
	}
	if err := p.Stop(within(t, 5*time.Second), nil); err != nil {
		t.Error(err)
	}
	for _, pid := range members {
		awaitGone(t, pid)
	}
	groupsGone(t, p)
}

func TestLimits_twoLivesAtOnce(t *testing.T) {
	first, _ := start(t, "block", limited(t, plugin.Limits{Pids: 100}))
	second, _ := start(t, "block", limited(t, plugin.Limits{Pids: 100}))
	a, b := first.Cgroup(), second.Cgroup()
	if a.dirs()[0]+".2" != b.dirs()[0] {
		t.Errorf("got groups %s and %s, want one more of the same name", a.dirs()[0], b.dirs()[0])
	}
	first.Kill()
	groupsGone(t, first)
	if second.ended() {
		t.Error("the second ended with the first")
	}
}

// Where there are no groups, memory is kept by an rlimit and the rest is told.
func TestLimits_withoutGroups(t *testing.T) {
	p, out := start(t, "leak", func(s *Spec) {
		limited(t, plugin.Limits{Memory: 256 << 20, CPU: 1, Pids: 100})(s)
		s.machine = &machine{}
	})
	got := map[string]string{}
	for _, one := range p.Limits() {
		got[one.Name] = one.By
		if !strings.Contains(one.Message, "no cgroup") {
			t.Errorf("%s: got message %q, want why there is no group", one.Name, one.Message)
		}
	}
	if diff := cmp.Diff(map[string]string{limitMemory: byRlimit, limitCPU: "", limitPids: ""}, got); diff != "" {
		t.Error(diff)
	}
	if e := p.Wait(); e.Success() || e.OOM {
		t.Errorf("got %+v, want a failure of which nobody knows that it is for memory", e)
	}
	if text, _ := os.ReadFile(out); strings.Contains(string(text), "ready") {
		t.Error("the child got a gigabyte")
	}
}

func TestLimits_withoutAName(t *testing.T) {
	p, _ := start(t, "block", func(s *Spec) { s.Limits.Pids = 100 })
	if got := p.Limits(); len(got) != 1 || got[0].By != "" || !strings.Contains(got[0].Message, "whose it is") {
		t.Errorf("got %+v, want that the child has no mark", got)
	}
}

func TestLimits_ofAChildThatCannotStart(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := Spec{Path: text}
	limited(t, plugin.Limits{Memory: 64 << 20, OpenFiles: 20})(&s)
	if _, err := Start(s); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "not a program") {
		t.Errorf("got %v, want invalid and not a program", err)
	}
	none := func(string) bool { return false }
	strays, err := StrayCgroups("node", none)
	for _, one := range strays {
		if strings.HasSuffix(s.Env[0], "/"+one.Instance) {
			t.Errorf("group %s is left", one.Name)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func TestStrayCgroups_areSweptUnlessKept(t *testing.T) {
	const node = "node.of/strays"
	var killed []int
	for _, instance := range []string{"p-1", "p-2"} {
		p, out := start(t, "block", func(s *Spec) {
			s.Limits.Pids = 100
			s.Env = append(s.Env, markVariable+"=nodeofstrays/provider/"+instance)
		})
		lines(t, p, out, 1)
		killed = append(killed, p.Pid())
		moveToStray(t, p, node, instance)
	}
	keep := func(instance string) bool { return instance == "p-1" }
	strays, err := StrayCgroups(node, keep)
	if err != nil || len(strays) != 1 || strays[0].Instance != "p-2" || strays[0].Kind != "cgroup" {
		t.Fatalf("got %+v, %v, want the one of p-2", strays, err)
	}
	if removed, err := SweepCgroups("another", strays); len(removed) != 0 || !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("sweep for another node: got %v, %v", removed, err)
	}
	all, err := StrayCgroups(node, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := SweepCgroups(node, all); err != nil || len(removed) != 2 {
		t.Errorf("sweep: got %v, %v, want both", removed, err)
	}
	for _, pid := range killed {
		awaitGone(t, pid)
	}
}

// moveToStray puts a process into a group as an earlier daemon may have left it:
// nobody waits for it.
func moveToStray(t *testing.T, p *Process, node, instance string) {
	t.Helper()
	c := p.Cgroup()
	base := filepath.Dir(filepath.Dir(c.dirs()[0]))
	dir := filepath.Join(base, groupName(node), groupName(instance))
	if err := os.MkdirAll(dir, groupMode); err != nil {
		t.Fatal(err)
	}
	if err := writeKnob(filepath.Join(dir, procsFile), strconv.Itoa(p.Pid())); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_refusesWhatIsNotOurs(t *testing.T) {
	mount := thisMachine().mounts()[0]
	for _, dir := range []string{"/", mount, mount + "/docker", mount + "/x/../patchbay/n/i", "/tmp/patchbay/n/i", mount + "/patchbay/n"} {
		if _, err := (Cgroup{Pids: dir}).Open(); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%s: got %v, want plugin.ErrInvalid", dir, err)
		}
	}
}

func TestCheckLimits(t *testing.T) {
	var faults plugin.Faults
	CheckLimits(&faults, plugin.Limits{Memory: 1 << 20, CPU: 0.01, Pids: 1, OpenFiles: 16})
	if err := faults.Err(); err != nil {
		t.Errorf("the least: %v", err)
	}
	CheckLimits(&faults, plugin.Limits{Memory: 1, CPU: 0.001})
	if len(faults) != 2 {
		t.Errorf("got %v, want two faults", faults)
	}
}
