package manifest

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Limits of one document. Real manifests have some hundred nodes and six levels.
const (
	nodesMax = 100_000 // aliases expanded: what a bomb would multiply
	depthMax = 100     // every walk over a document is recursive
)

// tooDeep is what is said of a document with more than depthMax levels.
const tooDeep = "is nested more than 100 levels deep; flatten it"

type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	list
	object
)

func (k kind) String() string {
	return [...]string{"nothing", "a boolean", "a number", "a text", "a list", "an object"}[k]
}

// A node is one value of a document, whether it was written as YAML or JSON.
type node struct {
	kind kind
	// text is the value of a scalar; of a number or boolean as JSON writes it.
	text string
	// written is a number or boolean as it stands in the file (0x1F, True).
	written      string
	line, column int
	fields       []field
	items        []*node
	// size counts this node and all below it; depth is the number of levels.
	size, depth int
}

type field struct {
	key          string
	line, column int
	value        *node
}

// adopt counts a child into n.
func (n *node) adopt(child *node) {
	n.size = min(n.size+child.size, nodesMax+1)
	n.depth = max(n.depth, child.depth+1)
}

func (n *node) field(key string) (field, bool) {
	for _, f := range n.fields {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// last finds the last field of that key: of a key that stands twice, the one too
// many.
func (n *node) last(key string) (found field, ok bool) {
	for _, f := range n.fields {
		if f.key == key {
			found, ok = f, true
		}
	}
	return found, ok
}

// appendJSON writes n as JSON, keys in the order given.
func (n *node) appendJSON(out []byte) []byte {
	switch n.kind {
	case null:
		return append(out, "null"...)
	case boolean, number:
		return append(out, n.text...)
	case text:
		return appendString(out, n.text)
	case list:
		out = append(out, '[')
		for i, item := range n.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = item.appendJSON(out)
		}
		return append(out, ']')
	}
	out = append(out, '{')
	for i, f := range n.fields {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, f.key), ':')
		out = f.value.appendJSON(out)
	}
	return append(out, '}')
}

func appendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(out, quoted...)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}

// A place leads from the document's root to a value; it is written out only for
// a fault.
type place struct {
	parent *place
	key    string
	index  int // of a list's item; -1 when key counts
}

func (p *place) in(key string) *place { return &place{parent: p, key: key, index: -1} }
func (p *place) at(index int) *place  { return &place{parent: p, index: index} }

func (p *place) String() string {
	if p == nil {
		return ""
	}
	before := p.parent.String()
	const longest = 300 // of a key: a label's may have 253 and 63; a fault is for reading
	if len(p.key) > longest {
		return before + "[" + strconv.Quote(abbreviate(p.key)) + "]"
	}
	switch {
	case p.index >= 0:
		return before + "[" + strconv.Itoa(p.index) + "]"
	case !plainKey(p.key):
		return before + "[" + strconv.Quote(p.key) + "]"
	case before == "":
		return p.key
	}
	return before + "." + p.key
}

// plainKey reports whether a key needs no quotes in a path.
func plainKey(key string) bool {
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return key != ""
}

// segment takes the first step off a path as place.String writes it.
func segment(path string) (key string, index int, rest string) {
	path = strings.TrimPrefix(path, ".")
	if quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(path, "[")); err == nil && path[0] == '[' {
		key, _ = strconv.Unquote(quoted)
		return key, -1, strings.TrimPrefix(path[1+len(quoted):], "]")
	}
	if strings.HasPrefix(path, "[") {
		digits, after, _ := strings.Cut(path[1:], "]")
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 {
			return "", i, after
		}
		return path, -1, ""
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, -1, ""
	}
	return path[:end], -1, path[end:]
}

// locate finds the line and column of what path leads to, or of the nearest
// thing above it that is there.
func locate(root *node, path string) (line, column int) {
	n := root
	line, column = n.line, n.column
	for path != "" {
		var key string
		var index int
		key, index, path = segment(path)
		if index >= 0 {
			if n.kind != list || index >= len(n.items) {
				return line, column
			}
			n = n.items[index]
			line, column = n.line, n.column
			continue
		}
		f, ok := n.last(key)
		if !ok {
			return line, column
		}
		n = f.value
		line, column = f.line, f.column
		if n.kind < list && n.line == f.line {
			column = n.column
		}
	}
	return line, column
}

// faultsMax bounds what one input can make us tell: nobody reads more.
const faultsMax = 100

// A report gathers faults, up to faultsMax.
type report struct {
	faults plugin.Faults
	cut    bool
}

func (r *report) add(f plugin.Fault) {
	if len(r.faults) >= faultsMax {
		r.cut = true
		return
	}
	r.faults = append(r.faults, f)
}

func (r *report) err() error {
	err := r.faults.Err()
	if err == nil || !r.cut {
		return err
	}
	last := r.faults[len(r.faults)-1]
	return append(r.faults, plugin.Fault{
		File: last.File, Document: last.Document, Line: last.Line, Column: last.Column,
		Detail: "more than " + strconv.Itoa(faultsMax) + " faults; the others are not shown",
	})
}
