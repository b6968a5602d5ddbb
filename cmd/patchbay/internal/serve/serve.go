// Package serve is the daemon: it builds everything, runs it, and takes it down
// in the reverse order. It decides nothing.
package serve

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/cmd/patchbay/internal/layers"
	"github.com/patchbay-dev/patchbay/core/api"
	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/health"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/reconcile"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/trace"
)

// Run serves until ctx ends.
func Run(ctx context.Context, c *config.Config, version wire.Version) error {
	folder, err := config.OpenFolder(c.DataDir)
	if err != nil {
		return err
	}
	defer folder.Close()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	}
	defer listener.Close()
	access, err := c.OpenAccessLog()
	if err != nil {
		return err
	}
	log := c.Logger()
	c.WarnOfTheWorld(log)
	tracer, err := trace.Open(ctx, trace.Options{Endpoint: c.OTLPEndpoint, Node: folder.Node, Version: version.Version, Log: log})
	if err != nil {
		return err
	}
	defer tracer.Close()
	d, err := build(ctx, c, folder, tracer, log)
	if err != nil {
		return err
	}
	defer d.bus.Close()
	control := api.New(api.Deps{
		Plugins: d.registry, Invoker: d.dispatch, Events: d.bus, Logs: d.logs, Parser: d.parser, Health: d.checker, Strays: d.reconciler,
		Token: folder.Token, Version: version, Log: log, AccessLog: access, Metrics: d.metrics, BusStats: d.bus.Stats, Trace: tracer,
	})
	if err := d.reconciler.Boot(ctx); err != nil {
		return err
	}
	if err := folder.Advertise(listener.Addr().String(), d.bus.Addr(), d.bus.Token()); err != nil {
		return err
	}
	log.Info("patchbay serves", "rest", listener.Addr(), "nats", d.bus.Addr(), "data", folder.Path, "node", folder.Node, "version", version.Version)
	return layers.Layers{
		d.bus.Run, d.store.Run, d.logs.Run, d.reporter.Run, d.reconciler.Run,
		func(ctx context.Context) error { return d.bus.Serve(ctx, d.registry) },
		func(ctx context.Context) error { return control.Run(ctx, listener) },
	}.Run(ctx, c.ShutdownTimeout)
}

// daemon is what the layers are made of.
type daemon struct {
	bus        *bus.Bus
	store      *store.Store
	logs       *logs.Hub
	parser     *manifest.Parser
	reporter   *reconcile.Reporter
	reconciler *reconcile.Reconciler
	dispatch   *dispatch.Dispatch
	registry   reconcile.Registry
	metrics    *api.Metrics
	checker    *health.Checker
}

func build(ctx context.Context, c *config.Config, folder *config.Folder, tracer *trace.Tracer, log *slog.Logger) (d *daemon, err error) {
	all := adapters.All(adapters.Options{Node: folder.Node, Dir: filepath.Join(folder.Path, "adapters"), AllowSource: c.AllowSource})
	d = &daemon{parser: manifest.NewParser(all...)}
	if c.Metrics {
		d.metrics = api.NewMetrics()
	}
	d.bus, err = bus.Open(ctx, bus.Options{
		Dir: filepath.Join(folder.Path, "bus"), Listen: c.NATSAddress(), URL: c.NATSURL, CredentialsFile: c.NATSCredentials,
		Node: folder.Node, NoInvocationEvents: !c.InvocationEvents, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(ctx, d.bus, store.Options{Check: d.parser.CheckStored, Node: folder.Node, Folder: folder.Path}); err != nil {
		d.bus.Close()
		return nil, err
	}
	d.logs = logs.New(logs.Options{
		Publish: d.metrics.CountLogs(d.bus.LogBatch), Last: d.bus.LastLog, History: d.history, Previous: d.bus.PreviousInstance,
		Settings: d.logSettings, AsideDir: filepath.Join(folder.Path, "aside"), Lost: d.metrics.LostLogs, Log: log,
	})
	d.reporter = reconcile.NewReporter(folder.Node, d.bus.Status, d.bus.Event, log)
	d.reporter.Drop = d.bus.Forget
	deps := d.supervision(c, folder, all, log)
	deps.Trace = tracer.Calls()
	d.reconciler = reconcile.New(d.store, deps, folder.Node, d.bus.Event)
	d.reconciler.Statuses, d.reconciler.Took = d.bus, d.metrics.Reconciled
	d.dispatch = dispatch.New(d.reconciler, d.metrics.CountInvocations(d.bus.Invoked))
	d.dispatch.Trace = tracer
	d.checker = health.Daemon(folder.Path, all, health.Question{Name: "bus", Ask: d.bus.Check}, health.Question{Name: "store", Ask: d.store.Check})
	d.registry = reconcile.Registry{Reconciler: d.reconciler, Dispatch: d.dispatch}
	return d, nil
}

func (d *daemon) logSettings(name string) logs.Settings {
	record, _ := d.store.Get(name) // a plugin that is deleted has none
	return logs.SettingsOf(record.Manifest.Spec)
}

func (d *daemon) history(ctx context.Context, q logs.Query) iter.Seq2[plugin.LogLine, error] {
	return d.bus.LogHistory(ctx, bus.LogQuery{
		Plugin: q.Plugin, Instance: q.Instance, Sources: q.Sources, Since: q.Since, After: q.After, Tail: q.Tail, Keep: q.Keep, Gap: q.Gap,
	})
}
