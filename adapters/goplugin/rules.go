package goplugin

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Numbers of protovalidate's rules (buf/validate/validate.proto), the usual way to say in a
// declaration what a value has to be. They are read where they stand, among the options
// that the daemon has no Go types for.
const (
	validateField    = 1159 // extends FieldOptions, by FieldRules
	rulesRequired    = 25
	rulesString      = 14
	rulesRepeated    = 18
	stringRulesIn    = 10
	repeatedElements = 4
)

// wordsMax bounds the words of one field.
const wordsMax = 1000

// rules are what of protovalidate's has a word in JSON Schema that programs make use of.
type rules struct {
	required bool
	words    []string // one of which a text, or an element, is
}

func rulesOf(f protoreflect.FieldDescriptor) (r rules) {
	each(f.Options().ProtoReflect().GetUnknown(), func(number protowire.Number, _ uint64, extension []byte) {
		if number != validateField {
			return
		}
		each(extension, func(number protowire.Number, n uint64, inner []byte) {
			switch {
			case number == rulesRequired:
				r.required = n != 0
			case number == rulesString && !f.IsList():
				r.in(inner)
			case number == rulesRepeated && f.IsList():
				each(inner, func(number protowire.Number, _ uint64, element []byte) {
					if number == repeatedElements {
						each(element, func(number protowire.Number, _ uint64, inner []byte) {
							if number == rulesString {
								r.in(inner)
							}
						})
					}
				})
			}
		})
	})
	return r
}

// in takes the words of StringRules.
func (r *rules) in(stringRules []byte) {
	each(stringRules, func(number protowire.Number, _ uint64, word []byte) {
		if number == stringRulesIn && len(r.words) < wordsMax {
			r.words = append(r.words, string(word))
		}
	})
}

// narrow adds what texts are allowed.
func (r rules) narrow(schema map[string]any) map[string]any {
	if len(r.words) > 0 && schema["type"] == "string" {
		schema["enum"] = r.words
	}
	return schema
}

// each calls take with every number and every text of a message, as far as it is one.
func each(wire []byte, take func(number protowire.Number, n uint64, content []byte)) {
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return
		}
		wire = wire[n:]
		size := protowire.ConsumeFieldValue(number, kind, wire)
		if size < 0 {
			return
		}
		switch kind {
		case protowire.VarintType:
			value, _ := protowire.ConsumeVarint(wire)
			take(number, value, nil)
		case protowire.BytesType:
			content, _ := protowire.ConsumeBytes(wire)
			take(number, 0, content)
		}
		wire = wire[size:]
	}
}
