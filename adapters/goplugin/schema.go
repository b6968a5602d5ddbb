package goplugin

import (
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// schemaTypesMax is how many types one schema describes; what is beyond is any
	// object there. Terraform's largest has about forty.
	schemaTypesMax = 500
	// schemaBytesMax bounds all schemas of a plugin; operations beyond have none.
	schemaBytesMax = 16 << 20
)

// messageSchema is the JSON Schema (2020-12) of a message in protobuf's JSON
// mapping.
func messageSchema(d protoreflect.MessageDescriptor) plugin.RawJSON {
	defs := map[string]any{}
	var schema map[string]any
	if _, known := wellKnownSchemas[d.FullName()]; known {
		schema = refTo(d, defs)
	} else { // written out, so that a reader sees the fields at once
		schema = objectSchema()
		addProperties(schema, d, defs)
		describeBy(schema, d)
	}
	if len(defs) > 0 {
		schema["$defs"] = defs
	}
	out, err := json.Marshal(schema)
	if err != nil { // maps of texts always marshal
		return nil
	}
	return out
}

func objectSchema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{}, "additionalProperties": false}
}

func addProperties(schema map[string]any, d protoreflect.MessageDescriptor, defs map[string]any) {
	properties := schema["properties"].(map[string]any)
	var required []string
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		rules := rulesOf(f)
		one := fieldSchema(f, defs, rules)
		describeBy(one, f)
		properties[f.JSONName()] = one
		if rules.required || f.Cardinality() == protoreflect.Required {
			required = append(required, f.JSONName())
		}
	}
	if len(required) > 0 {
		schema["required"] = required
	}
}

// commentMax bounds what is taken of a comment.
const commentMax = 1000

// describeBy adds the comment that a descriptor has, if the plugin tells it.
func describeBy(schema map[string]any, d protoreflect.Descriptor) {
	if text := commentOf(d); text != "" {
		schema["description"] = text
	}
}

// commentOf is the comment before a declaration, in one line.
func commentOf(d protoreflect.Descriptor) string {
	text := strings.Join(strings.Fields(d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments), " ")
	if len(text) > commentMax {
		text = text[:commentMax] + "..."
	}
	return strings.ToValidUTF8(text, "")
}

// wellKnownSchemas are the messages that have a JSON form of their own.
var wellKnownSchemas = map[protoreflect.FullName]string{
	"google.protobuf.Timestamp":   `{"type":"string","format":"date-time"}`,
	"google.protobuf.Duration":    `{"type":"string"}`,
	"google.protobuf.FieldMask":   `{"type":"string"}`,
	"google.protobuf.Struct":      `{"type":"object"}`,
	"google.protobuf.ListValue":   `{"type":"array"}`,
	"google.protobuf.Value":       `{}`,
	"google.protobuf.Any":         `{"type":"object","properties":{"@type":{"type":"string"}}}`,
	"google.protobuf.BoolValue":   `{"type":["boolean","null"]}`,
	"google.protobuf.StringValue": `{"type":["string","null"]}`,
	"google.protobuf.BytesValue":  `{"type":["string","null"],"contentEncoding":"base64"}`,
	"google.protobuf.Int32Value":  `{"type":["integer","null"]}`,
	"google.protobuf.UInt32Value": `{"type":["integer","null"]}`,
	"google.protobuf.Int64Value":  `{"type":["string","integer","null"]}`,
	"google.protobuf.UInt64Value": `{"type":["string","integer","null"]}`,
	"google.protobuf.FloatValue":  `{"type":["number","string","null"]}`,
	"google.protobuf.DoubleValue": `{"type":["number","string","null"]}`,
}

func refTo(d protoreflect.MessageDescriptor, defs map[string]any) map[string]any {
	if known, ok := wellKnownSchemas[d.FullName()]; ok {
		schema := map[string]any{}
		_ = json.Unmarshal([]byte(known), &schema)
		return schema
	}
	name := string(d.FullName())
	if defs[name] == nil {
		if len(defs) >= schemaTypesMax {
			return map[string]any{"type": "object"}
		}
		schema := objectSchema()
		defs[name] = schema // before its fields, which may refer to it
		addProperties(schema, d, defs)
		describeBy(schema, d)
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}

func fieldSchema(f protoreflect.FieldDescriptor, defs map[string]any, rules rules) map[string]any {
	switch {
	case f.IsMap():
		return map[string]any{"type": "object", "additionalProperties": singleSchema(f.MapValue(), defs)}
	case f.IsList():
		return map[string]any{"type": "array", "items": rules.narrow(singleSchema(f, defs))}
	}
	return rules.narrow(singleSchema(f, defs))
}

func singleSchema(f protoreflect.FieldDescriptor, defs map[string]any) map[string]any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return map[string]any{"type": "boolean"}
	case protoreflect.StringKind:
		return map[string]any{"type": "string"}
	case protoreflect.BytesKind:
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return map[string]any{"type": []string{"number", "string"}} // "NaN", "Infinity"
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind,
		protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetJstype() == descriptorpb.FieldOptions_JS_NUMBER {
			break
		}
		return map[string]any{"type": []string{"string", "integer"}} // answers have text: 64 bits do not fit in every JSON reader
	case protoreflect.EnumKind:
		return enumSchema(f.Enum())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return refTo(f.Message(), defs)
	}
	return map[string]any{"type": "integer"}
}

func enumSchema(d protoreflect.EnumDescriptor) map[string]any {
	if d.FullName() == "google.protobuf.NullValue" {
		return map[string]any{"type": "null"}
	}
	names := make([]string, d.Values().Len())
	for i := range names {
		names[i] = string(d.Values().Get(i).Name())
	}
	return map[string]any{"anyOf": []any{map[string]any{"enum": names}, map[string]any{"type": "integer"}}}
}
