package goplugin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"weak"

	"google.golang.org/grpc"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// An earlier is the catalog of an earlier start of a plugin. Go's plugins have their
// descriptors compiled in, and to have them told is a sixth of a small plugin's start. So
// a plugin whose start differs in nothing from one before is asked for its services, and
// the descriptors are compared behind the start.
type earlier struct {
	catalog weak.Pointer[catalog] // while an instance has it, or the collector has not come
	origin  origin
	// unsteady: its descriptors were others without a cause. It is always asked for them.
	unsteady bool
}

// An origin stands for everything that descriptors come from: the file that is executed,
// the block of the manifest, the environment.
type origin [sha256.Size]byte

// origin reports false for a start that is not comparable: what an interpreter reads
// cannot be seen, and where the plugin calls back, its catalog is bound to one link.
func (d *dialer) origin() (origin, bool) {
	if len(d.Command) > 1 || d.calledBack() {
		return origin{}, false
	}
	image, ok := d.Image(d.path)
	if !ok {
		return origin{}, false
	}
	text, err := json.Marshal(struct {
		Image proc.Image
		Block plugin.RawJSON
		Env   map[string]string
	}{image, d.launch.Manifest.Spec.Block, d.launch.Env})
	return sha256.Sum256(text), err == nil
}

// recall returns the catalog of an earlier start from the same origin; nil is none.
func (q *questions) recall(from origin) *catalog {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.earlier.unsteady || q.earlier.origin != from {
		return nil
	}
	return q.earlier.catalog.Value()
}

func (q *questions) remember(from origin, c *catalog) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.earlier.origin, q.earlier.catalog = from, weak.Make(c)
}

func (q *questions) distrust() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.earlier = earlier{unsteady: true}
}

// learn fills in what the plugin offers.
func (g *grpcLink) learn(ctx context.Context) error {
	from, comparable := g.origin()
	if comparable {
		if c := g.asked.recall(from); c != nil && hasServices(ctx, g.conn, c) {
			g.known = c
			g.behind.Go(func() { g.compare(c) }) // ends with close
			return nil
		}
	}
	var err error
	if g.known, err = reflectAll(ctx, g.conn, g.calledServices(), g.asked); err != nil {
		return err
	}
	if err = g.known.finish(g.dialer); err == nil && comparable {
		g.asked.remember(from, g.known)
	}
	return err
}

// finish adds what the manifest says.
func (c *catalog) finish(d *dialer) error {
	c.alias(d.preset.aliases)
	return c.addMetadata(d.Metadata)
}

// hasServices asks a plugin whether it still has c's services, and no other.
func hasServices(ctx context.Context, conn *grpc.ClientConn, c *catalog) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := newReflector(ctx, conn, c.method)
	if err != nil {
		return false
	}
	answers, err := r.ask([]*reflectionpb.ServerReflectionRequest{listServices()})
	if err != nil {
		return false
	}
	services, err := servicesIn(answers[0])
	return err == nil && slices.Equal(services, c.services)
}

// compare ends an instance whose descriptors are not those that were taken for them. It
// is started again by its policy, and asked for everything.
func (g *grpcLink) compare(c *catalog) {
	now, err := reflectAll(g.closing, g.conn, nil, g.asked)
	if g.closing.Err() != nil || errors.Is(err, plugin.ErrUnavailable) || err == nil && now.sum == c.sum {
		return // or it is for the probes
	}
	g.asked.distrust()
	if g.Left() {
		return
	}
	_, _ = fmt.Fprintln(g.launch.Output.Writer(plugin.PluginLog), "its descriptors are not those of its last start, though the executable is: it is started again, and asked for them from now on")
	g.Kill()
}
