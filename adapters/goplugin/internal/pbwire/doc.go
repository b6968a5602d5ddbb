// Package pbwire turns JSON into protobuf's wire form and back by a plan made
// once per message type, without building a message in between. It is the fast
// path of the adapter's gRPC calls: protojson with dynamic messages costs ten
// times as much, some 7 us for the smallest call.
//
// It does the ordinary only. Whatever is not ordinary, in a type (Any, groups,
// extensions, required fields) or in a value (wrong types, unknown fields, odd
// numbers), it leaves to protojson by answering no: so what is accepted, refused, and
// said about it is protojson's alone. A fuzz test compares the two. Fields of the other
// well-known types, as Timestamp, are protojson's within a message that is not.
//
// One thing is better here: integers of 64 bits whose field has the option
// jstype = JS_NUMBER are written as numbers. Protojson knows texts only, so that those in
// what is left to it are texts.
//
// A Plan is safe for concurrent use and owns nothing.
package pbwire

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	// depthMax ends the recursion; what nests deeper is left to protojson,
	// which has a limit of its own.
	depthMax = 50
	// fieldsMax bounds the fields of a message, so that those seen fit in a
	// small set; no message of the known plugins has half as many.
	fieldsMax = 256
)

// A Plan is a message type made ready.
type Plan struct {
	fields   []field
	byName   map[string]int // JSON name and own name
	byNumber map[int32]int
}

type field struct {
	number   int32
	name     string // as JSON shows it
	kind     protoreflect.Kind
	list     bool
	packed   bool
	presence bool // a zero value differs from none
	oneof    int  // index+1, 0 when in none
	numeric  bool // 64 bits are written as a number
	enum     protoreflect.EnumDescriptor
	message  *Plan
	own      protoreflect.MessageType // a well-known type, in place of message
	key      *field                   // of a map
	value    *field
}

// A Compiler makes the plans of messages that share types, each once.
type Compiler struct {
	known map[protoreflect.FullName]*Plan
}

// NewCompiler returns a compiler for the messages of one registry.
func NewCompiler() *Compiler { return &Compiler{known: map[protoreflect.FullName]*Plan{}} }

// Compile returns the plan for d, or nil when d is not ordinary.
func (c *Compiler) Compile(d protoreflect.MessageDescriptor) *Plan {
	if c.known[d.FullName()] == nil && !ordinary(d, map[protoreflect.FullName]bool{}) {
		return nil
	}
	return compile(d, c.known)
}

func ordinary(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return true
	}
	seen[d.FullName()] = true
	if hasOwnJSON(d.FullName()) || d.ExtensionRanges().Len() > 0 || d.RequiredNumbers().Len() > 0 || d.Fields().Len() > fieldsMax {
		return false
	}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if f.Kind() == protoreflect.GroupKind || f.Enum() != nil && (f.Enum().IsClosed() || hasOwnJSON(f.Enum().FullName())) {
			return false
		}
		if m := f.Message(); m != nil && wellKnown(m.FullName()) == nil && !ordinary(m, seen) {
			return false
		}
	}
	return true
}

// hasOwnJSON is true for the well-known types but Empty, which is like any other.
func hasOwnJSON(name protoreflect.FullName) bool {
	return strings.HasPrefix(string(name), "google.protobuf.") && name != "google.protobuf.Empty"
}

func compile(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*Plan) *Plan {
	if p := known[d.FullName()]; p != nil {
		return p
	}
	p := &Plan{byName: map[string]int{}, byNumber: map[int32]int{}}
	known[d.FullName()] = p
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		p.byNumber[int32(f.Number())] = i
		p.byName[f.TextName()] = i
		p.fields = append(p.fields, newField(f, known))
	}
	for i := range p.fields { // last: the JSON name wins where two fields share one
		p.byName[p.fields[i].name] = i
	}
	return p
}

func newField(f protoreflect.FieldDescriptor, known map[protoreflect.FullName]*Plan) field {
	made := field{
		number: int32(f.Number()), name: f.JSONName(), kind: f.Kind(), list: f.IsList(), packed: f.IsPacked(),
		presence: f.HasPresence(), enum: f.Enum(), numeric: isNumeric(f),
	}
	if o := f.ContainingOneof(); o != nil {
		made.oneof = o.Index() + 1
	}
	switch {
	case f.IsMap():
		key, value := newField(f.MapKey(), known), newField(f.MapValue(), known)
		made.key, made.value = &key, &value
	case f.Message() != nil && wellKnown(f.Message().FullName()) != nil:
		made.own = wellKnown(f.Message().FullName())
	case f.Message() != nil:
		made.message = compile(f.Message(), known)
	}
	return made
}

func isNumeric(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetJstype() == descriptorpb.FieldOptions_JS_NUMBER
}
