package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// keptSocket is our socket among the descriptors of a detached process: the first
// after the standard ones.
const keptSocket = 3

// A handle is what finds a provider again.
type handle struct {
	Process proc.Handle `json:"process"`
	// Token is the provider's RS_TOKEN, so that it is still kept out of logs.
	Token string `json:"token"`
	// Definition is what define answered, as far as it is read. Asking again may
	// have effects, or another answer.
	Definition plugin.RawJSON `json:"definition"`
}

// parseHandle reads a handle, and the definition in it like define's own answer.
func parseHandle(data []byte) (h handle, d *definition, err error) {
	if len(data) > defineBytesMax {
		return h, nil, fmt.Errorf("handle: %w: %d bytes, more than %d", plugin.ErrInvalid, len(data), defineBytesMax)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, nil, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
	}
	if d, err = parseDefinition(h.Definition); err != nil {
		return h, nil, fmt.Errorf("handle: %w", err)
	}
	return h, d, nil
}

// Handle is for a process that is detached.
func (i *instance) Handle(ctx context.Context) (plugin.RawJSON, error) {
	p, err := i.process.Handle(ctx)
	if err != nil {
		return nil, err
	}
	def, err := json.Marshal(i.def)
	if err != nil {
		return nil, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
	}
	return json.Marshal(handle{Process: p, Token: i.token, Definition: def})
}

// Leave returns once nothing in the daemon serves the process any more.
func (i *instance) Leave() {
	i.process.Leave()
	<-i.done
}

// Adopt takes over a provider that an earlier daemon configured. It is not
// configured again: some lose data by that.
func (a *Adapter) Adopt(ctx context.Context, l plugin.Launch, text plugin.RawJSON) (plugin.Instance, error) {
	h, def, err := parseHandle(text)
	if err == nil && !h.Process.Bears(l) {
		err = errors.New("it is another instance's")
	}
	if err != nil {
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, err)
	}
	p, err := proc.Adopt(h.Process)
	if err != nil {
		return nil, err
	}
	i, err := adopted(l, h, def, p)
	if err != nil {
		p.Kill()
		p.Wait()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	if err := i.answers(ctx); err != nil {
		p.Kill()
		i.Wait()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	return i, nil
}

// adopted makes the instance of a proved process.
func adopted(l plugin.Launch, h handle, def *definition, p *proc.Process) (*instance, error) {
	s, err := decode(l)
	if err != nil {
		return nil, err
	}
	b := &birth{l: l, s: s, token: h.Token, def: def, hide: newRedactor(l, s, def, h.Token)}
	if b.ops, err = newOperations(def, s.name); err != nil {
		return nil, err
	}
	socket, err := b.socketAgain(p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	host, err := b.serve(socket)
	if err != nil {
		return nil, err
	}
	return b.instance(p, host), nil
}

// socketAgain is our socket that the process has kept, with the posts that wait in
// it. A new one replaces it when the process has closed it or the kernel does not
// let us have it: a post that waits in the old one is then never answered, and a
// provider that stops because of that is found out by being silent.
func (b *birth) socketAgain(p *proc.Process) (*os.File, error) {
	path := b.in(hostSocket)
	kept, err := p.Descriptor(keptSocket)
	if err == nil && listens(kept, path) {
		return kept, nil
	}
	if err == nil {
		_ = kept.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("host socket: %w: %w", plugin.ErrUnavailable, err)
	}
	return bind(path)
}

// listens reports whether file is a listening socket with that path.
func listens(file *os.File, path string) bool {
	conn, err := file.SyscallConn()
	if err != nil {
		return false
	}
	var is bool
	_ = conn.Control(func(fd uintptr) {
		listening, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		name, nameErr := unix.Getsockname(int(fd))
		at, ok := name.(*unix.SockaddrUnix)
		is = err == nil && nameErr == nil && listening == 1 && ok && at.Name == path
	})
	return is
}

// answers returns nil when the provider's socket is the provider's, and it answers
// on it before ctx ends.
func (i *instance) answers(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", i.socket)
	if err != nil {
		return late(ctx, "its socket", err)
	}
	pid, err := proc.PeerPid(conn.(*net.UnixConn))
	_ = conn.Close()
	if err != nil {
		return fmt.Errorf("its socket: %w: %w", plugin.ErrUnavailable, err)
	}
	if !i.process.Owns(pid) {
		return fmt.Errorf("its socket: %w: process %d is not the provider's", plugin.ErrUnavailable, pid)
	}
	return i.Probe(ctx)
}

// Strays lists the processes of providers that nobody knows.
func (*Adapter) Strays(_ context.Context, node string, keep func(instance string) bool) ([]plugin.Stray, error) {
	return proc.Strays(node, "provider", keep)
}

// Sweep kills those that are still what Strays listed.
func (a *Adapter) Sweep(_ context.Context, strays []plugin.Stray) ([]plugin.Stray, error) {
	return proc.Sweep(a.options.Node, strays)
}
