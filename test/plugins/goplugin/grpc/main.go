// Command grpc is the tiny go-plugin plugin that speaks gRPC.
package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

type service struct {
	tiny.UnimplementedTinyServer
	tally *tally
}

func (service) Echo(_ context.Context, in *tiny.Text) (*tiny.Text, error) { return in, nil }

// Refuse adds the argument as a detail of the status.
func (service) Refuse(_ context.Context, in *tiny.Text) (*emptypb.Empty, error) {
	no, err := status.New(codes.FailedPrecondition, in.GetText()).WithDetails(in)
	if err != nil {
		return nil, err
	}
	return nil, no.Err()
}

func (service) Exit(_ context.Context, in *tiny.Code) (*emptypb.Empty, error) {
	tiny.Exit(int(in.GetCode()))
	return &emptypb.Empty{}, nil
}

func (service) Print(_ context.Context, in *tiny.Text) (*emptypb.Empty, error) {
	tiny.Print(in.GetText())
	return &emptypb.Empty{}, nil
}

func (s service) Slow(ctx context.Context, in *tiny.Wait) (*emptypb.Empty, error) {
	defer s.tally.stream(ctx)()
	select {
	case <-time.After(tiny.Pause(in.GetMilliseconds())):
		return &emptypb.Empty{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type server struct{ plugin.NetRPCUnsupportedPlugin }

func (server) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	tiny.RegisterTinyServer(s, service{tally: &tally{}})
	return nil
}

func (server) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this side only serves")
}

func main() {
	habit.Begin()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: tiny.Handshake(),
		Plugins:         plugin.PluginSet{tiny.Name: server{}},
		GRPCServer:      serving,
	})
}

// serving is go-plugin's default; with the argument "mute" reflection says that it
// is not there, as in plugins of other languages, with "old" its version 1 does, as in
// plugins with grpc before 1.57.
func serving(options []grpc.ServerOption) *grpc.Server {
	for argument, service := range map[string]string{"mute": "/grpc.reflection.", "old": "/grpc.reflection.v1."} {
		if slices.Contains(os.Args, argument) {
			options = append(options, grpc.StreamInterceptor(without(service)))
		}
	}
	return grpc.NewServer(options...)
}

// without answers as if services that begin so were not there.
func without(begin string) grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if strings.HasPrefix(info.FullMethod, begin) {
			return status.Error(codes.Unimplemented, "there is no reflection")
		}
		return next(srv, s)
	}
}
