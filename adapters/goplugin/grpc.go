package goplugin

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// windowBytes is how much may be under way without an acknowledgement. Its
	// being fixed also turns off grpc's probing for it, which pings per message.
	windowBytes = 1 << 20
	// headersBytesMax bounds what a plugin says beside an answer, its status's details
	// among it; grpc takes 16 MiB.
	headersBytesMax = 1 << 20
	// healthService is the name under which every go-plugin reports its health.
	healthService = "plugin"

	// overLimit is in grpc's own complaints about the size of a message, which
	// have the same code as a plugin's being out of something.
	overLimit = "message larger than max ("

	shutdownMethod = "/plugin.GRPCController/Shutdown"
)

// grpcLink is the link to a gRPC plugin. grpc-go makes the connection anew when it
// broke and the process lives on.
type grpcLink struct {
	*dialer
	conn  *grpc.ClientConn
	first chan net.Conn // holds the connection made by connectGRPC, until grpc takes it
	known *catalog
	*transcoder
	broker *broker // nil without callbacks

	behind  sync.WaitGroup // what goes on beside the calls
	ended   chan struct{}  // closed when the plugin's output has been read to its end
	cancel  context.CancelFunc
	closing context.Context
}

func connectGRPC(ctx context.Context, d *dialer) (link, error) {
	g := &grpcLink{dialer: d, first: make(chan net.Conn, 1), ended: make(chan struct{})}
	// Dialled here, because grpc would keep the reason of a failure to itself.
	first, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	g.first <- first
	if g.conn, err = g.client(); err != nil {
		_ = first.Close()
		return nil, err
	}
	g.closing, g.cancel = context.WithCancel(context.Background())
	answered := make(chan struct{})
	g.behind.Go(func() { defer close(g.ended); g.drain(g.closing, answered) }) // ends with close
	if d.DescriptorSet != "" {
		if g.known, err = catalogOf(d.descriptors); err == nil {
			err = g.probe(ctx) // as reflection would show: it answers
		}
		if err == nil {
			err = g.known.finish(d)
		}
	} else {
		err = g.learn(ctx)
	}
	close(answered)
	if err == nil {
		g.transcoder = newTranscoder(g.known.types)
		err = g.answerCallbacks(ctx)
	}
	if err != nil {
		g.close()
		return nil, connectError(err)
	}
	return g, nil
}

// client returns a grpc connection through dial, without names, proxies, service
// configurations or retries.
func (g *grpcLink) client() (*grpc.ClientConn, error) {
	config, err := g.config()
	if err != nil {
		return nil, err
	}
	security := insecure.NewCredentials()
	if config != nil {
		security = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+peerName,
		grpc.WithContextDialer(g.connection),
		grpc.WithTransportCredentials(security),
		grpc.WithAuthority(peerName),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithMaxHeaderListSize(headersBytesMax),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(g.payload), grpc.MaxCallSendMsgSize(g.payload),
			grpc.ForceCodecV2(codec{})),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(), grpc.WithIdleTimeout(0))
	if err != nil {
		return nil, startFailed("connect", err)
	}
	return conn, nil
}

// connection gives grpc the connection there is, and later new ones.
func (g *grpcLink) connection(ctx context.Context, _ string) (net.Conn, error) {
	select {
	case first := <-g.first:
		return first, nil
	default:
		return g.dial(ctx)
	}
}

func (g *grpcLink) invoke(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	m, ctx, err := g.method(ctx, in)
	switch {
	case err != nil:
		return err
	case m.clientStreams || m.serverStreams:
		return g.converse(ctx, m, in, send)
	}
	data, err := g.unary(ctx, m, in)
	if err != nil {
		return err
	}
	return send(data)
}

func (g *grpcLink) call(ctx context.Context, in plugin.Invocation) (data []byte, err error) {
	m, ctx, err := g.method(ctx, in)
	switch {
	case err != nil:
		return nil, err
	case m.clientStreams:
		err = g.converse(ctx, m, in, func(part []byte) error { data = part; return nil })
		return data, err
	}
	return g.unary(ctx, m, in)
}

// method finds what is called, and adds its metadata to the context.
func (g *grpcLink) method(ctx context.Context, in plugin.Invocation) (*grpcMethod, context.Context, error) {
	m := g.known.methods[in.Operation]
	if m == nil {
		return nil, ctx, fmt.Errorf("%q: %w: %s", cut(in.Operation), plugin.ErrNotFound, g.known.hint(in.Operation))
	}
	ctx, err := g.withMetadata(ctx, m, in.Metadata)
	return m, ctx, err
}

// unaryCall is what a call needs, in one piece.
type unaryCall struct {
	untold  untold
	request request
	answer  answer
}

func (g *grpcLink) unary(ctx context.Context, m *grpcMethod, in plugin.Invocation) ([]byte, error) {
	wire, err := g.wire(m, in.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: argument: %w", m.full, plugin.ErrInvalid, err)
	}
	if wire, err = g.lend(ctx, m, wire); err != nil {
		return nil, err
	}
	c := &unaryCall{untold{ctx}, request{wire}, answer{transcoder: g.transcoder, method: m}}
	if in.HouseDeadline {
		ctx = &c.untold
	}
	if in.Told != nil {
		err = g.invokeTelling(ctx, m.path, &c.request, &c.answer, in.Told)
	} else {
		err = g.conn.Invoke(ctx, m.path, &c.request, &c.answer)
	}
	if err != nil {
		return nil, g.failed(ctx, m.full, err)
	}
	return c.answer.value()
}

// untold keeps a context's deadline to this side of the call. It ends the call all the
// same, and the plugin sees it cancelled. To tell it costs plugin and host an eighth of
// a small call, for a header that differs each time and a timer in the plugin.
type untold struct{ context.Context }

func (*untold) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// invokeTelling is Invoke, and tells the call's headers and trailers.
func (g *grpcLink) invokeTelling(ctx context.Context, path string, argument *request, got *answer, tell func(map[string]string)) error {
	var header, trailer metadata.MD
	err := g.conn.Invoke(ctx, path, argument, got, grpc.Header(&header), grpc.Trailer(&trailer))
	tell(flat(header))
	tell(flat(trailer))
	return err
}

// value is the answer as JSON, once it is there.
func (a *answer) value() ([]byte, error) {
	if a.err != nil {
		return nil, fmt.Errorf("%s: %w: the answer has no JSON form: %w", a.method.full, plugin.ErrUnavailable, a.err)
	}
	return a.text, nil
}

func (g *grpcLink) takesParts(operation string) bool {
	m := g.known.methods[operation]
	return m != nil && m.clientStreams
}

func (g *grpcLink) streams(operation string) bool {
	m := g.known.methods[operation]
	return m != nil && m.serverStreams
}

func (g *grpcLink) operations() []plugin.Operation { return g.known.operations() }

func (g *grpcLink) probe(ctx context.Context) error {
	answer, err := healthpb.NewHealthClient(g.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: healthService})
	switch code := status.Code(err); {
	case err == nil && answer.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return fmt.Errorf("health: %w: the plugin says %s", plugin.ErrUnavailable, answer.GetStatus())
	case err == nil, code == codes.Unimplemented, code == codes.NotFound:
		return nil // a plugin without the health service has answered too
	}
	return broken(ctx, "health", err)
}

// quit asks the controller. It stops hard, so that a broken line is an answer.
func (g *grpcLink) quit(ctx context.Context) error {
	err := g.conn.Invoke(ctx, shutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) == codes.Unavailable && ctx.Err() == nil {
		return nil
	}
	return err
}

func (g *grpcLink) drained() <-chan struct{} { return g.ended }

func (g *grpcLink) close() {
	g.cancel()
	if g.broker != nil {
		g.broker.close()
	}
	_ = g.conn.Close()
	g.behind.Wait()
	select {
	case first := <-g.first:
		_ = first.Close()
	default:
	}
}
