package gobwire

import (
	"encoding/base64"
	"math/big"
	"strconv"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
)

// Values that are no plain scalars: complex numbers and arrays, and those of Go
// types that encode themselves, which are bytes to gob.

// appendArray writes an array, whose elements are always there.
func (w *Writer) appendArray(b []byte, t *Type, s []byte, depth int) ([]byte, error) {
	switch {
	case s[0] == 'n':
		s = nil
	case s[0] != '[' || jsontext.Count(s) != t.length:
		return nil, faultf("is %s; want %s", jsontext.What(s), wanted(t))
	}
	b = appendUint(b, uint64(t.length))
	if s == nil {
		for range t.length {
			var err error
			if b, err = w.appendValue(b, t.elem, []byte("null"), depth+1); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	i := 0
	err := jsontext.Each(s, func(_, v []byte) (err error) {
		b, err = w.appendValue(b, t.elem, v, depth+1)
		i++
		return under(err, "["+strconv.Itoa(i-1)+"]")
	})
	return b, err
}

func appendComplex(b []byte, t *Type, s []byte) ([]byte, error) {
	if s[0] == 'n' {
		return append(b, 0, 0), nil
	}
	if s[0] != '[' || jsontext.Count(s) != 2 {
		return nil, faultf("is %s; want %s", jsontext.What(s), wanted(t))
	}
	part := &Type{kind: kindFloat, bits: t.bits}
	err := jsontext.Each(s, func(_, v []byte) (err error) {
		b, err = appendScalar(b, part, v)
		return err
	})
	return b, err
}

// appendEncoded writes what the type's own method would have made.
func appendEncoded(b []byte, t *Type, s []byte) ([]byte, error) {
	text := s
	switch {
	case s[0] == '"':
		text = jsontext.Text(s)
	case t.kind != kindBig || s[0] == 'n' || s[0] == '{' || s[0] == '[':
		return nil, faultf("is %s; want %s", jsontext.What(s), wanted(t))
	}
	switch t.kind {
	case kindTime:
		if at, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
			raw, err := at.MarshalBinary()
			if err != nil {
				return nil, faultf("is a time that Go cannot write: %v", err)
			}
			return appendText(b, raw), nil
		}
	case kindBig:
		// Two and a half digits to a byte, as many as the reader writes.
		if len(text) > bigBytesMax*5/2 {
			return nil, faultf("has %d digits; at most %d", len(text), bigBytesMax*5/2)
		}
		if n, ok := new(big.Int).SetString(string(text), 10); ok {
			raw, err := n.GobEncode()
			return appendText(b, raw), err
		}
	default:
		return appendBytes(b, text)
	}
	return nil, faultf("is %s; want %s", jsontext.What(s), wanted(t))
}

// opaque reads a value that its own Go type encoded: a time and a number by their
// description, text as text, anything else as base64.
func (v valuer) opaque(out []byte, wt *wireType, of *Type) ([]byte, error) {
	b, err := v.r.bytes()
	if err != nil {
		return nil, err
	}
	switch {
	case wt.kind == wireTextMarshaler:
		return jsontext.AppendQuoted(out, b), nil
	case of != nil && of.kind == kindTime, of == nil && wt.name == "Time":
		var at time.Time
		if at.UnmarshalBinary(b) == nil {
			return append(at.AppendFormat(append(out, '"'), time.RFC3339Nano), '"'), nil
		}
	case of != nil && of.kind == kindBig && len(b) <= bigBytesMax:
		var n big.Int
		if n.GobDecode(b) == nil {
			return append(n.Append(append(out, '"'), 10), '"'), nil
		}
	}
	return append(base64.StdEncoding.AppendEncode(append(out, '"'), b), '"'), nil
}
