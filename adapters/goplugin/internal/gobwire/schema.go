package gobwire

import (
	"encoding/json"
)

// Schema returns the JSON Schema (2020-12) of values of type t. Of a struct the
// required fields are listed, and the one that is kept apart is left out.
func (t *Type) Schema(required []string, apart string) json.RawMessage {
	defs := map[string]any{}
	var schema map[string]any
	if of := t.wire(); len(of.fields) > 0 { // written out, so that a reader sees the fields at once
		schema = of.object(defs)
		delete(schema["properties"].(map[string]any), apart)
		if len(required) > 0 {
			schema["required"] = required
		}
	} else {
		schema = of.schema(defs)
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

func (t *Type) schema(defs map[string]any) map[string]any {
	switch t.kind {
	case kindBool:
		return map[string]any{"type": "boolean"}
	case kindInt, kindUint:
		return t.integer()
	case kindComplex:
		return map[string]any{"type": "array", "items": map[string]any{"type": "number"}, "minItems": 2, "maxItems": 2}
	case kindFloat:
		return map[string]any{"type": "number"}
	case kindString:
		return map[string]any{"type": "string"}
	case kindBig:
		return map[string]any{"type": []string{"string", "integer"}, "pattern": "^-?[0-9]+$"}
	case kindBytes, kindGob, kindBinary:
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	case kindTime:
		return map[string]any{"type": "string", "format": "date-time"}
	case kindSlice:
		return map[string]any{"type": "array", "items": t.elem.schema(defs)}
	case kindArray:
		return map[string]any{"type": "array", "items": t.elem.schema(defs), "minItems": t.length, "maxItems": t.length}
	case kindMap:
		return map[string]any{"type": "object", "additionalProperties": t.elem.schema(defs)}
	case kindPointer:
		return t.elem.schema(defs)
	case kindStruct, kindRecord:
		t.definition(defs)
		return map[string]any{"$ref": "#/$defs/" + t.name}
	}
	return map[string]any{}
}

func (t *Type) integer() map[string]any {
	switch {
	case t.wide:
		return map[string]any{"type": []string{"string", "integer"}}
	case t.kind == kindUint:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	return map[string]any{"type": "integer"}
}

func (t *Type) definition(defs map[string]any) {
	if defs[t.name] != nil {
		return
	}
	defs[t.name] = true // taken, before its fields, which may refer to it
	defs[t.name] = t.object(defs)
}

func (t *Type) object(defs map[string]any) map[string]any {
	properties := map[string]any{}
	for _, f := range t.fields {
		properties[f.Name] = f.Type.schema(defs)
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}
