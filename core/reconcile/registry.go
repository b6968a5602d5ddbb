package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// writeTriesMax bounds the read-change-write of one record when others write it
// at the same time.
const writeTriesMax = 8

// describeMax bounds the question for operations that discovery asks of a plugin.
const describeMax = time.Second

// Registry is what is applied and how it is, in one view: the control plane's
// nouns.
type Registry struct {
	*Reconciler
	Dispatch *dispatch.Dispatch
}

// Get returns one plugin.
func (r Registry) Get(name string) (plugin.Resource, bool) {
	record, ok := r.store.Get(name)
	if !ok {
		return plugin.Resource{}, false
	}
	return r.resource(record), true
}

func (r Registry) resource(record store.Record) plugin.Resource {
	out := plugin.Resource{
		Manifest: record.Manifest, Revision: record.Revision, Generation: record.Generation, Desired: record.Desired, Pin: record.Pin,
	}
	name := record.Manifest.Metadata.Name
	if p, ok := r.supervised(name); ok {
		out.Status = p.Status()
	} else {
		out.Status = plugin.Status{Plugin: name, Adapter: record.Manifest.Spec.Adapter, State: plugin.Pending}
	}
	return out
}

// List returns at most limit plugins whose labels match, sorted by name, from
// the one after the name after, and the name to go on after ("" at the end).
func (r Registry) List(after string, limit int, match func(map[string]string) bool) (page []plugin.Resource, next string) {
	records := r.store.List()
	first := sort.Search(len(records), func(i int) bool { return records[i].Manifest.Metadata.Name > after })
	for _, record := range records[first:] {
		if match != nil && !match(record.Manifest.Metadata.Labels) {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Metadata.Name
		}
		page = append(page, r.resource(*record))
	}
	return page, ""
}

// Instances tells of each instance of a plugin, or of its place.
func (r Registry) Instances(name string) ([]plugin.Status, bool) {
	p, ok := r.supervised(name)
	if !ok {
		return nil, false
	}
	return p.Instances(), true
}

// Operations lists what a plugin offers. It waits for one that is starting.
func (r Registry) Operations(ctx context.Context, name string) ([]plugin.Operation, error) {
	p, ok := r.Lookup(name)
	if !ok {
		return nil, notFound(name)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Wanted().Manifest.Spec.Timeouts.Invoke.Std())
	defer cancel()
	return p.Describe(ctx)
}

func notFound(name string) error { return fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound) }

// Put applies a manifest; created is true when there was none. A manifest equal
// to the applied one changes nothing.
func (r Registry) Put(ctx context.Context, m plugin.Manifest, expect store.Expect) (resource plugin.Resource, created bool, err error) {
	m = m.WithDefaults()
	name := m.Metadata.Name
	record, err := r.write(ctx, name, expect, func(old store.Record, exists bool) (store.Record, error) {
		created = !exists
		changes := manifest.Diff(old.Manifest, m)
		if exists && len(changes) == 0 && old.Fault == "" {
			return old, errUnchanged
		}
		if old.Pin != nil && old.Fault == "" && slices.ContainsFunc(changes, ofSpec) {
			return old, old.Pin.Refuses(name)
		}
		next := old
		next.Manifest, next.Fault = m, ""
		if !exists {
			next.Desired = plugin.DesiredRunning
		}
		if !exists || old.Fault != "" || slices.ContainsFunc(changes, ofSpec) {
			next.Generation++
		}
		if next.Pin != nil { // of a manifest that was not accepted: it holds this one
			pin := *next.Pin
			pin.Generation = next.Generation
			next.Pin = &pin
		}
		return next, nil
	})
	if err != nil {
		return plugin.Resource{}, false, err
	}
	return r.resource(record), created, nil
}

func ofSpec(c manifest.Change) bool { return len(c.Path) >= 4 && c.Path[:4] == "spec" }

// errUnchanged says that a write would change nothing.
var errUnchanged = errors.New("unchanged")

// write reads a record, changes it and writes it back, again when somebody else
// wrote meanwhile; with an expectation of the caller's it tries once.
func (r Registry) write(ctx context.Context, name string, expect store.Expect, change func(old store.Record, exists bool) (store.Record, error)) (store.Record, error) {
	for try := 1; ; try++ {
		old, exists := r.store.Get(name)
		if err := met(expect, old, exists); err != nil {
			return store.Record{}, fmt.Errorf("plugin %q: %w", name, err)
		}
		next, err := change(old, exists)
		if errors.Is(err, errUnchanged) {
			return old, nil
		}
		if err != nil {
			return store.Record{}, err
		}
		now := store.Expect{Absent: !exists, Revision: old.Revision}
		written, err := r.store.Put(ctx, next, now)
		if errors.Is(err, plugin.ErrConflict) && expect == (store.Expect{}) && try < writeTriesMax {
			continue
		}
		if err == nil {
			r.tell(plugin.EventApplied, written)
		}
		return written, err
	}
}

// met checks the caller's expectation against what is there.
func met(expect store.Expect, old store.Record, exists bool) error {
	switch {
	case expect.Absent && exists:
		return fmt.Errorf("%w: it exists, at revision %d", plugin.ErrConflict, old.Revision)
	case expect.Revision != 0 && !exists:
		return fmt.Errorf("%w: it does not exist, revision %d is expected", plugin.ErrConflict, expect.Revision)
	case expect.Revision != 0 && expect.Revision != old.Revision:
		return fmt.Errorf("%w: it is at revision %d, revision %d is expected", plugin.ErrConflict, old.Revision, expect.Revision)
	}
	return nil
}

func (r Registry) tell(eventType string, record store.Record) {
	data, err := json.Marshal(plugin.Change{Revision: record.Revision, Generation: record.Generation, Desired: record.Desired, Pinned: record.Pin != nil})
	if err != nil {
		return // numbers and a word: cannot be
	}
	r.publish(dispatch.Event(r.node, record.Manifest.Metadata.Name, eventType, data))
}

// Delete removes a plugin; what runs of it is stopped afterwards.
func (r Registry) Delete(ctx context.Context, name string, expect store.Expect) error {
	old, exists := r.store.Get(name)
	if !exists {
		return notFound(name)
	}
	if err := met(expect, old, exists); err != nil {
		return fmt.Errorf("plugin %q: %w", name, err)
	}
	if err := r.store.Delete(ctx, name, expect); err != nil {
		return err
	}
	r.tell(plugin.EventDeleted, old)
	return nil
}

// Desire stores what is wanted of a plugin. Wanting a failed or finished one to
// run tries it again.
func (r Registry) Desire(ctx context.Context, name string, desired plugin.Desired) (plugin.Resource, error) {
	return r.change(ctx, name, func(record *store.Record) error {
		p, ok := r.supervised(name)
		again := ok && desired == plugin.DesiredRunning && slices.ContainsFunc(p.Instances(), ended)
		if record.Desired == desired && !again {
			return errUnchanged
		}
		record.Desired = desired
		switch {
		case again && p.MayReload() == nil: // some others run: they lose no call
			record.Reload++
		case again:
			record.Restart++
		}
		return nil
	})
}

// ended reports an instance that starts again later, or not at all.
func ended(s plugin.Status) bool {
	return s.State == plugin.Failed || s.State == plugin.Finished || s.State == plugin.Backoff
}

// Restart replaces the plugin's instance, or starts it.
func (r Registry) Restart(ctx context.Context, name string) (plugin.Resource, error) {
	return r.change(ctx, name, func(record *store.Record) error {
		record.Desired = plugin.DesiredRunning
		record.Restart++
		return nil
	})
}

// Reload has a new instance launched beside the running one, which it follows once
// it answers. ErrConflict: there is none, or there cannot be two.
func (r Registry) Reload(ctx context.Context, name string) (plugin.Resource, error) {
	return r.change(ctx, name, func(record *store.Record) error {
		p, ok := r.supervised(name)
		if !ok || record.Desired == plugin.DesiredStopped {
			return fmt.Errorf("plugin %q: %w: it does not run; start it with: patchbay start %s", name, plugin.ErrConflict, name)
		}
		if err := p.MayReload(); err != nil {
			return fmt.Errorf("plugin %q: %w: %w", name, plugin.ErrConflict, err)
		}
		record.Reload++
		return nil
	})
}

func (r Registry) change(ctx context.Context, name string, edit func(*store.Record) error) (plugin.Resource, error) {
	record, err := r.write(ctx, name, store.Expect{}, func(old store.Record, exists bool) (store.Record, error) {
		if !exists {
			return old, notFound(name)
		}
		if old.Fault != "" { // writing it back would lose what is stored
			return old, fmt.Errorf("plugin %q: %w: its stored manifest is not accepted: %s; apply it anew", name, plugin.ErrConflict, old.Fault)
		}
		err := edit(&old)
		return old, err
	})
	if err != nil {
		return plugin.Resource{}, err
	}
	return r.resource(record), nil
}

// Plugins lists what can be invoked, for discovery on the bus.
func (r Registry) Plugins() []bus.ServiceInfo {
	var out []bus.ServiceInfo
	for _, record := range r.store.List() {
		if info, ok := r.service(record.Manifest.Metadata.Name); ok {
			out = append(out, info)
		}
	}
	return out
}

// Plugin describes one plugin with its operations, for discovery on the bus.
func (r Registry) Plugin(name string) (bus.ServiceInfo, bool) {
	info, ok := r.service(name)
	if !ok {
		return info, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), describeMax)
	defer cancel()
	operations, err := r.Operations(ctx, name)
	if err == nil { // without them it is still there
		info.Operations = operations
	}
	return info, true
}

func (r Registry) service(name string) (bus.ServiceInfo, bool) {
	p, ok := r.supervised(name)
	if !ok {
		return bus.ServiceInfo{}, false
	}
	status := p.Status()
	if status.State != plugin.Running && status.State != plugin.Degraded {
		return bus.ServiceInfo{}, false
	}
	return bus.ServiceInfo{
		Name: name, ID: status.Instance, Version: "0.0." + strconv.FormatInt(status.Generation, 10),
		Description: "a " + status.Adapter + " plugin", Metadata: map[string]string{"adapter": status.Adapter}, Started: status.Since,
	}, true
}

// Invoke is dispatch's, for the bus.
func (r Registry) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	return r.Dispatch.Invoke(ctx, in)
}

// InvokeStream is dispatch's, for the bus.
func (r Registry) InvokeStream(ctx context.Context, in plugin.Invocation, send func(part []byte) error) error {
	return r.Dispatch.InvokeStream(ctx, in, send)
}
