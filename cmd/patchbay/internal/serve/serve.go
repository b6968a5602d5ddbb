// Package serve is the daemon: it builds everything, runs it, and takes it down
// in the reverse order. It decides nothing.
package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/api"
	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/reconcile"
	"github.com/patchbay-dev/patchbay/core/secret"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// startsMax bounds launches under way at the same time: enough that a few that
// hang hold nobody up, few enough that a boot does not swamp the machine.
const startsMax = 64

// Run serves until ctx ends.
func Run(ctx context.Context, c *config.Config, version wire.Version) (err error) {
	folder, err := config.OpenFolder(c.DataDir)
	if err != nil {
		return err
	}
	defer folder.Close()
	log := c.Logger()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	}
	defer listener.Close()
	warnOfTheWorld(log, c)
	d, err := build(ctx, c, folder, log)
	if err != nil {
		return err
	}
	defer d.bus.Close()
	access, closeAccess, err := openAccessLog(c.AccessLog)
	if err != nil {
		return err
	}
	defer closeAccess()
	control := api.New(api.Deps{
		Plugins: d.registry, Invoker: d.dispatch, Events: d.bus, Logs: d.logs, Parser: d.parser, Health: d,
		Token: folder.Token, Version: version, Log: log, AccessLog: access, Metrics: d.metrics,
	})
	sweep(ctx, d.adapters, folder.Node, log)
	if err := advertise(folder, listener, d.bus); err != nil {
		return err
	}
	log.Info("patchbay serves", "rest", listener.Addr(), "nats", d.bus.Addr(), "data", folder.Path, "node", folder.Node, "version", version.Version)
	return layers{
		d.bus.Run, d.store.Run, d.reconciler.Run,
		func(ctx context.Context) error { return d.bus.Serve(ctx, d.registry) },
		func(ctx context.Context) error { return control.Run(ctx, listener) },
	}.run(ctx, c.ShutdownTimeout)
}

// daemon is what the layers are made of.
type daemon struct {
	bus        *bus.Bus
	store      *store.Store
	logs       *logs.Hub
	adapters   []plugin.Adapter
	parser     *manifest.Parser
	reconciler *reconcile.Reconciler
	dispatch   *dispatch.Dispatch
	registry   reconcile.Registry
	metrics    *api.Metrics
}

func build(ctx context.Context, c *config.Config, folder *config.Folder, log *slog.Logger) (d *daemon, err error) {
	d = &daemon{adapters: adapters.All(adapters.Options{Node: folder.Node})}
	d.parser = manifest.NewParser(d.adapters...)
	if c.Metrics {
		d.metrics = api.NewMetrics()
	}
	natsListen := c.NATSListen
	if natsListen == config.Off {
		natsListen = ""
	}
	d.bus, err = bus.Open(ctx, bus.Options{
		Dir: filepath.Join(folder.Path, "bus"), Listen: natsListen, URL: c.NATSURL, CredentialsFile: c.NATSCredentials,
		Node: folder.Node, NoInvocationEvents: !c.InvocationEvents, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(ctx, d.bus); err != nil {
		d.bus.Close()
		return nil, err
	}
	d.logs = logs.New(logs.Options{Publish: d.bus.LogBatch, History: d.bus.LogHistory, Log: log})
	d.reconciler = reconcile.New(d.store, d.supervision(c, folder, log), folder.Node, d.bus.Event)
	d.dispatch = dispatch.New(d.reconciler, d.invoked)
	d.registry = reconcile.Registry{Reconciler: d.reconciler, Dispatch: d.dispatch}
	return d, nil
}

// supervision is what every supervisor is given.
func (d *daemon) supervision(c *config.Config, folder *config.Folder, log *slog.Logger) *supervise.Deps {
	byName := map[string]plugin.Adapter{}
	for _, a := range d.adapters {
		byName[a.Name()] = a
	}
	return &supervise.Deps{
		Adapters: byName,
		OpenLog: func(name, instance, dir string, capture int) supervise.Log {
			return d.logs.Open(name, instance, dir, capture)
		},
		Resolve:   secret.Folder{Path: c.SecretsDir}.Resolve,
		Changed:   d.changed(folder.Node, log),
		Refreshed: d.bus.Status,
		Forget:    d.bus.Forget,
		Host: func(name string) plugin.Host {
			return dispatch.Host{Plugin: name, Node: folder.Node, Dispatch: d.dispatch, Publish: d.bus.Event}
		},
		OpenPipe: func(s plugin.Stream) (supervise.Pipe, error) { return d.bus.Pipe(s) },
		RunDir:   folder.RunDir, Starts: make(chan struct{}, startsMax), Log: log,
	}
}

// changed tells the bus and the log about a change of state.
func (d *daemon) changed(node string, log *slog.Logger) func(plugin.StateChange) {
	levels := map[plugin.State]slog.Level{
		plugin.Starting: slog.LevelDebug, plugin.Stopping: slog.LevelDebug,
		plugin.Backoff: slog.LevelWarn, plugin.Degraded: slog.LevelWarn, plugin.Failed: slog.LevelError,
	}
	return func(change plugin.StateChange) {
		s := change.Status
		d.bus.Status(s)
		data, err := json.Marshal(change)
		if err == nil { // it is texts and numbers: always
			d.bus.Event(dispatch.Event(node, s.Plugin, plugin.EventState, data))
		}
		log.Log(context.Background(), levels[change.To], "plugin "+string(change.To), "plugin", s.Plugin, "instance", s.Instance, "reason", s.Reason, "message", s.Message)
	}
}

func (d *daemon) invoked(r plugin.InvocationRecord) {
	d.bus.Invoked(r)
	if d.metrics != nil {
		d.metrics.Invoked(r)
	}
}

// Check tests what the daemon needs, for /readyz.
func (d *daemon) Check(ctx context.Context) []api.Component {
	return []api.Component{{Name: "bus", Err: d.bus.Check(ctx)}, {Name: "store", Err: d.store.Check(ctx)}}
}

func openAccessLog(path string) (io.Writer, func() error, error) {
	none := func() error { return nil }
	switch path {
	case config.Off:
		return nil, none, nil
	case "-":
		return os.Stderr, none, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("--access-log: %w", err)
	}
	return file, file.Close, nil
}
