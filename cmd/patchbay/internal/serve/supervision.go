package serve

import (
	"log/slog"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/secret"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// supervision is what every supervisor is given.
func (d *daemon) supervision(c *config.Config, folder *config.Folder, all []plugin.Adapter, log *slog.Logger) *supervise.Deps {
	return &supervise.Deps{
		Adapters: adapters.ByName(all),
		OpenLog: func(name, instance, dir string, capture int) supervise.Log {
			return d.logs.Open(name, instance, dir, capture)
		},
		ResumeLog: func(name, instance, dir string, capture int) supervise.Log {
			return d.logs.Resume(name, instance, dir, capture)
		},
		Resolve: secret.Folder{Path: c.SecretsDir}.Resolve, Node: folder.Node, Leaving: func() bool { return c.OnExit == config.Keep },
		Changed: d.metrics.CountChanges(d.reporter.Changed), Refreshed: d.reporter.Refreshed, Reloaded: d.reporter.Reloaded, Forget: d.reporter.Forget,
		Host: func(name string) plugin.Host {
			return dispatch.Host{Plugin: name, Node: folder.Node, Dispatch: d.dispatch, Publish: d.bus.Event, Kept: d.store.Values(name), Ask: d.bus.Callback, Count: d.metrics.Callback}
		},
		OpenPipe: func(s plugin.Stream) (supervise.Pipe, error) { return d.bus.Pipe(s) }, Request: d.bus.Request,
		RunDir: folder.RunDir, Starts: make(chan struct{}, supervise.StartsMax), Removals: make(chan struct{}, supervise.RemovalsMax), Log: log,
	}
}
