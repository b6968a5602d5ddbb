// Package jsontext walks JSON text without decoding it, and writes it: what the
// two transcoders of the adapter share. It owns nothing. The walking functions
// take text that json.Valid has accepted and need not look for faults; i is
// an index into the text.
package jsontext

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// Space returns the index of the first byte from i on that is not white space.
func Space(s []byte, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
		i++
	}
	return i
}

// Skip returns the index after the value that begins at i.
func Skip(s []byte, i int) int {
	switch s[i] {
	case '"':
		return skipText(s, i)
	case '{', '[':
		depth := 0
		for ; i < len(s); i++ {
			switch s[i] {
			case '"':
				i = skipText(s, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return i
	}
	for i < len(s) && s[i] != ',' && s[i] != '}' && s[i] != ']' && s[i] > ' ' {
		i++
	}
	return i
}

func skipText(s []byte, i int) int {
	for i++; i < len(s); i++ {
		if i += plain(s[i:]); i >= len(s) || s[i] == '"' {
			break
		}
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// Each calls f with every member of the object or element of the array s, in
// order; key is nil for an array.
func Each(s []byte, f func(key, value []byte) error) error {
	object := s[0] == '{'
	for i := Space(s, 1); i < len(s) && s[i] != '}' && s[i] != ']'; {
		var key []byte
		if object {
			end := Skip(s, i)
			key = s[i:end]
			i = Space(s, Space(s, end)+1) // over the colon
		}
		end := Skip(s, i)
		if err := f(key, s[i:end]); err != nil {
			return err
		}
		if i = Space(s, end); i < len(s) && s[i] == ',' {
			i = Space(s, i+1)
		}
	}
	return nil
}

// Count returns how many members or elements s has.
func Count(s []byte) (n int) {
	_ = Each(s, func(_, _ []byte) error { n++; return nil })
	return n
}

// Text returns the content of the JSON string s, which it may share.
func Text(s []byte) []byte {
	if bytes.IndexByte(s, '\\') < 0 {
		return s[1 : len(s)-1]
	}
	var out string
	_ = json.Unmarshal(s, &out) // valid, as all of the text is
	return []byte(out)
}

// What names the kind of the JSON value s for an error text.
func What(s []byte) string {
	switch s[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a text"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

const hexDigits = "0123456789abcdef"

// AppendQuoted writes s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func AppendQuoted(b, s []byte) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' {
				i += plain(s[i:])
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\t':
				b = append(b, '\\', 't')
			case '\r':
				b = append(b, '\\', 'r')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(append(b, s[start:i]...), "\uFFFD"...)
			start = i + 1
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

// AppendFloat writes f of that many bits as JSON; what JSON has no number for becomes text, as
// protobuf's JSON mapping has it.
func AppendFloat(b []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, bits)
}
