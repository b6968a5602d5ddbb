package api

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// schemas makes JSON Schemas of Go types: structs by their json tags, once each
// and by name. They refer to each other below base.
type schemas struct {
	named object
	base  string
}

func (s *schemas) of(value any) object { return s.schema(reflect.TypeOf(value)) }

func (s *schemas) schema(t reflect.Type) object {
	if known := special(t); known != nil {
		return known
	}
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.schema(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": s.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.schema(t.Elem())}
	case reflect.Struct:
		return s.reference(t)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	default:
		panic("openapi: no schema for " + t.String()) // a programmer's mistake that the golden test finds
	}
}

// special is the types whose JSON does not follow from their fields.
func special(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{} // any JSON
	case reflect.TypeFor[plugin.EnvValue]():
		return object{"description": "A text, or a reference to a secret.", "oneOf": []object{
			{"type": "string"},
			{"type": "object", "required": []string{"secret"}, "properties": object{"secret": object{"type": "string"}}},
		}}
	case reflect.TypeFor[manifestDoc]():
		return object{"type": "object", "description": "A manifest; /v1/schema/plugin.json has its whole schema."}
	case reflect.TypeFor[plugin.Event]():
		return eventSchema()
	}
	return nil
}

func eventSchema() object {
	text, required := object{"type": "string"}, []string{"specversion", "id", "source", "type", "time"}
	return object{
		"type": "object", "description": "A CloudEvents 1.0 event in structured form.", "required": required,
		"properties": object{
			"specversion": object{"const": "1.0"}, "id": text, "source": text, "type": text, "subject": text,
			"time": object{"type": "string", "format": "date-time"}, "datacontenttype": text, "plugin": text,
			"sequence": object{"type": "integer", "description": "Its place in the history: the id to resume after."}, "data": object{},
		},
	}
}

// reference puts a struct's schema among the named ones and refers to it.
func (s *schemas) reference(t reflect.Type) object {
	name := t.Name()
	if _, done := s.named[name]; !done {
		s.named[name] = nil // for types that hold themselves
		s.named[name] = s.structure(t)
	}
	return object{"$ref": s.base + name}
}

func (s *schemas) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	s.fields(t, properties, &required)
	schema := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	if t == reflect.TypeFor[plugin.Spec]() {
		schema["description"] = "Exactly one further key names the adapter; its value is the adapter's own block."
		schema["additionalProperties"] = object{"type": "object"}
	}
	return schema
}

func (s *schemas) fields(t reflect.Type, properties object, required *[]string) {
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		if f.Anonymous && tag == "" {
			s.fields(f.Type, properties, required)
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" || name == "" {
			continue
		}
		properties[name] = describe(s.schema(f.Type), f.Tag)
		if !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}

// describe adds what the tags say. Beside a $ref that is allowed since OpenAPI 3.1.
func describe(schema object, tag reflect.StructTag) object {
	if doc := tag.Get("doc"); doc != "" {
		schema["description"] = doc
	}
	if words := tag.Get("enum"); words != "" {
		schema["enum"] = strings.Split(words, ",")
	}
	return schema
}
