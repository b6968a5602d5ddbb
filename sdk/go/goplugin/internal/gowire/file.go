package gowire

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A Service is one of the services of a file.
type Service struct {
	Name, Doc string
	Methods   []Method
}

// A Method's nil In or Out is google.protobuf.Empty.
type Method struct {
	Name, Doc   string
	In, Out     *Codec
	TakesStream bool
	Streams     bool
}

// Numbers of fields in descriptor.proto, which are the path of a comment.
const (
	fileMessages   = 4
	fileServices   = 6
	messageFields  = 2
	serviceMethods = 2
)

// Numbers of protovalidate (buf/validate/validate.proto).
const (
	validateField    = 1159 // extends FieldOptions, by FieldRules
	rulesRequired    = 25
	rulesString      = 14
	rulesRepeated    = 18
	stringRulesIn    = 10
	repeatedElements = 4
)

// File describes the services and all messages made by now. What docs say are its
// comments.
func (s *Schema) File(path string, services ...Service) *descriptorpb.FileDescriptorProto {
	file := &descriptorpb.FileDescriptorProto{Name: &path, Package: &s.pkg, Syntax: proto.String("proto3"), SourceCodeInfo: &descriptorpb.SourceCodeInfo{}}
	for i, m := range s.messages {
		file.MessageType = append(file.MessageType, m.describe(s.pkg))
		comment(file, m.doc, fileMessages, i)
		for j, f := range m.fields {
			comment(file, f.doc, fileMessages, i, messageFields, j)
		}
	}
	for i, service := range services {
		described := &descriptorpb.ServiceDescriptorProto{Name: &service.Name}
		comment(file, service.Doc, fileServices, i)
		for j, m := range service.Methods {
			described.Method = append(described.Method, &descriptorpb.MethodDescriptorProto{
				Name: &m.Name, InputType: s.typeOf(m.In), OutputType: s.typeOf(m.Out),
				ClientStreaming: &m.TakesStream, ServerStreaming: &m.Streams,
			})
			comment(file, m.Doc, fileServices, i, serviceMethods, j)
		}
		file.Service = append(file.Service, described)
	}
	file.Dependency = slices.Sorted(maps.Keys(s.imports))
	return file
}

func (s *Schema) typeOf(c *Codec) *string {
	if c == nil {
		s.imports["google/protobuf/empty.proto"] = true
		return proto.String("." + string((*emptypb.Empty)(nil).ProtoReflect().Descriptor().FullName()))
	}
	return &c.form.message
}

func comment(file *descriptorpb.FileDescriptorProto, text string, path ...int) {
	if text == "" {
		return
	}
	place := make([]int32, len(path))
	for i, n := range path {
		place[i] = int32(n)
	}
	file.SourceCodeInfo.Location = append(file.SourceCodeInfo.Location, &descriptorpb.SourceCodeInfo_Location{
		Path: place, Span: []int32{0, 0, 0}, LeadingComments: proto.String(" " + text + "\n"),
	})
}

func (m *message) describe(pkg string) *descriptorpb.DescriptorProto {
	d := &descriptorpb.DescriptorProto{Name: &m.name}
	for _, f := range m.fields {
		described := f.elem.describe(f.proto, f.number)
		described.JsonName = &f.name
		described.Options = f.options()
		switch {
		case f.key != nil:
			d.NestedType = append(d.NestedType, f.entry())
			described.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
			described.TypeName = proto.String("." + pkg + "." + m.name + "." + entryName(f.proto))
			fallthrough
		case f.repeated:
			described.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		case f.elem.message == "":
			described.Proto3Optional = proto.Bool(true)
			described.OneofIndex = proto.Int32(int32(len(d.OneofDecl)))
			d.OneofDecl = append(d.OneofDecl, &descriptorpb.OneofDescriptorProto{Name: proto.String("_" + f.proto)})
		}
		d.Field = append(d.Field, described)
	}
	return d
}

func (f *form) describe(name string, number protowire.Number) *descriptorpb.FieldDescriptorProto {
	d := &descriptorpb.FieldDescriptorProto{
		Name: &name, Number: proto.Int32(int32(number)), Type: f.kind.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
	if f.message != "" {
		d.TypeName = &f.message
	}
	return d
}

// entry is the message of a map's entry.
func (f *field) entry() *descriptorpb.DescriptorProto {
	value := f.elem.describe("value", 2)
	value.Options = f.asNumber()
	return &descriptorpb.DescriptorProto{
		Name:    proto.String(entryName(f.proto)),
		Field:   []*descriptorpb.FieldDescriptorProto{f.key.describe("key", 1), value},
		Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
	}
}

// entryName is how protoc names it: max_items has MaxItemsEntry.
func entryName(field string) string {
	name, up := make([]byte, 0, len(field)+len("Entry")), true
	for _, c := range []byte(field) {
		switch {
		case c == '_':
			up = true
			continue
		case up && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		name, up = append(name, c), false
	}
	return string(append(name, "Entry"...))
}

// asNumber says that JSON shows 64 bits as a number.
func (f *field) asNumber() *descriptorpb.FieldOptions {
	if f.quoted || !f.elem.is64() {
		return nil
	}
	return &descriptorpb.FieldOptions{Jstype: descriptorpb.FieldOptions_JS_NUMBER.Enum()}
}

func (f *form) is64() bool {
	return f.kind == descriptorpb.FieldDescriptorProto_TYPE_INT64 || f.kind == descriptorpb.FieldDescriptorProto_TYPE_UINT64
}

// options are how JSON shows 64 bits, and protovalidate's rules.
func (f *field) options() *descriptorpb.FieldOptions {
	o := &descriptorpb.FieldOptions{}
	if n := f.asNumber(); n != nil && f.key == nil {
		o = n
	}
	var words []byte
	for _, word := range f.enum {
		words = protowire.AppendString(protowire.AppendTag(words, stringRulesIn, protowire.BytesType), word)
	}
	var rules []byte
	if f.required {
		rules = protowire.AppendVarint(protowire.AppendTag(rules, rulesRequired, protowire.VarintType), 1)
	}
	switch {
	case words == nil:
	case f.repeated:
		rules = within(rules, rulesRepeated, within(nil, repeatedElements, within(nil, rulesString, words)))
	default:
		rules = within(rules, rulesString, words)
	}
	if rules != nil {
		o.ProtoReflect().SetUnknown(within(nil, validateField, rules))
	}
	if proto.Size(o) == 0 {
		return nil
	}
	return o
}

// within appends a message as a field.
func within(b []byte, number protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), message)
}
