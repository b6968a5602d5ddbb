package goplugin

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A link is a connection to a plugin in one of the two protocols. Its errors
// carry the classes of core/plugin.
type link interface {
	// call makes one call of an operation whose answer is one.
	call(ctx context.Context, in plugin.Invocation) ([]byte, error)
	// invoke makes one call; each part of the answer is handed to send.
	invoke(ctx context.Context, in plugin.Invocation, send func([]byte) error) error
	// streams reports an operation whose answer comes in parts.
	streams(operation string) bool
	// takesParts reports an operation whose argument comes in parts.
	takesParts(operation string) bool
	operations() []plugin.Operation
	// facts are for status.
	facts() map[string]string
	probe(ctx context.Context) error
	// quit asks the plugin to end.
	quit(ctx context.Context) error
	// drained is closed when the plugin's output has been read to its end, which
	// follows the end of the process.
	drained() <-chan struct{}
	// close breaks the connection and returns once its goroutines have ended.
	close()
}

// drainMost is how long the output that a dead plugin left in its connection is
// read. It is there already; only a grandchild that left the group and holds the
// socket can make it longer.
const drainMost = 50 * time.Millisecond

// An instance is one running go-plugin process.
type instance struct {
	*process
	greeting greeting
	link     link
	gone     chan struct{} // closed after the process and all that served it
}

var (
	_ plugin.Instance      = (*instance)(nil)
	_ plugin.Prober        = (*instance)(nil)
	_ plugin.Execer        = (*instance)(nil)
	_ plugin.Stepper       = (*instance)(nil)
	_ plugin.Describer     = (*instance)(nil)
	_ plugin.StreamInvoker = (*instance)(nil)
	_ plugin.PartsTaker    = (*instance)(nil)
	_ plugin.Inspector     = (*instance)(nil)
	_ plugin.Survivor      = (*instance)(nil)
	_ plugin.Limited       = (*instance)(nil)
	_ plugin.Digester      = (*instance)(nil)
)

func newInstance(p *process, g greeting, to link) *instance {
	i := &instance{process: p, greeting: g, link: to, gone: make(chan struct{})}
	go i.tidy() // ends with the process, or with Leave
	return i
}

// tidy closes the connection once the process is gone and its last words are read,
// or at once when the process was left: it goes on printing, for the next daemon.
func (i *instance) tidy() {
	defer close(i.gone)
	<-i.Done()
	if !i.Left() {
		select {
		case <-i.link.drained():
		case <-time.After(drainMost):
		}
	}
	i.link.close()
	i.closeCalls()
}

// Invoke calls one operation. An answer in parts is gathered into a JSON array.
func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	if i.link.streams(in.Operation) {
		return i.gather(ctx, in)
	}
	if err := i.takes(in); err != nil {
		return plugin.Result{}, err
	}
	data, err := i.link.call(ctx, in)
	return plugin.Result{Data: data}, i.meant(err)
}

func (i *instance) gather(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	data := []byte{'['}
	err := i.InvokeStream(ctx, in, func(part []byte) error {
		if len(data) > 1 {
			data = append(data, ',')
		}
		if len(data)+len(part) > i.payload {
			return fmt.Errorf("%s: %w: the parts of the answer are over spec.limits.payload (%d bytes) together; invoke it as a stream", in.Operation, plugin.ErrInvalid, i.payload)
		}
		data = append(data, part...)
		return nil
	})
	if err != nil {
		return plugin.Result{}, err
	}
	return plugin.Result{Data: append(data, ']')}, nil
}

// InvokeStream calls one operation and hands over each part of its answer.
func (i *instance) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	if err := i.takes(in); err != nil {
		return err
	}
	return i.meant(i.link.invoke(ctx, in, send))
}

// takes returns why there can be no call.
func (i *instance) takes(in plugin.Invocation) error {
	if in.ContentType != "" && in.ContentType != "application/json" {
		return fmt.Errorf("%s: %w: the argument is %s; a go-plugin takes application/json", cut(in.Operation), plugin.ErrInvalid, cut(in.ContentType))
	}
	select {
	case <-i.Done():
		return fmt.Errorf("%s: %w: the plugin has ended: %s", cut(in.Operation), plugin.ErrUnavailable, i.Process.Wait())
	default:
	}
	return nil
}

// TakesParts reports a method of gRPC whose argument is a stream.
func (i *instance) TakesParts(operation string) bool { return i.link.takesParts(operation) }

// Probe asks the protocol's own sign of life.
func (i *instance) Probe(ctx context.Context) error { return i.link.probe(ctx) }

// Describe lists the operations.
func (i *instance) Describe(context.Context) ([]plugin.Operation, error) {
	return i.link.operations(), nil
}

// Wait blocks until the process has ended and its output has been read.
func (i *instance) Wait() plugin.Exit {
	<-i.gone
	return i.Process.Wait()
}

// Stop asks the plugin to end, then walks proc's ladder.
func (i *instance) Stop(ctx context.Context) error {
	i.serves.Store(false) // it removes its socket, and nobody is to wonder
	err := i.Process.Stop(ctx, i.quit)
	if err != nil {
		return err
	}
	<-i.gone
	return nil
}

// quit asks a plugin to end that was not left.
func (i *instance) quit(ctx context.Context) error {
	if i.Left() {
		return errClosed
	}
	return i.link.quit(ctx)
}

// Handle returns the process, what it announced, and the daemon's key for it.
func (i *instance) Handle(ctx context.Context) (plugin.RawJSON, error) {
	child, err := i.Process.Handle(ctx)
	if err != nil {
		return nil, err
	}
	return writeHandle(child, i.greeting, i.cookie, i.own)
}

// Digest is that of the executable, of which a copy is kept then.
func (i *instance) Digest(ctx context.Context) (string, error) {
	c, err := compile(i.launch.Manifest, i.executables)
	if err == nil && c.path == "" {
		c.path, err = i.builds.Find(ctx, c.Source)
	}
	if err != nil {
		return "", fmt.Errorf("digest: %w: %w", plugin.ErrConflict, err)
	}
	digest, err := i.Process.Digest(c.path)
	if err == nil {
		err = i.kept.Keep(c.path, digest)
	}
	return digest, err
}

// Leave closes the connection, which a plugin survives, and asks nothing of it.
func (i *instance) Leave() {
	i.Process.Leave()
	<-i.gone
}

// Inspect returns the process id, the protocol and its version.
func (i *instance) Inspect() map[string]string {
	facts := map[string]string{
		"pid":      strconv.Itoa(i.Pid()),
		"protocol": i.greeting.protocol,
		"version":  strconv.Itoa(i.greeting.version),
	}
	if i.own != nil {
		facts["tls"] = "mutual"
	}
	maps.Copy(facts, i.link.facts())
	if i.isKnown(i.Plugin) {
		facts["plugin"], facts["dialect"] = i.Plugin, i.Dialect
	}
	return facts
}

// broken gives the error of a call its class: the caller's time is over, or the
// connection broke.
func broken(ctx context.Context, operation string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", operation, plugin.ErrDeadline, ctx.Err())
	}
	return fmt.Errorf("%s: %w: %w", operation, plugin.ErrUnavailable, err)
}
