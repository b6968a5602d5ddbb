package logs

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A line of JSON is scanned by hand, once, without allocating for what is not
// lifted: encoding/json costs several times as much as all the rest of a line's
// way. FuzzLift holds the scanner against encoding/json.

// depthMax is how deep objects and arrays may nest; deeper lines stay text.
const depthMax = 32

// fieldsMax keys are looked at; lines with more stay text.
const fieldsMax = 128

// member is one key of the object and where its value stands.
type member struct{ key, value string }

// liftJSON takes message, level and time from an object that has a message. Of
// the usual keys only values of the usual type count, whatever a plugin prints.
func liftJSON(l *plugin.LogLine, now time.Time) {
	var room [16]member
	members, ok := scanObject(l.Message, room[:0])
	if !ok {
		return
	}
	message, has := "", false
	taken := [3]int{-1, -1, -1} // members that are not fields
	for i, m := range members {
		switch m.key {
		case "message", "msg", "@message":
			if text, ok := unquote(m.value); ok && !has {
				message, has, taken[0] = text, true, i
			}
		case "level", "lvl", "severity", "@level":
			if text, ok := unquote(m.value); ok && l.Level == "" {
				if l.Level = level(text); l.Level != "" {
					taken[1] = i
				}
			}
		case "time", "ts", "timestamp", "@timestamp":
			if taken[2] < 0 && liftTime(l, m.value, now) {
				taken[2] = i
			}
		}
	}
	if !has {
		return // no message: the whole line is
	}
	l.Fields = fields(members, taken)
	l.Message = message
}

func liftTime(l *plugin.LogLine, value string, now time.Time) bool {
	if text, ok := unquote(value); ok {
		return setTime(l, text, now)
	}
	seconds, err := strconv.ParseFloat(value, 64) // zap
	if err != nil || math.Abs(seconds-float64(now.Unix())) > timeSpread.Seconds() {
		return false
	}
	whole, part := math.Modf(seconds)
	l.Time = time.Unix(int64(whole), int64(part*1e6)*1e3).UTC()
	return true
}

// fields is the object without what was taken; nil when nothing is left.
func fields(members []member, taken [3]int) plugin.RawJSON {
	size := 1
	for i, m := range members {
		if i != taken[0] && i != taken[1] && i != taken[2] {
			size += len(m.key) + len(m.value) + 8
		}
	}
	if size == 1 {
		return nil
	}
	dst := append(make([]byte, 0, size), '{')
	for i, m := range members {
		if i == taken[0] || i == taken[1] || i == taken[2] {
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = append(appendJSON(dst, m.key), ':')
		dst = append(dst, m.value...)
	}
	return append(dst, '}')
}

// appendJSON encodes a string that is seldom strange.
func appendJSON(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			text, _ := json.Marshal(s) // a string always marshals
			return append(dst, text...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

// unquote returns a JSON string's text; false when value is none.
func unquote(value string) (string, bool) {
	if value == "" || value[0] != '"' {
		return "", false
	}
	if inner := value[1 : len(value)-1]; strings.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var text string
	err := json.Unmarshal([]byte(value), &text)
	return text, err == nil
}

// scanObject splits one object, and only that, into its members. It accepts
// nothing that encoding/json would not.
func scanObject(s string, members []member) ([]member, bool) {
	i := space(s, 1)
	if i < len(s) && s[i] == '}' {
		return members, space(s, i+1) == len(s)
	}
	for len(members) < fieldsMax {
		from := i
		if i = scanString(s, i); i < 0 {
			return nil, false
		}
		key, ok := unquote(s[from:i])
		if i = space(s, i); !ok || i >= len(s) || s[i] != ':' {
			return nil, false
		}
		from = space(s, i+1)
		if i = scanValue(s, from, 1); i < 0 {
			return nil, false
		}
		members = append(members, member{key, s[from:i]})
		if i = space(s, i); i >= len(s) {
			return nil, false
		}
		switch s[i] {
		case '}':
			return members, space(s, i+1) == len(s)
		case ',':
			i = space(s, i+1)
		default:
			return nil, false
		}
	}
	return nil, false
}

func space(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n') {
		i++
	}
	return i
}

// scanValue returns where the value that begins at i ends, -1 when it is none.
func scanValue(s string, i, depth int) int {
	if i >= len(s) || depth > depthMax {
		return -1
	}
	switch c := s[i]; {
	case c == '"':
		return scanString(s, i)
	case c == '{':
		return scanNested(s, i, depth, true)
	case c == '[':
		return scanNested(s, i, depth, false)
	case c == '-' || c >= '0' && c <= '9':
		return scanNumber(s, i)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(s[i:], word) {
			return i + len(word)
		}
	}
	return -1
}

func scanNested(s string, i, depth int, object bool) int {
	last := byte(']')
	if object {
		last = '}'
	}
	if i = space(s, i+1); i < len(s) && s[i] == last {
		return i + 1
	}
	for {
		if object {
			if i = scanString(s, i); i < 0 {
				return -1
			}
			if i = space(s, i); i >= len(s) || s[i] != ':' {
				return -1
			}
			i = space(s, i+1)
		}
		if i = scanValue(s, i, depth+1); i < 0 {
			return -1
		}
		if i = space(s, i); i >= len(s) {
			return -1
		}
		switch s[i] {
		case last:
			return i + 1
		case ',':
			i = space(s, i+1)
		default:
			return -1
		}
	}
}

func scanString(s string, i int) int {
	if i >= len(s) || s[i] != '"' {
		return -1
	}
	for i++; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i++; i >= len(s) {
				return -1
			}
			switch s[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(s) || !hex(s[i]) {
						return -1
					}
				}
			default:
				return -1
			}
		}
	}
	return -1
}

func hex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func scanNumber(s string, i int) int {
	if s[i] == '-' {
		i++
	}
	from := i
	if i = digits(s, i); i == from || s[from] == '0' && i > from+1 {
		return -1
	}
	if i < len(s) && s[i] == '.' {
		from = i + 1
		if i = digits(s, from); i == from {
			return -1
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		from = i
		if i = digits(s, from); i == from {
			return -1
		}
	}
	return i
}

func digits(s string, i int) int {
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return i
}
