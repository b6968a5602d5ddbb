package gowire

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/descriptorpb"
)

var (
	errWire     = errors.New("is not of this message")
	errRequired = errors.New("is required")
)

// read sets the fields of v that stand in wire; what is not known is passed over.
func (m *message) read(v reflect.Value, wire []byte, depth int) error {
	if depth > depthMax {
		return errDeep
	}
	r := reader{message: m, depth: depth}
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, wire[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := wire[n : n+size]
		wire = wire[n+size:]
		f := m.byNumber[number]
		if f == nil {
			continue
		}
		if err := r.field(f, v.FieldByIndex(f.index), kind, value); err != nil {
			return at(f.name, err)
		}
	}
	if m.required {
		for _, f := range m.fields {
			if f.required && !slices.Contains(r.seen, f) {
				return at(f.name, errRequired)
			}
		}
	}
	return nil
}

// A reader reads one message.
type reader struct {
	*message
	depth int
	seen  []*field       // of those that are required
	count map[*field]int // elements of arrays
}

func (r *reader) field(f *field, v reflect.Value, kind protowire.Type, value []byte) error {
	if f.required && !slices.Contains(r.seen, f) {
		r.seen = append(r.seen, f)
	}
	v = pointed(v)
	switch {
	case f.key != nil:
		return r.entry(f, v, kind, value)
	case !f.repeated:
		_, err := f.one(v, kind, value, r.depth)
		return err
	case kind == protowire.BytesType && f.elem.wire != protowire.BytesType: // packed
		packed, _ := protowire.ConsumeBytes(value)
		for len(packed) > 0 {
			var err error
			if packed, err = r.element(f, v, f.elem.wire, packed); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := r.element(f, v, kind, value)
	return err
}

// pointed returns v, or what it points to, which is made when there is nothing.
func pointed(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Pointer {
		return v
	}
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
	}
	return v.Elem()
}

// element appends to a list, or sets what is next in an array.
func (r *reader) element(f *field, v reflect.Value, kind protowire.Type, value []byte) (rest []byte, err error) {
	i := v.Len()
	if v.Kind() == reflect.Array {
		if i = r.count[f]; i == v.Len() {
			return nil, fmt.Errorf("has more than %d elements", v.Len())
		}
		if r.count == nil {
			r.count = map[*field]int{}
		}
		r.count[f]++
	} else {
		if i == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(i + 1)
	}
	v.Index(i).SetZero()
	if rest, err = f.one(pointed(v.Index(i)), kind, value, r.depth); err != nil {
		return nil, atIndex(i, err)
	}
	return rest, nil
}

func (r *reader) entry(f *field, v reflect.Value, kind protowire.Type, value []byte) error {
	entry, n := protowire.ConsumeBytes(value)
	if kind != protowire.BytesType || n < 0 {
		return errWire
	}
	key, element := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, entry[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		part := entry[n : n+size]
		entry = entry[n+size:]
		var err error
		switch number {
		case 1:
			_, err = f.key.one(key, kind, part, r.depth)
		case 2:
			_, err = f.elem.one(pointed(element), kind, part, r.depth)
		}
		if err != nil {
			return at(fmt.Sprintf("[%.40q]", fmt.Sprint(key)), err)
		}
	}
	pointed(element) // a value that was left out is zero, and not nil
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(key, element)
	return nil
}

// one is of a form, and keeps to the words of an enum.
func (f *field) one(v reflect.Value, kind protowire.Type, value []byte, depth int) (rest []byte, err error) {
	rest, err = f.elem.one(v, kind, value, depth)
	if err == nil && f.enum != nil && v.Kind() == reflect.String && !slices.Contains(f.enum, v.String()) {
		return nil, fmt.Errorf("is %.40q; write %s", v.String(), strings.Join(f.enum, ", "))
	}
	return rest, err
}

// one sets v to the value that wire begins with, and returns what follows.
func (f *form) one(v reflect.Value, kind protowire.Type, wire []byte, depth int) (rest []byte, err error) {
	if kind != f.wire {
		return nil, errWire
	}
	var number uint64
	var raw []byte
	n := 0
	switch kind {
	case protowire.VarintType:
		number, n = protowire.ConsumeVarint(wire)
	case protowire.Fixed32Type:
		var small uint32
		small, n = protowire.ConsumeFixed32(wire)
		number = uint64(small)
	case protowire.Fixed64Type:
		number, n = protowire.ConsumeFixed64(wire)
	default:
		raw, n = protowire.ConsumeBytes(wire)
	}
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	if f.kind == descriptorpb.FieldDescriptorProto_TYPE_STRING && !utf8.Valid(raw) {
		return nil, errors.New("is no UTF-8")
	}
	return wire[n:], f.read(v, number, raw, depth+1)
}
