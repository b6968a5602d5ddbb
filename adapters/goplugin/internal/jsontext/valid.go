package jsontext

import (
	"encoding/binary"
	"math/bits"
)

// nestMax ends the recursion of Valid: deeper text is not accepted. The
// transcoders stop far earlier.
const nestMax = 1000

// Valid reports that s is one JSON value that nests at most 1000 deep. It accepts
// what json.Valid accepts, in a fraction of its time where texts are long.
func Valid(s []byte) bool {
	i, ok := value(s, Space(s, 0), 0)
	return ok && Space(s, i) == len(s)
}

// value checks the value at i and returns where it ends.
func value(s []byte, i, depth int) (end int, ok bool) {
	if i >= len(s) || depth > nestMax {
		return i, false
	}
	switch c := s[i]; {
	case c == '"':
		return quoted(s, i)
	case c == '{' || c == '[':
		return members(s, i, depth)
	case c == '-' || c >= '0' && c <= '9':
		return number(s, i)
	case c == 't':
		return word(s, i, "true")
	case c == 'f':
		return word(s, i, "false")
	}
	return word(s, i, "null")
}

func word(s []byte, i int, want string) (int, bool) {
	end := i + len(want)
	return end, end <= len(s) && string(s[i:end]) == want
}

// members checks the object or array at i.
func members(s []byte, i, depth int) (end int, ok bool) {
	object, closing := s[i] == '{', s[i]+2 // ] and } are two after [ and {
	if i = Space(s, i+1); i < len(s) && s[i] == closing {
		return i + 1, true
	}
	for {
		if object {
			if i >= len(s) || s[i] != '"' {
				return i, false
			}
			if i, ok = quoted(s, i); !ok {
				return i, false
			}
			if i = Space(s, i); i >= len(s) || s[i] != ':' {
				return i, false
			}
			i = Space(s, i+1)
		}
		if i, ok = value(s, i, depth+1); !ok {
			return i, false
		}
		if i = Space(s, i); i >= len(s) {
			return i, false
		}
		if s[i] == closing {
			return i + 1, true
		}
		if s[i] != ',' {
			return i, false
		}
		i = Space(s, i+1)
	}
}

func quoted(s []byte, i int) (end int, ok bool) {
	for i++; i < len(s); i++ {
		if i += plain(s[i:]); i >= len(s) {
			break
		}
		switch c := s[i]; {
		case c == '"':
			return i + 1, true
		case c < 0x20:
			return i, false
		case c == '\\':
			if i, ok = escape(s, i); !ok {
				return i, false
			}
		}
	}
	return i, false
}

// escape checks the escape at i and returns its last byte.
func escape(s []byte, i int) (last int, ok bool) {
	if i++; i >= len(s) {
		return i, false
	}
	switch s[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i, true
	case 'u':
		for n := range 4 {
			if i+1+n >= len(s) || !isHex(s[i+1+n]) {
				return i, false
			}
		}
		return i + 4, true
	}
	return i, false
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func number(s []byte, i int) (end int, ok bool) {
	if s[i] == '-' {
		i++
	}
	switch {
	case i >= len(s) || s[i] < '0' || s[i] > '9':
		return i, false
	case s[i] == '0':
		i++
	default:
		i = digits(s, i)
	}
	if i < len(s) && s[i] == '.' {
		from := i + 1
		if i = digits(s, from); i == from {
			return i, false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		from := i
		if i = digits(s, from); i == from {
			return i, false
		}
	}
	return i, true
}

func digits(s []byte, i int) int {
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return i
}

// plain returns how many bytes s begins with that are ASCII and stand for
// themselves in a JSON string. It looks at eight at a time.
func plain(s []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(s)-i >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(s[i:])
		quote, slash := x^ones*'"', x^ones*'\\'
		// The top bit of each byte that is below 0x20, a quote, a backslash or not
		// ASCII; bytes above a hit may be wrong, the lowest is right.
		hits := (x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash | x
		if hits &= tops; hits != 0 {
			return i + bits.TrailingZeros64(hits)/8
		}
	}
	for i < len(s) && s[i] >= 0x20 && s[i] < 0x80 && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}
