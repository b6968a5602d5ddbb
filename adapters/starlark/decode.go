package starlark

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	star "go.starlark.net/starlark"
)

const (
	// depthMax bounds nesting in both directions: the conversions are recursive,
	// and no real document comes near.
	depthMax = 100
	// digitsMax bounds one integer: converting to and from decimal is quadratic.
	digitsMax = 10_000
)

// scanner reads JSON text straight into Starlark values. Texts without escapes
// share the memory of the input.
type scanner struct {
	in  string
	pos int
}

// decodeJSON reads exactly one JSON value.
func decodeJSON(text string) (star.Value, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("is not UTF-8")
	}
	s := scanner{in: text}
	v, err := s.value(1)
	if err != nil {
		return nil, err
	}
	if c := s.peek(); c != 0 || s.pos < len(s.in) {
		return nil, s.wrong("found %q after the end of the value", c)
	}
	return v, nil
}

func (s *scanner) wrong(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", s.pos, fmt.Sprintf(format, args...))
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.in); s.pos++ {
		switch c := s.in[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) value(depth int) (star.Value, error) {
	if depth > depthMax {
		return nil, s.wrong("is nested more than %d levels deep", depthMax)
	}
	switch c := s.peek(); {
	case c == '"':
		text, err := s.text()
		return star.String(text), err
	case c == '{':
		return s.object(depth)
	case c == '[':
		return s.list(depth)
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case s.word("null"):
		return star.None, nil
	case s.word("true"):
		return star.True, nil
	case s.word("false"):
		return star.False, nil
	case s.pos == len(s.in):
		return nil, s.wrong("ends where a value should begin")
	default:
		return nil, s.wrong("found %q where a value should begin", c)
	}
}

func (s *scanner) word(w string) bool {
	if !strings.HasPrefix(s.in[s.pos:], w) {
		return false
	}
	s.pos += len(w)
	return true
}

func (s *scanner) object(depth int) (star.Value, error) {
	s.pos++
	d := new(star.Dict)
	if s.peek() == '}' {
		s.pos++
		return d, nil
	}
	for {
		if s.peek() != '"' {
			return nil, s.wrong("want a key in double quotes")
		}
		key, err := s.text()
		if err != nil {
			return nil, err
		}
		if s.peek() != ':' {
			return nil, s.wrong("want a colon after the key")
		}
		s.pos++
		v, err := s.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := d.SetKey(star.String(key), v); err != nil {
			return nil, err
		}
		if done, err := s.next('}'); done || err != nil {
			return d, err
		}
	}
}

func (s *scanner) list(depth int) (star.Value, error) {
	s.pos++
	var items []star.Value
	if s.peek() == ']' {
		s.pos++
		return star.NewList(nil), nil
	}
	for {
		v, err := s.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
		if done, err := s.next(']'); done || err != nil {
			return star.NewList(items), err
		}
	}
}

// next takes a comma, or the end of the object or list.
func (s *scanner) next(end byte) (done bool, err error) {
	switch c := s.peek(); c {
	case ',':
		s.pos++
		return false, nil
	case end:
		s.pos++
		return true, nil
	default:
		return false, s.wrong("want a comma or %q", end)
	}
}

func (s *scanner) text() (string, error) {
	start := s.pos + 1
	for i := start; i < len(s.in); i++ {
		switch c := s.in[i]; {
		case c == '"':
			s.pos = i + 1
			return s.in[start:i], nil
		case c == '\\':
			return s.escaped(start, i)
		case c < ' ':
			s.pos = i
			return "", s.wrong("a text holds a control character")
		}
	}
	s.pos = len(s.in)
	return "", s.wrong("a text has no closing quote")
}

// escaped reads a text whose first escape stands at i.
func (s *scanner) escaped(start, i int) (string, error) {
	for ; i < len(s.in); i++ {
		switch s.in[i] {
		case '\\':
			i++
		case '"':
			var text string
			if err := json.Unmarshal([]byte(s.in[start-1:i+1]), &text); err != nil {
				return "", s.wrong("a text holds what JSON does not allow")
			}
			s.pos = i + 1
			return text, nil
		}
	}
	s.pos = len(s.in)
	return "", s.wrong("a text has no closing quote")
}

// digits skips digits and returns how many there were.
func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.in) && s.in[s.pos] >= '0' && s.in[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - start
}

// at reports whether the next byte is one of those given, without skipping space.
func (s *scanner) at(bytes string) bool {
	return s.pos < len(s.in) && strings.IndexByte(bytes, s.in[s.pos]) >= 0
}

func (s *scanner) number() (star.Value, error) {
	start := s.pos
	if s.at("-") {
		s.pos++
	}
	zero := s.at("0")
	whole := s.digits()
	if whole == 0 || zero && whole > 1 {
		return nil, s.wrong("is not a number as JSON writes it")
	}
	float := false
	if s.at(".") {
		float = true
		s.pos++
		if s.digits() == 0 {
			return nil, s.wrong("want a digit after the point")
		}
	}
	if s.at("eE") {
		float = true
		s.pos++
		if s.at("+-") {
			s.pos++
		}
		if s.digits() == 0 {
			return nil, s.wrong("want a digit in the exponent")
		}
	}
	text := s.in[start:s.pos]
	if float {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, s.wrong("%s is too large for a float", shorten(text))
		}
		return star.Float(f), nil
	}
	return s.integer(text, whole)
}

func (s *scanner) integer(text string, digits int) (star.Value, error) {
	if digits <= 18 {
		i, err := strconv.ParseInt(text, 10, 64)
		return star.MakeInt64(i), err
	}
	if digits > digitsMax {
		return nil, s.wrong("an integer has more than %d digits", digitsMax)
	}
	i, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, s.wrong("is not a number")
	}
	return star.MakeBigInt(i), nil
}

// shorten keeps quoted input short in an error.
func shorten(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
