package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// digestMax bounds the question what a plugin's instances run: a binary of some
// hundred megabytes is hashed in it.
const digestMax = 10 * time.Second

// Revisions lists what was applied to a plugin, newest first, as far as it is kept.
func (r Registry) Revisions(ctx context.Context, name string) ([]plugin.Revision, error) {
	record, ok := r.store.Get(name)
	if !ok {
		return nil, notFound(name)
	}
	past, err := r.store.History(ctx, name)
	if err != nil {
		return nil, err
	}
	var all []plugin.Revision
	for _, p := range past {
		one := plugin.Revision{
			Generation: p.Generation, Applied: p.At, Manifest: p.Manifest, Fault: p.Fault, Current: p.Generation == record.Generation,
		}
		if last := len(all) - 1; last >= 0 && all[last].Generation == one.Generation {
			one.Applied = all[last].Applied
			all[last] = one
			continue
		}
		all = append(all, one)
	}
	slices.Reverse(all)
	return all, nil
}

// Pin holds a plugin to its spec, and to what its instances run now, until Unpin.
// ErrConflict: what they run cannot be launched again.
func (r Registry) Pin(ctx context.Context, name string) (plugin.Resource, error) {
	digest, err := r.digest(ctx, name)
	if err != nil {
		return plugin.Resource{}, err
	}
	return r.change(ctx, name, func(record *store.Record) error {
		if record.Pin != nil {
			return errUnchanged
		}
		record.Pin = &plugin.Pin{Generation: record.Generation, At: time.Now(), Digest: digest}
		if named := record.Manifest.Spec.Digest; named != "" {
			record.Pin.Digest = named
		}
		return nil
	})
}

// digest is that of what the plugin's instances run; empty when nobody can tell, or a
// manifest names it.
func (r Registry) digest(ctx context.Context, name string) (string, error) {
	p, ok := r.supervised(name)
	if !ok || p.Wanted().Manifest.Spec.Digest != "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, digestMax)
	defer cancel()
	digest, err := p.Digest(ctx)
	if err != nil {
		return "", fmt.Errorf("plugin %q: %w", name, err)
	}
	return digest, nil
}

// Unpin lets the plugin be changed again.
func (r Registry) Unpin(ctx context.Context, name string) (plugin.Resource, error) {
	return r.change(ctx, name, func(record *store.Record) error {
		if record.Pin == nil {
			return errUnchanged
		}
		record.Pin = nil
		return nil
	})
}
