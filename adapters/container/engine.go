package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// availableMax is what plugin.Availability allows.
	availableMax = time.Second
	// callMax bounds a call to the engine that has no deadline of its caller's:
	// inspect, kill and remove take milliseconds, seconds on an overloaded one.
	callMax = 15 * time.Second
	// removeTries is how often a removal is tried before it is left to the sweep.
	removeTries = 3
)

// Available returns nil when an engine answers, else why not and what would help.
func (a *Adapter) Available(ctx context.Context) error {
	if a.fault != nil {
		return a.fault
	}
	ctx, cancel := context.WithTimeout(ctx, availableMax)
	defer cancel()
	_, err := a.engine.Ping(ctx)
	host := a.engine.DaemonHost()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("docker: %w: this user may not use the engine at %s; add it to the socket's group, or set DOCKER_HOST", plugin.ErrUnavailable, host)
	case ctx.Err() != nil:
		return fmt.Errorf("docker: %w: the engine at %s did not answer within %v; look at its log", plugin.ErrUnavailable, host, availableMax)
	}
	return fmt.Errorf("docker: %w: no engine answers at %s; start one, or set DOCKER_HOST", plugin.ErrUnavailable, host)
}

// Strays lists the containers that bear the node's label and an instance that
// keep does not know. It is ErrUnavailable while no engine answers.
func (a *Adapter) Strays(ctx context.Context, node string, keep func(instance string) bool) ([]plugin.Stray, error) {
	if a.fault != nil {
		return nil, a.fault
	}
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	list, err := a.engine.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelNode+"="+node)),
	})
	if err != nil {
		return nil, class("strays", err)
	}
	var strays []plugin.Stray
	for _, c := range list {
		if instance := c.Labels[labelInstance]; !keep(instance) {
			strays = append(strays, plugin.Stray{
				Kind: "container", Name: c.ID, Adapter: a.Name(), Instance: instance,
				Detail: c.Labels[labelPlugin] + ", " + c.Status,
			})
		}
	}
	slices.SortFunc(strays, func(x, y plugin.Stray) int { return cmp.Compare(x.Instance, y.Instance) })
	return strays, nil
}

// Sweep removes strays: an id of the engine is of one container for ever, so
// nothing has to be proved anew.
func (a *Adapter) Sweep(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	if a.fault != nil {
		return nil, a.fault
	}
	var failed []error
	for _, one := range strays {
		if err := remove(ctx, a.engine, one.Name); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, one)
	}
	return removed, errors.Join(failed...)
}

// remove kills and removes a container with its anonymous volumes. One that is
// not there is removed. It goes on when ctx has ended: what began must be undone.
func remove(ctx context.Context, engine *client.Client, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callMax)
	defer cancel()
	var err error
	for try := range removeTries {
		if try > 0 && !sleep(ctx, time.Duration(try)*retryMin) {
			break
		}
		err = engine.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
	}
	return class("remove", err)
}

// class says what went wrong with the engine: ErrInvalid when it refused what was
// asked, so that asking again is no use, else ErrUnavailable.
func class(what string, err error) error {
	if errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		return fmt.Errorf("%s: %w: %w", what, plugin.ErrInvalid, err)
	}
	return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, err)
}

// deadline adds ErrDeadline to err when that is why.
func deadline(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.Is(err, plugin.ErrDeadline) {
		return fmt.Errorf("%w: %w", plugin.ErrDeadline, err)
	}
	return err
}

// sleep waits for d; it returns false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
