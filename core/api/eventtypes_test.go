package api

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const eventSchemas = "../../manifests/schema/events"

func TestEventTypes_schemasAreCurrent(t *testing.T) {
	for _, row := range plugin.EventTypes() {
		schema, err := eventDataSchema(row)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := json.Indent(&got, schema, "", "  "); err != nil {
			t.Fatal(err)
		}
		got.WriteByte('\n')
		path := filepath.Join(eventSchemas, row.Type+".schema.json")
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not what the Go type says (%v); run make generate", path, err)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(eventSchemas, "*")); len(files) != len(plugin.EventTypes()) {
		t.Errorf("got %d files, want one per row: %v", len(files), files)
	}
}

// TestEventTypes_everyConstantHasARow reads the vocabulary's own source.
func TestEventTypes_everyConstantHasARow(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../plugin/event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	rows, constants := map[string]int{}, 0
	for _, row := range plugin.EventTypes() {
		rows[row.Type]++
		if row.Since == "" || row.Summary == "" || row.Data == nil {
			t.Errorf("%s: got %+v, want since, summary and data", row.Type, row)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if text, _ := strconv.Unquote(literal.Value); strings.HasPrefix(text, "dev.patchbay.") {
			if constants++; rows[text] != 1 {
				t.Errorf("%s: got %d rows in the catalogue, want 1", text, rows[text])
			}
		}
		return true
	})
	if constants != len(rows) {
		t.Errorf("got %d constants and %d rows", constants, len(rows))
	}
}

// TestEventTypes_dataFitsItsSchema: the zero value of each type and one with
// everything set, as they are told.
func TestEventTypes_dataFitsItsSchema(t *testing.T) {
	for _, row := range plugin.EventTypes() {
		schema := compiled(t, row)
		full := reflect.New(reflect.TypeOf(row.Data)).Elem()
		fill(full)
		text, err := json.Marshal(full.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(instance(t, text)); err != nil {
			t.Errorf("%s: %s: %v", row.Type, text, err)
		}
		for _, wrong := range []string{`"text"`, `[7]`, `{"from": 7}`} {
			if schema.Validate(instance(t, []byte(wrong))) == nil {
				t.Errorf("%s: %s fits, want that it does not", row.Type, wrong)
			}
		}
	}
}

func compiled(t *testing.T, row plugin.EventType) *jsonschema.Schema {
	t.Helper()
	text, err := eventDataSchema(row)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("event.json", instance(t, text)); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("event.json")
	if err != nil {
		t.Fatalf("%s: %v", row.Type, err)
	}
	return schema
}

func instance(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fill sets every field to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			field := v.Field(i)
			fill(field)
			if words := v.Type().Field(i).Tag.Get("enum"); words != "" {
				word, _, _ := strings.Cut(words, ",")
				field.SetString(word)
			}
		}
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	}
}
