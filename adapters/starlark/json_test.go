package starlark

import (
	"bytes"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	star "go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

func TestJSON_thereAndBack(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`null`, `null`}, {` true `, `true`}, {`false`, `false`},
		{`0`, `0`}, {`-0`, `0`}, {`-17`, `-17`}, {`999999999999999999`, `999999999999999999`},
		{`9223372036854775807`, `9223372036854775807`}, {`9223372036854775808`, `9223372036854775808`},
		{`-123456789012345678901234567890`, `-123456789012345678901234567890`},
		{`1.0`, `1.0`}, {`1e2`, `100.0`}, {`0.1`, `0.1`}, {`1e300`, `1e+300`}, {`-0.0`, `-0.0`}, {`1e-400`, `0.0`},
		{`""`, `""`}, {`"a\"\\\/\b\f\n\r\t\u00e9é\ud83d\ude00"`, `"a\"\\/\u0008\u000c\n\r\téé😀"`},
		{`[]`, `[]`}, {`[1, [2, []], {}]`, `[1,[2,[]],{}]`},
		{`{"b": 1, "a": {"z": [], "y": null}}`, `{"b":1,"a":{"z":[],"y":null}}`},
		{`{"a": 1, "b": 2, "a": 3}`, `{"a":3,"b":2}`},
		{strings.Repeat("[", 100) + strings.Repeat("]", 100), strings.Repeat("[", 100) + strings.Repeat("]", 100)},
		{strings.Repeat("9", digitsMax), strings.Repeat("9", digitsMax)},
	} {
		v, err := decodeJSON(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		got, err := encodeJSON(nil, v, 1<<20)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestDecodeJSON_refuses(t *testing.T) {
	for in, want := range map[string]string{
		``: "ends where a value should begin", `nul`: "where a value", `1 2`: `after the end`, `{"a" 1}`: "colon", `{a: 1}`: "double quotes",
		`{"a": 1,}`: "double quotes", `[1,]`: "found ']'", `[1`: "comma", `"a`: "no closing quote", `"\`: "no closing quote", "\"a\nb\"": "control character",
		`"\x"`: "JSON does not allow", `01`: "not a number", `-`: "not a number", `1.`: "digit after the point", `1e`: "digit in the exponent", `+1`: "where a value",
		`1e400`: "too large for a float", "\"\xff\"": "not UTF-8", strings.Repeat("[", 2_000_000): "more than 100 levels",
		strings.Repeat("9", digitsMax+1): "more than 10000 digits", "1\x00": "after the end",
	} {
		if _, err := decodeJSON(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", shorten(in), err, want)
		}
	}
}

func TestEncodeJSON_values(t *testing.T) {
	cyclic := star.NewList(nil)
	if err := cyclic.Append(cyclic); err != nil {
		t.Fatal(err)
	}
	intKey := star.NewDict(1)
	if err := intKey.SetKey(star.MakeInt(1), star.None); err != nil {
		t.Fatal(err)
	}
	huge := star.MakeBigInt(new(big.Int).Lsh(big.NewInt(1), 40_000))
	record := starlarkstruct.FromStringDict(starlarkstruct.Default, star.StringDict{"b": star.MakeInt(1), "a": star.Tuple{star.True}})
	set := star.NewSet(1)
	if err := set.Insert(star.String("x")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		v          star.Value
		want, fail string
	}{
		{record, `{"a":[true],"b":1}`, ""}, {set, `["x"]`, ""},
		{cyclic, "", "contains itself"}, {intKey, "", "has the key 1"}, {huge, "", "more than 10000 digits"},
		{star.Bytes("x"), "", "bytes have no JSON form"}, {star.String("\xff"), "", "not UTF-8"},
		{star.NewBuiltin("f", nil), "", "a builtin_function_or_method has no JSON form"},
		{star.String(strings.Repeat("x", 2000)), "", "more than 1000 bytes"},
	} {
		got, err := encodeJSON(nil, tt.v, 1000)
		if tt.fail == "" && (err != nil || string(got) != tt.want) || tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)) {
			t.Errorf("got %s, %v, want %s%s", got, err, tt.want, tt.fail)
		}
	}
}

// generic decodes with encoding/json, numbers compared by value.
func generic(t *testing.T, data []byte) (any, bool) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() || !json.Valid(data) {
		return nil, false
	}
	return canonical(v), true
}

func canonical(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, ok := new(big.Int).SetString(v.String(), 10); ok {
			return i.String()
		}
		f, err := v.Float64()
		if err != nil {
			return "too large"
		}
		return f
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = canonical(v[k])
		}
	}
	return v
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5,"x\u00e9\n",null,true,{"b":{}}],"big":123456789012345678901234567890}`, `1e400`, `"\ud800"`, `[-0, -0.0, 1E+2]`, "\t{ }\r\n", `"` + "\x7f" + `"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := decodeJSON(string(data))
		want, valid := generic(t, data)
		if err != nil {
			if valid && utf8.Valid(data) && !allowed(err) {
				t.Fatalf("refused what is JSON: %v", err)
			}
			return
		}
		if !valid {
			t.Fatalf("accepted what is not JSON")
		}
		out, err := encodeJSON(nil, v, 1<<24)
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		got, valid := generic(t, out)
		if !valid || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %s, want %v", out, want)
		}
	})
}

// allowed reports whether err is about one of our own limits.
func allowed(err error) bool {
	for _, limit := range []string{"levels deep", "too large for a float", "digits"} {
		if strings.Contains(err.Error(), limit) {
			return true
		}
	}
	return false
}
