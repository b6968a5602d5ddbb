package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestParseMachine(t *testing.T) {
	for _, tt := range []struct {
		name, mounts, own string
		unified           hierarchy
		legacy            map[string]hierarchy
	}{
		{
			"v2 under systemd",
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/system.slice/patchbay.service/daemon\n",
			hierarchy{"/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/patchbay.service/daemon"}, nil,
		},
		{
			"v1 with controllers together, and an empty v2",
			"30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n" +
				"33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"3:cpu,cpuacct:/\n2:memory:/user/a:b\n1:name=systemd:/x\n0::/\n",
			hierarchy{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"},
			map[string]hierarchy{
				"cpu":    {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
				"memory": {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/user/a:b"},
			},
		},
		{
			"v1 in a container that sees its own part",
			"31 23 0:27 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
			"2:pids:/docker/abc\n",
			hierarchy{}, map[string]hierarchy{"pids": {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids"}},
		},
		{
			"a group outside of what is mounted",
			"31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../other\n",
			hierarchy{"/sys/fs/cgroup", "/sys/fs/cgroup"}, nil,
		},
		{"nothing", "1 1 0:1 / / rw - ext4 /dev/vda rw\nbroken\n - \n", "\n:\n", hierarchy{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := parseMachine(tt.mounts, tt.own)
			var unified hierarchy
			if m.unified != nil {
				unified = *m.unified
			}
			if unified != tt.unified {
				t.Errorf("v2: got %+v, want %+v", unified, tt.unified)
			}
			if len(m.legacy)+len(tt.legacy) > 0 && !cmp.Equal(m.legacy, tt.legacy, cmp.AllowUnexported(hierarchy{})) {
				t.Errorf("v1: got %+v, want %+v", m.legacy, tt.legacy)
			}
		})
	}
}

func FuzzParseMachine(f *testing.F) {
	f.Add("30 23 0:26 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/a/../b\n")
	f.Fuzz(func(t *testing.T, mounts, own string) {
		m := parseMachine(mounts, own)
		for _, h := range m.legacy {
			if h.own != h.mount && !strings.HasPrefix(h.own, filepath.Clean(h.mount)) {
				t.Errorf("own group %q is not in %q", h.own, h.mount)
			}
		}
	})
}

func TestParseOOMKills(t *testing.T) {
	for text, want := range map[string]int{
		"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n": 2, // v2
		"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n":                1, // v1
		"oom_kill_disable 0\nunder_oom 0\n":                            0, // v1 before Linux 4.13
		"":                                                             0,
		"oom_kill x\n":                                                 0,
	} {
		if got := parseOOMKills(text); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestInstanceOf(t *testing.T) {
	for mark, want := range map[string]string{
		"node/provider/p-1": "node p-1", "": "", "node": "", "/provider/p": "", "node/provider/": "", "node/p": "",
	} {
		node, instance, err := instanceOf(mark)
		if got := strings.TrimSpace(node + " " + instance); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", mark, got, err, want)
		}
	}
}

func TestGroupName_leavesItsFolder(t *testing.T) {
	for _, text := range []string{"..", ".", "a/b", "../../x", "host.example", "a b"} {
		if got := groupName(text); strings.ContainsAny(got, "/.") || got == "" {
			t.Errorf("%q: got %q, want no slash and no dot", text, got)
		}
	}
}

// What is written where, on files that stand in for the kernel's.
func TestKnobs(t *testing.T) {
	l := plugin.Limits{Memory: 64 << 20, CPU: 0.5, Pids: 7}
	for by, knobs := range map[string]func(string, plugin.Limits) []knob{byCgroup1: knobs1, byCgroup2: knobs2} {
		dir := t.TempDir()
		got := map[string]string{}
		for _, name := range controllers {
			for _, k := range knobs(name, l) {
				if err := os.WriteFile(filepath.Join(dir, k.file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var c Cgroup
			if !c.set(name, by, dir, knobs(name, l)) || c.status(name).By != by || c.status(name).Message != "" {
				t.Errorf("%s of %s: not taken: %+v", name, by, c)
			}
			for _, k := range knobs(name, l) {
				text, _ := os.ReadFile(filepath.Join(dir, k.file))
				got[k.file] = string(text)
			}
		}
		want := map[string]map[string]string{
			byCgroup1: {"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "67108864",
				"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "pids.max": "7"},
			byCgroup2: {"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "7"},
		}[by]
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", by, diff)
		}
		_ = os.Remove(filepath.Join(dir, "memory.swap.max"))
		_ = os.Remove(filepath.Join(dir, "memory.memsw.limit_in_bytes"))
		var c Cgroup
		if !c.set(limitMemory, by, dir, knobs(limitMemory, l)) || c.status(limitMemory).Message != swapLacking {
			t.Errorf("%s without swap accounting: got %+v", by, c)
		}
	}
}

// unifiedGroup is a group of its own in this machine's cgroup v2.
func unifiedGroup(t *testing.T) (dir string) {
	t.Helper()
	u := thisMachine().unified
	if u == nil {
		t.Fatal("no cgroup v2 is mounted on this machine")
	}
	dir = filepath.Join(u.mount, "proc-test-"+decimal(os.Getpid()))
	if err := os.Mkdir(dir, groupMode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(dir, leafDir))
		if err := endGroup(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A fork puts the child into a v2 group, and one write kills the group.
func TestUnified_forkIntoAndKill(t *testing.T) {
	dir := unifiedGroup(t)
	s := Spec{Path: self(t), Env: []string{noRaceSleep, roleVar + "=escapes"}, Detached: true}
	l, err := s.prepare()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.held.Unified = dir
	if err := l.intoGroup(); err != nil {
		t.Fatal(err)
	}
	pid, pidfd, err := l.fork()
	if err != nil {
		t.Fatal(err)
	}
	if members, err := membersOf(dir); err != nil || len(members) == 0 || members[0] != pid {
		t.Errorf("right after the fork: got %v, %v, want %d", members, err, pid)
	}
	p := watch(pid, pidfd, "", l.held)
	var members []int
	until(t, "the child's own child", func() bool { members, _ = membersOf(dir); return len(members) == 2 })
	killGroup(dir)
	if e := p.Wait(); e.Signal != "SIGKILL" || e.OOM {
		t.Errorf("got %+v, want SIGKILL", e)
	}
	for _, pid := range members {
		awaitGone(t, pid)
	}
	<-p.gone
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group is left (%v)", err)
	}
}

// Ours begin where systemd has delegated, at the daemon's own group or above it.
func TestUnified_baseIsWhatWasDelegated(t *testing.T) {
	dir := unifiedGroup(t)
	leaf := filepath.Join(dir, leafDir)
	if err := os.Mkdir(leaf, groupMode); err != nil {
		t.Fatal(err)
	}
	mount := thisMachine().unified.mount
	for _, own := range []string{dir, leaf, mount} {
		if got := (&machine{unified: &hierarchy{mount, own}}).base(); got != mount {
			t.Errorf("nothing delegated, own %s: got %s, want the root", own, got)
		}
	}
	if err := unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{dir, leaf} {
		if got := (&machine{unified: &hierarchy{mount, own}}).base(); got != dir {
			t.Errorf("delegated, own %s: got %s, want %s", own, got, dir)
		}
	}
}

// Only leaves may have processes: the daemon makes room in its own group.
func TestUnified_emptyIntoALeaf(t *testing.T) {
	dir := unifiedGroup(t)
	p, out := start(t, "block", nil)
	lines(t, p, out, 1)
	if err := writeKnob(filepath.Join(dir, procsFile), decimal(p.Pid())); err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(dir, leafDir)
	if err := new(machine).emptyInto(leaf, dir); err != nil {
		t.Fatal(err)
	}
	if !isMember(leaf, p.Pid()) || isMember(dir, p.Pid()) {
		t.Error("the process is not in the leaf")
	}
	_ = syscall.Kill(p.Pid(), syscall.SIGKILL)
	p.Wait()
	until(t, "an empty leaf", func() bool { members, _ := membersOf(leaf); return len(members) == 0 })
}

// Without controllers in v2 the limits are v1's, and without v1 the message says
// why.
func TestUnified_withoutControllers(t *testing.T) {
	m := &machine{unified: &hierarchy{t.TempDir(), ""}}
	if err := os.WriteFile(filepath.Join(m.unified.mount, "cgroup.controllers"), []byte("hugetlb io\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c Cgroup
	why := m.group(&c, "n/a/i", plugin.Limits{CPU: 1})
	if c != (Cgroup{}) || !strings.Contains(why, "no such controller") || !strings.Contains(why, "no cgroup v1 of cpu") {
		t.Errorf("got %+v, %q", c, why)
	}
}
