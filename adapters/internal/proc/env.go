package proc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// defaultPath is what Debian gives root: where programs are, without the
// daemon's own ideas.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environ is the whole environment of a child: PATH, LANG, and the instance's
// own folder as HOME and TMPDIR, then l.Env, which wins, and the mark; sorted.
func Environ(l plugin.Launch) []string {
	all := map[string]string{"PATH": defaultPath, "HOME": l.Dir, "TMPDIR": l.Dir, "LANG": "C.UTF-8"}
	for name, value := range l.Env {
		all[name] = value
	}
	all[markVariable] = Mark(l)
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	sort.Strings(env)
	return env
}

// LookExecutable returns nil when path is a regular file that the daemon may
// execute, and otherwise what is wrong with it.
func LookExecutable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s does not exist", path)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case info.IsDir():
		return fmt.Errorf("%s is a folder, not a program", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Mode()&0o111 == 0, unix.Access(path, unix.X_OK) != nil:
		return fmt.Errorf("%s is not executable; try chmod +x", path)
	}
	return nil
}

// PeerPid returns the process at the other end of a unix socket, as the kernel
// noted it when that end connected or listened.
func PeerPid(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("peer: %w", err)
	}
	return int(cred.Pid), nil
}
