package manifest

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// mendRounds bounds how often a block is decoded while it is mended: what
	// stands in for an object may lack fields of its own. Specs have three levels.
	mendRounds = 5
	// variantsMax bounds how many words of an enum are tried for one that is wrong.
	variantsMax = 8
)

// Beginnings of what the decoder says, where mending goes by it.
const (
	saysUnknown   = "unknown field"
	saysDuplicate = "stands here a second time"
	saysMissing   = "is missing"
)

// beyondDecode returns what the adapter would say of m if its block had no
// decode faults, so that these do not hide the others. What is faulty is left
// out, or replaced where something must stand; what Check says of such places is
// left out too. Where the word of an enum is wrong, each is tried, and only the
// places that are faulty with all of them are told.
func beyondDecode(adapter plugin.Adapter, m plugin.Manifest) plugin.Faults {
	specifier, ok := adapter.(plugin.Specifier)
	if !ok {
		return nil
	}
	var common plugin.Faults
	for variant, variants := 0, 1; variant < variants; variant++ {
		b := mending{adapter: m.Spec.Adapter, spec: specifier, variant: variant}
		mended := m
		if mended.Spec.Block, ok = b.mend(m.Spec.Block); !ok || !b.changed {
			return nil
		}
		variants = min(b.variants, variantsMax)
		told := b.believed(asFaults("spec."+m.Spec.Adapter, adapter.Check(mended)))
		if variant == 0 {
			common = told
			continue
		}
		common = slices.DeleteFunc(common, func(f plugin.Fault) bool {
			return !slices.ContainsFunc(told, func(g plugin.Fault) bool { return g.Path == f.Path })
		})
	}
	return common
}

// mending takes out of a block what cannot be decoded.
type mending struct {
	adapter  string
	spec     plugin.Specifier
	variant  int
	variants int      // of the enum with the most words
	changed  bool     // something was taken out
	faulty   []string // paths that were faulty: nothing more to say of them
	absent   []string // paths of known values that are left out or replaced now
	block    *node    // as it came
}

// mend returns the block without its decode faults, or false if that is not
// possible.
func (b *mending) mend(block plugin.RawJSON) (plugin.RawJSON, bool) {
	b.variants = 1
	if len(block) == 0 {
		block = plugin.RawJSON("{}")
	}
	root, err := jsonDocument(block)
	if err != nil {
		return nil, false
	}
	b.block, _ = jsonDocument(block)
	for range mendRounds {
		into := b.spec.Spec()
		d := decoder{noLines: true}
		v := reflect.ValueOf(into)
		if v.Kind() != reflect.Pointer {
			return nil, false
		}
		d.value(nil, root, v.Elem(), "")
		if len(d.report.faults) == 0 {
			return root.appendJSON(nil), true
		}
		if d.report.cut {
			return nil, false // enough is told already, and each round costs a decode
		}
		for _, f := range d.report.faults {
			b.apply(root, v.Elem().Type(), f)
		}
	}
	return nil, false
}

// apply takes one fault out of the block.
func (b *mending) apply(root *node, t reflect.Type, f plugin.Fault) {
	duplicate, unknown := strings.HasPrefix(f.Detail, saysDuplicate), strings.HasPrefix(f.Detail, saysUnknown)
	b.changed = true
	if !duplicate {
		b.faulty = append(b.faulty, f.Path)
	}
	if f.Path == "" {
		*root = node{kind: object}
		return
	}
	if unknown {
		_, meant, _ := strings.Cut(f.Detail, `did you mean "`)
		if meant, _, ok := strings.Cut(meant, `"`); ok {
			b.absent = append(b.absent, f.Path[:strings.LastIndexByte(f.Path, '.')+1]+meant)
		}
	} else if !duplicate {
		b.absent = append(b.absent, f.Path)
	}
	n, tag, path := root, reflect.StructTag(""), f.Path
	for n != nil {
		key, index, rest := segment(path)
		var required bool
		t, tag, required = below(t, tag, key, index)
		switch {
		case rest != "":
			n, path = n.child(key, index), rest
			continue
		case index >= 0 || required && !duplicate:
			n.put(key, index, b.standIn(t, tag))
		default:
			n.drop(key)
		}
		return
	}
}

// below is the type, and its tag, of what stands under key or index in a t; nil
// when it is not known.
func below(t reflect.Type, tag reflect.StructTag, key string, index int) (reflect.Type, reflect.StructTag, bool) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
	case index >= 0 && t.Kind() == reflect.Slice:
		return t.Elem(), tag, false
	case t.Kind() == reflect.Map:
		return t.Elem(), tag, false
	case t.Kind() == reflect.Struct:
		for _, m := range members(t) {
			if m.name == key {
				return m.typ, m.tag, m.tag.Get("required") == "true"
			}
		}
	}
	return nil, "", false
}

// standIn is a value that the decoder takes for a t.
func (b *mending) standIn(t reflect.Type, tag reflect.StructTag) *node {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return &node{kind: null}
	}
	plain := !reflect.PointerTo(t).Implements(jsonType) && !reflect.PointerTo(t).Implements(textType)
	switch words, enum := tag.Lookup("enum"); {
	case t == rawType || plain && (t.Kind() == reflect.Struct || t.Kind() == reflect.Map):
		return &node{kind: object}
	case plain && t.Kind() == reflect.Slice:
		return &node{kind: list}
	case enum && t.Kind() == reflect.String:
		all := strings.Split(words, ",")
		b.variants = max(b.variants, len(all))
		return &node{kind: text, text: all[b.variant%len(all)]}
	case tag.Get("min") != "" && t.Kind() != reflect.String:
		return &node{kind: number, text: tag.Get("min"), written: tag.Get("min")}
	}
	for _, word := range [...]string{"", "1s", "1"} { // a duration, a size
		if v, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok && v.UnmarshalText([]byte(word)) == nil {
			return &node{kind: text, text: word}
		}
	}
	zero, err := json.Marshal(reflect.Zero(t).Interface())
	if err != nil {
		return &node{kind: null}
	}
	n, err := jsonDocument(zero)
	if err != nil {
		return &node{kind: null}
	}
	return n
}

// believed leaves out of what Check said of a mended block what comes from the
// mending.
func (b *mending) believed(faults plugin.Faults) plugin.Faults {
	root := "spec." + b.adapter
	return slices.DeleteFunc(slices.Clone(faults), func(f plugin.Fault) bool {
		if !within(f.Path, root) {
			return slices.ContainsFunc(b.absent, func(absent string) bool {
				field, _, _ := strings.Cut(absent, "[")
				return strings.Contains(f.Detail, root+"."+field)
			})
		}
		path := strings.TrimPrefix(f.Path[len(root):], ".")
		if slices.ContainsFunc(b.faulty, func(faulty string) bool { return within(path, faulty) }) {
			return true
		}
		here := b.block.has(path)
		return slices.ContainsFunc(b.absent, func(absent string) bool {
			// Of an object it may be said that it lacks what was left out; of a
			// field that is not there, that it or what was left out must be.
			return within(absent, path) && (absent != path || !here) || !here && mentions(f.Detail, lastKey(absent))
		})
	})
}

// within reports whether path leads to place or to something below it.
func within(path, place string) bool {
	rest, ok := strings.CutPrefix(path, place)
	return ok && (place == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// lastKey is the last key of a path, indices left out.
func lastKey(path string) (last string) {
	for path != "" {
		var key string
		var index int
		if key, index, path = segment(path); index < 0 {
			last = key
		}
	}
	return last
}

// mentions reports whether the word stands in text: "module is missing; give it,
// or source" speaks of source too.
func mentions(text, word string) bool {
	return slices.Contains(strings.FieldsFunc(text, func(r rune) bool {
		return strings.ContainsRune(" .,;:()\"'", r)
	}), word)
}

// child is what stands under key or index, or nil.
func (n *node) child(key string, index int) *node {
	if index >= 0 {
		if n.kind == list && index < len(n.items) {
			return n.items[index]
		}
		return nil
	}
	f, _ := n.field(key)
	return f.value
}

// has reports whether a path leads to something in n.
func (n *node) has(path string) bool {
	for n != nil && path != "" {
		var key string
		var index int
		key, index, path = segment(path)
		n = n.child(key, index)
	}
	return n != nil
}

// put sets what stands under key or index.
func (n *node) put(key string, index int, value *node) {
	if index >= 0 {
		if n.kind == list && index < len(n.items) {
			n.items[index] = value
		}
		return
	}
	n.drop(key)
	n.fields = append(n.fields, field{key: key, value: value})
}

// drop takes the last field of that key away.
func (n *node) drop(key string) {
	for i, f := range slices.Backward(n.fields) {
		if f.key == key {
			n.fields = slices.Delete(n.fields, i, i+1)
			return
		}
	}
}
