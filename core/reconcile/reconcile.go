// Package reconcile keeps what runs equal to what is applied. It follows the
// store level-triggered: a name that changed is looked up, never interpreted, and
// every [resyncEvery] all names are compared, so that a lost hint heals.
//
// It owns one core/supervise.Pool, and the goroutine it runs in, per applied
// plugin. A plugin that was deleted and applied again starts only when the old
// one is gone; if both were seen at once and the instance serves the new manifest
// too, it goes on.
package reconcile

import (
	"context"
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
	// List returns all records, sorted by name. They are shared: read only.
	List() []*store.Record
	Put(ctx context.Context, r store.Record, expect store.Expect) (store.Record, error)
	Delete(ctx context.Context, name string, expect store.Expect) error
	// History returns what was written of a plugin since it was created, oldest first.
	History(ctx context.Context, name string) ([]store.Past, error)
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

	// Statuses are what the bus keeps of instances; nil: none. To be set before
	// Boot.
	Statuses Statuses
	// Took is told how long each comparison took, of one plugin or of all. It may be
	// nil; to be set before Run.
	Took func(time.Duration)

	entries sync.Map                      // name -> *entry; written by Run's goroutine only
	found   map[string][]*supervise.Found // by plugin, not yet handed to a supervisor; Run's goroutine's
	unswept []string                      // adapters that could not tell at the boot what is left
	gone    chan string
	due     chan due // names that somebody waits for; Run takes them as long as it runs
	running sync.WaitGroup
}

// lookupMax is how long Lookup waits for Run: longer than the boot with ten thousand
// plugins takes until it looks at names.
const lookupMax = 5 * time.Second

// due asks Run to compare a name now.
type due struct {
	name   string
	synced chan struct{} // closed once that is done
}

// entry is one plugin that is supervised.
type entry struct {
	plugin *supervise.Pool
	end    func()
	// revision, restart and reload are of the record that the supervisor was told
	// last, launches how often that asked for a new instance. They belong to Run's
	// goroutine. The manifest is the supervisor's: ten thousand copies are many.
	revision        uint64
	restart, reload int64
	launches        int
}

// New makes a Reconciler of what s has. publish is told what was applied and
// deleted; node names this daemon in those events.
func New(s Store, deps *supervise.Deps, node string, publish func(plugin.Event)) *Reconciler {
	return &Reconciler{store: s, deps: deps, node: node, publish: publish, gone: make(chan string), due: make(chan due)}
}

// Run reconciles until ctx ends, and returns once every plugin is stopped.
func (r *Reconciler) Run(ctx context.Context) error {
	names := r.store.Watch(ctx)
	ticker := time.NewTicker(resyncEvery)
	defer ticker.Stop()
	defer r.running.Wait()
	r.syncAll(ctx)
	r.reapFound(ctx)
	r.running.Go(func() { r.sweepLater(ctx) }) // ends with ctx
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-r.due:
			r.sync(ctx, d.name)
			close(d.synced)
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

// Lookup finds the supervisor of a plugin. One that is applied and has none yet,
// at the boot or right after the apply, is waited for.
func (r *Reconciler) Lookup(name string) (*supervise.Pool, bool) {
	if p, ok := r.supervised(name); ok {
		return p, true
	}
	if _, applied := r.store.Get(name); !applied {
		return nil, false
	}
	due := due{name: name, synced: make(chan struct{})}
	timer := time.NewTimer(lookupMax)
	defer timer.Stop()
	select {
	case r.due <- due:
		<-due.synced
	case <-timer.C:
	}
	return r.supervised(name)
}

// supervised finds the supervisor that a plugin has now.
func (r *Reconciler) supervised(name string) (*supervise.Pool, bool) {
	found, ok := r.entries.Load(name)
	if !ok {
		return nil, false
	}
	return found.(*entry).plugin, true
}

// takeFound returns the instances that an earlier daemon left of a plugin, once.
func (r *Reconciler) takeFound(name string, record store.Record) []*supervise.Found {
	all := r.found[name]
	delete(r.found, name)
	for _, f := range all {
		if f.Fits = record.Fault == "" && f.Restart == record.Restart && f.Reload == record.Reload && !restarts(f.Manifest, record.Manifest); f.Fits {
			f.Manifest = record.Manifest.WithDefaults() // what is read anew each time may have changed
		}
	}
	return all
}

// reapFound stops what an earlier daemon left of plugins that are not applied any
// more.
func (r *Reconciler) reapFound(ctx context.Context) {
	for name, all := range r.found {
		f := all[0]
		if _, supervised := r.entries.Load(name); !supervised {
			r.start(ctx, name, store.Record{
				Manifest: f.Manifest, Generation: f.Generation, Desired: plugin.DesiredStopped, Restart: f.Restart, Reload: f.Reload,
			})
			r.sync(ctx, name) // not applied: it ends, and takes the instance along
		}
	}
}

func (r *Reconciler) start(ctx context.Context, name string, record store.Record) {
	own, end := context.WithCancelCause(ctx)
	e := &entry{end: func() { end(supervise.ErrDeleted) }, revision: record.Revision, restart: record.Restart, reload: record.Reload}
	e.plugin = supervise.New(r.deps, e.want(record))
	e.plugin.Expect(r.takeFound(name, record)...)
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
	r.entries.Delete(name)
}

// set hands a changed record to the supervisor.
func (e *entry) set(record store.Record) {
	if record.Revision == e.revision {
		return
	}
	if record.Restart != e.restart || record.Reload != e.reload || restarts(e.plugin.Wanted().Manifest, record.Manifest) {
		e.launches++
	}
	e.revision, e.restart, e.reload = record.Revision, record.Restart, record.Reload
	e.plugin.Set(e.want(record))
}

func (e *entry) want(record store.Record) supervise.Want {
	want := supervise.Want{
		Manifest: record.Manifest.WithDefaults(), Generation: record.Generation,
		Desired: record.Desired, Launch: strconv.Itoa(e.launches), Restart: record.Restart, Reload: record.Reload, Fault: record.Fault,
	}
	if record.Pin != nil {
		want.Digest = record.Pin.Digest
	}
	return want
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
