package proc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// markVariable is in the environment of every child, and so of all that it
	// starts: NODE/ADAPTER/INSTANCE.
	markVariable = "PATCHBAY_INSTANCE"
	// environBytesMax bounds what is read of a process's environment: all that
	// execve allows for it and the arguments.
	environBytesMax = 2 << 20
)

// Mark is the value of the mark that Environ gives an instance's processes.
func Mark(l plugin.Launch) string {
	return l.Node + "/" + l.Manifest.Spec.Adapter + "/" + l.ID
}

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
