package goplugin

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// The two versions of the service have the same messages on the wire; only
	// plugins with grpc since 1.57 have v1.
	reflectV1      = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectV1Alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
	// Bounds on what is taken in: Terraform's and Vault's plugins have about
	// fifteen files of 300 KiB in all.
	servicesMax        = 1000
	descriptorFilesMax = 1000
	descriptorBytesMax = 32 << 20
)

// reflectAll asks the plugin for everything it offers, and for the services that it
// calls, which one in Go knows too.
func reflectAll(ctx context.Context, conn *grpc.ClientConn, called []string) (*catalog, error) {
	c, err := reflectWith(ctx, conn, reflectV1, called)
	if status.Code(err) == codes.Unimplemented {
		c, err = reflectWith(ctx, conn, reflectV1Alpha, called)
	}
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, startFailed("reflection", ctx.Err())
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("reflection: %w: the plugin has no server reflection, so that its methods are unknown; give them by spec.goplugin.descriptorSet", plugin.ErrInvalid)
	case status.Code(err) == codes.Unavailable:
		return nil, startFailed("reflection", err)
	}
	return nil, fmt.Errorf("reflection: %w: %w", plugin.ErrInvalid, err)
}

// A reflector asks one question after the other on one stream.
type reflector struct {
	stream grpc.ClientStream
	files  map[string]*descriptorpb.FileDescriptorProto
	bytes  int
}

func reflectWith(ctx context.Context, conn *grpc.ClientConn, method string, called []string) (*catalog, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	r := &reflector{stream: s, files: map[string]*descriptorpb.FileDescriptorProto{}}
	services, err := r.services()
	if err != nil {
		return nil, err
	}
	for _, service := range services {
		err := r.take(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", service, err)
		}
	}
	for _, service := range called {
		err := r.take(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
		})
		if _, broke := status.FromError(err); err != nil && broke {
			return nil, err
		}
	}
	if err := r.dependencies(); err != nil {
		return nil, err
	}
	return newCatalog(r.files, services)
}

func (r *reflector) ask(q *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
	if err := r.stream.SendMsg(q); err != nil {
		return nil, r.why(err)
	}
	answer := &reflectionpb.ServerReflectionResponse{}
	if err := r.stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	if no := answer.GetErrorResponse(); no != nil {
		return nil, errors.New(cut(no.GetErrorMessage()))
	}
	return answer, nil
}

// why returns the status behind a failed send, which is itself just io.EOF.
func (r *reflector) why(sendErr error) error {
	if err := r.stream.RecvMsg(&reflectionpb.ServerReflectionResponse{}); err != nil {
		return err
	}
	return sendErr
}

func (r *reflector) services() ([]string, error) {
	answer, err := r.ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		if !infrastructure(service.GetName()) {
			names = append(names, service.GetName())
		}
	}
	if len(names) > servicesMax {
		return nil, fmt.Errorf("%d services; at most %d", len(names), servicesMax)
	}
	return names, nil
}

// take takes in the files of one answer.
func (r *reflector) take(q *reflectionpb.ServerReflectionRequest) error {
	answer, err := r.ask(q)
	if err != nil {
		return err
	}
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			return fmt.Errorf("descriptor: %w", err)
		}
		r.bytes += len(raw)
		r.files[file.GetName()] = file
		if len(r.files) > descriptorFilesMax || r.bytes > descriptorBytesMax {
			return fmt.Errorf("more than %d files or %d bytes of descriptors", descriptorFilesMax, descriptorBytesMax)
		}
	}
	return nil
}

// dependencies fetches what the files import, until nothing is missing. What the
// plugin does not serve either stays a placeholder.
func (r *reflector) dependencies() error {
	for {
		missing := r.missing()
		if len(missing) == 0 {
			return nil
		}
		for _, name := range missing {
			err := r.take(&reflectionpb.ServerReflectionRequest{
				MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: name},
			})
			if r.files[name] != nil {
				continue
			}
			if _, broke := status.FromError(err); err != nil && broke {
				return err
			}
			if r.files[name] = wellKnown(name); r.files[name] == nil {
				r.files[name] = &descriptorpb.FileDescriptorProto{Name: &name}
			}
		}
	}
}

func (r *reflector) missing() []string {
	names := map[string]bool{}
	for _, file := range r.files {
		for _, name := range file.GetDependency() {
			if r.files[name] == nil {
				names[name] = true
			}
		}
	}
	return sortedKeys(names)
}
