package gowire

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

var errNil = errors.New("is nil, which no element of a list or map can be")

// append writes the fields in their order.
func (m *message) append(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > depthMax {
		return nil, errDeep
	}
	for _, f := range m.fields {
		value := v.FieldByIndex(f.index)
		if f.omit(value) {
			continue
		}
		var err error
		if b, err = f.append(b, value, depth); err != nil {
			return nil, at(f.name, err)
		}
	}
	return b, nil
}

func (f *field) append(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return b, nil
		}
		v = v.Elem()
	}
	switch {
	case f.key != nil:
		return f.appendMap(b, v, depth)
	case !f.repeated:
		return f.elem.appendField(b, f.number, v, depth)
	case v.Len() == 0:
		return b, nil
	case f.elem.wire != protowire.BytesType: // packed, as proto3 has it
		b = protowire.AppendTag(b, f.number, protowire.BytesType)
		return counted(b, func(b []byte) (_ []byte, err error) {
			for i := range v.Len() {
				element := v.Index(i)
				if element.Kind() == reflect.Pointer {
					if element.IsNil() {
						return nil, atIndex(i, errNil)
					}
					element = element.Elem()
				}
				if b, err = f.elem.append(b, element, depth); err != nil {
					return nil, atIndex(i, err)
				}
			}
			return b, nil
		})
	}
	for i := range v.Len() {
		var err error
		if b, err = f.elem.appendElement(b, f.number, v.Index(i), depth); err != nil {
			return nil, atIndex(i, err)
		}
	}
	return b, nil
}

// appendMap writes the entries sorted, so that the same value is always the same bytes.
func (f *field) appendMap(b []byte, v reflect.Value, depth int) ([]byte, error) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int {
		switch {
		case x.CanInt():
			return int(min(max(x.Int()-y.Int(), -1), 1))
		case x.Kind() == reflect.String:
			return strings.Compare(x.String(), y.String())
		}
		return strings.Compare(fmt.Sprint(x), fmt.Sprint(y))
	})
	for _, key := range keys {
		b = protowire.AppendTag(b, f.number, protowire.BytesType)
		var err error
		b, err = counted(b, func(b []byte) ([]byte, error) {
			b, err := f.key.appendField(b, 1, key, depth)
			if err != nil {
				return nil, err
			}
			return f.elem.appendElement(b, 2, v.MapIndex(key), depth)
		})
		if err != nil {
			return nil, at(fmt.Sprintf("[%v]", key), err)
		}
	}
	return b, nil
}

// appendElement is appendField for what may be a pointer.
func (f *form) appendElement(b []byte, number protowire.Number, v reflect.Value, depth int) ([]byte, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil, errNil
		}
		v = v.Elem()
	}
	return f.appendField(b, number, v, depth)
}

// appendField appends one value with its tag.
func (f *form) appendField(b []byte, number protowire.Number, v reflect.Value, depth int) ([]byte, error) {
	b = protowire.AppendTag(b, number, f.wire)
	if f.wire != protowire.BytesType {
		return f.append(b, v, depth)
	}
	return counted(b, func(b []byte) ([]byte, error) { return f.append(b, v, depth+1) })
}

// counted appends what fill appends, with its length before it.
func counted(b []byte, fill func([]byte) ([]byte, error)) ([]byte, error) {
	from := len(b)
	b, err := fill(append(b, 0))
	if err != nil {
		return nil, err
	}
	n := len(b) - from - 1
	b[from] = byte(n)
	if size := protowire.SizeVarint(uint64(n)); size > 1 {
		b = slices.Insert(b, from+1, make([]byte, size-1)...)
		protowire.AppendVarint(b[:from], uint64(n))
	}
	return b, nil
}
