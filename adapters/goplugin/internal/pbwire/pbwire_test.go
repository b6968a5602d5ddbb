package pbwire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// everything is a message that has a field, a list and a map of every kind, a
// oneof, an optional field and itself.
func everything(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	type label = descriptorpb.FieldDescriptorProto_Label
	const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	m := &descriptorpb.DescriptorProto{Name: proto.String("M")}
	next := int32(0)
	add := func(name string, kind descriptorpb.FieldDescriptorProto_Type, l label, of string) *descriptorpb.FieldDescriptorProto {
		next++
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Number: proto.Int32(next), Type: kind.Enum(), Label: l.Enum()}
		if of != "" {
			f.TypeName = proto.String(of)
		}
		m.Field = append(m.Field, f)
		return f
	}
	for kind := descriptorpb.FieldDescriptorProto_TYPE_DOUBLE; kind <= descriptorpb.FieldDescriptorProto_TYPE_SINT64; kind++ {
		of := ""
		switch kind {
		case descriptorpb.FieldDescriptorProto_TYPE_GROUP:
			continue
		case descriptorpb.FieldDescriptorProto_TYPE_MESSAGE:
			of = ".t.M"
		case descriptorpb.FieldDescriptorProto_TYPE_ENUM:
			of = ".t.E"
		}
		short := strings.ToLower(strings.TrimPrefix(kind.String(), "TYPE_"))
		add("one_"+short, kind, one, of)
		add("list_"+short, kind, many, of)
		entry := &descriptorpb.DescriptorProto{
			Name: proto.String("Map" + strings.ToUpper(short[:1]) + short[1:] + "Entry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("key"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: one.Enum()},
				{Name: proto.String("value"), Number: proto.Int32(2), Type: kind.Enum(), Label: one.Enum()},
			},
		}
		if of != "" {
			entry.Field[1].TypeName = proto.String(of)
		}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_BOOL {
			entry.Field[0].Type = kind.Enum()
		}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_INT64 {
			entry.Field[0].Type = kind.Enum()
		}
		m.NestedType = append(m.NestedType, entry)
		add("map_"+short, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, many, ".t.M."+entry.GetName())
	}
	for _, name := range []string{"a", "b"} {
		add("choice_"+name, descriptorpb.FieldDescriptorProto_TYPE_INT32, one, "").OneofIndex = proto.Int32(0)
	}
	optional := add("optional", descriptorpb.FieldDescriptorProto_TYPE_STRING, one, "")
	optional.OneofIndex, optional.Proto3Optional = proto.Int32(1), proto.Bool(true)
	for _, known := range []string{"Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue", "BoolValue", "StringValue", "BytesValue",
		"Int32Value", "UInt32Value", "Int64Value", "UInt64Value", "FloatValue", "DoubleValue"} {
		of := ".google.protobuf." + known
		add("one_"+strings.ToLower(known), descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, one, of)
		add("list_"+strings.ToLower(known), descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, many, of)
		m.NestedType = append(m.NestedType, &descriptorpb.DescriptorProto{
			Name: proto.String("Map" + known[:1] + strings.ToLower(known[1:]) + "Entry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("key"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: one.Enum()},
				{Name: proto.String("value"), Number: proto.Int32(2), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), Label: one.Enum(), TypeName: &of},
			},
		})
		add("map_"+strings.ToLower(known), descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, many, ".t.M."+m.NestedType[len(m.NestedType)-1].GetName())
	}
	m.OneofDecl = []*descriptorpb.OneofDescriptorProto{{Name: proto.String("choice")}, {Name: proto.String("_optional")}}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("t"), Syntax: proto.String("proto3"), MessageType: []*descriptorpb.DescriptorProto{m},
		Dependency: []string{"google/protobuf/timestamp.proto", "google/protobuf/duration.proto", "google/protobuf/field_mask.proto",
			"google/protobuf/struct.proto", "google/protobuf/wrappers.proto"},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("E"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("ZERO"), Number: proto.Int32(0)}, {Name: proto.String("MINUS"), Number: proto.Int32(-1)}, {Name: proto.String("TWO"), Number: proto.Int32(2)},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

const full = `{"oneDouble": -1.5e3, "listDouble": [0, 1, -2.5], "mapDouble": {"k": 3},
	"oneFloat": 0.1, "listFloat": [1], "oneInt64": "-9223372036854775808", "listInt64": [1, "2"], "mapInt64": {"-5": 6},
	"oneUint64": 18446744073709551615, "oneInt32": -7, "list_int32": [], "oneFixed64": 8, "oneFixed32": 9, "oneBool": true, "mapBool": {"true": false},
	"oneString": "a\n\"é", "listString": ["", "x"], "mapString": {"": "v", "k": ""}, "oneBytes": "AAEC", "oneUint32": 4294967295,
	"oneEnum": "TWO", "listEnum": ["ZERO", -1, 77], "oneSfixed32": -1, "oneSfixed64": "-2", "oneSint32": -3, "oneSint64": -4,
	"oneMessage": {"oneMessage": {}, "choiceB": 0}, "listMessage": [{}, {"oneString": "s"}], "mapMessage": {"m": {"oneInt32": 1}}, "choiceA": 5, "optional": "",
	"oneTimestamp": "2026-01-31T12:00:00.5Z", "listTimestamp": ["1970-01-01T00:00:00Z"], "oneDuration": "-1.5s", "oneFieldmask": "a,bC", "oneStruct": {"a": [1, null]},
	"oneValue": null, "listValue": [null, 1.5, "x", {"k": []}], "mapValue": {"k": null, "l": false}, "oneListvalue": [[]], "oneInt64value": "-5", "listInt64value": [6],
	"oneBoolvalue": false, "oneStringvalue": "", "oneBytesvalue": "AA==", "oneInt32value": 0, "mapUint32value": {"a": 1}, "oneUint64value": "7", "oneFloatvalue": 0.5, "oneDoublevalue": "NaN"}`

// slow is what protojson makes of JSON.
func slow(d protoreflect.MessageDescriptor, text []byte) (*dynamicpb.Message, error) {
	m := dynamicpb.NewMessage(d)
	return m, protojson.Unmarshal(text, m)
}

// sameWire compares the plan with protojson on one JSON text.
func sameWire(d protoreflect.MessageDescriptor, p *Plan, text []byte) (ok bool, err error) {
	wire, ok := p.AppendWire(nil, text)
	if !ok {
		return false, nil
	}
	want, err := slow(d, text)
	if err != nil {
		return true, fmt.Errorf("protojson refuses %s: %w", text, err)
	}
	got := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(wire, got); err != nil {
		return true, fmt.Errorf("%x is not a message: %w", wire, err)
	}
	if !proto.Equal(got, want) {
		return true, fmt.Errorf("got %v, want %v", got, want)
	}
	return true, nil
}

// sameJSON compares them on one message in wire form.
func sameJSON(d protoreflect.MessageDescriptor, p *Plan, wire []byte) (ok bool, err error) {
	text, ok := p.AppendJSON(nil, wire)
	if !ok {
		return false, nil
	}
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(wire, m); err != nil {
		return true, fmt.Errorf("protobuf refuses %x: %w", wire, err)
	}
	reference, err := protojson.Marshal(m)
	if err != nil {
		return true, fmt.Errorf("protojson refuses %v: %w", m, err)
	}
	var got, want any
	if err := decodeExact(text, &got); err != nil {
		return true, fmt.Errorf("%s: %w", text, err)
	}
	if err := decodeExact(reference, &want); err != nil {
		return true, err
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return true, fmt.Errorf("-want +got:\n%s\n%s\n%s", diff, reference, text)
	}
	return true, nil
}

// decodeExact keeps numbers apart that differ in their text only slightly, and
// makes those equal that are written in two ways.
func decodeExact(text []byte, into *any) error {
	return json.NewDecoder(bytes.NewReader(text)).Decode(into)
}

func TestPlan_isProtojson(t *testing.T) {
	d := everything(t)
	p := NewCompiler().Compile(d)
	if p == nil {
		t.Fatal("no plan")
	}
	ok, err := sameWire(d, p, []byte(full))
	if err != nil || !ok {
		t.Fatalf("to wire: %v, %v", ok, err)
	}
	m, err := slow(d, []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	m.Set(d.Fields().ByName("one_double"), protoreflect.ValueOfFloat64(math.Inf(-1)))
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := sameJSON(d, p, wire); err != nil || !ok {
		t.Errorf("to JSON: %v, %v", ok, err)
	}
}

// TestPlan_leavesTheRest: what is not ordinary is protojson's.
func TestPlan_leavesTheRest(t *testing.T) {
	d := everything(t)
	p := NewCompiler().Compile(d)
	for _, text := range []string{
		``, `[]`, `{"nope": 1}`, `{"oneInt32": 1.0}`, `{"oneInt32": 4294967296}`, `{"oneInt32": "x"}`, `{"oneString": 1}`, `{"oneString": "\ud800"}`, "{\"oneString\": \"\xff\"}",
		`{"oneBytes": "-_-_"}`, `{"oneEnum": "NOPE"}`, `{"oneDouble": "NaN"}`, `{"oneBool": "true"}`, `{"choiceA": 1, "choiceB": 2}`, `{"oneInt32": 1, "one_int32": 2}`,
		`{"listInt32": [null]}`, `{"mapString": {"k": null}}`, `{"mapString": {"k": "1", "k": "2"}}`, `{"oneMessage": []}`, `{"oneInt32": 01}`, `{"oneInt32": "+1"}`, `{"oneInt32": ""}`,
		`{"oneTimestamp": "yesterday"}`, `{"listTimestamp": [null]}`, `{"mapTimestamp": {"k": null}}`, `{"oneStruct": []}`,
		strings.Repeat(`{"oneMessage":`, 60) + `{}` + strings.Repeat(`}`, 60),
	} {
		if out, ok := p.AppendWire(nil, []byte(text)); ok {
			t.Errorf("%s: got %x", text, out)
		}
	}
	if NewCompiler().Compile((&timestamppb.Timestamp{}).ProtoReflect().Descriptor()) != nil || NewCompiler().Compile((&structpb.Struct{}).ProtoReflect().Descriptor()) != nil {
		t.Error("a well-known type has a plan")
	}
	if NewCompiler().Compile((&descriptorpb.FileOptions{}).ProtoReflect().Descriptor()) != nil {
		t.Error("a type with extensions has a plan")
	}
}

// TestPlan_numbers: jstype asks for numbers where protojson has texts.
func TestPlan_numbers(t *testing.T) {
	m := &descriptorpb.DescriptorProto{Name: proto.String("N")}
	for i, kind := range []descriptorpb.FieldDescriptorProto_Type{
		descriptorpb.FieldDescriptorProto_TYPE_INT64, descriptorpb.FieldDescriptorProto_TYPE_UINT64, descriptorpb.FieldDescriptorProto_TYPE_SINT64,
		descriptorpb.FieldDescriptorProto_TYPE_FIXED64, descriptorpb.FieldDescriptorProto_TYPE_SFIXED64,
	} {
		for j, as := range []descriptorpb.FieldOptions_JSType{descriptorpb.FieldOptions_JS_NUMBER, descriptorpb.FieldOptions_JS_STRING} {
			m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
				Name: proto.String(fmt.Sprintf("f%d%d", i, j)), Number: proto.Int32(int32(2*i + j + 1)), Type: kind.Enum(),
				Label: descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum(), Options: &descriptorpb.FieldOptions{Jstype: as.Enum()},
			})
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("n.proto"), Package: proto.String("n"), Syntax: proto.String("proto3"), MessageType: []*descriptorpb.DescriptorProto{m},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := NewCompiler().Compile(file.Messages().Get(0))
	const given = `{"f00":[-9007199254740993],"f01":["-1"],"f10":[18446744073709551615],"f11":["1"],"f20":[-2],"f21":["-2"],"f30":[3],"f31":["3"],"f40":[-4],"f41":["-4"]}`
	wire, ok := p.AppendWire(nil, []byte(given))
	text, okToo := p.AppendJSON(nil, wire)
	if !ok || !okToo || string(text) != given {
		t.Errorf("got %s, want %s", text, given)
	}
}

func FuzzPlanWire(f *testing.F) {
	d := everything(f)
	p := NewCompiler().Compile(d)
	f.Add(full)
	for _, part := range strings.Split(full[1:len(full)-1], "\n") {
		f.Add("{" + strings.Trim(part, ", \t\n") + "}")
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := sameWire(d, p, []byte(text)); err != nil {
			t.Error(err)
		}
	})
}

func FuzzPlanJSON(f *testing.F) {
	d := everything(f)
	p := NewCompiler().Compile(d)
	m, err := slow(d, []byte(full))
	if err != nil {
		f.Fatal(err)
	}
	wire, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(wire[:40])
	f.Fuzz(func(t *testing.T, wire []byte) {
		if _, err := sameJSON(d, p, wire); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkPlan(b *testing.B) {
	d := everything(b)
	p := NewCompiler().Compile(d)
	text := []byte(`{"oneString":"hello"}`)
	b.ReportAllocs()
	for range b.N {
		wire, ok := p.AppendWire(nil, text)
		if !ok {
			b.Fatal("left to protojson")
		}
		if _, ok := p.AppendJSON(nil, wire); !ok {
			b.Fatal("left to protojson")
		}
	}
}
