package proc

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// markVariable is in the environment of every child, and so of all that it
	// starts: NODE/ADAPTER/INSTANCE/NONCE, the last made by Start. It finds what escaped the group, and what
	// was started by a daemon that died before it could write that down.
	markVariable = "PATCHBAY_INSTANCE"
	// nonceBytes tells the processes of one instance apart: the end of one takes
	// along what bears its own mark only.
	nonceBytes              = 4
	kindProcess, kindCgroup = "process", "cgroup" // of strays
	// environBytesMax bounds what is read of a process's environment: all that
	// execve allows for it and the arguments.
	environBytesMax = 2 << 20
	// strayWordsMax bounds a stray's command line in what people are shown.
	strayWordsMax = 80
)

// Mark is the value of the mark that Environ gives an instance's processes.
func Mark(l plugin.Launch) string {
	return l.Node + "/" + l.Manifest.Spec.Adapter + "/" + l.ID
}

// ownMark returns env with a mark that no other process has had.
func ownMark(env []string) []string {
	env = slices.Clone(env)
	for i, pair := range env {
		if strings.HasPrefix(pair, markVariable+"=") {
			var nonce [nonceBytes]byte
			rand.Read(nonce[:]) // never fails: crypto/rand
			env[i] += "/" + hex.EncodeToString(nonce[:])
		}
	}
	return env
}

// Bears reports whether a handle is of a process of l's instance.
func (h Handle) Bears(l plugin.Launch) bool { return strings.HasPrefix(h.Mark, Mark(l)+"/") }

// markOf finds the mark in an environment.
func markOf(env []string) string {
	for _, pair := range env {
		if mark, ok := strings.CutPrefix(pair, markVariable+"="); ok {
			return mark
		}
	}
	return ""
}

// readMark returns the mark of a process; "" when it has none, is a zombie, or may
// not be looked at.
func readMark(pid int) string {
	file, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, environBytesMax))
	if err != nil {
		return ""
	}
	for pair := range bytes.SplitSeq(text, []byte{0}) {
		if mark, ok := bytes.CutPrefix(pair, []byte(markVariable+"=")); ok {
			return string(mark)
		}
	}
	return ""
}

// pids lists all processes but this one.
func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
			all = append(all, pid)
		}
	}
	return all, nil
}

// killProven sends SIGKILL to a process that proved holds for after it cannot be
// replaced by another any more. It reports whether it was sent.
func killProven(pid int, proved func(pid int) bool) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(pidfd) }()
	return proved(pid) && unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) == nil
}

// killMarked kills every process that bears the mark.
func killMarked(mark string) {
	if mark == "" {
		return
	}
	all, err := pids()
	if err != nil {
		return
	}
	for _, pid := range all {
		if bears := func(pid int) bool { return readMark(pid) == mark }; bears(pid) {
			killProven(pid, bears)
		}
	}
}

// Strays lists the processes that bear the node's mark for an adapter and an
// instance that keep does not know, and the cgroups of such instances, of whatever
// adapter.
func Strays(node, adapter string, keep func(instance string) bool) ([]plugin.Stray, error) {
	all, err := pids()
	if err != nil {
		return nil, fmt.Errorf("strays: %w: %w", plugin.ErrUnavailable, err)
	}
	var strays []plugin.Stray
	for _, pid := range all {
		rest, ok := strings.CutPrefix(readMark(pid), node+"/"+adapter+"/")
		if instance, _, _ := strings.Cut(rest, "/"); ok && !keep(instance) {
			strays = append(strays, plugin.Stray{
				Kind: kindProcess, Name: strconv.Itoa(pid), Adapter: adapter, Instance: instance, Detail: program(pid),
			})
		}
	}
	groups, err := StrayCgroups(node, keep)
	for _, one := range groups {
		one.Adapter = adapter
		strays = append(strays, one)
	}
	return strays, err
}

// program is the first word of a command line: the others may hold secrets.
func program(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	word, _, _ := bytes.Cut(text, []byte{0})
	return strings.ToValidUTF8(string(word[:min(len(word), strayWordsMax)]), "\uFFFD")
}

// Sweep kills strays that Strays returned for node, each after it has been proved
// anew, and returns those that it killed.
func Sweep(node string, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	var failed []error
	groups := slices.DeleteFunc(slices.Clone(strays), func(s plugin.Stray) bool { return s.Kind != kindCgroup })
	if removed, err = SweepCgroups(node, groups); err != nil {
		failed = append(failed, err)
	}
	for _, one := range strays {
		if one.Kind == kindCgroup {
			continue
		}
		pid, err := strconv.Atoi(one.Name)
		if err != nil || one.Kind != kindProcess {
			failed = append(failed, fmt.Errorf("sweep: %w: %q is no process", plugin.ErrInvalid, one.Name))
			continue
		}
		mark := node + "/" + one.Adapter + "/" + one.Instance + "/"
		if killProven(pid, func(pid int) bool { return strings.HasPrefix(readMark(pid), mark) }) {
			removed = append(removed, one)
		}
	}
	return removed, errors.Join(failed...)
}
