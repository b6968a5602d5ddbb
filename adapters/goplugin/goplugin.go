package goplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/build"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/debuginfo"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/kept"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// name is the key under spec that chooses this adapter.
const name = "goplugin"

// Options is what the adapter is told of the daemon.
type Options struct {
	// Node names the daemon: it sweeps what bears this mark, and nothing else.
	Node string
	// Dir is the adapter's own folder, for what it builds and for copies of pinned
	// executables; "" allows no spec.source, and keeps no copies.
	Dir string
	// AllowSource lists the hosts, and paths below them, from which it downloads.
	AllowSource []string
	// HTTP downloads; nil is the default client.
	HTTP *http.Client
}

// Adapter launches go-plugin processes.
type Adapter struct {
	options Options
	debug   *debuginfo.Cache
	executables
	asked asked
}

// executables are where executables come from beside the file that a manifest names.
type executables struct {
	builds *build.Builder
	kept   *kept.Store
}

var (
	_ plugin.Adapter    = (*Adapter)(nil)
	_ plugin.Specifier  = (*Adapter)(nil)
	_ plugin.Adopter    = (*Adapter)(nil)
	_ plugin.Sweeper    = (*Adapter)(nil)
	_ plugin.Overlapper = (*Adapter)(nil)
)

// New returns the adapter.
func New(o Options) *Adapter {
	builds := build.New(build.Options{Dir: o.Dir, Allowed: o.AllowSource, Client: o.HTTP})
	copies := kept.New("")
	if o.Dir != "" {
		copies = kept.New(filepath.Join(o.Dir, "kept"))
	}
	return &Adapter{options: o, debug: debuginfo.NewCache(), executables: executables{builds, copies}}
}

// Close ends builds under way. Plugins run on.
func (a *Adapter) Close() { a.builds.Close() }

// Name returns "goplugin".
func (*Adapter) Name() string { return name }

// Spec returns a pointer to the zero value of the manifest block.
func (*Adapter) Spec() any { return &Spec{} }

// Check reports every fault of m's block, and that its executable can be run, or may
// be built.
func (a *Adapter) Check(m plugin.Manifest) error {
	_, err := compile(m, a.executables)
	return err
}

// Launch starts the plugin and returns once a call can be made: the handshake is
// done, and the net/rpc object dispensed or the gRPC services listed.
func (a *Adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	c, err := compile(l.Manifest, a.executables)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, startFailed("start", ctx.Err())
	}
	if c.path == "" {
		if c.path, err = a.builds.Executable(ctx, c.Source); err != nil {
			return nil, err
		}
	}
	if c.replaced != "" {
		_, _ = fmt.Fprintf(l.Output.Writer(plugin.PluginLog), "%s is gone or has another digest than %s: the copy that was kept is launched\n", c.replaced, c.digest)
	}
	kept := a.keep(c)
	defer func() { <-kept }()
	for _, value := range c.Handshake.Values {
		var i *instance
		if i, err = a.try(ctx, c, l, value); err == nil {
			if err := <-kept; err != nil {
				_, _ = fmt.Fprintf(l.Output.Writer(plugin.PluginLog), "the executable is pinned, and no copy of it could be kept: %v\n", err)
			}
			return i, nil
		}
		if !errors.Is(err, errCookie) {
			break
		}
	}
	return nil, err
}

// keep keeps a copy of a pinned executable beside the start, which takes about as long.
// The channel gives what came of it, and is closed.
func (a *Adapter) keep(c compiled) <-chan error {
	done := make(chan error, 1)
	if c.digest == "" {
		close(done)
		return done
	}
	go func() { // ends with the copy: waited for by Launch
		defer close(done)
		done <- a.kept.Keep(c.path, c.digest)
	}()
	return done
}

// try launches the plugin with one value of its cookie.
func (a *Adapter) try(ctx context.Context, c compiled, l plugin.Launch, value string) (*instance, error) {
	p, err := c.start(l, value)
	if err != nil {
		return nil, err
	}
	p.debug, p.executables, p.asked = a.debug, a.executables, a.asked.of(l.Manifest.Metadata.Name)
	i, err := p.connect(ctx)
	if err != nil {
		p.kill()
		return nil, err
	}
	return i, nil
}

// Adopt finds a plugin again that outlived the daemon: the process by its handle,
// then the connection as after a handshake, to the address and with the keys of
// the handle.
func (a *Adapter) Adopt(ctx context.Context, l plugin.Launch, text plugin.RawJSON) (plugin.Instance, error) {
	h, err := readHandle(text, l)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, err)
	}
	child, err := proc.Adopt(h.Process)
	if err != nil {
		return nil, err
	}
	p := &process{Process: child, launch: l, debug: a.debug, executables: a.executables, asked: a.asked.of(l.Manifest.Metadata.Name)}
	i, err := p.resume(ctx, h)
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	return i, nil
}

// Overlap allows two instances: each has a process, a folder and sockets of its own.
// What their code shares, such as a port or a file, is for spec.update.
func (*Adapter) Overlap(plugin.Manifest) error { return nil }

// Strays lists the processes of plugins that bear the node's mark and are not kept.
func (*Adapter) Strays(_ context.Context, node string, keep func(instance string) bool) ([]plugin.Stray, error) {
	return proc.Strays(node, name, keep)
}

// Sweep kills strays of this daemon's node.
func (a *Adapter) Sweep(_ context.Context, strays []plugin.Stray) ([]plugin.Stray, error) {
	return proc.Sweep(a.options.Node, strays)
}

// kill ends a process that did not become an instance.
func (p *process) kill() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Stop(now, nil)
	p.closeCalls()
}

// startFailed gives an error of a launch its class: out of time, or worth a retry.
func startFailed(what string, err error) error {
	if isContext(err) {
		return fmt.Errorf("%s: %w: %w: %w", what, plugin.ErrUnavailable, plugin.ErrDeadline, err)
	}
	return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, err)
}

// process is a started plugin that is not connected yet.
type process struct {
	*proc.Process
	proc.Beside
	compiled
	launch plugin.Launch
	cookie string    // that it accepted
	own    *identity // nil without TLS
	debug  *debuginfo.Cache
	executables
	asked *questions // of plugins of this name before it
	// stdout and stderr are its own part of the output files, behind that of earlier
	// attempts; empty once adopted.
	stdout, stderr proc.Tail
	// connected: there was a connection before, of this daemon or an earlier one.
	connected bool
	// calls is where the plugin calls back; nil without callbacks.
	calls *net.UnixListener
	// serves: it is an instance, and was not asked to stop.
	serves atomic.Bool
}
