package goplugin

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

// nameRoom is what an answer's JSON may take beyond its wire form before the
// buffer has to grow: the names of a few fields.
const nameRoom = 128

// A transcoder turns a method's JSON into messages in wire form and back: by the
// plans of pbwire where they can, else by protojson.
type transcoder struct {
	in  protojson.UnmarshalOptions
	out protojson.MarshalOptions
}

func newTranscoder(types *dynamicpb.Types) *transcoder {
	all := messageTypes{types}
	return &transcoder{in: protojson.UnmarshalOptions{Resolver: all}, out: protojson.MarshalOptions{Resolver: all}}
}

// wire returns m's argument in wire form. The error is what is wrong with data.
func (t *transcoder) wire(m *grpcMethod, data []byte) ([]byte, error) {
	if len(data) == 0 || string(data) == "null" {
		return nil, nil
	}
	if m.inPlan != nil {
		if wire, ok := m.inPlan.AppendWire(make([]byte, 0, len(data)), data); ok {
			return wire, nil
		}
	}
	message := dynamicpb.NewMessage(m.in)
	if err := t.in.Unmarshal(data, message); err != nil {
		return nil, err
	}
	return proto.Marshal(message)
}

// json returns m's answer as JSON.
func (t *transcoder) json(m *grpcMethod, wire []byte) ([]byte, error) {
	if m.outPlan != nil {
		if text, ok := m.outPlan.AppendJSON(make([]byte, 0, len(wire)+nameRoom), wire); ok {
			return text, nil
		}
	}
	message := dynamicpb.NewMessage(m.out)
	if err := proto.Unmarshal(wire, message); err != nil {
		return nil, err
	}
	return t.out.Marshal(message)
}

// request is an argument in wire form, for the codec.
type request struct{ wire []byte }

// answer takes a message off the codec as JSON.
type answer struct {
	*transcoder
	method *grpcMethod
	text   []byte
	err    error
}

// codec lets grpc carry requests and answers without knowing their Go types, and
// messages of generated types as ever.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is none: what travels is protobuf, which needs no mention, as in the calls of
// generated stubs.
func (codec) Name() string { return "" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*request); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.wire)}, nil
	}
	return encoding.GetCodecV2(grpcproto.Name).Marshal(v)
}

// Unmarshal keeps an error in the answer, so that grpc does not make it a status.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*answer) // of a plugin, or what it asks
	if !ok {
		return encoding.GetCodecV2(grpcproto.Name).Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	a.text, a.err = a.json(a.method, whole.ReadOnlyData())
	return nil
}
