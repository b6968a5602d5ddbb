package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// pullStallMax ends a pull that reports nothing for so long. There is no limit on
// the whole: a large image over a slow line is no fault. Registries answer, and
// engines verify a large layer, within a minute.
const pullStallMax = 2 * time.Minute

// picture is what a launch needs to know of its image.
type picture struct {
	id         string
	stopSignal string
}

// image returns the image to create from: found here or pulled, and the one that
// digest names.
func (a *Adapter) image(ctx context.Context, s Spec, digest string) (picture, error) {
	if s.Pull == pullAlways {
		if err := a.pulls.pull(ctx, s.Image); err != nil {
			return picture{}, err
		}
	}
	found, err := a.engine.ImageInspect(ctx, s.Image)
	if errdefs.IsNotFound(err) && s.Pull == pullMissing {
		if err := a.pulls.pull(ctx, s.Image); err != nil {
			return picture{}, err
		}
		found, err = a.engine.ImageInspect(ctx, s.Image)
	}
	switch {
	case errdefs.IsNotFound(err):
		return picture{}, fmt.Errorf("image %s: %w: is not on this machine; build or pull it, or set spec.container.pull: missing", s.Image, plugin.ErrInvalid)
	case err != nil:
		return picture{}, class("image "+s.Image, err)
	case digest != "" && !matches(found, digest):
		return picture{}, fmt.Errorf("image %s: %w: spec.digest is %s, and the image here is %s", s.Image, plugin.ErrInvalid, digest,
			strings.Join(append([]string{found.ID}, found.RepoDigests...), ", "))
	}
	p := picture{id: found.ID}
	if found.Config != nil {
		p.stopSignal = found.Config.StopSignal
	}
	return p, nil
}

// matches reports whether digest is the image's id, or the digest by which a
// registry gave it.
func matches(img image.InspectResponse, digest string) bool {
	return img.ID == digest || slices.ContainsFunc(img.RepoDigests, func(d string) bool {
		return strings.HasSuffix(d, "@"+digest)
	})
}

// pulls are the pulls under way, one per image however many launches wait for it.
// A pull goes on when the launches that waited have given up (spec.timeouts.start
// is about the plugin's start, not about an image's size): the next one joins it.
// It ends with the image, an error, a stall, or close.
type pulls struct {
	engine *client.Client

	mu     sync.Mutex
	closed bool
	active map[string]*pull
}

type pull struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when err is set
	err    error
	mu     sync.Mutex
	status string
}

func (p *pulls) pull(ctx context.Context, ref string) error {
	one, err := p.join(ref)
	if err != nil {
		return err
	}
	select {
	case <-one.done:
		return one.err
	case <-ctx.Done():
		return fmt.Errorf("image %s: %w: is still being pulled (%s); the pull goes on", ref, plugin.ErrUnavailable, one.progress())
	}
}

func (p *pulls) join(ref string) (*pull, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.active[ref]; one != nil {
		return one, nil
	}
	if p.closed {
		return nil, fmt.Errorf("image %s: %w: the adapter is closed", ref, plugin.ErrUnavailable)
	}
	if p.active == nil {
		p.active = map[string]*pull{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	one := &pull{cancel: cancel, done: make(chan struct{}), status: "asked the registry"}
	p.active[ref] = one
	go func() { // ends with the image, an error, a stall or close, which waits
		err := one.run(ctx, p.engine, ref)
		p.mu.Lock()
		delete(p.active, ref)
		p.mu.Unlock()
		one.err = err
		close(one.done)
	}()
	return one, nil
}

func (p *pulls) close() {
	p.mu.Lock()
	p.closed = true
	var waits []*pull
	for _, one := range p.active {
		waits = append(waits, one)
	}
	p.mu.Unlock()
	for _, one := range waits {
		one.cancel()
		<-one.done
	}
}

func (one *pull) run(ctx context.Context, engine *client.Client, ref string) error {
	defer one.cancel()
	stalled := time.AfterFunc(pullStallMax, one.cancel)
	defer stalled.Stop()
	body, err := engine.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return pullFault(ref, err)
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; stalled.Reset(pullStallMax) {
		var line struct {
			ID, Status, Progress, Error string
		}
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("image %s: %w: the pull broke off or reported nothing for %v: %w", ref, plugin.ErrUnavailable, pullStallMax, err)
		case line.Error != "":
			return pullFault(ref, errors.New(line.Error))
		}
		one.report(strings.TrimSpace(line.ID + " " + line.Status + " " + line.Progress))
	}
}

func (one *pull) report(status string) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.status = status
}

func (one *pull) progress() string {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.status
}

// pullFault tells an image that the registry does not give (ErrInvalid) from a
// registry that cannot be reached. In the stream of progress the engine says it
// in words only.
func pullFault(ref string, err error) error {
	kind := plugin.ErrUnavailable
	if errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || errdefs.IsInvalidArgument(err) {
		kind = plugin.ErrInvalid
	}
	for _, words := range []string{"manifest unknown", "not found", "access denied", "repository does not exist"} {
		if strings.Contains(err.Error(), words) {
			kind = plugin.ErrInvalid
		}
	}
	return fmt.Errorf("image %s: %w: is not on this machine and cannot be pulled: %w; build it here, or correct spec.container.image", ref, kind, err)
}
