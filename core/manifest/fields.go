package manifest

import (
	"reflect"
	"slices"
	"strings"
)

// member is one field of a struct as manifests see it.
type member struct {
	name  string
	index []int
	typ   reflect.Type
	tag   reflect.StructTag
}

// members lists the fields of a struct type in their order, those of embedded
// structs among them.
func members(t reflect.Type) []member {
	all := make([]member, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for _, m := range members(f.Type) {
				m.index = append([]int{i}, m.index...)
				all = append(all, m)
			}
		default:
			if name == "" {
				name = f.Name
			}
			all = append(all, member{name, f.Index, f.Type, f.Tag})
		}
	}
	return all
}

func (d *decoder) structure(p *place, n *node, v reflect.Value) {
	if !d.wantKind(p, n, object) {
		return
	}
	known := members(v.Type())
	seen := make([]bool, len(known))
	for _, f := range n.fields {
		i := slices.IndexFunc(known, func(m member) bool { return m.name == f.key })
		switch {
		case i < 0 && v.Type() == specType && slices.Contains(d.adapters, f.key):
			d.blocks = append(d.blocks, f)
		case i < 0:
			d.unknown(p, f, known, v.Type() == specType)
		case seen[i]:
			d.duplicate(p.in(f.key), f)
		default:
			seen[i] = true
			d.value(p.in(f.key), f.value, v.FieldByIndex(known[i].index), known[i].tag)
		}
	}
	for i, m := range known {
		if !seen[i] && m.tag.Get("required") == "true" {
			d.wrong(p.in(m.name), n, saysMissing+"%s", docOf(m.tag))
		}
	}
}

func (d *decoder) unknown(p *place, f field, known []member, spec bool) {
	names := make([]string, 0, len(known)+len(d.adapters))
	for _, m := range known {
		names = append(names, m.name)
	}
	if spec {
		names = append(names, d.adapters...)
	}
	hint := didYouMean(f.key, names)
	if hint == "" {
		hint = "; known here: " + strings.Join(names, ", ")
	}
	d.fault(p.in(f.key), f.line, f.column, saysUnknown+"%s", hint)
}

// docOf returns a field's documentation as the tail of a fault.
func docOf(tag reflect.StructTag) string {
	doc := strings.TrimSuffix(tag.Get("doc"), ".")
	if doc == "" {
		return ""
	}
	return "; it is: " + doc
}

// didYouMean returns a question when one of the words is near to got.
func didYouMean(got string, words []string) string {
	const longest = 40 // longer ones are no typing mistake, and the comparison is quadratic
	best, word := len(got)/3+2, ""
	if len(got) > longest {
		return ""
	}
	for _, w := range words {
		if len(w) > longest {
			continue
		}
		if n := distance(strings.ToLower(got), strings.ToLower(w)); n < best {
			best, word = n, w
		}
	}
	if word == "" {
		return ""
	}
	return `; did you mean "` + word + `"?`
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that make b of a.
func distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last = last, row
		row = make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
