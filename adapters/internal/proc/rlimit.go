package proc

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// rlimit is one that the helper sets, soft and hard, before it becomes the target.
type rlimit struct {
	Resource int    `json:"resource"`
	Value    uint64 `json:"value"`
}

// memoryRlimit takes RLIMIT_DATA, which counts private writable memory (Linux 4.7).
// RLIMIT_AS would count reserved addresses, of which Go, Java and Node take far
// more than they ever use.
func memoryRlimit(bytes plugin.Bytes) rlimit { return rlimit{unix.RLIMIT_DATA, uint64(bytes)} }

// filesRlimit is at most the daemon's own hard limit where it may not raise that.
func filesRlimit(files int) (_ rlimit, differs string) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil && own.Max < uint64(files) && !mayRaise() {
		return rlimit{unix.RLIMIT_NOFILE, own.Max}, fmt.Sprintf("it is %d: the daemon may have no more itself, nor give more", own.Max)
	}
	return rlimit{unix.RLIMIT_NOFILE, uint64(files)}, ""
}

// mayRaise reports whether the daemon may go beyond its hard limits.
func mayRaise() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 64 capabilities
	err := unix.Capget(&header, &sets[0])
	return err == nil && sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// set is for the helper. It goes through syscall, which otherwise puts the limit of
// open files back at exec: the runtime raises its own at the start.
func (r rlimit) set() error {
	if err := syscall.Setrlimit(r.Resource, &syscall.Rlimit{Cur: r.Value, Max: r.Value}); err != nil {
		return fmt.Errorf("rlimit %d to %d: %w", r.Resource, r.Value, err)
	}
	return nil
}
