package proc

import (
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The limits' names, and the controllers' where there is one.
const (
	limitMemory    = "memory"
	limitCPU       = "cpu"
	limitPids      = "pids"
	limitOpenFiles = "openFiles"

	byCgroup2 = "cgroup2"
	byCgroup1 = "cgroup1"
	byRlimit  = "rlimit"
)

const (
	// memoryMin is less than any program needs to begin: the kernel would kill it
	// while it is being loaded.
	memoryMin = 1 << 20
	// cpuPeriod is the kernel's own default, in microseconds; cpuMin is the least
	// share that it takes, a quota of a millisecond, of that period.
	cpuPeriod = 100_000
	cpuMin    = 0.01
)

// CheckLimits reports limits that no process could live with. Whether this machine
// can keep one is known when it is set: see [Process.Limits].
func CheckLimits(faults *plugin.Faults, l plugin.Limits) {
	if l.Memory != 0 && l.Memory < memoryMin {
		faults.Add("spec.limits.memory", "is less than a program needs to begin; give 1MiB or more")
	}
	if l.CPU != 0 && l.CPU < cpuMin {
		faults.Add("spec.limits.cpu", "is less than the kernel's least; give %g or more", cpuMin)
	}
}

// holding is what holds one child: its groups, what it sets for itself before it
// becomes the target, and the reaper's entry.
type holding struct {
	Cgroup
	rlimits []rlimit
	// survived is how many of the group's processes had been killed for want of
	// memory when it was adopted: its leader was none of them.
	survived int
	machine  *machine // nil: this one
	unbind   func()   // nil: not bound
}

// hold makes the groups of s and says of each limit what keeps it: a group where
// the machine has one, else an rlimit, else nothing.
func (s Spec) hold() holding {
	h := holding{machine: s.machine}
	l := s.Limits
	if l.Memory == 0 && l.CPU == 0 && l.Pids == 0 && l.OpenFiles == 0 {
		return h
	}
	why := h.on().group(&h.Cgroup, markOf(s.Env), l)
	if l.Memory != 0 && h.status(limitMemory).By == "" {
		h.rlimits = append(h.rlimits, memoryRlimit(l.Memory))
		h.tell(limitMemory, byRlimit, "of each of its processes, by RLIMIT_DATA, and running out of it is not told from other ends; "+why)
	}
	if l.CPU != 0 && h.status(limitCPU).By == "" {
		h.tell(limitCPU, "", "not kept: "+why)
	}
	if l.Pids != 0 && h.status(limitPids).By == "" {
		h.tell(limitPids, "", "not kept, for RLIMIT_NPROC counts all processes of the user: "+why)
	}
	if l.OpenFiles != 0 {
		one, differs := filesRlimit(l.OpenFiles)
		h.rlimits = append(h.rlimits, one)
		h.tell(limitOpenFiles, byRlimit, differs)
	}
	return h
}

// byFork reports whether a plain fork holds the child: all else takes the helper.
func (h holding) byFork() bool { return len(h.rlimits) == 0 && len(h.legacy()) == 0 }

func (h holding) on() *machine {
	if h.machine == nil {
		return thisMachine()
	}
	return h.machine
}

// end kills what is still held, removes the groups and takes the child off the
// reaper's list, in this order: what could not be ended stays listed.
func (h holding) end() {
	if len(h.dirs()) > 0 && h.on().release(h.Cgroup) != nil {
		return
	}
	if h.unbind != nil {
		h.unbind()
	}
}

// explain says whether memory ran out: the kernel killed a process of the group for
// it, the leader ended by such a signal, as far as that is known, and it was not ours.
func (h holding) explain(e plugin.Exit, killed bool) plugin.Exit {
	e.OOM = !killed && (e.Signal == "SIGKILL" || e.Message == exitUnknown) && h.oomKills() > h.survived
	return e
}

// intoGroup makes the fork put the child into its v2 group.
func (l *launch) intoGroup() error {
	if l.held.Unified == "" {
		return nil
	}
	dir, err := l.held.openGroup()
	if err != nil {
		return err
	}
	l.owned = append(l.owned, dir)
	l.attr.Sys.UseCgroupFD, l.attr.Sys.CgroupFD = true, int(dir.Fd())
	return nil
}

// Limits says of each limit that is set what keeps it, or why nothing does. It is
// what an instance answers as a [plugin.Limited].
func (p *Process) Limits() []plugin.LimitStatus {
	var all []plugin.LimitStatus
	for _, one := range p.held.Cgroup.Limits {
		if one.Name != "" {
			all = append(all, one)
		}
	}
	return all
}

// Cgroup returns where the process is held, for a handle; zero when it is not
// limited.
func (p *Process) Cgroup() Cgroup { return p.held.Cgroup }

// instanceOf takes node and instance out of a mark.
func instanceOf(mark string) (node, instance string, err error) {
	parts := strings.Split(mark, "/") // node, adapter, instance, nonce
	if len(parts) < 3 || parts[0] == "" || parts[2] == "" {
		return "", "", fmt.Errorf("%q in the child's environment does not say whose it is", mark)
	}
	return parts[0], parts[2], nil
}
