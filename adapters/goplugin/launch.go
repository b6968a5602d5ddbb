package goplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Ports for plugins that serve TCP: upstream's own range.
const (
	portMin = "10000"
	portMax = "25000"
)

// start starts the process with the environment that go-plugin asks for.
func (c compiled) start(l plugin.Launch) (*process, error) {
	p := &process{compiled: c, launch: l}
	env := map[string]string{
		c.Handshake.Key:            c.Handshake.Value,
		"PLUGIN_PROTOCOL_VERSIONS": joined(c.Handshake.Versions),
		"PLUGIN_MIN_PORT":          portMin,
		"PLUGIN_MAX_PORT":          portMax,
		"PLUGIN_UNIX_SOCKET_DIR":   l.Dir, // since go-plugin 1.5
		"TMPDIR":                   l.Dir, // before
	}
	if c.TLS == tlsAuto {
		var err error
		if p.own, err = newIdentity(); err != nil {
			return nil, startFailed("start", err)
		}
		env["PLUGIN_CLIENT_CERT"] = p.own.pem
	}
	if err := p.keepDescriptors(); err != nil {
		return nil, err
	}
	stdout, err := l.Output.File(plugin.Stdout)
	if err != nil {
		return nil, startFailed("start: stdout", err)
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := l.Output.File(plugin.Stderr)
	if err != nil {
		return nil, startFailed("start: stderr", err)
	}
	defer func() { _ = stderr.Close() }()
	p.stdout, p.stderr = stdout.Name(), stderr.Name()
	spec := proc.Spec{
		Path: c.path, Args: c.Command[1:], Env: environ(l, env), Dir: l.Dir,
		Stdout: stdout, Stderr: stderr, Digest: c.digest, Detached: l.Manifest.Spec.Detached(), Limits: l.Manifest.Spec.Limits,
	}
	p.Beside = proc.NewBeside(l.Manifest, spec)
	p.Process, err = proc.Start(spec)
	return p, err
}

func joined(versions []int) string {
	texts := make([]string, len(versions))
	for i, v := range versions {
		texts[i] = strconv.Itoa(v)
	}
	return strings.Join(texts, ",")
}

// environ is proc's environment with the protocol's own variables on top.
func environ(l plugin.Launch, own map[string]string) []string {
	env := slices.DeleteFunc(proc.Environ(l), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		_, ok := own[name]
		return ok
	})
	for name, value := range own {
		env = append(env, name+"="+value)
	}
	sort.Strings(env)
	return env
}

// connect makes an instance of a started process.
func (p *process) connect(ctx context.Context) (*instance, error) {
	g, err := p.greet(ctx)
	if err != nil {
		return nil, err
	}
	return p.join(ctx, g)
}

// join makes an instance of a process that listens at a known address.
func (p *process) join(ctx context.Context, g greeting) (*instance, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with join: a plugin that dies meanwhile ends every wait
		select {
		case <-p.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	d := &dialer{process: p, greeting: g}
	var to link
	var err error
	if g.protocol == transportGRPC {
		to, err = connectGRPC(ctx, d)
	} else {
		to, err = connectNetRPC(ctx, d)
	}
	if err != nil {
		return nil, p.orDied(err)
	}
	return newInstance(p, g, to), nil
}

// orDied replaces an error of the connection by the reason for it, when that is
// that the process ended.
func (p *process) orDied(err error) error {
	select {
	case <-p.Done():
		return fmt.Errorf("connect: %w: the process ended after its handshake: %s%s", plugin.ErrUnavailable, p.Wait(), p.lastWords())
	default:
		return err
	}
}

// A dialer connects to the address that the plugin announced.
type dialer struct {
	*process
	greeting
}

// dial returns a connection whose other end is the plugin itself. It has no TLS.
func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	var to net.Dialer
	conn, err := to.DialContext(ctx, d.network, d.address)
	if err != nil {
		return nil, startFailed("dial", err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return conn, nil
	}
	pid, err := proc.PeerPid(unix)
	if err != nil || !d.Owns(pid) {
		_ = conn.Close()
		return nil, fmt.Errorf("dial %s: %w: the socket belongs to process %d, which is not the plugin", d.address, plugin.ErrInvalid, pid)
	}
	return conn, nil
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
