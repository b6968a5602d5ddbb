package gowire

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A message is a struct type.
type message struct {
	typ      reflect.Type
	name     string
	doc      string
	fields   []*field
	byNumber map[protowire.Number]*field
	required bool // one of its fields is
}

type field struct {
	name     string // in JSON
	proto    string // in protobuf
	number   protowire.Number
	index    []int
	elem     *form // of the value, or of the elements
	key      *form // of a map
	repeated bool
	omit     func(reflect.Value) bool // whether the tag leaves a value out
	quoted   bool                     // 64 bits as text
	required bool
	enum     []string
	doc      string
}

// structForm returns the form of a struct, whose fields may lead to it again.
func (s *Schema) structForm(t reflect.Type, name string) (*form, error) {
	m := s.byType[t]
	if m == nil {
		if t.Name() != "" {
			name = t.Name()
		}
		m = &message{typ: t, name: s.name(name, t), byNumber: map[protowire.Number]*field{}}
		s.byType[t] = m
		s.messages = append(s.messages, m)
		if err := s.addFields(m, t, nil); err != nil {
			return nil, err
		}
		if err := m.number(); err != nil {
			return nil, err
		}
	}
	return &form{
		typ: t, kind: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, wire: protowire.BytesType,
		message: "." + s.pkg + "." + m.name, fields: m, append: m.append,
		read: func(v reflect.Value, _ uint64, raw []byte, depth int) error { return m.read(v, raw, depth) },
	}, nil
}

// name makes a name of a message that no other has.
func (s *Schema) name(wanted string, t reflect.Type) string {
	name := upper(identifier(wanted))
	if s.taken[name] && t.PkgPath() != "" {
		name = upper(identifier(t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:])) + name
	}
	for base, n := name, 2; s.taken[name]; n++ {
		name = base + strconv.Itoa(n)
	}
	s.taken[name] = true
	return name
}

// identifier leaves out what protobuf's names do not have: the paths of a generic
// type's parameters, and all punctuation.
func identifier(name string) string {
	var b strings.Builder
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == '[' || r == ']' || r == ',' || r == ' ' }) {
		part, _, _ = strings.Cut(part[strings.LastIndexAny(part, "./")+1:], "·") // which numbers the types of functions
		for i, r := range part {
			switch {
			case r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_':
			case i == 0:
				b.WriteRune(unicode.ToUpper(r))
			default:
				b.WriteRune(r)
			}
		}
	}
	if b.Len() == 0 || unicode.IsDigit(rune(b.String()[0])) {
		return "T" + b.String()
	}
	return b.String()
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// addFields takes in the fields of t, which is m's type or embedded in it at index.
func (s *Schema) addFields(m *message, t reflect.Type, index []int) error {
	for i := range t.NumField() {
		f := t.Field(i)
		here := append(slices.Clone(index), i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Anonymous && name == "" && (f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct)
		switch {
		case f.Name == "_" && index == nil:
			m.doc = f.Tag.Get("doc")
			continue
		case f.Tag.Get("json") == "-", !f.IsExported() && !embedded:
			continue
		case embedded && f.Type.Kind() == reflect.Pointer:
			return at(f.Name, errors.New("is an embedded pointer; embed the struct itself"))
		case embedded && !s.hasOwnForm(f.Type):
			if err := s.addFields(m, f.Type, here); err != nil {
				return err
			}
			continue
		case !f.IsExported():
			continue
		}
		if name == "" {
			name = f.Name
		}
		made, err := s.field(m, f, name, strings.Split(options, ","))
		if err != nil {
			return at(f.Name, err)
		}
		made.index = here
		m.fields = append(m.fields, made)
	}
	return nil
}

// hasOwnForm is true for structs that are one value: a time, a type with MarshalText.
func (s *Schema) hasOwnForm(t reflect.Type) bool {
	return t == timeType || does(t, writesJSON) || does(t, writesText)
}

func (s *Schema) field(m *message, f reflect.StructField, name string, options []string) (*field, error) {
	made := &field{name: name, doc: f.Tag.Get("doc"), required: f.Tag.Get("required") == "true", quoted: slices.Contains(options, "string")}
	if strings.ContainsAny(name, `"\<>&`) || strings.ContainsFunc(name, unicode.IsControl) {
		return nil, fmt.Errorf("the name %q in its json tag cannot be one", name)
	}
	m.required = m.required || made.required
	inner := m.name + upper(identifier(f.Name)) // for a struct that has no name
	if err := s.shape(made, f.Type, inner); err != nil {
		return nil, err
	}
	switch {
	case made.quoted && !made.elem.is64():
		return nil, errors.New(`",string" in its json tag is for int64 and uint64`)
	case slices.Contains(options, "omitzero"):
		made.omit = isZero
	case slices.Contains(options, "omitempty"):
		made.omit = isEmpty
	default:
		made.omit = func(v reflect.Value) bool {
			return (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) && v.IsNil()
		}
	}
	if words := f.Tag.Get("enum"); words != "" {
		if made.elem.kind != descriptorpb.FieldDescriptorProto_TYPE_STRING || made.key != nil {
			return nil, errors.New("an enum tag is for texts and lists of texts")
		}
		made.enum = strings.Split(words, ",")
	}
	if number := f.Tag.Get("number"); number != "" {
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || !protowire.Number(n).IsValid() || n >= int64(protowire.FirstReservedNumber) && n <= int64(protowire.LastReservedNumber) {
			return nil, fmt.Errorf("its number %q cannot be one; write 1 to 18999", number)
		}
		made.number = protowire.Number(n)
	}
	return made, nil
}

// shape finds the form of a field, or of its elements.
func (s *Schema) shape(f *field, t reflect.Type, name string) (err error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if f.elem, err = s.single(t, name); err != nil || f.elem != nil {
		return err
	}
	f.repeated = true
	element := t.Elem()
	if element.Kind() == reflect.Pointer {
		element = element.Elem()
	}
	if element.Kind() != reflect.Pointer {
		f.elem, err = s.single(element, name)
	}
	if err == nil && f.elem != nil && t.Kind() == reflect.Map {
		f.key, err = s.single(t.Key(), name)
		if !keyable(t.Key()) || f.key == nil {
			return fmt.Errorf("%s has keys that are no keys in JSON; use strings or integers", t)
		}
	}
	if err != nil || f.elem != nil {
		return err
	}
	f.repeated = false // a list of lists, and the like
	f.elem, err = s.jsonForm(t)
	return err
}

// number numbers the fields, and gives them names in protobuf.
func (m *message) number() error {
	given := 0
	for _, f := range m.fields {
		if f.number != 0 {
			given++
		}
	}
	if given != 0 && given != len(m.fields) {
		return errors.New("some fields have a number tag and some have none; give it to all")
	}
	names, protos := map[string]bool{}, map[string]bool{}
	for i, f := range m.fields {
		if given == 0 {
			f.number = protowire.Number(i + 1)
		}
		if m.byNumber[f.number] != nil {
			return at(f.name, fmt.Errorf("has the number %d, as %s has", f.number, m.byNumber[f.number].name))
		}
		if names[f.name] {
			return at(f.name, errors.New("there are two fields of this name"))
		}
		names[f.name], m.byNumber[f.number] = true, f
		f.proto = snake(f.name)
		if protos[f.proto] {
			f.proto += "_" + strconv.Itoa(int(f.number))
		}
		protos[f.proto] = true
	}
	return nil
}

// snake writes maxItems and max-items as max_items.
func snake(name string) string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		switch {
		case r <= unicode.MaxASCII && (unicode.IsLower(r) || unicode.IsDigit(r)):
			b.WriteRune(r)
			lower = true
		case r <= unicode.MaxASCII && unicode.IsUpper(r):
			if lower {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
			lower = false
		default:
			b.WriteByte('_')
			lower = false
		}
	}
	if first := b.String()[0]; first == '_' || first >= '0' && first <= '9' {
		return "f" + b.String()
	}
	return b.String()
}

func isZero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok && !(v.Kind() == reflect.Pointer && v.IsNil()) {
		return z.IsZero()
	}
	return v.IsZero()
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
