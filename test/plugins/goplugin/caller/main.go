// Command caller is the tiny go-plugin plugin that calls its host, well and badly.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/caller/calls"
	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

type service struct {
	calls.UnimplementedCallerServer
	broker *plugin.GRPCBroker

	mu   sync.Mutex
	kept *grpc.ClientConn
}

func (s *service) Connect(_ context.Context, in *calls.Link) (*calls.Connected, error) {
	if in.GetFail() != "" {
		return &calls.Connected{Error: in.GetFail()}, nil
	}
	conn, err := s.broker.Dial(in.GetNumber())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = conn
	return &calls.Connected{}, nil
}

func (s *service) Call(ctx context.Context, in *calls.Order) (*calls.Outcome, error) {
	if in.GetLink().GetNumber() == 0 {
		s.mu.Lock()
		conn := s.kept
		s.mu.Unlock()
		if conn == nil {
			return nil, errors.New("there is no connection")
		}
		return call(ctx, conn, in)
	}
	conn, err := s.broker.Dial(in.GetLink().GetNumber())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return call(ctx, conn, in)
}

func (s *service) Rehearse(stream calls.Caller_RehearseServer) error {
	var conn *grpc.ClientConn
	for {
		in, err := stream.Recv()
		if err != nil {
			return nil // there is no more
		}
		if conn == nil {
			if conn, err = s.broker.Dial(in.GetLink().GetNumber()); err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
		}
		out, err := call(stream.Context(), conn, in)
		if err == nil {
			err = stream.Send(out)
		}
		if err != nil {
			return err
		}
	}
}

// call makes the calls of an order at once, and returns how the first of them went.
func call(ctx context.Context, conn *grpc.ClientConn, in *calls.Order) (*calls.Outcome, error) {
	if in.GetSilent() {
		for range max(1, in.GetTimes()) {
			// It outlives the order, until the connection ends.
			if _, err := conn.NewStream(context.WithoutCancel(ctx), &grpc.StreamDesc{ClientStreams: true}, "/"+in.GetMethod()); err != nil {
				return nil, err
			}
		}
		return &calls.Outcome{}, nil
	}
	request, answer, err := messages(in)
	if err != nil {
		return nil, err
	}
	first := &calls.Outcome{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range max(1, in.GetTimes()) {
		all.Go(func() {
			got := proto.Clone(answer)
			err := conn.Invoke(ctx, "/"+in.GetMethod(), request, got, grpc.ForceCodecV2(raw{encoding.GetCodecV2("proto")}))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				first.Failed++
			}
			if n == 0 {
				text, _ := protojson.Marshal(got)
				first.Answer, first.Code, first.Message = string(text), status.Code(err).String(), status.Convert(err).Message()
			}
		})
	}
	all.Wait()
	return first, nil
}

// messages are the request as it is to be sent, and the answer as it will be read; of a
// method that the host has not either, any.
func messages(in *calls.Order) (request any, answer proto.Message, err error) {
	service, method, _ := strings.Cut(in.GetMethod(), "/")
	name := protoreflect.FullName(service)
	var d protoreflect.MethodDescriptor
	if described := calls.File_calls_proto.Services().ByName(name.Name()); described != nil {
		d = described.Methods().ByName(protoreflect.Name(method))
	}
	bare := bytes.Repeat(in.GetRaw(), int(max(1, in.GetRepeat())))
	if d == nil {
		return bare, &calls.Nothing{}, nil
	}
	answer = dynamicpb.NewMessage(d.Output())
	if in.GetRequest() == "" {
		return bare, answer, nil
	}
	message := dynamicpb.NewMessage(d.Input())
	if err := protojson.Unmarshal([]byte(in.GetRequest()), message); err != nil {
		return nil, nil, fmt.Errorf("request: %w", err)
	}
	return message, answer, nil
}

type server struct{ plugin.NetRPCUnsupportedPlugin }

func (server) GRPCServer(broker *plugin.GRPCBroker, s *grpc.Server) error {
	calls.RegisterCallerServer(s, &service{broker: broker})
	return nil
}

func (server) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this side only serves")
}

func main() {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: tiny.Handshake(),
		Plugins:         plugin.PluginSet{tiny.Name: server{}},
		GRPCServer:      plugin.DefaultGRPCServer,
	})
}
