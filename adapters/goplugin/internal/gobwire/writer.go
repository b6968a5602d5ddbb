package gobwire

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
)

// A Writer makes the messages of one outgoing stream. It remembers which types
// the other side has been told, so a stream whose last message was not
// delivered whole cannot be used again.
type Writer struct {
	table *Table
	sent  []bool // by type id - firstID
	fresh []int64
	value []byte
}

// NewWriter returns the writer of a new stream.
func NewWriter(t *Table) *Writer { return &Writer{table: t, sent: make([]bool, len(t.defs))} }

// A Fault is an argument that does not fit its description.
type Fault struct {
	// Path leads to the value: ".User[2].Mail"; empty for the argument itself.
	Path   string
	Detail string
}

func (f *Fault) Error() string { return "argument" + f.Path + ": " + f.Detail }

func faultf(format string, args ...any) *Fault { return &Fault{Detail: fmt.Sprintf(format, args...)} }

// under puts a step before the path of a fault.
func under(err error, step string) error {
	if f, ok := err.(*Fault); ok {
		f.Path = step + f.Path
	}
	return err
}

// Request appends net/rpc's request header and the argument, described by of
// and given as JSON, to dst. Needs is what Table.Needs said of the type. On a
// *Fault nothing has been committed: the stream stays usable.
func (w *Writer) Request(dst []byte, method string, seq uint64, of *Type, needs []int64, argument []byte) ([]byte, error) {
	if argument = bytes.TrimSpace(argument); len(argument) == 0 {
		argument = []byte("null")
	}
	if !jsontext.Valid(argument) {
		return nil, faultf("is not JSON")
	}
	w.fresh = w.fresh[:0]
	dst = w.tell(dst, w.table.request.id)
	w.value = appendInt(w.value[:0], w.table.request.id)
	w.value = appendUint(append(appendText(append(w.value, 1), method), 1), seq)
	dst = appendText(dst, append(w.value, 0))

	for _, id := range needs {
		dst = w.tell(dst, id)
	}
	top := of.wire()
	w.value = appendInt(w.value[:0], top.id)
	if top.kind != kindStruct {
		w.value = append(w.value, 0)
	}
	if top != of && argument[0] == 'n' {
		argument = []byte("{}") // a nil pointer cannot be sent at the top; its zero value is
	}
	var err error
	if w.value, err = w.appendValue(w.value, of, argument, 0); err != nil {
		return nil, err
	}
	for _, id := range w.fresh {
		w.sent[id-firstID] = true
	}
	dst = appendText(dst, w.value)
	if cap(w.value) > keepBytesMax {
		w.value = nil
	}
	return dst, nil
}

// tell defines a type to the other side, unless it knows it.
func (w *Writer) tell(dst []byte, id int64) []byte {
	if w.sent[id-firstID] || slices.Contains(w.fresh, id) {
		return dst
	}
	w.fresh = append(w.fresh, id)
	return append(dst, w.table.defs[id]...)
}

// appendValue writes the JSON value s as a t, with no regard to being zero.
func (w *Writer) appendValue(b []byte, t *Type, s []byte, depth int) ([]byte, error) {
	if depth > depthMax {
		return nil, faultf("nests deeper than %d", depthMax)
	}
	null := s[0] == 'n'
	switch t.kind {
	case kindPointer:
		if null {
			return nil, faultf("is null, which gob cannot carry here")
		}
		return w.appendValue(b, t.elem, s, depth)
	case kindAny:
		return w.appendAny(b, s, depth)
	case kindSlice:
		return w.appendSlice(b, t, s, depth)
	case kindArray:
		return w.appendArray(b, t, s, depth)
	case kindMap, kindRecord:
		return w.appendMap(b, t, s, depth)
	case kindStruct:
		return w.appendStruct(b, t, s, depth)
	case kindComplex:
		return appendComplex(b, t, s)
	case kindTime, kindBig, kindGob, kindBinary:
		return appendEncoded(b, t, s)
	}
	return appendScalar(b, t, s)
}

func appendScalar(b []byte, t *Type, s []byte) ([]byte, error) {
	if s[0] == 'n' {
		return append(b, 0), nil // zero of every scalar
	}
	quoted := s[0] == '"'
	number := string(s)
	if quoted {
		number = string(jsontext.Text(s))
	}
	switch t.kind {
	case kindBool:
		switch s[0] {
		case 't':
			return append(b, 1), nil
		case 'f':
			return append(b, 0), nil
		}
	case kindInt:
		if x, err := strconv.ParseInt(number, 10, t.bits); err == nil {
			return appendInt(b, x), nil
		}
	case kindUint:
		if x, err := strconv.ParseUint(number, 10, t.bits); err == nil {
			return appendUint(b, x), nil
		}
	case kindFloat:
		if x, err := strconv.ParseFloat(number, t.bits); err == nil {
			return appendFloat(b, x), nil
		}
	case kindString:
		if quoted {
			return appendText(b, jsontext.Text(s)), nil
		}
	case kindBytes:
		if quoted {
			return appendBytes(b, jsontext.Text(s))
		}
	}
	return nil, faultf("is %s; want %s", jsontext.What(s), wanted(t))
}

func wanted(t *Type) string {
	switch t.kind {
	case kindBool:
		return "true or false"
	case kindInt:
		return fmt.Sprintf("an integer of %d bits", t.bits)
	case kindUint:
		return fmt.Sprintf("an integer of %d bits that is not negative", t.bits)
	case kindFloat:
		return "a number"
	case kindComplex:
		return "an array of two numbers, [real, imaginary]"
	case kindBytes, kindGob, kindBinary:
		return "base64 text"
	case kindBig:
		return "an integer, as a number or a text"
	case kindTime:
		return "a time such as 2026-01-31T12:00:00Z"
	case kindArray:
		return fmt.Sprintf("an array of %d", t.length)
	case kindSlice:
		return "an array"
	case kindMap, kindStruct, kindRecord:
		return "an object"
	}
	return "a text"
}

func appendBytes(b, encoded []byte) ([]byte, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(raw, encoded)
	if err != nil {
		return nil, faultf("is not base64 text: bytes are written in standard base64 with padding")
	}
	return appendText(b, raw[:n]), nil
}

func (w *Writer) appendSlice(b []byte, t *Type, s []byte, depth int) ([]byte, error) {
	if s[0] == 'n' {
		return append(b, 0), nil
	}
	if s[0] != '[' {
		return nil, faultf("is %s; want an array of %s", jsontext.What(s), t.elem)
	}
	b = appendUint(b, uint64(jsontext.Count(s)))
	i := 0
	err := jsontext.Each(s, func(_, v []byte) (err error) {
		b, err = w.appendValue(b, t.elem, v, depth+1)
		i++
		return under(err, "["+strconv.Itoa(i-1)+"]")
	})
	return b, err
}

func (w *Writer) appendMap(b []byte, t *Type, s []byte, depth int) ([]byte, error) {
	if s[0] == 'n' {
		return append(b, 0), nil
	}
	if s[0] != '{' {
		return nil, faultf("is %s; want an object", jsontext.What(s))
	}
	b = appendUint(b, uint64(jsontext.Count(s)))
	err := jsontext.Each(s, func(k, v []byte) (err error) {
		step := "." + string(jsontext.Text(k))
		if b, err = w.appendValue(b, t.key, k, depth+1); err != nil {
			return under(err, step)
		}
		if t.kind == kindRecord {
			b, err = w.appendKey(b, t, jsontext.Text(k), v, depth+1)
		} else {
			b, err = w.appendValue(b, t.elem, v, depth+1)
		}
		return under(err, step)
	})
	return b, err
}

// appendKey writes the value of one key of a record: an interface that holds
// the type described for the key.
func (w *Writer) appendKey(b []byte, t *Type, name, v []byte, depth int) ([]byte, error) {
	f := t.field(name)
	if f < 0 {
		return nil, faultf("is not one of its keys: %s", t.members())
	}
	if v[0] == 'n' {
		return append(b, 0), nil // a nil interface
	}
	of := t.fields[f].Type
	return w.appendHeld(b, of, v, depth)
}

// appendHeld writes an interface that holds a value of type of: name, type id,
// byte count, and the value as if at the top.
func (w *Writer) appendHeld(b []byte, of *Type, v []byte, depth int) ([]byte, error) {
	b = appendInt(appendText(b, of.goName), of.id)
	var held []byte
	if of.kind != kindStruct {
		held = append(held, 0)
	}
	held, err := w.appendValue(held, of, v, depth)
	if err != nil {
		return nil, err
	}
	return appendText(b, held), nil
}

// The types that a value of unknown type is sent as.
var (
	anyBool   = &Type{kind: kindBool, goName: "bool", id: idBool}
	anyInt    = &Type{kind: kindInt, goName: "int64", bits: 64, id: idInt}
	anyFloat  = &Type{kind: kindFloat, goName: "float64", bits: 64, id: idFloat}
	anyString = &Type{kind: kindString, goName: "string", id: idString}
)

// The names that gob gives to the types of any object and any array, if a plugin
// registers them.
const (
	anyObject = "map[string]interface {}"
	anyArray  = "[]interface {}"
)

// appendAny writes an interface by what the JSON value looks like: bool, int64,
// float64, string or []string, which every Go program can read back, or a
// registered type that is named.
func (w *Writer) appendAny(b, s []byte, depth int) ([]byte, error) {
	var of *Type
	switch s[0] {
	case 'n':
		return append(b, 0), nil
	case 't', 'f':
		of = anyBool
	case '"':
		of = anyString
	case '[':
		if of = w.table.registered[anyArray]; of == nil {
			return appendTexts(b, s)
		}
	case '{':
		if name, value := tagged(s); name != nil {
			return w.appendNamed(b, name, value, depth)
		}
		if of = w.table.registered[anyObject]; of == nil {
			return nil, faultf("is an object: nested values of unknown type cannot be sent to a plugin; describe the type and the name under which it is registered, or write flat values")
		}
	default:
		of = anyInt
		if strings.ContainsAny(string(s), ".eE") {
			of = anyFloat
		}
	}
	return w.appendHeld(b, of, s, depth+1)
}

// tagged returns the parts of {"@type": name, "value": value}; nil when s is
// another object.
func tagged(s []byte) (name, value []byte) {
	value = []byte("null")
	others := false
	_ = jsontext.Each(s, func(k, v []byte) error { // no error is made
		switch {
		case string(k) == `"@type"` && v[0] == '"':
			name = v
		case string(k) == `"value"`:
			value = v
		default:
			others = true
		}
		return nil
	})
	if name == nil || others {
		return nil, nil
	}
	return jsontext.Text(name), value
}

// appendNamed writes an interface that holds a registered type.
func (w *Writer) appendNamed(b, name, value []byte, depth int) ([]byte, error) {
	of := w.table.registered[string(name)]
	if of == nil {
		return nil, faultf("names the type %q, which is not registered under describe.types", cut(name))
	}
	b, err := w.appendHeld(b, of, value, depth+1)
	return b, under(err, ".value")
}

// cut keeps a text of the caller short in a fault.
func cut(s []byte) []byte { return s[:min(len(s), 100)] }

func appendTexts(b, s []byte) ([]byte, error) {
	b = appendInt(appendText(b, "[]string"), stringsID)
	held := appendUint([]byte{0}, uint64(jsontext.Count(s)))
	err := jsontext.Each(s, func(_, v []byte) error {
		if v[0] != '"' {
			return faultf("holds %s: an array of unknown type may hold texts only", jsontext.What(v))
		}
		held = appendText(held, jsontext.Text(v))
		return nil
	})
	return appendText(b, held), err
}

// appendStruct writes the fields in the order of their numbers, leaving out zero
// values as gob does.
func (w *Writer) appendStruct(b []byte, t *Type, s []byte, depth int) ([]byte, error) {
	if s[0] == 'n' {
		return append(b, 0), nil
	}
	if s[0] != '{' {
		return nil, faultf("is %s; want an object with %s", jsontext.What(s), t.members())
	}
	var few [16][]byte
	given := few[:]
	if len(t.fields) > len(few) {
		given = make([][]byte, len(t.fields))
	}
	err := jsontext.Each(s, func(k, v []byte) error {
		i := t.field(jsontext.Text(k))
		if i < 0 {
			return under(faultf("is not a field; it has %s", t.members()), "."+string(jsontext.Text(k)))
		}
		given[i] = v
		return nil
	})
	if err != nil {
		return nil, err
	}
	last := -1
	for i, f := range t.fields {
		if given[i] == nil || given[i][0] == 'n' {
			continue
		}
		b = appendUint(b, uint64(i-last))
		last = i
		if b, err = w.appendValue(b, f.Type, given[i], depth+1); err != nil {
			return nil, under(err, "."+f.Name)
		}
	}
	return append(b, 0), nil
}

// field returns the index of the field or key that name means: itself, or in
// other capitals; -1 when there is none.
func (t *Type) field(name []byte) int {
	i, ok := slices.BinarySearchFunc(t.fields, name, func(f Field, n []byte) int { return strings.Compare(f.Name, string(n)) })
	if ok {
		return i
	}
	return slices.IndexFunc(t.fields, func(f Field) bool { return strings.EqualFold(f.Name, string(name)) })
}

// members lists the names a person may write.
func (t *Type) members() string {
	if len(t.fields) == 0 {
		return "no fields"
	}
	return strings.Join(t.Members(), ", ")
}
