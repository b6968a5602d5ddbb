//go:build vm

package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// limited is the block of a manifest with a limit of each sort.
const limited = "  limits: {memory: 256MiB, cpu: 1.5, pids: 100, openFiles: 256}\n"

// kept is what the status says of them on a machine with cgroup v2 alone. The guest
// has no swap to account for.
func kept() []plugin.LimitStatus {
	return []plugin.LimitStatus{
		{Name: "memory", By: "cgroup2"}, {Name: "cpu", By: "cgroup2"}, {Name: "pids", By: "cgroup2"}, {Name: "openFiles", By: "rlimit"},
	}
}

// TestGroups is what limits are for, from the manifest to the group and its end, by
// way of a daemon that dies.
func TestGroups(t *testing.T) {
	d := serve(t, folder(t))
	var kinds []kind
	for _, k := range processKinds() {
		if k.detached {
			kinds = append(kinds, k)
			d.apply(k.manifest(habits{}) + limited)
		}
	}
	before := map[string]plugin.Resource{}
	for _, k := range kinds {
		before[k.name] = d.until(k.name, plugin.Running)
	}
	d.poll(patience, "records", func() error { return d.recorded(len(kinds)) })
	d.kill()
	d = d.again()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { d.inGroup(t, k, before[k.name]) })
	}
}

// recorded wants that so many instances can be adopted.
func (d *daemon) recorded(n int) error {
	if all := d.records(); len(all) != n {
		return fmt.Errorf("got %v, want %d", all, n)
	}
	return nil
}

func (d *daemon) inGroup(t *testing.T, k kind, before plugin.Resource) {
	r := d.until(k.name, plugin.Running)
	if pidOf(t, r) != pidOf(t, before) {
		t.Errorf("got pid %d, want %d: it was not adopted", pidOf(t, r), pidOf(t, before))
	}
	for _, status := range []plugin.Status{before.Status, r.Status} {
		if diff := cmp.Diff(kept(), status.Limits); diff != "" {
			t.Errorf("what keeps the limits (-want +got):\n%s", diff)
		}
	}
	group := groupOf(t, pidOf(t, r))
	for file, want := range map[string]string{"memory.max": "268435456", "cpu.max": "150000 100000", "pids.max": "100"} {
		if text, err := os.ReadFile(filepath.Join(group, file)); err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("%s: got %q, %v, want %s", file, text, err, want)
		}
	}
	if answer, err := d.call(k.name, k.echo, k.echoData); err != nil {
		t.Errorf("a call: %s, %v", answer, err)
	}
	if err := d.Delete(t.Context(), k.name, client.Expect{}); err != nil {
		t.Fatal(err)
	}
	d.poll(healMax, "the end of its group", func() error {
		if _, err := os.Stat(group); err == nil {
			return fmt.Errorf("%s is there", group)
		}
		return nil
	})
	if err := d.nothingStray(); err != nil {
		t.Error(err)
	}
}

// groupOf is the folder of a process's group, which is below the daemon's own: that
// was delegated to it, and it has made room there.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	name, found := strings.CutPrefix(strings.TrimSpace(string(text)), "0::")
	if err != nil || !found || !strings.HasPrefix(name, "/system.slice/patchbay.service/patchbay/") {
		t.Fatalf("groups of %d: %q, %v, want one of ours below the daemon's own", pid, text, err)
	}
	return "/sys/fs/cgroup" + name
}

// TestGroups_forks: a plugin that is refused a child goes on.
func TestGroups_forks(t *testing.T) {
	d := serve(t, folder(t))
	d.apply(faulty("forks", "  limits: {pids: 60}\n"))
	r := d.until("faulty", plugin.Running)
	if diff := cmp.Diff([]plugin.LimitStatus{{Name: "pids", By: "cgroup2"}}, r.Status.Limits); diff != "" {
		t.Errorf("what keeps the limit (-want +got):\n%s", diff)
	}
	d.poll(patience, "its last words", func() error {
		said := d.printed(cell{kind: kind{name: "faulty"}})
		if len(said) == 0 || !strings.HasPrefix(said[len(said)-1].Message, "refused after ") {
			return fmt.Errorf("got %v, want that it is refused", said)
		}
		return nil
	})
	if answer, err := d.call("faulty", "echo", `{"a": 1}`); err != nil {
		t.Errorf("a call: %s, %v", answer, err)
	}
	if _, err := d.Stop(t.Context(), "faulty"); err != nil {
		t.Fatal(err)
	}
	d.poll(healMax, "the end of its children", d.nobody)
}

// TestGroups_leak: memory that ran out is told from a kill.
func TestGroups_leak(t *testing.T) {
	d := serve(t, folder(t))
	d.apply(faulty("leak", "  limits: {memory: 96MiB}\n  restart: {policy: never}\n"))
	r := d.until("faulty", plugin.Failed)
	if e := r.Status.LastExit; e == nil || !e.OOM || e.Signal != "SIGKILL" || !strings.Contains(r.Status.Message, "memory") {
		t.Errorf("got %+v, %q, want a SIGKILL because memory ran out", e, r.Status.Message)
	}
	d.apply(faulty("none", "  limits: {memory: 96MiB}\n  restart: {policy: never}\n"))
	if err := syscall.Kill(pidOf(t, d.until("faulty", plugin.Running)), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r = d.until("faulty", plugin.Failed)
	if e := r.Status.LastExit; e == nil || e.OOM || e.Signal != "SIGKILL" {
		t.Errorf("a kill: got %+v, want a SIGKILL and nothing of memory", e)
	}
}

// TestGroups_leakOfAnAdoptedOne: so it is of one that an earlier daemon started,
// whatever the kernel tells of its end.
func TestGroups_leakOfAnAdoptedOne(t *testing.T) {
	const once = "  limits: {memory: 96MiB}\n  restart: {policy: never}\n"
	for _, oom := range []bool{true, false} {
		t.Run(fmt.Sprint(oom), func(t *testing.T) {
			d := serve(t, folder(t))
			d.apply(faulty("leakcalled", once))
			before := d.until("faulty", plugin.Running)
			d.poll(patience, "its record", func() error { return d.recorded(1) })
			d.kill()
			d = d.again()
			pid := pidOf(t, d.until("faulty", plugin.Running))
			if pid != pidOf(t, before) {
				t.Fatalf("got process %d, want %d: it was not adopted", pid, pidOf(t, before))
			}
			if oom {
				_, _ = d.call("faulty", "echo", `{}`) // it never answers
			} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r := d.until("faulty", plugin.Failed)
			e := r.Status.LastExit
			if e == nil || e.OOM != oom || strings.Contains(r.Status.Message, "out of memory") != oom {
				t.Fatalf("got %+v, %q, want OOM %t", e, r.Status.Message, oom)
			}
			if unknown := e.Code == -1 && strings.Contains(e.Message, "exit code is not known"); e.Signal != "SIGKILL" && !unknown {
				t.Errorf("got %+v, want SIGKILL, or that nobody tells", e)
			}
		})
	}
}
