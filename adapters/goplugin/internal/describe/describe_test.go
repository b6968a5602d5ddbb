package describe

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestUnder(t *testing.T) {
	known := Description{
		Service: "S", Integers: "text",
		Methods: map[string]Method{"A": {Args: "int", Reply: "string", Required: []string{"X"}, Idempotent: true}, "B": {Args: "int", Reply: "int"}},
		Types:   Types{"T": {Type: "int"}, "U": {Type: "int"}},
	}
	given := Description{From: FromDWARF, Service: "other", Methods: map[string]Method{"A": {Reply: "bool"}, "C": {Args: "U", Reply: "U"}}, Types: Types{"U": {Type: "string"}}}
	want := Description{
		From: FromDWARF, Service: "other", Integers: "text",
		Methods: map[string]Method{
			"A": {Args: "int", Reply: "bool", Required: []string{"X"}, Idempotent: true}, "B": {Args: "int", Reply: "int"}, "C": {Args: "U", Reply: "U"},
		},
		Types: Types{"T": {Type: "int"}, "U": {Type: "string"}},
	}
	if d := cmp.Diff(want, known.Under(given)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if len(known.Methods) != 2 || known.Types["U"].Type != "int" {
		t.Errorf("what lay under it has changed: %+v", known)
	}
	if d := cmp.Diff(Description{Methods: map[string]Method{}, Types: Types{}}, Description{}.Under(Description{})); d != "" {
		t.Errorf("nothing under nothing: -want +got:\n%s", d)
	}
}

func TestCompile_faults(t *testing.T) {
	many := map[string]Method{}
	for n := range methodsMax + 1 {
		many[fmt.Sprint("M", n)] = Method{Args: "int", Reply: "int"}
	}
	for _, tt := range []struct {
		of   Description
		want string
	}{
		{Description{Methods: many}, "p.methods: has 1001 methods; at most 1000"},
		{Description{Types: Types{"int": {}}}, "p.types.int: cannot be the name"},
		{Description{Methods: map[string]Method{"A": {Args: "int", Reply: "int", Required: []string{"X"}}}}, `p.methods.A.required[0]: "X" is not a field`},
		{Description{Methods: map[string]Method{"A": {Args: "int", Reply: "int", Required: make([]string, 65)}}}, "p.methods.A.required: has 65 fields"},
	} {
		var faults plugin.Faults
		Compile(tt.of, "p", &faults)
		if err := faults.Err(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func FuzzArgument(f *testing.F) {
	for _, seed := range []string{`{"X":1,"a":{"b":[]}}`, ` {} `, `null`, `{"x":null}`, `{"A":{"B":1}}`} {
		f.Add(seed)
	}
	var faults plugin.Faults
	c := Compile(Description{
		Methods: map[string]Method{"M": {Args: "T", Reply: "T", Required: []string{"A.B"}, Defaults: map[string]plugin.RawJSON{"X": plugin.RawJSON("5")}}},
		Types:   Types{"T": {Fields: map[string]string{"A": "*T", "B": "any", "X": "int"}}},
	}, "p", &faults)
	if err := faults.Err(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := c.Operations["M"].Argument([]byte(in))
		if err == nil && len(out) > len(in)+len(`{"X":5,}`) {
			t.Errorf("%q became %q", in, out)
		}
	})
}
