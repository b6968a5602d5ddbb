package container

import (
	"context"
	"fmt"
	"runtime"

	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// startsPerCPU bounds the starts under way: beyond twice the CPUs the engine
// starts no more containers per second, it only takes longer for each.
const startsPerCPU = 2

// Options are the daemon's settings for containers.
type Options struct {
	// Node is the daemon's identity on the engine. Two daemons that share an
	// engine must differ in it: Sweep removes by it.
	Node string
	// Host is the engine, such as unix:///var/run/docker.sock; "" means
	// DOCKER_HOST (with DOCKER_CERT_PATH and DOCKER_TLS_VERIFY), else the default.
	Host string
}

// Adapter launches containers. It connects when first used.
type Adapter struct {
	node   string
	engine *client.Client
	fault  error         // why there is no client: the host is no address
	starts chan struct{} // a token per start under way; the next waits or is cancelled
	pulls  pulls
}

var (
	_ plugin.Adapter      = (*Adapter)(nil)
	_ plugin.Specifier    = (*Adapter)(nil)
	_ plugin.Availability = (*Adapter)(nil)
	_ plugin.Sweeper      = (*Adapter)(nil)
	_ plugin.Adopter      = (*Adapter)(nil)
)

// New returns the adapter. It does no I/O; what is wrong with the host is told by
// Available and Launch.
func New(o Options) *Adapter {
	a := &Adapter{node: o.Node, starts: make(chan struct{}, startsPerCPU*runtime.NumCPU())}
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation(), client.WithUserAgent("patchbay")}
	if o.Host != "" {
		opts = append(opts, client.WithHost(o.Host))
	}
	if a.engine, a.fault = client.NewClientWithOpts(opts...); a.fault != nil {
		a.fault = fmt.Errorf("docker host: %w: %w; correct DOCKER_HOST", plugin.ErrInvalid, a.fault)
	}
	a.pulls.engine = a.engine
	return a
}

// Name is the key under spec.
func (a *Adapter) Name() string { return "container" }

// Spec returns a zero manifest block.
func (a *Adapter) Spec() any { return new(Spec) }

// Close ends pulls under way and the connections to the engine. Containers run on.
func (a *Adapter) Close() error {
	a.pulls.close()
	if a.engine == nil {
		return nil
	}
	return a.engine.Close()
}

// Launch creates and starts one container, and returns once it answers HTTP, or
// once it has started if it is a job.
func (a *Adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	s, err := check(l.Manifest)
	if err != nil {
		return nil, err
	}
	for name, value := range l.Env {
		if why := envFault(name, value); why != "" {
			return nil, fmt.Errorf("spec.env.%s: %w: %s", name, plugin.ErrInvalid, why)
		}
	}
	i, err := a.launch(ctx, s, l)
	if err != nil {
		return nil, deadline(ctx, err)
	}
	return i, nil
}

func (a *Adapter) launch(ctx context.Context, s Spec, l plugin.Launch) (plugin.Instance, error) {
	if a.fault != nil {
		return nil, a.fault
	}
	img, err := a.image(ctx, s, l.Manifest.Spec.Digest)
	if err != nil {
		return nil, err
	}
	i, err := a.start(ctx, s, l, img)
	if err != nil {
		return nil, err
	}
	if l.Manifest.Spec.Mode == plugin.Job {
		_, _ = i.look(ctx) // for its facts; it may have ended already
		return job{i}, nil
	}
	return serve(ctx, i, s, l)
}

// start creates and starts the container while it holds one of the start tokens.
func (a *Adapter) start(ctx context.Context, s Spec, l plugin.Launch, img picture) (*instance, error) {
	select {
	case a.starts <- struct{}{}:
		defer func() { <-a.starts }()
	case <-ctx.Done():
		return nil, fmt.Errorf("start: %w: too many starts are under way", plugin.ErrUnavailable)
	}
	made, err := a.create(ctx, s, l, img)
	if err != nil {
		return nil, err
	}
	return a.begin(ctx, s, l, img, made)
}
