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
	kindComplex
	kindBytes
	kindString
	kindAny
	kindTime
	kindBig
	kindGob    // any other type with GobEncode
	kindBinary // with MarshalBinary, and no GobEncode
	kindSlice
	kindArray
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
	bits   int    // width of a number; the widest is 64
	wide   bool   // a number of 64 bits that is to be a text in JSON
	named  bool   // by the description
	length int    // of an array
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

// Shape describes a named type: a struct by its fields, a map[string]interface{}
// by the types of its keys, or another type by itself.
type Shape struct {
	Fields map[string]string `json:"fields,omitempty" doc:"A Go struct: its exported fields and their types."`
	Keys   map[string]string `json:"keys,omitempty" doc:"A Go map[string]interface{} with known keys: the type of each one's value."`
	Type   string            `json:"type,omitempty" doc:"Neither of them: the type itself, as map:string,any."`
	// Registered is what gob.Register makes of a type: the path of its package, a
	// dot and its name, after a star if a pointer was registered.
	Registered string `json:"registered,omitempty" doc:"The name under which the plugin registers the type with encoding/gob, as main.Circle or map[string]interface {}: an any may hold it, written {\"@type\": name, \"value\": value}."`
}

// A Table holds the types of one description.
type Table struct {
	types      map[string]*Type // by the text that names them
	registered map[string]*Type // by the name inside an interface
	defs       map[int64][]byte // the message that defines a type to the other side
	request    *Type            // net/rpc's own request header
	strings    *Type            // []string, which may appear in any "any"
	valued     []*Type          // structs and arrays, which contain others
	options    Options
}

// Options say how values are written as JSON.
type Options struct {
	// WideAsText makes texts of integers that may have more than 32 bits, which
	// not every reader of JSON keeps exact.
	WideAsText bool
}

// scalars are the built-in words. Widths are free on the wire; they matter
// inside an interface, where gob names the Go type, and to what overflows.
var scalars = [...]struct {
	word   string
	kind   kind
	bits   int
	goName string
	id     int64
}{
	{"bool", kindBool, 0, "bool", idBool},
	{"int", kindInt, 64, "int", idInt}, {"int8", kindInt, 8, "int8", idInt}, {"int16", kindInt, 16, "int16", idInt},
	{"int32", kindInt, 32, "int32", idInt}, {"int64", kindInt, 64, "int64", idInt},
	{"uint", kindUint, 64, "uint", idUint}, {"uint8", kindUint, 8, "uint8", idUint}, {"uint16", kindUint, 16, "uint16", idUint},
	{"uint32", kindUint, 32, "uint32", idUint}, {"uint64", kindUint, 64, "uint64", idUint},
	{"float", kindFloat, 64, "float64", idFloat}, {"float32", kindFloat, 32, "float32", idFloat}, {"float64", kindFloat, 64, "float64", idFloat},
	{"complex", kindComplex, 64, "complex128", idComplex}, {"complex64", kindComplex, 32, "complex64", idComplex},
	{"complex128", kindComplex, 64, "complex128", idComplex},
	{"bytes", kindBytes, 0, "[]uint8", idBytes},
	{"string", kindString, 0, "string", idString},
	{"any", kindAny, 0, "", idInterface},
	{"error", kindAny, 0, "", idInterface},
}

// encoded are the words for types that encode themselves.
var encoded = map[string]kind{"time": kindTime, "bigint": kindBig, "gob": kindGob, "binary": kindBinary}

// Grammar says what a type may be, for error texts.
const Grammar = "string, bool, int, uint, float, complex, bytes, any, error, time, bigint, gob, binary, []T, [N]T, map:K,T, *T or a name under types"

// NewTable reads the named types of a description. The error is a *TypeFault.
func NewTable(shapes map[string]Shape, o Options) (*Table, error) {
	t := newTable(o)
	if len(shapes) > shapesMax {
		return nil, &TypeFault{"", fmt.Sprintf("has %d types; at most %d", len(shapes), shapesMax)}
	}
	names := make([]string, 0, len(shapes))
	for name := range shapes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := t.name(name, shapes[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if err := t.fill(t.types[name], shapes[name]); err != nil {
			return nil, err
		}
	}
	for _, of := range t.valued {
		if err := bearable(of); err != nil {
			return nil, &TypeFault{of.name, err.Error()}
		}
		t.define(of)
	}
	return t, nil
}

// bearable reports a type whose zero value is endless, or long.
func bearable(of *Type) error {
	switch w := weigh(of, map[*Type]int{}); {
	case w < 0:
		return fmt.Errorf("contains itself: use *%s or []%s", of, of)
	case w > weightMax:
		return fmt.Errorf("has more than %d fields with what is in it: use pointers", weightMax)
	}
	return nil
}

// newTable has the built-in words, and net/rpc's header.
func newTable(o Options) *Table {
	t := &Table{types: map[string]*Type{}, registered: map[string]*Type{}, defs: map[int64][]byte{}, options: o}
	for _, s := range scalars {
		of := &Type{kind: s.kind, name: s.word, goName: s.goName, bits: s.bits, id: s.id}
		of.wide = o.WideAsText && s.bits == 64 && (s.kind == kindInt || s.kind == kindUint)
		t.types[s.word] = of
	}
	t.request = &Type{kind: kindStruct, name: "Request"}
	t.request.fields = []Field{{"ServiceMethod", t.types["string"]}, {"Seq", t.types["uint"]}}
	t.number(t.request)
	t.strings, _ = t.Type("[]string") // becomes stringsID
	t.define(t.request)
	t.define(t.strings)
	return t
}

// name makes a named type known, so that others can be described by it.
func (t *Table) name(name string, s Shape) error {
	if t.types[name] != nil || strings.ContainsAny(name, "[]*:, ") || name == "" || encoded[name] != 0 {
		return &TypeFault{name, "cannot be the name of a type: choose a word that is not built in"}
	}
	of := &Type{name: name, named: true, goName: s.Registered}
	t.types[name] = of
	if s.Registered == "" {
		return nil
	}
	if len(s.Registered) > nameBytesMax {
		return &TypeFault{name + ".registered", fmt.Sprintf("is longer than %d bytes; gob knows no such name", nameBytesMax)}
	}
	if twin := t.registered[s.Registered]; twin != nil {
		return &TypeFault{name + ".registered", fmt.Sprintf("is the name of %s too: gob has one type by a name", twin)}
	}
	t.registered[s.Registered] = of
	return nil
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
	given := 0
	for _, is := range []bool{len(s.Fields) > 0, len(s.Keys) > 0, s.Type != ""} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return &TypeFault{into.name, "has more than one of fields, keys and type: it is a struct, a map, or another type"}
	case s.Type != "":
		return t.same(into, s.Type)
	case len(s.Keys) > 0:
		into.kind, into.key, into.elem = kindRecord, t.types["string"], t.types["any"]
		return t.members(into, "keys", s.Keys)
	}
	into.kind = kindStruct
	return t.members(into, "fields", s.Fields)
}

// same makes into another name of a type.
func (t *Table) same(into *Type, text string) error {
	of, err := t.parse(text, 0)
	switch {
	case err != nil:
		return &TypeFault{into.name + ".type", err.Error()}
	case of.kind == kindPointer || of.named:
		return &TypeFault{into.name + ".type", fmt.Sprintf("%s has a name already: write it where it is used", strings.TrimLeft(text, "*"))}
	}
	name, registered := into.name, into.goName
	*into = *of
	into.name, into.goName, into.named = name, registered, true
	return nil
}

func (t *Table) members(into *Type, part string, members map[string]string) error {
	if len(members) > fieldsMax {
		return &TypeFault{into.name, fmt.Sprintf("has %d %s; at most %d", len(members), part, fieldsMax)}
	}
	for name, text := range members {
		member, err := t.parse(text, 0)
		if err == nil && into.kind == kindRecord && member.goName == "" {
			err = fmt.Errorf("%s cannot stand in a map of interfaces: only basic types, slices of them and what is registered are known to the plugin", text)
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
	t.number(into)
	t.valued = append(t.valued, into)
	return nil
}

// Type returns the type that text names: a word, a named type, or one built from
// them. NewTable has returned before types are asked for from several goroutines.
func (t *Table) Type(text string) (*Type, error) {
	before := len(t.valued)
	of, err := t.parse(text, 0)
	if err != nil {
		return nil, err
	}
	for _, made := range t.valued[before:] {
		if err := bearable(made); err != nil {
			return nil, fmt.Errorf("%s %w", made, err)
		}
	}
	return of, nil
}

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
	if err := t.build(made, depth); err != nil {
		return nil, err
	}
	t.number(made)
	t.types[text] = made
	return made, nil
}

// build fills in a type that is no word, by its name.
func (t *Table) build(made *Type, depth int) (err error) {
	text := made.name
	switch {
	case encoded[text] != 0:
		made.kind = encoded[text]
	case strings.HasPrefix(text, "[]"):
		made.kind = kindSlice
		made.elem, err = t.parse(text[2:], depth+1)
		if err == nil && made.elem.scalar() {
			made.goName = "[]" + made.elem.goName // gob itself registers it
		}
	case strings.HasPrefix(text, "["):
		return t.array(made, depth)
	case strings.HasPrefix(text, "*"):
		made.kind = kindPointer
		made.elem, err = t.parse(text[1:], depth+1)
	case strings.HasPrefix(text, "map:"):
		return t.mapOf(made, depth)
	default:
		return fmt.Errorf("%q is not a type: write %s", text, Grammar)
	}
	return err
}

func (t *Table) array(made *Type, depth int) (err error) {
	made.kind = kindArray
	length, elem, ok := strings.Cut(made.name[1:], "]")
	if ok {
		made.length, ok = digits(length)
	}
	if !ok || made.length == 0 || made.length > weightMax {
		return fmt.Errorf("%q is not a type: write [N]T with N from 1 to %d", made.name, weightMax)
	}
	made.elem, err = t.parse(elem, depth+1)
	t.valued = append(t.valued, made)
	return err
}

func digits(text string) (n int, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' || n > weightMax {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, text != ""
}

func (t *Table) mapOf(made *Type, depth int) (err error) {
	made.kind = kindMap
	key, elem, ok := strings.Cut(made.name[len("map:"):], ",")
	if !ok {
		return fmt.Errorf("%q is not a type: write map:KEY,VALUE", made.name)
	}
	if made.key, err = t.parse(key, depth+1); err != nil {
		return err
	}
	if !slices.Contains([]kind{kindString, kindInt, kindUint, kindBool, kindAny}, made.key.kind) {
		return fmt.Errorf("%q cannot be the key of a map: JSON has text keys; use string, int, uint, bool or any", key)
	}
	made.elem, err = t.parse(elem, depth+1)
	return err
}

func (t *Table) number(made *Type) {
	if made.kind == kindPointer { // gob flattens pointers
		return
	}
	made.id = int64(firstID + len(t.defs))
	t.defs[made.id] = nil // numbered now, written once all are known
}

// scalar reports a built-in word that stands for a Go type of its own.
func (t *Type) scalar() bool {
	return !t.named && (t.kind < kindBytes || t.kind == kindString)
}

// wire is the type that stands on the wire for t.
func (t *Type) wire() *Type {
	for t.kind == kindPointer {
		t = t.elem
	}
	return t
}

// weigh counts the fields of a struct and of what is directly in it, which is
// what filling in a zero value writes; negative when t contains itself.
func weigh(t *Type, known map[*Type]int) int {
	if t.kind != kindStruct && t.kind != kindArray {
		return 1
	}
	if w, ok := known[t]; ok {
		return w
	}
	known[t] = -1 // until it is known: whoever asks meanwhile is inside t
	total := 1
	if t.kind == kindArray {
		w := weigh(t.elem, known)
		if w < 0 {
			return -1
		}
		total = min(w*t.length, weightMax+1)
	}
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
	n := needs{table: t, seen: map[int64]bool{}}
	n.reach(of.wire())
	return n.ids
}

// needs gathers what a type consists of.
type needs struct {
	table *Table
	ids   []int64
	seen  map[int64]bool
	any   bool // what an interface may hold is among them
}

func (n *needs) reach(of *Type) {
	of = of.wire()
	if of.kind == kindAny && !n.any { // may turn out to hold a []string, or what is registered
		n.any = true
		n.reach(n.table.strings)
		for _, held := range n.table.held() {
			n.reach(held)
		}
	}
	// A name for another type has that one's number.
	if of.id < firstID || n.seen[of.id] {
		return
	}
	n.seen[of.id] = true
	n.ids = append(n.ids, of.id)
	n.table.define(of)
	for _, f := range of.fields {
		n.reach(f.Type)
	}
	if of.key != nil {
		n.reach(of.key)
	}
	if of.elem != nil {
		n.reach(of.elem)
	}
}

// held are the registered types, in order.
func (t *Table) held() []*Type {
	names := make([]string, 0, len(t.registered))
	for name := range t.registered {
		names = append(names, name)
	}
	sort.Strings(names)
	types := make([]*Type, len(names))
	for i, name := range names {
		types[i] = t.registered[name]
	}
	return types
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
	case kindArray: // wireType field 0: {CommonType, Elem, Len}
		body = common(append(body, 1))
		body = appendInt(append(body, 1), of.elem.wire().id)
		body = appendInt(append(body, 1), int64(of.length))
	case kindSlice: // field 1: {CommonType, Elem}
		body = common(append(body, 2))
		body = appendInt(append(body, 1), of.elem.wire().id)
	case kindMap, kindRecord: // field 3: {CommonType, Key, Elem}
		body = common(append(body, 4))
		body = appendInt(append(body, 1), of.key.wire().id)
		body = appendInt(append(body, 1), of.elem.wire().id)
	case kindTime, kindBig, kindGob: // field 4, GobEncoder: {CommonType}
		body = common(append(body, 5))
	case kindBinary: // field 5, BinaryMarshaler: {CommonType}
		body = common(append(body, 6))
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

// Member returns the type of the field or key that name means, in any capitals;
// nil when there is none.
func (t *Type) Member(name []byte) *Type {
	of := t.wire()
	if i := of.field(name); i >= 0 {
		return of.fields[i].Type
	}
	return nil
}

// Same reports that two names mean one field or key.
func (t *Type) Same(a []byte, b string) bool {
	of := t.wire()
	i := of.field(a)
	return i >= 0 && i == of.field([]byte(b))
}

// Members are the names of the fields or keys, sorted.
func (t *Type) Members() []string {
	of := t.wire()
	names := make([]string, len(of.fields))
	for i, f := range of.fields {
		names[i] = f.Name
	}
	return names
}
