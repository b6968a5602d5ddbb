package gowire

import (
	"encoding/json"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// jsonForm is the form of what protobuf has no type for: JSON, by encoding/json.
func (s *Schema) jsonForm(t reflect.Type) (*form, error) {
	if err := inJSON(t, map[reflect.Type]bool{}); err != nil {
		return nil, err
	}
	return s.known(t, "struct", "Value", appendJSON, readJSON), nil
}

// inJSON refuses what encoding/json cannot read back.
func inJSON(t reflect.Type, seen map[reflect.Type]bool) error {
	if seen[t] {
		return nil
	}
	seen[t] = true
	if t == anyType || does(t, readsJSON) || does(t, readsText) {
		return nil
	}
	switch t.Kind() {
	case reflect.Interface:
		return fmt.Errorf("%s is an interface with methods: nobody knows which type to read; use a type that is none, or any", t)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return inJSON(t.Elem(), seen)
	case reflect.Map:
		if !keyable(t.Key()) {
			return fmt.Errorf("%s has keys that are no keys in JSON; use strings or integers", t)
		}
		return inJSON(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() && !f.Anonymous || f.Tag.Get("json") == "-" {
				continue
			}
			if err := inJSON(f.Type, seen); err != nil {
				return at(f.Name, err)
			}
		}
		return nil
	}
	if scalar(t) == nil {
		return fmt.Errorf("%s has no form in JSON", t)
	}
	return nil
}

func keyable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return does(t, writesText) && does(t, readsText)
}

func appendJSON(b []byte, v reflect.Value, _ int) ([]byte, error) {
	text, err := json.Marshal(reachable(v, writesJSON).Interface())
	if err != nil {
		return nil, err
	}
	var value structpb.Value
	if err := protojson.Unmarshal(text, &value); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(b, &value)
}

func readJSON(v reflect.Value, _ uint64, raw []byte, _ int) error {
	var value structpb.Value
	if err := proto.Unmarshal(raw, &value); err != nil {
		return err
	}
	if value.Kind == nil {
		return nil
	}
	text, err := json.Marshal(value.AsInterface())
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v.Addr().Interface())
}
