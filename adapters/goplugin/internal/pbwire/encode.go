package pbwire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
)

// errOdd means that protojson is to decide.
var errOdd = errors.New("not ordinary")

// AppendWire appends the message that the JSON text describes to dst. It reports
// false when protojson is to decide.
func (p *Plan) AppendWire(dst, text []byte) ([]byte, bool) {
	at := jsontext.Space(text, 0)
	if at == len(text) || text[at] != '{' || !jsontext.Valid(text) {
		return nil, false
	}
	out, err := p.encode(dst, text[at:], 0)
	return out, err == nil
}

func (p *Plan) encode(b, text []byte, depth int) ([]byte, error) {
	if depth > depthMax || text[0] != '{' {
		return nil, errOdd
	}
	var seen [fieldsMax]bool
	var chosen [fieldsMax + 1]bool // oneofs
	err := jsontext.Each(text, func(key, value []byte) (err error) {
		i, ok := p.byName[string(key[1:len(key)-1])] // a name with an escape in it is not found
		if !ok || seen[i] {
			return errOdd
		}
		f := &p.fields[i]
		seen[i] = true
		if value[0] == 'n' && (f.list || !f.takesNull()) {
			return nil
		}
		if f.oneof > 0 {
			if chosen[f.oneof] {
				return errOdd
			}
			chosen[f.oneof] = true
		}
		b, err = f.encode(b, value, depth)
		return err
	})
	return b, err
}

func (f *field) encode(b, value []byte, depth int) ([]byte, error) {
	switch {
	case f.key != nil:
		return f.encodeMap(b, value, depth)
	case f.list:
		return f.encodeList(b, value, depth)
	}
	at := len(b)
	b = protowire.AppendTag(b, protowire.Number(f.number), wireType(f.kind))
	begin := len(b)
	b, err := f.encodeOne(b, value, depth)
	if err == nil && !f.presence && f.message == nil && isZero(b[begin:]) {
		b = b[:at]
	}
	return b, err
}

// isZero is true for the wire forms of 0, false, +0.0 and "", all of whose bytes
// are zero.
func isZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) && (len(b) == 1 || len(b) == 4 || len(b) == 8)
}

func (f *field) encodeList(b, list []byte, depth int) ([]byte, error) {
	if list[0] != '[' {
		return nil, errOdd
	}
	if f.packed {
		if jsontext.Space(list, 1) == len(list)-1 {
			return b, nil
		}
		b = protowire.AppendTag(b, protowire.Number(f.number), protowire.BytesType)
		return counted(b, func(b []byte) ([]byte, error) {
			err := jsontext.Each(list, func(_, v []byte) (err error) { b, err = f.encodeOne(b, v, depth); return err })
			return b, err
		})
	}
	err := jsontext.Each(list, func(_, v []byte) (err error) {
		b = protowire.AppendTag(b, protowire.Number(f.number), wireType(f.kind))
		b, err = f.encodeOne(b, v, depth)
		return err
	})
	return b, err
}

func (f *field) encodeMap(b, object []byte, depth int) ([]byte, error) {
	if object[0] != '{' {
		return nil, errOdd
	}
	seen := map[string]bool{}
	err := jsontext.Each(object, func(k, v []byte) (err error) {
		if seen[string(k)] {
			return errOdd
		}
		seen[string(k)] = true
		if f.key.kind != protoreflect.StringKind {
			if k = k[1 : len(k)-1]; len(k) == 0 || k[0] == '"' {
				return errOdd
			}
		}
		b = protowire.AppendTag(b, protowire.Number(f.number), protowire.BytesType)
		b, err = counted(b, func(b []byte) ([]byte, error) {
			b = protowire.AppendTag(b, 1, wireType(f.key.kind))
			b, err := f.key.encodeOne(b, k, depth)
			if err != nil {
				return nil, err
			}
			b = protowire.AppendTag(b, 2, wireType(f.value.kind))
			return f.value.encodeOne(b, v, depth)
		})
		return err
	})
	return b, err
}

// counted appends what fill appends, with its length before it.
func counted(b []byte, fill func([]byte) ([]byte, error)) ([]byte, error) {
	at := len(b)
	b, err := fill(append(b, 0))
	if err != nil {
		return nil, err
	}
	n := len(b) - at - 1
	if n < 0x80 {
		b[at] = byte(n)
		return b, nil
	}
	var size [10]byte
	prefix := protowire.AppendVarint(size[:0], uint64(n))
	b = append(b, prefix[1:]...) // room
	copy(b[at+len(prefix):], b[at+1:at+1+n])
	copy(b[at:], prefix)
	return b, nil
}

func (f *field) encodeOne(b, v []byte, depth int) ([]byte, error) {
	switch f.kind {
	case protoreflect.MessageKind:
		if f.own != nil {
			return f.encodeOwn(b, v)
		}
		return counted(b, func(b []byte) ([]byte, error) { return f.message.encode(b, v, depth+1) })
	case protoreflect.StringKind:
		return appendString(b, v)
	case protoreflect.BytesKind:
		return appendBytes(b, v)
	case protoreflect.BoolKind:
		switch string(v) {
		case "true":
			return append(b, 1), nil
		case "false":
			return append(b, 0), nil
		}
		return nil, errOdd
	case protoreflect.EnumKind:
		return f.appendEnum(b, v)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return appendReal(b, v, f.kind)
	}
	return appendInteger(b, v, f.kind)
}

func appendString(b, v []byte) ([]byte, error) {
	if v[0] != '"' || !utf8.Valid(v) {
		return nil, errOdd
	}
	if bytes.Contains(v, []byte(`\u`)) { // halves of surrogates are protojson's to refuse
		return nil, errOdd
	}
	return protowire.AppendBytes(b, jsontext.Text(v)), nil
}

func appendBytes(b, v []byte) ([]byte, error) {
	if v[0] != '"' {
		return nil, errOdd
	}
	text := v[1 : len(v)-1]
	return counted(b, func(b []byte) ([]byte, error) {
		out, err := base64.StdEncoding.AppendDecode(b, text)
		// AppendDecode skips line breaks, which JSON text cannot hold.
		return out, err
	})
}

func (f *field) appendEnum(b, v []byte) ([]byte, error) {
	if v[0] == '"' {
		if e := f.enum.Values().ByName(protoreflect.Name(v[1 : len(v)-1])); e != nil {
			return protowire.AppendVarint(b, uint64(int64(e.Number()))), nil
		}
		return nil, errOdd
	}
	n, err := strconv.ParseInt(string(v), 10, 32)
	if err != nil {
		return nil, errOdd
	}
	return protowire.AppendVarint(b, uint64(n)), nil
}

func appendReal(b, v []byte, kind protoreflect.Kind) ([]byte, error) {
	bits := 64
	if kind == protoreflect.FloatKind {
		bits = 32
	}
	if v[0] == '"' {
		return nil, errOdd
	}
	x, err := strconv.ParseFloat(string(v), bits)
	switch {
	case err != nil:
		return nil, errOdd
	case bits == 32:
		return protowire.AppendFixed32(b, math.Float32bits(float32(x))), nil
	}
	return protowire.AppendFixed64(b, math.Float64bits(x)), nil
}

// appendInteger takes a number, or one in quotes; text that ParseInt alone would
// take ("+1", "1_0") is left to protojson.
func appendInteger(b, v []byte, kind protoreflect.Kind) ([]byte, error) {
	if v[0] == '"' {
		if v = v[1 : len(v)-1]; len(v) == 0 {
			return nil, errOdd
		}
	}
	if !plainInteger(v) {
		return nil, errOdd
	}
	bits := 64
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		bits = 32
	}
	switch kind {
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		x, err := strconv.ParseUint(string(v), 10, bits)
		if err != nil {
			return nil, errOdd
		}
		return appendNumber(b, kind, x), nil
	}
	x, err := strconv.ParseInt(string(v), 10, bits)
	if err != nil {
		return nil, errOdd
	}
	return appendNumber(b, kind, uint64(x)), nil
}

func plainInteger(v []byte) bool {
	digits := v
	if v[0] == '-' {
		digits = v[1:]
	}
	if len(digits) == 0 || digits[0] == '0' && (len(digits) > 1 || len(v) > 1) {
		return false
	}
	return !slices.ContainsFunc(digits, func(c byte) bool { return c < '0' || c > '9' })
}

func appendNumber(b []byte, kind protoreflect.Kind, x uint64) []byte {
	switch kind {
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return protowire.AppendVarint(b, protowire.EncodeZigZag(int64(x)))
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		return protowire.AppendFixed32(b, uint32(x))
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		return protowire.AppendFixed64(b, x)
	}
	return protowire.AppendVarint(b, x)
}

func wireType(kind protoreflect.Kind) protowire.Type {
	switch kind {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	}
	return protowire.VarintType
}
