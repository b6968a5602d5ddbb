package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// SchemaID names the schema of the manifests of this API version.
const SchemaID = "https://patchbay.dev/schema/v1/plugin.schema.json"

// typeDepthMax stops at types that contain themselves, which a schema without
// references cannot show.
const typeDepthMax = 20

// pairs is a JSON object whose keys keep their order.
type pairs []pair

type pair struct {
	key   string
	value any
}

// MarshalJSON writes the keys in order.
func (ps pairs) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, p := range ps {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(appendString(nil, p.key))
		out.WriteByte(':')
		value, err := json.Marshal(p.value)
		if err != nil {
			return nil, err
		}
		out.Write(value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// Schema returns the JSON Schema (2020-12) of a manifest with the parser's
// adapters, made from the Go types and their json, doc, enum, min, max and
// required tags. It is indented, ends with a newline and is always the same for
// the same types.
func (p *Parser) Schema() ([]byte, error) {
	root, err := p.schemaOf(reflect.TypeFor[plugin.Manifest](), "", 0)
	if err != nil {
		return nil, err
	}
	head := pairs{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", SchemaID},
		{"title", "Patchbay plugin"},
	}
	text, err := json.Marshal(append(head, root...))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func (p *Parser) schemaOf(t reflect.Type, tag reflect.StructTag, depth int) (pairs, error) {
	if depth > typeDepthMax {
		return nil, fmt.Errorf("schema: type %s contains itself", t)
	}
	var out pairs
	if doc := tag.Get("doc"); doc != "" {
		out = append(out, pair{"description", doc})
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if special, ok := specialSchema(t); ok {
		return append(out, special...), nil
	}
	switch t.Kind() {
	case reflect.Struct:
		body, err := p.structSchema(t, depth)
		return append(out, body...), err
	case reflect.Map:
		values, err := p.schemaOf(t.Elem(), "", depth+1)
		return append(out, pair{"type", "object"}, pair{"additionalProperties", values}), err
	case reflect.Slice, reflect.Array:
		items, err := p.schemaOf(t.Elem(), itemTag(tag), depth+1)
		return append(out, pair{"type", "array"}, pair{"items", items}), err
	case reflect.String:
		out = append(out, pair{"type", "string"})
		if words, ok := tag.Lookup("enum"); ok {
			out = append(out, pair{"enum", strings.Split(words, ",")})
		}
		return out, nil
	case reflect.Bool:
		return append(out, pair{"type", "boolean"}), nil
	case reflect.Float32, reflect.Float64:
		return append(out, numberSchema("number", tag)...), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return append(out, numberSchema("integer", tag)...), nil
	}
	return nil, fmt.Errorf("schema: type %s cannot be read from a manifest", t)
}

// itemTag keeps of a list's tag what holds for its items.
func itemTag(tag reflect.StructTag) reflect.StructTag {
	var kept []string
	for _, key := range [...]string{"enum", "min", "max"} {
		if words, ok := tag.Lookup(key); ok {
			kept = append(kept, key+":"+strconv.Quote(words))
		}
	}
	return reflect.StructTag(strings.Join(kept, " "))
}

// specialSchema is of types that read themselves.
func specialSchema(t reflect.Type) (pairs, bool) {
	switch t {
	case rawType:
		return pairs{}, true
	case envType:
		secret := pairs{{"type", "object"}, {"additionalProperties", false}, {"required", []string{"secret"}},
			{"properties", pairs{{"secret", pairs{{"type", "string"}, {"minLength", 1}, {"description", "Name of a secret; its value is put in at launch."}}}}}}
		return pairs{{"oneOf", []pairs{{{"type", []string{"string", "number", "boolean"}}}, secret}}}, true
	case reflect.TypeFor[plugin.Duration]():
		return pairs{{"type", "string"}, {"pattern", `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)`}, {"examples", []string{"250ms", "10s", "5m"}}}, true
	case reflect.TypeFor[plugin.Bytes]():
		return pairs{{"type", []string{"string", "integer"}}, {"pattern", `^ *[0-9.eE+]+ *([KMGT]i?B|kB|B)? *$`}, {"examples", []string{"64KiB", "256MiB", "1GiB"}}}, true
	case specType:
		return nil, false
	}
	switch {
	case t.Kind() == reflect.Interface, reflect.PointerTo(t).Implements(jsonType):
		return pairs{}, true
	case reflect.PointerTo(t).Implements(textType):
		return pairs{{"type", []string{"string", "number", "boolean"}}}, true
	}
	return nil, false
}

func numberSchema(typ string, tag reflect.StructTag) pairs {
	out := pairs{{"type", typ}}
	for _, bound := range [...][2]string{{"min", "minimum"}, {"max", "maximum"}} {
		if text, ok := tag.Lookup(bound[0]); ok {
			out = append(out, pair{bound[1], json.Number(text)})
		}
	}
	return out
}

func (p *Parser) structSchema(t reflect.Type, depth int) (pairs, error) {
	properties := pairs{}
	var required []string
	for _, m := range members(t) {
		value, err := p.schemaOf(m.typ, m.tag, depth+1)
		if err != nil {
			return nil, err
		}
		switch t.Name() + "." + m.name {
		case "Manifest.apiVersion":
			value = append(value, pair{"const", plugin.APIVersion})
		case "Manifest.kind":
			value = append(value, pair{"const", plugin.Kind})
		case "Metadata.name":
			value = append(value, pair{"pattern", `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`}, pair{"maxLength", plugin.NameMax})
		case "Spec.digest":
			value = append(value, pair{"pattern", digestPattern.String()})
		}
		properties = append(properties, pair{m.name, value})
		if isRequired(t, m) {
			required = append(required, m.name)
		}
	}
	out := pairs{{"type", "object"}, {"additionalProperties", false}}
	if t == specType {
		blocks, choice, err := p.blockSchemas(depth)
		if err != nil {
			return nil, err
		}
		properties = append(blocks, properties...)
		out = append(out, pair{"oneOf", choice})
	}
	if t == reflect.TypeFor[plugin.Stream]() {
		out = append(out, pair{"oneOf", []pairs{
			{{"required", []string{"source", "publish"}}, {"properties", pairs{{"sink", false}, {"subscribe", false}}}},
			{{"required", []string{"sink", "subscribe"}}, {"properties", pairs{{"source", false}, {"publish", false}}}},
		}})
	}
	if required != nil {
		out = append(out, pair{"required", required})
	}
	return append(out, pair{"properties", properties}), nil
}

// isRequired goes by the required tag; of the vocabulary, which has no such tags,
// the few fields without omitempty are required.
func isRequired(t reflect.Type, m member) bool {
	if m.tag.Get("required") == "true" {
		return true
	}
	_, optional, _ := strings.Cut(m.tag.Get("json"), ",")
	return optional == "" && slices.Contains([]reflect.Type{
		reflect.TypeFor[plugin.Manifest](), reflect.TypeFor[plugin.Metadata](), reflect.TypeFor[plugin.ExitRule](),
		reflect.TypeFor[plugin.ExecQuestion](), reflect.TypeFor[plugin.LogQuestion](), reflect.TypeFor[plugin.NATSQuestion](),
	}, t)
}

// blockSchemas returns a property per adapter and the choice of exactly one.
func (p *Parser) blockSchemas(depth int) (blocks pairs, choice []pairs, err error) {
	for _, name := range p.names {
		block := pairs{{"type", "object"}}
		if s, ok := p.adapters[name].(plugin.Specifier); ok {
			block, err = p.schemaOf(reflect.TypeOf(s.Spec()), "", depth+1)
			if err != nil {
				return nil, nil, fmt.Errorf("adapter %s: %w", name, err)
			}
		}
		block = append(pairs{{"description", "A plugin of the " + name + " adapter."}}, block...)
		blocks = append(blocks, pair{name, block})
		choice = append(choice, pairs{{"required", []string{name}}})
	}
	return blocks, choice, nil
}
