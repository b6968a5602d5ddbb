package starlark

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	startime "go.starlark.net/lib/time"
	star "go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

// encoder appends Starlark values as JSON, keys in their own order.
type encoder struct {
	out []byte
	max int // bytes
}

// encodeJSON appends v to out. What has no JSON form is an error, as is more than
// max bytes and a cycle (by its depth).
func encodeJSON(out []byte, v star.Value, max int) ([]byte, error) {
	e := encoder{out: out, max: len(out) + max}
	if err := e.value(v, 1); err != nil {
		return out, err
	}
	if len(e.out) > e.max {
		return out, e.tooLarge()
	}
	return e.out, nil
}

func (e *encoder) tooLarge() error {
	return fmt.Errorf("is more than %d bytes as JSON", e.max)
}

func (e *encoder) value(v star.Value, depth int) error {
	if depth > depthMax {
		return fmt.Errorf("is nested more than %d levels deep, or contains itself", depthMax)
	}
	if len(e.out) > e.max {
		return e.tooLarge()
	}
	switch v := v.(type) {
	case star.NoneType:
		e.out = append(e.out, "null"...)
	case star.Bool:
		e.out = strconv.AppendBool(e.out, bool(v))
	case star.Int:
		return e.integer(v)
	case star.Float:
		return e.float(float64(v))
	case star.String:
		return e.text(string(v))
	case *star.Dict:
		return e.dict(v, depth)
	case *star.List:
		return e.sequence(v, depth)
	case star.Tuple:
		return e.sequence(v, depth)
	case *starlarkstruct.Struct:
		return e.structure(v, depth)
	case startime.Time:
		return e.text(v.String())
	case startime.Duration:
		return e.text(v.String())
	case star.Bytes:
		return fmt.Errorf("bytes have no JSON form; make a text or a list of them")
	case star.Iterable:
		return e.iterable(v, depth)
	default:
		return fmt.Errorf("a %s has no JSON form", v.Type())
	}
	return nil
}

func (e *encoder) integer(v star.Int) error {
	if i, ok := v.Int64(); ok {
		e.out = strconv.AppendInt(e.out, i, 10)
		return nil
	}
	const bitsPerDigit = 3.33
	b := v.BigInt()
	if float64(b.BitLen()) > digitsMax*bitsPerDigit {
		return fmt.Errorf("an integer has more than %d digits", digitsMax)
	}
	e.out = b.Append(e.out, 10)
	return nil
}

// float keeps a float a float: 1.0 is written with its point.
func (e *encoder) float(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%v has no JSON form", f)
	}
	start := len(e.out)
	e.out = strconv.AppendFloat(e.out, f, 'g', -1, 64)
	if !strings.ContainsAny(string(e.out[start:]), ".e") {
		e.out = append(e.out, ".0"...)
	}
	return nil
}

func (e *encoder) text(s string) error {
	if len(e.out)+len(s) > e.max {
		return e.tooLarge()
	}
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	e.out = append(e.out, '"')
	if plain {
		e.out = append(append(e.out, s...), '"')
		return nil
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("text %q is not UTF-8", shorten(s))
	}
	e.escape(s)
	e.out = append(e.out, '"')
	return nil
}

func (e *encoder) escape(s string) {
	const hex = "0123456789abcdef"
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			e.out = append(e.out, '\\', c)
		case c == '\n':
			e.out = append(e.out, '\\', 'n')
		case c == '\r':
			e.out = append(e.out, '\\', 'r')
		case c == '\t':
			e.out = append(e.out, '\\', 't')
		case c < ' ':
			e.out = append(e.out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			e.out = append(e.out, c)
		}
	}
}

func (e *encoder) dict(d *star.Dict, depth int) error {
	e.out = append(e.out, '{')
	first := true
	for k, v := range d.Entries() {
		key, ok := k.(star.String)
		if !ok {
			return fmt.Errorf("a dict has the key %s; JSON wants texts, use str()", shorten(describe(k)))
		}
		if err := e.member(string(key), v, first, depth); err != nil {
			return err
		}
		first = false
	}
	e.out = append(e.out, '}')
	return nil
}

// describe names a key without writing out what may be large.
func describe(v star.Value) string {
	switch v := v.(type) {
	case star.Int, star.Bool, star.Float, star.NoneType:
		return v.String()
	}
	return "of type " + v.Type()
}

func (e *encoder) member(key string, v star.Value, first bool, depth int) error {
	if !first {
		e.out = append(e.out, ',')
	}
	if err := e.text(key); err != nil {
		return err
	}
	e.out = append(e.out, ':')
	if err := e.value(v, depth+1); err != nil {
		return within(key, err)
	}
	return nil
}

// within says under which key something is wrong, outermost first.
func within(key string, err error) error {
	const longest = 500 // of the whole path: keys are the plugin's
	if text := err.Error(); len(text) > longest {
		return err
	}
	return fmt.Errorf("%s: %w", shorten(key), err)
}

func (e *encoder) sequence(items star.Indexable, depth int) error {
	e.out = append(e.out, '[')
	for i := range items.Len() {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.value(items.Index(i), depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) iterable(items star.Iterable, depth int) error {
	e.out = append(e.out, '[')
	iter := items.Iterate()
	defer iter.Done()
	var v star.Value
	for i := 0; iter.Next(&v); i++ {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.value(v, depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) structure(s *starlarkstruct.Struct, depth int) error {
	e.out = append(e.out, '{')
	for i, name := range s.AttrNames() {
		v, err := s.Attr(name)
		if err != nil {
			return err
		}
		if err := e.member(name, v, i == 0, depth); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

var _ json.Marshaler = rawValue{}

// rawValue marshals a Starlark value, for schemas.
type rawValue struct{ star.Value }

// MarshalJSON writes the value, or null when it has no JSON form.
func (v rawValue) MarshalJSON() ([]byte, error) {
	const most = 4 << 10 // a default in a schema
	out, err := encodeJSON(nil, v.Value, most)
	if err != nil {
		return []byte("null"), nil
	}
	return out, nil
}
