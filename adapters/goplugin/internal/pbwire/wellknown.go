package pbwire

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const valueName = "google.protobuf.Value"

// wellKnown returns the type of a message that has a JSON form of its own and needs no
// other to be read, nil for others.
func wellKnown(name protoreflect.FullName) protoreflect.MessageType {
	var m proto.Message
	switch name {
	case "google.protobuf.Timestamp":
		m = (*timestamppb.Timestamp)(nil)
	case "google.protobuf.Duration":
		m = (*durationpb.Duration)(nil)
	case "google.protobuf.FieldMask":
		m = (*fieldmaskpb.FieldMask)(nil)
	case "google.protobuf.Struct":
		m = (*structpb.Struct)(nil)
	case valueName:
		m = (*structpb.Value)(nil)
	case "google.protobuf.ListValue":
		m = (*structpb.ListValue)(nil)
	case "google.protobuf.BoolValue":
		m = (*wrapperspb.BoolValue)(nil)
	case "google.protobuf.StringValue":
		m = (*wrapperspb.StringValue)(nil)
	case "google.protobuf.BytesValue":
		m = (*wrapperspb.BytesValue)(nil)
	case "google.protobuf.Int32Value":
		m = (*wrapperspb.Int32Value)(nil)
	case "google.protobuf.UInt32Value":
		m = (*wrapperspb.UInt32Value)(nil)
	case "google.protobuf.Int64Value":
		m = (*wrapperspb.Int64Value)(nil)
	case "google.protobuf.UInt64Value":
		m = (*wrapperspb.UInt64Value)(nil)
	case "google.protobuf.FloatValue":
		m = (*wrapperspb.FloatValue)(nil)
	case "google.protobuf.DoubleValue":
		m = (*wrapperspb.DoubleValue)(nil)
	default:
		return nil
	}
	return m.ProtoReflect().Type()
}

// takesNull is true for the one type of which null is a value.
func (f *field) takesNull() bool {
	return f.own != nil && f.own.Descriptor().FullName() == valueName
}

// encodeOwn appends a well-known type with its length.
func (f *field) encodeOwn(b, v []byte) ([]byte, error) {
	if v[0] == 'n' && !f.takesNull() {
		return nil, errOdd
	}
	m := f.own.New().Interface()
	if protojson.Unmarshal(v, m) != nil {
		return nil, errOdd
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, errOdd
	}
	return protowire.AppendBytes(b, wire), nil
}

// decodeOwn appends the JSON of a well-known type.
func (f *field) decodeOwn(out, wire []byte) ([]byte, error) {
	m := f.own.New().Interface()
	if proto.Unmarshal(wire, m) != nil {
		return nil, errOdd
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, errOdd
	}
	compact := bytes.NewBuffer(out)
	if err := json.Compact(compact, text); err != nil {
		return nil, errOdd
	}
	return compact.Bytes(), nil
}
