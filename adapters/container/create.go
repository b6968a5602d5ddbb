package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// loopback is where a service's port is published: nobody else's business.
const loopback = "127.0.0.1"

// logOptions bound the engine's own copy of the output, which is for `docker
// logs` and for what is printed while no daemon listens; the plugin's log is what
// we read ourselves. The driver `local` takes twice what json-file does.
func logOptions() container.LogConfig {
	return container.LogConfig{Type: "local", Config: map[string]string{"max-size": "10m", "max-file": "3"}}
}

// createGrace is how long a create that was called off may still take. The engine
// finishes what it was asked, listening or not: giving up at once would leave a
// container that comes into being after it was removed. It takes 6 ms, at a load
// of 20 a second.
const createGrace = 2 * time.Second

// create makes the container, and leaves none when it fails.
func (a *Adapter) create(ctx context.Context, s Spec, l plugin.Launch, img picture) (container.CreateResponse, error) {
	if ctx.Err() != nil {
		return container.CreateResponse{}, class("create", ctx.Err())
	}
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(createGrace, cancel) })()
	made, err := a.createNow(lasting, s, l, img)
	if err == nil && ctx.Err() != nil {
		return made, errors.Join(class("create", ctx.Err()), remove(ctx, a.engine, made.ID))
	}
	return made, err
}

func (a *Adapter) createNow(ctx context.Context, s Spec, l plugin.Launch, img picture) (container.CreateResponse, error) {
	config, host := a.config(s, l, img), hostConfig(s, l.Manifest.Spec)
	name := "patchbay-" + l.ID
	made, err := a.engine.ContainerCreate(ctx, config, host, nil, nil, name)
	if errdefs.IsConflict(err) {
		// Another daemon on this engine has an instance of the same id.
		name += "-" + a.nodeHash()
		made, err = a.engine.ContainerCreate(ctx, config, host, nil, nil, name)
	}
	switch {
	case err == nil:
		for _, warning := range made.Warnings { // such as a limit that this kernel cannot keep
			_, _ = io.WriteString(l.Output.Writer(plugin.PluginLog), "engine: "+warning+"\n")
		}
		return made, nil
	case errdefs.IsConflict(err):
		return made, fmt.Errorf("create %s: %w: %w", name, plugin.ErrConflict, err)
	case errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err):
		return made, class("create", err)
	}
	// The engine may have made it all the same, and only its answer was lost.
	return made, errors.Join(class("create", err), remove(ctx, a.engine, name))
}

// nodeHash tells names of different daemons apart.
func (a *Adapter) nodeHash() string {
	const bytes = 4 // names are for people; labels are what counts
	sum := sha256.Sum256([]byte(a.node))
	return hex.EncodeToString(sum[:bytes])
}

func (a *Adapter) config(s Spec, l plugin.Launch, img picture) *container.Config {
	isJob := l.Manifest.Spec.Mode == plugin.Job
	c := &container.Config{
		Image: img.id, Entrypoint: s.Command, Cmd: s.Args, WorkingDir: s.WorkDir, User: s.User,
		Env: environ(l.Env), AttachStdout: true, AttachStderr: true,
		AttachStdin: isJob, OpenStdin: isJob, StdinOnce: isJob,
		Labels: map[string]string{
			labelNode: a.node, labelPlugin: l.Manifest.Metadata.Name, labelInstance: l.ID,
			labelImage: s.Image, labelVersion: labelsVersion,
		},
	}
	if !isJob {
		c.ExposedPorts = nat.PortSet{servicePort(s): {}}
	}
	return c
}

func hostConfig(s Spec, m plugin.Spec) *container.HostConfig {
	h := &container.HostConfig{
		NetworkMode: container.NetworkMode(s.Network), LogConfig: logOptions(),
		ReadonlyRootfs: s.ReadOnly, CapDrop: s.CapDrop, SecurityOpt: []string{"no-new-privileges"},
		Resources: container.Resources{
			// Swap as much as memory means: no swap beyond the limit.
			Memory: int64(m.Limits.Memory), MemorySwap: int64(m.Limits.Memory),
			NanoCPUs: int64(math.Round(m.Limits.CPU * 1e9)),
			Ulimits:  ulimits(m.Limits),
		},
	}
	if m.Limits.Pids > 0 {
		pids := int64(m.Limits.Pids)
		h.PidsLimit = &pids
	}
	if s.Init {
		h.Init = &s.Init
	}
	if len(s.Tmpfs) > 0 {
		h.Tmpfs = map[string]string{}
		for _, dir := range s.Tmpfs {
			h.Tmpfs[dir] = ""
		}
	}
	if m.Mode != plugin.Job {
		h.PortBindings = nat.PortMap{servicePort(s): {{HostIP: loopback, HostPort: "0"}}}
	}
	return h
}

func servicePort(s Spec) nat.Port { return nat.Port(strconv.Itoa(s.Port) + "/tcp") }

// environ is all that the plugin gets besides the image's own.
func environ(env map[string]string) []string {
	pairs := make([]string, 0, len(env))
	for name, value := range env {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return pairs
}
