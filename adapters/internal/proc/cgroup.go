package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// groupEndMax bounds the wait for the killed processes of a group to vanish,
	// groupEndStep is the pace.
	groupEndMax  = 2 * time.Second
	groupEndStep = 2 * time.Millisecond
	// strayGroupsMax bounds the walk for groups of an earlier daemon: a machine has
	// some hundred.
	strayGroupsMax = 50_000

	procsFile = "cgroup.procs"
)

// A Cgroup is where a process is held, and what keeps each of its limits. It is
// comparable and survives as JSON: a handle stores it, and an adopted process gets
// it back by Open. The zero value holds nothing.
type Cgroup struct {
	// Unified is its folder in cgroup v2.
	Unified string `json:"unified,omitempty"`
	// Memory, CPU and Pids are its folders in cgroup v1; some may be the same.
	Memory string `json:"memory,omitempty"`
	CPU    string `json:"cpu,omitempty"`
	Pids   string `json:"pids,omitempty"`
	// Limits are those that are set; unused places have no name.
	Limits [4]plugin.LimitStatus `json:"limits,omitzero"`
}

// Open returns c with those of its folders that are still there. A folder that is
// not one of ours in a hierarchy of this machine is plugin.ErrInvalid: what stands
// in a file must not decide what is killed.
func (c Cgroup) Open() (Cgroup, error) {
	for _, dir := range []*string{&c.Unified, &c.Memory, &c.CPU, &c.Pids} {
		if *dir == "" {
			continue
		}
		if !thisMachine().isOurs(*dir) {
			return Cgroup{}, fmt.Errorf("cgroup %q: %w: it is not one of Patchbay's", *dir, plugin.ErrInvalid)
		}
		if _, err := os.Stat(*dir); err != nil {
			*dir = ""
		}
	}
	return c, nil
}

// isOurs reports whether dir is MOUNT/.../patchbay/NODE/INSTANCE.
func (m *machine) isOurs(dir string) bool {
	if filepath.Clean(dir) != dir || filepath.Base(filepath.Dir(filepath.Dir(dir))) != groupsDir {
		return false
	}
	return slices.ContainsFunc(m.mounts(), func(mount string) bool { return strings.HasPrefix(dir, mount+"/") })
}

func (m *machine) mounts() []string {
	var all []string
	if m.unified != nil {
		all = append(all, m.unified.mount)
	}
	for _, h := range m.legacy {
		all = append(all, h.mount)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// legacy are the v1 folders, each once.
func (c *Cgroup) legacy() []string {
	var all []string
	for _, dir := range []string{c.Memory, c.CPU, c.Pids} {
		if dir != "" && !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

func (c *Cgroup) legacyOf(name string) *string {
	return map[string]*string{limitMemory: &c.Memory, limitCPU: &c.CPU, limitPids: &c.Pids}[name]
}

func (c *Cgroup) dirs() []string {
	if c.Unified == "" {
		return c.legacy()
	}
	return append(c.legacy(), c.Unified)
}

// joins are the files by which a process goes into the groups.
func (c *Cgroup) joins() []string {
	var files []string
	for _, dir := range c.dirs() {
		files = append(files, filepath.Join(dir, procsFile))
	}
	return files
}

func (c *Cgroup) status(name string) plugin.LimitStatus {
	for _, one := range c.Limits {
		if one.Name == name {
			return one
		}
	}
	return plugin.LimitStatus{}
}

// tell notes what keeps a limit.
func (c *Cgroup) tell(name, by, message string) {
	for i, one := range c.Limits {
		if one.Name == "" || one.Name == name {
			c.Limits[i] = plugin.LimitStatus{Name: name, By: by, Message: message}
			return
		}
	}
}

// A knob is one file of a group and what is written to it.
type knob struct {
	file, value string
	lacking     string // what is said when the file is not there; "": it must be
}

// Without swap beyond the limit: a plugin that leaks is to end, not to crawl.
const swapLacking = "swap is not counted: this kernel does not account for it"

func knobs2(name string, l plugin.Limits) []knob {
	switch name {
	case limitMemory:
		return []knob{{file: "memory.max", value: decimal(l.Memory)}, {"memory.swap.max", "0", swapLacking}}
	case limitCPU:
		return []knob{{file: "cpu.max", value: fmt.Sprintf("%d %d", quota(l.CPU), cpuPeriod)}}
	}
	return []knob{{file: "pids.max", value: decimal(l.Pids)}}
}

func knobs1(name string, l plugin.Limits) []knob {
	switch name {
	case limitMemory:
		return []knob{{file: "memory.limit_in_bytes", value: decimal(l.Memory)}, {"memory.memsw.limit_in_bytes", decimal(l.Memory), swapLacking}}
	case limitCPU:
		return []knob{{file: "cpu.cfs_period_us", value: decimal(cpuPeriod)}, {file: "cpu.cfs_quota_us", value: decimal(quota(l.CPU))}}
	}
	return []knob{{file: "pids.max", value: decimal(l.Pids)}}
}

func decimal[N ~int | ~int64](n N) string { return strconv.FormatInt(int64(n), 10) }

func quota(cpus float64) int { return int(math.Round(cpus * cpuPeriod)) }

// set reports whether the group took the limit, and notes it then.
func (c *Cgroup) set(name, by, dir string, knobs []knob) bool {
	var message string
	for _, k := range knobs {
		err := writeKnob(filepath.Join(dir, k.file), k.value)
		switch {
		case err != nil && k.lacking != "":
			message = k.lacking
		case err != nil:
			return false
		}
	}
	c.tell(name, by, message)
	return true
}

// writeKnob writes to a file that the kernel made.
func writeKnob(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	_, err = file.WriteString(value)
	return err
}

// oomKills is how many processes of the group the kernel has killed because its
// memory ran out.
func (c *Cgroup) oomKills() int {
	file := filepath.Join(c.Memory, "memory.oom_control")
	if c.Memory == "" {
		file = filepath.Join(c.Unified, "memory.events")
	}
	if c.status(limitMemory).By == byRlimit || !filepath.IsAbs(file) {
		return 0
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return parseOOMKills(string(text))
}

func parseOOMKills(text string) int {
	for line := range strings.Lines(text) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// end kills what is in the groups and removes them.
func (c *Cgroup) end() error {
	var errs []error
	for _, dir := range c.dirs() {
		if err := endGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// endGroup kills until the group can be removed: a process that forks meanwhile
// leaves another one.
func endGroup(dir string) error {
	for deadline := time.Now().Add(groupEndMax); ; time.Sleep(groupEndStep) {
		err := os.Remove(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("cgroup: %w: %s has processes that do not end: %w", plugin.ErrUnavailable, dir, err)
		}
		killGroup(dir)
	}
}

// killGroup kills all members: v2 does that at once.
func killGroup(dir string) {
	if writeKnob(filepath.Join(dir, "cgroup.kill"), "1") == nil {
		return
	}
	members, err := membersOf(dir)
	if err != nil {
		return
	}
	for _, pid := range members {
		killProven(pid, func(pid int) bool { return pid != os.Getpid() && isMember(dir, pid) })
	}
}

func membersOf(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, procsFile))
	if err != nil {
		return nil, err
	}
	var members []int
	for word := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			members = append(members, pid)
		}
	}
	return members, nil
}

func isMember(dir string, pid int) bool {
	members, err := membersOf(dir)
	return err == nil && slices.Contains(members, pid)
}

// StrayCgroups lists the groups of a node's instances that keep does not know. Where
// the daemon's own group was then does not matter: all of every hierarchy is looked
// at.
func StrayCgroups(node string, keep func(instance string) bool) ([]plugin.Stray, error) {
	var strays []plugin.Stray
	for _, mount := range thisMachine().mounts() {
		found, err := strayGroups(mount, node)
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w: %w", plugin.ErrUnavailable, err)
		}
		for _, dir := range found {
			name, _, _ := strings.Cut(filepath.Base(dir), ".")
			instance, err := url.PathUnescape(name)
			if err == nil && !keep(instance) {
				strays = append(strays, plugin.Stray{Kind: kindCgroup, Name: dir, Instance: instance})
			}
		}
	}
	return strays, nil
}

// strayGroups finds .../patchbay/NODE/* below mount.
func strayGroups(mount, node string) (found []string, err error) {
	seen := 0
	ours := filepath.Join(groupsDir, groupName(node))
	err = filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // it went away while we looked
		}
		if seen++; seen > strayGroupsMax {
			return fmt.Errorf("%s has more than %d groups", mount, strayGroupsMax)
		}
		if strings.HasSuffix(filepath.Dir(path), "/"+ours) {
			found = append(found, path)
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// SweepCgroups kills what is in stray groups of a node, removes them, and returns
// those that are gone.
func SweepCgroups(node string, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	m := thisMachine()
	var failed []error
	for _, one := range strays {
		if one.Kind != kindCgroup || !m.isOurs(one.Name) || filepath.Base(filepath.Dir(one.Name)) != groupName(node) {
			failed = append(failed, fmt.Errorf("sweep: %w: %q is no cgroup of node %s", plugin.ErrInvalid, one.Name, node))
			continue
		}
		if err := m.release(Cgroup{Unified: one.Name}); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, one)
	}
	return removed, errors.Join(failed...)
}

// openGroup is for a fork into the v2 group.
func (c *Cgroup) openGroup() (*os.File, error) {
	fd, err := unix.Open(c.Unified, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w: %w", c.Unified, plugin.ErrUnavailable, err)
	}
	return os.NewFile(uintptr(fd), c.Unified), nil
}
