package goplugin

import (
	"errors"
	"testing"

	"google.golang.org/grpc"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/descriptorpb"
)

// bigMouth answers every question with a megabyte.
type bigMouth struct {
	grpc.ClientStream
	asked, answered int
}

func (b *bigMouth) SendMsg(any) error { b.asked++; return nil }

func (b *bigMouth) RecvMsg(into any) error {
	b.answered++
	into.(*reflectionpb.ServerReflectionResponse).MessageResponse = &reflectionpb.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionpb.FileDescriptorResponse{FileDescriptorProto: [][]byte{make([]byte, 1<<20)}},
	}
	return nil
}

// TestReflector_bytes: many questions at once do not make room for more than the bound.
func TestReflector_bytes(t *testing.T) {
	mouth := &bigMouth{}
	r := &reflector{stream: mouth, files: map[string]*descriptorpb.FileDescriptorProto{}}
	questions := make([]*reflectionpb.ServerReflectionRequest, 1000)
	for i := range questions {
		questions[i] = withSymbol("p.S")
	}
	if _, err := r.ask(questions); !errors.Is(err, errTooManyFiles) {
		t.Errorf("got %v, want %v", err, errTooManyFiles)
	}
	if most := descriptorBytesMax>>20 + 1; mouth.answered > most || mouth.asked > batchMax {
		t.Errorf("%d were asked and %d answered, want at most %d and %d", mouth.asked, mouth.answered, batchMax, most)
	}
}
