package goplugin

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
)

const (
	// outputPipes is how many pipes go-plugin makes to itself: os.Stdout and
	// os.Stderr.
	outputPipes = 2
	// descriptorsMax bounds the search for them: Linux's usual limit per process.
	descriptorsMax = 1024
	// copiersMost is how long the copiers may take to notice, copiersStep is the
	// pace: they are woken at once, unless the plugin is frozen.
	copiersMost = 50 * time.Millisecond
	copiersStep = time.Millisecond
)

// endCopiers ends what a connection that is gone has left in a net/rpc plugin: for
// each output a goroutine that waits at the pipe, would take the next chunk that the
// plugin prints, write it to the dead connection, and end upon that. It is
// given an empty line instead, to be lost in place of a real one.
//
// It does so only if there is no doubt: the process at the other end of conn has
// exactly two pipes of which it holds both ends, which are go-plugin's, for it never
// closes them. Else, and where the pipe is not to be opened, nothing is done.
func (d *dialer) endCopiers(conn net.Conn) {
	peer, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	pid, err := proc.PeerPid(peer)
	if err != nil {
		return
	}
	dir, err := os.Open(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return
	}
	defer func() { _ = dir.Close() }()
	if !d.Owns(pid) { // asked after opening: the folder is that process's for ever
		return
	}
	ends := ownPipes(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if len(ends) != outputPipes {
		return
	}
	for _, end := range ends {
		wakeReader(end)
	}
}

// ownPipes returns the paths of the writing ends of the pipes of which a process
// holds both; none when it has too many descriptors to be sure.
func ownPipes(process string) []string {
	dir, err := os.Open(filepath.Join(process, "fd"))
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(descriptorsMax)
	if len(names) == descriptorsMax {
		return nil
	}
	writing, reading := map[string]string{}, map[string]bool{}
	for _, name := range names {
		path := filepath.Join(process, "fd", name)
		pipe, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(pipe, "pipe:") {
			continue
		}
		switch access(filepath.Join(process, "fdinfo", name)) {
		case syscall.O_WRONLY:
			writing[pipe] = path
		case syscall.O_RDONLY:
			reading[pipe] = true
		}
	}
	var both []string
	for pipe, path := range writing {
		if reading[pipe] {
			both = append(both, path)
		}
	}
	return both
}

// access reads how a descriptor was opened; -1 when that is not to be known.
func access(fdinfo string) int {
	text, err := os.ReadFile(fdinfo)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
			if err != nil {
				return -1
			}
			return int(flags & syscall.O_ACCMODE)
		}
	}
	return -1
}

// wakeReader writes an empty line to a pipe, and waits until it is read. If the pipe
// holds something nobody is waiting at it, and none is needed.
func wakeReader(path string) {
	pipe, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(pipe) }()
	if pending(pipe) != 0 {
		return
	}
	if _, err := unix.Write(pipe, []byte{'\n'}); err != nil {
		return
	}
	for end := time.Now().Add(copiersMost); pending(pipe) > 0 && time.Now().Before(end); {
		time.Sleep(copiersStep)
	}
}

// pending is how much a pipe holds; -1 when that is not to be known.
func pending(pipe int) int {
	n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ) // FIONREAD
	if err != nil {
		return -1
	}
	return n
}
