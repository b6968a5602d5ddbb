package goplugin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// fields are those of a struct.
func fields(pairs ...string) goplugin.Shape {
	s := goplugin.Shape{Fields: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.Fields[pairs[i]] = pairs[i+1]
	}
	return s
}

// shapesSpec is the plugin of many shapes, described in full.
func shapesSpec(path string) goplugin.Spec {
	circle, square, registered := fields("Radius", "float"), fields("Side", "int"), fields("Code", "int", "Text", "string")
	circle.Registered, square.Registered, registered.Registered = "main.Circle", "*main.Square", "main.Registered"
	spec := goplugin.Spec{
		Command: []string{path}, Handshake: cookie(), Transport: "netrpc", Plugin: "shapes",
		Errors: map[string]int{"main.*": 500, "main.NotFound": 404, "*main.Denied": 403, "main.Registered": 409, "busy*": 429},
	}
	spec.Describe.Methods = map[string]goplugin.Method{
		"Echo":    {Args: "All", Reply: "All"},
		"EchoMap": {Args: "map:string,[]int", Reply: "map:string,[]int"},
		"Area":    {Args: "AreaArgs", Reply: "AreaReply"},
		"Find": {
			Args: "*FindArgs", Reply: "FindReply", ErrorField: "Err", Required: []string{"Query", "ID.OpaqueID"},
			Defaults: map[string]plugin.RawJSON{"Ctx": plugin.RawJSON(`{"Token": "-t"}`), "ID": plugin.RawJSON(`{}`)},
		},
		"Fail":  {Args: "FailArgs", Reply: "FailReply", ErrorField: "Err"},
		"Flaky": {Args: "Number", Reply: "FailReply", ErrorField: "Err", Idempotent: true},
		"Once":  {Args: "Number", Reply: "FailReply", ErrorField: "Err", Method: "Flaky"},
		"Calls": {Args: "None", Reply: "Number"}, "LogHere": {Args: "None", Reply: "Number"}, "Hole": {Args: "None", Reply: "any"},
		"Die": {Args: "Number", Reply: "Number", Idempotent: true}, "Sleep": {Args: "Number", Reply: "Number", Timeout: plugin.Duration(50 * time.Millisecond)},
	}
	spec.Describe.Types = goplugin.Types{
		"All": fields("Bool", "bool", "Int8", "int8", "Int64", "int64", "Uint16", "uint16", "Float32", "float32", "Complex", "complex", "Text", "string",
			"Bytes", "bytes", "Array", "[3]int", "Names", "[]string", "Pointer", "*All", "Many", "[]*All", "Map", "map:string,int",
			"Deep", "map:int,map:string,[]bool", "At", "time", "Big", "*bigint", "Address", "binary", "Own", "gob", "Any", "any", "Level", "int32", "Inner", "Inner"),
		"Inner": fields("Depth", "uint"), "None": {},
		"Circle": circle, "Square": square, "Registered": registered,
		"AreaArgs": fields("Shapes", "[]any"), "AreaReply": fields("Area", "float", "Largest", "any"),
		"UserID": fields("Idp", "string", "OpaqueID", "string", "Type", "int32"), "Ctx": fields("Token", "string"),
		"User": fields("ID", "*UserID", "Name", "string", "Mail", "string", "Verified", "bool", "Groups", "[]string", "Opaque", "map:string,*Entry",
			"Uid", "int64", "Gid", "int64"),
		"Entry": fields("Decoder", "string", "Value", "bytes"), "FindArgs": fields("Ctx", "*Ctx", "Query", "string", "ID", "*UserID"),
		"FindReply": fields("Users", "[]*User", "Err", "error"), "FailArgs": fields("Class", "string", "Text", "string"),
		"FailReply": fields("Value", "string", "Err", "error"), "Number": fields("N", "int"),
	}
	return spec
}

func shapes(t *testing.T) plugin.Instance {
	t.Helper()
	i, _ := started(t, shapesSpec(built(t, "shapes")))
	return i
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	if err := errors.Join(json.Unmarshal([]byte(got), &a), json.Unmarshal([]byte(want), &b)); err != nil {
		t.Fatalf("%v: got %s", err, got)
	}
	if d := cmp.Diff(b, a); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestShapes: what goes in by JSON comes back from a plugin that knows the types.
func TestShapes(t *testing.T) {
	i := shapes(t)
	const inner = `{"Bool":true,"Int8":-5,"Int64":-9007199254740993,"Uint16":65535,"Float32":0.5,"Complex":[1,-2],"Text":"é","Bytes":"AAEC","Array":[1,0,3],
		"Names":["a",""],"Pointer":null,"Many":[],"Map":{"k":-1},"Deep":{"-3":{"x":[true,false]}},"At":"2026-01-31T12:00:00.5Z",
		"Big":"-123456789012345678901234567890","Address":"wKgAAQ==","Own":"b3du","Any":"s","Level":7,"Inner":{"Depth":9}}`
	outer := strings.Replace(strings.Replace(inner, `"Pointer":null`, `"Pointer":`+inner, 1), `"Many":[]`, `"Many":[`+inner+`]`, 1)
	got, err := invoke(t, i, "Echo", outer)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, got, outer)

	got, err = invoke(t, i, "EchoMap", `{"a":[1,2],"b":[]}`)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, got, `{"a":[1,2],"b":[]}`)

	got, err = invoke(t, i, "Area", `{"Shapes":[{"@type":"main.Circle","value":{"Radius":1}},{"@type":"*main.Square","value":{"Side":2}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, got, `{"Area":7,"Largest":{"@type":"*main.Square","value":{"Side":2}}}`)
	if _, err = invoke(t, i, "Area", `{"Shapes":[{"@type":"main.Cone"}]}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), `argument.Shapes[0]: names the type "main.Cone"`) {
		t.Errorf("an unknown type: got %v", err)
	}
}

// TestArgument: what is required is asked for before the plugin sees the call, and
// what is left out is filled in.
func TestArgument(t *testing.T) {
	i := shapes(t)
	for data, want := range map[string]string{
		``:                "argument.Query: is required",
		`{"query": null}`: "argument.Query: is required",
		`{"Query": "q"}`:  "argument.ID.OpaqueID: is required",
		`{"Query": "q", "ID": {"OpaqueID": null}}`: "argument.ID.OpaqueID: is required",
		`{"Query": "q", "ID": 5}`:                  "argument.ID: is a number",
		`[]`:                                       "argument: is an array",
	} {
		if _, err := invoke(t, i, "Find", data); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", data, err, want)
		}
	}
	for _, data := range []string{`{"query": "q", "ID": {"opaqueid": "x"}}`, ` {"Query":"q","ID":{"OpaqueID":"x"},"Ctx":null} `, `{"Query":"q","ID":{"OpaqueID":"x"},"ctx":{"Token":"-t"}}`} {
		got, err := invoke(t, i, "Find", data)
		if err != nil || !strings.Contains(got, `"OpaqueID":"id-einstein-t"`) || strings.Contains(got, "XXX_") || strings.Contains(got, `"Err"`) {
			t.Errorf("%s: got %s, %v", data, got, err)
		}
	}
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		if op.Name == "Find" && (!strings.Contains(string(op.Input), `"required":["Query"]`) || strings.Contains(string(op.Output), `"Err"`)) {
			t.Errorf("got %s and %s", op.Input, op.Output)
		}
	}
}

// TestErrors: an error inside an answer is told by its type, whether or not gob
// knows that, with the status that the manifest has for it.
func TestErrors(t *testing.T) {
	i := shapes(t)
	for _, tt := range []struct {
		class, text string
		want        plugin.Refusal
	}{
		{"NotFound", "x", plugin.Refusal{Code: "main.NotFound", Status: 404}},
		{"Denied", "x", plugin.Refusal{Code: "main.Denied", Status: 403}},
		{"plain", "x", plugin.Refusal{Code: "errors.errorString"}},
		{"Registered", "why", plugin.Refusal{Code: "main.Registered", Details: plugin.RawJSON(`{"Code":7,"Text":"why"}`), Status: 409}},
		{"returned", "busy now", plugin.Refusal{Message: "busy now", Status: 429}},
	} {
		_, err := invoke(t, i, "Fail", fmt.Sprintf(`{"Class":%q,"Text":%q}`, tt.class, tt.text))
		var no *plugin.Refusal
		if !errors.As(err, &no) {
			t.Errorf("%s: got %v", tt.class, err)
			continue
		}
		if tt.want.Message == "" {
			tt.want.Message = no.Message
		}
		if d := cmp.Diff(&tt.want, no); d != "" || no.Message == "" {
			t.Errorf("%s: -want +got:\n%s", tt.class, d)
		}
		if got, err := invoke(t, i, "Fail", `{"Text":"fine"}`); err != nil || got != `{"Value":"fine"}` {
			t.Errorf("after %s: got %s, %v", tt.class, got, err)
		}
	}
	if _, err := invoke(t, i, "Hole", ``); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "could not encode its answer: gob:") {
		t.Errorf("a nil among pointers: got %v", err)
	}
}

// TestErrors_atOnce: callers that fail in two ways at the same time are told their
// own error, or both, never the other's; those beside them are not touched.
func TestErrors_atOnce(t *testing.T) {
	i := shapes(t)
	var all errgroup.Group
	for caller := range 24 {
		all.Go(func() error {
			for n := range 40 {
				class, code := [...]string{"NotFound", "Denied", ""}[caller%3], [...]string{"main.NotFound", "main.Denied", ""}[caller%3]
				text := fmt.Sprint(caller, ".", n)
				r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Fail", Data: fmt.Appendf(nil, `{"Class":%q,"Text":%q}`, class, text)})
				var no *plugin.Refusal
				switch {
				case class == "" && (err != nil || string(r.Data) != fmt.Sprintf(`{"Value":%q}`, text)):
					return fmt.Errorf("%s: got %s, %w", text, r.Data, err)
				case class != "" && errors.As(err, &no) && no.Code == code:
				case class != "" && (no != nil || err == nil || !strings.Contains(err.Error(), "one of: ") || !strings.Contains(err.Error(), code)):
					return fmt.Errorf("%s: got %s, %w; want %s", text, r.Data, err, code)
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

// TestErrors_throughTheConnection: the log of a plugin that made os.Stderr its
// output comes by another way, and later.
func TestErrors_throughTheConnection(t *testing.T) {
	i := shapes(t)
	if _, err := invoke(t, i, "LogHere", ``); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		_, err := invoke(t, i, "Fail", `{"Class":"NotFound"}`)
		if no := (*plugin.Refusal)(nil); !errors.As(err, &no) || no.Code != "main.NotFound" {
			t.Errorf("got %v", err)
		}
	}
}

// TestIdempotent: a call whose stream ended without a reason is made once more, if
// the manifest says that it may.
func TestIdempotent(t *testing.T) {
	i := shapes(t)
	if _, err := invoke(t, i, "Once", `{"N": 1}`); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "closed the stream") {
		t.Errorf("not idempotent: got %v", err)
	}
	if got, err := invoke(t, i, "Flaky", `{"N": 2}`); err != nil || got != `{"Value":""}` {
		t.Errorf("idempotent: got %s, %v", got, err)
	}
	if got, err := invoke(t, i, "Calls", ``); err != nil || got != `{"N":3}` {
		t.Errorf("calls: got %s, %v; want 1, and 2", got, err)
	}
	if _, err := invoke(t, i, "Flaky", `{"N": 9}`); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("it goes on failing: got %v", err)
	}
	if got, err := invoke(t, i, "Calls", ``); err != nil || got != `{"N":5}` {
		t.Errorf("calls: got %s, %v; want two more", got, err)
	}
	if _, err := invoke(t, i, "Die", ``); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "the plugin ended: exit code 3") {
		t.Errorf("it died: got %v", err)
	}
}

func TestTimeout(t *testing.T) {
	i := shapes(t)
	if _, err := invoke(t, i, "Sleep", `{"N": 60000}`); !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("got %v, want plugin.ErrDeadline", err)
	}
	if got, err := invoke(t, i, "Sleep", `{"N": 0}`); err != nil || got != `{"N":0}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestCheck_descriptions(t *testing.T) {
	path := built(t, "shapes")
	for _, tt := range []struct {
		change func(*goplugin.Spec)
		want   string
	}{
		{func(s *goplugin.Spec) { s.Describe.Methods["Echo"] = goplugin.Method{Reply: "All"} }, "spec.goplugin.describe.methods.Echo.args: is missing"},
		{func(s *goplugin.Spec) { s.Describe.Methods["Echo"] = goplugin.Method{Args: "Al", Reply: "All"} }, `describe.methods.Echo.args: "Al" is not a type`},
		{func(s *goplugin.Spec) {
			s.Describe.Methods["Echo"] = goplugin.Method{Args: "All", Reply: "All", ErrorField: "Err"}
		}, `methods.Echo.errorField: "Err" is not a field of All`},
		{func(s *goplugin.Spec) {
			s.Describe.Methods["Echo"] = goplugin.Method{Args: "All", Reply: "All", Required: []string{"Text", "Inner.Dept"}}
		}, `methods.Echo.required[1]: "Inner.Dept" is not a field`},
		{func(s *goplugin.Spec) {
			s.Describe.Methods["Echo"] = goplugin.Method{Args: "All", Reply: "All", Defaults: map[string]plugin.RawJSON{"Int8": plugin.RawJSON("300")}}
		}, `methods.Echo.defaults.Int8: argument.Int8: is a number; want an integer of 8 bits`},
		{func(s *goplugin.Spec) {
			s.Describe.Methods["Echo"] = goplugin.Method{Args: "All", Reply: "All", Defaults: map[string]plugin.RawJSON{"Int": plugin.RawJSON("3")}}
		}, `methods.Echo.defaults.Int: is not a field`},
		{func(s *goplugin.Spec) { s.Describe.Type = "main.Service" }, "describe.type: chooses among types of the binary"},
		{func(s *goplugin.Spec) { s.Errors["x"] = 200 }, "spec.goplugin.errors.x: 200 is no status of an error"},
	} {
		spec := shapesSpec(path)
		tt.change(&spec)
		if err := goplugin.New(goplugin.Options{}).Check(manifest(t, spec)); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// TestDWARF: a plugin that nobody described is called by what its binary says, with
// what the manifest says on top; and again after an adoption.
func TestDWARF(t *testing.T) {
	spec := goplugin.Spec{Command: []string{built(t, "shapes")}, Handshake: cookie(), Transport: "netrpc", Plugin: "shapes"}
	spec.Describe.From, spec.Describe.Type = "dwarf", "main.Service"
	circle := fields("Radius", "float")
	circle.Registered = "main.Circle"
	spec.Describe.Types = goplugin.Types{"Circle": circle}
	spec.Describe.Methods = map[string]goplugin.Method{"Fail": {ErrorField: "Err"}, "Find": {Required: []string{"Query"}}, "Repeat": {Method: "EchoMap"}}
	i, _ := started(t, spec)
	for _, tt := range []struct{ operation, data, want string }{
		{"EchoMap", `{"a":[1]}`, `{"a":[1]}`},
		{"Repeat", `{"b":[2]}`, `{"b":[2]}`},
		{"Calls", ``, `{"N":0}`},
		{"Area", `{"Shapes":[{"@type":"main.Circle","value":{"Radius":2}}]}`, `{"Area":12,"Largest":{"@type":"main.Circle","value":{"Radius":2}}}`},
		{"Fail", `{"Text":"fine"}`, `{"Value":"fine"}`},
	} {
		if got, err := invoke(t, i, tt.operation, tt.data); err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.operation, got, err, tt.want)
		}
	}
	if _, err := invoke(t, i, "Find", `{}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "Query: is required") {
		t.Errorf("got %v", err)
	}
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil || len(ops) != 12 {
		t.Errorf("got %d operations, %v; want 12", len(ops), err)
	}

	spec.Describe.Type = ""
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "write one of them as type: main.Other, main.Service") {
		t.Errorf("without a type: got %v", err)
	}
	spec.Describe.Type, spec.Describe.Methods["Fail"] = "main.Service", goplugin.Method{Args: "Nothing"}
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), `describe.methods.Fail.args: "Nothing" is not a type`) {
		t.Errorf("a wrong type: got %v", err)
	}
}

// TestAdoption_keepsTheDescription: what was read from the binary is read again
// from the running one, and why a call failed is still found.
func TestAdoption_keepsTheDescription(t *testing.T) {
	spec := goplugin.Spec{Command: []string{built(t, "shapes")}, Handshake: cookie(), Transport: "netrpc", Plugin: "shapes"}
	spec.Describe.From, spec.Describe.Type = "dwarf", "main.Service"
	spec.Describe.Methods = map[string]goplugin.Method{"Fail": {ErrorField: "Err"}}
	i, err := leave(t, spec).adopt(t, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = invoke(t, i, "Fail", `{"Class":"NotFound"}`)
	if no := (*plugin.Refusal)(nil); !errors.As(err, &no) || no.Code != "main.NotFound" {
		t.Errorf("got %v", err)
	}
	if got, err := invoke(t, i, "EchoMap", `{"a":[1]}`); err != nil || got != `{"a":[1]}` {
		t.Errorf("got %s, %v", got, err)
	}
}
