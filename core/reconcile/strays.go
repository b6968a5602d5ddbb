package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

const (
	// sweepMax bounds how long the boot waits for it: removing a hundred
	// containers takes some ten seconds.
	sweepMax = time.Minute
	// sweepAgainEvery is how soon an adapter that could not tell at the boot what
	// is left is asked again.
	sweepAgainEvery = 5 * time.Second
)

// Statuses are what the bus keeps of instances: core/bus.
type Statuses interface {
	StrayStatuses(ctx context.Context, keep func(name, instance string) bool) ([]plugin.Stray, error)
	SweepStatuses(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error)
}

// tells reports whether a plugin's status is of an instance: of one that is there,
// or of the last that there was.
func (r *Reconciler) tells(name, instance string) bool {
	if r.deps.Instances.Has(instance) {
		return true
	}
	p, ok := r.supervised(name)
	return ok && p.Has(instance)
}

// Boot finds what an earlier daemon on the same data folder left: instances to
// adopt, for Run, and strays, which it removes. It is for the boot, before Run.
func (r *Reconciler) Boot(ctx context.Context) error {
	found, err := supervise.Find(r.deps.RunDir)
	if err != nil {
		return err
	}
	r.found = map[string][]*supervise.Found{}
	for _, f := range found {
		r.found[f.Plugin()] = append(r.found[f.Plugin()], f)
		r.deps.Instances.Expect(f)
	}
	ctx, cancel := context.WithTimeout(ctx, sweepMax)
	defer cancel()
	r.unswept = r.sweepAll(ctx, "")
	return nil
}

// sweepLater asks the adapters again that could not tell at the boot, until they
// can or ctx ends.
func (r *Reconciler) sweepLater(ctx context.Context) {
	ticker := time.NewTicker(sweepAgainEvery)
	defer ticker.Stop()
	for unswept := r.unswept; len(unswept) > 0; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var still []string
		for _, adapter := range unswept {
			still = append(still, r.sweepAll(ctx, adapter)...)
		}
		unswept = still
	}
}

// Strays lists what earlier daemons on the same data folder left behind and nobody
// keeps: processes, containers, folders, sockets, statuses. An adapter that cannot tell now
// is an error beside the others' strays.
func (r *Reconciler) Strays(ctx context.Context) (strays []plugin.Stray, err error) {
	return r.strays(ctx, "")
}

// strays are those of one adapter, or of all and the folders.
func (r *Reconciler) strays(ctx context.Context, of string) (strays []plugin.Stray, err error) {
	var failed []error
	for name, a := range r.deps.Adapters {
		s, ok := a.(plugin.Sweeper)
		if !ok || of != "" && of != name {
			continue
		}
		some, err := s.Strays(ctx, r.node, r.deps.Instances.Has)
		if err != nil {
			failed = append(failed, &sweepError{name, err})
		}
		strays = append(strays, some...)
	}
	strays = eachOnce(strays)
	if of == "" {
		folders, err := supervise.Strays(r.deps.RunDir, r.deps.Instances.HasFolder)
		if err != nil {
			failed = append(failed, err)
		}
		strays = append(strays, folders...)
	}
	if of == "" && r.Statuses != nil {
		statuses, err := r.Statuses.StrayStatuses(ctx, r.tells)
		if err != nil {
			failed = append(failed, err)
		}
		strays = append(strays, statuses...)
	}
	return strays, errors.Join(failed...)
}

// eachOnce drops what more than one adapter has listed.
func eachOnce(strays []plugin.Stray) []plugin.Stray {
	type thing struct{ kind, name string }
	seen := map[thing]bool{}
	return slices.DeleteFunc(strays, func(s plugin.Stray) bool {
		again := seen[thing{s.Kind, s.Name}]
		seen[thing{s.Kind, s.Name}] = true
		return again
	})
}

// sweepError says which adapter could not tell.
type sweepError struct {
	adapter string
	err     error
}

func (e *sweepError) Error() string { return e.adapter + ": " + e.err.Error() }
func (e *sweepError) Unwrap() error { return e.err }

// Sweep removes strays that Strays has listed, each after it was proved anew, and
// returns those that are gone.
func (r *Reconciler) Sweep(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	var failed []error
	for name, a := range r.deps.Adapters {
		own := ofAdapter(strays, name)
		s, ok := a.(plugin.Sweeper)
		if !ok || len(own) == 0 {
			continue
		}
		gone, err := s.Sweep(ctx, own)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		removed = append(removed, gone...)
	}
	gone, err := r.sweepOwn(ctx, ofAdapter(strays, "")) // after the processes that may use the folders
	removed = append(removed, gone...)
	failed = append(failed, err)
	for _, one := range removed {
		r.deps.Log.Log(ctx, logLevel(one), "removed what an earlier daemon left", "kind", one.Kind, "name", one.Name, "instance", one.Instance)
	}
	return removed, errors.Join(failed...)
}

// logLevel says how much an operator cares: every instance leaves a status.
func logLevel(s plugin.Stray) slog.Level {
	if s.Kind == "stream" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// sweepOwn removes what is no adapter's: folders and statuses.
func (r *Reconciler) sweepOwn(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	var failed []error
	var statuses []plugin.Stray
	for _, one := range strays {
		if one.Kind == "stream" {
			statuses = append(statuses, one)
			continue
		}
		if err := os.RemoveAll(one.Name); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, one)
	}
	if len(statuses) > 0 && r.Statuses != nil {
		gone, err := r.Statuses.SweepStatuses(ctx, statuses)
		removed = append(removed, gone...)
		failed = append(failed, err)
	}
	return removed, errors.Join(failed...)
}

func ofAdapter(strays []plugin.Stray, name string) (own []plugin.Stray) {
	for _, one := range strays {
		if one.Adapter == name {
			own = append(own, one)
		}
	}
	return own
}

// sweepAll lists and removes, and returns the adapters that cannot tell now.
func (r *Reconciler) sweepAll(ctx context.Context, of string) (later []string) {
	strays, err := r.strays(ctx, of)
	if err == nil {
		_, err = r.Sweep(ctx, strays)
	} else {
		_, swept := r.Sweep(ctx, strays)
		err = errors.Join(err, swept)
	}
	var away *sweepError
	if errors.As(err, &away) && errors.Is(away, plugin.ErrUnavailable) {
		r.deps.Log.Debug("an adapter cannot tell yet what is left", "adapter", away.adapter, "error", err)
		return []string{away.adapter}
	}
	if err != nil {
		r.deps.Log.Warn("what an earlier daemon left could not all be removed", "error", err)
	}
	return nil
}
