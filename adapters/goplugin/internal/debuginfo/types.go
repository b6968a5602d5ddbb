package debuginfo

import (
	"debug/dwarf"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
)

const kindPointer = reflect.Pointer

// entry is what is needed of a type's entry.
type entry struct {
	name   string
	kind   reflect.Kind // Invalid: another name for inner
	inner  dwarf.Offset // what it points to, or is a name for
	key    dwarf.Offset
	elem   dwarf.Offset
	length int64
	fields []field
}

type field struct {
	name string
	of   dwarf.Offset
}

// entry reads a type. Only structs and arrays have children that matter.
func (s *scanner) entry(at dwarf.Offset) (e entry, err error) {
	r := s.data.Reader()
	r.Seek(at)
	raw, err := r.Next()
	if err != nil || raw == nil {
		return e, fmt.Errorf("type at %#x: there is none: %w", at, err)
	}
	e.name, _ = raw.Val(dwarf.AttrName).(string)
	kind, _ := raw.Val(attrGoKind).(int64)
	e.kind = reflect.Kind(kind)
	e.inner, _ = raw.Val(dwarf.AttrType).(dwarf.Offset)
	e.key, _ = raw.Val(attrGoKey).(dwarf.Offset)
	e.elem, _ = raw.Val(attrGoElem).(dwarf.Offset)
	if raw.Children && (e.kind == reflect.Struct || e.kind == reflect.Array) {
		err = e.children(r)
	}
	return e, err
}

func (e *entry) children(r *dwarf.Reader) error {
	for {
		child, err := r.Next()
		if err != nil || child == nil || child.Tag == 0 {
			return err
		}
		switch child.Tag {
		case dwarf.TagMember:
			var f field
			f.name, _ = child.Val(dwarf.AttrName).(string)
			f.of, _ = child.Val(dwarf.AttrType).(dwarf.Offset)
			e.fields = append(e.fields, f)
		case dwarf.TagSubrangeType:
			e.length, _ = child.Val(dwarf.AttrCount).(int64)
		}
		r.SkipChildren()
	}
}

// found makes the descriptions.
func (s *scanner) found() Found {
	found := Found{}
	for goType, methods := range s.methods {
		w := writer{scanner: s, types: describe.Types{}, names: map[string]string{}}
		d := describe.Description{Methods: map[string]describe.Method{}, Types: w.types}
		for _, name := range slices.Sorted(maps.Keys(methods)) {
			args, known := w.text(methods[name].args, 0)
			reply, alsoKnown := w.text(methods[name].reply, 0)
			if known && alsoKnown {
				d.Methods[name] = describe.Method{Args: args, Reply: reply}
			}
		}
		if len(d.Methods) > 0 {
			found[goType] = d
		}
	}
	return found
}

// writer names the types of one description.
type writer struct {
	*scanner
	types describe.Types
	names map[string]string // by the Go type
}

// text returns a type as a description has it; false when gob does not carry it,
// or a description cannot say it.
func (w *writer) text(at dwarf.Offset, depth int) (string, bool) {
	if depth > depthMax || w.ctx.Err() != nil {
		return "", false
	}
	e, err := w.entry(at)
	if err != nil {
		return "", false
	}
	if word := w.known(e.name); word != "" {
		return word, true
	}
	switch e.kind {
	case reflect.Invalid: // a name
		if e.inner == 0 {
			return "", false
		}
		return w.text(e.inner, depth+1)
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16,
		reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128, reflect.String:
		return e.kind.String(), true
	case reflect.Uintptr:
		return "uint64", true
	case reflect.Interface:
		return "any", true
	case reflect.Pointer:
		return w.after("*", e.inner, depth)
	case reflect.Slice:
		if elem, err := w.entry(e.elem); err == nil && elem.kind == reflect.Uint8 {
			return "bytes", true
		}
		return w.after("[]", e.elem, depth)
	case reflect.Array:
		return w.after(fmt.Sprintf("[%d]", e.length), e.inner, depth)
	case reflect.Map:
		return w.mapping(e, depth)
	case reflect.Struct:
		return w.structure(e, depth)
	}
	return "", false
}

func (w *writer) known(goType string) string {
	switch goType {
	case "error":
		return "error"
	case "time.Time":
		return "time"
	case "math/big.Int":
		return "bigint"
	}
	return w.encoders[goType]
}

func (w *writer) after(prefix string, of dwarf.Offset, depth int) (string, bool) {
	text, ok := w.text(of, depth+1)
	return prefix + text, ok
}

func (w *writer) mapping(e entry, depth int) (string, bool) {
	key, ok := w.text(e.key, depth+1)
	if !ok || strings.ContainsAny(key, "[]*:") || strings.HasPrefix(key, "float") || strings.HasPrefix(key, "complex") || w.types[key].Fields != nil {
		return "", false
	}
	return w.after("map:"+key+",", e.elem, depth)
}

// structure describes a struct once, and returns its name. What gob does not
// carry of it is left out.
func (w *writer) structure(e entry, depth int) (string, bool) {
	if name, ok := w.names[e.name]; ok {
		return name, true
	}
	if len(w.types) >= typesMax {
		return "", false
	}
	name := w.name(e.name)
	w.names[e.name] = name
	members := map[string]string{}
	w.types[name] = describe.Shape{Fields: members}
	for _, f := range e.fields {
		if f.name == "" || f.name[0] < 'A' || f.name[0] > 'Z' || strings.HasPrefix(f.name, "XXX_") {
			continue
		}
		if text, ok := w.text(f.of, depth+1); ok {
			members[f.name] = text
		}
	}
	return name, true
}

// name is a struct's own name, or with more of its path when that is taken.
func (w *writer) name(goType string) string {
	if strings.HasPrefix(goType, "struct {") {
		goType = "Anonymous"
	}
	path, short := goType, goType[strings.LastIndexByte(goType, '.')+1:]
	clean := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}
	name := capital(strings.Map(clean, short))
	if w.taken(name) {
		name = capital(strings.Map(clean, path))
	}
	for w.taken(name) {
		name += "_"
	}
	return name
}

// capital makes a name begin with a capital letter: words of descriptions do not.
func capital(name string) string {
	if name == "" || name[0] < 'A' || name[0] > 'Z' {
		return "T" + name
	}
	return name
}

func (w *writer) taken(name string) bool {
	_, ok := w.types[name]
	return ok
}
