package goplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// callConnsMax bounds a plugin's connections at a time: Vault's have one, others
	// one per call under way. More are closed at once.
	callConnsMax = 32
	// callStreamsMax bounds the calls of one connection.
	callStreamsMax = 64
	// callsMax bounds the calls that are read and answered at a time, and so the
	// memory: that many messages of callBytesMax. Others wait.
	callsMax = 16
	// callBytesMax bounds a message, as grpc does without being told; it is above what
	// values and events may have. spec.limits.payload is a bound too.
	callBytesMax = 4 << 20
	// handshakeMost is how long a connection may take to begin.
	handshakeMost = 5 * time.Second
	// toldMax bounds the methods whose denial is told in the log.
	toldMax = 64
	// statusTextMax bounds the text of a status, which travels as a header.
	statusTextMax = 1 << 10
)

// A callServer answers what a plugin asks its host.
type callServer struct {
	*transcoder
	launch plugin.Launch
	bound  map[string]*binding // by path
	most   time.Duration
	server *grpc.Server
	owns   func(pid int) bool
	slots  chan struct{} // one for each call that is under way

	mu   sync.Mutex
	told map[string]bool
}

func newCallServer(g *grpcLink, bound map[string]*binding) (*callServer, error) {
	s := &callServer{
		transcoder: g.transcoder, launch: g.launch, bound: bound, most: g.launch.Manifest.Spec.Timeouts.Invoke.Std(),
		owns: g.Owns, slots: make(chan struct{}, callsMax), told: map[string]bool{},
	}
	options := []grpc.ServerOption{
		grpc.UnknownServiceHandler(s.handle), grpc.ForceServerCodecV2(codec{}), grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(min(g.payload, callBytesMax)), grpc.MaxSendMsgSize(min(g.payload, callBytesMax)), grpc.MaxConcurrentStreams(callStreamsMax),
		grpc.MaxHeaderListSize(headersBytesMax), grpc.ConnectionTimeout(handshakeMost),
	}
	if g.own != nil {
		config, err := g.own.serverConfig(g.certificate)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	s.server = grpc.NewServer(options...)
	return s, nil
}

// serve takes connections until stop.
func (s *callServer) serve(socket *net.UnixListener) {
	_ = s.server.Serve(&plugins{UnixListener: socket, owns: s.owns, room: make(chan struct{}, callConnsMax)})
}

// stop ends every call, and returns once nothing runs.
func (s *callServer) stop() { s.server.Stop() }

// handle answers one call, and has it counted.
func (s *callServer) handle(_ any, call grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(call)
	b, kind := s.bound[path], "none"
	var err error
	if b == nil {
		s.tell(path)
		err = status.Errorf(codes.PermissionDenied, "patchbay: %s is denied: nothing is bound to it in spec.goplugin.callbacks", cut(path))
	} else {
		kind, err = b.kind, s.answer(call, b)
	}
	if counter, ok := s.launch.Host.(plugin.CallbackCounter); ok {
		counter.Called(kind, outcomeOf(status.Code(err)))
	}
	return err
}

// answer answers one call. It is a stranger's: whatever it holds must not end more
// than itself.
func (s *callServer) answer(call grpc.ServerStream, b *binding) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = status.Errorf(codes.Internal, "patchbay: %s: %v", b.method.full, panicked)
		}
	}()
	ctx, cancel := context.WithTimeout(call.Context(), s.most)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return status.Errorf(codes.ResourceExhausted, "patchbay: %s: %d calls are under way", b.method.full, callsMax)
	}
	asked, err := s.receive(ctx, call, b)
	if err != nil {
		return err
	}
	answer, err := b.act(ctx, s.launch.Host, asked)
	if err != nil {
		return statusOf(b.method.full, err)
	}
	wire, err := s.wire(b.method, answer)
	if err != nil {
		return status.Errorf(codes.Internal, "patchbay: %s: the answer does not fit: %.*s", b.method.full, statusTextMax, err)
	}
	return call.SendMsg(&request{wire})
}

// receive reads the call's message, as JSON. One that does not come keeps nobody: the
// end of the call ends the reading.
func (s *callServer) receive(ctx context.Context, call grpc.ServerStream, b *binding) ([]byte, error) {
	got := &answer{transcoder: s.transcoder, method: b.method}
	read := make(chan error, 1)
	go func() { read <- call.RecvMsg(got) }()
	select {
	case err := <-read:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, status.Errorf(codes.DeadlineExceeded, "patchbay: %s: no message came", b.method.full)
	}
	if got.err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "patchbay: %s: %.*s", b.method.full, statusTextMax, got.err)
	}
	return got.text, nil
}

// tell writes to the log, once for each method, what the plugin missed.
func (s *callServer) tell(path string) {
	s.mu.Lock()
	known := s.told[path] || len(s.told) == toldMax
	if !known {
		s.told[path] = true
	}
	s.mu.Unlock()
	if !known {
		_, _ = fmt.Fprintf(s.launch.Output.Writer(plugin.PluginLog), "the plugin called %q and was denied: nothing is bound to that in spec.goplugin.callbacks\n", strings.TrimPrefix(cut(path), "/"))
	}
}

// A class is how an error of the host is told: its status, and its word in metrics.
type class struct {
	err     error
	code    codes.Code
	outcome string
}

func classes() []class {
	return []class{
		{plugin.ErrInvalid, codes.InvalidArgument, "invalid"}, {plugin.ErrDenied, codes.PermissionDenied, "denied"},
		{plugin.ErrNotFound, codes.NotFound, "not-found"}, {plugin.ErrConflict, codes.Aborted, "conflict"},
		{plugin.ErrBusy, codes.ResourceExhausted, "busy"}, {plugin.ErrDeadline, codes.DeadlineExceeded, "deadline"},
		{plugin.ErrUnavailable, codes.Unavailable, "unavailable"},
		// What an answer from the bus or another plugin refuses, and what is wrong with an answer.
		{nil, codes.FailedPrecondition, "refused"}, {nil, codes.Internal, "invalid"},
		{nil, codes.Unimplemented, "denied"}, {nil, codes.OK, "ok"},
	}
}

// outcomeOf is a word of few for metrics.
func outcomeOf(code codes.Code) string {
	for _, c := range classes() {
		if c.code == code {
			return c.outcome
		}
	}
	return "unavailable"
}

// statusOf gives an error of the host its gRPC status.
func statusOf(method string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	for _, c := range classes() {
		if c.err != nil && errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	if no, ok := errors.AsType[*plugin.Refusal](err); ok {
		code, err = codes.FailedPrecondition, no
	}
	return status.Errorf(code, "patchbay: %s: %.*s", method, statusTextMax, err)
}

// plugins accepts the plugin's own connections only, and so many at a time.
type plugins struct {
	*net.UnixListener
	owns func(pid int) bool
	room chan struct{}
}

// Accept closes what it does not let in.
func (l *plugins) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if pid, err := proc.PeerPid(conn); err == nil && l.owns(pid) {
			select {
			case l.room <- struct{}{}:
				return &guest{UnixConn: conn, leave: sync.OnceFunc(func() { <-l.room })}, nil
			default:
			}
		}
		_ = conn.Close()
	}
}

// A guest makes room when it is closed.
type guest struct {
	*net.UnixConn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.UnixConn.Close()
}
