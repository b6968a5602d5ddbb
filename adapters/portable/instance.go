package portable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// An instance is one running plugin process and its sockets.
type instance struct {
	proc.Beside
	spec     Spec
	manifest plugin.Manifest
	log      *slog.Logger // the plugin's own log
	sockets  sockets
	keep     *keep // nil: it ends with the daemon
	process  *proc.Process
	control  *link

	functions map[string]*function // by name; fixed once launched

	// life ends with the process. It is no request's context: it bounds what the
	// instance does by itself.
	life  context.Context
	gone  chan struct{}  // closed when everything is cleaned up
	group sync.WaitGroup // goroutines and streams; bury waits for it

	mu      sync.Mutex
	ended   bool // nothing may be added any more
	servers []*sp.Server
	started map[string]symbol // sources and sinks that run in the plugin, by opID
	parked  map[string]*outlet
	found   []symbol // started by an earlier daemon, and not wanted yet
	opIDs   int
}

var (
	_ plugin.Instance  = (*instance)(nil)
	_ plugin.Inspector = (*instance)(nil)
	_ plugin.Describer = (*instance)(nil)
	_ plugin.Prober    = (*instance)(nil)
	_ plugin.Execer    = (*instance)(nil)
	_ plugin.Stepper   = (*instance)(nil)
	_ plugin.Streamer  = (*instance)(nil)
	_ plugin.Survivor  = (*instance)(nil)
	_ plugin.Limited   = (*instance)(nil)
)

// launch leaves nothing behind on error.
func launch(ctx context.Context, l plugin.Launch, spec Spec, command proc.Spec) (*instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, outOfTime(ctx, "start", "there was no time left")
	}
	i := newInstance(l, spec)
	i.Beside = proc.NewBeside(l.Manifest, command)
	if err := i.startProcess(l, command); err != nil {
		return nil, err
	}
	if err := i.prepare(ctx); err != nil {
		i.process.Kill()
		exit := i.Wait()
		if errors.Is(err, errEnded) {
			err = fmt.Errorf("%w before it could be invoked: %s", err, exit)
		}
		return nil, err
	}
	return i, nil
}

func newInstance(l plugin.Launch, spec Spec) *instance {
	i := &instance{
		spec: spec, manifest: l.Manifest,
		log:       slog.New(slog.NewJSONHandler(l.Output.Writer(plugin.PluginLog), nil)),
		functions: map[string]*function{}, started: map[string]symbol{}, parked: map[string]*outlet{},
		gone: make(chan struct{}),
	}
	i.control = newLink("control", i.log)
	for n, name := range spec.Functions {
		i.functions[name] = newFunction(name, n+1, spec, newLink("function "+name, i.log))
	}
	return i
}

// startProcess listens on the control socket, starts the process and then
// accepts, so that who connects can be compared with the process.
func (i *instance) startProcess(l plugin.Launch, command proc.Spec) (err error) {
	if i.sockets, err = openSockets(l.Dir); err != nil {
		return fmt.Errorf("instance folder: %w: %w", plugin.ErrUnavailable, err)
	}
	defer func() {
		if err != nil {
			i.sockets.close()
			i.keep.close()
		}
	}()
	if l.Manifest.Spec.Detached() {
		if err := i.detach(&command); err != nil {
			return err
		}
	}
	control, err := i.sockets.listen(controlSocket(i.spec.name(l.Manifest)))
	if err != nil {
		return fmt.Errorf("control socket: %w: %w", plugin.ErrUnavailable, err)
	}
	if i.process, err = startWithOutput(command, l.Output); err != nil {
		control.Close()
		return err
	}
	i.begin(control)
	return nil
}

// begin accepts the control connection, and cleans up at the end.
func (i *instance) begin(control *net.UnixListener) {
	life, end := context.WithCancelCause(context.Background())
	i.life = life
	name := controlSocket(i.spec.name(i.manifest))
	server := i.accept(name, control, i.control.handler(controlBytesMax))
	i.servers = append(i.servers, server)
	i.resume(name, server)
	go i.bury(end) // ends with the process, or when it is left
}

func startWithOutput(command proc.Spec, out plugin.Output) (*proc.Process, error) {
	for _, stream := range []struct {
		name plugin.LogStream
		file **os.File
	}{{plugin.Stdout, &command.Stdout}, {plugin.Stderr, &command.Stderr}} {
		file, err := out.File(stream.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", stream.name, plugin.ErrUnavailable, err)
		}
		defer file.Close()
		*stream.file = file
	}
	p, err := proc.Start(command)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: if %s itself may be executed, the kernel refuses the mount namespace that gives the plugin a /tmp of its own; "+
			"run the daemon as root, or allow user namespaces to its user", err, command.Path)
	}
	return p, err
}

// prepare waits for the handshake and starts every function.
func (i *instance) prepare(ctx context.Context) error {
	if err := i.control.await(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	for _, name := range i.spec.Functions {
		if err := i.startFunction(ctx, i.functions[name]); err != nil {
			return err
		}
	}
	return nil
}

// bury cleans up once the process has ended or was left.
func (i *instance) bury(end context.CancelCauseFunc) {
	<-i.process.Done()
	i.mu.Lock()
	i.ended = true
	servers := i.servers
	i.mu.Unlock()
	var files []*os.File
	left := i.process.Left()
	if left {
		files = i.keep.freeze() // before anything is closed
	}
	end(errEnded)
	i.control.close()
	for _, f := range i.functions {
		f.link.close()
	}
	for _, s := range servers {
		s.Close()
	}
	i.group.Wait()
	if left {
		i.keep.writeLast(i.record(), files)
		closeAll(files)
	}
	i.keep.close()
	i.sockets.close()
	close(i.gone)
}

// enter counts something that bury must wait for; false when it is too late.
// Who enters calls group.Done.
func (i *instance) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended {
		i.group.Add(1)
	}
	return !i.ended
}

// serve listens on a socket of the plugin, until release or the end.
func (i *instance) serve(name string, h sp.Handler) (*sp.Server, error) {
	s, err := i.open(name, h)
	if err == nil {
		i.resume(name, s)
	}
	return s, err
}

func (i *instance) open(name string, h sp.Handler) (*sp.Server, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return nil, errEnded
	}
	l, err := i.sockets.listenAnew(name)
	if err != nil {
		return nil, fmt.Errorf("listen: %w: %w", plugin.ErrUnavailable, err)
	}
	s := i.accept(name, l, h)
	i.servers = append(i.servers, s)
	return s, nil
}

// accept serves a socket, whose connections are kept for the next daemon.
func (i *instance) accept(name string, l *net.UnixListener, h sp.Handler) *sp.Server {
	handle := h.Handle
	h.Handle = func(conn *sp.Conn) {
		i.keep.add(name, conn)
		i.keep.write(i.record)
		defer i.keep.write(i.record)
		defer i.keep.remove(conn)
		handle(conn)
	}
	return sp.Serve(l, i.admitting(h))
}

// resume goes on with the connections that an earlier daemon kept of a socket.
func (i *instance) resume(name string, s *sp.Server) {
	for _, one := range i.keep.claim(name) {
		s.Resume(one.socket, one.past)
	}
}

// release closes a server before the end.
func (i *instance) release(s *sp.Server) {
	i.mu.Lock()
	i.servers = slices.DeleteFunc(slices.Clone(i.servers), func(o *sp.Server) bool { return o == s })
	i.mu.Unlock()
	s.Close()
}

// admitting adds to h that nobody but the plugin is at the other end.
func (i *instance) admitting(h sp.Handler) sp.Handler {
	admit, refused := h.Admit, h.Refused
	h.Admit = func(c *net.UnixConn) error {
		pid, err := proc.PeerPid(c)
		if err != nil {
			return err
		}
		if !i.process.Owns(pid) {
			return fmt.Errorf("%w: process %d is not the plugin's", plugin.ErrDenied, pid)
		}
		if admit != nil {
			return admit(c)
		}
		return nil
	}
	h.Refused = func(err error) {
		i.log.Warn("connection refused", "error", err.Error())
		if refused != nil {
			refused(err)
		}
	}
	return h
}

// Invoke calls a function.
func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	f, ok := i.functions[in.Operation]
	if !ok {
		return plugin.Result{}, fmt.Errorf("operation %.80q: %w", in.Operation, plugin.ErrNotFound)
	}
	return f.invoke(ctx, in.Data)
}

// Wait blocks until the process has ended and its sockets are removed.
func (i *instance) Wait() plugin.Exit {
	<-i.gone
	return i.process.Wait()
}

// errNowTerm makes proc go on with SIGTERM: stopped symbols do not end a process.
var errNowTerm = errors.New("the symbols are stopped")

// Stop stops sources and sinks, so that they write what they hold, and then ends
// the process.
func (i *instance) Stop(ctx context.Context) error {
	err := i.process.Stop(ctx, func(ctx context.Context) error {
		i.stopSymbols(ctx)
		return errNowTerm
	})
	if err != nil {
		return err
	}
	<-i.gone
	return nil
}

// StopSteps says how the stop went.
func (i *instance) StopSteps() []plugin.StopStep { return i.process.StopSteps() }

// Inspect gives the process and its language.
func (i *instance) Inspect() map[string]string {
	return map[string]string{"pid": strconv.Itoa(i.process.Pid()), "language": i.spec.Language, "protocol": "portable"}
}

// Limits says what keeps the process to its limits.
func (i *instance) Limits() []plugin.LimitStatus { return i.process.Limits() }

// Describe lists the functions. The protocol tells nothing about their
// arguments.
func (i *instance) Describe(context.Context) ([]plugin.Operation, error) {
	names := slices.Sorted(slices.Values(i.spec.Functions))
	operations := make([]plugin.Operation, len(names))
	for n, name := range names {
		operations[n] = plugin.Operation{Name: name}
	}
	return operations, nil
}

// Probe looks at the control connection and asks each function that is not in a
// call.
func (i *instance) Probe(ctx context.Context) error {
	if i.life.Err() != nil {
		return errEnded
	}
	if err := i.control.health(); err != nil {
		return err
	}
	for _, name := range i.spec.Functions {
		if err := i.functions[name].probe(ctx); err != nil {
			return fmt.Errorf("probe: %w", err)
		}
	}
	return nil
}
