package pbwire

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
)

// AppendJSON appends the message in wire as JSON to dst. It reports false when
// protojson is to decide, as for a field that comes in two places.
func (p *Plan) AppendJSON(dst, wire []byte) ([]byte, bool) {
	out, err := p.decode(dst, wire, 0)
	return out, err == nil
}

// decode writes the fields in the order in which they come.
func (p *Plan) decode(out, wire []byte, depth int) ([]byte, error) {
	if depth > depthMax {
		return nil, errOdd
	}
	var seen [fieldsMax]bool
	var chosen [fieldsMax + 1]bool // oneofs
	out = append(out, '{')
	empty := len(out)
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 || number > protowire.MaxValidNumber {
			return nil, errOdd
		}
		i, ok := p.byNumber[int32(number)]
		if !ok {
			size := protowire.ConsumeFieldValue(number, kind, wire[n:])
			if size < 0 || kind == protowire.StartGroupType {
				return nil, errOdd
			}
			wire = wire[n+size:]
			continue
		}
		f := &p.fields[i]
		if seen[i] || f.oneof > 0 && chosen[f.oneof] {
			return nil, errOdd
		}
		seen[i], chosen[f.oneof] = true, true
		at := len(out)
		if at > empty {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), f.name...), '"', ':')
		var err error
		var zero bool
		if out, wire, zero, err = f.decode(out, wire, depth); err != nil {
			return nil, err
		}
		if zero && !f.presence {
			out = out[:at]
		}
	}
	return append(out, '}'), nil
}

// decode writes the field that wire begins with, all of it when it is repeated,
// and returns what follows it. zero says that there is nothing to show.
func (f *field) decode(out, wire []byte, depth int) (_, rest []byte, zero bool, err error) {
	switch {
	case f.key != nil:
		return f.decodeMap(out, wire, depth)
	case f.list:
		return f.decodeList(out, wire, depth)
	}
	_, kind, n := protowire.ConsumeTag(wire)
	if kind != wireType(f.kind) {
		return nil, nil, false, errOdd
	}
	return f.decodeOne(out, wire[n:], depth)
}

// run calls each with every value of the field that wire begins with, as long as
// they follow each other, and returns what comes after.
func (f *field) run(wire []byte, each func(kind protowire.Type, value []byte) (rest []byte, err error)) ([]byte, error) {
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return nil, errOdd
		}
		if int32(number) != f.number {
			break
		}
		var err error
		if wire, err = each(kind, wire[n:]); err != nil {
			return nil, err
		}
	}
	return wire, nil
}

func (f *field) decodeList(out, wire []byte, depth int) (_, rest []byte, zero bool, err error) {
	out = append(out, '[')
	empty := len(out)
	one := func(value []byte) (rest []byte, err error) {
		if len(out) > empty {
			out = append(out, ',')
		}
		out, rest, _, err = f.decodeOne(out, value, depth)
		return rest, err
	}
	rest, err = f.run(wire, func(kind protowire.Type, value []byte) ([]byte, error) {
		if kind == wireType(f.kind) {
			return one(value)
		}
		packed, n := protowire.ConsumeBytes(value)
		if kind != protowire.BytesType || n < 0 {
			return nil, errOdd
		}
		for len(packed) > 0 {
			var err error
			if packed, err = one(packed); err != nil {
				return nil, err
			}
		}
		return value[n:], nil
	})
	return append(out, ']'), rest, len(out) == empty, err
}

func (f *field) decodeMap(out, wire []byte, depth int) (_, rest []byte, zero bool, err error) {
	out = append(out, '{')
	empty := len(out)
	keys := map[string]bool{}
	rest, err = f.run(wire, func(kind protowire.Type, value []byte) ([]byte, error) {
		entry, n := protowire.ConsumeBytes(value)
		if kind != protowire.BytesType || n < 0 {
			return nil, errOdd
		}
		if len(out) > empty {
			out = append(out, ',')
		}
		at := len(out)
		var err error
		if out, entry, err = f.key.part(out, entry, 1, depth); err != nil {
			return nil, err
		}
		if out[at] != '"' {
			out = append(slices.Insert(out, at, '"'), '"')
		}
		if keys[string(out[at:])] {
			return nil, errOdd
		}
		keys[string(out[at:])] = true
		if out, entry, err = f.value.part(append(out, ':'), entry, 2, depth); err != nil || len(entry) > 0 {
			return nil, errOdd
		}
		return value[n:], nil
	})
	return append(out, '}'), rest, false, err
}

// part writes the key or value of a map's entry, which Go and most others always
// send; when it is left out protojson is to decide.
func (f *field) part(out, entry []byte, want protowire.Number, depth int) (_, rest []byte, err error) {
	number, kind, n := protowire.ConsumeTag(entry)
	if n < 0 || number != want || kind != wireType(f.kind) {
		return nil, nil, errOdd
	}
	out, rest, _, err = f.decodeOne(out, entry[n:], depth)
	return out, rest, err
}

func (f *field) decodeOne(out, wire []byte, depth int) (_, rest []byte, zero bool, err error) {
	switch wireType(f.kind) {
	case protowire.BytesType:
		return f.decodeBytes(out, wire, depth)
	case protowire.Fixed32Type:
		x, n := protowire.ConsumeFixed32(wire)
		if n < 0 {
			return nil, nil, false, errOdd
		}
		switch f.kind {
		case protoreflect.FloatKind:
			out = jsontext.AppendFloat(out, float64(math.Float32frombits(x)), 32)
		case protoreflect.Sfixed32Kind:
			out = strconv.AppendInt(out, int64(int32(x)), 10)
		default:
			out = strconv.AppendUint(out, uint64(x), 10)
		}
		return out, wire[n:], x == 0, nil
	case protowire.Fixed64Type:
		x, n := protowire.ConsumeFixed64(wire)
		if n < 0 {
			return nil, nil, false, errOdd
		}
		switch f.kind {
		case protoreflect.DoubleKind:
			out = jsontext.AppendFloat(out, math.Float64frombits(x), 64)
		case protoreflect.Sfixed64Kind:
			out = f.decodeInt64(out, int64(x))
		default:
			out = f.decodeUint64(out, x)
		}
		return out, wire[n:], x == 0, nil
	}
	x, n := protowire.ConsumeVarint(wire)
	if n < 0 {
		return nil, nil, false, errOdd
	}
	out, zero = f.decodeVarint(out, x)
	return out, wire[n:], zero, nil
}

// decodeInt64 writes 64 bits as text, as protobuf's JSON mapping has it, unless the field's
// options say otherwise.
func (f *field) decodeInt64(out []byte, x int64) []byte {
	if f.numeric {
		return strconv.AppendInt(out, x, 10)
	}
	return append(strconv.AppendInt(append(out, '"'), x, 10), '"')
}

func (f *field) decodeUint64(out []byte, x uint64) []byte {
	if f.numeric {
		return strconv.AppendUint(out, x, 10)
	}
	return append(strconv.AppendUint(append(out, '"'), x, 10), '"')
}

func (f *field) decodeVarint(out []byte, x uint64) (_ []byte, zero bool) {
	switch f.kind {
	case protoreflect.BoolKind:
		return strconv.AppendBool(out, x != 0), x == 0
	case protoreflect.EnumKind:
		n := protoreflect.EnumNumber(int32(x))
		if e := f.enum.Values().ByNumber(n); e != nil {
			return append(append(append(out, '"'), e.Name()...), '"'), n == 0
		}
		return strconv.AppendInt(out, int64(n), 10), n == 0
	case protoreflect.Int32Kind:
		return strconv.AppendInt(out, int64(int32(x)), 10), int32(x) == 0
	case protoreflect.Sint32Kind:
		n := int32(protowire.DecodeZigZag(x & math.MaxUint32))
		return strconv.AppendInt(out, int64(n), 10), n == 0
	case protoreflect.Uint32Kind:
		return strconv.AppendUint(out, uint64(uint32(x)), 10), uint32(x) == 0
	case protoreflect.Int64Kind:
		return f.decodeInt64(out, int64(x)), x == 0
	case protoreflect.Sint64Kind:
		return f.decodeInt64(out, protowire.DecodeZigZag(x)), x == 0
	}
	return f.decodeUint64(out, x), x == 0
}

func (f *field) decodeBytes(out, wire []byte, depth int) (_, rest []byte, zero bool, err error) {
	v, n := protowire.ConsumeBytes(wire)
	if n < 0 {
		return nil, nil, false, errOdd
	}
	switch f.kind {
	case protoreflect.MessageKind:
		if f.own != nil {
			out, err = f.decodeOwn(out, v)
		} else {
			out, err = f.message.decode(out, v, depth+1)
		}
	case protoreflect.BytesKind:
		out = append(base64.StdEncoding.AppendEncode(append(out, '"'), v), '"')
	default:
		if !utf8.Valid(v) {
			return nil, nil, false, errOdd
		}
		out = jsontext.AppendQuoted(out, v)
	}
	return out, wire[n:], len(v) == 0 && f.kind != protoreflect.MessageKind, err
}
