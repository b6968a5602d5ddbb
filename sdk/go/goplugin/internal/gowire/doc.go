// Package gowire carries Go values in protobuf's wire form, by messages that it makes of
// their types with reflection, once, and describes in a FileDescriptorProto. Names are
// those of encoding/json: whoever reads such a message by its descriptor, in protobuf's
// JSON mapping, sees what encoding/json would have written.
//
// It owns nothing and is safe for concurrent use once all codecs are made. What is read
// may be anything: it is refused with the path of the field, and costs no more than its
// size.
//
//	Go                                    protobuf
//	struct                                a message; embedded structs are part of it
//	bool, string, []byte, float32/64      the same; optional, so that zero is written
//	int8..int32, uint8..uint32            int32, uint32; out of range is refused
//	int, int64, uint, uint64              int64, uint64 with jstype = JS_NUMBER, unless ",string"
//	*T                                    T, absent when nil
//	[]T, [N]T, map[K]T                    repeated T, map<K, T>; absent when empty
//	time.Time, time.Duration              google.protobuf.Timestamp, Duration
//	encoding.TextMarshaler                string
//	any, json.RawMessage, json.Marshaler  google.protobuf.Value: JSON, whose numbers have
//	[][]T, map[K][]T                      53 bits there
//
// The tags of a field: json as ever; number:"3" its number, else they count from 1 in
// the order of declaration; doc:"..." what it is; required:"true" and enum:"a,b", which
// are kept when read and described as protovalidate's rules. The doc of a blank field (_)
// is the type's.
package gowire

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// depthMax bounds how deep messages nest, as protobuf's libraries in C++ and Java do.
const depthMax = 100

var errDeep = fmt.Errorf("nests more than %d deep; is it a circle?", depthMax)

// A pathError is a fault, and the names that lead to it.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string { return e.path + ": " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }

// at puts a name before the path of err.
func at(name string, err error) error {
	var deeper *pathError
	if !errors.As(err, &deeper) {
		return &pathError{name, err}
	}
	if strings.HasPrefix(deeper.path, "[") {
		return &pathError{name + deeper.path, deeper.err}
	}
	return &pathError{name + "." + deeper.path, deeper.err}
}

func atIndex(i int, err error) error { return at(fmt.Sprintf("[%d]", i), err) }

// A Schema holds the messages of one package. It is not safe for concurrent use while
// codecs are made.
type Schema struct {
	pkg      string
	messages []*message // in the order in which they were met
	byType   map[reflect.Type]*message
	taken    map[string]bool
	imports  map[string]bool
}

// New returns a schema for messages of the package.
func New(pkg string) *Schema {
	return &Schema{pkg: pkg, byType: map[reflect.Type]*message{}, taken: map[string]bool{}, imports: map[string]bool{}}
}

// Reserve keeps a name from messages: that of a service.
func (s *Schema) Reserve(name string) { s.taken[name] = true }

// A Codec writes and reads values of one type.
type Codec struct {
	typ  reflect.Type
	form *form
}

// Codec makes the codec of t. The error names the field that cannot be carried.
func (s *Schema) Codec(t reflect.Type) (*Codec, error) {
	if t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		c, err := s.Codec(t.Elem())
		if err != nil {
			return nil, err
		}
		return &Codec{t, c.form}, nil
	}
	f, err := s.single(t, "Anonymous")
	if err == nil && (f == nil || f.message == "") { // no message of its own
		f, err = s.jsonForm(t)
	}
	if err != nil {
		return nil, at(typeName(t), err)
	}
	return &Codec{t, f}, nil
}

// Append appends v in wire form to dst. Nil stands for a message without fields.
func (c *Codec) Append(dst []byte, v reflect.Value) ([]byte, error) {
	if c.typ.Kind() == reflect.Pointer && c.form.typ != c.typ {
		if v.IsNil() {
			return dst, nil
		}
		v = v.Elem()
	}
	return c.form.append(dst, v, 0)
}

// Read makes a value of what is in wire form.
func (c *Codec) Read(wire []byte) (reflect.Value, error) {
	v := reflect.New(c.form.typ)
	if err := c.form.read(v.Elem(), 0, wire, 0); err != nil {
		return reflect.Value{}, err
	}
	if c.form.typ == c.typ {
		v = v.Elem()
	}
	return v, nil
}

// Doc is what the type's blank field says.
func (c *Codec) Doc() string {
	if c.form.fields == nil {
		return ""
	}
	return c.form.fields.doc
}

func typeName(t reflect.Type) string {
	if t.Name() != "" {
		return t.Name()
	}
	return t.String()
}
