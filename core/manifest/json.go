package manifest

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// jsonScanner reads JSON into nodes, so that faults have lines there too.
type jsonScanner struct {
	data      []byte
	pos       int
	line      int
	lineStart int
}

// jsonDocuments reads one JSON value after another until the end of data.
func jsonDocuments(data []byte, each func(*node) bool) *plugin.Fault {
	s := &jsonScanner{data: data, line: 1}
	if !utf8.Valid(data) {
		return &plugin.Fault{Detail: "is not UTF-8; save it as UTF-8"}
	}
	for {
		s.space()
		if s.pos == len(data) {
			return nil
		}
		n, fault := s.value(1)
		if fault != nil {
			return fault
		}
		if !each(n) {
			return nil
		}
	}
}

// jsonDocument reads exactly one JSON value.
func jsonDocument(data []byte) (*node, error) {
	var one *node
	count := 0
	fault := jsonDocuments(data, func(n *node) bool { one = n; count++; return count < 2 })
	switch {
	case fault != nil:
		return nil, fmt.Errorf("is not JSON: %s", fault.Detail)
	case count != 1:
		return nil, fmt.Errorf("is not one JSON value")
	}
	return one, nil
}

func (s *jsonScanner) fault(format string, args ...any) *plugin.Fault {
	return &plugin.Fault{Line: s.line, Column: s.pos - s.lineStart + 1, Detail: fmt.Sprintf(format, args...)}
}

func (s *jsonScanner) space() {
	for ; s.pos < len(s.data); s.pos++ {
		switch s.data[s.pos] {
		case '\n':
			s.line, s.lineStart = s.line+1, s.pos+1
		case ' ', '\t', '\r':
		default:
			return
		}
	}
}

// peek returns the next byte after white space, 0 at the end.
func (s *jsonScanner) peek() byte {
	s.space()
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

func (s *jsonScanner) value(depth int) (*node, *plugin.Fault) {
	if depth > depthMax {
		return nil, s.fault(tooDeep)
	}
	c := s.peek()
	n := &node{line: s.line, column: s.pos - s.lineStart + 1, size: 1, depth: 1}
	switch {
	case c == '{':
		return n, s.object(n, depth)
	case c == '[':
		return n, s.list(n, depth)
	case c == '"':
		value, fault := s.string()
		n.kind, n.text = text, value
		return n, fault
	case c == '-' || c >= '0' && c <= '9':
		return n, s.number(n)
	}
	for _, word := range [...]struct {
		text string
		kind kind
	}{{"null", null}, {"true", boolean}, {"false", boolean}} {
		if end := s.pos + len(word.text); end <= len(s.data) && string(s.data[s.pos:end]) == word.text {
			s.pos = end
			n.kind, n.text, n.written = word.kind, word.text, word.text
			return n, nil
		}
	}
	if c == 0 && s.pos == len(s.data) {
		return nil, s.fault("ends too early; a value is missing")
	}
	return nil, s.fault("found %q where a value should begin", c)
}

func (s *jsonScanner) object(n *node, depth int) *plugin.Fault {
	n.kind = object
	s.pos++
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.fault("found %s where a key in double quotes should begin", s.found())
		}
		f := field{line: s.line, column: s.pos - s.lineStart + 1}
		var fault *plugin.Fault
		if f.key, fault = s.string(); fault != nil {
			return fault
		}
		if s.peek() != ':' {
			return s.fault("found %s after a key; write a colon", s.found())
		}
		s.pos++
		if f.value, fault = s.value(depth + 1); fault != nil {
			return fault
		}
		n.fields = append(n.fields, f)
		n.adopt(f.value)
		if done, fault := s.next('}'); done || fault != nil {
			return fault
		}
	}
}

func (s *jsonScanner) list(n *node, depth int) *plugin.Fault {
	n.kind = list
	s.pos++
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		item, fault := s.value(depth + 1)
		if fault != nil {
			return fault
		}
		n.items = append(n.items, item)
		n.adopt(item)
		if done, fault := s.next(']'); done || fault != nil {
			return fault
		}
	}
}

// next takes a comma, or the end of the object or list.
func (s *jsonScanner) next(end byte) (done bool, fault *plugin.Fault) {
	switch s.peek() {
	case ',':
		s.pos++
		return false, nil
	case end:
		s.pos++
		return true, nil
	}
	return false, s.fault("found %s; write a comma or %q", s.found(), end)
}

func (s *jsonScanner) found() string {
	if s.pos == len(s.data) {
		return "the end"
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	return fmt.Sprintf("%q", r)
}

func (s *jsonScanner) string() (string, *plugin.Fault) {
	start := s.pos
	escaped := false
	for i := start + 1; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			s.pos = i
			return "", s.fault("a text holds a control character; write it as an escape such as \\n or \\t")
		case c == '"':
			s.pos = i + 1
			if !escaped {
				return string(s.data[start+1 : i]), nil
			}
			var value string
			if err := json.Unmarshal(s.data[start:s.pos], &value); err != nil {
				s.pos = start
				return "", s.fault("a text holds an escape that JSON does not have")
			}
			return value, nil
		}
	}
	return "", s.fault("a text has no closing quote")
}

func (s *jsonScanner) number(n *node) *plugin.Fault {
	end := s.pos
	for end < len(s.data) && isNumberByte(s.data[end]) {
		end++
	}
	token := s.data[s.pos:end]
	if !json.Valid(token) {
		return s.fault("%q is not a number as JSON writes it", token)
	}
	s.pos = end
	n.kind, n.text = number, string(token)
	n.written = n.text
	return nil
}

func isNumberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}
