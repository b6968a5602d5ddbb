package gobwire

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

type kind uint8

const (
	kindBool kind = iota + 1
	kindInt
	kindUint
	kindFloat
	kindBytes
	kindString
	kindAny
	kindTime
	kindSlice
	kindMap
	kindPointer
	kindStruct
	kindRecord // map[string]any whose keys are known, with a type each
)

// A Type is the shape of a value as a manifest describes it.
type Type struct {
	kind   kind
	name   string // as the manifest writes it: "[]User"
	goName string // as gob names it inside an interface: "[]string"; "" when it cannot be there
	key    *Type
	elem   *Type
	fields []Field // of a struct or record, sorted by name
	id     int64   // on the wire
}

// Field is one field of a struct, or one key of a record.
type Field struct {
	Name string
	Type *Type
}

// String returns the type as the manifest writes it.
func (t *Type) String() string { return t.name }

// Shape describes a named type: a struct by its fields, or a
// map[string]interface{} by the types of its keys.
type Shape struct {
	Fields map[string]string `json:"fields,omitempty" doc:"A Go struct: its exported fields and their types."`
	Keys   map[string]string `json:"keys,omitempty" doc:"A Go map[string]interface{} with known keys: the type of each one's value."`
}

// A Table holds the types of one description.
type Table struct {
	types   map[string]*Type // by the text that names them
	defs    map[int64][]byte // the message that defines a type to the other side
	request *Type            // net/rpc's own request header
	strings *Type            // []string, which may appear in any "any"
}

// scalars are the built-in words. Widths are free on the wire; they matter
// inside an interface, where gob names the Go type.
var scalars = [...]struct {
	word   string
	kind   kind
	goName string
	id     int64
}{
	{"bool", kindBool, "bool", idBool},
	{"int", kindInt, "int", idInt}, {"int8", kindInt, "int8", idInt}, {"int16", kindInt, "int16", idInt},
	{"int32", kindInt, "int32", idInt}, {"int64", kindInt, "int64", idInt},
	{"uint", kindUint, "uint", idUint}, {"uint8", kindUint, "uint8", idUint}, {"uint16", kindUint, "uint16", idUint},
	{"uint32", kindUint, "uint32", idUint}, {"uint64", kindUint, "uint64", idUint},
	{"float", kindFloat, "float64", idFloat}, {"float32", kindFloat, "float32", idFloat}, {"float64", kindFloat, "float64", idFloat},
	{"bytes", kindBytes, "[]uint8", idBytes},
	{"string", kindString, "string", idString},
	{"any", kindAny, "", idInterface},
	{"error", kindAny, "", idInterface},
}

// Grammar says what a type may be, for error texts.
const Grammar = "string, bool, int, uint, float, bytes, any, error, time, []T, map:K,T, *T or a name under types"

// NewTable reads the named types of a description. The error is a *TypeFault.
func NewTable(shapes map[string]Shape) (*Table, error) {
	t := &Table{types: map[string]*Type{}, defs: map[int64][]byte{}}
	for _, s := range scalars {
		t.types[s.word] = &Type{kind: s.kind, name: s.word, goName: s.goName, id: s.id}
	}
	t.request = &Type{kind: kindStruct, name: "Request"}
	t.request.fields = []Field{{"ServiceMethod", t.types["string"]}, {"Seq", t.types["uint"]}}
	t.number(t.request)
	t.strings, _ = t.Type("[]string") // becomes stringsID
	t.define(t.request)
	t.define(t.strings)
	names := make([]string, 0, len(shapes))
	for name := range shapes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if t.types[name] != nil || strings.ContainsAny(name, "[]*:, ") || name == "" || name == "time" {
			return nil, &TypeFault{name, "cannot be the name of a type: choose a word that is not built in"}
		}
		t.types[name] = &Type{name: name}
	}
	for _, name := range names {
		if err := t.fill(t.types[name], shapes[name]); err != nil {
			return nil, err
		}
	}
	weights := map[*Type]int{}
	for _, name := range names {
		switch w := weigh(t.types[name], weights); {
		case w < 0:
			return nil, &TypeFault{name, "contains itself: use *" + name + " or []" + name}
		case w > weightMax:
			return nil, &TypeFault{name, fmt.Sprintf("has more than %d fields with the structs in it: use pointers", weightMax)}
		}
		t.define(t.types[name])
	}
	return t, nil
}

// Bool is the type bool.
func (t *Table) Bool() *Type { return t.types["bool"] }

// Text is the type string.
func (t *Table) Text() *Type { return t.types["string"] }

// TypeFault is what is wrong with one named type.
type TypeFault struct {
	// Path is the type's name, or name.fields.field.
	Path   string
	Detail string
}

func (f *TypeFault) Error() string { return f.Path + ": " + f.Detail }

func (t *Table) fill(into *Type, s Shape) error {
	members, part := s.Fields, "fields"
	into.kind = kindStruct
	if len(s.Keys) > 0 {
		if len(s.Fields) > 0 {
			return &TypeFault{into.name, "has both fields and keys: it is a struct or a map"}
		}
		members, part = s.Keys, "keys"
		into.kind = kindRecord
	}
	if len(members) > fieldsMax {
		return &TypeFault{into.name, fmt.Sprintf("has %d %s; at most %d", len(members), part, fieldsMax)}
	}
	for name, text := range members {
		member, err := t.Type(text)
		if err == nil && into.kind == kindRecord && member.goName == "" {
			err = fmt.Errorf("%s cannot stand in a map of interfaces: only basic types and slices of them are known to every plugin", text)
		}
		if err == nil && into.kind == kindStruct && (name == "" || name[0] < 'A' || name[0] > 'Z') {
			err = fmt.Errorf("gob carries exported fields only: write the field's Go name, which begins with a capital")
		}
		if err != nil {
			return &TypeFault{into.name + "." + part + "." + name, err.Error()}
		}
		into.fields = append(into.fields, Field{name, member})
	}
	slices.SortFunc(into.fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	if into.kind == kindRecord {
		into.key, into.elem = t.types["string"], t.types["any"]
	}
	t.number(into)
	return nil
}

// Type returns the type that text names: a word, a named type, or one built from
// them. NewTable has returned before types are asked for from several goroutines.
func (t *Table) Type(text string) (*Type, error) { return t.parse(text, 0) }

func (t *Table) parse(text string, depth int) (*Type, error) {
	text = strings.TrimSpace(text)
	if known := t.types[text]; known != nil {
		return known, nil
	}
	if depth > depthMax {
		return nil, fmt.Errorf("nests deeper than %d", depthMax)
	}
	if text == "[]uint8" || text == "[]byte" {
		return t.types["bytes"], nil
	}
	made := &Type{name: text}
	var err error
	switch {
	case text == "time":
		made.kind = kindTime
	case strings.HasPrefix(text, "[]"):
		made.kind = kindSlice
		made.elem, err = t.parse(text[2:], depth+1)
		if err == nil && made.elem.goName != "" && made.elem.kind != kindSlice {
			made.goName = "[]" + made.elem.goName
		}
	case strings.HasPrefix(text, "*"):
		made.kind = kindPointer
		made.elem, err = t.parse(text[1:], depth+1)
	case strings.HasPrefix(text, "map:"):
		made.kind = kindMap
		key, elem, ok := strings.Cut(text[len("map:"):], ",")
		if !ok {
			return nil, fmt.Errorf("%q is not a type: write map:KEY,VALUE", text)
		}
		if made.key, err = t.parse(key, depth+1); err == nil {
			made.elem, err = t.parse(elem, depth+1)
		}
		if err == nil && !slices.Contains([]kind{kindString, kindInt, kindUint, kindBool, kindAny}, made.key.kind) {
			err = fmt.Errorf("%q cannot be the key of a map: JSON has text keys; use string, int, uint, bool or any", key)
		}
	default:
		return nil, fmt.Errorf("%q is not a type: write %s", text, Grammar)
	}
	if err != nil {
		return nil, err
	}
	t.number(made)
	t.types[text] = made
	return made, nil
}

func (t *Table) number(made *Type) {
	if made.kind == kindPointer { // gob flattens pointers
		return
	}
	made.id = int64(firstID + len(t.defs))
	t.defs[made.id] = nil // numbered now, written once all are known
}

// wire is the type that stands on the wire for t.
func (t *Type) wire() *Type {
	for t.kind == kindPointer {
		t = t.elem
	}
	return t
}

// weigh counts the fields of a struct and of the structs directly in it, which is
// what filling in a zero value writes; negative when t contains itself.
func weigh(t *Type, known map[*Type]int) int {
	if t.kind != kindStruct {
		return 1
	}
	if w, ok := known[t]; ok {
		return w
	}
	known[t] = -1 // until it is known: whoever asks meanwhile is inside t
	total := 1
	for _, f := range t.fields {
		w := weigh(f.Type, known)
		if w < 0 {
			return -1
		}
		total = min(total+w, weightMax+1)
	}
	known[t] = total
	return total
}

// Needs returns the ids of the types that a writer of t has to define first.
// Call it for every argument type before any Writer is used.
func (t *Table) Needs(of *Type) []int64 {
	var ids []int64
	t.reach(of.wire(), &ids)
	return ids
}

func (t *Table) reach(of *Type, ids *[]int64) {
	of = of.wire()
	if of.kind == kindAny { // may turn out to hold a []string
		of = t.strings
	}
	if of.id < firstID || slices.Contains(*ids, of.id) {
		return
	}
	*ids = append(*ids, of.id)
	t.define(of)
	for _, f := range of.fields {
		t.reach(f.Type, ids)
	}
	if of.key != nil {
		t.reach(of.key, ids)
	}
	if of.elem != nil {
		t.reach(of.elem, ids)
	}
}

// define writes the message that defines a type: its negated id, then a wireType.
func (t *Table) define(of *Type) {
	of = of.wire()
	if of.id < firstID || t.defs[of.id] != nil {
		return
	}
	body := appendInt(nil, -of.id)
	common := func(b []byte) []byte { // CommonType{Name, Id} as the first field
		b = append(b, 1, 1)
		b = appendText(b, of.name)
		b = append(b, 1)
		return append(appendInt(b, of.id), 0)
	}
	switch of.kind {
	case kindSlice: // wireType field 1: {CommonType, Elem}
		body = common(append(body, 2))
		body = appendInt(append(body, 1), of.elem.wire().id)
	case kindMap, kindRecord: // field 3: {CommonType, Key, Elem}
		body = common(append(body, 4))
		body = appendInt(append(body, 1), of.key.wire().id)
		body = appendInt(append(body, 1), of.elem.wire().id)
	case kindTime: // field 4, GobEncoder: {CommonType}
		body = common(append(body, 5))
	case kindStruct: // field 2: {CommonType, Field []{Name, Id}}
		body = common(append(body, 3))
		if len(of.fields) > 0 {
			body = appendUint(append(body, 1), uint64(len(of.fields)))
		}
		for _, f := range of.fields {
			body = appendText(append(body, 1), f.Name)
			body = append(appendInt(append(body, 1), f.Type.wire().id), 0)
		}
	}
	body = append(body, 0, 0)
	t.defs[of.id] = append(appendUint(nil, uint64(len(body))), body...)
}
