package api

import (
	"context"
	"io"
	"iter"
	"log/slog"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/health"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/trace"
)

// Deps is all that the API asks of the rest of the house.
type Deps struct {
	Plugins Plugins
	Invoker Invoker
	Events  Events
	Logs    Logs
	Parser  Parser
	Health  Health
	Strays  Strays
	// Token is the bearer token; it must not be empty.
	Token   string
	Version wire.Version
	Log     *slog.Logger
	// AccessLog takes one JSON line per request, in batches; nil turns it off.
	AccessLog io.Writer
	// Metrics is what /metrics shows; nil turns counting off, and the route
	// then shows the process and the plugins only.
	Metrics *Metrics
	// Trace tells of requests below /v1; nil: of none.
	Trace *trace.Tracer
	// BusStats is what the bus counts, for /metrics; nil leaves it out.
	BusStats func() bus.Stats
}

// Plugins is what is applied, and how it is.
type Plugins interface {
	Get(name string) (plugin.Resource, bool)
	// List returns at most limit plugins whose labels match, sorted by name,
	// beginning after the name after, and the name to go on after: "" at the end.
	List(after string, limit int, match func(labels map[string]string) bool) (page []plugin.Resource, next string)
	// Instances tells of each instance, or of its place.
	Instances(name string) ([]plugin.Status, bool)
	Operations(ctx context.Context, name string) ([]plugin.Operation, error)
	// Put stores a manifest. created is true when there was none.
	Put(ctx context.Context, m plugin.Manifest, expect store.Expect) (r plugin.Resource, created bool, err error)
	Delete(ctx context.Context, name string, expect store.Expect) error
	// Desire stores what is wanted: start and stop.
	Desire(ctx context.Context, name string, d plugin.Desired) (plugin.Resource, error)
	Restart(ctx context.Context, name string) (plugin.Resource, error)
	Reload(ctx context.Context, name string) (plugin.Resource, error)
	// Revisions lists what was applied, newest first.
	Revisions(ctx context.Context, name string) ([]plugin.Revision, error)
	Pin(ctx context.Context, name string) (plugin.Resource, error)
	Unpin(ctx context.Context, name string) (plugin.Resource, error)
}

// Invoker brings invocations to plugins: core/dispatch.
type Invoker interface {
	Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error)
	InvokeStream(ctx context.Context, in plugin.Invocation, send func(part []byte) error) error
}

// Events is the history of events, and what comes: *bus.Bus.
type Events interface {
	EventItems(ctx context.Context, q bus.EventQuery) iter.Seq2[*bus.Item, error]
}

// Logs is the history of log lines, and what comes: *logs.Hub.
type Logs interface {
	Follow(ctx context.Context, q logs.Query) iter.Seq2[plugin.LogLine, error]
	// Previous returns the instance that printed before the current one.
	Previous(ctx context.Context, plugin, current string) (instance string, err error)
}

// Strays knows and removes what earlier daemons left behind: core/reconcile.
type Strays interface {
	// Strays lists them; an error says what could not be looked for.
	Strays(ctx context.Context) ([]plugin.Stray, error)
	// Sweep removes what Strays has listed, and returns what is gone.
	Sweep(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error)
}

// Parser reads manifests: core/manifest.
type Parser interface {
	// ParseFrom reads and checks every document of a file. source becomes the
	// metadata.source of those that have none, before they are checked.
	ParseFrom(file, source string, data []byte) ([]plugin.Manifest, error)
	// Schema is the JSON Schema of a manifest.
	Schema() ([]byte, error)
}

// Health says whether the daemon can do its work: *health.Checker. It is asked by
// /readyz and /metrics and must answer within readyMax.
type Health interface {
	// Needed is what the daemon cannot do without, All also what is good to know.
	Needed(ctx context.Context) []health.Answer
	All(ctx context.Context) []health.Answer
}
