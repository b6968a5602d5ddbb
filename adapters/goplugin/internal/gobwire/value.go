package gobwire

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
)

// A valuer writes one value of a Reader as JSON.
type valuer struct {
	r     *Reader
	start int // where the value began in the output
}

// top reads a value as it stands at the top of a message and inside an
// interface: what is not a struct has a zero byte before it.
func (v valuer) top(out []byte, id int64, of *Type, depth int) ([]byte, error) {
	if wt := v.r.types[id]; wt == nil || wt.kind != wireStruct {
		if zero, err := v.r.uint(); err != nil || zero != 0 {
			return nil, errCorrupt
		}
	}
	return v.value(out, id, of, depth)
}

// value reads one value of type id. of is its description, or nil.
func (v valuer) value(out []byte, id int64, of *Type, depth int) ([]byte, error) {
	if depth > depthMax {
		return nil, fmt.Errorf("answer nests deeper than %d: %w", depthMax, ErrTooLarge)
	}
	if len(out)-v.start > v.r.max {
		return nil, fmt.Errorf("answer %w of %d bytes", ErrTooLarge, v.r.max)
	}
	if of != nil {
		of = of.wire()
	}
	if id < 64 {
		return v.builtin(out, id, of, depth)
	}
	wt := v.r.types[id]
	if wt == nil {
		return nil, fmt.Errorf("%w: type %d is not defined", errCorrupt, id)
	}
	switch wt.kind {
	case wireArray, wireSlice:
		return v.list(out, wt, of, depth)
	case wireMap:
		return v.mapping(out, wt, of, depth)
	case wireStruct:
		return v.structure(out, wt, of, depth)
	}
	return v.opaque(out, wt, of)
}

func (v valuer) builtin(out []byte, id int64, of *Type, depth int) ([]byte, error) {
	switch id {
	case idBytes:
		b, err := v.r.bytes()
		out = append(out, '"')
		return append(base64.StdEncoding.AppendEncode(out, b), '"'), err
	case idString:
		b, err := v.r.bytes()
		return jsontext.AppendQuoted(out, b), err
	case idInterface:
		return v.held(out, depth)
	case idComplex:
		re, err := v.r.uint()
		if err != nil {
			return nil, err
		}
		im, err := v.r.uint()
		out = jsontext.AppendFloat(append(out, '['), toFloat(re), 64)
		return append(jsontext.AppendFloat(append(out, ','), toFloat(im), 64), ']'), err
	}
	x, err := v.r.uint()
	switch id {
	case idBool:
		return strconv.AppendBool(out, x != 0), err
	case idInt:
		if v.wide(of) {
			return append(strconv.AppendInt(append(out, '"'), toInt(x), 10), '"'), err
		}
		return strconv.AppendInt(out, toInt(x), 10), err
	case idUint:
		if v.wide(of) {
			return append(strconv.AppendUint(append(out, '"'), x, 10), '"'), err
		}
		return strconv.AppendUint(out, x, 10), err
	case idFloat:
		return jsontext.AppendFloat(out, toFloat(x), 64), err
	}
	return nil, fmt.Errorf("%w: type %d does not exist", errCorrupt, id)
}

// wide reports an integer that is to be a text.
func (v valuer) wide(of *Type) bool {
	if of == nil {
		return v.r.table.options.WideAsText
	}
	return of.wide
}

// held reads an interface: a name, empty for nil, then the type, a byte count and
// the value. A value of a type that has a name of its own is
// {"@type": name, "value": value}; one that gob itself knows is the value.
func (v valuer) held(out []byte, depth int) ([]byte, error) {
	name, err := v.r.bytes()
	if err != nil || len(name) > nameBytesMax {
		return nil, errCorrupt
	}
	if len(name) == 0 {
		return append(out, "null"...), nil
	}
	named := !universal(name)
	of := v.r.table.registered[string(name)] // now: the name is gone with its message
	if named {
		out = append(jsontext.AppendQuoted(append(out, `{"@type":`...), name), `,"value":`...)
	}
	id, err := v.r.sequence(insideInterface)
	if err != nil {
		return nil, unexpected(err)
	}
	// The byte count is not trusted: a definition within the value flushes the
	// outer message halfway, and the count then spans two.
	if _, err := v.r.uint(); err != nil {
		return nil, err
	}
	if out, err = v.top(out, id, of, depth+1); err != nil {
		return nil, err
	}
	if named {
		out = append(out, '}')
	}
	return out, nil
}

// universal reports the name of a type that is the same in every Go program, so
// that its JSON says enough.
func universal(name []byte) bool {
	if bytes.IndexByte(name, '.') >= 0 {
		return false
	}
	if bytes.HasPrefix(name, []byte("[]")) || bytes.HasPrefix(name, []byte("map[")) {
		return true
	}
	for i := range scalars {
		if scalars[i].goName == string(name) {
			return true
		}
	}
	return string(name) == "uintptr"
}

func (v valuer) list(out []byte, wt *wireType, of *Type, depth int) ([]byte, error) {
	n, err := v.elements()
	if err != nil {
		return nil, err
	}
	var elem *Type
	if of != nil {
		elem = of.elem
	}
	out = append(out, '[')
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = v.value(out, wt.elem, elem, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

// elements reads a count. Each element takes a byte at least, here or in a later
// message of the same value.
func (v valuer) elements() (int, error) {
	n, err := v.r.uint()
	if err != nil || n > uint64(len(v.r.msg)+v.r.left) {
		return 0, errCorrupt
	}
	return int(n), nil
}

func (v valuer) mapping(out []byte, wt *wireType, of *Type, depth int) ([]byte, error) {
	n, err := v.elements()
	if err != nil {
		return nil, err
	}
	var elem *Type
	if of != nil {
		elem = of.elem
	}
	out = append(out, '{')
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		at := len(out)
		if out, err = v.value(out, wt.key, nil, depth+1); err != nil {
			return nil, err
		}
		if out[at] != '"' { // JSON has text keys only
			out = jsontext.AppendQuoted(out[:at], append([]byte(nil), out[at:]...))
		}
		if out, err = v.value(append(out, ':'), wt.elem, elem, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// hidden are fields of generated Go structs that mean nothing to a reader.
const hidden = "XXX_"

func (v valuer) structure(out []byte, wt *wireType, of *Type, depth int) ([]byte, error) {
	if of != nil && of.kind != kindStruct {
		of = nil
	}
	var seen [fieldsMax]bool
	out = append(out, '{')
	empty := len(out)
	err := v.r.members(func(n int) (err error) {
		if n >= len(wt.fields) {
			return errCorrupt
		}
		f := wt.fields[n]
		at := len(out)
		if at > empty {
			out = append(out, ',')
		}
		var member *Type
		if of != nil {
			if i := of.exact(f.name); i >= 0 {
				seen[i] = true
				member = of.fields[i].Type
			}
		}
		out = append(jsontext.AppendQuoted(out, f.name), ':')
		begin := len(out)
		if out, err = v.value(out, f.id, member, depth+1); err != nil {
			return err
		}
		switch {
		case depth == 0 && v.r.apart != "" && v.r.apart == string(f.name):
			v.r.taken = bytes.Clone(out[begin:])
			out = out[:at]
		case bytes.HasPrefix(f.name, []byte(hidden)):
			out = out[:at]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if of != nil {
		if depth == 0 && v.r.apart != "" {
			of.missing(v.r.apart, &seen)
		}
		out = of.fill(out, empty, &seen)
	}
	return append(out, '}'), nil
}

// exact returns the index of the field of that name, or -1.
func (t *Type) exact(name []byte) int {
	for i := range t.fields {
		if t.fields[i].Name == string(name) {
			return i
		}
	}
	return -1
}

// missing marks the field of that name as seen, so that it is not filled in.
func (t *Type) missing(name string, seen *[fieldsMax]bool) {
	if i := t.exact([]byte(name)); i >= 0 {
		seen[i] = true
	}
}

// fill appends the fields that did not arrive, because they are zero.
func (t *Type) fill(out []byte, empty int, seen *[fieldsMax]bool) []byte {
	for i, f := range t.fields {
		if seen[i] {
			continue
		}
		if len(out) > empty {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), f.Name...), '"', ':')
		out = f.Type.zero(out)
	}
	return out
}

// zero appends what a Go program would show for the type's zero value.
func (t *Type) zero(out []byte) []byte {
	switch t.kind {
	case kindBool:
		return append(out, "false"...)
	case kindInt, kindUint, kindFloat:
		if t.wide {
			return append(out, `"0"`...)
		}
		return append(out, '0')
	case kindComplex:
		return append(out, "[0,0]"...)
	case kindString, kindBytes, kindGob, kindBinary:
		return append(out, '"', '"')
	case kindBig:
		return append(out, `"0"`...)
	case kindArray:
		out = append(out, '[')
		for i := range t.length {
			if i > 0 {
				out = append(out, ',')
			}
			out = t.elem.zero(out)
		}
		return append(out, ']')
	case kindSlice:
		return append(out, '[', ']')
	case kindMap, kindRecord:
		return append(out, '{', '}')
	case kindTime:
		return append(out, `"0001-01-01T00:00:00Z"`...)
	case kindStruct:
		out = append(out, '{')
		var none [fieldsMax]bool
		return append(t.fill(out, len(out), &none), '}')
	}
	return append(out, "null"...)
}
