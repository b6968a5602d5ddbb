package portable

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
)

// sockets is the folder that the plugin sees as /tmp. Sockets in it are named
// through its descriptor: the folder's own path may be too long for them.
type sockets struct{ dir *os.File }

func openSockets(path string) (sockets, error) {
	dir, err := os.Open(path)
	return sockets{dir}, err
}

func (s sockets) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", s.dir.Fd(), name)
}

func (s sockets) listen(name string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: s.path(name), Net: "unix"})
}

// listenAnew is listen where an earlier daemon may have left its socket.
func (s sockets) listenAnew(name string) (*net.UnixListener, error) {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return s.listen(name)
}

func (s sockets) dial(ctx context.Context, name string, h sp.Handler) (*sp.Conn, error) {
	return sp.Dial(ctx, s.path(name), h)
}

func (s sockets) close() { s.dir.Close() }

// The names of the five kinds of sockets, as the SDKs have them compiled in.

func controlSocket(plugin string) string    { return "plugin_" + plugin + ".ipc" }
func functionSocket(function string) string { return "func_" + function + ".ipc" }
func dataSocket(opID string) string         { return ruleID + "_" + opID + "_0.ipc" }
func ackSocket(opID string) string          { return ruleID + "_" + opID + "_0_ack.ipc" }
