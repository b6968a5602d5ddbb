package goplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// newServer is go-plugin's, with our codec. The host bounds the size of what it sends.
func newServer(options []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options, grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))...)
}

// frame is a message in wire form.
type frame struct{ wire []byte }

// codec carries frames as they are, and go-plugin's own messages as ever.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.wire)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.wire = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// service is one of operations, for grpc.
func (p *Plugin) service(name string, operations []*operation) *grpc.ServiceDesc {
	d := &grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil)}
	for _, o := range operations {
		if o.streams || o.takesStream {
			d.Streams = append(d.Streams, grpc.StreamDesc{
				StreamName: o.name, ServerStreams: o.streams, ClientStreams: o.takesStream,
				Handler: func(_ any, s grpc.ServerStream) error {
					var sending sync.Mutex // methods may send from several goroutines, grpc may not
					return p.call(s.Context(), o, wire{
						receive: func() ([]byte, error) { f := &frame{}; err := s.RecvMsg(f); return f.wire, err },
						send: func(message []byte) error {
							sending.Lock()
							defer sending.Unlock()
							return s.SendMsg(&frame{message})
						},
					})
				},
			})
			continue
		}
		d.Methods = append(d.Methods, grpc.MethodDesc{
			MethodName: o.name,
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				answer := &frame{}
				err := p.call(ctx, o, wire{
					receive: func() ([]byte, error) { f := &frame{}; err := decode(f); return f.wire, err },
					send:    func(message []byte) error { answer.wire = message; return nil },
				})
				return answer, err
			},
		})
	}
	return d
}

// call makes one call, whatever the method does.
func (p *Plugin) call(ctx context.Context, o *operation, w wire) (err error) {
	end, ok := p.calls.begin()
	if !ok {
		return status.Error(codes.Unavailable, "the plugin ends")
	}
	defer end()
	ctx = context.WithValue(ctx, callKey{}, &call{plugin: p, operation: o.name})
	defer func() {
		if panicked := recover(); panicked != nil {
			p.log.ErrorContext(ctx, "the operation panicked", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "%s: panicked: %.*s", o.name, textBytesMax, fmt.Sprint(panicked))
		}
	}()
	return asStatus(ctx, o.name, o.run(ctx, w))
}

// A call is one that is under way.
type call struct {
	plugin    *Plugin
	operation string
}

type callKey struct{}

// calls counts those under way, until it ends.
type calls struct {
	mu    sync.Mutex
	ended bool
	open  sync.WaitGroup
}

func (c *calls) begin() (end func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, false
	}
	c.open.Add(1)
	return c.open.Done, true
}

// end returns once none runs; grpc has ended their contexts.
func (c *calls) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.open.Wait()
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
