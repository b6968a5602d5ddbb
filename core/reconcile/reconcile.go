// Package reconcile keeps what runs equal to what is applied. It follows the
// store level-triggered: a name that changed is looked up, never interpreted, and
// every [resyncEvery] all names are compared, so that a lost hint heals.
//
// It owns one core/supervise.Plugin, and the goroutine it runs in, per applied
// plugin. A plugin that was deleted and applied again starts only when the old
// one is gone; if both were seen at once and the instance serves the new manifest
// too, it goes on.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// resyncEvery bounds how long a lost hint can matter: as long as kubelets and
// Nomad clients take.
const resyncEvery = 5 * time.Minute

// Store is where manifests are applied: core/store.
type Store interface {
	Get(name string) (store.Record, bool)
	// List returns all records, sorted by name. It is shared: read only.
	List() []store.Record
	Put(ctx context.Context, r store.Record, expect store.Expect) (store.Record, error)
	Delete(ctx context.Context, name string, expect store.Expect) error
	// Watch tells names that changed, until ctx ends.
	Watch(ctx context.Context) <-chan string
}

// Reconciler runs what the store says. All its methods may be called at once;
// Run only once.
type Reconciler struct {
	store   Store
	deps    *supervise.Deps
	publish func(plugin.Event)
	node    string

	// Took is told how long each comparison took, of one plugin or of all. It may be
	// nil; to be set before Run.
	Took func(time.Duration)

	entries sync.Map // name -> *entry; written by Run's goroutine only
	gone    chan string
	running sync.WaitGroup
}

// entry is one plugin that is supervised.
type entry struct {
	plugin *supervise.Plugin
	end    context.CancelFunc
	// record is what the supervisor was told last, launches how often that
	// asked for a new instance. Both belong to Run's goroutine.
	record   store.Record
	launches int
}

// New makes a Reconciler of what s has. publish is told what was applied and
// deleted; node names this daemon in those events.
func New(s Store, deps *supervise.Deps, node string, publish func(plugin.Event)) *Reconciler {
	return &Reconciler{store: s, deps: deps, node: node, publish: publish, gone: make(chan string)}
}

// Run reconciles until ctx ends, and returns once every plugin is stopped.
func (r *Reconciler) Run(ctx context.Context) error {
	names := r.store.Watch(ctx)
	ticker := time.NewTicker(resyncEvery)
	defer ticker.Stop()
	defer r.running.Wait()
	r.syncAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case name := <-names:
			r.timed(func() { r.sync(ctx, name) })
		case name := <-r.gone:
			r.forget(name)
			r.timed(func() { r.sync(ctx, name) })
		case <-ticker.C:
			r.timed(func() { r.syncAll(ctx) })
		}
	}
}

// timed tells how long one comparison took.
func (r *Reconciler) timed(compare func()) {
	began := time.Now()
	compare()
	if r.Took != nil {
		r.Took(time.Since(began))
	}
}

func (r *Reconciler) syncAll(ctx context.Context) {
	for _, record := range r.store.List() {
		r.sync(ctx, record.Manifest.Metadata.Name)
	}
	r.entries.Range(func(name, _ any) bool {
		r.sync(ctx, name.(string))
		return true
	})
}

// sync makes one plugin as it is applied.
func (r *Reconciler) sync(ctx context.Context, name string) {
	record, applied := r.store.Get(name)
	found, ok := r.entries.Load(name)
	switch {
	case applied && !ok:
		r.start(ctx, name, record)
	case applied:
		found.(*entry).set(record)
	case ok:
		found.(*entry).end() // its goroutine tells gone
	}
}

// Lookup finds the supervisor of a plugin.
func (r *Reconciler) Lookup(name string) (*supervise.Plugin, bool) {
	found, ok := r.entries.Load(name)
	if !ok {
		return nil, false
	}
	return found.(*entry).plugin, true
}

func (r *Reconciler) start(ctx context.Context, name string, record store.Record) {
	own, end := context.WithCancel(ctx)
	e := &entry{end: end, record: record}
	e.plugin = supervise.New(r.deps, e.want())
	r.entries.Store(name, e)
	r.running.Go(func() { // ends with own: Run waits
		e.plugin.Run(own)
		select {
		case r.gone <- name:
		case <-ctx.Done(): // Run ends, and takes no more names
		}
	})
}

// forget drops a plugin whose goroutine has ended.
func (r *Reconciler) forget(name string) {
	if p, ok := r.Lookup(name); ok {
		r.deps.Forget(name, p.Status().Instance)
		r.entries.Delete(name)
	}
}

// set hands a changed record to the supervisor.
func (e *entry) set(record store.Record) {
	if record.Revision == e.record.Revision {
		return
	}
	if record.Restart != e.record.Restart || restarts(e.record.Manifest, record.Manifest) {
		e.launches++
	}
	e.record = record
	e.plugin.Set(e.want())
}

func (e *entry) want() supervise.Want {
	return supervise.Want{
		Manifest: e.record.Manifest.WithDefaults(), Generation: e.record.Generation,
		Desired: e.record.Desired, Launch: strconv.Itoa(e.launches),
	}
}

// restarts reports whether the running instance of the old manifest cannot serve
// the new one: the same truth that diff and --dry-run show.
func restarts(old, now plugin.Manifest) bool {
	for _, change := range manifest.Diff(old, now) {
		if change.Restarts {
			return true
		}
	}
	return false
}

// sweepMax bounds how long the boot waits for it: removing a hundred
// containers takes some ten seconds.
const sweepMax = time.Minute

// Strays lists what an earlier daemon on the same data folder left behind and
// nobody keeps. An adapter that cannot tell now is an error beside the others'
// strays.
func (r *Reconciler) Strays(ctx context.Context, keep func(instance string) bool) (strays []plugin.Stray, err error) {
	var failed []error
	for name, a := range r.deps.Adapters {
		s, ok := a.(plugin.Sweeper)
		if !ok {
			continue
		}
		some, err := s.Strays(ctx, r.node, keep)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		strays = append(strays, some...)
	}
	return strays, errors.Join(failed...)
}

// Sweep removes strays. It is for the boot, before Run.
func (r *Reconciler) Sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepMax)
	defer cancel()
	strays, err := r.Strays(ctx, func(string) bool { return false })
	switch {
	case errors.Is(err, plugin.ErrUnavailable):
		r.deps.Log.Debug("an adapter is not available", "error", err)
	case err != nil:
		r.deps.Log.Warn("what an earlier daemon left could not be looked for", "error", err)
	}
	for name, a := range r.deps.Adapters {
		var own []plugin.Stray
		for _, one := range strays {
			if one.Adapter == name {
				own = append(own, one)
			}
		}
		if s, ok := a.(plugin.Sweeper); ok && len(own) > 0 {
			r.sweep(ctx, s, own)
		}
	}
}

func (r *Reconciler) sweep(ctx context.Context, s plugin.Sweeper, strays []plugin.Stray) {
	removed, err := s.Sweep(ctx, strays)
	if err != nil {
		r.deps.Log.Warn("what an earlier daemon left could not all be removed", "error", err)
	}
	for _, one := range removed {
		r.deps.Log.Info("removed what an earlier daemon left", "adapter", one.Adapter, "kind", one.Kind, "name", one.Name, "instance", one.Instance)
	}
}
