// Command shifty is a go-plugin plugin for tests whose descriptors are not compiled in:
// the file that SHIFTY names holds the name of the one field of its messages.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

const service = "shifty.Shifty"

// describe makes the file of a service that echoes a message with one text.
func describe(field string) (protoreflect.FileDescriptor, error) {
	return protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("shifty.proto"), Package: proto.String("shifty"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Text"), Field: []*descriptorpb.FieldDescriptorProto{{
			Name: &field, Number: proto.Int32(1),
			Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Shifty"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Echo"), InputType: proto.String(".shifty.Text"), OutputType: proto.String(".shifty.Text"),
		}}}},
	}, nil)
}

type server struct {
	plugin.NetRPCUnsupportedPlugin
	text protoreflect.MessageDescriptor
}

func (s server) GRPCServer(_ *plugin.GRPCBroker, to *grpc.Server) error {
	to.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil), Metadata: "shifty.proto",
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			message := dynamicpb.NewMessage(s.text)
			return message, read(message)
		}}},
	}, s)
	return nil
}

func (server) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this side only serves")
}

func main() {
	habit.Begin()
	field, err := os.ReadFile(os.Getenv("SHIFTY"))
	var file protoreflect.FileDescriptor
	if err == nil {
		file, err = describe(strings.TrimSpace(string(field)))
	}
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(file) // where go-plugin's reflection looks
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shifty:", err)
		os.Exit(1)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: tiny.Handshake(), GRPCServer: plugin.DefaultGRPCServer,
		Plugins: plugin.PluginSet{tiny.Name: server{text: file.Messages().Get(0)}},
	})
}
