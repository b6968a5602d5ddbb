package gowire

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A form is how values of one Go type travel where there is one of them.
type form struct {
	typ     reflect.Type
	kind    descriptorpb.FieldDescriptorProto_Type
	wire    protowire.Type
	message string   // the full name with a dot before it, of kind message
	fields  *message // of a message of this schema
	// append appends the value without tag and length.
	append func(b []byte, v reflect.Value, depth int) ([]byte, error)
	// read sets v, which can be set, to a number or to what stands behind the length.
	read func(v reflect.Value, n uint64, raw []byte, depth int) error
}

var (
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	rawType      = reflect.TypeFor[json.RawMessage]()
	numberType   = reflect.TypeFor[json.Number]()
	anyType      = reflect.TypeFor[any]()
	writesJSON   = reflect.TypeFor[json.Marshaler]()
	readsJSON    = reflect.TypeFor[json.Unmarshaler]()
	writesText   = reflect.TypeFor[encoding.TextMarshaler]()
	readsText    = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// does reports that t or a pointer to it has the methods.
func does(t, methods reflect.Type) bool {
	return t.Implements(methods) || reflect.PointerTo(t).Implements(methods)
}

// single returns the form of t, nil when protobuf has none for it: lists and maps. name
// is for a struct that has none.
func (s *Schema) single(t reflect.Type, name string) (*form, error) {
	switch {
	case t == timeType:
		return s.known(t, "timestamp", "Timestamp", appendTime, readTime), nil
	case t == durationType:
		return s.known(t, "duration", "Duration", appendDuration, readDuration), nil
	case t == rawType, t == numberType, t.Kind() == reflect.Interface, does(t, writesJSON), does(t, readsJSON):
		return s.jsonForm(t)
	case does(t, writesText) && does(t, readsText):
		return textForm(t), nil
	case does(t, writesText), does(t, readsText):
		return nil, fmt.Errorf("%s has one of MarshalText and UnmarshalText; give it both", t)
	}
	switch t.Kind() {
	case reflect.Struct:
		return s.structForm(t, name)
	case reflect.Slice, reflect.Array, reflect.Map:
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !does(t.Elem(), writesText) && !does(t.Elem(), writesJSON) {
			return bytesForm(t), nil
		}
		return nil, nil
	case reflect.Pointer:
		return nil, fmt.Errorf("%s is a pointer to a pointer; leave out one", t)
	}
	if f := scalar(t); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%s has no form in JSON", t)
}

func scalar(t reflect.Type) *form {
	f := &form{typ: t, wire: protowire.VarintType}
	switch t.Kind() {
	case reflect.Bool:
		f.kind = descriptorpb.FieldDescriptorProto_TYPE_BOOL
		f.append = func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			return protowire.AppendVarint(b, protowire.EncodeBool(v.Bool())), nil
		}
		f.read = func(v reflect.Value, n uint64, _ []byte, _ int) error { v.SetBool(n != 0); return nil }
	case reflect.Int8, reflect.Int16, reflect.Int32:
		f.kind, f.append, f.read = descriptorpb.FieldDescriptorProto_TYPE_INT32, appendInt, readInt
	case reflect.Int, reflect.Int64:
		f.kind, f.append, f.read = descriptorpb.FieldDescriptorProto_TYPE_INT64, appendInt, readInt
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		f.kind, f.append, f.read = descriptorpb.FieldDescriptorProto_TYPE_UINT32, appendUint, readUint
	case reflect.Uint, reflect.Uint64:
		f.kind, f.append, f.read = descriptorpb.FieldDescriptorProto_TYPE_UINT64, appendUint, readUint
	case reflect.Float32:
		f.kind, f.wire = descriptorpb.FieldDescriptorProto_TYPE_FLOAT, protowire.Fixed32Type
		f.append = func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			return protowire.AppendFixed32(b, math.Float32bits(float32(v.Float()))), nil
		}
		f.read = func(v reflect.Value, n uint64, _ []byte, _ int) error {
			v.SetFloat(float64(math.Float32frombits(uint32(n))))
			return nil
		}
	case reflect.Float64:
		f.kind, f.wire = descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, protowire.Fixed64Type
		f.append = func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			return protowire.AppendFixed64(b, math.Float64bits(v.Float())), nil
		}
		f.read = func(v reflect.Value, n uint64, _ []byte, _ int) error {
			v.SetFloat(math.Float64frombits(n))
			return nil
		}
	case reflect.String:
		f.kind, f.wire = descriptorpb.FieldDescriptorProto_TYPE_STRING, protowire.BytesType
		f.append = func(b []byte, v reflect.Value, _ int) ([]byte, error) { return appendText(b, v.String()), nil }
		f.read = func(v reflect.Value, _ uint64, raw []byte, _ int) error { v.SetString(string(raw)); return nil }
	default:
		return nil
	}
	return f
}

// appendText replaces what is no UTF-8, as encoding/json does: others refuse it.
func appendText(b []byte, text string) []byte {
	return append(b, strings.ToValidUTF8(text, "\uFFFD")...)
}

func appendInt(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return protowire.AppendVarint(b, uint64(v.Int())), nil
}

func readInt(v reflect.Value, n uint64, _ []byte, _ int) error {
	if v.OverflowInt(int64(n)) {
		return fmt.Errorf("%d is out of the range of %s", int64(n), v.Type())
	}
	v.SetInt(int64(n))
	return nil
}

func appendUint(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return protowire.AppendVarint(b, v.Uint()), nil
}

func readUint(v reflect.Value, n uint64, _ []byte, _ int) error {
	if v.OverflowUint(n) {
		return fmt.Errorf("%d is out of the range of %s", n, v.Type())
	}
	v.SetUint(n)
	return nil
}

func bytesForm(t reflect.Type) *form {
	return &form{
		typ: t, kind: descriptorpb.FieldDescriptorProto_TYPE_BYTES, wire: protowire.BytesType,
		append: func(b []byte, v reflect.Value, _ int) ([]byte, error) { return append(b, v.Bytes()...), nil },
		read: func(v reflect.Value, _ uint64, raw []byte, _ int) error {
			v.SetBytes(append(make([]byte, 0, len(raw)), raw...))
			return nil
		},
	}
}

func textForm(t reflect.Type) *form {
	return &form{
		typ: t, kind: descriptorpb.FieldDescriptorProto_TYPE_STRING, wire: protowire.BytesType,
		append: func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			text, err := reachable(v, writesText).Interface().(encoding.TextMarshaler).MarshalText()
			return appendText(b, string(text)), err
		},
		read: func(v reflect.Value, _ uint64, raw []byte, _ int) error {
			return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(raw)
		},
	}
}

// reachable returns v, or a pointer to a copy of it, whichever has the methods.
func reachable(v reflect.Value, methods reflect.Type) reflect.Value {
	if v.Type().Implements(methods) {
		return v
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p
}

// known is the form of a well-known message.
func (s *Schema) known(t reflect.Type, file, name string, append func([]byte, reflect.Value, int) ([]byte, error), read func(reflect.Value, uint64, []byte, int) error) *form {
	s.imports["google/protobuf/"+file+".proto"] = true
	return &form{
		typ: t, kind: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, wire: protowire.BytesType,
		message: ".google.protobuf." + name, append: append, read: read,
	}
}

func appendTime(b []byte, v reflect.Value, _ int) ([]byte, error) {
	stamp := timestamppb.New(v.Interface().(time.Time))
	if err := stamp.CheckValid(); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(b, stamp)
}

func readTime(v reflect.Value, _ uint64, raw []byte, _ int) error {
	var stamp timestamppb.Timestamp
	if err := proto.Unmarshal(raw, &stamp); err != nil {
		return err
	}
	v.Set(reflect.ValueOf(stamp.AsTime()))
	return stamp.CheckValid()
}

func appendDuration(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, durationpb.New(time.Duration(v.Int())))
}

func readDuration(v reflect.Value, _ uint64, raw []byte, _ int) error {
	var d durationpb.Duration
	if err := proto.Unmarshal(raw, &d); err != nil {
		return err
	}
	v.SetInt(int64(d.AsDuration()))
	return d.CheckValid()
}
