package gobwire

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What else a plugin may have: types that encode themselves, arrays, widths, and
// types that it registers.
type (
	own  struct{ secret []byte } // with GobEncode
	wide struct {
		I8  int8
		I64 int64
		U16 uint16
		F32 float32
		C   complex128
		Arr [3]int
		Two [2][2]string
		At  time.Time
		Big *big.Int
		IP  netip.Addr
		Own own
		In  map[int]map[string][]bool
		Any any
		All []any
	}
	circle struct{ Radius float64 }
	square struct{ Side int }
	// celsius is a number with a name.
	celsius float64
)

func (o own) GobEncode() ([]byte, error) { return o.secret, nil }
func (o *own) GobDecode(b []byte) error  { o.secret = bytes.Clone(b); return nil }
func (o own) Equal(p own) bool           { return bytes.Equal(o.secret, p.secret) }
func (s *square) Area() int              { return s.Side * s.Side }
func bigInt(text string) (n *big.Int)    { n, _ = new(big.Int).SetString(text, 10); return n }
func equalBig(a, b *big.Int) bool        { return a == b || a != nil && b != nil && a.Cmp(b) == 0 }
func pointer[T any](v T) *T              { return &v }

type tree map[string]tree

// sameJSON compares without regard to the order of members: gob's maps have none.
func sameJSON(got []byte, want string) bool {
	var a, b any
	return json.Unmarshal(got, &a) == nil && json.Unmarshal([]byte(want), &b) == nil && cmp.Equal(a, b)
}

func same() cmp.Options {
	return cmp.Options{cmp.Comparer(equalBig), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
}

func wideShapes() map[string]Shape {
	return map[string]Shape{
		"Wide": {Fields: map[string]string{
			"I8": "int8", "I64": "int64", "U16": "uint16", "F32": "float32", "C": "complex", "Arr": "[3]int", "Two": "[2][2]string",
			"At": "time", "Big": "*bigint", "IP": "binary", "Own": "gob", "In": "map:int,map:string,[]bool", "Any": "any", "All": "[]any",
		}},
		"Circle":  {Fields: map[string]string{"Radius": "float"}, Registered: "shape.Circle"},
		"Square":  {Fields: map[string]string{"Side": "int"}, Registered: "*shape.Square"},
		"Celsius": {Type: "float", Registered: "shape.Celsius"},
		"Object":  {Type: "map:string,any", Registered: "map[string]interface {}"},
		"Array":   {Type: "[]any", Registered: "[]interface {}"},
		"Tree":    {Type: "map:string,Tree"},
		"Put":     {Keys: map[string]string{"shape": "Circle", "n": "uint16"}},
	}
}

// register is what such a plugin does; the names are gob's, for the whole process.
func register() {
	gob.RegisterName("shape.Circle", circle{})
	gob.RegisterName("*shape.Square", &square{})
	gob.RegisterName("shape.Celsius", celsius(0))
	gob.Register(map[string]any{})
	gob.Register([]any{})
}

func wideTable(t testing.TB, o Options) *Table {
	t.Helper()
	tab, err := NewTable(wideShapes(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestGolden: encoding/gob reads what is written from JSON, and what it writes of
// that is read back as the same JSON.
func TestGolden(t *testing.T) {
	register()
	for _, tt := range []struct {
		name, typ, in string
		into          any
		want          any
		back          string // "": as in
	}{
		{
			"every kind", "Wide",
			`{"All":[],"Any":null,"Arr":[1,0,-1],"At":"2026-01-31T12:00:00.5Z","Big":"-123456789012345678901234567890","C":[1.5,-2],"F32":0.5,` +
				`"I64":-9223372036854775808,"I8":-128,"IP":"wKgAAQ==","In":{"-3":{"k":[true,false]}},"Own":"AAEC","Two":[["a","b"],["","d"]],"U16":65535}`,
			&wide{}, &wide{
				I8: -128, I64: -1 << 63, U16: 65535, F32: 0.5, C: complex(1.5, -2), Arr: [3]int{1, 0, -1}, Two: [2][2]string{{"a", "b"}, {"", "d"}},
				At: time.Date(2026, 1, 31, 12, 0, 0, 5e8, time.UTC), Big: bigInt("-123456789012345678901234567890"), IP: netip.MustParseAddr("192.168.0.1"),
				Own: own{[]byte{0, 1, 2}}, In: map[int]map[string][]bool{-3: {"k": {true, false}}},
			}, "",
		},
		{"null arrays", "[2][2]string", `[null,["a","b"]]`, &[2][2]string{}, &[2][2]string{1: {"a", "b"}}, `[["",""],["a","b"]]`},
		{"a registered struct", "any", `{"@type":"shape.Circle","value":{"Radius":2.5}}`, new(any), pointer[any](circle{2.5}), ""},
		{"a registered pointer", "any", `{"value":{"Side":3},"@type":"*shape.Square"}`, new(any), pointer[any](&square{3}), `{"@type":"*shape.Square","value":{"Side":3}}`},
		{"a registered number", "any", `{"@type":"shape.Celsius","value":-1.5}`, new(any), pointer[any](celsius(-1.5)), ""},
		{"its zero", "any", `{"@type":"shape.Circle"}`, new(any), pointer[any](circle{}), `{"@type":"shape.Circle","value":{"Radius":0}}`},
		{
			"objects and arrays of anything", "any", `{"a":[1,"x",{"b":null,"c":{"@type":"shape.Circle","value":{"Radius":1}}}]}`, new(any),
			pointer[any](map[string]any{"a": []any{int64(1), "x", map[string]any{"b": nil, "c": circle{1}}}}), "",
		},
		{"an object with a type and more", "any", `{"@type":"x"}`, nil, nil, ""},
		{"a recursion by name", "Tree", `{"a":{"b":{}}}`, &tree{}, &tree{"a": {"b": {}}}, ""},
		{"a record", "Put", `{"n":7,"shape":{"Radius":1}}`, &map[string]any{}, &map[string]any{"n": uint16(7), "shape": circle{1}}, `{"n":7,"shape":{"@type":"shape.Circle","value":{"Radius":1}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := wideTable(t, Options{})
			typ := describe(t, tab, tt.typ)
			out, err := NewWriter(tab).Request(nil, "M", 1, typ, tab.Needs(typ), []byte(tt.in))
			if tt.into == nil {
				if err == nil || !strings.Contains(err.Error(), "not registered under describe.types") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			dec := gob.NewDecoder(bytes.NewReader(out))
			var header struct{ Seq uint }
			if err := errors.Join(dec.Decode(&header), dec.Decode(tt.into)); err != nil {
				t.Fatalf("encoding/gob: %v", err)
			}
			if d := cmp.Diff(tt.want, tt.into, same()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			back := tt.back
			if back == "" {
				back = tt.in
			}
			r := NewReader(bytes.NewReader(stream(t, tt.want)), tab, 1<<20)
			if got, err := r.JSON(nil, typ); err != nil || !sameJSON(got, back) {
				t.Errorf("read back: %v\ngot  %s\nwant %s", err, got, back)
			}
		})
	}
}

func TestWriter_saysWhatOverflows(t *testing.T) {
	register()
	for _, tt := range []struct{ typ, in, want string }{
		{"Wide", `{"I8": 128}`, "argument.I8: is a number; want an integer of 8 bits"},
		{"Wide", `{"U16": -1}`, "argument.U16: is a number; want an integer of 16 bits that is not negative"},
		{"Wide", `{"F32": 1e300}`, "argument.F32: is a number; want a number"},
		{"Wide", `{"Arr": [1]}`, "argument.Arr: is an array; want an array of 3"},
		{"Wide", `{"Two": [["a", 1], null]}`, "argument.Two[0][1]: is a number; want a text"},
		{"Wide", `{"C": [1]}`, "argument.C: is an array; want an array of two numbers"},
		{"Wide", `{"At": "soon"}`, "argument.At: is a text; want a time"},
		{"Wide", `{"Big": 1.5}`, "argument.Big: is a number; want an integer"},
		{"Wide", `{"Big": "` + strings.Repeat("9", 9999) + `"}`, "argument.Big: has 9999 digits; at most 2560"},
		{"Wide", `{"Own": {}}`, "argument.Own: is an object; want base64 text"},
		{"Wide", `{"Any": {"@type": "shape.Circle", "value": {"Radius": ""}}}`, "argument.Any.value.Radius: is a text; want a number"},
		{"Wide", `{"Any": ` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, "nests deeper than 64"},
		{"[]time", `[null]`, "argument[0]: is null; want a time"},
	} {
		tab := wideTable(t, Options{})
		typ := describe(t, tab, tt.typ)
		_, err := NewWriter(tab).Request(nil, "M", 1, typ, tab.Needs(typ), []byte(tt.in))
		var fault *Fault
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s as %s: got %v, want %s", tt.in, tt.typ, err, tt.want)
		}
	}
}

// TestWideAsText: numbers that JSON's readers may round are texts, both ways.
func TestWideAsText(t *testing.T) {
	tab := wideTable(t, Options{WideAsText: true})
	typ := describe(t, tab, "Wide")
	out, err := NewWriter(tab).Request(nil, "M", 1, typ, tab.Needs(typ), []byte(`{"I64": "9007199254740993"}`))
	var header struct{ Seq uint }
	var got wide
	dec := gob.NewDecoder(bytes.NewReader(out))
	if err := errors.Join(err, dec.Decode(&header), dec.Decode(&got)); err != nil || got.I64 != 9007199254740993 {
		t.Errorf("written: got %d, %v", got.I64, err)
	}
	in := stream(t, wide{I64: 9007199254740993, I8: 5, Arr: [3]int{1}, Any: 6})
	back, err := NewReader(bytes.NewReader(in), tab, 1<<20).JSON(nil, typ)
	for _, want := range []string{`"I64":"9007199254740993"`, `"I8":5`, `"Arr":["1","0","0"]`, `"U16":0`, `"Any":"6"`} {
		if err != nil || !strings.Contains(string(back), want) {
			t.Errorf("read: got %s, %v; want %s", back, err, want)
		}
	}
	if schema := string(typ.Schema(nil, "")); !strings.Contains(schema, `"I64":{"type":["string","integer"]}`) || !strings.Contains(schema, `"I8":{"type":"integer"}`) {
		t.Errorf("schema: got %s", schema)
	}
}

// TestReader_keepsApart: the error's field comes by itself.
func TestReader_keepsApart(t *testing.T) {
	register()
	tab := wideTable(t, Options{})
	type reply struct {
		Any any
		I8  int8
	}
	r := NewReader(bytes.NewReader(stream(t, reply{circle{1}, 5}, reply{nil, 6})), tab, 1<<20)
	typ := describe(t, tab, "Wide")
	for _, want := range []string{`{"@type":"shape.Circle","value":{"Radius":1}}`, ""} {
		out, taken, err := r.Answer(nil, typ, "Any")
		if err != nil || string(taken) != want || strings.Contains(string(out), `"Any"`) || !json.Valid(out) {
			t.Errorf("got %s and %s, %v; want %s apart", out, taken, err, want)
		}
	}
}

// TestReader_typesAreBounded: a stream that defines types without end is given up.
func TestReader_typesAreBounded(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	var all []byte
	for id := int64(65); id < 65+100; id++ {
		body := append(appendInt(nil, -id), 2, 1, 1)
		body = append(appendInt(append(appendText(body, long), 1), id), 0, 1, 4, 0, 0)
		all = append(appendUint(all, uint64(len(body))), body...)
	}
	tab := wideTable(t, Options{})
	if _, err := NewReader(bytes.NewReader(all), tab, 64<<20).JSON(nil, nil); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes of types") {
		t.Errorf("got %v", err)
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 8*bigBytesMax+8)
	got, err := NewReader(bytes.NewReader(stream(t, huge)), tab, 1<<20).JSON(nil, describe(t, tab, "bigint"))
	if err != nil || got[0] != '"' || len(got) > 2*bigBytesMax {
		t.Errorf("a huge number: got %s, %v; want base64", got, err)
	}
}

func TestNewTable_moreFaults(t *testing.T) {
	fields := func(text string) map[string]Shape {
		return map[string]Shape{"A": {Fields: map[string]string{"X": text}}}
	}
	many := map[string]Shape{}
	for n := range shapesMax + 1 {
		many[fmt.Sprint("T", n)] = Shape{}
	}
	for _, tt := range []struct {
		name   string
		shapes map[string]Shape
		want   string
	}{
		{"an array of nothing", fields("[0]int"), `"[0]int" is not a type: write [N]T with N from 1`},
		{"an array without end", fields("[2int"), `"[2int" is not a type`},
		{"a long array", fields("[99999999999999999999]int"), "with N from 1 to 4096"},
		{"arrays of arrays", fields("[][4096][4096]int"), "has more than 4096 fields"},
		{"an array of itself", fields("[2]A"), "contains itself"},
		{"a name for a name", map[string]Shape{"A": {Type: "B"}, "B": {Type: "int"}}, "A.type: B has a name already"},
		{"a name for itself", map[string]Shape{"A": {Type: "*A"}}, "A.type: A has a name already"},
		{"a name twice", map[string]Shape{"A": {Type: "int", Registered: "x.A"}, "B": {Registered: "x.A"}}, "B.registered: is the name of A too"},
		{"a long name", map[string]Shape{"A": {Registered: strings.Repeat("x", 2000)}}, "A.registered: is longer than 1024"},
		{"a word", map[string]Shape{"bigint": {}}, "bigint: cannot be the name"},
		{"too many", many, "has 1001 types; at most 1000"},
	} {
		if _, err := NewTable(tt.shapes, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	tab := wideTable(t, Options{})
	if _, err := tab.Type("[4096][4096]Wide"); err == nil || !strings.Contains(err.Error(), "has more than 4096 fields") {
		t.Errorf("asked for later: got %v", err)
	}
}

func FuzzGolden(f *testing.F) {
	register()
	f.Add(`{"Any":{"@type":"shape.Circle","value":{"Radius":2}},"All":[1,{"a":[]}],"Arr":[1,2,3],"C":[1,2]}`)
	f.Add(`{"Big":"12","IP":"wKgAAQ==","In":{"1":{"k":[true]}},"At":"2026-01-31T12:00:00Z","Two":[null,["a","b"]]}`)
	tab, err := NewTable(wideShapes(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	typ, err := tab.Type("Wide")
	if err != nil {
		f.Fatal(err)
	}
	needs := tab.Needs(typ)
	f.Fuzz(func(t *testing.T, in string) {
		out, err := NewWriter(tab).Request(nil, "M", 1, typ, needs, []byte(in))
		if err != nil {
			return
		}
		if len(out) > 64*len(in)+64<<10 {
			t.Fatalf("%d bytes of gob from %d of JSON", len(out), len(in))
		}
		// What is written is read, by encoding/gob unless one of the values is not
		// what its type's own method takes, and by the reader always.
		r := NewReader(bytes.NewReader(out), tab, 1<<22)
		if _, err := r.JSON(nil, nil); err != nil {
			t.Fatalf("%q: header: %v", in, err)
		}
		back, err := r.JSON(nil, typ)
		if err != nil || !json.Valid(back) {
			t.Fatalf("%q: %s, %v", in, back, err)
		}
		again, err := NewWriter(tab).Request(nil, "M", 1, typ, needs, back)
		if err != nil || len(again) == 0 {
			t.Fatalf("%q: what was read, %s, is not taken: %v", in, back, err)
		}
	})
}
