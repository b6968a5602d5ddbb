package proc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Descriptor copies descriptor n of the process, which is what it inherited as
// ExtraFiles[n-3] unless it closed that. So a socket that the process only keeps
// passes from one daemon to the next. The kernel allows it to root, and to the
// process's own user where /proc/sys/kernel/yama/ptrace_scope is 0.
func (p *Process) Descriptor(n int) (*os.File, error) {
	if p.pidfd == nil {
		return nil, fmt.Errorf("descriptor %d: %w: this kernel has no pidfd", n, plugin.ErrUnavailable)
	}
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w: %w", n, plugin.ErrUnavailable, err)
	}
	var fd int
	var inner error
	if err = conn.Control(func(pidfd uintptr) { fd, inner = unix.PidfdGetfd(int(pidfd), n, 0) }); err == nil {
		err = inner
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w: %w", n, plugin.ErrUnavailable, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d of process %d", n, p.pid)), nil
}
