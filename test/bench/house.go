package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/api"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/health"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/reconcile"
	"github.com/patchbay-dev/patchbay/core/secret"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// startMost bounds the start of one plugin or daemon: a busy machine takes its time.
const startMost = 30 * time.Second

// house is the daemon's parts in this process, joined as cmd/patchbay joins them,
// so that one part can be called without those above it.
type house struct {
	bus      *bus.Bus
	logs     *logs.Hub
	parser   *manifest.Parser
	dispatch *dispatch.Dispatch
	registry reconcile.Registry
	metrics  *api.Metrics
	addr     string // of the REST API

	ends []func() // in the order of the starts
}

// newHouse builds a house in a folder of its own; end stops it.
func (h *harness) newHouse(ctx context.Context, name string) (*house, error) {
	dir := h.temp(name)
	run := filepath.Join(dir, "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	o := &house{metrics: api.NewMetrics()}
	all := adapters.All(adapters.Options{Node: name})
	o.parser = manifest.NewParser(all...)
	var err error
	if o.bus, err = bus.Open(ctx, bus.Options{Dir: filepath.Join(dir, "bus"), Node: name, Log: log}); err != nil {
		return nil, err
	}
	kept, err := store.Open(ctx, o.bus, store.Options{})
	if err != nil {
		o.bus.Close()
		return nil, err
	}
	o.logs = logs.New(logs.Options{Publish: o.bus.LogBatch, History: o.history, Log: log})
	reporter := reconcile.NewReporter(name, o.bus.Status, o.bus.Event, log)
	deps := o.supervision(name, run, all, log)
	deps.Changed, deps.Refreshed = reporter.Changed, reporter.Refreshed
	reconciler := reconcile.New(kept, deps, name, o.bus.Event)
	o.dispatch = dispatch.New(reconciler, o.invoked)
	o.registry = reconcile.Registry{Reconciler: reconciler, Dispatch: o.dispatch}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.bus.Close()
		return nil, err
	}
	o.addr = listener.Addr().String()
	control := api.New(api.Deps{
		Plugins: o.registry, Invoker: o.dispatch, Events: o.bus, Logs: o.logs, Parser: o.parser, Health: health.New(health.Question{Name: "bus", Ask: o.bus.Check}),
		Token: benchToken, Log: log, AccessLog: io.Discard, Metrics: o.metrics,
	})
	o.start(o.bus.Run)
	o.start(kept.Run)
	o.start(reporter.Run)
	o.start(reconciler.Run)
	o.start(func(ctx context.Context) error { return o.bus.Serve(ctx, o.registry) })
	o.start(func(ctx context.Context) error { return control.Run(ctx, listener) })
	return o, nil
}

func (o *house) supervision(node, run string, all []plugin.Adapter, log *slog.Logger) *supervise.Deps {
	return &supervise.Deps{
		Adapters: adapters.ByName(all),
		OpenLog: func(name, instance, dir string, capture int) supervise.Log {
			return o.logs.Open(name, instance, dir, capture)
		},
		ResumeLog: func(name, instance, dir string, capture int) supervise.Log {
			return o.logs.Resume(name, instance, dir, capture)
		},
		Resolve: secret.Folder{}.Resolve, Node: node, Forget: o.bus.Forget,
		Host: func(name string) plugin.Host {
			return dispatch.Host{Plugin: name, Node: node, Dispatch: o.dispatch, Publish: o.bus.Event}
		},
		OpenPipe: func(s plugin.Stream) (supervise.Pipe, error) { return o.bus.Pipe(s) }, Request: o.bus.Request,
		RunDir: run, Starts: make(chan struct{}, callers), Removals: make(chan struct{}, callers), Log: log,
	}
}

// start runs one part until end.
func (o *house) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var gone sync.WaitGroup
	gone.Go(func() { _ = run(ctx) }) // ends with ctx; what fails is seen by who calls it
	o.ends = append(o.ends, func() {
		cancel()
		gone.Wait()
	})
}

// end stops the parts, the last first.
func (o *house) end() {
	for i := len(o.ends) - 1; i >= 0; i-- {
		o.ends[i]()
	}
}

func (o *house) history(ctx context.Context, q logs.Query) iter.Seq2[plugin.LogLine, error] {
	return o.bus.LogHistory(ctx, bus.LogQuery{Plugin: q.Plugin, Since: q.Since, After: q.After, Tail: q.Tail})
}

func (o *house) invoked(r plugin.InvocationRecord) {
	o.bus.Invoked(r)
	o.metrics.Invoked(r)
}

// apply applies one manifest and waits until it runs.
func (o *house) apply(ctx context.Context, text string) error {
	found, err := o.parser.Parse("bench", []byte(text))
	if err != nil {
		return err
	}
	for _, m := range found {
		if _, _, err := o.registry.Put(ctx, m, store.Any()); err != nil {
			return err
		}
		if err := o.running(ctx, m.Metadata.Name); err != nil {
			return err
		}
	}
	return nil
}

// running waits until a plugin runs.
func (o *house) running(ctx context.Context, name string) error {
	var last plugin.Status
	err := poll(ctx, startMost, time.Millisecond, "plugin "+name+" runs", func() bool {
		r, _ := o.registry.Get(name)
		last = r.Status
		return last.State == plugin.Running || last.State == plugin.Failed
	})
	if err == nil && last.State == plugin.Failed {
		err = errors.New("it failed")
	}
	if err != nil {
		return fmt.Errorf("%w: %s is %s %s", err, name, last.State, last.Message)
	}
	return nil
}

// fact is what a running plugin says of itself.
func (o *house) fact(name, key string) string {
	r, _ := o.registry.Get(name)
	return r.Status.Facts[key]
}

// calls is a side that invokes through dispatch.
func (o *house) calls(pids []int, in plugin.Invocation) side {
	in.Caller = "bench"
	return calls(callers, pids, func(ctx context.Context, _ int) error {
		_, err := o.dispatch.Invoke(ctx, in)
		return err
	})
}
