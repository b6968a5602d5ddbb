package goplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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

// dirBytesMax is what a socket's path, 107 bytes, leaves for the folder: its name
// there is plugin and ten digits.
const dirBytesMax = 107 - len("/plugin1234567890")

// start starts the process with the environment that go-plugin asks for.
func (c compiled) start(l plugin.Launch, cookie string) (*process, error) {
	if len(l.Dir) > dirBytesMax {
		return nil, fmt.Errorf("start: %w: the instance's folder %s is too long for a socket in it: %d bytes, at most %d", plugin.ErrUnavailable, l.Dir, len(l.Dir), dirBytesMax)
	}
	p := &process{compiled: c, launch: l, cookie: cookie}
	env := map[string]string{
		c.Handshake.Key:            cookie,
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
	inherited, err := p.listenForCalls()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, file := range inherited {
			_ = file.Close()
		}
	}()
	if err := p.execute(env, inherited); err != nil {
		p.closeCalls()
		return nil, err
	}
	return p, nil
}

// execute starts the process.
func (p *process) execute(env map[string]string, inherited []*os.File) error {
	c, l := p.compiled, p.launch
	stdout, err := l.Output.File(plugin.Stdout)
	if err != nil {
		return startFailed("start: stdout", err)
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := l.Output.File(plugin.Stderr)
	if err != nil {
		return startFailed("start: stderr", err)
	}
	defer func() { _ = stderr.Close() }()
	if p.stdout, err = endOf(stdout); err == nil {
		p.stderr, err = endOf(stderr)
	}
	if err != nil {
		return startFailed("start: output", err)
	}
	spec := proc.Spec{
		Path: c.path, Args: c.Command[min(1, len(c.Command)):], Env: c.environ(l, env), Dir: l.Dir,
		Stdout: stdout, Stderr: stderr, ExtraFiles: inherited, Digest: c.digest, Detached: l.Manifest.Spec.Detached(), Limits: l.Manifest.Spec.Limits,
	}
	p.Beside = proc.NewBeside(l.Manifest, spec)
	p.Process, err = proc.Start(spec)
	return err
}

// endOf is where the next process's output will begin.
func endOf(f *os.File) (proc.Tail, error) {
	end, err := f.Seek(0, io.SeekEnd)
	return proc.Tail{Path: f.Name(), From: end}, err
}

func joined(versions []int) string {
	texts := make([]string, len(versions))
	for i, v := range versions {
		texts[i] = strconv.Itoa(v)
	}
	return strings.Join(texts, ",")
}

// environ is the whole environment: what spec.env says over what is inherited, that
// over the preset's, and the protocol's own variables on top.
func (c compiled) environ(l plugin.Launch, own map[string]string) []string {
	all := map[string]string{}
	maps.Copy(all, c.preset.env)
	for _, name := range c.Inherit {
		if value, ok := os.LookupEnv(name); ok {
			all[name] = value
		}
	}
	maps.Copy(all, l.Env)
	l.Env = all
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
	i, err := p.join(ctx, g)
	if err != nil {
		return nil, err
	}
	if err := i.begin(ctx); err != nil {
		err = p.orDied(err)
		p.kill()
		<-i.gone
		return nil, err
	}
	return i, nil
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
	adopted := p.connected // and configured by the daemon that launched it
	d := &dialer{process: p, greeting: g}
	var to link
	var err error
	if g.protocol == transportGRPC {
		to, err = connectGRPC(ctx, d)
	} else {
		to, err = connectNetRPC(ctx, d)
	}
	if err == nil && !adopted {
		if err = p.configureBy(ctx, to); err != nil {
			to.close()
		}
	}
	if err != nil {
		return nil, p.orDied(err)
	}
	p.serves.Store(true)
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
	causes *causes // net/rpc
}

// dial returns a connection whose other end is the plugin itself. It has no TLS.
func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	var to net.Dialer
	conn, err := to.DialContext(ctx, d.network, d.address)
	if errors.Is(err, fs.ErrNotExist) && d.serves.Load() {
		d.unreachable()
	}
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

// unreachable ends an instance whose socket somebody has removed, as cleaners of
// /tmp do, once its connection broke: a server never makes it again.
func (d *dialer) unreachable() {
	if d.Left() {
		return
	}
	_, _ = fmt.Fprintf(d.launch.Output.Writer(plugin.PluginLog), "%s is gone and the connection broke: nobody can reach it, so the plugin is killed\n", d.address)
	d.Kill()
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
