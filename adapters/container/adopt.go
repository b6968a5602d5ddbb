package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// handle finds a container again. Its id is of one container for ever, and the
// time tells one run of it from another.
type handle struct {
	Container string `json:"container"`
	Started   string `json:"started"`
	Image     string `json:"image"`
}

// containerID is an id in full: shorter ones and names could be another's.
var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func handleOf(now container.InspectResponse) handle {
	return handle{Container: now.ID, Started: now.State.StartedAt, Image: now.Image}
}

func parseHandle(text plugin.RawJSON) (handle, error) {
	var h handle
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, fmt.Errorf("handle: %w: %w", plugin.ErrNotFound, err)
	}
	if !containerID.MatchString(h.Container) || h.Started == "" {
		return h, fmt.Errorf("handle: %w: names no container", plugin.ErrNotFound)
	}
	return h, nil
}

// Adopt finds a service's container again and returns once it answers. Without an
// engine that answers it is ErrUnavailable and nothing was touched: ask again
// when Available says so. One that ended meanwhile is removed, after its last
// output was taken; the error, ErrNotFound, says how it ended.
func (a *Adapter) Adopt(ctx context.Context, l plugin.Launch, text plugin.RawJSON) (plugin.Instance, error) {
	s, err := check(l.Manifest)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, err)
	}
	h, err := parseHandle(text)
	if err != nil {
		return nil, err
	}
	now, err := a.prove(ctx, l, h)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the adoption
	i := &instance{
		engine: a.engine, id: now.ID, stopSignal: firstOf(s.StopSignal, now.Config.StopSignal, "SIGTERM"),
		grace: l.Manifest.Spec.Timeouts.Stop.Std(), output: newOutput(l), gone: make(chan struct{}), leave: cancel,
		facts:  map[string]string{"container": short(now.ID), "image": short(now.Image)},
		limits: limitsOf(l.Manifest.Spec.Limits, nil), unbind: func() {},
	}
	i.know(now)
	i.output.restore()
	if !now.State.Running {
		defer cancel()
		return nil, a.bury(ctx, i)
	}
	go func() { // ends when the container is gone or left
		exits, errs := a.engine.ContainerWait(life, i.id, container.WaitConditionNotRunning)
		i.live(life, nil, exits, errs)
	}()
	v := newService(i, s, l)
	err = v.locate(now)
	if err == nil {
		err = v.ready(ctx)
	}
	if err != nil {
		return nil, a.unanswered(ctx, v, err)
	}
	return v, nil
}

// prove returns the container that h names, if it is the one that was launched as l.
func (a *Adapter) prove(ctx context.Context, l plugin.Launch, h handle) (container.InspectResponse, error) {
	if a.fault != nil {
		return container.InspectResponse{}, fmt.Errorf("adopt: %w: %v", plugin.ErrUnavailable, a.fault)
	}
	now, err := a.engine.ContainerInspect(ctx, h.Container)
	switch {
	case errdefs.IsNotFound(err):
		return now, fmt.Errorf("adopt: %w: container %s is not there", plugin.ErrNotFound, short(h.Container))
	case err != nil:
		return now, fmt.Errorf("adopt: %w: %w", plugin.ErrUnavailable, err)
	}
	ours := map[string]string{labelNode: a.node, labelPlugin: l.Manifest.Metadata.Name, labelInstance: l.ID}
	for label, want := range ours {
		if got := now.Config.Labels[label]; got != want {
			return now, fmt.Errorf("adopt: %w: container %s has another label %s, %.100q", plugin.ErrNotFound, short(now.ID), label, got)
		}
	}
	if handleOf(now) != h {
		return now, fmt.Errorf("adopt: %w: container %s was started again since", plugin.ErrNotFound, short(now.ID))
	}
	return now, nil
}

// bury takes the last output of a container that ended while no daemon watched it,
// and removes it. An engine that goes away meanwhile leaves it to the next try.
func (a *Adapter) bury(ctx context.Context, i *instance) error {
	exit, over, err := i.ended(ctx, -1)
	if !over {
		return fmt.Errorf("adopt: %w: container %s is neither running nor over: %v", plugin.ErrUnavailable, short(i.id), err)
	}
	if err := i.lastOutput(ctx); err != nil && (ctx.Err() != nil || a.Available(ctx) != nil) {
		return fmt.Errorf("adopt: %w: last output of container %s: %v", plugin.ErrUnavailable, short(i.id), err)
	}
	err = fmt.Errorf("adopt: %w: container %s ended while no daemon watched it: %s; %s", plugin.ErrNotFound, short(i.id), exit, i.lastWords())
	return errors.Join(err, remove(ctx, i.engine, i.id))
}

// unanswered ends a proved container that does not answer. It is left when
// nobody could tell: the adoption was called off, or the engine is away.
func (a *Adapter) unanswered(ctx context.Context, v *service, why error) error {
	switch {
	case v.isGone():
		return fmt.Errorf("adopt: %w: container %s ended before it answered: %s; %s", plugin.ErrNotFound, short(v.id), v.exit, v.lastWords())
	case errors.Is(ctx.Err(), context.Canceled):
		v.Leave()
		return fmt.Errorf("adopt: %w: called off: %w", plugin.ErrUnavailable, why)
	case a.Available(context.WithoutCancel(ctx)) != nil:
		v.Leave()
		return fmt.Errorf("adopt: %w: the engine went away: %w", plugin.ErrUnavailable, why)
	}
	v.abandon(ctx)
	return deadline(ctx, fmt.Errorf("adopt: %w", why))
}
