package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// yamlDocuments reads the documents of a YAML stream that are not empty, one
// after another, so that only one is in memory.
func yamlDocuments(data []byte, each func(*node) bool) *plugin.Fault {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		document, err := nextYAML(decoder)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return syntaxFault(data, err)
		}
		if len(document.Content) == 0 || isEmpty(document.Content[0]) {
			continue
		}
		c := converter{done: map[*yaml.Node]*node{}}
		root, fault := c.convert(document.Content[0], 1)
		if fault == nil && root.size > nodesMax {
			fault = at(document.Content[0], "has more than %d nodes with its aliases expanded; repeat less, or split it", nodesMax)
		}
		if fault != nil {
			return fault
		}
		if !each(root) {
			return nil
		}
	}
}

// nextYAML reads one document. The library panics on a few malformed inputs.
func nextYAML(d *yaml.Decoder) (document yaml.Node, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("yaml: cannot be read: %v", v)
		}
	}()
	err = d.Decode(&document)
	return document, err
}

func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == ""
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// syntaxFault turns an error of the library into a fault with line and remedy.
func syntaxFault(data []byte, err error) *plugin.Fault {
	detail := strings.TrimPrefix(err.Error(), "yaml: ")
	fault := &plugin.Fault{Line: 1, Column: 1} // the library tells no line when it is the first
	if found := yamlLine.FindStringSubmatch(detail); found != nil {
		fault.Line, _ = strconv.Atoi(found[1])
		detail = detail[len(found[0]):]
	}
	control := strangeControl(data)
	switch {
	case strings.Contains(detail, "exceeded max depth"):
		fault.Detail = tooDeep
		return fault
	case strings.Contains(detail, "control characters") && control >= 0:
		fault.Line, fault.Column = position(data, control)
		fault.Detail = "is not YAML: a control character stands here; take it out, or write it as an escape in double quotes"
		return fault
	}
	fault.Detail = "is not YAML: " + detail
	for i, line := range bytes.Split(data, []byte("\n")) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 && (i+1 == fault.Line || i == fault.Line) {
			fault.Line, fault.Column = i+1, tab+1
			fault.Detail = "is not YAML: a tab stands in the indentation; use spaces"
		}
	}
	return fault
}

func at(n *yaml.Node, format string, args ...any) *plugin.Fault {
	return &plugin.Fault{Line: n.Line, Column: n.Column, Detail: fmt.Sprintf(format, args...)}
}

// converter turns the library's nodes into ours. What an alias repeats is
// converted once and shared, so a bomb costs no more than its text; its expanded
// size is counted in node.size.
type converter struct {
	done map[*yaml.Node]*node
	made int
}

func (c *converter) convert(y *yaml.Node, depth int) (*node, *plugin.Fault) {
	if c.made++; c.made > nodesMax {
		return nil, at(y, "the document has more than %d nodes; split it", nodesMax)
	}
	if depth > depthMax {
		return nil, at(y, tooDeep)
	}
	n := &node{line: y.Line, column: y.Column, size: 1, depth: 1}
	var fault *plugin.Fault
	switch y.Kind {
	case yaml.AliasNode:
		return c.alias(y, depth)
	case yaml.MappingNode, yaml.SequenceNode:
		fault = c.collection(n, y, depth)
	default:
		fault = scalar(n, y)
	}
	if fault == nil && n.depth > depthMax {
		fault = at(y, "is nested more than %d levels deep with its aliases expanded; flatten it", depthMax)
	}
	return n, fault
}

func (c *converter) collection(n *node, y *yaml.Node, depth int) *plugin.Fault {
	if y.Tag != "!!map" && y.Tag != "!!seq" {
		return at(y, "tag %q is not known here; leave it out", abbreviate(y.Tag))
	}
	if y.Anchor != "" {
		c.done[y] = nil // being converted: an alias to it now is a cycle
	}
	convert := c.mapping
	if y.Kind == yaml.SequenceNode {
		convert = c.sequence
	}
	if fault := convert(n, y, depth); fault != nil {
		return fault
	}
	if y.Anchor != "" {
		c.done[y] = n
	}
	return nil
}

func (c *converter) alias(y *yaml.Node, depth int) (*node, *plugin.Fault) {
	target, seen := c.done[y.Alias]
	if seen && target == nil {
		return nil, at(y, "alias *%s leads back to itself; write the value out", abbreviate(y.Value))
	}
	if !seen { // a scalar, or an anchor of an earlier document
		var fault *plugin.Fault
		if target, fault = c.convert(y.Alias, depth); fault != nil {
			return nil, fault
		}
	}
	if depth+target.depth > depthMax {
		return nil, at(y, "is nested more than %d levels deep with its aliases expanded; flatten it", depthMax)
	}
	shared := *target
	shared.line, shared.column = y.Line, y.Column
	return &shared, nil
}

func (c *converter) sequence(n *node, y *yaml.Node, depth int) *plugin.Fault {
	n.kind = list
	n.items = make([]*node, 0, len(y.Content))
	for _, child := range y.Content {
		item, fault := c.convert(child, depth+1)
		if fault != nil {
			return fault
		}
		n.items = append(n.items, item)
		n.adopt(item)
	}
	return nil
}

func (c *converter) mapping(n *node, y *yaml.Node, depth int) *plugin.Fault {
	n.kind = object
	n.fields = make([]field, 0, len(y.Content)/2)
	var merges []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		value, fault := c.convert(y.Content[i+1], depth+1)
		if fault != nil {
			return fault
		}
		n.adopt(value)
		if key.Tag == "!!merge" {
			merges = append(merges, value)
			continue
		}
		name, fault := keyText(key)
		if fault != nil {
			return fault
		}
		n.fields = append(n.fields, field{name, key.Line, key.Column, value})
	}
	if len(merges) > 0 {
		return c.merge(n, merges)
	}
	return nil
}

// keyText returns a mapping's key, which must be a scalar.
func keyText(key *yaml.Node) (string, *plugin.Fault) {
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode {
		return "", at(key, "a key must be a text, not a list or an object")
	}
	return key.Value, nil
}

// merge adds the fields under "<<" that n does not have itself.
func (c *converter) merge(n *node, merges []*node) *plugin.Fault {
	have := make(map[string]bool, len(n.fields))
	for _, f := range n.fields {
		have[f.key] = true
	}
	for len(merges) > 0 {
		from := merges[0]
		merges = merges[1:]
		switch from.kind {
		case list:
			if len(from.items) > nodesMax-c.made {
				return &plugin.Fault{Line: n.line, Column: n.column, Detail: "merges too much; write the fields out"}
			}
			c.made += len(from.items)
			merges = append(merges, from.items...)
		case object:
			if c.made += len(from.fields) + 1; c.made > nodesMax {
				return &plugin.Fault{Line: n.line, Column: n.column, Detail: "merges too much; write the fields out"}
			}
			for _, f := range from.fields {
				if !have[f.key] {
					have[f.key] = true
					n.fields = append(n.fields, f)
				}
			}
		default:
			return &plugin.Fault{Line: from.line, Column: from.column, Detail: "<< wants an object or a list of objects; give it an alias of one"}
		}
	}
	return nil
}

// scalar fills n with a scalar's value by its resolved tag.
func scalar(n *node, y *yaml.Node) *plugin.Fault {
	n.written = y.Value
	switch y.Tag {
	case "!!null":
		n.kind = null
	case "!!bool":
		n.kind, n.text = boolean, strings.ToLower(y.Value)
		if n.text != "true" && n.text != "false" {
			return at(y, "%q is not a boolean; write true or false", abbreviate(y.Value))
		}
	case "!!int", "!!float":
		value, ok := jsonNumber(y.Value)
		if !ok {
			return at(y, "%q is not a number that JSON has; write it in decimal, or quote it", abbreviate(y.Value))
		}
		n.kind, n.text = number, value
	case "!!str", "!!timestamp", "!!merge":
		n.kind, n.text = text, y.Value
	default:
		return at(y, "tag %q is not known here; leave it out", abbreviate(y.Tag))
	}
	return nil
}

var jsonNumberPattern = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// jsonNumber writes a YAML number as JSON does, without losing digits.
func jsonNumber(s string) (string, bool) {
	if jsonNumberPattern.MatchString(s) {
		return s, true
	}
	const longest = 400 // digits: no number in a manifest has more, and big.Int is quadratic
	s = strings.ReplaceAll(s, "_", "")
	if len(s) > longest {
		return "", false
	}
	if i, ok := new(big.Int).SetString(s, 0); ok {
		return i.String(), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f-f != 0 { // infinities and NaN
		return "", false
	}
	return strconv.FormatFloat(f, 'g', -1, 64), true
}
