package manifest

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Decode reads the adapter's block of m strictly into the struct that into
// points to. The error is plugin.Faults, every fault at once, with paths that
// begin with "spec.ADAPTER".
//
// Fields go by their json tags. These tags are enforced too, and shown in the
// schema: required:"true", enum:"a,b" (texts, and lists of texts), min:"1" and
// max:"9" (numbers). An explicit null is a fault but for plugin.RawJSON and any;
// a number under any is a json.Number.
func Decode(m plugin.Manifest, into any) error {
	root := &place{parent: &place{key: "spec", index: -1}, key: m.Spec.Adapter, index: -1}
	data := m.Spec.Block
	if len(data) == 0 {
		data = plugin.RawJSON("{}")
	}
	var faults plugin.Faults
	n, err := jsonDocument(data)
	if err != nil {
		faults.Add(root.String(), "%s", err)
		return faults
	}
	// The block may have come from somewhere else than a parsed file: its lines
	// are not those of the manifest. The parser puts the right ones in.
	d := decoder{noLines: true}
	d.value(root, n, reflect.ValueOf(into).Elem(), "")
	return d.report.err()
}

// decoder reads nodes into Go values and gathers what does not fit.
type decoder struct {
	report  report
	noLines bool
	// adapters are the names that may stand under spec; blocks those that do.
	adapters []string
	blocks   []field
}

func (d *decoder) fault(p *place, line, column int, format string, args ...any) {
	if d.noLines {
		line, column = 0, 0
	}
	d.report.add(plugin.Fault{Path: p.String(), Line: line, Column: column, Detail: fmt.Sprintf(format, args...)})
}

func (d *decoder) wrong(p *place, n *node, format string, args ...any) {
	d.fault(p, n.line, n.column, format, args...)
}

// wantKind adds a fault and returns false when n is not of kind k.
func (d *decoder) wantKind(p *place, n *node, k kind) bool {
	switch {
	case n.kind == k:
		return true
	case n.kind == null:
		d.wrong(p, n, "is empty; want %s, or leave the key out", k)
	case k == text && (n.kind == number || n.kind == boolean):
		d.wrong(p, n, "want a text, not %s; quote it: %q", n.kind, n.written)
	case k == list && n.kind < list:
		d.wrong(p, n, "want a list, not %s; write [%s]", n.kind, abbreviate(cmp.Or(n.written, n.text)))
	default:
		d.wrong(p, n, "want %s, not %s", k, n.kind)
	}
	return false
}

// abbreviate keeps quoted input short in a fault.
func abbreviate(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

var (
	rawType  = reflect.TypeFor[plugin.RawJSON]()
	envType  = reflect.TypeFor[plugin.EnvValue]()
	specType = reflect.TypeFor[plugin.Spec]()
	jsonType = reflect.TypeFor[json.Unmarshaler]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) value(p *place, n *node, v reflect.Value, tag reflect.StructTag) {
	switch t := v.Type(); {
	case t == rawType:
		d.unique(p, n)
		v.SetBytes(n.appendJSON(nil))
	case t == envType:
		d.env(p, n, v.Addr().Interface().(*plugin.EnvValue))
	case t == specType:
		d.structure(p, n, v)
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		d.value(p, n, v.Elem(), tag)
	case reflect.PointerTo(t).Implements(jsonType):
		d.unique(p, n)
		if err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(n.appendJSON(nil)); err != nil {
			d.wrong(p, n, "%s", err)
		}
	case reflect.PointerTo(t).Implements(textType):
		d.textual(p, n, v.Addr().Interface().(encoding.TextUnmarshaler))
	default:
		d.plain(p, n, v, tag)
	}
}

// env takes a scalar as it is written, so that VERSION: 1.10 stays "1.10".
func (d *decoder) env(p *place, n *node, v *plugin.EnvValue) {
	switch n.kind {
	case text:
		v.Value = n.text
	case number, boolean:
		v.Value = n.written
	case object:
		secret, ok := n.field("secret")
		if ok && len(n.fields) == 1 && secret.value.kind == text && secret.value.text != "" {
			v.Secret = secret.value.text
			return
		}
		d.wrong(p, n, "want a text or {secret: NAME}, and nothing beside secret")
	default:
		d.wrong(p, n, `want a text ("" for an empty one) or {secret: NAME}, not %s`, n.kind)
	}
}

func (d *decoder) textual(p *place, n *node, v encoding.TextUnmarshaler) {
	written := n.text
	switch n.kind {
	case text:
	case number, boolean:
		written = n.written
	default:
		d.wantKind(p, n, text)
		return
	}
	if err := v.UnmarshalText([]byte(written)); err != nil {
		d.wrong(p, n, "%s", err)
	}
}

func (d *decoder) plain(p *place, n *node, v reflect.Value, tag reflect.StructTag) {
	switch v.Kind() {
	case reflect.Struct:
		d.structure(p, n, v)
	case reflect.Map:
		d.mapping(p, n, v, tag)
	case reflect.Slice:
		d.list(p, n, v, tag)
	case reflect.String:
		if d.wantKind(p, n, text) && d.inTags(p, n, tag) {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if d.wantKind(p, n, boolean) {
			v.SetBool(n.text == "true")
		}
	case reflect.Interface:
		d.unique(p, n)
		if free := plainValue(n); free != nil {
			v.Set(reflect.ValueOf(free))
		}
	default:
		if d.wantKind(p, n, number) && d.inTags(p, n, tag) {
			d.number(p, n, v)
		}
	}
}

// plainValue is what encoding/json would make of n, numbers as json.Number.
func plainValue(n *node) any {
	switch n.kind {
	case boolean:
		return n.text == "true"
	case number:
		return json.Number(n.text)
	case text:
		return n.text
	case list:
		items := make([]any, len(n.items))
		for i, item := range n.items {
			items[i] = plainValue(item)
		}
		return items
	case object:
		fields := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			fields[f.key] = plainValue(f.value)
		}
		return fields
	}
	return nil
}

func (d *decoder) number(p *place, n *node, v reflect.Value) {
	var err error
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		var f float64
		if f, err = strconv.ParseFloat(n.text, v.Type().Bits()); err == nil {
			v.SetFloat(f)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(n.text, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var i int64
		if i, err = strconv.ParseInt(n.text, 10, v.Type().Bits()); err == nil {
			v.SetInt(i)
		}
	default:
		err = fmt.Errorf("%s cannot be read from a manifest", v.Type())
	}
	if err != nil {
		d.wrong(p, n, "%s does not fit; want %s", abbreviate(n.written), numberWords(v.Kind()))
	}
}

func numberWords(k reflect.Kind) string {
	switch k {
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, zero or more"
	}
	return "a whole number"
}

// inTags checks the enum, min and max tags of a scalar.
func (d *decoder) inTags(p *place, n *node, tag reflect.StructTag) bool {
	if n.kind == text {
		if words, ok := tag.Lookup("enum"); ok && !oneOf(words, n.text) {
			d.wrong(p, n, "%q is unknown%s; want one of %s", abbreviate(n.text),
				didYouMean(n.text, strings.Split(words, ",")), strings.ReplaceAll(words, ",", ", "))
			return false
		}
		return true
	}
	f, err := strconv.ParseFloat(n.text, 64)
	if err == nil {
		if detail := outOfBounds(f, tag); detail != "" {
			d.wrong(p, n, "%s %s", abbreviate(n.written), detail)
			return false
		}
	}
	return true
}

func oneOf(words, word string) bool {
	for w := range strings.SplitSeq(words, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// outOfBounds says in words which of the min and max tags f breaks.
func outOfBounds(f float64, tag reflect.StructTag) string {
	if tag == "" {
		return ""
	}
	least, errLeast := strconv.ParseFloat(tag.Get("min"), 64)
	most, errMost := strconv.ParseFloat(tag.Get("max"), 64)
	switch {
	case errLeast == nil && f < least:
		return "is too small; the least is " + tag.Get("min")
	case errMost == nil && (f > most || math.IsNaN(f)):
		return "is too large; the most is " + tag.Get("max")
	}
	return ""
}

func (d *decoder) list(p *place, n *node, v reflect.Value, tag reflect.StructTag) {
	if !d.wantKind(p, n, list) {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	for i, item := range n.items {
		d.value(p.at(i), item, v.Index(i), tag)
	}
}

func (d *decoder) mapping(p *place, n *node, v reflect.Value, tag reflect.StructTag) {
	if !d.wantKind(p, n, object) {
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.fields)))
	seen := make(map[string]bool, len(n.fields))
	for _, f := range n.fields {
		at := p.in(f.key)
		if seen[f.key] {
			d.duplicate(at, f)
			continue
		}
		seen[f.key] = true
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(at, f.value, value, tag)
		v.SetMapIndex(reflect.ValueOf(f.key).Convert(v.Type().Key()), value)
	}
}

func (d *decoder) duplicate(p *place, f field) {
	d.fault(p, f.line, f.column, saysDuplicate+"; keep one of them")
}

// unique reports keys that stand twice in what is passed on as it is.
func (d *decoder) unique(p *place, n *node) {
	for i, item := range n.items {
		if item.kind >= list {
			d.unique(p.at(i), item)
		}
	}
	if n.kind != object {
		return
	}
	seen := make(map[string]bool, len(n.fields))
	for _, f := range n.fields {
		if seen[f.key] {
			d.duplicate(p.in(f.key), f)
		}
		seen[f.key] = true
		if f.value.kind >= list {
			d.unique(p.in(f.key), f.value)
		}
	}
}
