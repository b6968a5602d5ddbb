package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// groupsDir is the folder of ours in a hierarchy: patchbay/NODE/INSTANCE.
	groupsDir = "patchbay"
	// leafDir is where the daemon itself moves, below its own v2 group, so that
	// this may have members with controllers: only leaves have processes.
	leafDir = "daemon"
	// livesMax bounds the groups of one instance: one that is being removed while
	// the next process starts (a tool before the plugin itself).
	livesMax = 8
	// moveTries bounds the emptying of the daemon's own group, to which the daemon
	// itself may be adding children.
	moveTries = 8
	// parentTries: see again; to lose the race twice takes some doing.
	parentTries = 2
	// groupMode lets everybody look, as the kernel's own folders do.
	groupMode = 0o755
)

// controllers are what limits need of the kernel.
var controllers = [...]string{limitMemory, limitCPU, limitPids}

// A hierarchy is one mounted tree of groups.
type hierarchy struct {
	mount string // its mount point
	own   string // the daemon's own group in it, a folder at or below mount
}

// A machine is what there is to hold processes with. It is safe for concurrent use.
type machine struct {
	unified *hierarchy           // cgroup v2; nil: not mounted
	legacy  map[string]hierarchy // cgroup v1, by controller

	mu    sync.Mutex // held while groups and their folders are made and removed
	base2 string     // where ours begin in unified, once found
}

// thisMachine is looked at once: hierarchies are mounted at boot.
var thisMachine = sync.OnceValue(func() *machine {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return &machine{}
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &machine{}
	}
	return parseMachine(string(mounts), string(own))
})

// parseMachine reads mountinfo (proc_pid_mountinfo(5)) and /proc/self/cgroup
// (cgroups(7)).
func parseMachine(mounts, own string) *machine {
	m := &machine{legacy: map[string]hierarchy{}}
	groups := ownGroups(own)
	for line := range strings.Lines(mounts) {
		front, back, ok := strings.Cut(line, " - ")
		first, last := strings.Fields(front), strings.Fields(back)
		if !ok || len(first) < 5 || len(last) < 3 {
			continue
		}
		root, mount, options := first[3], first[4], strings.Split(last[2], ",")
		switch last[0] {
		case "cgroup2":
			m.unified = &hierarchy{mount, below(mount, root, groups[""])}
		case "cgroup":
			for _, c := range controllers {
				if slices.Contains(options, c) {
					m.legacy[c] = hierarchy{mount, below(mount, root, groups[c])}
				}
			}
		}
	}
	return m
}

// ownGroups maps controllers to the daemon's group, "" being v2.
func ownGroups(text string) map[string]string {
	groups := map[string]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			groups[c] = parts[2]
		}
	}
	return groups
}

// below is the folder of a group in a mount that shows the hierarchy from root on;
// the mount itself when the group is not to be seen there.
func below(mount, root, group string) string {
	rest, ok := strings.CutPrefix(group, strings.TrimSuffix(root, "/"))
	if !ok || rest != "" && rest[0] != '/' || strings.Contains(rest, "/..") {
		return mount
	}
	return filepath.Join(mount, rest)
}

// group makes the groups that keep memory, cpu and pids, as far as there are any,
// and says why the rest is not kept.
func (m *machine) group(c *Cgroup, mark string, l plugin.Limits) (why string) {
	if l.Memory == 0 && l.CPU == 0 && l.Pids == 0 {
		return ""
	}
	node, instance, err := instanceOf(mark)
	if err != nil {
		return err.Error()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := []error{again(func() error { return m.groupUnified(c, node, instance, l) })}
	for _, name := range controllers {
		if asked(name, l) && c.status(name).By == "" {
			errs = append(errs, again(func() error { return m.groupLegacy(c, name, node, instance, l) }))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}

// again makes a group once more when another daemon of the node's name has just
// removed the folder above it, empty.
func again(make func() error) error {
	err := make()
	for range parentTries {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = make()
	}
	return err
}

func asked(name string, l plugin.Limits) bool {
	return name == limitMemory && l.Memory != 0 || name == limitCPU && l.CPU != 0 || name == limitPids && l.Pids != 0
}

// groupUnified makes one group for all limits whose controllers are delegated.
func (m *machine) groupUnified(c *Cgroup, node, instance string, l plugin.Limits) error {
	if m.unified == nil {
		return errors.New("no cgroup v2 is mounted")
	}
	base := m.base()
	available, err := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup v2: %w", err)
	}
	var wanted []string
	for _, name := range controllers {
		if asked(name, l) && slices.Contains(strings.Fields(string(available)), name) {
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return errors.New("cgroup v2 has no such controller for us")
	}
	parent := parentGroup(base, node)
	if err := m.delegate(base, parent, wanted); err != nil {
		return fmt.Errorf("cgroup v2: %w", err)
	}
	dir, err := makeGroup(parent, instance)
	if err != nil {
		return fmt.Errorf("cgroup v2: %w", err)
	}
	c.Unified = dir
	kept := false
	for _, name := range wanted {
		kept = c.set(name, byCgroup2, dir, knobs2(name, l)) || kept
	}
	if !kept {
		c.Unified = ""
		return errors.Join(errors.New("cgroup v2 takes no limit"), os.Remove(dir))
	}
	return nil
}

// base is where our groups begin in v2: the daemon's own group, or the one above
// it, where that was delegated to the daemon (systemd's Delegate= leaves a mark);
// else the root, which may have both processes and controllers.
func (m *machine) base() string {
	if m.base2 == "" {
		m.base2 = m.unified.mount
		for _, dir := range []string{m.unified.own, filepath.Dir(m.unified.own)} {
			if dir != m.unified.mount && strings.HasPrefix(dir, m.unified.mount) && isDelegated(dir) {
				m.base2 = dir
				break
			}
		}
	}
	return m.base2
}

func isDelegated(dir string) bool {
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		var value [1]byte
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil && n == 1 && value[0] == '1' {
			return true
		}
	}
	return false
}

// delegate makes the folders from base to parent and hands the controllers down.
func (m *machine) delegate(base, parent string, wanted []string) error {
	for _, dir := range []string{base, filepath.Dir(parent), parent} {
		if err := os.Mkdir(dir, groupMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, name := range wanted {
			err := enable(dir, name)
			if errors.Is(err, unix.EBUSY) && dir == base {
				if err = m.emptyInto(filepath.Join(base, leafDir), base); err == nil {
					err = enable(dir, name)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func enable(dir, controller string) error {
	return writeKnob(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
}

// emptyInto moves the processes of a group, which is the daemon's own, into a leaf
// below it.
func (m *machine) emptyInto(leaf, group string) error {
	if err := os.Mkdir(leaf, groupMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for range moveTries {
		members, err := membersOf(group)
		if err != nil || len(members) == 0 {
			return err
		}
		for _, pid := range members {
			if err := writeKnob(filepath.Join(leaf, procsFile), strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// groupLegacy makes a group for one limit, below the daemon's own or else below the
// root of the controller's hierarchy.
func (m *machine) groupLegacy(c *Cgroup, name, node, instance string, l plugin.Limits) error {
	h, ok := m.legacy[name]
	if !ok {
		return fmt.Errorf("no cgroup v1 of %s is mounted", name)
	}
	var errs []error
	for _, base := range slices.Compact([]string{h.own, h.mount}) {
		parent := parentGroup(base, node)
		err := os.MkdirAll(parent, groupMode)
		var dir string
		if err == nil {
			dir, err = c.groupIn(parent, instance)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cgroup v1: %w", err))
			continue
		}
		if c.set(name, byCgroup1, dir, knobs1(name, l)) {
			*c.legacyOf(name) = dir
			return nil
		}
		errs = append(errs, fmt.Errorf("cgroup v1 takes no limit of %s", name))
		if !slices.Contains(c.dirs(), dir) {
			_ = os.Remove(dir)
		}
	}
	return errors.Join(errs...)
}

// groupIn makes the instance's group, unless another controller of the same
// hierarchy has it already.
func (c *Cgroup) groupIn(parent, instance string) (string, error) {
	for _, dir := range c.legacy() {
		if filepath.Dir(dir) == parent {
			return dir, nil
		}
	}
	return makeGroup(parent, instance)
}

// makeGroup makes a group that nobody else is in: INSTANCE, or INSTANCE.N.
func makeGroup(parent, instance string) (string, error) {
	dir := filepath.Join(parent, groupName(instance))
	for n := 2; ; n++ {
		err := os.Mkdir(dir, groupMode)
		if err == nil || !errors.Is(err, fs.ErrExist) || n > livesMax {
			return dir, err
		}
		dir = filepath.Join(parent, groupName(instance)+"."+strconv.Itoa(n))
	}
}

func parentGroup(base, node string) string { return filepath.Join(base, groupsDir, groupName(node)) }

// groupName makes one folder's name of any text; the dot stays free for a number.
func groupName(text string) string {
	return strings.ReplaceAll(url.PathEscape(text), ".", "%2E")
}

// release removes the groups, with all that runs in them, and folders of ours that
// are empty then.
func (m *machine) release(c Cgroup) error {
	err := c.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, dir := range c.dirs() {
		if os.Remove(filepath.Dir(dir)) == nil {
			_ = os.Remove(filepath.Dir(filepath.Dir(dir)))
		}
	}
	return err
}
